"""The table and the page of a run."""

import base64
import platform
from datetime import date
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
import torch

from hfld_lite.app.chosen import display_tried, tried
from hfld_lite.app.compared import Comparison
from hfld_lite.app.figures import confusions, curves, size_against_accuracy, spectra
from hfld_lite.app.style import png
from hfld_lite.data.recordings import Recordings
from hfld_lite.data.views import SCALINGS
from hfld_lite.edge.analysis import processor
from hfld_lite.evaluation.detector import TestResult
from hfld_lite.hierarchy import Chain
from hfld_lite.version import __version__

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


def write_report(
    folder: Path,
    chain: Chain,
    result: TestResult,
    recordings: Recordings,
    command: str,
    comparison: Comparison | None = None,
) -> None:
    """Write ``figures/*.png`` and the self-contained page ``report.html`` into a run's folder.

    Args:
        folder: of the run; the page shows the table of its automatic choice if it made one.
        chain, recordings: as trained and tested.
        result: of the test; the page shows the costs if the table has them.
        command: that made the run, to be shown.
        comparison: with the baselines, if there are any.
    """
    detector, table = chain.detector, result.table
    test = chain.split.test
    # With the behaviour "published" there is no validation part.
    chosen_on = "validation" if len(chain.split.validation) else "test"
    figures = [
        (
            "size_against_accuracy",
            "Size and accuracy",
            size_against_accuracy(table),
            "Test accuracy with its 95 % interval over the number of parameters: "
            + "; ".join(
                f"{row.role.replace('_', ' ')} {row.accuracy:.1%} at {row.parameters:,}"
                for row in table.itertuples()
            ),
            "Bars are 95 % intervals. Student and student alone have the same size and are drawn "
            "side by side.",
        ),
        (
            "curves",
            "Training",
            curves(chain.history()),
            "Loss terms of each network over the epochs, and the validation accuracy of all",
            "Above, the unweighted terms of the loss on the training part; below, the accuracy on "
            f"the {chosen_on} part, by which each network's epoch was chosen.",
        ),
        (
            "confusions",
            "Confusion on the test part",
            confusions(
                {role: found.confusion for role, found in result.evaluations.items()},
                detector.class_names,
            ),
            "Confusion matrices of all networks: "
            + "; ".join(
                f"{role.replace('_', ' ')} {found.count - int(np.trace(found.confusion))} wrong of "
                f"{found.count}"
                for role, found in result.evaluations.items()
            ),
            "Rows are true classes, columns predicted ones; numbers count recordings.",
        ),
    ]
    if (hertz := detector.frequencies) is not None:
        scaling = SCALINGS[detector.recipe.view]
        figures.append(
            (
                "spectra",
                "What the networks read",
                spectra(
                    detector.inputs(recordings.signals[test]).numpy(),
                    recordings.labels[test],
                    detector.class_names,
                    hertz,
                ),
                "Mean spectrum of each class on the test part, with the middle 80 % of recordings",
                f"The view {detector.recipe.view} of the test part, scaled: {scaling}.",
            )
        )
    (folder / "figures").mkdir(exist_ok=True)
    shown = []
    for name, title, figure, alt, caption in figures:
        data = png(figure)
        (folder / "figures" / f"{name}.png").write_bytes(data)
        shown.append(embedded(title, data, alt, caption))
    cells, baselines = display_table(table), None
    if comparison:
        others = baselines_table(comparison.table)
        baselines = {
            "columns": list(others.columns),
            "rows": others.to_numpy().tolist(),
            "sentence": comparison.sentence,
            "note": BASELINES_NOTE,
        }
    choice = tried(folder)
    choice = None if choice is None else display_tried(choice)
    counts = {name: len(part) for name, part in chain.split.parts().items()}
    page = render(
        "report.html",
        title="Teacher, secondary teacher, student",
        lead=f"{recordings.source[:1].upper()}{recordings.source[1:]}. Classes: "
        f"{', '.join(detector.class_names)}.",
        simulated=recordings.simulated,
        findings=recordings.findings,
        columns=list(cells.columns),
        rows=cells.to_numpy().tolist(),
        notes=[
            INTERVAL_NOTE,
            (
                "A miss is a defective recording called sound, a false alarm a sound one called "
                "defective. "
                if detector.normal_classes
                else "No class is normal, so miss rate and false-alarm rate are not defined. "
            )
            + BALANCED_NOTE,
            "MACs are half of what torch's FlopCounterMode counts. `hfld edge` measures the time.",
        ],
        baselines=baselines,
        figures=shown,
        choice=None if choice is None else (list(choice.columns), choice.to_numpy().tolist()),
        facts=[
            ("Command", command),
            ("Data", recordings.source),
            (
                "Recordings" if recordings.wholes is None else "Windows of recordings",
                ", ".join(f"{name} {count}" for name, count in counts.items()),
            ),
            (
                "Signal",
                f"{recordings.samples} samples at {recordings.sample_rate} Hz, "
                f"{1000 * recordings.samples / recordings.sample_rate:.0f} ms",
            ),
            (
                "Training",
                "; ".join(
                    f"{role.replace('_', ' ')} from {stage.learned_from.replace('_', ' ')}, "
                    f"{stage.fit.seconds:.0f} s, best epoch {stage.fit.best_epoch}"
                    for role, stage in chain.stages.items()
                ),
            ),
            ("Processor", f"{processor()}, {torch.get_num_threads()} threads in training"),
            (
                "Versions",
                f"hfld_lite {__version__}, torch {torch.__version__}, Python "
                f"{platform.python_version()}",
            ),
            ("Date", str(date.today())),
        ],
        recipe=detector.recipe.to_json(),
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def embedded(title: str, data: bytes, alt: str, caption: str) -> dict[str, str]:
    """A PNG file with its words, for the templates."""
    encoded = base64.b64encode(data).decode()
    return {"title": title, "data": encoded, "alt": alt + ".", "caption": caption}


def render(template: str, **values: object) -> str:
    """A page of ``hfld_lite/app/templates``."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hfld_lite.app"), autoescape=True, trim_blocks=True
    )
    return environment.get_template(template).render(**values)
