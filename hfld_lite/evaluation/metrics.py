"""How good a detector is: accuracy, misses, false alarms, calibration; and is a difference real?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hfld_lite.errors import ArgumentError

Z95 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution, for two-sided 95 % intervals."""


@dataclass(frozen=True)
class Evaluation:
    """Figures of one network on one set of recordings. Shares are from 0 to 1.

    ``miss_rate`` is the share of defective recordings that were called sound (any normal class),
    ``false_alarm_rate`` the share of sound ones called defective; both are None where there are no
    normal classes. ``confusion`` counts ``(true class, predicted class)``. ``low`` and ``high``
    bound the accuracy by a 95 % interval that accounts for the similarity of a group's recordings.
    """

    count: int
    accuracy: float
    low: float
    high: float
    macro_recall: float
    miss_rate: float | None
    false_alarm_rate: float | None
    confusion: np.ndarray


class Paired(NamedTuple):
    """A difference of two methods in accuracy, its 95 % interval and its p."""

    difference: float
    low: float
    high: float
    p: float


def evaluate(
    predicted: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    class_names: Sequence[str],
    normal_classes: Sequence[str] = (),
) -> Evaluation:
    """Compare predicted classes with labels.

    Args:
        predicted, labels: whole numbers ``(n,)``, positions in ``class_names``.
        groups: ``(n,)``, the physical tile of each recording.
        class_names: all classes.
        normal_classes: those of them that are sound; empty for none.

    Raises:
        ArgumentError: if nothing is given, lengths differ, or a class is unknown.
    """
    from sklearn.metrics import confusion_matrix, recall_score  # slow to import

    predicted, labels, groups = (np.asarray(x) for x in (predicted, labels, groups))
    if not len(labels) or not len(predicted) == len(labels) == len(groups):
        raise ArgumentError(
            f"evaluate needs as many predictions as labels and groups, and at least one; found "
            f"{len(predicted)}, {len(labels)} and {len(groups)}."
        )
    every = np.arange(len(class_names))
    for name, values in (("predictions", predicted), ("labels", labels)):
        if not np.isin(values, every).all():
            raise ArgumentError(
                f"The {name} run from {values.min()} to {values.max()}; with {len(class_names)} "
                f"classes they must lie from 0 to {len(class_names) - 1}."
            )
    if unknown := set(normal_classes) - set(class_names):
        raise ArgumentError(f"The normal classes {sorted(unknown)} are not among the classes.")
    correct = predicted == labels
    low, high = accuracy_interval(correct, groups)
    miss = false_alarm = None
    if normal_classes:
        normal = np.array([name in normal_classes for name in class_names])
        defective, alarm = ~normal[labels], ~normal[predicted]
        miss = float((~alarm)[defective].mean()) if defective.any() else None
        false_alarm = float(alarm[~defective].mean()) if (~defective).any() else None
    present = np.unique(labels)
    return Evaluation(
        count=len(labels),
        accuracy=float(correct.mean()),
        low=low,
        high=high,
        macro_recall=float(recall_score(labels, predicted, labels=present, average="macro")),
        miss_rate=miss,
        false_alarm_rate=false_alarm,
        confusion=confusion_matrix(labels, predicted, labels=every),
    )


