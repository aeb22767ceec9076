"""A recipe: every choice of a training run in one frozen value, saved as JSON beside the run."""

import difflib
import json
import math
import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from hfld_lite.errors import ArgumentError, HfldError, RecipeError
from hfld_lite.storage.files import read_json

STRATEGIES = ("fixed", "published", "naive", "uncertainty", "meta")
BEHAVIOURS = ("sound", "published")
_LARGEST = sys.float_info.max
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


ALONE, DIRECT, DENSE = "student_alone", "student_direct", "student_dense"
CONTROLS = {"alone": ALONE, "direct": DIRECT, "dense": DENSE}
"""Roles of the controls, all with the student's network, initial weights, batches and steps: from
labels alone, from the teacher without the secondary ones, from the logits of all larger ones."""


@dataclass(frozen=True)
class Network:
    """The arguments of :func:`hfld_lite.networks.resnet1d`, but for the classes.

    ``dropout`` is None for the head's default when a network learns from labels; a distilled
    network has none unless it is given here.
    """

    depth: int
    width: float = 1.0
    head: str = "small"
    dropout: float | None = None
    epochs: int = 20


@dataclass(frozen=True)
class Augmentation:
    """How far recordings are varied while networks learn from them; see `augmentation.augment`.

    Attributes:
        noise: lowest and highest ratio of the recording's power to the added noise's, dB; None
            for no noise.
        shift: the impact comes earlier or later by this at most, ms.
        gain: louder or softer by this at most, dB.
        frequency: all frequencies higher or lower by this share at most, no unit. Keep it within
            what sound parts differ by, or a defect's shift is taught as nothing.
    """

    noise: tuple[float, float] | None = (10.0, 40.0)
    shift: float = 2.0
    gain: float = 6.0
    frequency: float = 0.005

    def __post_init__(self) -> None:
        if isinstance(self.noise, list):
            object.__setattr__(self, "noise", tuple(self.noise))
        noise = self.noise
        if noise is not None and not (
            isinstance(noise, tuple)
            and len(noise) == 2
            and all(map(_is_number, noise))
            and noise[0] <= noise[1]
        ):
            raise RecipeError(
                f"The augmentation's noise is {noise!r}; it must be the lowest and the highest "
                "ratio in dB, or null for none."
            )
        for name, highest in (("shift", math.inf), ("gain", 60), ("frequency", 0.2)):
            value = getattr(self, name)
            if not (_is_number(value) and 0 <= value <= highest):
                bound = f" and {highest:g} at most" if highest < math.inf else ""
                raise RecipeError(
                    f"The augmentation's {name} is {value!r}; it must be 0 or more{bound}."
                )


