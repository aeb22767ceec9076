"""A network as an ONNX graph: exported, quantised to eight bits, and run by ONNX Runtime.

The graph holds the network alone, with or without the view that it reads, so that raw samples can
go in; class probabilities come out. Batch norm is folded into the convolutions.
"""

import copy
import logging
import math
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from hfld_lite.data.views import (
    FLOOR,
    FRAMES,
    cut,
    fourier_points,
    level_of,
    mel_frames,
    mel_weights,
    neighbours,
)
from hfld_lite.edge.analysis import Length, input_shape
from hfld_lite.errors import ArgumentError, DataError
from hfld_lite.recipes import Recipe

OPSETS = range(18, 24)
"""Versions of ONNX's operators that the exporter writes and ONNX Runtime runs."""

OPSET = 18
"""The oldest: ONNX Runtime 1.15 (May 2023) runs it, and 20 needs 1.17."""
FACTS = "hfld_lite"
"""The entry of a model's metadata that holds what the program on the device needs, as JSON."""

CALIBRATION = 50
"""The smallest number of recordings that gives the range of the activations."""

LONGEST_FACTOR = 1000
"""Of a number of samples, for products with matrices in place of a Fourier transform."""

INPUT, OUTPUT = "input", "probabilities"


class _Probabilities(nn.Module):
    """From what the network reads, or from raw samples through a view, to class probabilities."""

    def __init__(self, network: nn.Module, view: nn.Module | None) -> None:
        super().__init__()
        self.network, self.view = network, view

    def forward(self, x: Tensor) -> Tensor:
        found = self.network(x if self.view is None else self.view(x))
        return torch.softmax(getattr(found, "logits", found), 1)


