"""A trained network as C: a folder that compiles anywhere, with a test, a Makefile and a README.

Everything from raw samples to *sound, defective* or *unsure* is in it, in float32 and in eight
bits. Results are the same bits on every processor, since only operations are used that IEEE 754
rounds exactly.
"""

import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from jinja2 import Template

from hfld_lite.data.recordings import Recordings
from hfld_lite.data.splits import Split
from hfld_lite.edge.c_code import c_table, float32_source, int8_source, network_header
from hfld_lite.edge.c_view import view_config
from hfld_lite.edge.deploy import (
    CALIBRATED,
    COMPARED,
    TOLERANCE,
    before_and_after,
    noise,
    some_signals,
    used_of_a_file,
)
from hfld_lite.edge.export import to_onnx
from hfld_lite.edge.integers import Integers, to_integers
from hfld_lite.edge.program import Program, place, read_program
from hfld_lite.errors import ArgumentError, HfldError, RecipeError
from hfld_lite.evaluation.detector import Detector, trust_of
from hfld_lite.evaluation.metrics import Evaluation
from hfld_lite.evaluation.trust import Trust
from hfld_lite.version import __version__

FORMATS = ("c", "c-float32")

PRECISIONS = ("int8", "float32")

COPIED = ("hfld.c", "hfld_kernels.h", "hfld_math.h", "hfld_view.c", "hfld_view.h", "main.c")

LONGEST_IDENTIFIER = 63
"""Characters of a name that every C99 compiler tells apart."""

TESTED = 2
"""Recordings in the test vector, of different classes where there are recordings."""

LOOSE = 0.05
"""By how much a probability in eight bits may differ from Python's: the last digit of the view can
move an input by one step of 256."""


@dataclass(frozen=True)
class Firmware:
    """What was written.

    Attributes:
        folder: with the C files.
        files: their names, relative to the folder.
        precisions: that can be compiled; the first is the default.
        difference: largest difference of a probability of the float32 operations from torch's.
        compared: recordings that were compared.
        constants, memory: bytes of the network's constants and of its activations, by precision.
        notes: sentences about names that were changed.
        trust: limits in the default precision; None if there are none.
        before, after, change: test figures in float32 and in eight bits, and the paired difference,
            if int8 was exported.
    """

    folder: Path
    files: tuple[str, ...]
    precisions: tuple[str, ...]
    difference: float
    compared: int
    constants: dict[str, int]
    memory: dict[str, int]
    notes: tuple[str, ...]
    trust: Trust | None
    before: Evaluation | None = None
    after: Evaluation | None = None
    change: tuple[float, float, float] | None = None


def export_firmware(
    detector: Detector,
    folder: str | Path,
    format: str = "c",
    *,
    role: str = "student",
    trust: Trust | None = None,
    miss_rate: float | None = None,
    recordings: Callable[[], Recordings] | None = None,
    split: Split | None = None,
) -> Firmware:
    """Write a network as C.

    The eight bits are calibrated on CALIBRATED training recordings; their limit of *unsure* is set
    by their own answers on the validation part, and the test part gives the change in accuracy.

    Args:
        detector: with the network.
        folder: to be made; files of the same names in it are replaced.
        format: ``"c"`` (float32 and int8) or ``"c-float32"``, which needs no recordings.
        role: of the network.
        trust: the limits of *unsure* and of the warnings, in float32; None for none.
        miss_rate: promised share of defective recordings called sound, in place of ``trust``'s.
        recordings: reads what the network was trained on; called for int8 and for a miss rate.
        split: of these recordings.

    Raises:
        ArgumentError: if the format is unknown, the network has an operator that is not written in
            C (named), recordings are needed and not given, or the miss rate cannot be promised.
        DataError: if there are too few recordings to calibrate with.
        HfldError: if no network has that role, or the operations differ from torch's network.
        RecipeError: if the folder cannot be written.
    """
    if format not in FORMATS:
        raise ArgumentError(f"format is {format!r}; choose one of {', '.join(FORMATS)}.")
    eight_bits = format == "c"
    needed = eight_bits or miss_rate is not None
    if needed and (recordings is None or split is None):
        raise ArgumentError(
            "recordings and split are needed for eight bits and for a miss rate; give both, or "
            "export in the format 'c-float32' without a miss rate."
        )
    program = program_of(detector, role)
    signals = noise(COMPARED, detector.samples)
    figures, integers, own = {}, None, trust
    if needed:
        read = recordings()
        signals = some_signals(read, np.arange(len(read)), COMPARED)
    difference = _difference(program, detector, signals, role)
    if difference > TOLERANCE:
        raise HfldError(
            f"The operations of the {role} in C differ from torch's by {difference:.1e} in a "
            f"probability (more than {TOLERANCE:g}), so nothing was written; export it as onnx."
        )
    if miss_rate is not None:
        trust = own = trust_of(detector, read, split, detector.predictor(role), miss_rate)
    if eight_bits:
        calibration = some_signals(read, split.train, CALIBRATED)
        integers = to_integers(program, detector.inputs(calibration).cpu())
        predict = predictor(integers, detector)
        figures = before_and_after(predict, detector, read.select(split.test), role)
        if trust is not None and len(split.validation):
            own = trust_of(detector, read, split, predict, miss_rate)
    tested = signals[:TESTED]
    if needed:
        tested = _one_of_each(read, split.test if len(split.test) else np.arange(len(read)))
    names, notes = identifiers(detector.class_names)
    texts = _texts(detector, program, integers, (trust, own), names)
    texts["test_vector.h"] = _test_vector(detector, program, integers, tested)
    facts = _facts(detector, role, program, integers, own if eight_bits else trust)
    made = Firmware(
        Path(folder),
        tuple(sorted(_write(Path(folder), texts, facts))),
        PRECISIONS if eight_bits else PRECISIONS[1:],
        difference,
        len(signals),
        facts["bytes"],
        facts["network_memory"],
        tuple(notes),
        own,
        **figures,
    )
    return made


