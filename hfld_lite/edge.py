"""What a network costs on a device: parameters, operations, bytes, time."""

import time
from collections.abc import Callable
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_macs(network: nn.Module, length: int) -> int:
    """Multiply-accumulate operations of one input of ``length`` values, batch 1.

    Half of what torch's FlopCounterMode counts: convolutions and matrix products, no biases,
    normalisation or activations.
    """
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, length, device=device))
    network.train(was_training)
    return counter.get_total_flops() // 2


def size_bytes(network: nn.Module) -> int:
    """Bytes that inference needs: parameters and batch norm's statistics, as they are stored."""
    return sum(
        tensor.numel() * tensor.element_size()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    )


@contextmanager
def threads(count: int):
    """Run a block with ``count`` of torch's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def median_latency(run: Callable[[], object], warmups: int = 50, runs: int = 200) -> float:
    """Median time of ``run()`` in ms, on one thread, after warm-up runs that don't count."""
    with threads(1):
        for _ in range(warmups):
            run()
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3
