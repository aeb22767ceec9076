"""What the published code computes, kept for comparison and teaching; never a default.

The formulas are those of the code that the paper's authors released, so that a notebook can show
what each costs beside the sound one of ``losses.py``. They give the released code's values and
gradients on the same float32 inputs. Nothing is detached, because nothing was: gradients flow into
the teacher and into the embedding as well, where nobody used them.
"""

import copy
import warnings
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hfld_lite.data.splits import Split
from hfld_lite.distillation import Objective, check_classes
from hfld_lite.errors import ArgumentError
from hfld_lite.hierarchy import TRAINERS, Trainer
from hfld_lite.losses import at_least_float32, check_heads, check_logits
from hfld_lite.networks import conv_bn
from hfld_lite.recipes import Recipe, network_of
from hfld_lite.rivals.presets import PRESETS
from hfld_lite.rivals.strategies import Naive
from hfld_lite.teachers import Batch
from hfld_lite.weighting import PVPN, Weighting, weighting


def published_separated_logit_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    temperature: float,
    mu: float | Tensor = 1.0,
    nu: float | Tensor = 1.0,
) -> Tensor:
    """The weighted logit terms as published, μ · TCKD + ν · NCKD, in one scalar.

    With p = softmax(z / T), b = (p_y, Σ_{i≠y} p_i), e_y one at the target and zero elsewhere, and
    B samples::

        TCKD = T² / B · [Σ_batch KL(b_t ‖ b_s) / B],    log b_s taken after the softmax
        NCKD = T² / B · [Σ_batch KL(q_t ‖ q_s) / B],    q = softmax(z / T − 1000 e_y)

    What is wrong with it, and right in :func:`hfld_lite.losses.separated_logit_loss`:

    - It is divided by the batch twice: 24 times too small at B = 24, and the weight of the labels
      against the teacher depends on the batch size.
    - A probability below 3e-39 (a gap between logits of 89 T) gives a gradient of NaN, one that
      rounds to zero (104 T) an infinite loss, or NaN where the teacher agrees.
    - −1000 is a mask only while no logit leads by about 1000 T; beyond, the target is back among
      the others.

    With two classes NCKD and its gradient are zero, here as there (while the mask holds).

    Args:
        student_logits: ``(batch, classes)``.
        teacher_logits: the same shape.
        target: int64 ``(batch,)``, the true class of each sample.
        temperature: T > 0.
        mu: μ, a number or the scalar that a PVPN predicted.
        nu: ν, likewise.

    Raises:
        ArgumentError: as the sound function does.
    """
    check_logits(student_logits, teacher_logits, target, temperature)
    batch = len(target)
    own = F.one_hot(target, student_logits.shape[1]).float()
    two_way, masked = [], []
    for logits in (student_logits, teacher_logits):
        scaled = at_least_float32(logits) / temperature
        p = F.softmax(scaled, 1)
        two_way.append(torch.stack([(p * own).sum(1), (p * (1 - own)).sum(1)], 1))
        masked.append(scaled - 1000 * own)
    tckd = F.kl_div(two_way[0].log(), two_way[1], reduction="batchmean")
    nckd = F.kl_div(F.log_softmax(masked[0], 1), F.softmax(masked[1], 1), reduction="batchmean")
    return (mu * tckd + nu * nckd) * temperature**2 / batch


def published_embedding(teacher_channels: int, student_channels: int) -> nn.Sequential:
    """The projection of the *teacher's* features, as published: 1x1 convolution, batch norm.

    It was in no optimiser, so it stayed as it was drawn, and always in training mode, so the
    target depends on the batch. Were it trained, the target would drift toward the student.
    """
    return conv_bn(teacher_channels, student_channels, 1)


