"""What a run's networks cost: bytes, operations, memory and time, as figures and as tables.

Bytes, operations and memory are counted; times are measured on this processor, for one recording
at a time.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pandas as pd
import torch

from hfld_lite.edge.analysis import (
    compare_macs,
    count_macs,
    latency,
    processor,
    sizes,
    stored_bytes,
)
from hfld_lite.edge.deploy import noise
from hfld_lite.edge.devices import DEVICES, Needs, sizes_in_words, verdicts
from hfld_lite.edge.export import INPUT, quantise, quantise_dynamically, session, to_onnx
from hfld_lite.edge.firmware import program_of
from hfld_lite.edge.host import FLAGS, HostLibrary
from hfld_lite.edge.integers import to_integers
from hfld_lite.edge.memory import Memory, activation_memory
from hfld_lite.errors import HfldError
from hfld_lite.evaluation.detector import Detector
from hfld_lite.networks import count_parameters
from hfld_lite.storage.progress import bar

CALIBRATION = 60
"""Inputs that the quantised graph is made with; neither its time nor its memory depends on them."""


class Way(NamedTuple):
    """A way to run a network: program, precision, and whether raw samples go in."""

    runtime: str
    precision: str
    raw: bool


WAYS = (
    Way("torch", "fp32", False),
    Way("torch", "fp32", True),
    Way("ONNX Runtime", "fp32", False),
    Way("ONNX Runtime", "fp32", True),
    Way("ONNX Runtime", "int8", False),
    Way("ONNX Runtime", "int8", True),
    Way("ONNX Runtime", "int8 dynamic", False),
    Way("C", "fp32", False),
    Way("C", "fp32", True),
    Way("C", "int8", False),
    Way("C", "int8", True),
)


@dataclass(frozen=True)
class Costs:
    """What :func:`measure` found.

    Attributes:
        role: of the network that all tables but the first are about.
        networks: a row for each network of the run: ``role``, ``network``, ``parameters``,
            ``fp32_bytes``, ``fp16_bytes``, ``int8_bytes``, ``macs``, ``fp32_ram`` and ``int8_ram``
            (peak of the activations, bytes).
        parts: of :func:`hfld_lite.edge.analysis.sizes`.
        counts: of :func:`hfld_lite.edge.analysis.compare_macs`.
        memory: bytes alive at each operator, by precision.
        times: a row for each way and number of threads: ``runtime``, ``precision``, ``raw``,
            ``threads``, ``p50``, ``p95``, ``p99`` (ms), ``runs``.
        devices: of :func:`hfld_lite.edge.devices.verdicts`, in int8.
        about_c: how C was compiled, or why it was not timed.
    """

    role: str
    networks: pd.DataFrame
    parts: pd.DataFrame
    counts: pd.DataFrame
    memory: dict[str, Memory]
    times: pd.DataFrame
    devices: pd.DataFrame
    about_c: str


def measure(
    detector: Detector,
    role: str = "student",
    *,
    threads: Sequence[int] = (1, 2),
    runs: int = 500,
    linked: Needs | Sequence[Needs] = (),
    progress: bool = True,
) -> Costs:
    """Count and measure what the networks cost, one of them in every detail.

    Args:
        detector: with the networks.
        role: of the network to look at closely.
        threads: numbers of threads to time it on.
        runs: calls timed, after a tenth as many to warm up (50 for 500).
        linked: sizes of linked programs, for the verdicts; see
            :func:`hfld_lite.edge.devices.judge`.
        progress: show a bar.

    Raises:
        HfldError: if no network has that role.
        ArgumentError: if a number is too small, or linked sizes are of no Cortex-M.
    """
    network = detector.network(role)
    signals = noise(CALIBRATION, detector.samples)
    inputs = detector.inputs(signals).cpu().numpy()
    shape = inputs.shape[1:]
    rows, memory = [], {}
    for name, net in detector.networks.items():
        model = to_onnx(net, shape)
        graphs = {"fp32": model, "int8": quantise(model, inputs)}
        found = memory[name] = {kind: activation_memory(graph) for kind, graph in graphs.items()}
        rows.append(
            {
                "role": name,
                "network": detector.describe(name),
                "parameters": count_parameters(net),
                **{f"{kind}_bytes": stored_bytes(net, kind) for kind in ("fp32", "fp16", "int8")},
                "macs": count_macs(net, shape),
                **{f"{kind}_ram": peak.peak for kind, peak in found.items()},
            }
        )
    times, about_c = _times(detector, role, signals, threads, runs, progress)
    return Costs(
        role,
        pd.DataFrame(rows),
        sizes(network),
        compare_macs(network, shape),
        memory[role],
        times,
        verdicts(network, shape, "int8", inputs, linked),
        about_c,
    )


def tables(costs: Costs) -> dict[str, tuple[pd.DataFrame, str]]:
    """The tables in words and units, a string in every cell, each by its title with a note."""
    return {
        "Networks": (
            pd.DataFrame(
                {
                    "role": costs.networks["role"].str.replace("_", " "),
                    "network": costs.networks["network"],
                    "parameters": costs.networks["parameters"].map("{:,}".format),
                    **{
                        f"{kind.upper()} kB": _kilobytes(costs.networks[f"{kind}_bytes"])
                        for kind in ("fp32", "fp16", "int8")
                    },
                    "MACs": costs.networks["macs"].map(lambda macs: f"{macs / 1e6:.2f} M"),
                    **{
                        f"RAM {kind.upper()} kB": _kilobytes(costs.networks[f"{kind}_ram"])
                        for kind in ("fp32", "int8")
                    },
                }
            ),
            "kB are 1,000 bytes: of the weights with batch norm folded (INT8: biases and scales "
            "included), and of the activations at their peak (RAM). Files, runtimes: on top.",
        ),
        f"Bytes by part of the {_words(costs.role)}": (
            pd.DataFrame(
                {
                    "part": costs.parts["part"],
                    "parameters": costs.parts["parameters"].map("{:,}".format),
                    **{
                        f"{kind.upper()} kB": _kilobytes(costs.parts[f"{kind}_bytes"])
                        for kind in ("fp32", "fp16", "int8")
                    },
                }
            ),
            "Parameters as trained, batch norm's among them.",
        ),
        f"Operations of the {_words(costs.role)}, counted three ways": (
            pd.DataFrame(
                {
                    "method": costs.counts["method"],
                    "MACs": costs.counts["macs"].map("{:,}".format),
                    "difference": costs.counts["difference"].map("{:+,}".format),
                    "reason": costs.counts["reason"],
                }
            ),
            "For one recording; the first row is the number used everywhere else.",
        ),
        f"Time of the {_words(costs.role)}, one recording": (
            pd.DataFrame(
                {
                    "runtime": costs.times["runtime"],
                    "precision": costs.times["precision"].str.upper(),
                    "preprocessing": costs.times["raw"].map({True: "with", False: "without"}),
                    "threads": costs.times["threads"].astype(str),
                    **{
                        f"{name} ms": costs.times[name].map("{:.3f}".format)
                        for name in ("p50", "p95", "p99")
                    },
                }
            ),
            f"Measured here ({processor()}), {costs.times['runs'].max()} runs each after warm-up: "
            "median, 95th and 99th percentile. INT8 is quantised statically, INT8 DYNAMIC for "
            f"comparison. Runtimes and precisions compare only within this table. {costs.about_c}",
        ),
        "Devices, in INT8": (
            device_table(costs.devices),
            "Estimated sizes are the weights (flash) and the activations (RAM); code, stack and "
            "runtime come on top. Linked sizes are read from a program and include them. The time "
            "is the network's MACs over the data sheet's rate: an estimate from below, without "
            "preprocessing, nothing measured. "
            "`hfld edge RUN --device NAME` names the source of each figure of a device.",
        ),
    }


def chip_tables(
    rows: Sequence[dict[str, Any]], parts: Sequence[dict[str, Any]]
) -> dict[str, tuple[pd.DataFrame, str]]:
    """What emulated cores answered, and where the bytes of their programs are.

    Args:
        rows: of :attr:`hfld_lite.app.on_chip.OnChip.table`, each with its ``core``.
        parts: of :meth:`hfld_lite.edge.chip.Linked.sizes_by_part`, each with core and precision.

    Returns:
        Tables in words with a note each, by title.
    """
    answers = [
        (
            row["core"],
            row["precision"],
            f"{row['flash_bytes']:,}",
            f"{row['arena_bytes']:,}",
            f"{row['stack_bytes']:,}",
            f"{row['instructions'] / 1e6:.2f} M",
            f"{row['view_instructions'] / row['instructions']:.0%}",
            f"{row['accuracy']:.1%}",
            _change(row),
            f"{row['from_torch']:.1e}",
            f"{row['from_host']:.1e}",
        )
        for row in rows
    ]
    wide = pd.DataFrame(parts).pivot(
        index=["core", "precision"], columns=["memory", "part"], values="bytes"
    )
    wide = wide.reindex(pd.DataFrame(rows)[["core", "precision"]].apply(tuple, axis=1).tolist())
    wide = wide[wide.columns[wide.sum() > 0]]
    sizes = wide.map("{:,.0f}".format)
    sizes.columns = [f"{memory}: {part}" for memory, part in wide.columns]
    columns = ["core", "precision", "flash", "static RAM", "stack", "instructions"]
    columns += ["before the network", "accuracy", "change, points", "off torch", "off Python"]
    return {
        "On the chip": (
            pd.DataFrame(answers, columns=columns),
            "Bytes of the linked program; instructions, not cycles, of one inference (median), and "
            "the share of them before the network. The change is from torch's accuracy, with its "
            "paired 95 % interval. Largest differences of a probability: from torch's, and from "
            "the same operations computed here.",
        ),
        "Where the bytes are": (
            sizes.reset_index(),
            "The recording buffer is the caller's: here floats, half as large with 16-bit samples.",
        ),
    }


def _change(row: dict[str, Any]) -> str:
    """A difference in accuracy, in points; an interval without width would look like proof."""
    if row["change"] == row["change_low"] == row["change_high"] == 0:
        return "none seen"
    low, high = row["change_low"], row["change_high"]
    return f"{100 * row['change']:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


def device_table(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Verdicts of :func:`hfld_lite.edge.devices.verdicts` in words."""

    def share(need: int, limit: object, fits: bool, unit: str) -> str:
        if pd.isna(limit):
            return "no limit"
        return f"{'' if fits else 'NO, '}{_short(need, unit)} of {_short(limit, unit)}"

    rows = verdicts.itertuples()
    return pd.DataFrame(
        [
            (
                row.device,
                "yes" if row.fits else "NO",
                share(row.flash_needed, row.flash_available, row.flash_fits, "B"),
                share(row.ram_needed, row.ram_available, row.ram_fits, "B"),
                share(row.macs, row.macs_limit, row.macs_fit, ""),
                sizes_in_words(row),
                "–" if pd.isna(row.estimate_ms) else f"{row.estimate_ms:.3g}",
            )
            for row in rows
        ],
        columns=["device", "fits", "flash", "RAM", "MACs", "sizes", "estimate, ms"],
    )


