"""A trained network on its way to a device: exported, compared with torch, with its own program.

The folder that is written holds one ONNX file and ``predict.py``, a program of under 220 lines that
needs only numpy and onnxruntime. Its settings (classes, sample rate, preprocessing, the limits of
`trust`) are in the ONNX file's metadata, as JSON under ``hfld_lite``.
"""

import inspect
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from torch import nn

from hfld_lite.data import parts
from hfld_lite.data.good_parts import PITCHES, at_pitch
from hfld_lite.data.parts import NO_ONSET, Part, average
from hfld_lite.data.recordings import Recordings
from hfld_lite.data.splits import Split
from hfld_lite.edge.export import (
    FACTS,
    INPUT,
    OPSET,
    quantise,
    quantise_dynamically,
    session,
    to_onnx,
)
from hfld_lite.edge.front import doubts, front
from hfld_lite.errors import ArgumentError, HfldError, RecipeError
from hfld_lite.evaluation.detector import Detector, trust_of
from hfld_lite.evaluation.good_parts import sound_rows
from hfld_lite.evaluation.metrics import Evaluation, evaluate, paired_interval
from hfld_lite.evaluation.scores import Distance, with_own_limit
from hfld_lite.evaluation.trust import Trust
from hfld_lite.version import __version__

FORMATS = ("onnx", "onnx-int8", "onnx-int8-dynamic")
TOLERANCE = 1e-4
"""The largest difference of a probability from torch's that an export in float32 may have."""

