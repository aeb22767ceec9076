"""What a run's network says of many files: they are read and answered in batches, as they come.

`hfld predict` and `hfld watch` share this. Only one batch is in memory at a time.
"""

import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hfld_lite.app.facts import OVERLAP
from hfld_lite.app.runs import Run
from hfld_lite.data.parts import NO_ONSET, window_starts
from hfld_lite.data.readers import read_cuts, read_recordings
from hfld_lite.errors import DataError, HfldError, RecipeError

FILES, SAMPLES = 128, 1 << 21
"""A batch has at most so many files, and ends where it has so many samples (8 MiB)."""

NOT_READ, SILENT, AGAIN = "not read", "is constant (silent)", "record it again"


class Answered(NamedTuple):
    """A file with its rows of the output; one that cannot be read has one row, and its error."""

    file: str
    rows: list[dict[str, Any]]
    error: HfldError | None


class _Recording(NamedTuple):
    """One recording of a file: ``stretches[starts]`` is what the network is asked about."""

    where: str
    stretches: np.ndarray
    starts: np.ndarray
    said: tuple[str, ...] = ()
    overlooked: float = 0.0
    length: int = 0


class Answers:
    """One network of a run, asked about files.

    Args:
        run: whose network it is.
        role: of the network.
        variable: in .mat files; by default the training's.
        step: from the start of one window to that of the next, samples; None answers each
            recording as training cut it.

    Raises:
        HfldError: the run has no such network.
    """

    def __init__(
        self, run: Run, role: str, variable: str | None = None, step: int | None = None
    ) -> None:
        run.detector.network(role)
        self.run, self.role, self.step = run, role, step
        self.reading = run.reading | ({"variable": variable} if variable else {})
        self._tells = run.sketch is not None or run.facts.get("seen")  # hfld_lite 0.3.0 or later
        self._ready = False

    @property
    def columns(self) -> list[str]:
        """The fields of a row, in order.

        With windows, a recording has a row of its own, without a number in ``window``, and then
        one for each window; ``start`` and ``end`` are in seconds.
        """
        windows = ["window", "start", "end", "windows", "defective"] if self.step else []
        return [
            *("file", "row", *windows, "answer", "class", "probability"),
            *(f"p_{name}" for name in self.run.detector.class_names),
            *("ms", "trained_on", "overlooked", "warnings", "error"),
        ]

    def fields(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row as it is written: every column, and the warnings as one text."""
        whole = {name: row.get(name) for name in self.columns}
        return whole | {"warnings": "; ".join(row.get("warnings", ()))}

    def each(self, files: Iterable[tuple[str, HfldError | None]]) -> Iterator[list[Answered]]:
        """Read and answer files, a batch at a time, in their order.

        Args:
            files: names, and the reason where it is known that one cannot be read.
        """
        batch: list[tuple[str, list[_Recording], HfldError | None]] = []
        held = 0
        for file, error in files:
            recordings = []
            if error is None:
                try:
                    recordings = self._read(Path(file))
                except HfldError as fault:
                    error = fault
            batch.append((file, recordings, error))
            held += sum(r.length for r in recordings)
            if len(batch) >= FILES or held >= SAMPLES:
                yield self._answered(batch)
                batch, held = [], 0
        if batch:
            yield self._answered(batch)

    def _read(self, file: Path) -> list[_Recording]:
        if self.step is None:
            return [
                _Recording(
                    f"{file}, row {row}",
                    cut.signals,
                    np.arange(len(cut.signals)),
                    (NO_ONSET,) * cut.no_onset,
                    cut.overlooked,
                    cut.signals.size,
                )
                for row, cut in enumerate(read_cuts(file, **self.reading))
            ]
        found, size = [], self.reading["part"].samples
        for row, signal in enumerate(read_recordings(file, **self.reading)):
            where = f"{file}, row {row}"
            if not np.isfinite(signal).all():
                raise DataError(where, "holds NaN or infinity", mend=AGAIN)
            if signal.min() == signal.max():
                raise DataError(where, SILENT, mend=AGAIN)
            length, padded = len(signal), np.pad(signal, (0, max(0, size - len(signal))))
            starts = window_starts(len(padded), size, self.step)
            stretches = np.lib.stride_tricks.sliding_window_view(padded, size)
            found.append(_Recording(where, stretches, starts, length=length))
        return found

    def _answered(
        self, batch: Sequence[tuple[str, list[_Recording], HfldError | None]]
    ) -> list[Answered]:
        try:
            rows = self._rows([one for _, recordings, _ in batch for one in recordings])
        except HfldError as fault:  # one recording cannot be answered: which?
            if len(batch) > 1:
                return [answered for one in batch for answered in self._answered([one])]
            batch, rows = [(batch[0][0], [], fault)], iter(())
        found = []
        for file, recordings, error in batch:
            here = [
                {"file": file, "row": row} | one
                for row, _ in enumerate(recordings)
                for one in next(rows)
            ]
            if error is not None:
                here = [{"file": file, "answer": NOT_READ, "error": str(error)}]
            found.append(Answered(file, here, error))
        return found

    def _rows(self, recordings: Sequence[_Recording]) -> Iterator[list[dict[str, Any]]]:
        """The rows of each recording; all are answered before the first is given."""
        asked = [_Asked(one) for one in recordings]
        for chunk in _chunks(recordings):
            signals = np.concatenate([recordings[i].stretches[at] for i, at in chunk])
            varied = signals.min(1) != signals.max(1)  # a constant window beside others
            begin = 0
            results = self._ask(signals[varied])
            places = np.cumsum(varied) - 1
            for i, at in chunk:
                end = begin + len(at)
                asked[i].take(varied[begin:end], places[begin:end], *results)
                begin = end
        return iter([self._told(one) for one in asked])

    def _ask(self, signals: np.ndarray) -> tuple[np.ndarray, list[list[str]], np.ndarray, float]:
        """Probabilities, warnings, what was trained on, and milliseconds for each signal."""
        detector, trust = self.run.detector, self.run.trust.get(self.role)
        if not len(signals):
            return np.empty((0, len(detector.class_names))), [], np.empty(0, bool), 0.0
        if not self._ready:  # not timed: the first call is slower
            detector.predict(signals[:1], detector.sample_rate, self.role)
            self._ready = True
        start = time.perf_counter()
        probabilities = detector.predict(signals, detector.sample_rate, self.role)
        milliseconds = 1e3 * (time.perf_counter() - start) / len(signals)
        warned = trust.warnings(signals) if trust else [[] for _ in signals]
        known = self.run.learned_from(signals) if self._tells else np.zeros(len(signals), bool)
        return probabilities, warned, known, milliseconds

    def _told(self, asked: "_Asked") -> list[dict[str, Any]]:
        """The row of a recording, and with windows a row for each of them."""
        one, count = asked.recording, len(asked.recording.starts)
        answered = np.flatnonzero(asked.varied)
        if not len(answered):
            raise DataError(one.where, "holds constant (silent) windows only", mend=AGAIN)
        texts = [text for texts in asked.warned for text in texts]
        if self.step is None:
            said = list(dict.fromkeys(texts))
        else:
            texts += ["it is silent in part"] * (count - len(answered))
            said = [f"{text} ({n} of {count} windows)" for text, n in Counter(texts).items()]
        whole = self._answer(np.array(asked.probabilities).mean(0)) | {
            "ms": asked.milliseconds,
            "trained_on": bool(any(asked.known)) if self._tells else None,
            "overlooked": one.overlooked,
            "warnings": [*said, *one.said],
        }
        if self.step is None:
            return [whole]
        rate, size = self.run.detector.sample_rate, self.reading["part"].samples
        rows = [
            {
                "window": number,
                "start": start / rate,
                "end": min(start + size, one.length) / rate,
                "answer": "not answered",
                "error": SILENT,
            }
            for number, start in enumerate(one.starts.tolist())
        ]
        for number, p, warned, known in zip(
            answered, asked.probabilities, asked.warned, asked.known, strict=True
        ):
            rows[number] |= self._answer(p) | {
                "ms": asked.milliseconds / len(answered),
                "trained_on": bool(known) if self._tells else None,
                "overlooked": 0.0,
                "warnings": warned,
                "error": None,
            }
        defective = sum(row["answer"] == "defective" for row in rows)
        whole |= {"start": 0.0, "end": one.length / rate, "windows": count}
        whole["defective"] = defective if self.run.detector.normal_classes else None
        return [whole, *rows]

    def _answer(self, probabilities: np.ndarray) -> dict[str, Any]:
        """What probabilities ``(classes,)`` mean."""
        detector, trust = self.run.detector, self.run.trust.get(self.role)
        best = int(probabilities.argmax())
        unsure = trust is not None and trust.unsure(probabilities[None])[0]
        return {
            "answer": "unsure" if unsure else detector.answers[best],
            "class": detector.class_names[best],
            "probability": probabilities[best],
            **{f"p_{name}": p for name, p in zip(detector.class_names, probabilities, strict=True)},
        }


class _Asked:
    """What was found out about the stretches of one recording so far."""

    def __init__(self, recording: _Recording) -> None:
        self.recording, self.milliseconds = recording, 0.0
        self.varied: list[bool] = []
        self.probabilities: list[np.ndarray] = []
        self.warned: list[list[str]] = []
        self.known: list[bool] = []

    def take(
        self,
        varied: np.ndarray,
        places: np.ndarray,
        probabilities: np.ndarray,
        warned: list[list[str]],
        known: np.ndarray,
        milliseconds: float,
    ) -> None:
        """Add some stretches, of which those that vary are at `places` in the results."""
        at = places[varied]
        self.varied += varied.tolist()
        self.probabilities += [*probabilities[at]]
        self.warned += [warned[i] for i in at]
        self.known += known[at].tolist()
        self.milliseconds += milliseconds * len(at)


def _chunks(recordings: Sequence[_Recording]) -> Iterator[list[tuple[int, np.ndarray]]]:
    """Which stretches of which recordings the network reads at once."""
    if not recordings:
        return
    most = max(1, min(FILES, SAMPLES // recordings[0].stretches.shape[1]))
    chunk: list[tuple[int, np.ndarray]] = []
    room = most
    for i, one in enumerate(recordings):
        begin = 0
        while begin < len(one.starts):
            at = one.starts[begin : begin + room]
            chunk.append((i, at))
            begin, room = begin + len(at), room - len(at)
            if not room:
                yield chunk
                chunk, room = [], most
    if chunk:
        yield chunk


def step_of(windows: bool, hop: str | None, run: Run) -> int | None:
    """Samples between the starts of windows, or None without windows.

    Args:
        windows: whether there are any.
        hop: a whole number of samples, or seconds with a decimal point or an s; by default half a
            window.
        run: whose training's recordings are as long as a window.

    Raises:
        RecipeError: the hop is not such a number, or parts of a recording would be left out or
            answered very often.
    """
    if not windows:
        if hop is not None:
            raise RecipeError("--hop is for --windows; give both.")
        return None
    size, rate = run.reading["part"].samples, run.detector.sample_rate
    if hop is None:
        return max(1, size // 2)
    found = re.fullmatch(r"(\d*\.?\d+|\d+\.)(s?)", hop.strip())
    if not found:
        raise RecipeError(
            f"--hop is {hop!r}; give samples, such as {size // 2}, or seconds, such as "
            f"{size / 2 / rate:.3g}s."
        )
    seconds = "." in found[1] or found[2]
    step = round(float(found[1]) * rate) if seconds else int(found[1])
    least = -(-size // OVERLAP)
    if not least <= step <= size:
        raise RecipeError(
            f"--hop {hop} is {step} sample{'s' * (step != 1)}, and a window has {size}; give "
            f"{least} to {size} samples, or {least / rate:.3g}s to {size / rate:.3g}s (a number "
            "with a point or an s means seconds)."
        )
    return step
