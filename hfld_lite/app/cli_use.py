"""The commands that use a finished run: `hfld evaluate`, `predict` and `info`."""

import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option

from hfld_lite.app.answers import Answers, step_of
from hfld_lite.app.compared import Comparison, compared_on
from hfld_lite.app.console import (
    Role,
    RunFolder,
    Variable,
    console,
    print_comparison,
    print_rows,
    print_table,
)
from hfld_lite.app.display import display_table
from hfld_lite.app.files import given_files
from hfld_lite.app.good import measured_scores, print_scores
from hfld_lite.app.output import Output, check_output, growing_output, write_output
from hfld_lite.app.runs import load_run, part_counts
from hfld_lite.app.series import PAGE, runs_of
from hfld_lite.app.tables import read_results
from hfld_lite.app.tally import Tally, print_answers, print_limits
from hfld_lite.app.watching import opened, stop_by_signal, watch_folder
from hfld_lite.edge.analysis import threads, with_costs
from hfld_lite.errors import DataError, RecipeError
from hfld_lite.evaluation.baselines import USUAL
from hfld_lite.storage.progress import bar, note

if TYPE_CHECKING:
    import pandas as pd

_MANY = 20
"""So many files have a progress bar."""

RunOption = Annotated[Path, Option(help="A run folder that `hfld train` wrote.")]


def evaluate(
    run: RunFolder,
    data: Annotated[
        Path | None,
        Option(help="Folder of other recordings; without it the run's own test part."),
    ] = None,
    role: Annotated[str | None, Option(help="One network only; by default all.")] = None,
    training: Annotated[
        bool,
        Option(
            "--training",
            help="Measure on those of --data that the run was trained or validated on, instead of "
            "leaving them out.",
        ),
    ] = False,
    output: Output = None,
) -> None:
    """Measure a run's networks on its test part or on other recordings of the same classes.

    Other recordings that the networks were trained on are left out, and so are unlabelled ones.
    """
    import pandas as pd

    check_output(output)
    if training and data is None:
        raise RecipeError("--training needs --data, the folder of the training recordings.")
    loaded = load_run(run)
    if data is None:
        recordings = loaded.recordings().select(loaded.split.test)
    else:
        recordings = loaded.read(data, training, console.print)
    detector = loaded.detector.only(role) if role else loaded.detector
    result = with_costs(detector.test(recordings), detector, recordings.signals[0])
    comparison = Comparison.load(loaded.folder)
    if training:
        comparison = None  # it would compare how well training recordings are remembered
    elif data is not None and not loaded.promise:
        names = USUAL if comparison is None else dict.fromkeys(comparison.table["baseline"])
        comparison = compared_on(loaded, recordings, result, names)
    scores = kinds = None
    if loaded.promise:
        scores, kinds = measured_scores(detector, recordings)
    kind = "training" if training else "test" if data is None else "other"
    others = [] if comparison is None else comparison.table.to_dict("records")
    write_output(
        output,
        [
            *(
                {"recordings_are": kind}
                | row
                | {
                    "classes": detector.class_names,
                    "confusion": result.evaluations[row["role"]].confusion,
                }
                for row in result.table.to_dict("records")
            ),
            *({"recordings_are": kind, "role": "baseline"} | row for row in others),
            *_records(scores, kind, "score"),
            *_records(kinds, kind, "kind"),
        ],
    )
    if training:
        console.print(
            f"Training figures: the run was trained or validated on these {len(recordings)} "
            "recordings, so the figures do not apply to new ones."
        )
    print_table(display_table(result.table))
    if scores is not None:
        print_scores(loaded, scores)
        print_rows(list(kinds.columns), kinds.astype(str).to_numpy().tolist())
    print_comparison(comparison)
    for name, found in result.evaluations.items():
        counts = pd.DataFrame(found.confusion, detector.class_names, detector.class_names)
        console.print(f"\n{name.replace('_', ' ')}: rows are true classes, columns predicted ones")
        console.print(counts.to_string())


def _records(table: "pd.DataFrame | None", kind: str, what: str) -> list[dict[str, Any]]:
    """Rows of a table of a run on good parts, as `--output` has them."""
    rows = [] if table is None else table.to_dict("records")
    return [{"recordings_are": kind, "table": what} | row for row in rows]


Windows = Annotated[
    bool,
    Option(
        "--windows",
        help="Answer long recordings by windows of the training's length, with their times, and "
        "each recording as a whole by the windows' average.",
    ),
]
Hop = Annotated[
    str | None,
    Option(
        help="With --windows: from one window's start to the next, in samples (3500) or seconds "
        "(0.05 or 2s). By default half a window."
    ),
]


