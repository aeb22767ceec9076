"""What is minimised: learning from labels, and learning from a frozen teacher as well."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hfld_lite.errors import ArgumentError
from hfld_lite.losses import one_to_all_matching, separated_logit_loss
from hfld_lite.rivals.losses import (
    attention_transfer_loss,
    densely_guided_kd_loss,
    dkd_loss,
    fitnet_loss,
    kd_loss,
    standardised_kd_loss,
)
from hfld_lite.rivals.released import (
    published_embedding,
    published_matching,
    published_separated_logit_loss,
)
from hfld_lite.teachers import Batch, LiveTeacher, TeacherTargets, teacher_targets
from hfld_lite.weighting import TERMS, Fixed, Weighting, collapse

__all__ = ["Batch", "DenselyGuided", "Distiller", "Objective", "Supervised", "TeacherTargets"]
__all__ += ["RIVALS", "RivalDistiller", "teacher_targets"]


class Objective(nn.Module):
    """What is minimised to train ``student``, one class for each method.

    ``objective(batch)`` gives the unweighted terms of the loss by name, as scalars;
    ``objective.total(terms)`` the scalar to minimise; ``objective.monitor()`` other figures to
    keep, averaged over an epoch; ``objective.verdict(row)`` a sentence where an epoch's figures
    show that something is wrong, else "".
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The sum of the terms, unless the method weighs them."""
        return torch.stack(list(terms.values())).sum()

    def monitor(self) -> dict[str, Tensor]:
        """Nothing more than the terms, unless the method has it."""
        return {}

    def verdict(self, row: Mapping[str, float]) -> str:
        """No verdict, unless the method has one."""
        return ""

    def check(self, count: int, augmented: bool) -> None:
        """Refuse a training set of ``count`` rows, augmented or not, that this cannot learn from.

        Raises:
            ArgumentError: if a teacher's cached answers are of another number of rows, or the
                inputs are augmented, of which a cache knows nothing.
        """
        for targets in self.answers_from():
            if not isinstance(targets, TeacherTargets):
                continue
            if augmented:
                raise ArgumentError(
                    "A teacher's cached answers are to the inputs as they were, and these are "
                    "augmented; give the objective a LiveTeacher instead."
                )
            if len(targets.logits) != count:
                raise ArgumentError(
                    f"The teacher's cached answers are to {len(targets.logits)} inputs and the "
                    f"training set has {count}; make them anew with teacher_targets."
                )

    def answers_from(self) -> Sequence[TeacherTargets | LiveTeacher]:
        """What answers for the teachers, none unless the method has them."""
        return ()

    @property
    def outside(self) -> Sequence[nn.Module]:
        """Modules that change while this is trained without being part of it: none, if sound."""
        return ()


class Supervised(Objective):
    """Learn from labels alone: the cross-entropy of ``student``."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The one term, ``cross_entropy``."""
        logits = self.student(batch.inputs).logits
        return {"cross_entropy": F.cross_entropy(logits.float(), batch.target)}


