"""What is minimised: learning from labels, and learning from a frozen teacher as well."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hfld_lite.errors import ArgumentError
from hfld_lite.losses import one_to_all_matching, separated_logit_loss
from hfld_lite.weighting import TERMS, Fixed


class Batch(NamedTuple):
    """One step's data; ``rows`` says where each sample stands in the training set."""

    inputs: Tensor
    target: Tensor
    rows: Tensor


class Supervised(nn.Module):
    """Learn from labels alone: the cross-entropy of ``student``."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The unweighted terms of the loss by name, scalars."""
        logits = self.student(batch.inputs).logits
        return {"cross_entropy": F.cross_entropy(logits.float(), batch.target)}

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The loss to minimise."""
        return terms["cross_entropy"]


class TeacherTargets(NamedTuple):
    """What a frozen teacher says of every training sample, in the training set's order.

    ``features`` ``(n, C, positions)`` are standardised per channel with ``mean`` and ``deviation``
    ``(C,)`` of the training set, so that matching them has the same scale for every teacher.
    """

    features: Tensor
    logits: Tensor
    mean: Tensor
    deviation: Tensor


def teacher_targets(teacher: nn.Module, inputs: Tensor, batch_size: int = 128) -> TeacherTargets:
    """Run a frozen teacher once over unaugmented training inputs.

    A student that reads the same inputs in any order can then learn from row i of the targets
    when it reads row i of the inputs, and the teacher costs nothing more.

    Args:
        teacher: a network; left as it was found (mode, parameters, buffers).
        inputs: ``(n, length)``, the whole training set in order.
        batch_size: inputs at once.
    """
    was_training = teacher.training
    teacher.eval()
    with torch.inference_mode():
        outputs = [teacher(chunk) for chunk in inputs.split(batch_size)]
    teacher.train(was_training)
    # Concatenated outside inference mode, or autograd could not use the result.
    features = torch.cat([output.features for output in outputs]).float()
    logits = torch.cat([output.logits for output in outputs]).float()
    every = (0, *range(2, features.ndim))
    mean, deviation = features.mean(every), features.std(every).clamp_min(1e-6)
    shape = (1, -1) + (1,) * (features.ndim - 2)
    features = (features - mean.view(shape)) / deviation.view(shape)
    return TeacherTargets(features, logits, mean, deviation)


class Distiller(nn.Module):
    """Learn from labels and from a teacher's features and logits (HFLKD, one step of the chain).

    The student's features are projected to the teacher's channels (1x1 convolution, batch norm);
    the teacher's are never touched, or the target would drift toward the student.

    Args:
        student: the network to train; it has ``feature_channels`` and ``num_classes``.
        targets: of the training set that the batches' ``rows`` refer to. Kept outside the
            module's state: they are data, not parameters.
        weights: α, μ, ν, β by the names in ``weighting.TERMS``.
        temperature: T of the logit terms.
        heads: h of one-to-all matching.

    Raises:
        ArgumentError: if the teacher has other classes than the student, the heads do not divide
            its channels, or the weights name other terms.
    """

    def __init__(
        self,
        student: nn.Module,
        targets: TeacherTargets,
        weights: Mapping[str, float],
        temperature: float = 5.0,
        heads: int = 8,
    ) -> None:
        super().__init__()
        classes, channels = targets.logits.shape[1], targets.features.shape[1]
        if classes != student.num_classes:
            raise ArgumentError(
                f"The teacher knows {classes} classes and the student {student.num_classes}; both "
                "must be made for the same classes."
            )
        if channels % heads:
            raise ArgumentError(
                f"heads is {heads}, which does not divide the teacher's {channels} channels; "
                "choose a divisor."
            )
        if set(weights) != set(TERMS):
            raise ArgumentError(f"weights names {sorted(weights)}; it must name {sorted(TERMS)}.")
        self.student = student
        self.project = nn.Sequential(
            nn.Conv1d(student.feature_channels, channels, 1, bias=False), nn.BatchNorm1d(channels)
        )
        self.weigh = Fixed(weights)
        self.targets, self.temperature, self.heads = targets, temperature, heads

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The unweighted terms by the names in ``weighting.TERMS``, scalars."""
        output = self.student(batch.inputs)
        logits = self.targets.logits[batch.rows]
        tckd, nckd = separated_logit_loss(output.logits, logits, batch.target, self.temperature)
        projected = self.project(output.features)
        return {
            "feature": one_to_all_matching(
                projected, self.targets.features[batch.rows], self.heads
            ),
            "tckd": tckd,
            "nckd": nckd,
            "cross_entropy": F.cross_entropy(output.logits.float(), batch.target),
        }

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The loss to minimise, the weighted sum of the terms."""
        return self.weigh(terms)
