"""The tables in a run folder, checked when they are read: a run may come from a stranger."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from hfld_lite.errors import RecipeError
from hfld_lite.storage.files import read_text
from hfld_lite.storage.models import Checked, Index, Name, Real, Text, explain

if TYPE_CHECKING:
    import pandas as pd

BYTES = 1 << 25
"""The longest table that is read, 32 MiB: a quarter of a million recordings."""

COLUMNS, ROWS, EPOCHS, ROLES = 200, 1000, 100_000, 100

OPTIONAL = ("macs", "size_kb", "recordings", "seconds", "validation_accuracy")
"""Columns that need not be there; others may be empty where the model says so."""

_Share = Annotated[float, Field(ge=0, le=1)]


class _Figures(Checked):
    accuracy: _Share
    low: _Share
    high: _Share
    miss_rate: _Share | None = None
    false_alarm_rate: _Share | None = None
    macro_recall: _Share


class _Result(_Figures):
    role: Name
    network: Text
    parameters: Index
    macs: Annotated[Real, Field(ge=0)] | None = None
    size_kb: Annotated[Real, Field(ge=0)] | None = None
    recordings: Index | None = None


class _Baseline(_Figures):
    baseline: Name
    input: Text
    validation_accuracy: _Share | None = None
    seconds: Annotated[Real, Field(ge=0)] | None = None


class _Scored(Checked):
    score: Name
    role: Name | None = None
    auc: _Share | None = None
    auc_low: _Share | None = None
    auc_high: _Share | None = None
    partial_auc: _Share | None = None
    false_alarm_rate: _Share | None = None
    false_low: _Share | None = None
    false_high: _Share | None = None
    miss_rate: _Share | None = None
    miss_low: _Share | None = None
    miss_high: _Share | None = None


class _Try(Checked):
    candidate: Text
    view: Text
    level: Text
    learning_rate: Text
    steps: Index
    score: _Share
    standard_error: Annotated[Real, Field(ge=0)]
    seconds: Annotated[Real, Field(ge=0)]
    chosen: bool


def read_table(path: Path, comment: bool = False, **options: object) -> tuple[pd.DataFrame, str]:
    """The table in a CSV file, and the comment in its first line, behind "# ", if there may be one.

    Raises:
        FileNotFoundError: there is none.
        RecipeError: it is too long, or no table.
    """
    import pandas as pd

    try:
        text, said = read_text(path, BYTES), ""
        if comment and text.startswith("#"):
            said, _, text = text.partition("\n")
        head = text.partition("\n")[0].split(",")
        if len(head) > COLUMNS or max(map(len, head)) > 10_000:
            raise ValueError(f"its first line has {len(head)} columns; expected {COLUMNS} or fewer")
        table = pd.read_csv(StringIO(text), index_col=False, **options)
        if table.columns.has_duplicates or not len(table):
            raise ValueError("it has no row, or a column twice")
    except FileNotFoundError:
        raise
    except (OSError, ValueError, MemoryError, OverflowError) as error:  # pandas' are ValueErrors
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise RecipeError(f"{path} cannot be read ({reason}); copy the run again.") from error
    return table, said.removeprefix("#").strip()


def read_results(folder: Path) -> pd.DataFrame:
    """``results.csv``: a row for each network; see `TestResult`."""
    path = folder / "results.csv"
    found = _rows(path, _there(path, dtype={"role": str, "network": str}), _Result)
    costs = [name for name in ("macs", "size_kb") if name in found]
    if len(costs) == 1 or found[costs].isna().any(axis=None):
        raise RecipeError(f"{path}: macs or size_kb has gaps; copy the run again.")
    return found


def read_history(folder: Path) -> pd.DataFrame:
    """``history.csv``: a row for each epoch of each network; see `hfld_lite.training.Fit`."""
    path = folder / "history.csv"
    found = _there(path, dtype={"role": str, "verdict": str})
    for name in ("role", "epoch", "validation_accuracy"):
        if name not in found or found[name].isna().any():
            raise RecipeError(
                f"{path}: the column {name} is missing or has gaps; copy the run again."
            )
    for name in found.columns.difference(["role", "verdict"]):
        if found[name].dtype.kind not in "iuf" or np.isinf(found[name]).any():
            raise RecipeError(
                f"{path}: {name[:60]} holds a value that is not a number; copy the run again."
            )
    if len(found) > EPOCHS or found["role"].nunique() > ROLES or found["epoch"].min() < 0:
        raise RecipeError(
            f"{path} has {len(found)} epochs of {found['role'].nunique()} networks; expected "
            f"{EPOCHS} of {ROLES} at most, numbered from 0; copy the run again."
        )
    return found


def read_predictions(folder: Path, class_names: tuple[str, ...]) -> pd.DataFrame:
    """``predictions.csv``: recording, group, class and the class that each network names."""
    path = folder / "predictions.csv"
    found = _there(path, dtype=str, keep_default_na=False)
    for name in ("recording", "group", "class"):
        if name not in found:
            raise RecipeError(f"{path}: the column {name} is missing; copy the run again.")
    for name in ["class", *roles_in(found)]:
        if wrong := set(found[name]) - set(class_names):
            raise RecipeError(
                f"{path}: {name[:60]} holds {min(wrong)[:60]!r}, which is not a class of the run; "
                "copy the run again."
            )
    return found


def roles_in(predictions: pd.DataFrame) -> list[str]:
    """The networks whose answers a table of predictions has."""
    names = [name for name in predictions if f"{name}_probability" in predictions]
    return [name for name in names if name not in ("recording", "group", "class")]


def read_baselines(folder: Path) -> tuple[pd.DataFrame, str]:
    """``baselines.csv``: the baselines' figures, and the sentence above them.

    Raises:
        FileNotFoundError: there are none.
        RecipeError: the table is damaged.
    """
    path = folder / "baselines.csv"
    table, sentence = read_table(path, comment=True, dtype={"baseline": str, "input": str})
    return _rows(path, table, _Baseline), sentence[:10_000]


def read_scores(folder: Path) -> pd.DataFrame:
    """``scores.csv`` of a training on good parts; raises as :func:`read_baselines` does."""
    path = folder / "scores.csv"
    return _rows(path, read_table(path, dtype={"score": str, "role": str})[0], _Scored)


def read_tried(folder: Path) -> pd.DataFrame:
    """``auto.csv``: what an automatic choice tried; raises as :func:`read_baselines` does."""
    path = folder / "auto.csv"
    texts = dict.fromkeys(("candidate", "view", "level", "learning_rate"), str)  # rates: exactly
    return _rows(path, read_table(path, dtype=texts)[0], _Try)


def _there(path: Path, **options: object) -> pd.DataFrame:
    try:
        return read_table(path, **options)[0]
    except FileNotFoundError as error:
        raise RecipeError(f"{path} is missing; copy the run again.") from error


def _rows(path: Path, table: pd.DataFrame, kind: type[Checked]) -> pd.DataFrame:
    """The table, if its rows are what the model says."""
    if len(table) > ROWS:
        raise RecipeError(f"{path} has {len(table)} rows; expected {ROWS} or fewer.")
    for name in kind.model_fields:
        if name not in table and name not in OPTIONAL:
            raise RecipeError(f"{path}: the column {name} is missing; copy the run again.")
    known = table[[name for name in kind.model_fields if name in table]]
    rows = known.astype(object).where(known.notna(), None).to_dict("records")
    try:
        TypeAdapter(list[kind]).validate_python(rows)
    except ValidationError as error:
        raise RecipeError(f"{path}: {explain(error)}; copy the run again.") from error
    return table
