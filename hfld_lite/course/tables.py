"""Small tables of results in a notebook: plain names, numbers as words, readable on a phone."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from IPython.display import HTML, display

if TYPE_CHECKING:
    import pandas as pd

_CELL = "padding:4px 10px 4px 0;border-bottom:1px solid #767676;vertical-align:top;"


def show_table(table: pd.DataFrame, caption: str) -> None:
    """Show a table whose first column names its rows.

    Args:
        table: what is shown, as it is: columns with the names that readers see, and numbers
            already written with their decimals and units. The index is left out.
        caption: says what the table holds.
    """
    first = 'scope="row" style="text-align:left;font-weight:normal;' + _CELL + '"'
    head = "".join(
        f'<th scope="col" style="text-align:{"right" if i else "left"};{_CELL}">{escape(name)}</th>'
        for i, name in enumerate(map(str, table.columns))
    )
    body = "".join(
        f"<tr><th {first}>{escape(str(name))}</th>"
        + "".join(f'<td style="text-align:right;{_CELL}">{escape(str(x))}</td>' for x in values)
        + "</tr>"
        for name, *values in table.itertuples(index=False, name=None)
    )
    display(
        HTML(
            '<div style="overflow-x:auto" tabindex="0" role="group" '
            f'aria-label="{escape(caption)}">'
            '<table style="border-collapse:collapse;font-size:14px">'
            f'<caption style="text-align:left;padding-bottom:4px">{escape(caption)}</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )
    )
