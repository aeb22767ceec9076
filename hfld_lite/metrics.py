"""How good a detector is: accuracy with an interval, misses, false alarms, confusion."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import confusion_matrix, recall_score

from hfld_lite.errors import ArgumentError

Z95 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution, for two-sided 95 % intervals."""


@dataclass(frozen=True)
class Evaluation:
    """Figures of one network on one set of recordings. Shares are from 0 to 1.

    ``miss_rate`` is the share of defective recordings that were called sound (any normal class),
    ``false_alarm_rate`` the share of sound ones called defective; both are None where there are no
    normal classes. ``confusion`` counts ``(true class, predicted class)``. ``low`` and ``high``
    bound the accuracy by a 95 % interval that allows for recordings of one group being alike.
    """

    count: int
    accuracy: float
    low: float
    high: float
    macro_recall: float
    miss_rate: float | None
    false_alarm_rate: float | None
    confusion: np.ndarray


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
        ArgumentError: if nothing is given, or lengths differ.
    """
    predicted, labels, groups = (np.asarray(x) for x in (predicted, labels, groups))
    if not len(labels) or not len(predicted) == len(labels) == len(groups):
        raise ArgumentError(
            f"evaluate needs as many predictions as labels and groups, and at least one; found "
            f"{len(predicted)}, {len(labels)} and {len(groups)}."
        )
    correct = predicted == labels
    low, high = accuracy_interval(correct, groups)
    miss = false_alarm = None
    if normal_classes:
        normal = np.array([name in normal_classes for name in class_names])
        defective, alarm = ~normal[labels], ~normal[predicted]
        miss = float((~alarm)[defective].mean()) if defective.any() else None
        false_alarm = float(alarm[~defective].mean()) if (~defective).any() else None
    every = np.arange(len(class_names))
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

    Drops of one tile are alike, so n of them tell less than n tiles would. The effective number is
    n* = n / deff, with Kish's design effect deff = Var_groups(p) / (p (1 − p) / n) and
    Var_groups(p) = G/(G−1) Σ_g (y_g − p n_g)² / n² over G groups with y_g right of n_g; never more
    than n. Where all are right or all wrong the groups say nothing about the spread, and n* = G.

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
    if len(sizes) == 1 or p in (0.0, 1.0):
        effective = float(len(sizes))
    else:
        spread = len(sizes) / (len(sizes) - 1) * np.sum((right - p * sizes) ** 2) / n**2
        effective = n / max(1.0, spread / (p * (1 - p) / n))
    z2 = Z95**2 / effective
    middle = (p + z2 / 2) / (1 + z2)
    half = Z95 / (1 + z2) * math.sqrt(p * (1 - p) / effective + z2 / (4 * effective))
    return max(0.0, middle - half), min(1.0, middle + half)
