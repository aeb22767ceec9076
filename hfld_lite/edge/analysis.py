"""What a network costs on a device: parameters, operations, bytes, time."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hfld_lite.data.examples import evaluated
from hfld_lite.errors import ArgumentError
from hfld_lite.evaluation.detector import Detector, TestResult
from hfld_lite.networks import ResNet1d, count_parameters

if TYPE_CHECKING:
    import pandas as pd

PRECISIONS = ("fp32", "fp16", "int8")
_WEIGHT = {"fp32": 4, "fp16": 2, "int8": 1}
_CHANNEL = {"fp32": 4, "fp16": 2, "int8": 4 + 4}  # int8: a bias of 32 bits, a scale in float32
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


Length = int | tuple[int, ...]
"""One input of a network: its number of values, or its shape, such as (3, 32, 32) of an image."""


def input_shape(length: Length) -> tuple[int, ...]:
    """The shape of one input; a whole number n is (n,)."""
    return tuple(length) if isinstance(length, tuple | list | torch.Size) else (length,)


def count_macs(network: nn.Module, length: Length) -> int:
    """Multiply-accumulate operations of one input, batch 1.

    Half of what torch's FlopCounterMode counts: convolutions and matrix products, no biases,
    normalisation or activations.

    Args:
        network: of convolutions, linear layers and attention; left as it was.
        length: values of one input, or its shape.

    Raises:
        ArgumentError: if the network has a recurrent layer, whose products are not counted.
    """
    for module in network.modules():
        if isinstance(module, nn.RNNBase | nn.RNNCellBase):
            raise ArgumentError(
                f"network has a layer {type(module).__name__}, whose operations are not counted; "
                "use convolutions, linear layers and attention only."
            )
    device = next(network.parameters()).device
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its one operator hides the products,
    plain = sdpa_kernel(SDPBackend.MATH)  # as fused attention does
    try:
        with evaluated(network), torch.inference_mode(), plain, FlopCounterMode(display=False) as c:
            network(torch.zeros(1, *input_shape(length), device=device))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return c.get_total_flops() // 2


def size_bytes(network: nn.Module) -> int:
    """Bytes that inference needs: parameters and batch norm's statistics, as they are stored."""
    return sum(
        tensor.numel() * tensor.element_size()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    )


def stored_bytes(network: nn.Module, precision: str) -> int:
    """Bytes of a network's numbers on a device, batch norm folded into the layer before it.

    Folded, each convolution or linear layer has its weights and, for each output channel, a bias:
    ``fp32``: 4 bytes each; ``fp16``: 2 bytes each; ``int8``: 1 byte a weight and, for each output
    channel, a bias of 4 bytes (int32) and a scale of 4 bytes (float32), as
    :func:`hfld_lite.edge.export.quantise` has them. A file's structure and a runtime come on top.

    Raises:
        ArgumentError: if the precision is unknown, or a layer of another kind has parameters.
    """
    if precision not in PRECISIONS:
        raise ArgumentError(f"precision is {precision!r}; choose one of {', '.join(PRECISIONS)}.")
    weights = channels = 0
    for module in network.modules():
        if isinstance(module, _LAYERS):
            weights += module.weight.numel()
            channels += module.weight.shape[0]
        elif not isinstance(module, _NORMS) and next(module.parameters(False), None) is not None:
            raise ArgumentError(
                f"network has parameters in a {type(module).__name__}, whose bytes are not known; "
                "use convolutions, linear layers and batch norm only."
            )
    return weights * _WEIGHT[precision] + channels * _CHANNEL[precision]