class Weighed(Objective):
    """An objective whose forward leaves the weighted sum in ``_total``, made by ``weigh``.

    Weighed there and not in total(): "meta" takes gradients of the terms, which Fabric allows only
    before its wrapper has returned them.
    """

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of the last terms; with some strategies it trains the PVPN too."""
        return self._total

    def monitor(self) -> dict[str, Tensor]:
        """The weights of the last step: ``weight_feature`` and so on."""
        return {f"weight_{name}": value for name, value in self.weigh.weights.items()}


class Distiller(Weighed):
    """Learn from labels and from a teacher's features and logits (HFLKD, one step of the chain).

    The student's features are projected to the teacher's channels (1x1 convolution, batch norm);
    the teacher's are never touched, or the target would drift toward the student.

    Args:
        student: the network to train; it has ``feature_channels`` and ``num_classes``.
        targets: of the training set that the batches' ``rows`` refer to. Kept outside the
            module's state: they are data, not parameters.
        weighting: α, μ, ν, β by the names in ``weighting.TERMS``, or a strategy that sets them.
        temperature: T of the logit terms.
        heads: h of one-to-all matching.
        match: another loss of projected student and teacher features than one-to-all matching
            with these heads, for ablations.

    Raises:
        ArgumentError: if the teacher has other classes than the student, the heads do not divide
            its channels, or the weights name other terms.
    """

    def __init__(
        self,
        student: nn.Module,
        targets: TeacherTargets | LiveTeacher,
        weighting: Mapping[str, float] | Weighting,
        temperature: float = 5.0,
        heads: int = 8,
        match: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(student)
        channels = targets.channels
        _check_classes(student, targets)
        if channels % heads:
            raise ArgumentError(
                f"heads is {heads}, which does not divide the teacher's {channels} channels; "
                "choose a divisor."
            )
        if isinstance(weighting, Mapping):
            if set(weighting) != set(TERMS):
                raise ArgumentError(
                    f"weighting names {sorted(weighting)}; it must name {sorted(TERMS)}."
                )
            weighting = Fixed(weighting)
        self.project = _projector(student, channels)
        self.weigh = weighting
        self.targets, self.temperature = targets, temperature
        self.match = match or partial(one_to_all_matching, heads=heads)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The unweighted terms by the names in ``weighting.TERMS``, scalars."""
        output = self.student(batch.inputs)
        features, logits = self.targets.answers(batch)
        tckd, nckd = separated_logit_loss(output.logits, logits, batch.target, self.temperature)
        projected = self.project(output.features.flatten(2))
        terms = {
            "feature": self.match(projected, features),
            "tckd": tckd,
            "nckd": nckd,
            "cross_entropy": F.cross_entropy(output.logits.float(), batch.target),
        }
        self.weigh.observe(batch.inputs, *output)
        self._total = self.weigh(terms, output.features)
        return terms

    def answers_from(self) -> Sequence[TeacherTargets | LiveTeacher]:
        """The one teacher's."""
        return (self.targets,)

    def verdict(self, row: Mapping[str, float]) -> str:
        """Name a collapse of weights that are learned; given ones may be as one-sided as wished."""
        if isinstance(self.weigh, Fixed):
            return ""
        weights = {name: row[f"weight_{name}"] for name in TERMS}
        return collapse(weights, sigmoid=self.weigh.sigmoid)


class PublishedDistiller(Weighed):
    """Learn from a teacher as the released code does, mistakes included; never a default.

    The teacher runs live, in training mode and with gradients: its dropout makes targets noisy,
    its batch norm drifts and its gradients are thrown away. Its features are embedded by weights
    that stay random. Teacher and embedding are no submodules, so no optimiser holds them.
    Source: the released code, row by row in section 4 of method.md.

    Args:
        student, temperature, heads: as :class:`Distiller` has them; heads divide the student's
            channels.
        teacher: a network of the same classes on the same device; this changes its buffers.
        weighting: the released one is ``weighting.Published`` with ``detach_input=False``.

    Raises:
        ArgumentError: if the networks have different classes.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        weighting: Weighting,
        temperature: float = 5.0,
        heads: int = 8,
    ) -> None:
        super().__init__(student)
        if teacher.num_classes != student.num_classes:
            raise ArgumentError(
                f"The teacher knows {teacher.num_classes} classes and the student "
                f"{student.num_classes}; both must be made for the same classes."
            )
        embedding = published_embedding(teacher.feature_channels, student.feature_channels)
        self._outside = (teacher, embedding.to(next(student.parameters()).device))
        self.weigh, self.temperature, self.heads = weighting, temperature, heads

    @property
    def outside(self) -> Sequence[nn.Module]:
        """The teacher, whose batch norm drifts, and the embedding."""
        return self._outside

    def train(self, mode: bool = True) -> "PublishedDistiller":
        """Set the mode; teacher and embedding are in training mode always, as published."""
        for module in self._outside:
            module.train()
        return super().train(mode)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The unweighted terms by the names in ``weighting.TERMS``, scalars."""
        teacher, embedding = self._outside
        said, output = teacher(batch.inputs), self.student(batch.inputs)
        tckd, nckd = (
            published_separated_logit_loss(
                output.logits, said.logits, batch.target, self.temperature, *weights
            )
            for weights in ((1.0, 0.0), (0.0, 1.0))
        )
        terms = {
            "feature": published_matching(output.features, said.features, embedding, self.heads),
            "tckd": tckd,
            "nckd": nckd,
            "cross_entropy": F.cross_entropy(output.logits.float(), batch.target),
        }
        self._total = self.weigh(terms, output.features)
        return terms