class _View(nn.Module):
    """A recipe's view of raw recordings ``(batch, samples)``: see :mod:`hfld_lite.data.views`.

    No operator is a convolution, so that :func:`quantise` knows where the network begins. What the
    view adds to a file: the matrices of :class:`_Spectrum`, about 20 bytes a sample (0.14 MB at
    7,000 samples, 3.7 MB at 192,000; nothing where the runtime's transform is taken). Mel bands
    depend on the window only: 0.16 MB at 1,024 points, 0.3 MB at 2,048 (44.1 and 48 kHz).
    """

    def __init__(self, recipe: Recipe, samples: int, sample_rate: int, length: int) -> None:
        super().__init__()
        self.samples, self.length, self.kind = recipe.samples or samples, length, recipe.view
        self.whole, self.kept = cut(recipe), level_of(recipe) == "kept"
        if self.kind == "log-mel":
            self.size, points = mel_frames(self.samples, sample_rate)
            self.spectrum = _Spectrum(points, points // 2 + 1)
            self.register_buffer("bands", torch.from_numpy(mel_weights(points, sample_rate)))
            self.register_buffer("window", torch.hann_window(self.size))
            count = (self.samples - self.size) // (self.size // 2) + 1
            self.means = _Means(points // 2, neighbours(points // 2, recipe.bins))
            self.over_time = _Means(count, -(-count // FRAMES))
        elif self.whole:
            self.spectrum = _Spectrum(self.samples, length)
        elif self.kind != "time":
            points = fourier_points(self.samples)
            self.spectrum = _Spectrum(points, points // 2)
            self.means = _Means(points // 2, neighbours(points // 2, recipe.bins))

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, : self.samples]
        if self.kind == "time":
            return self._min_max(x[:, : self.length])
        if self.whole:
            return self._min_max(self.spectrum(x))
        for _ in range(2):  # a runtime's mean of many values can be wrong in the fifth digit
            x = x - x.mean(1, keepdim=True)
        if self.kind == "log-mel":
            return self._decibels(self._mel(x), 10)
        x = self.means(self.spectrum(x)[:, None])[:, 0]
        if self.kind == "spectrum":
            return self._min_max(x)
        return self._decibels(x * (2 / self.samples), 20)

    def _mel(self, x: Tensor) -> Tensor:
        half = self.size // 2  # frames overlap by half: each is two halves, one behind the other
        halves = x[:, : self.samples // half * half].reshape(-1, self.samples // half, half)
        frames = torch.cat((halves[:, :-1], halves[:, 1:]), 2)
        amplitude = self.spectrum(frames.reshape(-1, self.size) * self.window) * (2 / self.size)
        power = amplitude.square().reshape(-1, frames.shape[1], amplitude.shape[1])
        mean = self.means(power.mean(1, keepdim=True)[:, :, :-1])
        bands = self.over_time((power @ self.bands).transpose(1, 2)).transpose(1, 2)
        return torch.cat((mean[:, 0], bands.flatten(1)), 1)

    def _min_max(self, x: Tensor) -> Tensor:
        low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
        return (x - low) / (high - low)

    def _decibels(self, x: Tensor, factor: float) -> Tensor:
        peak, least = x.amax(1, keepdim=True), 10 ** (-FLOOR / factor)
        if self.kept:
            return torch.log10(torch.maximum(x, peak * least)) * (factor / FLOOR)
        return torch.log10(torch.clamp_min(x / peak, least)) * (factor / FLOOR) + 1


class _Means(nn.Module):
    """Means of ``by`` neighbours on the last axis, the last mean over those that are left.

    As sums of rows, since runtimes differ in what they average at the end of a pooling.
    """

    def __init__(self, count: int, by: int) -> None:
        super().__init__()
        self.by, self.left = by, -count % by
        shares = torch.full((-(-count // by),), 1 / by)
        shares[-1] = 1 / (by - self.left)
        self.register_buffer("shares", shares)

    def forward(self, x: Tensor) -> Tensor:
        if self.by == 1:
            return x
        x = nn.functional.pad(x, (0, self.left)) if self.left else x
        return x.reshape(-1, x.shape[1], len(self.shares), self.by).sum(3) * self.shares


class _Spectrum(nn.Module):
    """|X_k| of N = N₁ N₂ samples, k < K, by one step of Cooley and Tukey's algorithm.

    Shorter inputs get zeros appended.

    X_{k₁ + N₁ k₂} = Σ_{n₂} e^{−2πi n₂ k₁ / N} (Σ_{n₁} x_{N₂ n₁ + n₂} e^{−2πi n₁ k₁ / N₁})
    e^{−2πi n₂ k₂ / N₂}: products with two small matrices, which every runtime does fast and
    exactly. Of a length that is not a power of two, ONNX Runtime's DFT takes several times as long
    and errs by 1e-4 of the largest magnitude (ONNX Runtime 1.32). It is left for lengths without
    factors that are near each other, such as primes, whose matrices would be too large. Source:
    Cooley and Tukey, "An algorithm for the machine calculation of complex Fourier series", 1965.
    """

    def __init__(self, samples: int, bins: int) -> None:
        super().__init__()
        first = next(n for n in range(math.isqrt(samples), 0, -1) if samples % n == 0)
        second = samples // first
        self.samples, self.sizes, self.bins = samples, (first, second), bins
        self.split = second <= LONGEST_FACTOR
        if not self.split:
            return
        kept = -(-bins // first)
        angles = {
            "rows": np.outer(range(first), range(first)) / first,
            "twiddles": np.outer(range(first), range(second)) / samples,
            "columns": np.outer(range(second), range(kept)) / second,
        }
        for name, turns in angles.items():
            for part, wave in (("cos", np.cos), ("sin", np.sin)):
                values = torch.from_numpy(wave(-2 * np.pi * turns).astype(np.float32))
                self.register_buffer(f"{name}_{part}", values)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] < self.samples:
            x = nn.functional.pad(x, (0, self.samples - x.shape[1]))
        if not self.split:
            found = torch.fft.rfft(x)[:, : self.bins]
            return (found.real.square() + found.imag.square()).sqrt()
        x = x.reshape(-1, *self.sizes)
        real, imaginary = self.rows_cos @ x, self.rows_sin @ x
        real, imaginary = (
            real * self.twiddles_cos - imaginary * self.twiddles_sin,
            real * self.twiddles_sin + imaginary * self.twiddles_cos,
        )
        real, imaginary = (
            real @ self.columns_cos - imaginary @ self.columns_sin,
            real @ self.columns_sin + imaginary @ self.columns_cos,
        )
        magnitude = (real.square() + imaginary.square()).sqrt()
        return magnitude.transpose(1, 2).flatten(1)[:, : self.bins]


class _Pool(nn.Module):
    """Adaptive average pooling at one length, as a product with a matrix that averages.

    One operator that every runtime knows, where the exporter writes forty.
    """

    def __init__(self, positions: int, outputs: int) -> None:
        super().__init__()
        means = nn.functional.adaptive_avg_pool1d(torch.eye(positions), outputs)
        self.register_buffer("means", means)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.means


def _exportable(network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """A copy on the CPU in eval mode, with pooling that the exporter writes in few operators."""
    network = copy.deepcopy(network).cpu().float().eval()
    found: dict[str, nn.Module] = {}

    def look(name: str, module: nn.Module) -> None:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            found[name] = _Pool(inputs[0].shape[-1], module.output_size)

        handles.append(module.register_forward_pre_hook(hook))

    handles: list[Any] = []
    for name, module in network.named_modules():
        if isinstance(module, nn.AdaptiveAvgPool1d) and module.output_size != 1:
            look(name, module)
    with torch.no_grad():
        network(torch.zeros(1, *shape))
    for handle in handles:
        handle.remove()
    for name, pool in found.items():
        network.set_submodule(name, pool)
    return network


def to_onnx(
    network: nn.Module,
    length: Length,
    *,
    recipe: Recipe | None = None,
    samples: int | None = None,
    sample_rate: int | None = None,
    opset: int = OPSET,
) -> onnx.ModelProto:
    """Export a network as a graph that maps ``(batch, length)`` to probabilities.

    Args:
        network: returns an `Output`, or logits ``(batch, classes)`` alone; left as it was.
        length: values of one input, or its shape; the graph then maps ``(batch, *shape)``.
        recipe: of a network that reads a view of a recording, to put this preprocessing into the
            graph: raw recordings ``(batch, samples)`` then go in. A constant recording gives NaN.
        samples: of a raw recording.
        sample_rate: of a raw recording, Hz; needed by the view "log-mel".
        opset: version of ONNX's operators.

    Returns:
        The model: input ``input``, output ``probabilities``, any batch, float32.

    Raises:
        ArgumentError: if the opset is not supported, or a recipe comes with inputs of several axes
            or without the samples or the sample rate that its view needs.
    """
    shape = input_shape(length)
    if recipe is not None and len(shape) > 1:
        raise ArgumentError(
            f"length is {shape}, but the recipe's view gives a row of values; leave the recipe out."
        )
    if recipe is not None and samples is None:
        raise ArgumentError("samples is None; with a recipe, give the samples of a raw recording.")
    if recipe is not None and recipe.view == "log-mel" and not sample_rate:
        raise ArgumentError(f"sample_rate is {sample_rate}; the view log-mel needs it, in Hz.")
    if opset not in OPSETS:
        raise ArgumentError(
            f"opset is {opset!r}; choose one from {OPSETS[0]} to {OPSETS[-1]} ({OPSET} is usual)."
        )
    view = None if recipe is None else _View(recipe, samples, sample_rate or 0, shape[0])
    module = _Probabilities(_exportable(network, shape), view).eval()
    # Two in the example batch: a batch of one would be taken for a constant.
    example = torch.rand(2, *(shape if recipe is None else (samples,)))
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=opset,
            verbose=False,
        )
    model = onnx.shape_inference.infer_shapes(program.model_proto, strict_mode=True)
    if (written := model.opset_import[0].version) != opset:
        raise ArgumentError(f"opset is {opset}, but the exporter wrote {written}; choose {OPSET}.")
    return _plain(model)


def _plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without what runtimes do not need, and older ones refuse.

    The exporter's notes on nodes name source files and double the size. ONNX Runtime's tools import
    domains that no node is from, and both write a newer IR version than the operators need, so that
    a runtime of two years ago does not open the file.
    """
    for thing in (model, model.graph, *model.graph.node, *model.graph.value_info):
        thing.ClearField("metadata_props")
        thing.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    used = {"", *_domains(model.graph.node)}
    for function in model.functions:
        used |= {function.domain, *_domains(function.node)}
    imports = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(imports)
    model.ir_version = onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True)
    return model


def _domains(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """The domains of the nodes' operators, those in the branches of an If or a Loop among them."""
    for node in nodes:
        yield node.domain
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _domains(graph.node)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on packages that this project does not use."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class _Recordings(CalibrationDataReader):
    """Calibration inputs, one by one, as ONNX Runtime asks for them."""

    def __init__(self, inputs: np.ndarray) -> None:
        self.rows = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        row = next(self.rows, None)
        return None if row is None else {INPUT: row[None]}


def check_calibration(calibration: np.ndarray | Tensor) -> None:
    """Refuse too few recordings to know the range of the activations.

    Raises:
        DataError: if there are fewer than CALIBRATION.
    """
    if len(calibration) < CALIBRATION:
        raise DataError(
            "calibration",
            f"there are {len(calibration)} recordings",
            expected=f"{CALIBRATION} or more, to know the range of the activations",
            mend="train on more recordings, or export in float32 (onnx, c-float32)",
        )


def quantise(model: onnx.ModelProto, calibration: np.ndarray) -> onnx.ModelProto:
    """Static quantisation to eight bits: q = round(x / s) + z.

    Weights get a scale s for each output channel (z = 0), activations one scale and zero point a
    tensor, from the range that they have on the calibration inputs. What comes before the first
    convolution (the view) and the softmax stay in float32. Source: Jacob et al., "Quantization and
    training of neural networks for efficient integer-arithmetic-only inference", 2018; done by
    ONNX Runtime.

    Args:
        model: of :func:`to_onnx`.
        calibration: what the model reads, ``(n, *shape)``, of training recordings only.

    Raises:
        DataError: if there are too few calibration recordings.
    """
    check_calibration(calibration)

    def static(path: Path, out: Path) -> None:
        # Unsigned activations: ONNX Runtime has no fast 1-D convolution of signed ones.
        quantize_static(
            path,
            out,
            _Recordings(np.asarray(calibration, np.float32)),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_kept(model),
        )

    return _through_files(model, static)


def quantise_dynamically(model: onnx.ModelProto) -> onnx.ModelProto:
    """Dynamic quantisation: weights in eight bits, activations' ranges found anew at every run.

    For the lesson that it can make a small network slower; :func:`quantise` is the one to use.
    """
    return _through_files(
        model,
        lambda path, out: quantize_dynamic(
            path, out, weight_type=QuantType.QInt8, nodes_to_exclude=_kept(model)
        ),
    )


def _kept(model: onnx.ModelProto) -> list[str]:
    """What stays in float32: the view, which is all before the first convolution; the softmax."""
    kinds = [node.op_type for node in model.graph.node]
    view = model.graph.node[: kinds.index("Conv")] if "Conv" in kinds else ()
    return [node.name for node in (*view, *(n for n in model.graph.node if n.op_type == "Softmax"))]


def _through_files(model: onnx.ModelProto, change: Callable[[Path, Path], None]) -> onnx.ModelProto:
    """ONNX Runtime's tools go from file to file."""
    with tempfile.TemporaryDirectory() as folder:
        before, ready, after = (Path(folder) / f"{n}.onnx" for n in ("before", "ready", "after"))
        onnx.save(model, before)
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)  # it recommends what is done here already
        try:
            quant_pre_process(before, ready, skip_symbolic_shape=True)
            change(ready, after)
        finally:
            logging.root.setLevel(level)
        return _short_names(_plain(onnx.load(after)))


def _short_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """Numbers in place of the names inside: in a small quantised model these take half the file."""
    graph = model.graph
    short = {value.name: value.name for value in (*graph.input, *graph.output)}
    for thing in (*graph.initializer, *graph.value_info):
        thing.name = short.setdefault(thing.name, f"{len(short):x}")
    for number, node in enumerate(graph.node):
        node.name = f"{number:x}"
        for names in (node.input, node.output):
            names[:] = [name and short.setdefault(name, f"{len(short):x}") for name in names]
    return model


def session(model: onnx.ModelProto, threads: int = 1) -> onnxruntime.InferenceSession:
    """The model in ONNX Runtime, on this number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