def published_matching(
    student_features: Tensor,
    teacher_features: Tensor,
    embedding: Callable[[Tensor], Tensor] | None,
    heads: int = 8,
    return_similarity: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Feature matching as published, with the roles of student and teacher confused.

    With E the embedding and h heads of C/h channels::

        Q = V = F_s,    K = E(F_t)
        M = softmax(Q Kᵀ)  over *teacher* positions,  (batch, h, N, N)
        L = mean((M V − E(F_t))²)

    Entry j of a row of M says how well *teacher* position j fits, but weighs *student* position j.
    So the loss depends on the student's order, and needs as many positions in both; the weights
    are not scaled by 1/√d, so they saturate; and the target is the embedded teacher. The sound
    one is :func:`hfld_lite.losses.one_to_all_matching`.

    Args:
        student_features: ``(batch, C, N)``, or ``(batch, C, height, width)``.
        teacher_features: what the embedding takes to the same number of channels and positions.
        embedding: E, such as :func:`published_embedding`, in training mode as published; None for
            none (CIFAR-100: defined, but not applied).
        heads: h, a divisor of C.
        return_similarity: return M too.

    Returns:
        The loss, a scalar, or (loss, M).

    Raises:
        ArgumentError: if batches, channels or positions differ after the embedding, or the heads
            do not divide the channels.
    """
    with torch.autocast(student_features.device.type, enabled=False):
        student = at_least_float32(student_features)
        teacher = at_least_float32(teacher_features)
        teacher = teacher if embedding is None else embedding(teacher)
        _check_matched(student, teacher, heads)
        # (B, C, N) -> (B, h, N, d)
        queries, keys = (
            x.flatten(2).unflatten(1, (heads, -1)).transpose(2, 3) for x in (student, teacher)
        )
        similarity = torch.softmax(queries @ keys.transpose(2, 3), dim=-1)
        loss = F.mse_loss(similarity @ queries, keys)
    return (loss, similarity) if return_similarity else loss


def published_image_matching(
    student_features: Tensor,
    teacher_features: Tensor,
    heads: int = 8,
    return_similarity: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The CIFAR-100 step as published: maps pooled to 1x1, then matched, without embedding.

    A softmax over one position is 1, so M = 1 and V is itself: the loss is the plain mean squared
    error of the pooled features, and the similarity has nothing to say.

    Args:
        student_features: ``(batch, C, height, width)``, pooled here if they are not yet.
        teacher_features: the same batch and channels.
        heads: as in :func:`published_matching`, without effect on the loss.
        return_similarity: return M, ``(batch, h, 1, 1)`` of ones, too.

    Raises:
        ArgumentError: as :func:`published_matching` does.
    """
    pooled = (F.adaptive_avg_pool2d(x, 1) for x in (student_features, teacher_features))
    return published_matching(*pooled, None, heads, return_similarity)


def published_min_max(signals: Tensor) -> Tensor:
    """The scaling as published, x' = (x − min x) / (max x − min x) for each recording.

    A constant recording (a dead microphone) is 0/0, so all its values are NaN, without a word, and
    reach the loss. The sound views, :func:`hfld_lite.data.views.spectrum` and
    :func:`~hfld_lite.data.views.time_view`, refuse it and name the row.

    Args:
        signals: ``(n, samples)``, any unit, floating point.

    Returns:
        The same shape, from 0 to 1, or NaN.
    """
    low, high = signals.amin(1, keepdim=True), signals.amax(1, keepdim=True)
    return (signals - low) / (high - low)


def published_weight_decay(epoch: int, distilled: bool) -> float:
    """The weight decay of the CIFAR-100 study as published.

    Networks trained alone fall from 5e-4 to 5e-5 when the learning rate drops for the first time;
    distilled ones keep 5e-4 for all 240 epochs. So the study compares two recipes, not two ways to
    learn. A :class:`~hfld_lite.recipes.Recipe` has one weight decay, for all networks and epochs.

    Args:
        epoch: how many epochs came before, 0 to 239; the rate drops at 150, 180 and 210.
        distilled: whether the network learns from a teacher.
    """
    return 5e-5 if epoch >= 150 and not distilled else 5e-4


def _check_matched(student: Tensor, teacher: Tensor, heads: int) -> None:
    if student.ndim < 3 or student.shape != teacher.shape:
        raise ArgumentError(
            "The student's features and the teacher's after the embedding must have one shape, "
            f"(batch, channels, positions…); found {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}."
        )
    check_heads(heads, student.shape[1])


@weighting("published")
class Published(Naive):
    """The released behaviour: the naive weights, but of a PVPN that is random and frozen.

    Args:
        channels, positions, options: see :class:`hfld_lite.weighting.Predicted`.
        detach_input: False reproduces the released code, where the student's features reach the
            PVPN with their gradient and the student is paid for shrinking its own loss weights.
    """

    def __init__(
        self, channels: int, positions: int, detach_input: bool = True, **options: object
    ) -> None:
        super().__init__(channels, positions, **options)
        self.pvpn.layers[-1].reset_parameters()
        self.pvpn.requires_grad_(False)
        self.detach_input = detach_input


class ImagePVPN(PVPN):
    """The PVPN of the CIFAR-100 study as published: C→32, then 32·N→512→128→3.

    85,027 parameters at C = 64, N = 1, the pooled map. Its outputs are α, one weight for both logit
    terms, which are split 1:2, and β.
    """

    layout = (64, (32,), (512, 128))

    def __init__(self, channels: int, positions: int, outputs: int = 3, hidden: str = "published"):
        super().__init__(channels, positions, 3, hidden)


class PublishedImages(Published):
    """The released behaviour of the CIFAR-100 study: three outputs for the four terms."""

    network = ImagePVPN

    def by_term(self, values: Tensor) -> Tensor:
        """Weights ``(3,)`` as weights ``(4,)``: α, μ, ν = 2 μ, β."""
        return torch.stack([values[0], values[1], 2 * values[1], values[2]])


class PublishedDistiller(Objective):
    """Learn from a teacher as the released code does, mistakes included; never a default.

    The teacher runs live, in training mode and with gradients: its dropout makes targets noisy,
    its batch norm drifts and its gradients are thrown away. Its features are embedded by weights
    that stay random. Teacher and embedding are no submodules, so no optimiser holds them.
    Source: the released code.

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
        check_classes(student, teacher)
        embedding = published_embedding(teacher.feature_channels, student.feature_channels)
        self._outside = (teacher, embedding.to(next(student.parameters()).device))
        self.weigh, self.temperature, self.heads = weighting, temperature, heads

    def get_extra_state(self) -> list[dict[str, Tensor]]:
        """The teacher's drifting buffers and the embedding, for checkpoints."""
        return [dict(module.state_dict()) for module in self._outside]

    def set_extra_state(self, state: list[dict[str, Tensor]]) -> None:
        """Take up the state of a checkpoint."""
        for module, values in zip(self._outside, state, strict=True):
            module.load_state_dict(values)

    def train(self, mode: bool = True) -> "PublishedDistiller":
        """Set the mode; teacher and embedding are in training mode always, as published."""
        for module in self._outside:
            module.train()
        return super().train(mode)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and the unweighted terms by the names in ``weighting.TERMS``."""
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
        return self.weigh(terms, output.features), terms

    def monitor(self) -> dict[str, Tensor]:
        """The weights of the last step: ``weight_feature`` and so on."""
        return {f"weight_{name}": value for name, value in self.weigh.weights.items()}


class PublishedTrainer(Trainer):
    """Trains as the released code does, mistakes included; chosen by ``Recipe.behaviour``.

    The validation part is trained on and the test part chooses the epochs; teachers are in training
    mode; each drop of the learning rate is a new optimiser, so momentum is lost; dropout stays in
    the students' heads.
    """

    def _divide(self, parts: Split) -> tuple[Split, np.ndarray]:
        """Its split has no validation part: what would be that is learned from as well."""
        if self.networks:
            raise ArgumentError(
                "The behaviour 'published' trains the recipe's networks only; leave networks out, "
                "or choose the behaviour 'sound'."
            )
        warnings.warn(
            "The recipe's behaviour is published: the test part chooses the best epoch, so that "
            "figures on it are optimistic, and the validation part is trained on. Use it for "
            "comparison only.",
            stacklevel=4,
        )
        learned = np.sort(np.concatenate([parts.train, parts.validation]))
        return Split(learned, [], parts.test), parts.test

    def _dropout(self, role: str) -> float | None:
        return network_of(self.recipe, role).dropout

    def _distiller(
        self, role: str, teacher: str, recipe: Recipe
    ) -> tuple[PublishedDistiller, dict[str, torch.Generator]]:
        student, shape = self.network(role)
        with self.seeded(role, "weighting"):
            weighting = Published(
                shape.channels, shape.positions, detach_input=False, hidden="published"
            )
            # A copy: this one drifts, as it did there, while the stored checkpoint stayed.
            live = copy.deepcopy(self.stages[teacher].network)
            options = (weighting, recipe.temperature, recipe.heads)
            return PublishedDistiller(student, live, *options), {}

    def _before_epoch(self, optimizer: torch.optim.Optimizer, left: int) -> None:
        """As published, a drop of the rate, ``left`` epochs before the end, is a new optimiser."""
        if self.recipe.schedule == "drops" and left in self.recipe.drops:
            optimizer.state.clear()


TRAINERS["published"] = PublishedTrainer
PRESETS["published"] = PRESETS["paper"].replace(
    name="published", behaviour="published", weighting="published"
)


def repeats(recipe: Recipe, count: int) -> tuple[Recipe, ...]:
    """Recipes of repeated runs, whose results' mean and deviation are reported.

    The seeds are seed, seed + 1, …: each run has its own split, initial weights and order. With the
    behaviour ``"published"`` all have this recipe's seed, as there: runs are then the same bit for
    bit, or differ by the machine's rounding, and their deviation says nothing.

    Raises:
        ArgumentError: if count is no whole number of 1 or more.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ArgumentError(f"count is {count!r}; it must be a whole number, 1 or more.")
    step = 0 if recipe.behaviour == "published" else 1
    return tuple(recipe.replace(seed=recipe.seed + step * i) for i in range(count))
