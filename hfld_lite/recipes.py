"""A recipe: every choice of a training run in one frozen value, saved as JSON beside the run."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from hfld_lite.data.augmentation import Augmentation
from hfld_lite.distillation import CROSS_ENTROPY, TERMS
from hfld_lite.errors import HfldError, RecipeError, look_up, nearest
from hfld_lite.storage.models import Real, Saved, Whole, Words, choices
from hfld_lite.weighting import WEIGHTINGS

HFLKD = "hflkd"
"""The method whose weights are α, μ, ν, β; every other method is the name of a term."""

ALONE, DIRECT, DENSE = "student_alone", "student_direct", "student_dense"
"""Roles of the controls, all with the student's network, initial weights, batches and steps: from
labels alone, from the teacher without the secondary ones, from the logits of all larger ones."""

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")

Weight = Annotated[Real, Field(ge=0)]
Positive = Annotated[Real, Field(gt=0)]
Share = Annotated[Real, Field(gt=0, lt=0.5)]
Length = Annotated[Whole, Field(ge=257)]
Count = Annotated[Whole, Field(ge=1)]

DECAY = {"adamw": 0.3, "sgd": 1e-5}
"""AdamW's, apart from the gradient, was chosen on development sets; SGD's is the published one."""

LEAST_EPOCHS = 10
"""Passes over the training part, however large it is."""


@choices()
class Network:
    """The arguments of :func:`hfld_lite.networks.resnet1d`, but for the classes.

    ``dropout`` is None for the head's default when a network learns from labels; a distilled
    network has none unless it is given here. ``epochs`` is None for the recipe's ``steps``.
    """

    depth: Whole
    width: Real = 1.0
    head: Words = "small"
    dropout: Real | None = None
    epochs: Annotated[Whole, Field(ge=1)] | None = None


@choices(network=Network, augmentation=Augmentation)
class Recipe(Saved):
    """Every choice of a run of the chain teacher → secondary teacher → student.

    Attributes:
        name: of the preset it began as.
        teacher, student: the first and the last network of the chain, and their epochs.
        secondary_teachers: the networks between them, from the largest to the smallest; none for a
            student that learns from the teacher directly.
        view: what networks read, a name in ``data.views.VIEWS``.
        samples: samples used of each recording, from the first; None for all.
        bins: most values along the frequency; None for BINS, or all if they are cut.
        bins_by: ``"averaging"`` of neighbours, or ``"cutting"``: the first bins, as published.
        level: ``"kept"`` or ``"removed"``; by default, and only, views in dB keep it.
        optimizer: ``"sgd"`` or ``"adamw"``.
        learning_rate, momentum (SGD's), weight_decay: of the optimiser; None for its DECAY.
        schedule: ``"one-cycle"`` (up, then cosine down to nearly 0) or
            ``"drops"`` (× 0.1 at each epoch of ``drops``, counted from the end, as published).
        drops: epochs before the end at which the rate drops.
        steps: for networks without ``epochs``: as many passes as make these steps, LEAST_EPOCHS at
            least.
        warmup: steps in which the rate of ``"one-cycle"`` goes up; None for a tenth.
        patience: steps without a better validation after which a network's training ends; None
            to train to the end.
        batch_size: recordings a step; None for a tenth of the training part, 8 to 32.
        unlabelled: share of each batch that a distilled student reads of recordings without a
            label, where there are any; 0 to distil on labelled ones alone.
        balance: draw classes equally often where they differ by more than 3 to 1.
        temperature: T of the logit terms, no unit.
        heads: h of one-to-all matching; they must divide the teacher's channels.
        weighting: how the terms are balanced, a name in ``weighting.WEIGHTINGS``. The default was
            chosen on validation data, see ``hfld_lite/results/weighting_strategies.csv``.
        alpha, mu, nu, beta: fixed weights of feature matching, TCKD, NCKD and cross-entropy.
        meta_share: share of the training part that is kept from training for meta batches. To
            compare strategies fairly, give all of them the same.
        meta_every: steps from one meta gradient to the next, with ``"meta"`` and ``"trusted"``;
            chosen so that training takes less than 1.35 times as long as with fixed weights.
        augmentation: how recordings are varied at every step, for teachers, students and controls
            alike; None to train on them as they are. Teachers are then asked at every step, and
            their cached answers are refused, so that training takes several times as long.
        validation, test: shares of the recordings (of their groups).
        precision: lightning-fabric's name, ``"32-true"``, ``"bf16-mixed"`` or ``"16-mixed"``.
        behaviour: ``"sound"``, or ``"published"`` to train as the released code does, mistakes
            included: for comparison and teaching only. The validation share is then trained on,
            since the released code holds none back.
        seed: of split, initial weights and order; each stage derives its own from it.
        method: ``"hflkd"``, or the name of a registered term, such as ``"kd"``: the loss is then
            cross-entropy · beta + that term · its weight in ``terms`` (1 if it has none there).
        terms: weights of further registered terms by name, beside the method's own.
    """

    name: Words = "custom"
    teacher: Network = Network(18, 1 / 4)
    secondary_teachers: tuple[Network, ...] = (Network(18, 1 / 8),)
    student: Network = Network(10, 1 / 16)
    view: Literal["spectrum", "log-spectrum", "log-mel", "time"] = "log-mel"
    samples: Length | None = None
    bins: Length | None = None
    bins_by: Literal["averaging", "cutting"] = "averaging"
    level: Literal["removed", "kept"] | None = None
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: Positive = 1e-2
    momentum: Weight = 0.9
    weight_decay: Weight | None = None
    schedule: Literal["one-cycle", "drops"] = "one-cycle"
    drops: tuple[Annotated[Whole, Field(ge=0)], ...] = ()
    steps: Count = 400
    warmup: Count | None = None
    patience: Count | None = None
    batch_size: Annotated[Whole, Field(ge=2)] | None = None  # batch norm needs two
    unlabelled: Annotated[Weight, Field(lt=1)] = 0.5
    balance: bool = True
    temperature: Positive = 5.0
    heads: Annotated[Whole, Field(ge=1)] = 8
    weighting: Words = "fixed"
    alpha: Weight = 1.0
    mu: Weight = 0.3
    nu: Weight = 0.3
    beta: Weight = 1.0
    meta_share: Annotated[Weight, Field(lt=0.5)] = 0.0
    meta_every: Annotated[Whole, Field(ge=1)] = 15
    augmentation: Augmentation | None = None
    validation: Share = 0.2
    test: Share = 0.2
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    behaviour: Literal["sound", "published"] = "sound"
    seed: Annotated[Whole, Field(ge=0)] = 0
    method: Words = HFLKD
    terms: dict[Words, Weight] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse names and combinations that would fail, or do nothing, hours later."""
        weighed = f"The recipe's weighting is {self.weighting!r}"
        if self.weighting not in WEIGHTINGS:
            raise RecipeError(f"{weighed}; {nearest(self.weighting, WEIGHTINGS)}.")
        if WEIGHTINGS[self.weighting].meta_batches and not self.meta_share:
            raise RecipeError(
                f"The recipe's meta_share is 0; the weighting {self.weighting!r} needs it above 0."
            )
        if self.behaviour == "published" and self.weighting != "published":
            raise RecipeError(f"{weighed}; its behaviour is 'published', which needs 'published'.")
        known = {HFLKD, *TERMS}
        for entry, name in (("method", self.method), *(("terms", name) for name in self.terms)):
            if name not in known or (entry == "terms" and name == HFLKD):
                hint = nearest(name, sorted(known))
                raise RecipeError(f"The recipe's {entry} is {name!r}; {hint}.")
        if not any(self.weights.values()):
            raise RecipeError("The weights of all terms in the recipe are 0; one must be above 0.")
        if self.level == "kept" and not self.view.startswith("log-"):
            raise RecipeError(
                f"The recipe's level is 'kept', but its view {self.view!r} scales each recording; "
                "choose the view log-spectrum or log-mel."
            )
        if self.bins_by == "cutting" and self.view.startswith("log-"):
            said = f"The recipe's bins_by is 'cutting', but its view {self.view!r} averages"
            raise RecipeError(f"{said}; leave bins_by out, or choose the view spectrum.")
        for role, network in self.chain.items():
            least = network.epochs or LEAST_EPOCHS
            if self.schedule == "drops" and any(drop >= least for drop in self.drops):
                raise RecipeError(
                    f"The recipe's drops are {self.drops}, epochs before the end; the {role} "
                    f"trains for {least}, so each drop must be smaller than that."
                )

    @property
    def chain(self) -> dict[str, Network]:
        """By role: teacher, secondary_teacher (or secondary_teacher_1, …), student, as trained."""
        one = len(self.secondary_teachers) == 1
        named = enumerate(self.secondary_teachers, 1)
        between = {"secondary_teacher" + f"_{i}" * (not one): network for i, network in named}
        return {"teacher": self.teacher, **between, "student": self.student}

    def batch(self, count: int) -> int:
        """Recordings a step, of ``count`` in the training part."""
        return self.batch_size or min(32, max(8, count // 10))

    def epochs(self, role: str, count: int) -> int:
        """Passes of a role's network over a training part of ``count`` recordings."""
        given, each = network_of(self, role).epochs, max(1, count // self.batch(count))
        return given or max(LEAST_EPOCHS, -(-self.steps // each))

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the method's terms, by the term's name."""
        hflkd = {"feature": self.alpha, "tckd": self.mu, "nckd": self.nu}
        own = hflkd if self.method == HFLKD else {self.method: 1.0}
        return own | {CROSS_ENTROPY: self.beta} | self.terms


def network_of(recipe: Recipe, role: str) -> Network:
    """The network of a role of the chain or of its controls, or an HfldError that lists them."""
    known = recipe.chain | dict.fromkeys((ALONE, DIRECT, DENSE), recipe.student)
    return look_up(known, role, "Role", HfldError)
