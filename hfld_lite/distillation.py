"""What is minimised: learning from labels, and learning from a frozen teacher as well.

A term of the loss is a registered function of what student and teacher say. HFLKD's terms are
registered here; a rival method, or a term of your own, is one more function with :func:`term`.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from hfld_lite.data.recordings import UNLABELLED
from hfld_lite.errors import ArgumentError, called, collapse, look_up, registering
from hfld_lite.losses import check_heads, one_to_all_matching, separated_logit_loss
from hfld_lite.networks import Output, conv_bn
from hfld_lite.teachers import Batch, LiveTeacher, TeacherTargets
from hfld_lite.weighting import Fixed, Weighting

CROSS_ENTROPY = "cross_entropy"
"""The term of the labels, which every objective has."""
RESERVED = ("hflkd", "epoch", "total", "learning_rate", "seconds", "verdict", "role")
RESERVED += ("validation_accuracy", "validation_loss")


@dataclass(frozen=True)
class Term:
    """A registered function that gives one term of the loss, or several, by name."""

    names: tuple[str, ...]
    loss: Callable[..., Tensor | tuple[Tensor, ...]]
    projected: bool
    options: frozenset[str]


TERMS: dict[str, Term] = {}
"""The terms that a recipe, the command line, the study and the plots know, by name."""


def term(*names: str, projected: bool = False) -> Callable:
    """Register ``loss(student: Output, teacher: Output, target, **options)`` as a term.

    It returns a scalar, or as many as there are names. Its further parameters are options with
    defaults; ``temperature`` and ``heads`` are the recipe's. The teacher's features come
    standardised per channel, and if ``projected``, the student's projected to the same channels.

    Raises:
        ArgumentError: if a name is registered already, or no name is given.
    """

    def register(loss: Callable) -> Callable:
        options = frozenset(list(inspect.signature(loss).parameters)[3:])
        for name in names:
            registering(TERMS, "term")(name)(Term(names, loss, projected, options))
        return loss

    taken = {*RESERVED, CROSS_ENTROPY, ""}  # other columns of a history
    if not names or not all(isinstance(n, str) and n not in taken for n in names):
        raise ArgumentError(f'term needs a name of your own, @term("my_loss"); found {names}.')
    return register


rival = term
"""A rival method's loss is a term; with cross-entropy it is the whole loss."""


@term("feature", projected=True)
def _feature(student: Output, teacher: Output, target: Tensor, heads: int = 8) -> Tensor:
    return one_to_all_matching(student.features, teacher.features, heads)


@term("tckd", "nckd")
def _separated_logits(
    student: Output, teacher: Output, target: Tensor, temperature: float = 5.0
) -> tuple[Tensor, Tensor]:
    return separated_logit_loss(student.logits, teacher.logits, target, temperature)


class Objective(nn.Module):
    """What is minimised to train ``student``, one class for each method.

    ``objective(batch)`` gives the scalar to minimise and the unweighted terms of the loss by name;
    ``monitor()`` other figures to keep, averaged over an epoch; ``verdict(row)`` a sentence where
    an epoch's figures show that something is wrong. What is trained is a registered submodule.
    ``answers_from`` are the targets or live teachers that the student learns from. With
    ``unlabelled``, batches hold rows without a label as well, whose target is UNLABELLED.
    """

    unlabelled = False
    answers_from: Sequence[TeacherTargets | LiveTeacher] = ()

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def monitor(self) -> dict[str, Tensor]:
        """Further figures by name; none here."""
        return {}

    def verdict(self, row: Mapping[str, float]) -> str:
        """What is wrong, in a sentence; nothing here."""
        return ""

    def check(self, count: int, augmented: bool) -> None:
        """Raise an ArgumentError if cached answers are to unaugmented, or not ``count``, inputs."""
        cached = [t for t in self.answers_from if isinstance(t, TeacherTargets)]
        if cached and augmented:
            raise ArgumentError(
                "A teacher's cached answers are to the inputs as they were, and these are "
                "augmented; give the objective a LiveTeacher instead."
            )
        for targets in cached:
            if len(targets.logits) != count:
                raise ArgumentError(
                    f"The teacher's cached answers are to {len(targets.logits)} inputs and the "
                    f"training set has {count}; compute them again with teacher_targets."
                )


