"""The page of what a run's networks cost on a device, with figures."""

from datetime import date
from pathlib import Path

import torch

from hfld_lite.app.figures import bytes_by_part, memory_by_operator
from hfld_lite.app.report import embedded, render
from hfld_lite.app.style import png, words
from hfld_lite.edge.analysis import processor
from hfld_lite.edge.summary import Costs, sources_table, tables
from hfld_lite.errors import RecipeError
from hfld_lite.version import __version__


def write_page(path: Path, costs: Costs, lead: str, command: str) -> None:
    """Write a self-contained page of all tables, with figures.

    Args:
        path: of the HTML file; folders that are missing are made.
        costs: of :func:`hfld_lite.edge.summary.measure`.
        lead: what run these are the costs of.
        command: that made the page.

    Raises:
        RecipeError: if it cannot be written.
    """
    largest = costs.parts[costs.parts["part"] != "total"].nlargest(1, "int8_bytes").iloc[0]
    peaks = {kind: found.peak for kind, found in costs.memory.items()}
    figures = [
        embedded(
            "Where the bytes are",
            png(bytes_by_part(costs.parts)),
            f"Bytes of each part; most are in {largest['part']}, {largest['int8_bytes']:,} in INT8",
            f"The {words(costs.role)}'s weights in INT8.",
        ),
        embedded(
            "Where the memory peaks",
            png(memory_by_operator({k: found.nodes for k, found in costs.memory.items()})),
            "Bytes of activations alive at each operator; peaks: "
            + ", ".join(f"{peak:,} in {kind.upper()}" for kind, peak in peaks.items()),
            "What an operator reads, writes, and what a later one still needs.",
        ),
    ]
    shown = tables(costs) | {
        "Where the devices' figures are from": (
            sources_table(),
            "Memory chips' KiB and MiB are powers of two; kB and GB are powers of ten.",
        )
    }
    page = render(
        "costs.html",
        title="What the networks cost on a device",
        lead=lead,
        sections=[
            {
                "title": title,
                "columns": list(table.columns),
                "rows": table.to_numpy().tolist(),
                "note": note,
            }
            for title, (table, note) in shown.items()
        ],
        figures=figures,
        facts=[
            ("Command", command),
            ("Processor", processor()),
            ("Versions", f"hfld_lite {__version__}, torch {torch.__version__}"),
            ("Date", str(date.today())),
        ],
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{path} cannot be written ({error.strerror}).") from error
