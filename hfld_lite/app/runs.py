"""Run folders: a trained chain on disk, written completely or not at all, checked when read."""

import copy
import json
import os
import platform
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hfld_lite.app.facts import Facts
from hfld_lite.app.identity import among, differ, labelling, read_sketch, write_sketch
from hfld_lite.data.good_parts import as_good
from hfld_lite.data.names import some_names
from hfld_lite.data.parts import Part
from hfld_lite.data.prepared import MANIFEST
from hfld_lite.data.readers import read_folder
from hfld_lite.data.recordings import Recordings, digests, labelled, place
from hfld_lite.data.simulator.simulate import VERSION, simulate_tiles
from hfld_lite.data.splits import Split
from hfld_lite.data.views import SCALINGS, level_of
from hfld_lite.edge.analysis import processor, with_costs
from hfld_lite.errors import ArgumentError, DataError, HfldError, RecipeError, nearest
from hfld_lite.evaluation.detector import Detector, TestResult, trust_of
from hfld_lite.evaluation.good_parts import GoodParts, promise
from hfld_lite.evaluation.scores import FEATURES, empty_networks
from hfld_lite.evaluation.trust import Trust
from hfld_lite.hierarchy import Chain
from hfld_lite.networks import resnet1d
from hfld_lite.recipes import Recipe, network_of
from hfld_lite.storage.files import plain, read_json, regular_size, write_whole
from hfld_lite.storage.models import (
    LINE,
    explain,
    short,
    validated,
)
from hfld_lite.storage.threads import threads_used
from hfld_lite.version import __version__

FORMAT = 4
"""Version of the run folder's format."""

OLD_FORMAT = 3
OLDER = {"bins_by": "cutting", "balance": False}
"""The format of hfld_lite 0.2.0, and what its recipes meant without saying it."""

FACTS = "run.json"

