"""One training in several processes: this process's rank, and what the ranks exchange.

Nothing here changes a training in one process: without ranks, what would be exchanged stays as it
is. Every rank must make the same calls in the same order, or the others wait for it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed

fabric: Any = None
"""What this process was launched with as one of several ranks; None in a training of one."""


def count() -> int:
    """How many ranks train together; 1 in a training of one process."""
    return 1 if fabric is None else fabric.world_size


def own(rows: Tensor) -> Tensor:
    """This rank's part of a batch's rows, as many for each rank; the last part repeats its end."""
    each = -(-len(rows) // count())
    first = fabric.global_rank * each
    return rows[torch.arange(first, first + each, device=rows.device).clamp(max=len(rows) - 1)]


def gathered(x: Tensor) -> Tensor:
    """``(m, …)`` of each rank as ``(ranks · m, …)`` on all of them, the ranks' parts in order.

    Gradients come back to each part from all ranks, summed. Where all ranks compute the same loss
    of what was gathered, that is as many times the gradient as there are ranks; the mean over ranks
    of the parameters' gradients (:func:`averaged`) is then that of one process.
    """
    return _Gather.apply(x)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.count = len(x)
        return _gather(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return summed(gradient).split(ctx.count)[fabric.global_rank]

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:  # of forward-mode differentiation
        return _gather(tangent)


def summed(x: Tensor) -> Tensor:
    """The sum over the ranks, without gradients."""
    x = x.detach().clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(x)
    return x


def _gather(x: Tensor) -> Tensor:
    x = x.contiguous()
    parts = [torch.empty_like(x) for _ in range(count())]
    distributed.all_gather(parts, x)
    return torch.cat(parts)


def averaged(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The mean over the ranks of each tensor; without ranks, the tensors themselves."""
    tensors = list(tensors)
    if count() == 1 or not tensors:
        return tensors
    flat = summed(torch.cat([tensor.detach().flatten() for tensor in tensors]))
    parts = (flat / count()).split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def alike(said: str) -> bool:
    """Whether all ranks say the same."""
    heard: list[str] = [""] * count()
    distributed.all_gather_object(heard, said)
    return len(set(heard)) == 1