def sizes(network: nn.Module) -> pd.DataFrame:
    """Where a network's parameters and bytes sit.

    Returns:
        A row for each part that has parameters (``stem``, ``stage 1`` and so on, ``attention``,
        ``head``) and the row ``total``. Columns: ``part``; ``parameters``, as trained, batch norm's
        scales and shifts among them; ``fp32_bytes``, ``fp16_bytes``, ``int8_bytes``, what inference
        needs, see :func:`stored_bytes`. Of any other module, such as ``network.head``, each layer
        is a part: ``Linear 0`` is where most of the published student is.

    Raises:
        ArgumentError: if a layer with parameters is not a convolution, linear layer or batch norm.
    """
    import pandas as pd

    parts: dict[str, nn.ModuleList] = {}
    for name, module in _named_parts(network):
        parts.setdefault(name, nn.ModuleList()).append(module)
    rows = [
        {
            "part": part,
            "parameters": sum(p.numel() for p in module.parameters()),
            **{f"{precision}_bytes": stored_bytes(module, precision) for precision in PRECISIONS},
        }
        for part, module in (*parts.items(), ("total", network))
    ]
    return pd.DataFrame([row for row in rows if row["parameters"] or row["part"] == "total"])


_CIFAR_PARTS = {"conv1": "stem", "bn1": "stem", "linear": "head"}