MOST_LISTED = 100_000
"""Recordings whose digests are listed; a run's sketch tells the same of any number."""

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """What a run folder holds: networks, split and the facts of ``run.json``."""

    folder: Path
    detector: Detector
    split: Split
    facts: dict[str, Any]
    trust: dict[str, Trust]
    """By role; empty if there was no validation part to set the limits on."""

    @property
    def promise(self) -> str:
        """What the limit of a training on good parts guarantees; empty for others."""
        good = self.facts.get("good_parts")
        if not good:
            return ""
        return promise(*(good[name] for name in ("false_alarms", "groups", "recordings")))

    @cached_property
    def sketch(self) -> np.ndarray | None:
        """The numbers that its recordings are recognised by; None in a run of hfld_lite 0.2.0."""
        return read_sketch(self.folder)

    def recordings(self, progress: bool = False, folder: str | Path | None = None) -> Recordings:
        """Read or simulate again the recordings that the networks were trained and tested on.

        Args:
            progress: show a bar.
            folder: where they are now, if they were moved.

        Raises:
            DataError: if the recordings are gone.
            ArgumentError: if a folder is given for recordings that were simulated.
            RecipeError: if they have changed.
        """
        data = self.facts["data"]
        if data.get("simulated"):
            if folder is not None:
                raise ArgumentError(
                    f"{self.folder} was trained on simulated recordings; leave --data out."
                )
        else:
            folder = data.get("folder") if folder is None else folder
            if folder is None or not Path(folder).exists():
                raise DataError(
                    folder or self.folder / FACTS,
                    "is not there" if folder else "does not say where the recordings are",
                    expected=f"the recordings that {self.folder} was trained on",
                    mend="say where they are now with --data",
                )
            data = {"options": {}} | data | {"folder": str(folder)}
        recordings = read_origin(data, progress, self.detector.part, again=True)
        if said := self._changed(recordings):
            raise RecipeError(
                f"The data of {self.folder} have changed since the training ({said}), so its "
                f"training and test parts are unknown; {self._mend(folder)}."
            )
        return recordings

    def same(self, recordings: Recordings) -> bool:
        """Whether these are the recordings of the training, as far as rounding lets one tell."""
        return not self._changed(recordings)

    def learned_from(self, signals: np.ndarray) -> np.ndarray:
        """Whether the run was trained on each signal, or chosen by it, booleans ``(n,)``.

        They are recognised by their samples ``(n, samples)``, see :mod:`hfld_lite.app.identity`.

        Raises:
            HfldError: if that is unknown: a run of hfld_lite 0.2.0 needs its own recordings.
        """
        rows = np.concatenate([self.split.train, self.split.validation])
        if self.sketch is not None:
            return among(self.sketch[rows], signals)
        seen = self.facts.get("seen") or self.recordings().select(rows).digests()
        return np.isin(digests(signals), seen)

    def _changed(self, recordings: Recordings) -> str:
        """What is not as it was in training, or nothing."""
        if recordings.fingerprint() == self.facts["fingerprint"]:
            return ""
        known = self.sketch
        if known is None:
            return "their checksum is another one"
        if len(recordings) != len(known):
            return f"there were {len(known)} recordings and are {len(recordings)}"
        if labelling(recordings) != self.facts.get("labelling"):
            return "classes, groups or the order are others"
        rows = differ(known, recordings)
        if not len(rows):
            return ""
        first = place(str(recordings.origins[rows[0]]))
        return f"{len(rows)} of {len(known)} recordings are others, the first {first}"

    def _mend(self, folder: Path | None) -> str:
        made = (self.facts["data"].get("simulated") or {}).get("version")
        if folder is None and made not in (None, VERSION):
            return f"version {made} of the simulator made them, and this is version {VERSION}"
        if folder is None:
            return "train again"
        return "restore the data, say with --data where they are, or train again"

    @property
    def reading(self) -> dict[str, Any]:
        """How a file is read and cut for these networks: arguments of `read_cuts`."""
        options = self.facts["data"].get("options", {})
        return {
            "sample_rate": self.detector.sample_rate,
            "part": self.detector.part or Part("first", self.detector.samples),
            "hop": self.facts["window"][1] if self.facts["window"] else None,
            "variable": options.get("variable"),
            "resample": bool(options.get("resample")),
        }

    def read(
        self,
        folder: str | Path,
        training: bool = False,
        say: Callable[[str], object] = warnings.warn,
    ) -> Recordings:
        """Read other recordings with the options of the training, cut as those were.

        Those that the run was trained on or chosen by are recognised by their samples and left out,
        as are unlabelled ones, which is said; a recording is left out if any of its windows is
        known.

        Args:
            folder: of recordings.
            training: read only those that are known instead, for training figures.
            say: takes the sentence about what is left out, which names some of it.

        Raises:
            DataError: if none is left.
            HfldError: as `read_folder` does.
        """
        part, options = self.detector.part, self.facts["data"].get("options", {})
        if part is None and not self.facts["window"] and not options:
            part = Part("first", self.detector.samples)  # as `hfld predict` does
        if options.get("resample"):  # other files may have another rate most often
            options = options | {"sample_rate": self.detector.sample_rate}
        if (Path(folder) / MANIFEST).exists():  # it is cut and resampled already
            options = {}
        kinds = {name: self.facts["data"].get(name, []) for name in ("good", "defective")}
        data = {"folder": folder, "options": options, **kinds}
        recordings = read_origin(data, part=part, complete=False)
        known = labelled(recordings)
        if rest := len(recordings) - len(known):
            say(
                f"{folder}: {rest} of {len(recordings)} recordings are unlabelled; these are left "
                "out, since nothing can be measured on them."
            )
            recordings = recordings.select(known)
        return _divided(self, recordings, folder, training, say)


