"""What a frozen teacher says of the training samples: cached once, or asked at every step."""

import copy
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hfld_lite.data.examples import Stored, batches, evaluated
from hfld_lite.errors import ArgumentError, HfldError
from hfld_lite.networks import Output
from hfld_lite.storage.arrays import Rows, first_bad_row, scaled
from hfld_lite.storage.files import digest

LIMIT = 2**30
"""Bytes of features above which they are kept in a memory-mapped file."""

AT_ONCE = 32
"""Inputs in one pass of a teacher. No layer of a published one then makes a tensor above 32 MiB,
beyond which the C library asks for fresh pages each time: 128 at once took twice as long."""


class Batch(NamedTuple):
    """One step's data; ``rows`` says where each sample stands in the training set."""

    inputs: Tensor
    target: Tensor
    rows: Tensor


class TeacherTargets(NamedTuple):
    """What a frozen teacher says of every training sample, in the training set's order.

    ``features`` ``(n, C, positions)`` are standardised per channel with ``mean`` and ``deviation``
    ``(C,)`` of the training set, so that matching them has the same scale for every teacher.
    ``key`` says what they were made of, for :meth:`check`.
    """

    features: Tensor
    logits: Tensor
    mean: Tensor
    deviation: Tensor
    key: str = ""

    @property
    def nbytes(self) -> int:
        """Size of features and logits in bytes, in memory or on disk."""
        return self.features.nbytes + self.logits.nbytes

    @property
    def channels(self) -> int:
        """C of the features."""
        return self.features.shape[1]

    @property
    def classes(self) -> int:
        """How many classes the teacher knows."""
        return self.logits.shape[1]

    def answers(self, batch: Batch) -> Output:
        """Features and logits of the batch's rows, on the device of its inputs."""
        rows, device = batch.rows.to(self.features.device), batch.inputs.device
        features = self.features[rows].to(device)
        return Output(features, self.logits[batch.rows.to(self.logits.device)])

    def check(self, inputs: Tensor | Stored, teacher: nn.Module) -> None:
        """Refuse, by an ArgumentError, inputs or a teacher that differ in a single bit."""
        if cache_key(teacher, inputs) != self.key:
            raise ArgumentError(
                "The cached answers were computed from other inputs or by another teacher; "
                "compute them again with teacher_targets, or use a LiveTeacher where inputs are "
                "augmented."
            )


def cache_key(teacher: nn.Module, inputs: Tensor | Stored) -> str:
    """SHA-256 of the inputs and of the teacher's parameters and buffers."""
    state = teacher.state_dict(prefix="teacher.")
    if isinstance(inputs, Stored):  # read once before: its own digest stands for the values
        return digest(inputs.digest, state)
    return digest("", {"inputs": inputs, **state})


def teacher_targets(
    teacher: nn.Module,
    inputs: Tensor | Stored,
    batch_size: int = AT_ONCE,
    *,
    limit: int = LIMIT,
    folder: str | Path | None = None,
) -> TeacherTargets:
    """Run a frozen teacher once over unaugmented training inputs.

    A student that reads the same inputs in any order can then learn from row i of the targets
    when it reads row i of the inputs, and the teacher costs nothing more.

    Args:
        teacher: a network; left as it was found (modes, parameters, buffers).
        inputs: ``(n, …)``, the whole training set in order, in memory or stored.
        batch_size: inputs at once.
        limit: bytes of features above which they are memory-mapped, never wholly in memory.
        folder: where that file goes; by default a temporary one without a name.

    Raises:
        ArgumentError: if the folder has no room.
        HfldError: if an answer is not finite (row named).
    """
    features, logits = Rows(len(inputs), limit, folder), []
    device = next(iter(teacher.state_dict().values())).device
    for rows, chunk in batches(inputs, torch.arange(len(inputs)).split(batch_size)):
        with evaluated(teacher), torch.inference_mode():
            output = teacher(chunk.to(device))
            found = output.features.float()
            bad = first_bad_row(found, output.logits)
        if bad is not None:
            raise HfldError(
                f"The teacher's answer to training row {int(rows[bad])} is not finite; it cannot "
                "teach. Train it again with a lower learning_rate."
            )
        features.append(found)
        logits.append(output.logits)
    # Concatenated outside inference mode, or autograd could not use the result.
    logits, key = torch.cat(logits).float(), cache_key(teacher, inputs)
    features, mean, deviation = features.standardised()
    return TeacherTargets(features, logits, mean, deviation, key)


class LiveTeacher(nn.Module):
    """A frozen teacher that is asked at every step, as augmented inputs need it.

    Args:
        teacher: a network; copied, so that freezing does not reach the caller's.
        targets: its answers to the unaugmented training set, for mean and deviation.
    """

    def __init__(self, teacher: nn.Module, targets: TeacherTargets) -> None:
        super().__init__()
        self.teacher = copy.deepcopy(teacher).requires_grad_(False).eval()
        self.channels, self.classes = targets.channels, targets.classes
        self.register_buffer("mean", targets.mean.clone())
        self.register_buffer("deviation", targets.deviation.clone())

    def train(self, mode: bool = True) -> "LiveTeacher":
        """Stays in eval, whatever the objective does."""
        return super().train(False)

    def answers(self, batch: Batch) -> Output:
        """Standardised features and logits of the batch's inputs, without gradients."""
        with torch.no_grad():  # autograd could not save tensors of inference mode
            output = self.teacher(batch.inputs)
            features = scaled(output.features.float(), self.mean, self.deviation)
        return Output(features, output.logits.float())