def _named_parts(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Children by the names that people use for the parts; names that come twice are one part."""
    parts = []
    for name, module in network.named_children():
        if name == "stages":
            parts += [(f"stage {i}", stage) for i, stage in enumerate(module, 1)]
        elif name.startswith("layer"):
            parts.append((f"stage {name.removeprefix('layer')}", module))
        elif name.isdigit():
            parts.append((f"{type(module).__name__} {name}", module))
        else:
            parts.append((_CIFAR_PARTS.get(name, name), module))
    return parts


def compare_macs(network: nn.Module, length: Length) -> pd.DataFrame:
    """Multiply-accumulate operations as three programs count them, and what makes them differ.

    By hand, from the shapes: Σ C_in / groups · C_out · k · N_out over the convolutions (N_out
    positions come out, k is the kernel's size) and Σ in · out over the linear layers. torch's
    FlopCounterMode, halved, is the number that this package uses. torchinfo takes each parameter of
    a layer for one operation, times N_out in a convolution: so a convolution's bias is
    C_out · N_out operations for it, a linear layer's C_out, batch norm's scale and shift 2 C in
    all (they really work on each position, and folded into a convolution they are free).
    Source: torchinfo 1.8, ``LayerInfo.calculate_macs``.

    Returns:
        A row a method; columns ``method``, ``macs``, ``difference`` (from the number used here),
        ``explained`` (the operations that the reason accounts for, counted layer by layer) and
        ``reason``. A network with other operations, such as functional attention, differs by more
        than is explained.
    """
    import pandas as pd
    import torchinfo  # only this comparison needs it

    used = count_macs(network, length)
    hand, conv_biases, linear_biases, norms = _operations_by_hand(network, length)
    device = next(network.parameters()).device
    size = (1, *input_shape(length))
    info = torchinfo.summary(network, input_size=size, device=device, mode="eval", verbose=0)
    reason = (
        f"counts biases ({conv_biases:,} in convolutions, {linear_biases:,} in linear layers) and "
        f"batch norm's parameters ({norms:,}) as operations"
    )
    rows = [
        ("FlopCounterMode / 2", used, 0, "the number used here"),
        ("torchinfo", info.total_mult_adds, conv_biases + linear_biases + norms, reason),
        ("by hand", hand, 0, "the same operations: convolutions and linear layers, no biases"),
    ]
    table = pd.DataFrame(rows, columns=["method", "macs", "explained", "reason"])
    table.insert(2, "difference", table["macs"] - used)
    return table


def _operations_by_hand(network: nn.Module, length: int) -> tuple[int, int, int, int]:
    """MACs by the layers' shapes; what torchinfo adds for biases of two kinds and batch norm."""
    macs = conv_biases = linear_biases = norms = 0

    def hook(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs, conv_biases, linear_biases, norms
        biases = 0 if module.bias is None else module.bias.numel()
        if isinstance(module, nn.Linear):
            macs += module.in_features * module.out_features
            linear_biases += biases
        elif isinstance(module, _NORMS):
            norms += module.weight.numel() + biases
        else:
            kernel, positions = int(np.prod(module.kernel_size)), output[0, 0].numel()
            products = module.in_channels // module.groups * module.out_channels * kernel
            macs += products * positions
            conv_biases += biases * positions

    layers = [m for m in network.modules() if isinstance(m, (*_LAYERS, *_NORMS))]
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        count_macs(network, length)  # runs the network once, and leaves it as it was
    finally:
        for handle in handles:
            handle.remove()
    return macs, conv_biases, linear_biases, norms


def receptive_field(network: ResNet1d) -> int:
    """Input values that one feature before the pooling can see.

    Along the longest path, r = 1 + Σ (k − 1) · (product of the strides before): each layer of
    kernel size k adds k − 1 steps of its own input's spacing. (The attention and the pooling behind
    it see everything, but only as an average.) Source: Dumoulin and Visin, "A guide to convolution
    arithmetic for deep learning", 2016.
    """
    seen, spacing = 1, 1
    blocks = [block for stage in network.stages for block in stage]
    for part in (network.stem, *(block.body for block in blocks)):
        for layer in part.modules():
            if isinstance(layer, nn.Conv1d | nn.MaxPool1d):
                kernel, stride = (
                    size[0] if isinstance(size, tuple) else size
                    for size in (layer.kernel_size, layer.stride)
                )
                seen += (kernel - 1) * spacing
                spacing *= stride
    return seen


@contextmanager
def threads(count: int):
    """Run a block with ``count`` of torch's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Latency:
    """Time of one call: median, 95th and 99th percentile in ms, over ``runs`` calls."""

    p50: float
    p95: float
    p99: float
    runs: int
    threads: int


def latency(
    run: Callable[[], object], threads: int = 1, warmups: int = 50, runs: int = 500
) -> Latency:
    """Time ``run()`` call by call, after warm-up calls that don't count.

    Args:
        run: what is timed.
        threads: torch's threads while it runs. A session of ONNX Runtime has threads of its own,
            set where it is made: ``export.session(model, threads)``; give the same number here,
            to be kept with the result.
        warmups: calls before, which fill caches and let libraries choose their kernels.
        runs: calls that are timed.

    Raises:
        ArgumentError: if a number is too small.
    """
    for name, value, least in (("threads", threads, 1), ("warmups", warmups, 0), ("runs", runs, 1)):
        if value < least:
            raise ArgumentError(f"{name} is {value}; give {least} or more.")
    times = 1e3 * np.array(_seconds(run, threads, warmups, runs))
    return Latency(*(float(q) for q in np.quantile(times, (0.5, 0.95, 0.99))), runs, threads)


def _seconds(run: Callable[[], object], count: int, warmups: int, runs: int) -> list[float]:
    with threads(count):
        for _ in range(warmups):
            run()
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return times


def costs(detector: Detector, role: str, signal: np.ndarray) -> dict[str, float]:
    """What a detector's network costs for one raw recording.

    Args:
        detector: with the network.
        role: of the network.
        signal: the recording ``(samples,)``.

    Returns:
        ``parameters``; ``macs``, see :func:`count_macs`; ``size_kb``, see :func:`size_bytes`, in
        1,000 bytes. How long it takes is measured by :func:`latency`.

    Raises:
        HfldError: if no network has that role.
    """
    network, raw = detector.network(role), np.array(signal)[None]

    return {
        "parameters": count_parameters(network),
        "macs": count_macs(network, detector.inputs(raw).shape[1:]),
        "size_kb": size_bytes(network) / 1000,
    }


def with_costs(result: TestResult, detector: Detector, signal: np.ndarray) -> TestResult:
    """A test's result whose table also says what each network costs; see :func:`costs`.

    The columns ``macs`` and ``size_kb`` come behind ``parameters``.
    """
    import pandas as pd

    table = result.table.copy()
    found = pd.DataFrame([costs(detector, role, signal) for role in table["role"]])
    place = table.columns.get_loc("parameters") + 1
    for name in ("size_kb", "macs"):
        table.insert(place, name, found[name])
    return replace(result, table=table)


def processor() -> str:
    """The processor's name, as far as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
