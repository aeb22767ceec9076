"""The rival methods' losses, as pure functions of tensors, for a comparison at equal budget.

Each is registered as a term below, so that ``Recipe(method="kd")`` and ``hfld train --method kd``
know it: one function and one decorator.

What they share is said once, here. Logits are ``(batch, classes)``; features are ``(batch,
channels, positions)`` or ``(batch, channels, height, width)``; T > 0. ``reduction`` is ``"mean"``
over the batch, ``"sum"``, or ``"none"`` for values per sample. Everything is computed in float32
or better whatever the inputs' precision, divided by the batch once, and no gradient flows into the
teacher. What does not fit raises an ArgumentError. The cross-entropy is the caller's to add.
"""

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hfld_lite.distillation import rival
from hfld_lite.errors import ArgumentError
from hfld_lite.losses import at_least_float32, reduced, separated_logit_loss
from hfld_lite.networks import Output

_warned: set[str] = set()
_POOL = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d}


def kd_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, reduction: str = "mean"
) -> Tensor:
    """Plain distillation, ``T² · KL(p_t ‖ p_s)`` with p = softmax(z / T).

    T² keeps the size of the gradient as T grows. Source: Hinton et al., "Distilling the knowledge
    in a neural network", 2015.
    """
    if student_logits.ndim != 2 or student_logits.shape != teacher_logits.shape:
        raise ArgumentError(
            "Student and teacher logits must both be (batch, classes); found "
            f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}."
        )
    if not temperature > 0:
        raise ArgumentError(f"temperature is {temperature!r}; it must be above 0.")
    student, teacher = (
        F.log_softmax(at_least_float32(z) / temperature, 1)
        for z in (student_logits, teacher_logits.detach())
    )
    # kl_div(input, target) is KL(target ‖ input): student first, teacher second.
    kd = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
    return reduced(kd * temperature**2, reduction)


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    temperature: float,
    alpha: float = 1.0,
    beta: float = 8.0,
    reduction: str = "mean",
) -> Tensor:
    """Decoupled KD with fixed weights, ``α · TCKD + β · NCKD``.

    The terms, errors and the warning at two classes are :func:`losses.separated_logit_loss`'s.
    Source: Zhao et al., "Decoupled knowledge distillation", 2022.
    """
    logits = student_logits, teacher_logits
    tckd, nckd = separated_logit_loss(*logits, target, temperature, reduction)
    return alpha * tckd + beta * nckd


def densely_guided_kd_loss(
    student_logits: Tensor,
    teacher_logits: Sequence[Tensor],
    temperature: float,
    reduction: str = "mean",
) -> Tensor:
    """KD from all n larger networks of the chain at once, ``mean_k KD(teacher k → student)``.

    The paper takes the sum, with n(1 − λ) · CE; divided by n that is (1 − λ) · CE + λ · this mean,
    so that a weight found for plain KD keeps its meaning. Source: Son et al., "Densely guided
    knowledge distillation using multiple teacher assistants", 2021.

    Args:
        student_logits: the student's.
        teacher_logits: one such tensor for each larger network.
        temperature: T.
        reduction: over the batch.
    """
    if not len(teacher_logits):
        raise ArgumentError("teacher_logits is empty; it must hold one tensor for each teacher.")
    terms = [kd_loss(student_logits, z, temperature, reduction) for z in teacher_logits]
    return torch.stack(terms).mean(0)


def standardise_logits(logits: Tensor) -> Tensor:
    """Z-scores of each sample's logits over the classes, ``(z − mean z) / deviation z``.

    The deviation divides by the number of classes K, so that z-scores have mean square 1; the
    authors' code divides by K − 1, which is a temperature √(K / (K − 1)) times as high. Logits
    that are all equal have no shape: they give zeros, and no gradient.
    """
    if logits.ndim != 2:
        raise ArgumentError(f"Logits must be (batch, classes); found {tuple(logits.shape)}.")
    z = at_least_float32(logits)
    z = z - z.amax(1, keepdim=True).detach()  # equal logits become exact zeros, at any height
    z = z - z.mean(1, keepdim=True)
    variance = z.square().mean(1, keepdim=True)
    flat = variance < 1e-14
    return (z * variance.masked_fill(flat, 1.0).rsqrt()).masked_fill(flat, 0.0)