def predict(
    files: Annotated[
        list[Path],
        Argument(
            metavar="PATH...",
            readable=False,  # a file that cannot be read gets its line, as any bad one
            help="WAV, FLAC or .mat files, folders with such files below, and patterns in quotes, "
            "such as 'line*/**/*.wav'.",
        ),
    ],
    run: RunOption = Path("runs/demo"),
    role: Role = None,
    variable: Variable = None,
    windows: Windows = False,
    hop: Hop = None,
    output: Output = None,
) -> None:
    """Classify recordings: answer, class, probability and milliseconds for each.

    The answer is "unsure" if "sound" is the most probable answer but not probable enough; the limit
    was set on the validation part for a stated miss rate. A recording that is clipped or unlike the
    training data is reported with a warning. Files are read and cut as in training; where that gave
    windows, the probabilities of all windows are averaged. Files are answered in batches: the
    milliseconds of one are its share of its batch's. A file that cannot be read is named, the
    others are answered, and the exit status is 2. The first 100 rows are printed, and all are
    written to --output, which grows as FILE.part and gets its name when all files are answered.
    """
    check_output(output)
    loaded = load_run(run)
    answers = Answers(
        loaded, role or loaded.detector.answering, variable, step_of(windows, hop, loaded)
    )
    found = list(given_files(files))
    tally = Tally()
    shown = bar(total=len(found), desc="predicting", progress=len(found) >= _MANY, leave=False)
    try:
        with threads(1), growing_output(output, answers.columns) as table, shown:
            for batch in answers.each(found):
                for one in batch:
                    tally.add(one)
                    if one.error is not None:
                        note(shown, f"hfld: {one.error}")
                table.add(answers.fields(row) for one in batch for row in one.rows)
                shown.update(len(batch))
    except KeyboardInterrupt:
        kept = f"; their answers are in {output}.part" if output else ""
        print(f"hfld: stopped after {tally.files} of {len(found)} files{kept}.", file=sys.stderr)
        raise Exit(130) from None
    if len(tally.bad) < tally.files:
        print_answers(answers, tally, output)
    if tally.bad:
        if len(found) > 1:
            said = f"{len(tally.bad)} of {len(found)} files could not be read ({tally.bad})."
            print(f"hfld: {said}", file=sys.stderr)
        raise Exit(2)


def watch(
    folder: Annotated[Path, Argument(help="Folder where files arrive, also in folders below.")],
    output: Annotated[
        Path,
        Option(help="File that answers are appended to, .csv or .jsonl; it is read again."),
    ],
    run: RunOption = Path("runs/demo"),
    role: Role = None,
    variable: Variable = None,
    windows: Windows = False,
    hop: Hop = None,
    poll: Annotated[
        float, Option(min=0.01, help="Seconds from one look at the folder to the next.")
    ] = 1.0,
) -> None:
    """Answer the files of a folder as they arrive, once each, until Ctrl-C.

    A file is answered when its size and time are the same at two looks; hidden files and those
    whose names end in .part or .tmp are left until they are renamed. Answers are appended to
    --output, a batch at a time, with the file's size and time of modification: after a restart or
    a kill the file is read, and what it holds is not answered again. A file that changed since is
    answered again and gets another record. A file that cannot be read gets one record with the
    reason. Ctrl-C ends with a summary and exit status 0.
    """
    check_output(output)
    if not os.path.isdir(folder):
        found = "is a file" if os.path.lexists(folder) else "is not there"
        raise DataError(folder, found, expected="the folder that files arrive in")
    loaded = load_run(run)
    role = role or loaded.detector.answering
    answers = Answers(loaded, role, variable, step_of(windows, hop, loaded))
    began = time.monotonic()
    with threads(1), opened(output, answers) as ledger, stop_by_signal() as stop:
        if ledger.cut:
            print(
                f"note: {output} ended in half a record, which is answered again.", file=sys.stderr
            )
        console.print(
            f"Watching {folder} every {poll:g} s; the {role.replace('_', ' ')}'s answers go to "
            f"{output}, which holds {_files(len(ledger.done))}. Ctrl-C ends."
        )
        complain = partial(print, "hfld:", file=sys.stderr, flush=True)
        tally = watch_folder(answers, folder, ledger, poll, stop, console.print, complain)
        count = len(ledger.done)
    seconds = time.monotonic() - began
    print_limits(answers, tally)
    console.print(
        f"{_files(tally.files)} in {seconds:.0f} s{': ' * bool(tally.files)}{tally.counts}. "
        f"{output} holds {_files(count)}."
    )


def _files(count: int) -> str:
    return f"{count:,} file{'s' * (count != 1)}"


def info(run: RunFolder) -> None:
    """Show what a run folder holds: data, recipe, networks and their results."""
    if runs := runs_of(run):
        raise RecipeError(
            f"{run} holds runs with several seeds; give one, such as {runs[0]}"
            + f", or see {run / PAGE} for all of them together" * (run / PAGE).exists()
            + "."
        )
    loaded = load_run(run)
    facts, results = loaded.facts, read_results(loaded.folder)
    part = loaded.detector.part
    many = "windows of recordings" if part and part.kind == "windows" else "recordings"
    console.print(f"{run}: preset {loaded.detector.recipe.name}, hfld_lite {facts['hfld_lite']}")
    console.print(f"Data: {facts['source']}")
    console.print(
        f"Classes: {', '.join(facts['class_names'])}; {facts['samples']} samples at "
        f"{facts['sample_rate']} Hz; {many}: {part_counts(loaded)}"
    )
    for role, stage in facts["stages"].items():
        console.print(
            f"{role.replace('_', ' ')}: from {stage['learned_from'].replace('_', ' ')}, best epoch "
            f"{stage['best_epoch']}, {stage['seconds']:.0f} s"
        )
    if threads := facts.get("made", {}).get("Threads"):
        console.print(f"Trained with {threads}; a run keeps that number when it is resumed")
    if loaded.promise:
        console.print("Trained on good parts alone.")
    for finding in facts.get("findings", ()):
        console.print(f"note: {finding}")
    print_table(display_table(results))
    print_scores(loaded)