COMPARED, CALIBRATED = 500, 200
"""Recordings that an export is compared with torch on; training recordings that calibrate."""


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        model, program: the files.
        bytes: of the model's file.
        difference: the largest difference of a probability from torch's.
        compared: number of recordings that were compared.
        reads: a sentence about the files that the program reads.
        trust: the limits that the program uses; None if there are none.
        before, after: test figures of torch's network and of the file, where it is quantised.
        change: mean difference in test accuracy and its 95 % interval, where it is quantised.
    """

    model: Path
    program: Path
    bytes: int
    difference: float
    compared: int
    reads: str
    trust: Trust | None
    before: Evaluation | None = None
    after: Evaluation | None = None
    change: tuple[float, float, float] | None = None


def export_network(
    detector: Detector,
    folder: str | Path,
    format: str = "onnx",
    *,
    role: str = "student",
    raw: bool = False,
    opset: int = OPSET,
    trust: Trust | None = None,
    miss_rate: float | None = None,
    recordings: Callable[[], Recordings] | None = None,
    split: Split | None = None,
    hop: int | None = None,
) -> Export:
    """Write a network for a device, and the program that uses it there.

    In float32 the file's probabilities must equal torch's within TOLERANCE; noise is enough for
    that comparison, so recordings are not needed. In eight bits, CALIBRATED training recordings
    give the ranges of the activations, the quantised network's answers on the validation part give
    the limits of *unsure*, and the test part gives the change in accuracy.

    Args:
        detector: with the network.
        folder: to be made; ``ROLE.onnx`` and ``predict.py`` in it are replaced.
        format: ``"onnx"`` (float32), ``"onnx-int8"`` (static) or ``"onnx-int8-dynamic"``, for the
            lesson.
        role: of the network.
        raw: put the preprocessing into the graph, so that raw samples go in.
        opset: version of ONNX's operators.
        trust: the limits of *unsure* that the program uses in float32; by default it never says so.
        miss_rate: promised share of defective recordings called sound, in place of that of
            ``trust``.
        recordings: reads what the network was trained on; called in eight bits, and for a miss
            rate.
        split: of these recordings.
        hop: samples from one window of a long recording to the next; by default a recording has
            one window.

    Raises:
        ArgumentError: if the format or the opset is unknown, recordings or their split are needed
            and not given, or the miss rate cannot be promised.
        DataError: if there are too few recordings to calibrate with.
        HfldError: if no network has that role, or the file's probabilities differ from
            torch's.
        RecipeError: if the folder cannot be written.
    """
    if format not in FORMATS:
        raise ArgumentError(f"format is {format!r}; choose one of {', '.join(FORMATS)}.")
    needed = format != "onnx" or miss_rate is not None
    if needed and (recordings is None or split is None):
        raise ArgumentError(
            "recordings and split are needed for eight bits and for a miss rate; give both, or "
            "export in the format 'onnx' without a miss rate."
        )
    network = detector.network(role)
    length = detector.inputs(noise(1, detector.samples)).shape[1]
    recipe = detector.recipe if raw else None

    def as_model(network: nn.Module) -> onnx.ModelProto:
        return to_onnx(
            network,
            length,
            recipe=recipe,
            samples=detector.samples,
            sample_rate=detector.sample_rate,
            opset=opset,
        )

    model = as_model(network)
    exact = _Answers(model, detector, raw)
    signals, figures = noise(COMPARED, detector.samples), {}
    if needed:
        read = recordings()
        signals = some_signals(read, np.arange(len(read)), COMPARED)
    if miss_rate is not None:
        trust = trust_of(detector, read, split, detector.predictor(role), miss_rate)
    difference = _difference(exact, detector, signals, role)
    if difference > TOLERANCE:
        raise HfldError(
            f"The exported {role} differs from torch's by {difference:.1e} in a probability (more "
            f"than {TOLERANCE:g}), so it was not written; choose the opset {OPSET}."
        )

    def in_eight_bits(exact: onnx.ModelProto) -> onnx.ModelProto:
        if format != "onnx-int8":
            return quantise_dynamically(exact)
        inputs = _Answers(exact, detector, raw).inputs(calibrating(read, split, network))
        return quantise(exact, inputs)

    if format != "onnx":
        exact = model
        model = in_eight_bits(exact)
        if isinstance(network, Distance):
            network = own_limit(network, _Answers(model, detector, raw), read, split)
            model = in_eight_bits(as_model(network))
        small = _Answers(model, detector, raw)
        difference = _difference(small, detector, signals, role)
        figures = before_and_after(small, detector, read.select(split.test), role)
        if len(split.validation):
            trust = trust_of(detector, read, split, small, miss_rate)
    facts = _facts(detector, role, format, "raw" if raw else detector.recipe.view, length)
    facts |= {"hop": hop, "reads": _reads(detector, hop)}
    _put(model, facts | doubts(trust, detector))
    written = _write(model, Path(folder), role)
    return Export(*written, difference, len(signals), facts["reads"], trust, **figures)


class _Answers:
    """A model's probabilities for raw recordings ``(n, samples)``."""

    def __init__(self, model: onnx.ModelProto, detector: Detector, raw: bool) -> None:
        self.run, self.detector, self.raw = session(model), detector, raw

    def inputs(self, signals: np.ndarray) -> np.ndarray:
        """What the graph reads."""
        read = signals if self.raw else self.detector.inputs(signals).cpu().numpy()
        return np.asarray(read, np.float32)

    def __call__(self, signals: np.ndarray) -> np.ndarray:
        # One by one, as on the device: a dynamic quantisation's range is then one recording's.
        rows = [self.run.run(None, {INPUT: row[None]})[0] for row in self.inputs(signals)]
        return np.concatenate(rows)


def noise(count: int, samples: int) -> np.ndarray:
    """Decaying noise, in place of impacts where there are no recordings."""
    rng = np.random.default_rng(0)
    fading = np.exp(-np.arange(samples) / (samples * rng.uniform(0.02, 0.5, (count, 1))))
    return (fading * rng.standard_normal((count, samples))).astype(np.float32)


def some_signals(recordings: Recordings, rows: np.ndarray, count: int) -> np.ndarray:
    """Signals of at most ``count`` of the rows, drawn at random."""
    chosen = np.random.default_rng(0).permutation(rows)[:count]
    return np.asarray(recordings.signals[np.sort(chosen)])


def calibrating(recordings: Recordings, split: Split, network: nn.Module) -> np.ndarray:
    """Signals of CALIBRATED training recordings, which give the ranges of the activations.

    A network that knows good parts only gets their altered copies too: a defect's activations go
    beyond those of good parts.
    """
    signals = some_signals(recordings, split.train, CALIBRATED)
    if not isinstance(network, Distance):
        return signals
    return np.concatenate([signals, *(at_pitch(signals, pitch) for pitch in PITCHES[1:])])


