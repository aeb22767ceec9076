"""What a training run left behind, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Fit:
    """What a training run left behind, besides the network's weights.

    ``history`` has a row for each epoch: ``epoch``, each loss term (mean over the epoch's steps),
    ``total``, the terms' weights as ``weight_…`` where there are any, ``learning_rate`` (of the
    last step), ``validation_accuracy``, ``validation_loss``, ``seconds`` and ``verdict``, a
    sentence where something is wrong. ``best_epoch`` is the one whose weights the network has.
    """

    rows: Sequence[Mapping[str, Any]]
    best_epoch: int
    seconds: float

    @cached_property
    def history(self) -> pd.DataFrame:
        """The rows as a table."""
        return table(self.rows)


def table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows with the same or other names as a table; what a row lacks is NaN."""
    import pandas as pd  # here, as it takes a fifth of the time that torch takes

    return pd.DataFrame(rows)


def postfix(row: Mapping[str, Any], epochs: int) -> str:
    """The end of a bar: epoch, loss terms, validation accuracy, and what is wrong if anything is.

    Args:
        row: the last of a history.
        epochs: of the whole training.
    """
    names = list(row)[1 : list(row).index("total")]
    terms = " ".join(f"{name} {row[name]:.3f}" for name in names)
    wrong = f" | {row['verdict']}" if row["verdict"] else ""
    accuracy = f"validation {row['validation_accuracy']:.1%}"
    return f"epoch {row['epoch']}/{epochs} | {terms} | {accuracy}{wrong}"
