"""The commands that use a finished run: `hfld evaluate`, `predict` and `info`."""

import time
from pathlib import Path
from typing import Annotated

import pandas as pd
from rich import box
from rich.table import Table
from typer import Argument, Option

from hfld_lite.app.compared import Comparison, compared_on
from hfld_lite.app.console import (
    Role,
    RunFolder,
    Variable,
    console,
    print_comparison,
    print_table,
)
from hfld_lite.app.report import display_table
from hfld_lite.app.runs import load_run, unseen
from hfld_lite.data.parts import NO_ONSET, Part
from hfld_lite.data.readers import read_cuts
from hfld_lite.edge.analysis import threads, with_costs
from hfld_lite.errors import RecipeError
from hfld_lite.evaluation.baselines import USUAL


def evaluate(
    run: RunFolder,
    data: Annotated[
        Path | None,
        Option(help="Folder of other recordings; without it the run's own test part."),
    ] = None,
    role: Annotated[str | None, Option(help="One network only; by default all.")] = None,
) -> None:
    """Measure a run's networks on its test part or on other recordings of the same classes.

    Other recordings that the networks were trained on are left out.
    """
    loaded = load_run(run)
    if data is None:
        recordings = loaded.recordings().select(loaded.split.test)
    else:
        recordings = loaded.read(data)
        recordings, said = unseen(loaded, recordings, data)
        if said:
            console.print(said)
    detector = loaded.detector.only(role) if role else loaded.detector
    result = with_costs(detector.test(recordings), detector, recordings.signals[0])
    print_table(display_table(result.table))
    comparison = Comparison.load(loaded.folder)
    if data is not None:
        names = USUAL if comparison is None else dict.fromkeys(comparison.table["baseline"])
        comparison = compared_on(loaded, recordings, result, names)
    print_comparison(comparison)
    for name, found in result.evaluations.items():
        counts = pd.DataFrame(found.confusion, detector.class_names, detector.class_names)
        console.print(f"\n{name.replace('_', ' ')}: rows are true classes, columns predicted ones")
        console.print(counts.to_string())


def predict(
    files: Annotated[list[Path], Argument(help="WAV, FLAC or .mat files.")],
    run: Annotated[Path, Option(help="A run folder that `hfld train` wrote.")] = Path("runs/demo"),
    role: Role = "student",
    variable: Variable = None,
) -> None:
    """Classify recordings: answer, class, probability and milliseconds for each.

    The answer is "unsure" if "sound" is the most probable answer but not probable enough; the limit
    was set on the validation part for a stated miss rate. A recording that is clipped or unlike the
    training data is reported with a warning. Files are cut as in training; where that gave windows,
    the probabilities of all windows are averaged.
    """
    loaded = load_run(run)
    detector = loaded.detector
    window = loaded.facts.get("window")
    read = [
        read_cuts(
            file,
            sample_rate=detector.sample_rate,
            part=detector.part or Part("first", detector.samples),
            hop=window[1] if window else None,
            variable=variable,
        )
        for file in files
    ]
    table = Table("file", "row", "answer", "class", "probability", "ms", box=box.SIMPLE_HEAD)
    rate = detector.sample_rate
    trust, notes = loaded.trust.get(role), []
    with threads(1):
        detector.predict(read[0][0].signals[:1], rate, role)  # not timed: the first call is slower
        for file, cuts in zip(files, read, strict=True):
            for row, cut in enumerate(cuts):
                start = time.perf_counter()
                probabilities = detector.predict(cut.signals, rate, role).mean(0)
                milliseconds = 1e3 * (time.perf_counter() - start)
                best = int(probabilities.argmax())
                unsure = trust is not None and trust.unsure(probabilities[None])[0]
                found = trust.warnings(cut.signals) if trust else []
                said = [text for texts in found for text in texts]
                said += [NO_ONSET] * cut.no_onset
                notes += [f"warning: {file}, row {row}: {text}" for text in dict.fromkeys(said)]
                table.add_row(
                    str(file),
                    str(row),
                    "unsure" if unsure else detector.answers[best],
                    detector.class_names[best],
                    f"{probabilities[best]:.3f}",
                    f"{milliseconds:.2f}",
                )
    console.print(table)
    for note in notes:
        console.print(note)
    if trust is None:
        console.print("There is no validation part, so no answer can be marked unsure.")
    else:
        console.print(trust.promise)


def info(run: RunFolder) -> None:
    """Show what a run folder holds: data, recipe, networks and their results."""
    loaded = load_run(run)
    facts = loaded.facts
    try:
        results = pd.read_csv(loaded.folder / "results.csv")
    except (OSError, ValueError) as error:
        raise RecipeError(f"{run}/results.csv cannot be read ({error}).") from error
    parts = {name: len(part) for name, part in loaded.split.parts().items()}
    part = loaded.detector.part
    many = "windows of recordings" if part and part.kind == "windows" else "recordings"
    console.print(f"{run}: preset {loaded.detector.recipe.name}, hfld_lite {facts['hfld_lite']}")
    console.print(f"Data: {facts['source']}")
    console.print(
        f"Classes: {', '.join(facts['class_names'])}; {facts['samples']} samples at "
        f"{facts['sample_rate']} Hz; {many}: "
        + ", ".join(f"{name} {count}" for name, count in parts.items())
    )
    for role, stage in facts["stages"].items():
        console.print(
            f"{role.replace('_', ' ')}: from {stage['learned_from'].replace('_', ' ')}, best epoch "
            f"{stage['best_epoch']}, {stage['seconds']:.0f} s"
        )
    try:
        print_table(display_table(results))
    except (KeyError, TypeError, ValueError) as error:
        raise RecipeError(f"{run}/results.csv is damaged ({error}); copy the run again.") from error
