"""The commands that use a finished run: `hfld evaluate`, `predict` and `info`."""

import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Exit, Option

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
from hfld_lite.app.output import Output, check_output, write_output
from hfld_lite.app.runs import Run, load_run, part_counts
from hfld_lite.app.series import PAGE, runs_of
from hfld_lite.app.tables import read_results
from hfld_lite.data.names import some_names
from hfld_lite.data.parts import NO_ONSET, Cut
from hfld_lite.data.readers import files_below, read_cuts
from hfld_lite.edge.analysis import threads, with_costs
from hfld_lite.errors import DataError, HfldError, RecipeError
from hfld_lite.evaluation.baselines import USUAL
from hfld_lite.storage.progress import bar, note

_MANY = 20
"""So many files have a progress bar."""


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
    elif data is not None:
        names = USUAL if comparison is None else dict.fromkeys(comparison.table["baseline"])
        comparison = compared_on(loaded, recordings, result, names)
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
        ],
    )
    if training:
        console.print(
            f"Training figures: the run was trained or validated on these {len(recordings)} "
            "recordings, so the figures do not apply to new ones."
        )
    print_table(display_table(result.table))
    print_comparison(comparison)
    for name, found in result.evaluations.items():
        counts = pd.DataFrame(found.confusion, detector.class_names, detector.class_names)
        console.print(f"\n{name.replace('_', ' ')}: rows are true classes, columns predicted ones")
        console.print(counts.to_string())


def predict(
    files: Annotated[
        list[Path], Argument(help="WAV, FLAC or .mat files, or folders with such files below.")
    ],
    run: Annotated[Path, Option(help="A run folder that `hfld train` wrote.")] = Path("runs/demo"),
    role: Role = "student",
    variable: Variable = None,
    output: Output = None,
) -> None:
    """Classify recordings: answer, class, probability and milliseconds for each.

    The answer is "unsure" if "sound" is the most probable answer but not probable enough; the limit
    was set on the validation part for a stated miss rate. A recording that is clipped or unlike the
    training data is reported with a warning. Files are read and cut as in training; where that gave
    windows, the probabilities of all windows are averaged. A file that cannot be read is named, the
    others are answered, and the exit status is 2.
    """
    check_output(output)
    loaded = load_run(run)
    loaded.detector.network(role)  # raises if there is none
    reading = loaded.reading | ({"variable": variable} if variable else {})
    rows, seen, overlooked, bad, ready = [], [], {}, [], False
    found = list(_files(files))
    with threads(1), bar(found, "predicting", progress=len(found) >= _MANY, leave=False) as shown:
        for file, error in shown:
            try:
                if error is not None:
                    raise error
                cuts = read_cuts(file, **reading)
                if not ready:  # not timed: the first call is slower
                    loaded.detector.predict(cuts[0].signals[:1], reading["sample_rate"], role)
                    ready = True
                answers = [_answer(loaded, role, cut) for cut in cuts]
            except HfldError as fault:
                note(shown, f"hfld: {fault}")
                bad.append(file)
                rows.append({"file": str(file), "answer": "not read", "error": str(fault)})
                continue
            rows += [{"file": str(file), "row": row} | one for row, one in enumerate(answers)]
            seen += [file] * any(one["trained_on"] for one in answers)
            if share := max(cut.overlooked for cut in cuts):
                overlooked[file] = share
    columns = ["file", "row", "answer", "class", "probability"]
    columns += [f"p_{name}" for name in loaded.detector.class_names]
    columns += ["ms", "trained_on", "overlooked", "warnings", "error"]
    write_output(
        output,
        [
            {name: row.get(name) for name in columns}
            | {"warnings": "; ".join(row.get("warnings", ()))}
            for row in rows
        ],
    )
    if len(bad) < len(found):
        _print_answers(loaded, role, rows)
    if overlooked:
        share = f"{max(overlooked.values()):.0%}"
        which = f"{share} of {some_names(overlooked)} was"
        if len(overlooked) > 1:
            which = f"up to {share} of {len(overlooked)} files ({some_names(overlooked)}) was"
        console.print(
            f"warning: {which} not looked at: the answer is that of {reading['part'].words}. To "
            "have all of a file answered, cut it into pieces of that length, or train with --part "
            "windows; to find an event in it, train with --part onset."
        )
    if seen:
        console.print(
            f"note: the run was trained or validated on {len(seen)} of {len(found)} files "
            f"({some_names(seen)}); such answers do not tell how it does on new ones."
        )
    if bad:
        if len(found) > 1:
            told = f"{len(bad)} of {len(found)} files could not be read ({some_names(bad)})."
            print(f"hfld: {told}", file=sys.stderr)
        raise Exit(2)


def _files(given: Iterable[Path]) -> Iterable[tuple[Path, DataError | None]]:
    """The files that are given, and those in given folders; for an empty folder its error."""
    for path in given:
        if not os.path.isdir(path):  # Path.is_dir raises for a name that is too long
            yield path, None
            continue
        try:
            yield from ((file, None) for file in files_below(path))
        except DataError as error:
            yield path, error


def _answer(run: Run, role: str, cut: Cut) -> dict[str, Any]:
    """What a network says of one recording: a row of the output, without its place."""
    detector, trust = run.detector, run.trust.get(role)
    start = time.perf_counter()
    probabilities = detector.predict(cut.signals, detector.sample_rate, role).mean(0)
    milliseconds = 1e3 * (time.perf_counter() - start)
    best = int(probabilities.argmax())
    unsure = trust is not None and trust.unsure(probabilities[None])[0]
    said = [text for texts in (trust.warnings(cut.signals) if trust else ()) for text in texts]
    said += [NO_ONSET] * cut.no_onset
    known = run.sketch is not None or run.facts.get("seen")  # by hfld_lite 0.3.0 or later
    return {
        "answer": "unsure" if unsure else detector.answers[best],
        "class": detector.class_names[best],
        "probability": probabilities[best],
        **{f"p_{name}": p for name, p in zip(detector.class_names, probabilities, strict=True)},
        "ms": milliseconds,
        "trained_on": bool(run.learned_from(cut.signals).any()) if known else None,
        "overlooked": cut.overlooked,
        "warnings": list(dict.fromkeys(said)),
    }


def _print_answers(run: Run, role: str, rows: list[dict[str, Any]]) -> None:
    """The table of all answers, and what limits them."""
    form = {"file": _printable, "row": str, "answer": str, "class": str}
    form |= {"probability": "{:.3f}".format, "ms": "{:.2f}".format}
    shown = [
        [write(row[name]) if name in row else "" for name, write in form.items()] for row in rows
    ]
    print_rows(list(form), shown)
    for row in rows:
        for text in row.get("warnings", ()):
            console.print(f"warning: {_printable(row['file'])}, row {row['row']}: {text}")
    trust = run.trust.get(role)
    if trust is None:
        console.print("There is no validation part, so no answer can be marked unsure.")
    else:
        console.print(trust.promise)


def _printable(name: str) -> str:
    """A name as it is, or in quotes with codes, so that each stays on its line."""
    return name if name.isprintable() else repr(name)


def info(run: RunFolder) -> None:
    """Show what a run folder holds: data, recipe, networks and their results."""
    if runs := runs_of(run):
        raise RecipeError(
            f"{run} holds runs with several seeds; see {run / PAGE} for all of them together, or "
            f"give one, such as {runs[0]}."
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
    for finding in facts.get("findings", ()):
        console.print(f"note: {finding}")
    print_table(display_table(results))
