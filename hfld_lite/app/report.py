"""The page of a run."""

import base64
from collections.abc import Callable
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hfld_lite.app.chosen import display_tried, tried
from hfld_lite.app.compared import Comparison, compared
from hfld_lite.app.display import (
    BALANCED_NOTE,
    BASELINES_NOTE,
    INTERVAL_NOTE,
    baselines_table,
    display_table,
)
from hfld_lite.app.figures import confusions, curves, size_against_accuracy, spectra
from hfld_lite.app.fonts import numbered
from hfld_lite.app.good import display_scores, scores_of
from hfld_lite.app.good import notes as notes_of_scores
from hfld_lite.app.runs import Run, load_run, part_counts
from hfld_lite.app.style import png, words
from hfld_lite.app.tables import read_history, read_predictions, read_results, roles_in
from hfld_lite.data.examples import Examples
from hfld_lite.data.recordings import Recordings
from hfld_lite.data.views import SCALINGS
from hfld_lite.storage.files import write_whole


def report_run(
    folder: str | Path,
    recordings: Recordings | None = None,
    examples: Examples | None = None,
    say: Callable[[str], None] = print,
) -> Comparison | None:
    """Do what follows a finished run: fit the baselines that it lacks, and write its report.

    All of it can be repeated, since it reads the run's folder.

    Args:
        folder: of the run.
        recordings: of the run; without them the report has no picture of what the networks read.
        examples: what the training made of them, if it was just now: saves time.
        say: takes a line of progress.

    Raises:
        HfldError: if the run is damaged.
        OSError: if the report cannot be written; an earlier one is then as it was.
    """
    run = load_run(folder)
    comparison, data = Comparison.load(run.folder), examples or recordings
    if comparison is None and run.facts.get("baselines") and data is not None:
        predictions = read_predictions(run.folder, run.detector.class_names)
        comparison = compared(run, data, predictions, run.facts["baselines"], say)
        if comparison:
            comparison.save(run.folder)
    write_report(run, recordings, comparison)
    return comparison


def write_report(
    run: Run, recordings: Recordings | None = None, comparison: Comparison | None = None
) -> None:
    """Write ``figures/*.png`` and the self-contained page ``report.html`` into a run's folder.

    Args:
        run: finished; the page shows the table of its automatic choice if it made one.
        recordings: of the run, for the picture of what the networks read, if there are any.
        comparison: with the baselines, if there are any.

    Raises:
        RecipeError: if a table of the run is missing or damaged.
        OSError: if the page cannot be written; an earlier one is then as it was.
    """
    folder, facts, detector = run.folder, run.facts, run.detector
    table, history = read_results(folder), read_history(folder)
    predictions = read_predictions(folder, detector.class_names)
    figures = run_figures(run, table, history, predictions)
    if recordings is not None and detector.frequencies is not None:
        figures.append(_spectra(run, recordings))
    notes = [numbered(detector.class_names)]
    if recordings is None and detector.frequencies is not None:
        notes.append("The picture of what the networks read is left out: no recordings were there.")
    (folder / "figures").mkdir(exist_ok=True)
    shown = []
    for name, title, figure, alt, caption in figures:
        data = png(figure)
        write_whole(folder / "figures" / f"{name}.png", data)
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
    scores = scores_of(folder)
    if scores is not None:
        cells_of = display_scores(scores)
        scores = {
            "columns": list(cells_of.columns),
            "rows": cells_of.to_numpy().tolist(),
            "notes": notes_of_scores(run, scores),
        }
    choice = tried(folder)
    choice = None if choice is None else display_tried(choice)
    many = detector.part is not None and detector.part.kind == "windows"
    made = {"Command": "unknown"} | facts.get("made", {})
    page = render(
        "report.html",
        title="Teacher, secondary teacher, student",
        lead=f"{facts['source'][:1].upper()}{facts['source'][1:]}. Classes: "
        f"{', '.join(detector.class_names)}.",
        simulated=facts["simulated"],
        findings=facts.get("findings", ()),
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
            *filter(None, notes),
        ],
        baselines=baselines,
        scores=scores,
        figures=shown,
        choice=None if choice is None else (list(choice.columns), choice.to_numpy().tolist()),
        facts=[
            ("Command", made.pop("Command")),
            ("Data", facts["source"]),
            (
                "Windows of recordings" if many else "Recordings",
                part_counts(run),
            ),
            (
                "Signal",
                f"{detector.samples} samples at {detector.sample_rate} Hz, "
                f"{1000 * detector.samples / detector.sample_rate:.0f} ms",
            ),
            (
                "Training",
                "; ".join(
                    f"{words(role)} from {words(stage['learned_from'])}, "
                    f"{stage['seconds']:.0f} s, best epoch {stage['best_epoch']}"
                    for role, stage in facts["stages"].items()
                ),
            ),
            *made.items(),
        ],
        recipe=detector.recipe.to_json(),
    )
    write_whole(folder / "report.html", page)


Drawn = tuple[str, str, Figure, str, str]
"""A file's name, a title, the figure, its words for those who do not see it, and a caption."""


def run_figures(
    run: Run, table: pd.DataFrame, history: pd.DataFrame, predictions: pd.DataFrame
) -> list[Drawn]:
    """The figures that need a run's tables only."""
    names = run.detector.class_names
    matrices = {role: _confusion(predictions, role, names) for role in roles_in(predictions)}
    # With the behaviour "published" there is no validation part.
    chosen_on = "validation" if len(run.split.validation) else "test"
    return [
        (
            "size_against_accuracy",
            "Size and accuracy",
            size_against_accuracy(table),
            "Test accuracy with its 95 % interval over the number of parameters: "
            + "; ".join(
                f"{words(row.role)} {row.accuracy:.1%} at {row.parameters:,}"
                for row in table.itertuples()
            ),
            "Bars are 95 % intervals. Student and student alone have the same size and are drawn "
            "side by side.",
        ),
        (
            "curves",
            "Training",
            curves(history),
            "Loss terms of each network over the epochs, and the validation accuracy of all",
            "Above, the unweighted terms of the loss on the training part; below, the accuracy on "
            f"the {chosen_on} part, by which each network's epoch was chosen."
            + " They learned to tell kinds and pitches of good parts apart, and this is that "
            "accuracy." * bool(run.promise),
        ),
        (
            "confusions",
            "Confusion on the test part",
            confusions(matrices, names),
            "Confusion matrices of all networks: "
            + "; ".join(
                f"{words(role)} {counts.sum() - int(np.trace(counts))} wrong of {counts.sum()}"
                for role, counts in matrices.items()
            ),
            "Rows are true classes, columns predicted ones; numbers count recordings. "
            + numbered(names),
        ),
    ]


def _confusion(predictions: pd.DataFrame, role: str, names: tuple[str, ...]) -> np.ndarray:
    places = [pd.Categorical(predictions[name], names).codes for name in ("class", role)]
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, tuple(places), 1)
    return counts


def _spectra(run: Run, recordings: Recordings) -> Drawn:
    detector, test = run.detector, run.split.test
    rest = " The mel bands over time, which follow, are not drawn."
    return (
        "spectra",
        "What the networks read",
        spectra(
            detector.inputs(recordings.signals[test]).numpy(),
            recordings.labels[test],
            detector.class_names,
            detector.frequencies,
        ),
        "Mean spectrum of each class on the test part, with the middle 80 % of recordings",
        f"The view {detector.recipe.view} of the test part, scaled: "
        f"{SCALINGS[detector.recipe.view]}.{rest * (detector.recipe.view == 'log-mel')} "
        f"{numbered(detector.class_names)}",
    )


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
