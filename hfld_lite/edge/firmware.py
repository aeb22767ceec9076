"""A trained network as C: a folder that compiles anywhere, with a test, a Makefile and a README.

Everything from raw samples to *sound, defective* or *unsure* is in it, in float32 and in eight
bits. Results are the same bits on every processor, since only operations are used that IEEE 754
rounds exactly.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from jinja2 import Template
from torch import nn

from hfld_lite.data.recordings import Recordings
from hfld_lite.data.splits import Split
from hfld_lite.edge.c_code import c_number, float32_source, int8_source, network_header
from hfld_lite.edge.c_view import view_config
from hfld_lite.edge.deploy import (
    COMPARED,
    TOLERANCE,
    before_and_after,
    calibrating,
    noise,
    own_limit,
    part_of,
    some_signals,
)
from hfld_lite.edge.export import to_onnx
from hfld_lite.edge.integers import Integers, to_integers
from hfld_lite.edge.program import Program, place, read_program
from hfld_lite.errors import ArgumentError, HfldError, RecipeError
from hfld_lite.evaluation.detector import Detector, trust_of
from hfld_lite.evaluation.metrics import Evaluation
from hfld_lite.evaluation.scores import Distance
from hfld_lite.evaluation.trust import Trust
from hfld_lite.storage.files import write_whole
from hfld_lite.version import __version__

FORMATS = ("c", "c-float32")

PRECISIONS = ("int8", "float32")

COPIED = ("hfld.c", "hfld_kernels.h", "hfld_math.h", "hfld_view.c", "hfld_view.h")

LONGEST_IDENTIFIER = 63
"""Characters of a name that every C99 compiler tells apart."""

TESTED = 2
"""Recordings in the test vector, of different classes where there are recordings."""

LOOSE = 0.005
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
        constants, memory: bytes of the network's constants, and of the static memory with
            preprocessing and warnings, by precision.
        predict: by precision, from raw recordings ``(n, samples)`` to the probabilities that the C
            computes.
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
    predict: dict[str, Callable[[np.ndarray], np.ndarray]]
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

    The eight bits are calibrated on training recordings, see `calibrating`; their limit of *unsure*
    is set by their own answers on the validation part, and the test part gives the change in
    accuracy.

    Args:
        detector: with the network.
        folder: to be made; files of an earlier export in it are replaced.
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
        RecipeError: if the folder cannot be written, or has other files of the same names.
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
    if not difference <= TOLERANCE:  # it may be NaN
        raise HfldError(
            f"The operations of the {role} in C differ from torch's by {difference:.1e} in a "
            f"probability (more than {TOLERANCE:g}), so nothing was written; export it as onnx."
        )
    if miss_rate is not None:
        trust = own = trust_of(detector, read, split, detector.predictor(role), miss_rate)
    if eight_bits:
        network = detector.network(role)
        calibration = detector.inputs(calibrating(read, split, network)).cpu()
        integers = to_integers(program, calibration)
        if isinstance(network, Distance):
            own_network = own_limit(network, predictor(integers, detector), read, split)
            own_program = read_program(to_onnx(own_network, input_length(detector)))
            integers = to_integers(own_program, calibration)
        predict = predictor(integers, detector)
        figures = before_and_after(predict, detector, read.select(split.test), role)
        if len(split.validation):
            own = trust_of(detector, read, split, predict, miss_rate)
    tested = signals[:TESTED]
    if needed:
        tested = _one_of_each(read, split.test if len(split.test) else np.arange(len(read)))
    texts = sources(detector, program, integers, trust, own)
    texts["test_vector.h"] = _test_vector(detector, program, integers, tested)
    precisions = PRECISIONS if eight_bits else PRECISIONS[1:]
    sizes = _bytes(program, integers, texts["hfld_config.h"])
    values = {
        "version": __version__,
        "network": detector.describe(role),
        "role": role.replace("_", " "),
        "option": "" if role == "student" else f" --role {role}",
        "samples": detector.samples,
        "rate": detector.sample_rate,
        "part": part_of(detector).words,
        "windows": part_of(detector).kind == "windows",
        "classes": ", ".join(detector.class_names),
        "precisions": precisions,
        "promise": _promise(detector.network(role), own),
        **sizes,
    }
    texts["main.c"] = _read("main.c")
    for name in ("README.md", "Makefile", "arduino/library.properties", "arduino/classify.ino"):
        texts[Path(name).name] = _template(name).render(**values)
    return Firmware(
        Path(folder),
        tuple(_write(Path(folder), texts)),
        precisions,
        difference,
        len(signals),
        dict(zip(precisions, sizes["constants"], strict=True)),
        dict(zip(precisions, sizes["warnings"], strict=True)),
        {
            name: predictor(program if name == "float32" else integers, detector)
            for name in precisions
        },
        tuple(identifiers(detector.class_names)[1]),
        own,
        **figures,
    )


def _promise(network: nn.Module, trust: Trust | None) -> str:
    """What the answers are worth, for the README."""
    said = trust.promise if trust else 'The run has no limits, so it never answers "unsure".'
    if isinstance(network, Distance):
        said += (
            f" It learned from good parts alone: on average at most {float(network.rate):.2%} of "
            "good recordings are called defective; how many defects are missed is not promised."
        )
    return said


def program_of(detector: Detector, role: str = "student") -> Program:
    """The operations of a detector's network; errors as :func:`export_firmware` says."""
    return read_program(to_onnx(detector.network(role), input_length(detector)))