class RivalDistiller(Objective):
    """Learn from labels and from a teacher by a rival's term: cross-entropy + weight · term.

    Args:
        student: the network to train.
        targets: of the training set.
        method: a name in RIVALS. "fitnet" has the projector that :class:`Distiller` has.
        weight: of the rival's term.
        temperature: T of the logit terms; no matter to "fitnet" and "attention".
        beta: weight of NCKD within "dkd", where TCKD's is 1.

    Raises:
        ArgumentError: if the method is unknown, or the teacher has other classes.
    """

    def __init__(
        self,
        student: nn.Module,
        targets: TeacherTargets | LiveTeacher,
        method: str,
        weight: float = 1.0,
        temperature: float = 4.0,
        beta: float = 8.0,
    ) -> None:
        super().__init__(student)
        if method not in RIVALS:
            raise ArgumentError(f"method is {method!r}; choose one of {', '.join(RIVALS)}.")
        _check_classes(student, targets)
        fitnet = method == "fitnet"
        self.project = _projector(student, targets.channels) if fitnet else nn.Identity()
        self.targets, self.method, self.weight = targets, method, weight
        self.temperature, self.beta = temperature, beta

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The rival's term by the method's name, unweighted, and ``cross_entropy``."""
        output = self.student(batch.inputs)
        features, logits = self.targets.answers(batch)
        if self.method in ("fitnet", "attention"):
            mine = self.project(output.features.flatten(2))
            term = RIVALS[self.method](mine, features)
        elif self.method == "dkd":
            answers = output.logits, logits, batch.target
            term = dkd_loss(*answers, self.temperature, beta=self.beta)
        else:
            term = RIVALS[self.method](output.logits, logits, self.temperature)
        cross_entropy = F.cross_entropy(output.logits.float(), batch.target)
        return {self.method: term, "cross_entropy": cross_entropy}

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Cross-entropy + weight · term."""
        return terms["cross_entropy"] + self.weight * terms[self.method]

    def answers_from(self) -> Sequence[TeacherTargets | LiveTeacher]:
        """The one teacher's."""
        return (self.targets,)


RIVALS = {
    "kd": kd_loss,
    "fitnet": fitnet_loss,
    "attention": attention_transfer_loss,
    "dkd": dkd_loss,
    "standardised": standardised_kd_loss,
}
"""The rivals of `rivals` that learn from one teacher; dense guidance has a class of its own."""


class DenselyGuided(Objective):
    """Learn from labels and from the logits of all larger networks of the chain at once.

    Args:
        student: the network to train.
        targets: of each larger network, live ones on the student's device.
        temperature: T.
        weight: of the guidance.

    Raises:
        ArgumentError: if there is no target, or one has other classes than the student.
    """

    def __init__(
        self,
        student: nn.Module,
        targets: Sequence[TeacherTargets | LiveTeacher],
        temperature: float = 5.0,
        weight: float = 1.0,
    ) -> None:
        super().__init__(student)
        if not targets:
            raise ArgumentError("Dense guidance needs one larger network at least.")
        for target in targets:
            _check_classes(student, target)
        self.targets, self.temperature, self.weight = tuple(targets), temperature, weight

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The terms ``dense`` and ``cross_entropy``."""
        logits = self.student(batch.inputs).logits
        teachers = [target.answers(batch)[1] for target in self.targets]
        return {
            "dense": densely_guided_kd_loss(logits, teachers, self.temperature),
            "cross_entropy": F.cross_entropy(logits.float(), batch.target),
        }

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Cross-entropy + weight · guidance."""
        return terms["cross_entropy"] + self.weight * terms["dense"]

    def answers_from(self) -> Sequence[TeacherTargets | LiveTeacher]:
        """The larger networks'."""
        return self.targets


def _projector(student: nn.Module, channels: int) -> nn.Sequential:
    """From the student's channels to the teacher's: 1x1 convolution and batch norm."""
    return nn.Sequential(
        nn.Conv1d(student.feature_channels, channels, 1, bias=False), nn.BatchNorm1d(channels)
    )


def _check_classes(student: nn.Module, targets: TeacherTargets | LiveTeacher) -> None:
    classes = targets.classes
    if classes != student.num_classes:
        raise ArgumentError(
            f"The teacher knows {classes} classes and the student {student.num_classes}; both "
            "must be made for the same classes."
        )