def _divided(
    run: Run, recordings: Recordings, where: object, training: bool, say: Callable[[str], object]
) -> Recordings:
    """Those that a run was trained on or chosen by, or the others."""
    try:
        known = run.learned_from(recordings.signals)
    except HfldError as error:  # a run of hfld_lite 0.2.0, whose recordings are gone
        said = f"Whether the networks were trained on some of these is unknown: {error}"
        if training:
            raise RecipeError(said) from error
        say(said)
        return recordings
    if recordings.wholes is not None:
        known = np.isin(recordings.wholes, recordings.wholes[known])
    count, files = int(known.sum()), [name.rpartition(":")[0] for name in recordings.origins[known]]
    if training:
        if not count:
            raise DataError(where, "the run was trained or validated on none of these recordings")
        return recordings.select(known)
    if not count:
        return recordings
    names = some_names(files)
    if known.all():
        raise DataError(
            where,
            f"the run was trained or validated on all {count} recordings ({names})",
            mend="give others, leave --data out to measure on the run's test part, or ask for "
            "training figures (--training, training=True)",
        )
    say(
        f"{where}: the run was trained or validated on {count} of {len(recordings)} recordings "
        f"({names}); these are left out, and {len(recordings) - count} are tested."
    )
    return recordings.select(~known)


def read_origin(
    data: dict[str, Any],
    progress: bool = False,
    part: Part | None = None,
    *,
    again: bool = False,
    complete: bool = True,
) -> Recordings:
    """Read or simulate the recordings that ``run.json`` describes under ``data``.

    Args:
        data: that entry.
        progress: show a bar.
        part: what is used of each file, where it is known; a prepared folder is cut already.
        again: a run was begun with this folder, so it is read even if it is a public data set as it
            is published.
        complete: whether the classes of good and defective parts must all be there.
    """
    kinds = [data.get(name) or () for name in ("good", "defective")]
    if data.get("simulated"):
        found = simulate_tiles(seed=data["simulated"]["seed"], progress=progress)
    else:
        options = data["options"]
        if part is not None and not (Path(data["folder"]) / MANIFEST).exists():
            options = options | {"part": part.kind, "samples": part.samples}
            options |= {"pad": True} if part.pad else {}
        how = {"progress": progress, "one_class": any(kinds), "again": again}
        found = read_folder(data["folder"], **how, **options)
    return as_good(found, *kinds, complete=complete) if any(kinds) else found


def unfinished(folder: Path) -> Path:
    """The folder of an unfinished run, next to that of the finished one."""
    folder = named(folder)
    return folder.with_name(folder.name + ".unfinished")


def named(folder: str | Path) -> Path:
    """The folder as a path that ends in its name; those to "." and ".." do not."""
    folder = Path(folder)
    return Path(os.path.abspath(folder)) if folder.name in ("", "..") else folder


def preprocessing(recipe: Recipe) -> dict[str, Any]:
    """How a recording is transformed before it enters a network."""
    return {
        "view": recipe.view,
        "samples": recipe.samples,
        "bins": recipe.bins,
        "bins_by": recipe.bins_by,
        "level": level_of(recipe),
        "scaling": SCALINGS[recipe.view],
    }


def _seen(recordings: Recordings, split: Split) -> list[str]:
    """Digests of what networks were trained on, or chosen by, unless there are too many to list."""
    rows = np.concatenate([split.train, split.validation])
    return sorted(set(recordings.select(rows).digests())) if len(rows) <= MOST_LISTED else []


def unlabelled_counts(recordings: Recordings, split: Split) -> dict[str, int]:
    """Unlabelled recordings in the training part, and those that a split leaves out."""
    count = len(recordings) - len(labelled(recordings))
    trained = len(split.train) - len(labelled(recordings, split.train))
    return {"unlabelled": trained, "unlabelled_left_out": count - trained}