def standardised_kd_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, reduction: str = "mean"
) -> Tensor:
    """:func:`kd_loss` of z-scored logits: the student matches the *shape* of the teacher's.

    Shifting a sample's logits, or scaling them up or down, leaves the loss unchanged, so a small
    student need not reach the teacher's confidence. At two classes z-scores are (1, −1) or
    (−1, 1): there is no gradient, and a warning says so once. Source: Sun et al., "Logit
    standardization in knowledge distillation", 2024 (T = 2 is usual there).
    """
    student, teacher = standardise_logits(student_logits), standardise_logits(teacher_logits)
    if student.shape[1] == 2 and "two classes" not in _warned:
        _warned.add("two classes")
        warnings.warn(
            "With two classes standardised logits only say which is larger: the loss has no "
            "gradient and teaches nothing. Use it from three classes on.",
            stacklevel=2,
        )
    return kd_loss(student, teacher, temperature, reduction)


def fitnet_loss(
    student_features: Tensor, teacher_features: Tensor, reduction: str = "mean"
) -> Tensor:
    """Match position i with position i, ``mean((F_s − F_t)²)`` over channels and positions.

    The student is projected to the teacher's channels before. Where positions differ, the longer
    axis is pooled to the shorter one (adaptive average), so that equal fractions of the axis meet.
    Source: Romero et al., "FitNets: hints for thin deep nets", 2015.
    """
    _check_maps(student_features, teacher_features)
    if student_features.shape[1] != teacher_features.shape[1]:
        raise ArgumentError(
            f"The student has {student_features.shape[1]} channels and the teacher "
            f"{teacher_features.shape[1]}; project the student to the teacher's channels first."
        )
    student, teacher = _same_positions(student_features, teacher_features)
    return reduced((student - teacher).square().flatten(1).mean(1), reduction)


def attention_transfer_loss(
    student_features: Tensor, teacher_features: Tensor, power: float = 2, reduction: str = "mean"
) -> Tensor:
    """Match *where* the networks respond, ``L = ‖A_s / ‖A_s‖ − A_t / ‖A_t‖‖²``, from 0 to 2.

    A is one map of positions for each sample, the mean over channels of |F|^p with p = ``power``
    ≥ 1; channels may differ. L sums over positions (the authors' code takes the mean, N times
    less). Where positions differ, the longer axis of the maps is pooled to the shorter one. A
    single position is an error: normalised maps are 1 there. Source: Zagoruyko and Komodakis,
    "Paying more attention to attention", 2017.
    """
    _check_maps(student_features, teacher_features)
    if not power >= 1:
        raise ArgumentError(f"power is {power!r}; it must be 1 or more.")
    features = (at_least_float32(x) for x in (student_features, teacher_features))
    maps = _same_positions(*(x.abs().pow(power).mean(1, keepdim=True) for x in features))
    student, teacher = (F.normalize(x.flatten(1), dim=1) for x in maps)
    if student.shape[1] < 2:
        raise ArgumentError(
            "Attention transfer needs two positions or more; found features of "
            f"{tuple(student_features.shape)} and {tuple(teacher_features.shape)}. Take them "
            "before they are pooled."
        )
    return reduced((student - teacher).square().sum(1), reduction)


@rival("kd")
def _kd(student: Output, teacher: Output, target: Tensor, temperature: float = 4.0) -> Tensor:
    return kd_loss(student.logits, teacher.logits, temperature)


@rival("fitnet", projected=True)
def _fitnet(student: Output, teacher: Output, target: Tensor) -> Tensor:
    return fitnet_loss(student.features, teacher.features)


@rival("attention")
def _attention(student: Output, teacher: Output, target: Tensor) -> Tensor:
    return attention_transfer_loss(student.features, teacher.features)


@rival("dkd")
def _dkd(
    student: Output, teacher: Output, target: Tensor, temperature: float = 4.0, beta: float = 8.0
) -> Tensor:
    return dkd_loss(student.logits, teacher.logits, target, temperature, beta=beta)


@rival("standardised")
def _standardised(
    student: Output, teacher: Output, target: Tensor, temperature: float = 2.0
) -> Tensor:
    return standardised_kd_loss(student.logits, teacher.logits, temperature)


def _check_maps(student: Tensor, teacher: Tensor) -> None:
    if student.ndim not in (3, 4) or student.ndim != teacher.ndim or len(student) != len(teacher):
        raise ArgumentError(
            "Features of one batch must both be (batch, channels, positions) or both (batch, "
            f"channels, height, width); found {tuple(student.shape)} and {tuple(teacher.shape)}."
        )


def _same_positions(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32 or better, the teacher detached, each axis as long as the shorter one."""
    student, teacher = at_least_float32(student), at_least_float32(teacher.detach())
    if student.shape[2:] != teacher.shape[2:]:
        size = [min(pair) for pair in zip(student.shape[2:], teacher.shape[2:], strict=True)]
        student, teacher = (_POOL[len(size)](x, size) for x in (student, teacher))
    return student, teacher