def own_limit(
    network: Distance,
    predict: Callable[[np.ndarray], np.ndarray],
    recordings: Recordings,
    split: Split,
) -> Distance:
    """A copy of a network for good parts, its limit set by what a form of it for devices says."""
    seen = recordings.select(sound_rows(recordings, split.validation))
    return with_own_limit(network, predict, seen.signals, seen.groups, seen.wholes)


def _difference(answers: _Answers, detector: Detector, signals: np.ndarray, role: str) -> float:
    expected = detector.predict(signals, detector.sample_rate, role)
    return float(np.abs(answers(signals) - expected).max())


def before_and_after(
    small: Callable[[np.ndarray], np.ndarray], detector: Detector, part: Recordings, role: str
) -> dict[str, Any]:
    """Figures before and after quantisation, on the test part; ``small`` gives probabilities."""
    exact = detector.predict(part.signals, part.sample_rate, role)
    before, rows = average(exact, part.wholes)
    after, _ = average(small(part.signals), part.wholes)
    before, after, labels, groups = (
        *(found.argmax(1) for found in (before, after)),
        part.labels[rows],
        part.groups[rows],
    )
    figures = [
        evaluate(found, labels, groups, part.class_names, part.normal_classes)
        for found in (before, after)
    ]
    right = after == labels, before == labels, groups
    change = paired_interval([right], np.random.default_rng(0))[:3]
    return {"before": figures[0], "after": figures[1], "change": change}


def _facts(detector: Detector, role: str, format: str, view: str, length: int) -> dict[str, Any]:
    return {
        "hfld_lite": __version__,
        "network": detector.describe(role),
        "role": role,
        "format": format,
        "class_names": detector.class_names,
        "answers": detector.answers,
        "sample_rate": detector.sample_rate,
        "samples": detector.samples,
        "view": view,
        "cut": detector.recipe.samples,
        "part": asdict(part_of(detector)),
        "no_onset": NO_ONSET,
        "length": detector.samples if view == "raw" else length,
        "front": None if view == "raw" else front(detector),
    }


def part_of(detector: Detector) -> Part:
    """What is used of each file."""
    return detector.part or Part("first", detector.samples)


def _reads(detector: Detector, hop: int | None) -> str:
    """What the program reads, and what it uses of it."""
    part = part_of(detector)
    length = "of any length" if part.pad else f"of {part.samples} samples or more"
    used = f"windows of {part.samples} samples, each a recording" if hop else part.words
    return (
        f"It reads WAV files at {detector.sample_rate} Hz {length}: PCM of 8, 16, 24 or 32 bits, "
        f"or float of 32 or 64 bits; channels are averaged. Of each file it uses {used}."
    )


def _put(model: onnx.ModelProto, facts: dict[str, Any]) -> None:
    entry = model.metadata_props.add()
    entry.key, entry.value = FACTS, json.dumps(facts)
    model.producer_name, model.producer_version = "hfld_lite", __version__


def _write(model: onnx.ModelProto, folder: Path, role: str) -> tuple[Path, Path, int]:
    """Write both files, each whole or not at all."""
    path, program = folder / f"{role}.onnx", folder / "predict.py"
    template = resources.files("hfld_lite.edge").joinpath("templates/predict.py").read_text("utf-8")
    cutting = (parts.frame_powers, parts.onset, parts.starts)
    source = "\n\n".join(inspect.getsource(function) for function in cutting)
    template = template.replace("MODEL_FILE", path.name)
    template = re.sub(r"^starts = \.\.\..*\n", lambda _: source, template, flags=re.MULTILINE)
    contents = {path: model.SerializeToString(), program: template.encode()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for target, content in contents.items():
            part = target.with_name(target.name + ".part")
            part.write_bytes(content)
            os.replace(part, target)
    except OSError as error:
        raise RecipeError(
            f"{folder} cannot be written ({error.strerror}); choose another folder."
        ) from error
    return path, program, len(contents[path])