class Supervised(Objective):
    """Learn from labels alone: the cross-entropy of ``student``."""

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The cross-entropy, a scalar, which is also the only term."""
        loss = cross_entropy(self.student(batch.inputs).logits, batch.target)
        return loss, {CROSS_ENTROPY: loss}


class Distiller(Objective):
    """Learn from labels and from a teacher by registered terms: HFLKD's, a rival's, your own.

    Where a term wants it, the student's features are projected to the teacher's channels (1x1
    convolution, batch norm); the teacher's are never touched, or the target would drift toward the
    student. A row without a label has no cross-entropy; other terms take the class that the teacher
    finds likeliest as its target.

    Args:
        student: the network to train.
        targets: of the training set that the batches' ``rows`` refer to. Kept outside the
            module's state: they are data, not parameters.
        weighting: weights by the terms' names, or a strategy that sets them.
        temperature: T of the logit terms.
        heads: h of one-to-all matching.
        channels: C of the student's features, by default its ``feature_channels``.
        options: others, for the terms that take them.

    Raises:
        ArgumentError: if a term or an option is unknown, the heads do not divide the teacher's
            channels, or the teacher has other classes than the student.
    """

    unlabelled = True

    def __init__(
        self,
        student: nn.Module,
        targets: TeacherTargets | LiveTeacher,
        weighting: Mapping[str, float] | Weighting,
        temperature: float = 5.0,
        heads: int = 8,
        *,
        channels: int | None = None,
        **options: object,
    ) -> None:
        super().__init__(student)
        check_classes(student, targets)
        weigh = weighting if isinstance(weighting, Weighting) else Fixed(weighting)
        names = [name for name in weigh.terms if name != CROSS_ENTROPY]
        used = dict.fromkeys(look_up(TERMS, name, "The term") for name in names)
        if unknown := set(options) - set().union(*(t.options for t in used)):
            raise ArgumentError(f"No term here takes the option {min(unknown)!r}.")
        given = {"temperature": temperature, "heads": heads, **options}
        self.terms = [(t, {k: v for k, v in given.items() if k in t.options}) for t in used]
        if any("heads" in known for _, known in self.terms):
            check_heads(heads, targets.channels, "teacher")
        self.project = None
        if any(t.projected for t in used):
            self.project = conv_bn(channels or student.feature_channels, targets.channels, 1)
        self.weigh, self.targets, self.answers_from = weigh, targets, (targets,)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and the unweighted terms by name, scalars."""
        output, teacher = self.student(batch.inputs), self.targets.answers(batch)
        target = filled(batch.target, teacher.logits)
        projected = output
        if self.project is not None:
            features = self.project(output.features.flatten(2))
            projected = Output(features.unflatten(2, output.features.shape[2:]), output.logits)
        terms: dict[str, Tensor] = {}
        for made, options in self.terms:
            read = projected if made.projected else output
            terms |= called(made.loss, made.names, read, teacher, target, **options)
        terms[CROSS_ENTROPY] = cross_entropy(output.logits, batch.target)
        weighed = {name: terms[name] for name in self.weigh.terms}
        # Weighed here: "meta" takes gradients of the terms, which Fabric allows only before its
        # wrapper has returned them.
        return self.weigh(weighed, output.features, output.logits, batch.inputs), terms

    def monitor(self) -> dict[str, Tensor]:
        """The weights of the last step: ``weight_feature`` and so on."""
        return {f"weight_{name}": value for name, value in self.weigh.weights.items()}

    def verdict(self, row: Mapping[str, float]) -> str:
        """Name terms that taught nothing, and a collapse of weights that are learned."""
        weights = {name: row[f"weight_{name}"] for name in self.weigh.terms}
        if not isinstance(self.weigh, Fixed):  # given weights may be as one-sided as wished
            return collapse(weights, sigmoid=self.weigh.sigmoid)
        idle = [name for name, w in weights.items() if w and row.get(name, 1.0) == 0]
        if self.targets.classes == 2:  # NCKD is zero then by definition
            idle = [name for name in idle if name != "nckd"]
        said = "was zero although it has a weight: it taught nothing."
        return f"The term {idle[0]} {said}" if idle else ""


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy, a mean over the rows that have a label."""
    return F.cross_entropy(logits.float(), target, ignore_index=UNLABELLED)


def filled(target: Tensor, logits: Tensor) -> Tensor:
    """The target, and where it is missing the likeliest class by these logits."""
    return target.where(target != UNLABELLED, logits.argmax(1))


def check_classes(student: nn.Module, teacher: TeacherTargets | LiveTeacher | nn.Module) -> None:
    """Refuse a teacher of other classes, where both say how many they have."""
    own = getattr(student, "num_classes", None)
    classes = getattr(teacher, "classes", getattr(teacher, "num_classes", own))
    if own is not None and classes != own:
        raise ArgumentError(
            f"The teacher knows {classes} classes and the student {own}; both must be made for "
            "the same classes."
        )
