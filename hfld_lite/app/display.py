"""The tables of a run in words and units, and the notes below them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

INTERVAL_NOTE = (
    "The interval is Wilson's, at 95 %, on the effective number of test recordings: recordings of "
    "one tile (or one stretch of time) are similar and count for less. Two networks whose "
    "intervals overlap have not been shown to differ, and one run is one seed."
)

BALANCED_NOTE = (
    "Balanced accuracy (macro recall) is the mean over classes of the share of correct answers."
)

BASELINES_NOTE = (
    "Classifiers of scikit-learn, fitted on the same training part and chosen on the same "
    "validation part. The sentence compares the student with the baseline that validation prefers; "
    "its interval is a paired bootstrap over groups."
)


def display_table(table: pd.DataFrame) -> pd.DataFrame:
    """The table of a test in words and units, a string in every cell.

    Args:
        table: of a `TestResult`; costs are shown if it has them, see
            :func:`hfld_lite.edge.analysis.with_costs`.
    """
    import pandas as pd

    return pd.DataFrame(
        {
            "role": table["role"].str.replace("_", " "),
            "network": table["network"],
            "parameters": table["parameters"].map("{:,}".format),
            **(
                {
                    "MACs": table["macs"].map(lambda macs: f"{macs / 1e6:.2f} M"),
                    "size in kB": table["size_kb"].map("{:,.0f}".format),
                }
                if "macs" in table
                else {}
            ),
            **_figures(table),
        }
    )


def baselines_table(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `Baselines` in words and units, a string in every cell."""
    import pandas as pd

    return pd.DataFrame(
        {
            "baseline": table["baseline"],
            "input": table["input"],
            "validation accuracy": table["validation_accuracy"].map(_percent),
            **_figures(table),
        }
    )


def _figures(table: pd.DataFrame) -> dict[str, list[str]]:
    """The columns that networks and baselines share."""
    columns = {
        "test accuracy (95 % interval)": [
            f"{100 * row.accuracy:.1f} % ({100 * row.low:.1f} to {100 * row.high:.1f})"
            for row in table.itertuples()
        ]
    }
    rates = {"miss_rate": "miss rate", "false_alarm_rate": "false-alarm rate"}
    if table["miss_rate"].isna().all():
        rates = {}
    rates["macro_recall"] = "balanced accuracy"
    return columns | {shown: table[name].map(_percent).tolist() for name, shown in rates.items()}


def _percent(value: float | None) -> str:
    return "–" if value is None or np.isnan(value) else f"{100 * value:.1f} %"