def accuracy_interval(correct: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Wilson's 95 % interval of an accuracy, on the effective number of recordings.

    Drops of one tile are similar, so n of them say less than n tiles would. The effective number is
    n* = n / deff, with Kish's design effect deff = Var_groups(p) / (p (1 − p) / (n − 1)) and
    Var_groups(p) = G/(G−1) Σ_g (y_g − p n_g)² / n² over G groups with y_g right of n_g; never more
    than n. If fewer than two groups have an error, or fewer than two have a right answer, nothing
    shows how alike a group's recordings are, and n* is at most G: as if they all were the same.
    So an interval at no error is not wider than at one.

    Sources: Wilson, 1927; Kish, "Survey sampling", 1965; Korn and Graubard, 1998.

    Args:
        correct: booleans ``(n,)``.
        groups: ``(n,)``.

    Returns:
        The interval's ends, from 0 to 1.
    """
    n, p = len(correct), float(np.mean(correct))
    _, member = np.unique(groups, return_inverse=True)
    sizes = np.bincount(member)
    right = np.bincount(member, weights=np.asarray(correct, dtype=float))
    effective = float(n)
    if len(sizes) > 1 and 0 < p < 1:
        spread = len(sizes) / (len(sizes) - 1) * np.sum((right - p * sizes) ** 2) / n**2
        effective = n / max(1.0, spread / (p * (1 - p) / (n - 1)))
    if min(np.sum(right < sizes), np.sum(right > 0)) < 2:
        effective = min(effective, float(len(sizes)))
    z2 = Z95**2 / effective
    middle = (p + z2 / 2) / (1 + z2)
    half = Z95 / (1 + z2) * math.sqrt(p * (1 - p) / effective + z2 / (4 * effective))
    # The interval holds p; rounding may leave it out at 0 and 1, and an error bar is negative then.
    return min(p, max(0.0, middle - half)), max(p, min(1.0, middle + half))


def mean_interval(values: Sequence[float]) -> Paired:
    """Mean of a few independent values, such as one difference a seed, and its 95 % t interval.

    mean ± t(0.975; n − 1) · s / √n, with the sample deviation s of n values, and
    p = 2 P(T > |mean| √n / s) of Student's T with n − 1 degrees of freedom. Both ends are NaN, and
    p is 1, for one value and for equal values, since neither shows how much values vary.

    Source: Student, "The probable error of a mean", 1908.

    Raises:
        ArgumentError: if there is no value.
    """
    from scipy.special import stdtr, stdtrit  # slow to import

    x = np.asarray(values, float)
    if not x.size:
        raise ArgumentError("mean_interval needs at least one value; found none.")
    mean, n = float(x.mean()), len(x)
    if np.ptp(x) <= 1e-12:  # equal but for rounding
        return Paired(mean, math.nan, math.nan, 1.0)
    error = float(x.std(ddof=1)) / math.sqrt(n)
    half = stdtrit(n - 1, 0.975) * error
    p = 2 * float(stdtr(n - 1, -abs(mean) / error))
    return Paired(mean, float(mean - half), float(mean + half), p)


def ratio_interval(above: Sequence[float], below: Sequence[float]) -> tuple[float, float, float]:
    """Ratio of two means of paired values, with Fieller's 95 % interval.

    With n pairs (yᵢ, xᵢ), their means ȳ and x̄, (co)variances s of single pairs and the quantile
    t = t(0.975; n − 1), the interval holds every ratio r that a t test of y − r x does not refuse:
    (ȳ − r x̄)² ≤ t² (s_yy − 2 r s_xy + r² s_xx) / n. It ends where both sides are equal. If x̄ itself
    is not shown to differ from zero, x̄² ≤ t² s_xx / n, no finite interval is enough.

    Source: Fieller, "Some problems in interval estimation", 1954.

    Args:
        above, below: ``(n,)``, the values yᵢ and xᵢ.

    Returns:
        ȳ / x̄ (NaN if x̄ is 0), and the interval's ends: −∞ and ∞ where it is unbounded, NaN for one
        pair and for equal pairs.

    Raises:
        ArgumentError: if there is no pair, or the lengths differ.
    """
    from scipy.special import stdtrit  # slow to import

    y, x = np.asarray(above, float), np.asarray(below, float)
    if not len(x) or x.shape != y.shape:
        raise ArgumentError(
            f"ratio_interval needs as many values above as below, and at least one; found {len(y)} "
            f"and {len(x)}."
        )
    ratio = float(y.mean() / x.mean()) if x.mean() else math.nan
    if len(x) == 1 or max(np.ptp(x), np.ptp(y)) <= 1e-12:  # equal but for rounding
        return ratio, math.nan, math.nan
    slack = stdtrit(len(x) - 1, 0.975) ** 2 / len(x) * np.cov(y, x)
    a = x.mean() ** 2 - slack[1, 1]
    b = x.mean() * y.mean() - slack[0, 1]
    c = y.mean() ** 2 - slack[0, 0]
    if a <= 0:
        return ratio, -math.inf, math.inf
    root = math.sqrt(max(0.0, b * b - a * c))
    return ratio, float((b - root) / a), float((b + root) / a)


def paired_interval(
    runs: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    rng: np.random.Generator,
    rounds: int = 2000,
) -> Paired:
    """Difference in accuracy of two methods over several seeds, with a 95 % interval.

    Each seed gives one difference, measured on the same recordings, so that what is hard for both
    methods cancels; the interval and p are :func:`mean_interval`'s over these differences. They
    vary with the training and with the test recordings, and t counts both. (A percentile bootstrap
    over five seeds is too narrow, by a factor of √(4/5) · 1.96 / 2.78 = 0.63.) If all seeds were
    tested on the same recordings, the interval is one for these recordings.

    With one seed, or the same difference for every seed, nothing shows how much seeds vary; then
    :func:`group_bootstrap` gives the interval.

    Args:
        runs: for each seed, whether the first and the second method were right, booleans ``(n,)``,
            and the groups ``(n,)`` of the same recordings.
        rng: the bootstrap's generator; unused where there is a t interval.
        rounds: of the bootstrap.

    Returns:
        The mean difference, first method minus second, in shares of 1; the ends of its interval;
        and a two-sided p.

    Raises:
        ArgumentError: if there is no seed.
    """
    over_seeds = mean_interval(
        [np.mean(np.subtract(first, second, dtype=float)) for first, second, _ in runs]
    )
    return group_bootstrap(runs, rng, rounds) if math.isnan(over_seeds.low) else over_seeds


def group_bootstrap(
    runs: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    rng: np.random.Generator,
    rounds: int = 2000,
) -> Paired:
    """The difference of :func:`paired_interval` with a 95 % percentile bootstrap over groups.

    Each round draws groups (tiles) with replacement in every seed; both methods are measured on the
    same draw. The chance of training is not counted. Source: Efron and Tibshirani, "An introduction
    to the bootstrap", 1993.

    Args:
        runs, rng, rounds: as there.

    Returns:
        As there; p is twice the smaller share of rounds on either side of zero, at least
        2 / (rounds + 1), because a number of rounds cannot show that p is zero.
    """
    gains, sizes = [], []
    for first, second, groups in runs:
        _, member = np.unique(groups, return_inverse=True)
        gains.append(np.bincount(member, weights=np.subtract(first, second, dtype=float)))
        sizes.append(np.bincount(member))
    means = []
    for _ in range(rounds):
        drawn = []
        for gain, size in zip(gains, sizes, strict=True):
            tiles = rng.integers(len(size), size=len(size))
            drawn.append(gain[tiles].sum() / size[tiles].sum())
        means.append(np.mean(drawn))
    difference = np.mean([g.sum() / n.sum() for g, n in zip(gains, sizes, strict=True)])
    low, high = np.quantile(means, (0.025, 0.975))
    beyond = min(np.sum(np.less_equal(means, 0)), np.sum(np.greater_equal(means, 0)))
    p = min(1.0, 2 * (int(beyond) + 1) / (rounds + 1))
    return Paired(float(difference), float(low), float(high), p)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's correction of p-values for as many comparisons.

    With p₍₁₎ ≤ … ≤ p₍ₘ₎ the adjusted ones are max_{j ≤ i} min(1, (m − j + 1) p₍ⱼ₎), so that the
    chance of any false discovery among all m stays below the level that they are held against.
    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.

    Raises:
        ArgumentError: if a value is not a probability.
    """
    p = np.asarray(p_values, float)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ArgumentError(f"p_values are {p_values!r}; give a row of numbers from 0 to 1.")
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(np.minimum(1, (len(p) - np.arange(len(p))) * p[order]))
    adjusted = np.empty(len(p))
    adjusted[order] = steps
    return adjusted


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error, ECE = Σ_b n_b / n · |accuracy_b − confidence_b|.

    The bins are equally wide, over the probability of the predicted class. Source: Guo et al., "On
    calibration of modern neural networks", 2017.

    Args:
        probabilities: ``(n, classes)``.
        labels: ``(n,)``.
        bins: how many.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == np.asarray(labels)
    member = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(member, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(right))


def miss_rate_at(suspicion: np.ndarray, defective: np.ndarray, false_alarms: float) -> float:
    """Smallest miss rate at which no more than a given share of sound recordings raises an alarm.

    Args:
        suspicion: ``(n,)``, higher for what is likelier defective.
        defective: booleans ``(n,)``.
        false_alarms: share of sound recordings that may be called defective.

    Raises:
        ArgumentError: if all recordings are sound, or none is.
    """
    from sklearn.metrics import roc_curve  # slow to import

    defective = np.asarray(defective, bool)
    if defective.all() or not defective.any():
        raise ArgumentError("miss_rate_at needs both sound and defective recordings.")
    found_false, found, _ = roc_curve(defective, suspicion, drop_intermediate=False)
    return float(1 - found[found_false <= false_alarms].max())