def part_counts(run: Run) -> str:
    """How many recordings a run's parts have, and how many of them are unlabelled, in words."""
    counts = {name: str(len(part)) for name, part in run.split.parts().items()}
    unlabelled, left_out = (
        run.facts.get(name, 0) for name in ("unlabelled", "unlabelled_left_out")
    )
    if unlabelled:
        known = len(run.split.train) - unlabelled
        counts["train"] += f" ({known} labelled, {unlabelled} unlabelled)"
    said = ", ".join(f"{name} {count}" for name, count in counts.items())
    if left_out:
        said += f"; {left_out} unlabelled left out, their groups being in validation or test"
    return said


def or_note(lost: str, step: Callable[[], T]) -> T | None:
    """What a step after the training gives, or None and a note that says what is lost by it.

    Whatever it raises, and other packages raise anything, a finished training is kept.
    """
    try:
        return step()
    except Exception as error:
        said = str(error) if isinstance(error, HfldError) else f"{type(error).__name__}: {error}"
        warnings.warn(f"{lost} {said}", stacklevel=3)
        return None


def with_known_costs(result: TestResult, detector: Detector, recordings: Recordings) -> TestResult:
    """The result with what the networks cost, or as it is with a note if that cannot be counted."""
    found = or_note(
        "What the networks cost is left out.",
        lambda: with_costs(result, detector, recordings.signals[0]),
    )
    return result if found is None else found


def save_run(
    folder: Path,
    chain: Chain,
    result: TestResult,
    recordings: Recordings,
    data: dict[str, Any],
    command: str = "",
    baselines: Sequence[str] = (),
    good: GoodParts | None = None,
) -> None:
    """Write a chain and its test result into a folder that `new_run` gave.

    What only adds to them, such as the limits of *unsure*, is left out with a note if it fails.

    Args:
        folder: an empty folder.
        chain: what was trained.
        result: of ``chain.test(recordings)``.
        recordings: what it was trained on.
        data: how to get these recordings again, for ``hfld evaluate``.
        command: that made the run, for its report.
        baselines: names of those that its report compares with.
        good: what a training on good parts gave, of which the chain is a part.
    """
    detector = chain.detector
    limits = {
        role: or_note(
            f"The {role.replace('_', ' ')} gets no limits of unsure.",
            lambda role=role: trust_of(
                detector, recordings, chain.split, detector.predictor(role)
            ).to_dict(),
        )
        for role in (detector.networks if len(chain.split.validation) else ())
    }
    given = {
        role: type(detector.network(role)).__name__
        for role in detector.networks
        if not detector.described(role)
    }
    detector.recipe.save(folder / "recipe.json")
    for role, network in detector.networks.items():
        path = folder / f"{role}.safetensors"
        save_weights(network, path)
        path.chmod(0o644)  # safetensors makes private files; the others are not
    facts = {
        "format": FORMAT,
        "hfld_lite": __version__,
        "torch": torch.__version__,
        "class_names": detector.class_names,
        "normal_classes": detector.normal_classes,
        "sample_rate": detector.sample_rate,
        "samples": detector.samples,
        "preprocessing": preprocessing(detector.recipe),
        "window": recordings.window,
        "part": recordings.part and asdict(recordings.part),
        "source": recordings.source[:LINE],
        "simulated": recordings.simulated,
        "findings": [finding[:LINE] for finding in recordings.findings],
        "data": data,
        "fingerprint": recordings.fingerprint(),
        "labelling": labelling(recordings),
        "seen": _seen(recordings, chain.split),
        **unlabelled_counts(recordings, chain.split),
        "made": {
            "Command": command[:LINE],
            "Processor": processor(),
            "Threads": str(threads_used()),
            "Versions": f"hfld_lite {__version__}, torch {torch.__version__}, Python "
            f"{platform.python_version()}",
            "Host": platform.node() or "unknown",
            "Date": str(date.today()),
        },
        "baselines": list(baselines),
        "stages": {
            role: {
                "learned_from": stage.learned_from,
                "best_epoch": int(stage.fit.best_epoch),
                "seconds": round(stage.fit.seconds, 2),
            }
            for role, stage in chain.stages.items()
        },
        "trust": {role: found for role, found in limits.items() if found is not None},
        **({"given": given} if given else {}),
        **({"good_parts": good.facts} if good else {}),
    }
    write_sketch(folder, recordings)
    write_whole(folder / "split.json", json.dumps(chain.split.to_dict()) + "\n")
    tables = {"history": chain.history(), "results": result.table}
    if good:
        tables |= {"scores": good.table(recordings, chain.split.test)}
    for name, table in (tables | {"predictions": result.predictions}).items():
        write_whole(folder / f"{name}.csv", table.to_csv(index=False))
    write_whole(folder / FACTS, json.dumps(facts, indent=2) + "\n")


