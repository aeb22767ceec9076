"""When not to trust an answer: a doubtful one, and a recording unlike those of the training.

*Unsure.* The suspicion of a recording is the probability of a defect, s = Σ P(defective classes).
Of the n defective recordings of the validation part, ordered by s, the k-th smallest gives the
limit, k = ⌊rate · (n + 1)⌋. "Sound" is said only below the limit: then a new defective recording is
missed with a probability of at most the rate, averaged over draws of the validation part, if it
comes from where those came from (exchangeability). Without normal classes, s = 1 − max P, and the
recordings that are classified wrongly replace the defective ones. Recordings of one group are
similar, so harmful ones of fewer than FEWEST_GROUPS groups promise nothing. Source: Angelopoulos
and Bates, "A gentle introduction to conformal prediction and distribution-free uncertainty
quantification", 2021.

*Unlike the training.* The spectrum's power in BANDS bands, in dB relative to the recording's whole
power, is compared with the mean and deviation of each class in training: the root mean square of
the z-scores to the nearest class. The limit is the same rule, on validation recordings. Another
microphone or room changes the balance of the bands; loudness does not. *Clipping* is seen by the
longest run of samples at the recording's extreme value.
"""

import math
from typing import Annotated, Any

import numpy as np
from pydantic import Field, Strict, ValidationError, model_validator

from hfld_lite.data.parts import average
from hfld_lite.data.plausibility import CLIPPED_RUN, longest_run
from hfld_lite.errors import ArgumentError
from hfld_lite.storage.arrays import pieces
from hfld_lite.storage.models import Checked, Index, explain

BANDS = 24
RATE = 0.01
"""Default share of defective recordings that may be called sound, and of usual recordings that
may cause a warning."""

FEWEST_GROUPS = 2
"""A promise needs harmful validation recordings of so many groups: one says nothing of others."""

NOVEL = "its spectrum is unlike those of the training (another microphone or room?)"
CLIPPED = "it is clipped: the loudest samples are cut off"


_Row = Annotated[tuple[float, ...], Strict(False), Field(min_length=BANDS, max_length=BANDS)]
_Table = Annotated[tuple[_Row, ...], Strict(False), Field(min_length=1, fail_fast=True)]
"""JSON has no tuples, so that lists are taken too; the numbers in them stay strict."""


