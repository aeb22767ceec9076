"""The distillation losses, as pure functions of tensors.

Symbols and sources as in the paper that the package teaches (HFLKD); separated logits after Zhao
et al., "Decoupled knowledge distillation", 2022. Every loss is computed in float32 or better,
whatever the inputs' precision, and divided by the batch once.
"""

import math
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from hfld_lite.errors import ArgumentError

FEW_POSITIONS = 64
"""Of the student, up to which M is computed as written; beyond, by torch's fused attention."""

_warned: set[str] = set()


def separated_logit_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    temperature: float,
    reduction: str = "mean",
) -> tuple[Tensor, Tensor]:
    """Relevant (TCKD) and irrelevant (NCKD) knowledge in the teacher's logits.

    With p = softmax(z / T) and target class y, for teacher t and student s::

        TCKD = T² · KL((p_t,y, 1 − p_t,y) ‖ (p_s,y, 1 − p_s,y))
        NCKD = T² · Σ_{i≠y} q_t,i log(q_t,i / q_s,i),    q_i = p_i / (1 − p_y)

    so that per sample KD = TCKD + (1 − p_t,y) · NCKD. Probabilities never leave the log domain.
    With two classes there is one class besides y: NCKD is exactly zero, as is its gradient, and
    TCKD is plain KD.

    Args:
        student_logits: ``(batch, classes)``.
        teacher_logits: the same shape; no gradient flows into it.
        target: int64 ``(batch,)``, the true class of each sample.
        temperature: T > 0.
        reduction: ``"mean"`` over the batch, ``"sum"``, or ``"none"`` for values per sample.

    Returns:
        (TCKD, NCKD), each a scalar, or ``(batch,)`` with ``reduction="none"``.

    Raises:
        ArgumentError: if shapes, target, temperature or reduction are not as above.
    """
    check_logits(student_logits, teacher_logits, target, temperature)
    classes = student_logits.shape[1]
    if classes == 2 and "two classes" not in _warned:
        _warned.add("two classes")
        warnings.warn(
            "With two classes NCKD is zero by definition: one class is left besides the target, "
            "with q = 1 for teacher and student alike. TCKD is then plain KD.",
            stacklevel=2,
        )
    y = target.unsqueeze(1)
    others = torch.arange(classes - 1, device=target.device)
    others = others + (others >= y)  # the classes without y, for each sample
    two_way, rest = [], []
    for logits in (student_logits, teacher_logits.detach()):
        scaled = at_least_float32(logits) / temperature
        beside = scaled.gather(1, others)
        # (z_y, logsumexp of the rest) are the logits of the two-way split.
        split = torch.stack([scaled.gather(1, y).squeeze(1), beside.logsumexp(1)], 1)
        two_way.append(F.log_softmax(split, 1))
        rest.append(F.log_softmax(beside, 1))
    # kl_div(input, target) is KL(target ‖ input): student first, teacher second.
    tckd = F.kl_div(*two_way, reduction="none", log_target=True).sum(1) * temperature**2
    nckd = F.kl_div(*rest, reduction="none", log_target=True).sum(1) * temperature**2
    return reduced(tckd, reduction), reduced(nckd, reduction)


def one_to_all_matching(
    student_features: Tensor,
    teacher_features: Tensor,
    heads: int = 8,
    scale: bool = True,
    return_similarity: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Match every teacher position with a mixture of *all* student positions.

    With h heads of d = C/h channels, queries Q from the teacher and keys K = values V from the
    student::

        M = softmax(Q Kᵀ / √d)  over student positions,  (batch, h, N_t, N_s)
        L = mean((M V − F_t)²)

    Permuting the student's positions leaves L unchanged: position i of the student need not mean
    the same as position i of the teacher. Nothing is learned here; a projection of the student to
    the teacher's channels comes before.

    Args:
        student_features: ``(batch, C, N_s)``, or ``(batch, C, height, width)``, already projected
            to the teacher's channels.
        teacher_features: ``(batch, C, N_t)``, or with height and width; no gradient flows into it.
        heads: h, a divisor of C.
        scale: divide by √d; without it, as published, attention saturates.
        return_similarity: return M too. Costs memory where positions are many; without it torch's
            fused attention is used then.

    Returns:
        The loss, a scalar, or (loss, M).

    Raises:
        ArgumentError: if channels or batches differ, or the heads do not divide the channels.
    """
    _check_features(student_features, teacher_features)
    check_heads(heads, student_features.shape[1])
    student = at_least_float32(student_features).flatten(2)
    teacher = at_least_float32(teacher_features.detach()).flatten(2)

    queries, keys = (x.unflatten(1, (heads, -1)) for x in (teacher, student))  # (B, h, d, N)
    factor = 1 / math.sqrt(queries.shape[2]) if scale else 1.0
    with torch.autocast(student.device.type, enabled=False):  # it would attend in bf16
        if keys.shape[3] > FEW_POSITIONS and not return_similarity:
            rows = [x.transpose(2, 3) for x in (queries, keys)]
            matched = F.scaled_dot_product_attention(*rows, rows[1], scale=factor)
            return F.mse_loss(matched, rows[0])
        # Mᵀ, (B, h, N_s, N_t): over a last axis of few positions, softmax takes four times as long.
        weights = torch.softmax(keys.transpose(2, 3) @ (queries * factor), dim=2)
        loss = F.mse_loss(keys @ weights, queries)
    return (loss, weights.transpose(2, 3)) if return_similarity else loss


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision becomes float32, float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def reduced(values: Tensor, reduction: str) -> Tensor:
    """Values per sample, their mean or their sum."""
    if reduction not in ("mean", "sum", "none"):
        raise ArgumentError(f"reduction is {reduction!r}; choose mean, sum or none.")
    return values if reduction == "none" else getattr(values, reduction)()


def check_logits(student: Tensor, teacher: Tensor, target: Tensor, temperature: float) -> None:
    """Refuse shapes, classes or a temperature that do not fit."""
    if student.ndim != 2 or student.shape != teacher.shape or student.shape[1] < 2:
        raise ArgumentError(
            "Student and teacher logits must both be (batch, classes) with two classes or more; "
            f"found {tuple(student.shape)} and {tuple(teacher.shape)}."
        )
    batch, classes = student.shape
    if target.shape != (batch,) or target.is_floating_point():
        found = f"{target.dtype} of shape {tuple(target.shape)}"
        raise ArgumentError(f"target must hold {batch} whole numbers, one a sample; found {found}.")
    # On a GPU this check would make the step wait; there torch itself refuses.
    if target.device.type == "cpu" and len(wrong := target[(target < 0) | (target >= classes)]):
        raise ArgumentError(f"target holds {wrong[0]}; it must lie from 0 to {classes - 1}.")
    if not temperature > 0:
        raise ArgumentError(f"temperature is {temperature!r}; it must be above 0.")


def _check_features(student: Tensor, teacher: Tensor) -> None:
    if student.ndim < 3 or teacher.ndim < 3 or student.shape[:2] != teacher.shape[:2]:
        raise ArgumentError(
            "Student and teacher features must be (batch, channels, positions…) with the same "
            "batch and channels (project the student to the teacher's channels first); found "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}."
        )


def check_heads(heads: int, channels: int, whose: str = "features") -> None:
    """Refuse heads that do not divide the channels."""
    if heads < 1 or channels % heads:
        raise ArgumentError(
            f"heads is {heads}, which does not divide the {channels} channels of the {whose}; "
            "choose a divisor."
        )
