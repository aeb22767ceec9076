"""The models of a run's JSON files: what they may hold, since a run may come from a stranger."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from hfld_lite.data.parts import Part, part_of
from hfld_lite.evaluation.trust import Trust
from hfld_lite.storage.models import Checked, Few, Index, Name, Size, Text, Window, short

CLASSES = 10_000

SHORTEST, OVERLAP = 16, 64
"""Samples of the shortest window of a long recording, and how many may overlap."""


class _Simulated(Checked):
    seed: Index
    version: Index | None = None
    """Of the simulator; None in a run of hfld_lite 0.2.0."""


_Option = bool | Size | Name | Annotated[list[Name], Field(max_length=1000, fail_fast=True)] | None


class Origin(Checked):
    """How to get a run's recordings again: simulate them, or read a folder; neither if unknown."""

    simulated: _Simulated | None = None
    folder: Name | None = None
    options: Annotated[dict[Name, _Option], Few] = Field(default_factory=dict)
    good: Annotated[list[Name], Few] = Field(default_factory=list)
    defective: Annotated[list[Name], Few] = Field(default_factory=list)
    """Classes of good and of defective parts, in a training on good parts alone."""

    @model_validator(mode="after")
    def _check(self) -> "Origin":
        if self.simulated is not None and self.folder is not None:
            raise ValueError("it names a folder and a simulation; expected one of them")
        if (window := self.options.get("window")) is not None:
            _check_window((window, self.options.get("hop") or window))
        return self


def _check_window(window: Sequence[int]) -> None:
    """Refuse windows that make of a recording many times what it is."""
    size, hop = window
    if size < SHORTEST or hop * OVERLAP < size:
        raise ValueError(
            f"window and hop are {size} and {hop}; expected {SHORTEST} samples or more, and a hop "
            f"of a {OVERLAP}th of that or more"
        )


class _Stage(Checked):
    learned_from: Text
    best_epoch: Index
    seconds: Annotated[float, Field(ge=0)]


class GoodFacts(Checked):
    """What a training on good parts promises; see `hfld_lite.evaluation.good_parts`."""

    score: Name
    false_alarms: Annotated[float, Field(gt=0, lt=1)]
    groups: Index
    recordings: Index
    chosen_by: Annotated[dict[Name, float], Few] = Field(default_factory=dict)
    """AUC of each score on the validation part, where defective recordings chose; else empty."""


class Facts(Checked):
    """The entries of ``run.json`` that are used; see `save_run`."""

    hfld_lite: Text
    class_names: Annotated[list[Name], Field(min_length=2, max_length=CLASSES, fail_fast=True)]
    normal_classes: Annotated[list[Name], Field(max_length=CLASSES, fail_fast=True)]
    sample_rate: Size
    samples: Size
    window: Window
    source: Text
    simulated: bool
    data: Origin
    fingerprint: Text
    stages: Annotated[dict[str, _Stage], Few, Field(min_length=1)]
    trust: Annotated[dict[str, Trust], Few]
    seen: Annotated[list[Text], Field(fail_fast=True)] = Field(default_factory=list)
    """Digests of the training and validation parts' signals; none in a run of hfld_lite 0.2.0."""
    part: Annotated[Part | None, BeforeValidator(part_of)] = None
    given: Annotated[dict[str, Text], Few] = Field(default_factory=dict)
    """Kinds of the networks that the recipe does not describe, by role."""
    labelling: Text = ""
    """Digest of classes and groups; empty in a run of hfld_lite 0.2.0, as are those below."""
    unlabelled: Index = 0
    """Unlabelled recordings in the training part."""
    unlabelled_left_out: Index = 0
    """Those in no part, since their group is in the validation or test part."""
    made: Annotated[dict[Name, Text], Few] = Field(default_factory=dict)
    findings: Annotated[list[Text], Field(max_length=1000, fail_fast=True)] = Field(
        default_factory=list
    )
    """What looked wrong in the recordings."""
    baselines: Annotated[list[Name], Field(max_length=100, fail_fast=True)] = Field(
        default_factory=list
    )
    good_parts: GoodFacts | None = None

    @model_validator(mode="after")
    def _check_classes(self) -> "Facts":
        names, normal = self.class_names, self.normal_classes
        if len(set(names)) < len(names) or not set(normal) < set(names):
            raise ValueError(
                f"class_names are {short(names)} and normal_classes {short(normal)}; "
                "expected names that differ, and some of them for the normal classes"
            )
        if self.window is not None:
            _check_window(self.window)
        positions = tuple(names.index(name) for name in normal)
        for role, trust in self.trust.items():
            if trust.normal != positions:
                raise ValueError(
                    f"trust.{role}.normal is {short(trust.normal)}; expected {positions}, "
                    "the positions of the normal classes"
                )
        return self