def load_run(folder: str | Path, networks: Mapping[str, torch.nn.Module] | None = None) -> Run:
    """Read a run folder, also one of format 3 (hfld_lite 0.2.0), whose bins were cut.

    Args:
        folder: of the run.
        networks: modules by role, for the networks that were given in training and that the recipe
            does not describe. Copies of them get the run's weights.

    Raises:
        RecipeError: if it is not a run folder, has another format or other preprocessing than this
            version, or a file in it is missing or damaged; the message names the file.
    """
    folder = Path(folder)
    how = "train one with `hfld train`"
    if unfinished(folder).is_dir():
        how = f"one is unfinished, resume it with `hfld train --resume {folder}`"
    facts = read_object(folder / FACTS, f"{folder} holds no run; {how}.")
    check_format(folder / FACTS, facts, (OLD_FORMAT, FORMAT))
    older = OLDER if facts["format"] == OLD_FORMAT else {}
    recipe = _trained_recipe(folder / "recipe.json", older)
    here = preprocessing(recipe)
    for name in ("bins_by", "level") if older else ():
        del here[name]
    there = facts.get("preprocessing")
    if there != here:
        if isinstance(there, dict):  # say only what differs
            names = {name for name in {**here, **there} if there.get(name) != here.get(name)}
            there, here = ({n: of[n] for n in of if n in names} for of in (there, here))
        raise RecipeError(
            f"{folder / FACTS}: the networks were trained on recordings preprocessed by "
            f"{short(there)}, and here it would be {here}; "
            f"use the run's own recipe.json and the hfld_lite that made the run, "
            f"{short(facts.get('hfld_lite'))}."
        )
    try:
        checked = Facts.model_validate(facts)
        names, roles = tuple(checked.class_names), tuple(checked.stages)
        empty = _empty_networks(folder, recipe, checked, dict(networks or {}))
        loaded = {role: load_weights(folder / f"{role}.safetensors", empty[role]) for role in roles}
        detector = Detector(
            recipe,
            loaded,
            names,
            tuple(checked.normal_classes),
            checked.sample_rate,
            checked.samples,
            frozenset(checked.given),
            checked.part,
        )
        split = Split.from_dict(read_object(folder / "split.json"))
    except RecipeError:
        raise
    except (ValueError, HfldError) as error:
        reason = explain(error) if isinstance(error, ValidationError) else str(error).rstrip(".")
        raise RecipeError(
            f"{folder}: the run is damaged ({reason}); train it again or copy it again."
        ) from error
    return Run(folder, detector, split, facts, checked.trust)


def check_format(path: Path, facts: dict[str, Any], known: Sequence[int] = (FORMAT,)) -> None:
    """Refuse a file that another version wrote, unless that format is known."""
    if facts.get("format") not in known:
        raise RecipeError(
            f"{path}: the format is {short(facts.get('format'))}; this version of hfld_lite reads "
            f"format {' and '.join(map(str, known))}."
        )