def sources_table() -> pd.DataFrame:
    """Of each device, the documents that its figures are from, and what to know about them."""
    columns = {"device": "name", "figures from": "source", "note": "note"}
    return pd.DataFrame({title: [getattr(d, k) for d in DEVICES] for title, k in columns.items()})


def _short(number: int, unit: str) -> str:
    """A number in thousands, millions or thousands of millions, to three digits."""
    for power, letter in ((9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.3g} {letter}{unit}"
    return f"{number} {unit}".rstrip()


def _kilobytes(column: pd.Series) -> pd.Series:
    return column.map(lambda size: f"{size / 1000:,.1f}")


def _words(role: str) -> str:
    return role.replace("_", " ")


def _times(
    detector: Detector,
    role: str,
    signals: np.ndarray,
    threads: Sequence[int],
    runs: int,
    progress: bool,
) -> tuple[pd.DataFrame, str]:
    """Times of all ways, and a sentence about C, which has one thread."""
    rows, said = [], f"C is compiled by cc {FLAGS[0]}, and has one thread."
    with tempfile.TemporaryDirectory() as place:
        calls, ways = Calls(detector, role, signals, Path(place)), WAYS
        try:
            calls.libraries  # noqa: B018 (compiles)
        except HfldError as error:
            said = f"C is not timed: {error}"
            ways = [way for way in WAYS if way.runtime != "C"]
        todo = [(n, way) for n in threads for way in ways if way.runtime != "C" or n == 1]
        for count, way in bar(todo, desc="timing", progress=progress, leave=False):
            found = latency(calls.call(way, count), count, runs // 10, runs)
            rows.append(way._asdict() | asdict(found))
    return pd.DataFrame(rows), said


class Calls:
    """The ways to run one recording through a network; each is exported and compiled once.

    Args:
        detector: with the network.
        role: of the network.
        signals: raw recordings, which calibrate the eight bits; the first is run.
        folder: for the C.
    """

    def __init__(self, detector: Detector, role: str, signals: np.ndarray, folder: Path) -> None:
        self.detector, self.role, self.folder = detector, role, folder
        self.signals = np.asarray(signals, np.float32)
        self.seen = detector.inputs(self.signals).cpu()
        self.models: dict[bool, onnx.ModelProto] = {}

    @cached_property
    def libraries(self) -> dict[str, HostLibrary]:
        """The C, by precision; an HfldError if there is no compiler, or an unknown operator."""
        program = program_of(self.detector, self.role)
        both = {"fp32": program, "int8": to_integers(program, self.seen)}
        return {k: HostLibrary(self.detector, v, self.folder / k) for k, v in both.items()}

    def call(self, way: Way, threads: int = 1) -> Callable[[], Any]:
        """A function that runs the recording by one way (of C without its view: to the logits)."""
        detector, read = self.detector, self.signals if way.raw else self.seen.numpy()
        if way.runtime == "C":
            library = self.libraries[way.precision]
            return partial(library.predict if way.raw else library.network, read[0])
        if way.runtime == "torch":
            network, signal = detector.network(self.role), self.signals[:1]
            seen = detector.inputs(signal)

            @torch.inference_mode()
            def run() -> object:
                return torch.softmax(
                    network(detector.inputs(signal) if way.raw else seen).logits, 1
                )

            return run
        if way.raw not in self.models:
            self.models[way.raw] = to_onnx(
                detector.network(self.role),
                tuple(self.seen.shape[1:]),
                recipe=detector.recipe if way.raw else None,
                samples=detector.samples,
                sample_rate=detector.sample_rate,
            )
        model = self.models[way.raw]
        if way.precision == "int8":
            model = quantise(model, read)
        elif way.precision != "fp32":
            model = quantise_dynamically(model)
        return partial(session(model, threads).run, None, {INPUT: read[:1]})
