"""Simple classifiers on the networks' own split: a network should beat them, and often does not.

Each of scikit-learn's classifiers reads what the networks read, and the recording's level in 64
bands of the mel scale. They learn from the training part, the validation part chooses, and the test
part is read once. Sources: scikit-learn; Stevens, Volkmann and Newman, "A scale for the measurement
of the psychological magnitude pitch", 1937; Dempster, Schmidt and Webb, "MiniRocket", 2021.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hfld_lite.data.examples import IMBALANCE, Examples
from hfld_lite.data.parts import average
from hfld_lite.data.recordings import Recordings, labelled, measurable
from hfld_lite.data.splits import Split
from hfld_lite.data.views import FRAME, mel_edges, mel_weights
from hfld_lite.errors import ArgumentError, DataError, look_up
from hfld_lite.evaluation.metrics import evaluate, paired_interval

if TYPE_CHECKING:
    import pandas as pd

BANDS = 64
NETWORKS_VIEW, MEL, SAMPLES = "the networks' view", "64 log-mel bands", "raw samples"
"""What a baseline reads."""

FEWEST = 64
"""Samples that a frame has at least."""

FLOOR = 1e-8
"""Lowest power of a band, relative to the recording's strongest: −80 dB."""


def log_mel_bands(signals: np.ndarray, sample_rate: int) -> np.ndarray:
    """Mean power of each recording in 64 triangular mel bands from 0 Hz to Nyquist, in dB.

    The power is that of Hann frames of 25 ms (64 samples or more), half overlapping, each less its
    mean, averaged over time (Welch's method). The level is kept: it depends on the signal's unit.

    Args:
        signals: ``(n, samples)``, any unit.
        sample_rate: Hz.

    Returns:
        float32 ``(n, 64)``, dB of unit²/Hz, at most 80 dB below the recording's strongest band.
    """
    from scipy.signal import welch  # slow to import

    samples = signals.shape[1]
    size = min(samples, max(round(FRAME * sample_rate), FEWEST))
    # Padded with zeros, so that the narrowest band holds a few bins.
    widest = mel_edges(sample_rate, BANDS)[1] / 2
    length = 2 ** math.ceil(math.log2(max(size, sample_rate / widest)))
    bands = mel_weights(length, sample_rate, BANDS)
    bands /= bands.sum(0)
    found = np.empty((len(signals), BANDS), np.float32)
    step = max(1, 2**21 // samples)  # bounds memory
    for start in range(0, len(signals), step):
        chunk = np.asarray(signals[start : start + step], np.float32)
        found[start : start + step] = (
            welch(chunk, sample_rate, nperseg=size, nfft=length)[1] @ bands
        )
    lowest = np.maximum(FLOOR * found.max(1, keepdims=True), 1e-30)
    return 10 * np.log10(np.maximum(found, lowest))


def _logistic_regression(weights: str | None, seed: int) -> list[Any]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return [
        make_pipeline(
            StandardScaler(), LogisticRegression(C=c, class_weight=weights, max_iter=1000)
        )
        for c in (0.01, 0.1, 1, 10)
    ]


def _forest(weights: str | None, seed: int) -> list[Any]:
    from sklearn.ensemble import RandomForestClassifier

    return [RandomForestClassifier(300, class_weight=weights, n_jobs=1, random_state=seed)]


def _minirocket(weights: str | None, seed: int) -> list[Any]:
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    try:
        from aeon.transformations.collection.convolution_based import MiniRocket
    except ImportError as error:
        raise ArgumentError(
            f"The baseline minirocket needs aeon ({error}); install it with "
            "pip install 'hfld_lite[baselines]', or leave minirocket out."
        ) from error
    return [
        make_pipeline(
            FunctionTransformer(lambda x: x[:, None]),  # a channel
            MiniRocket(random_state=seed),
            StandardScaler(),
            RidgeClassifierCV(np.logspace(-3, 3, 10), class_weight=weights),
        )
    ]


BASELINES: dict[str, Callable[[str | None, int], list[Any]]] = {
    "logistic regression": _logistic_regression,
    "forest": _forest,
    "minirocket": _minirocket,
}
"""Functions of class weights and seed by name: candidates, of which validation chooses one."""

USUAL = ("logistic regression", "forest")
"""Those that need nothing but scikit-learn."""


@dataclass(frozen=True)
class Fitted:
    """A baseline that has learned; ``reads`` names its input."""

    name: str
    reads: str
    classifier: Any
    validation_accuracy: float
    seconds: float

    @property
    def title(self) -> str:
        """Such as "logistic regression on 64 log-mel bands"."""
        return f"{self.name} on {self.reads}"


@dataclass(frozen=True)
class Baselines:
    """Baselines that have learned, and their figures on one set of recordings.

    Attributes:
        table: a row for each: baseline, input, validation_accuracy (NaN without a validation part),
            accuracy with its 95 % interval (low, high), miss_rate and false_alarm_rate (None where
            no class is normal), macro_recall (the balanced accuracy), seconds of its training.
        predictions: a row for each recording: recording, group, class, and the class that each
            baseline names, in a column of its title.
        fitted: what has learned, in the table's order.
        recipe: whose view the networks read.
        kind: class names, sample rate (Hz) and samples of the training's recordings.
    """

    table: pd.DataFrame
    predictions: pd.DataFrame
    fitted: tuple[Fitted, ...]
    recipe: Any
    kind: tuple

    @property
    def best(self) -> Fitted:
        """That of the best validation accuracy; of equal ones, or without any, the first."""
        return max(self.fitted, key=lambda one: np.nan_to_num(one.validation_accuracy))

    def test(self, data: Recordings | Examples) -> Baselines:
        """The same baselines, measured on other recordings; unlabelled ones are left out.

        Raises:
            DataError: if classes, sample rate or samples differ from training.
        """
        examples = data if isinstance(data, Examples) else Examples.of(data, self.recipe)
        if (found := _kind(examples)) != self.kind:
            raise DataError(
                examples.source or "recordings",
                f"classes, sample rate and samples are {found}",
                expected=f"{self.kind}, as in training",
            )
        return _measured(self.fitted, measurable(examples), self.recipe)


def fit_baselines(
    data: Recordings | Examples,
    parts: Split,
    recipe: Any,
    names: Sequence[str] = USUAL,
    seed: int | None = None,
) -> Baselines:
    """Fit baselines on the training part and measure them on the test part, which is read once.

    Unlabelled recordings of the training part are left out.

    Of a baseline's candidates the validation part chooses one, which is used as it is. Without a
    validation part it is the middle one.

    Args:
        data: recordings, or examples made of a dataset: then the only input is what the networks
            read, flattened.
        parts: the split, as the networks have it.
        recipe: of the networks.
        names: in BASELINES.
        seed: of the forest and of MiniRocket; by default the recipe's.

    Raises:
        ArgumentError: if a name is unknown, a package is missing, or no input fits in memory.
    """
    examples = data if isinstance(data, Examples) else Examples.of(data, recipe)
    seed = recipe.seed if seed is None else seed
    labels, train = examples.labels, labelled(examples, parts.train)
    count = np.bincount(labels[train])
    weights = "balanced" if count.max() > IMBALANCE * count.min() else None
    wanted = {name: look_up(BASELINES, name, "Baseline")(weights, seed) for name in names}
    readable = [NETWORKS_VIEW] if examples.inputs is not None else []
    readable += [MEL, SAMPLES] if examples.recordings is not None else []
    known = {
        reads: [_read(examples.select(part), reads, recipe) for part in (train, parts.validation)]
        for reads in readable
    }
    fitted = tuple(
        _choose(name, reads, candidates, known[reads], labels[train], labels[parts.validation])
        for name, candidates in wanted.items()
        for reads in readable
        if (reads == SAMPLES) == (name == "minirocket")
    )
    if not fitted:
        raise ArgumentError(
            "The inputs are larger than memory allows, or no recordings, so no baseline can read "
            "them; use a smaller data set, or leave the baselines out."
        )
    return _measured(fitted, examples.select(parts.test), recipe)


def _read(examples: Examples, reads: str, recipe: Any) -> np.ndarray:
    """One of the inputs, float32 ``(n, values)``."""
    if reads == NETWORKS_VIEW:
        return examples.everything().flatten(1).numpy()
    recordings = examples.recordings
    signals = recordings.signals[:, : recipe.samples]  # as the networks do
    return log_mel_bands(signals, recordings.sample_rate) if reads == MEL else signals


def _choose(
    name: str,
    reads: str,
    candidates: list[Any],
    known: Sequence[np.ndarray],
    train: np.ndarray,
    validation: np.ndarray,
) -> Fitted:
    """The candidate that validation prefers; of equal ones the first."""
    from sklearn.base import clone
    from sklearn.exceptions import ConvergenceWarning

    began, found = time.perf_counter(), []
    if not len(validation):
        candidates = [candidates[len(candidates) // 2]]
    for candidate in candidates:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # good enough to compare with
            classifier = clone(candidate).fit(known[0], train)
        right = math.nan
        if len(validation):
            right = float(np.mean(classifier.predict(known[1]) == validation))
        found.append((right, classifier))
    right, classifier = max(found, key=lambda one: one[0])
    return Fitted(name, reads, classifier, right, time.perf_counter() - began)


def _measured(fitted: tuple[Fitted, ...], examples: Examples, recipe: Any) -> Baselines:
    """Read what is to be predicted once, and measure all; windows are averaged by recording."""
    import pandas as pd

    names = np.array(examples.class_names)
    wholes = examples.recordings.wholes if examples.recordings else None
    labels, first = examples.labels, average(examples.labels, wholes)[1]
    read = {reads: _read(examples, reads, recipe) for reads in {one.reads for one in fitted}}
    table, predictions = (
        [],
        pd.DataFrame(
            {
                "recording": (examples.origins if wholes is None else wholes)[first],
                "group": examples.groups[first],
                "class": names[labels[first]],
            }
        ),
    )
    for one in fitted:
        predicted = _predicted(one.classifier, read[one.reads], wholes)
        predictions[one.title] = names[predicted]
        found = evaluate(
            predicted,
            labels[first],
            examples.groups[first],
            examples.class_names,
            examples.normal_classes,
        )
        table.append(
            {
                "baseline": one.name,
                "input": one.reads,
                "validation_accuracy": one.validation_accuracy,
                "accuracy": found.accuracy,
                "low": found.low,
                "high": found.high,
                "miss_rate": found.miss_rate,
                "false_alarm_rate": found.false_alarm_rate,
                "macro_recall": found.macro_recall,
                "seconds": one.seconds,
            }
        )
    return Baselines(pd.DataFrame(table), predictions, fitted, recipe, _kind(examples))


def _predicted(classifier: Any, read: np.ndarray, wholes: np.ndarray | None) -> np.ndarray:
    """Classes of the recordings, by the mean over the windows of each if they are windows."""
    if wholes is None:
        return classifier.predict(read)
    said = getattr(classifier, "predict_proba", None) or classifier.decision_function
    scores = said(read)
    if scores.ndim == 1:  # a decision between two classes
        scores = np.stack([-scores, scores], 1)
    return classifier.classes_[average(scores, wholes)[0].argmax(1)]


def _kind(examples: Examples) -> tuple:
    recordings = examples.recordings
    size = (recordings.sample_rate, recordings.samples) if recordings else (0, 0)
    return (examples.class_names, *size)


def compare(
    predictions: pd.DataFrame, baselines: Baselines, role: str = "student", seed: int = 0
) -> str:
    """Say in a sentence whether a network beats the baseline that validation prefers.

    The difference has a paired 95 % interval, by a bootstrap over groups.

    Args:
        predictions: of a ``TestResult``, a row for each recording.
        baselines: measured on the same recordings.
        role: of the network.
        seed: of the bootstrap.

    Raises:
        ArgumentError: if the recordings are not the same.
    """
    mine = baselines.predictions
    if not predictions["recording"].equals(mine["recording"]):
        raise ArgumentError("The baselines were measured on other recordings than the networks.")
    best, network = baselines.best, f"the {role.replace('_', ' ')}"
    rights = [
        table[name] == table["class"] for table, name in ((predictions, role), (mine, best.title))
    ]
    ours, theirs = (100 * right.mean() for right in rights)
    groups = mine["group"].to_numpy()
    shares = f"{theirs:.1f} % against {ours:.1f} %"
    title = best.title[:1].upper() + best.title[1:]
    if len(np.unique(groups)) < 2:
        return (
            f"{title} and {network} are right in {shares} of the test recordings, which are all of "
            "one group: that cannot tell them apart."
        )
    runs = [(*(right.to_numpy() for right in rights), groups)]
    found = paired_interval(runs, np.random.default_rng(seed))
    gain, low, high = (100 * value for value in (found.difference, found.low, found.high))
    figures = f"difference {gain:+.1f} points, {low:+.1f} to {high:+.1f}"
    if low > 0:
        return (
            f"{network[:1].upper()}{network[1:]} beats the best baseline, {best.title} "
            f"({ours:.1f} % against {theirs:.1f} %; {figures})."
        )
    advice = f"use it if the device can compute it, or train {network} longer."
    if high < 0:
        return f"{title} is better than {network} ({shares}; {figures}): {advice}"
    return (
        f"{title} is as good as {network}, as far as {len(groups)} test recordings can tell "
        f"({shares}; {figures}): {advice}"
    )