@dataclass(frozen=True)
class Recipe:
    """Every choice of a run of the chain teacher → secondary teacher → student.

    Attributes:
        name: of the preset it began as.
        teacher, student: the first and the last network of the chain, and their epochs.
        secondary_teachers: the networks between them, from the largest to the smallest; none for a
            student that learns from the teacher directly.
        view: what networks read, ``"spectrum"`` or ``"time"``.
        samples: samples used of each recording, from the first; None for all.
        bins: bins kept of the spectrum; None for half the samples.
        optimizer: ``"sgd"`` or ``"adamw"``.
        learning_rate, momentum (SGD's), weight_decay: of the optimiser.
        schedule: ``"one-cycle"`` (up for a tenth of the steps, then cosine down to nearly 0) or
            ``"drops"`` (× 0.1 at each epoch of ``drops``, counted from the end, as published).
        drops: epochs before the end at which the rate drops.
        batch_size: recordings a step.
        temperature: T of the logit terms, no unit.
        heads: h of one-to-all matching; lowered to a divisor of the teacher's channels by an
            error, never silently.
        weighting: how the four terms are balanced: ``"fixed"``, ``"published"``, ``"naive"``,
            ``"uncertainty"`` or ``"meta"``; see `weighting`. The default was chosen on validation
            data, see ``notebooks/results/weighting_strategies.csv``.
        alpha, mu, nu, beta: fixed weights of feature matching, TCKD, NCKD and cross-entropy.
        meta_share: share of the training part that is kept from training for meta batches. To
            compare strategies fairly, give all of them the same.
        meta_every: steps from one update of the PVPN to the next, with ``"meta"``; chosen so that
            training takes less than 1.35 times as long as with fixed weights.
        augmentation: how recordings are varied at every step, for teachers, students and controls
            alike; None to train on them as they are. Teachers are then asked at every step, and
            their cached answers are refused, so that training takes several times as long.
        validation, test: shares of the recordings (of their groups).
        precision: lightning-fabric's name, ``"32-true"``, ``"bf16-mixed"`` or ``"16-mixed"``.
        behaviour: ``"sound"``, or ``"published"`` to train as the released code does, mistakes
            included (method.md, section 4): for comparison and teaching only. The validation
            share is then trained on, since the released code holds none back.
        seed: of split, initial weights and order; each stage derives its own from it.
    """

    name: str = "custom"
    teacher: Network = Network(18, 1 / 4)
    secondary_teachers: tuple[Network, ...] = (Network(18, 1 / 8),)
    student: Network = Network(10, 1 / 16)
    view: str = "spectrum"
    samples: int | None = None
    bins: int | None = None
    optimizer: str = "adamw"
    learning_rate: float = 3e-3
    momentum: float = 0.9
    weight_decay: float = 1e-2
    schedule: str = "one-cycle"
    drops: tuple[int, ...] = ()
    batch_size: int = 32
    temperature: float = 5.0
    heads: int = 8
    weighting: str = "fixed"
    alpha: float = 1.0
    mu: float = 1.0
    nu: float = 1.0
    beta: float = 1.0
    meta_share: float = 0.0
    meta_every: int = 15
    augmentation: Augmentation | None = None
    validation: float = 0.2
    test: float = 0.2
    precision: str = "32-true"
    behaviour: str = "sound"
    seed: int = 0

    def __post_init__(self) -> None:
        def network(value: Any, where: str) -> Any:
            return _build(Network, value, where) if isinstance(value, dict) else value

        between = self.secondary_teachers
        if not isinstance(between, list | tuple):
            raise RecipeError("The recipe's secondary_teachers must be a list of networks.")
        varied = self.augmentation
        if isinstance(varied, dict):
            varied = _build(Augmentation, varied, "augmentation")
        fields_ = {
            "augmentation": varied,
            "teacher": network(self.teacher, "teacher"),
            "secondary_teachers": tuple(network(n, "secondary_teachers") for n in between),
            "student": network(self.student, "student"),
            "drops": tuple(self.drops) if isinstance(self.drops, list) else self.drops,
        }
        for name, value in fields_.items():
            object.__setattr__(self, name, value)
        _check(self)

    def replace(self, **changes: Any) -> "Recipe":
        """A copy with some attributes changed; an unknown one is a RecipeError."""
        _known(type(self), changes, "recipe")
        return replace(self, **changes)

    def repeats(self, count: int) -> "tuple[Recipe, ...]":
        """The recipes of repeated runs, whose results' mean and deviation are reported.

        The seeds are seed, seed + 1, …: each run has its own split, initial weights and order.
        With the behaviour ``"published"`` all have this recipe's seed, as there: runs are then the
        same bit for bit, or differ by the machine's rounding, and their deviation says nothing.

        Raises:
            ArgumentError: if count is no whole number of 1 or more.
        """
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ArgumentError(f"count is {count!r}; it must be a whole number, 1 or more.")
        step = 0 if self.behaviour == "published" else 1
        return tuple(self.replace(seed=self.seed + step * i) for i in range(count))

    @property
    def chain(self) -> dict[str, Network]:
        """The networks by role, in the order of training.

        The roles are teacher, secondary_teacher (secondary_teacher_1, … where there are several)
        and student.
        """
        numbers = range(1, len(self.secondary_teachers) + 1)
        one = len(self.secondary_teachers) == 1
        names = ["secondary_teacher" if one else f"secondary_teacher_{i}" for i in numbers]
        between = dict(zip(names, self.secondary_teachers, strict=True))
        return {"teacher": self.teacher, **between, "student": self.student}

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the four terms, by the term's name."""
        return {
            "feature": self.alpha,
            "tckd": self.mu,
            "nckd": self.nu,
            "cross_entropy": self.beta,
        }

    def to_json(self) -> str:
        """The recipe as indented JSON."""
        return json.dumps(asdict(self), indent=2)

    def save(self, path: str | Path) -> None:
        """Write the recipe as a JSON file."""
        Path(path).write_text(self.to_json() + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "Recipe":
        """Read a recipe that :meth:`save` wrote or a person edited.

        Raises:
            RecipeError: if the file cannot be read, is no JSON object, or holds an unknown key or
                an impossible value; the message names it.
        """
        try:
            values = read_json(Path(path))
        except (OSError, ValueError) as error:
            raise RecipeError(f"{path}: the recipe cannot be read ({error}).") from error
        if not isinstance(values, dict):
            raise RecipeError(
                f"{path}: a recipe is a JSON object; found a {type(values).__name__}."
            )
        try:
            return _build(cls, values, "recipe")
        except RecipeError as error:
            raise RecipeError(f"{path}: {error}") from error


def network_of(recipe: Recipe, role: str) -> Network:
    """The network of a role of the chain or of its control, or an HfldError that lists them."""
    known = recipe.chain | dict.fromkeys(CONTROLS.values(), recipe.student)
    if role not in known:
        raise HfldError(f"{role!r} is no role here; there are {', '.join(known)}.")
    return known[role]


def preset(name: str) -> Recipe:
    """The preset of this name; an unknown one is a RecipeError that offers the nearest.

    ``classroom``: small networks, a minute or two on two cores for any small data set.
    ``demo``: what ``make demo`` trains; the simulator was calibrated on its networks.
    ``paper``: the published sizes, optimiser and schedule; hours without a GPU.
    ``published``: the same with the released code's behaviour, mistakes included; to compare only.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise RecipeError(f"Preset {name!r} is unknown; {hint}There are {', '.join(PRESETS)}.")
    return PRESETS[name]


def _build(kind: type, values: dict[str, Any], where: str) -> Any:
    _known(kind, values, where)
    try:
        return kind(**values)
    except TypeError as error:
        raise RecipeError(f"The {where} has a value of the wrong kind ({error}).") from error


def _known(kind: type, values: dict[str, Any], where: str) -> None:
    names = [f.name for f in fields(kind)]
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(key, names, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(names)}."
            raise RecipeError(f"The {where} has no entry {key!r}{hint}")


def _is_number(value: Any, kind: type | tuple[type, ...] = (int, float)) -> bool:
    """Tell whether a value is a number that a float can hold; true and false are none."""
    return isinstance(value, kind) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _check(recipe: Recipe) -> None:
    """Refuse values that would fail, or quietly do nothing, hours later."""

    def need(valid: bool, name: str, rule: str) -> None:
        if not valid:
            raise RecipeError(
                f"The recipe's {name} is {getattr(recipe, name)!r}; it must be {rule}."
            )

    def number(name: str, low: float, rule: str, whole: bool = False, above: bool = False) -> None:
        value = getattr(recipe, name)
        kind = int if whole else (int, float)
        need(_is_number(value, kind) and (value > low if above else value >= low), name, rule)

    need(isinstance(recipe.name, str), "name", "a text")
    need(recipe.view in ("spectrum", "time"), "view", "'spectrum' or 'time'")
    need(recipe.optimizer in ("sgd", "adamw"), "optimizer", "'sgd' or 'adamw'")
    need(recipe.schedule in ("one-cycle", "drops"), "schedule", "'one-cycle' or 'drops'")
    need(recipe.weighting in STRATEGIES, "weighting", f"one of {', '.join(STRATEGIES)}")
    need(
        _is_number(recipe.meta_share) and 0 <= recipe.meta_share < 0.5,
        "meta_share",
        "a share from 0 to below 0.5",
    )
    if recipe.weighting == "meta":
        need(recipe.meta_share > 0, "meta_share", "above 0, since weighting 'meta' needs it")
    need(recipe.behaviour in BEHAVIOURS, "behaviour", "'sound' or 'published'")
    if recipe.behaviour == "published":
        need(recipe.weighting == "published", "weighting", "'published', as its behaviour is")
    need(
        recipe.augmentation is None or isinstance(recipe.augmentation, Augmentation),
        "augmentation",
        "an object with noise, shift, gain and frequency, or null for none",
    )
    number("meta_every", 1, "a whole number, 1 or more", whole=True)
    need(recipe.precision in PRECISIONS, "precision", f"one of {', '.join(PRECISIONS)}")
    number("learning_rate", 0, "above 0", above=True)
    number("temperature", 0, "above 0", above=True)
    number("batch_size", 2, "a whole number, 2 or more (batch norm needs two)", whole=True)
    number("heads", 1, "a whole number, 1 or more", whole=True)
    number("seed", 0, "a whole number, 0 or more", whole=True)
    for name in ("alpha", "mu", "nu", "beta", "momentum", "weight_decay"):
        number(name, 0, "0 or more")
    need(
        isinstance(recipe.drops, tuple)
        and all(_is_number(drop, int) and drop >= 0 for drop in recipe.drops),
        "drops",
        "a list of whole numbers, epochs before the end",
    )
    if not any(recipe.weights.values()):
        raise RecipeError("The recipe's alpha, mu, nu and beta are all 0; one must be above 0.")
    for name in ("validation", "test"):
        number(name, 0, "a share above 0 and below 0.5", above=True)
        need(getattr(recipe, name) < 0.5, name, "a share above 0 and below 0.5")
    for name in ("samples", "bins"):
        if getattr(recipe, name) is not None:
            number(name, 257, "a whole number, 257 or more, or null for the default", whole=True)
    for role, network in recipe.chain.items():
        if not isinstance(network, Network):
            raise RecipeError(f"The recipe's {role} is {network!r}; it must be a network.")
        for entry, valid in {
            "depth": _is_number(network.depth, int),
            "width": _is_number(network.width),
            "head": isinstance(network.head, str),
            "dropout": network.dropout is None or _is_number(network.dropout),
        }.items():
            if not valid:
                raise RecipeError(
                    f"The recipe's {role} has the {entry} {getattr(network, entry)!r}, which is of "
                    "the wrong kind; see hfld_lite.resnet1d."
                )
        if not _is_number(network.epochs, int) or network.epochs < 1:
            raise RecipeError(
                f"The recipe's {role} is to train for {network.epochs!r} epochs; it must be a "
                "whole number, 1 or more."
            )
        if recipe.schedule == "drops" and any(drop >= network.epochs for drop in recipe.drops):
            raise RecipeError(
                f"The recipe's drops are {recipe.drops}, epochs before the end; the {role} trains "
                f"for {network.epochs}, so each drop must be smaller than that."
            )


PRESETS: dict[str, Recipe] = {
    "classroom": Recipe(name="classroom"),
    "demo": Recipe(
        name="demo",
        teacher=Network(18, 1 / 4, epochs=8),
        secondary_teachers=(Network(18, 1 / 8, epochs=10),),
        student=Network(10, 1 / 16, epochs=16),
    ),
    "paper": Recipe(
        name="paper",
        teacher=Network(50, 1.0, "published", None, 200),
        secondary_teachers=(Network(18, 1.0, "published", None, 200),),
        student=Network(10, 1.0, "published", None, 200),
        optimizer="sgd",
        learning_rate=0.01,
        weight_decay=1e-5,
        schedule="drops",
        drops=(40, 20),
        batch_size=24,
    ),
}
PRESETS["published"] = PRESETS["paper"].replace(
    name="published", behaviour="published", weighting="published"
)