def _trained_recipe(path: Path, older: dict[str, Any]) -> Recipe:
    """The recipe of a run, also where the loss that it learned by is not registered here.

    ``older`` are values of attributes that its version did not have.
    """
    values = older | read_object(path)
    try:
        return validated(Recipe, values)
    except RecipeError as error:
        learned_by = {name: values.pop(name) for name in _LEARNED_BY if name in values}
        try:
            recipe = validated(Recipe, values)
        except RecipeError:
            raise RecipeError(f"{path}: {error}") from error
        warnings.warn(
            f"{path}: {error} The run can be used, but not trained "
            f"again, without what registers it ({short(learned_by)}; see --plugin).",
            stacklevel=3,
        )
        return recipe


_LEARNED_BY = ("method", "terms", "weighting")


def _empty_networks(
    folder: Path, recipe: Recipe, facts: Facts, networks: dict[str, torch.nn.Module]
) -> dict[str, torch.nn.Module]:
    """The run's networks by role, without weights."""
    for role in networks:
        if role not in facts.given:
            known = nearest(role, facts.given) if facts.given else "the run has only the recipe's"
            raise RecipeError(f"{folder}: networks has the role {role!r}; {known}.")
    if facts.good_parts:
        score = facts.good_parts.score
        names = dict.fromkeys((FEATURES, score))
        found = {r: n for name in names for r, n in empty_networks(name, recipe).items()}
        if found.keys() != facts.stages.keys():
            raise ValueError(
                f"good_parts.score is {short(score)} and stages are {short([*facts.stages])}; "
                f"expected {', '.join(found)}"
            )
        return found
    found = {}
    for role in facts.stages:
        owner = "student" if role.startswith("student_") else role
        if role in facts.given:
            if role not in networks and owner not in networks:
                raise RecipeError(
                    f"{folder}: the {role.replace('_', ' ')} is a network of your own "
                    f"({short(facts.given[role])}); give the module: "
                    f'load_run("{folder}", networks={{"{owner}": module}}).'
                )
            found[role] = copy.deepcopy(networks.get(role, networks.get(owner)))
        else:
            found[role] = empty_network(recipe, role, len(facts.class_names))
    return found


def empty_network(recipe: Recipe, role: str, classes: int) -> torch.nn.Module:
    """A role's network of a recipe, with shapes and no numbers: it takes no memory."""
    spec = network_of(recipe, role)
    with torch.device("meta"):
        return resnet1d(spec.depth, classes, spec.width, spec.head, spec.dropout)


def save_weights(network: torch.nn.Module, path: Path) -> None:
    """Write a network's weights as a safetensors file; tied ones are written twice."""
    state = {name: plain(value) for name, value in network.state_dict().items()}
    write_whole(path, lambda part: save_file(state, part))


def load_weights(path: Path, network: torch.nn.Module) -> torch.nn.Module:
    """Put the weights of a safetensors file into a network, in eval mode.

    Raises:
        RecipeError: if the file cannot be read, or its weights do not fit the network.
    """
    try:
        regular_size(path)
        state = {name: value.clone() for name, value in load_file(path).items()}
        _check_weights(state, network.state_dict())
        network.load_state_dict(state, assign=True)
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise RecipeError(
            f"{path}: the weights cannot be read or do not fit the network ({reason}); choose the "
            "weights and the recipe that belong together, or copy the file again."
        ) from error
    return network.eval()


def _check_weights(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Refuse other types, which torch would convert silently, and weights that give only NaN."""
    for name in state.keys() & expected.keys():
        if state[name].dtype != expected[name].dtype:
            raise ValueError(f"{name} is {state[name].dtype}, not {expected[name].dtype}")
        if not state[name].isfinite().all():
            raise ValueError(f"{name} holds NaN or infinity")


def read_object(path: Path, missing: str = "") -> dict:
    """The JSON object of a run's file; `missing` is said where there is none."""
    try:
        content = read_json(path)
    except FileNotFoundError as error:
        raise RecipeError(missing or f"{path} is missing; copy the run again.") from error
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} cannot be read ({error}); copy the run again.") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path} does not hold a JSON object; copy the run again.")
    return content