def input_length(detector: Detector) -> int:
    """Values that a detector's networks read of a recording."""
    return detector.inputs(noise(1, detector.samples)).shape[1]


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
            while name[: LONGEST_IDENTIFIER - len(end)] + end in (*plain, *found):
                end = "_" + end
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


def sources(
    detector: Detector,
    program: Program,
    integers: Integers | None,
    exact: Trust | None = None,
    small: Trust | None = None,
) -> dict[str, str]:
    """The files that are compiled, by name: the network, its view, and what calls them.

    Args:
        detector: with the network.
        program: its operations.
        integers: the same in eight bits; None for float32 only.
        exact, small: limits of *unsure* in float32 and in eight bits; the warnings' are the same.
    """
    names, _ = identifiers(detector.class_names)
    # No doubt is 2: without limits nothing is unsure.
    limits = [c_number(np.float32(2.0 if each is None else each.limit)) for each in (exact, small)]
    texts = {
        "hfld.h": _template("hfld.h").render(
            classes=len(names),
            samples=detector.samples,
            rate=detector.sample_rate,
            constants="\n".join(f"    {name} = {i}," for i, name in enumerate(names)),
            part=part_of(detector).words,
            version=__version__,
        ),
        "hfld_config.h": _template("hfld_config.h").render(
            exact=limits[0],
            small=limits[1],
            view=view_config(detector, exact or small),
            names=", ".join(map(c_string, detector.class_names)),
            answers=", ".join(map(c_string, detector.answers)),
        ),
        "hfld_network.h": network_header(program, integers is not None),
        "hfld_float32.c": float32_source(program),
    }
    if integers is not None:
        texts["hfld_int8.c"] = int8_source(integers)
    return texts | {name: _read(name) for name in COPIED}


def c_string(text: str) -> str:
    """A text as C has it: what is not plain ASCII as octal bytes of UTF-8."""
    plain = (
        chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}" for b in text.encode()
    )
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


def _bytes(program: Program, integers: Integers | None, config: str) -> dict[str, list[int]]:
    """Bytes of the network's constants and of what it needs of memory, by precision."""
    length, view, doubt = (
        int(re.search(rf"#define HFLD_{name} (\d+)", config)[1])
        for name in ("LENGTH", "VIEW_WORK", "DOUBT_WORK")
    )
    constants = [
        4 * sum(o.weight.size + o.bias.size for o in program.operations if o.kind == "conv")
    ]
    memory = [place(program, 4).bytes]
    if integers is not None:
        tables = [table for numbers in integers.numbers for table in vars(numbers).values()]
        constants.insert(0, sum(t.nbytes for t in tables if t is not None))
        memory.insert(0, place(program, 1).bytes)
    predict = [max(need, 4 * (length + view)) for need in memory]
    warned = [max(need, 4 * doubt) for need in predict]
    return {"constants": constants, "memory": memory, "predict": predict, "warnings": warned}


def _write(folder: Path, texts: dict[str, str]) -> list[str]:
    """Write the folder and the library for Arduino, which has the same files; return the names."""
    library = Path("arduino") / "hfld_detector"
    contents = {Path(name): text for name, text in texts.items()}
    for path, text in list(contents.items()):
        if path.name.startswith("hfld"):
            contents[library / "src" / path] = text
    contents[library / "library.properties"] = contents.pop(Path("library.properties"))
    sketch = library / "examples" / "classify" / "classify.ino"
    contents[sketch] = contents.pop(Path("classify.ino"))
    if (folder / "run.json").exists():
        raise RecipeError(f"{folder} is a run's own folder; choose another one for the C.")
    foreign = [path for path in contents if (folder / path).exists()]
    if foreign and not (folder / "hfld_network.h").exists():  # of an earlier export
        raise RecipeError(
            f"{folder} has a {foreign[0]} that no export of C wrote; choose another folder."
        )
    try:
        for path, text in contents.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            write_whole(folder / path, text)
        for place_of in (folder, folder / library / "src"):
            if "hfld_int8.c" not in texts:  # of an earlier export
                (place_of / "hfld_int8.c").unlink(missing_ok=True)
    except OSError as error:
        raise RecipeError(
            f"{folder} cannot be written ({error.strerror}); choose another folder."
        ) from error
    return sorted(map(str, contents))


def _read(name: str) -> str:
    return resources.files("hfld_lite.edge").joinpath(f"templates/c/{name}").read_text("utf-8")


def _template(name: str) -> Template:
    return Template(_read(name), trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