def program_of(detector: Detector, role: str = "student") -> Program:
    """The operations of a detector's network; errors as :func:`export_firmware` says."""
    network = detector.network(role)
    length = tuple(detector.inputs(noise(1, detector.samples)).shape[1:])
    if len(length) > 1:
        raise ArgumentError(
            f"The network reads inputs of shape {length}; C is written for rows of values only."
        )
    return read_program(to_onnx(network, length))


def predictor(
    network: Program | Integers, detector: Detector
) -> Callable[[np.ndarray], np.ndarray]:
    """From raw recordings ``(n, samples)`` to probabilities, as the C computes them."""

    def predict(signals: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(signals), COMPARED):
            logits = network.run(detector.inputs(signals[start : start + COMPARED]).cpu())[-1]
            parts.append(torch.softmax(logits[:, :, 0].float(), 1).numpy())
        return np.concatenate(parts)

    return predict


def identifiers(names: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """A name in C for each class, ``HFLD_CLASS_…``, and sentences about those that were changed.

    Letters other than A to Z become underscores; names that are too long or equal in C get their
    number in place of the end.
    """
    plain = ["HFLD_CLASS_" + re.sub(r"[^A-Z0-9]", "_", name.upper()) for name in names]
    found, notes = [], []
    for number, name in enumerate(plain):
        twice = plain.count(name) > 1
        if twice or len(name) > LONGEST_IDENTIFIER:
            end = f"_{number}"
            found.append(name[: LONGEST_IDENTIFIER - len(end)] + end)
            why = "another class has the same name in C" if twice else "its name is too long for C"
            notes.append(f"The class {names[number]!r} is {found[-1]} in hfld.h, since {why}.")
        else:
            found.append(name)
    return found, notes


def _difference(program: Program, detector: Detector, signals: np.ndarray, role: str) -> float:
    expected = detector.predict(signals, detector.sample_rate, role)
    return float(np.abs(predictor(program, detector)(signals) - expected).max())


def _one_of_each(recordings: Recordings, rows: np.ndarray) -> np.ndarray:
    """Signals of the first recordings of TESTED classes."""
    _, first = np.unique(recordings.labels[rows], return_index=True)
    return np.asarray(recordings.signals[rows[np.sort(first)][:TESTED]], np.float32)


def _texts(
    detector: Detector,
    program: Program,
    integers: Integers | None,
    trusts: tuple[Trust | None, Trust | None],
    names: list[str],
) -> dict[str, str]:
    """The generated files of the network and its view."""
    exact, small = ("2.0f" if t is None else f"{t.limit:.9g}" for t in trusts)
    exact, small = (v if v.endswith("f") else v + ("f" if "." in v else ".0f") for v in (exact, small))
    constants = "\n".join(f"    {name} = {i}," for i, name in enumerate(names))
    return {
        "hfld.h": _template("hfld.h").render(
            classes=len(names),
            samples=detector.samples,
            rate=detector.sample_rate,
            constants=constants,
            part=used_of_a_file(detector),
            version=__version__,
        ),
        "hfld_config.h": _template("hfld_config.h").render(
            exact=exact,
            small=small,
            view=view_config(detector, trusts[0]),
            names=", ".join(map(c_string, detector.class_names)),
            answers=", ".join(map(c_string, detector.answers)),
        ),
        "hfld_network.h": network_header(program, integers is not None),
        "hfld_float32.c": float32_source(program),
        "hfld_int8.c": "" if integers is None else int8_source(integers),
    }


def c_string(text: str) -> str:
    """A text as C has it: what is not plain ASCII as octal bytes of UTF-8."""
    plain = (chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}" for b in text.encode())
    return '"' + "".join(plain) + '"'


def _test_vector(
    detector: Detector, program: Program, integers: Integers | None, signals: np.ndarray
) -> str:
    def answers(network: Program | Integers) -> str:
        found = predictor(network, detector)(signals)
        return ", ".join("{" + ", ".join(f"{p:.6f}f" for p in row) + "}" for row in found)

    samples = "\n".join(
        "    {" + ", ".join(f"{value:.9e}f" for value in row.tolist()) + "}," for row in signals
    )
    return _template("test_vector.h").render(
        count=len(signals),
        samples=samples,
        exact=answers(program),
        small=integers and answers(integers),
        tolerance=TOLERANCE,
        loose=LOOSE,
    )


def _facts(
    detector: Detector,
    role: str,
    program: Program,
    integers: Integers | None,
    trust: Trust | None,
) -> dict[str, object]:
    """What README.md and the Arduino library say."""
    return {}


def _template(name: str) -> Template:
    text = resources.files("hfld_lite.edge").joinpath(f"templates/c/{name}").read_text("utf-8")
    return Template(text, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