class Trust(Checked):
    """The limits by which an answer is doubted; plain numbers, saved as JSON.

    Attributes:
        rate: the promised share of misses (without normal classes: of wrong answers let through).
        limit: "sound" is said below this suspicion only.
        normal: positions of the normal classes.
        means, deviations: of the band levels, dB, ``(classes, bands)``.
        novelty: a recording with a higher score causes a warning.
        run: so many consecutive samples at the extreme value cause a warning.
        harmful, usual: how many validation recordings set the two limits.
        doubted: share of the validation recordings whose answer is "unsure".
        groups: how many groups the harmful validation recordings are of (all of them, where none
            is harmful); None in a run of hfld_lite 0.2.0.
    """

    rate: float
    limit: float
    normal: Annotated[tuple[Index, ...], Strict(False), Field(fail_fast=True)]
    means: _Table
    deviations: _Table
    novelty: float
    run: Index
    harmful: Index
    usual: Index
    doubted: float
    groups: Index | None = None

    @model_validator(mode="after")
    def _check_tables(self) -> "Trust":
        if len(self.means) != len(self.deviations):
            raise ValueError(
                f"means has {len(self.means)} rows and deviations {len(self.deviations)}"
            )
        if min(map(min, self.deviations)) <= 0:
            raise ValueError("deviations holds values that are not above 0")
        return self

    def unsure(self, probabilities: np.ndarray) -> np.ndarray:
        """Whether "unsure" is the answer, booleans ``(n,)``, by probabilities ``(n, classes)``.

        An answer of a defective class is kept; "sound" requires a suspicion below the limit.
        Without normal classes, every answer requires that.
        """
        doubtful = suspicion(probabilities, self.normal) >= self.limit
        if not self.normal:
            return doubtful
        return doubtful & np.isin(probabilities.argmax(1), self.normal)

    def warnings(self, signals: np.ndarray) -> list[list[str]]:
        """The warnings for each raw recording ``(n, samples)``; usually none."""
        scores = self.scores(signals)
        runs = longest_run(signals)
        return [
            [NOVEL] * bool(score > self.novelty) + [CLIPPED] * bool(run >= self.run)
            for score, run in zip(scores, runs, strict=True)
        ]

    def scores(self, signals: np.ndarray) -> np.ndarray:
        """Novelty of raw recordings ``(n, samples)``: RMS z-score to the nearest class."""
        return novelty(signals, np.array(self.means), np.array(self.deviations))

    @property
    def promise(self) -> str:
        """What the answer "unsure" guarantees and how often it is given, in a sentence."""
        if self.groups is not None and self.groups < FEWEST_GROUPS:
            return f"No promise can be made: {_too_few(self.harmful, self.normal, self.usual)}"
        if not self.harmful and self.normal:
            return "No defective recording of the validation part sets a limit of unsure."
        if not self.harmful:
            return "No validation recording was answered wrongly, so nothing is doubted."
        what = "defective recordings called sound" if self.normal else "wrong answers let through"
        return (
            f'"unsure" keeps {what} at {self.rate:.1%} at most, for recordings like the '
            f"{self.harmful} of the validation part that set the limit; {self.doubted:.1%} of the "
            'validation part was answered "unsure".'
        )

    def to_dict(self) -> dict[str, Any]:
        """Return values that JSON can hold."""
        return self.model_dump()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Trust":
        """Read what `to_dict` returned.

        Raises:
            ValueError: if the values do not fit; the text names the first that does not.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ValueError(explain(error)) from error


def make_trust(
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    probabilities: np.ndarray,
    normal: tuple[int, ...],
    rate: float | None = None,
    groups: np.ndarray | None = None,
    wholes: np.ndarray | None = None,
) -> Trust:
    """Set the limits.

    Args:
        train: raw recordings ``(n, samples)`` and labels ``(n,)`` of the training part.
        validation: the same of the validation part.
        probabilities: the network's, of the validation part ``(n, classes)``.
        normal: positions of the normal classes, empty for none.
        rate: promised share of misses. By default RATE, or 1 / (n + 1) if the n harmful validation
            recordings are too few to promise that.
        groups: of the validation part, ``(n,)``; by default each recording is one of its own.
        wholes: ``(n,)``, where the validation part's rows are windows: the recording that each is
            cut from. The limits then are those of averaged probabilities, and of the most unusual
            window of each recording.

    Raises:
        ArgumentError: if the validation part is too small for the rate that is asked for, or its
            harmful recordings are of too few groups to promise any.
    """
    probabilities, first = average(probabilities, wholes)
    labels = np.asarray(validation[1])[first]
    harmful = ~np.isin(labels, normal) if normal else probabilities.argmax(1) != labels
    count = int(harmful.sum())
    lowest = 1 / (count + 1)
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)[first]
    known = len(np.unique(groups[harmful] if count else groups))
    if rate is not None and known < FEWEST_GROUPS:
        said = _too_few(count, normal, len(labels))
        raise ArgumentError(f"The miss rate {rate:g} cannot be promised: {said}")
    if rate is not None and not lowest <= rate < 1:
        raise ArgumentError(
            f"The miss rate is {rate:g}; {count} validation recordings can promise {lowest:.3g} or "
            "more (below 1); ask for that, or train on more recordings."
        )
    rate = max(RATE, lowest) if rate is None else rate
    # Without harmful recordings nothing can be promised, and nothing is doubted.
    limit = math.inf if not count else _smallest(suspicion(probabilities, normal)[harmful], rate)
    means, deviations = level_table(*train)
    usual = novelty(validation[0], means, deviations)
    if wholes is not None:
        usual = np.array([usual[wholes == name].max() for name in wholes[first]])
    false_warnings = max(RATE, 1 / (len(usual) + 1))
    made = Trust(
        rate=float(rate),
        limit=min(float(limit), 2.0),
        normal=tuple(int(i) for i in normal),
        means=_rows(means),
        deviations=_rows(deviations),
        novelty=-float(_smallest(-usual, false_warnings)),
        run=max(CLIPPED_RUN, int(longest_run(train[0]).max()) + 1),
        harmful=count,
        usual=len(usual),
        doubted=0.0,
        groups=known,
    )
    return made.model_copy(update={"doubted": float(made.unsure(probabilities).mean())})


def _too_few(harmful: int, normal: tuple[int, ...], count: int) -> str:
    kind = ("defective " if normal else "wrongly answered ") * bool(harmful)
    many = (harmful or count) > 1
    return (
        f"{harmful or count} {kind}recording{'s' * many} of the validation part, of one group, "
        f"say{'s' * (not many)} nothing of other groups; record more of them (tiles, machines, "
        "days), so that two or more are in the validation part."
    )


def suspicion(probabilities: np.ndarray, normal: tuple[int, ...]) -> np.ndarray:
    """Probability of a defect ``(n,)``; without normal classes, of a wrong answer."""
    if not normal:
        return 1 - probabilities.max(1)
    return 1 - probabilities[:, list(normal)].sum(1)


def band_levels(signals: np.ndarray) -> np.ndarray:
    """Power in BANDS equally wide bands, dB relative to the whole, ``(n, bands)``."""
    edges = np.linspace(0, signals.shape[1] // 2 + 1, BANDS + 1).astype(int)[:-1]
    bands = np.empty((len(signals), BANDS), np.float32)
    for place, piece in zip(range(0, len(signals), 256), pieces(signals, 256), strict=True):
        power = np.abs(np.fft.rfft(np.asarray(piece, np.float32))) ** 2
        bands[place : place + 256] = np.add.reduceat(power, edges, axis=1)
    return 10 * np.log10(bands / np.maximum(bands.sum(1, keepdims=True), 1e-30) + 1e-9)


def level_table(signals: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the band levels of each class that is there, ``(classes, bands)``."""
    levels, classes = band_levels(signals), np.asarray(labels)
    parts = [levels[classes == c] for c in np.unique(classes)]
    means = np.array([part.mean(0) for part in parts])
    # One deviation for all classes, so that a class of few recordings has a stable one.
    rest = np.concatenate([part - mean for part, mean in zip(parts, means, strict=True)])
    spread = np.sqrt(np.mean(rest**2, 0))
    return means, np.tile(np.maximum(spread, 0.1), (len(parts), 1))


def novelty(signals: np.ndarray, means: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """RMS z-score of the band levels to the nearest class of a :func:`level_table`, ``(n,)``."""
    z = (band_levels(signals)[:, None] - means) / deviations
    return np.sqrt(np.mean(z**2, axis=2)).min(1)


def _smallest(values: np.ndarray, rate: float) -> float:
    """The k-th smallest value, k = ⌊rate (n + 1)⌋, at least the first."""
    k = max(1, math.floor(rate * (len(values) + 1) + 1e-9))
    return float(np.sort(values)[k - 1])


def _rows(table: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(round(float(x), 3) for x in row) for row in table)
