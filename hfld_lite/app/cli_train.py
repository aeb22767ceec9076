"""The command `hfld train`: check, train, save; the report follows when the run is safe."""

import io
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich import box
from rich.table import Table
from safetensors import SafetensorError
from typer import Option

from hfld_lite.app.checks import check_training, said_of_unlabelled
from hfld_lite.app.chosen import chosen
from hfld_lite.app.cli_report import reported
from hfld_lite.app.compared import wanted_baselines
from hfld_lite.app.console import Variable, console, print_table
from hfld_lite.app.display import INTERVAL_NOTE, display_table
from hfld_lite.app.estimate import Estimate
from hfld_lite.app.given import run_plugins, trained_teacher
from hfld_lite.app.good import (
    check_good,
    check_training_good,
    print_scores,
    scores_of,
    trained_good,
    wanted_good,
)
from hfld_lite.app.many import Scheduler
from hfld_lite.app.options import with_options
from hfld_lite.app.runs import (
    FACTS,
    load_run,
    read_origin,
    save_run,
    unfinished,
    with_known_costs,
)
from hfld_lite.app.series import (
    NOTE,
    begin_all,
    begin_others,
    missing,
    runs_of,
    series_place,
    series_threads,
    train_runs,
    whole,
    withdraw,
    write_series,
)
from hfld_lite.app.unfinished import (
    BEGUN,
    CHECKPOINTS,
    Wanted,
    begin_run,
    begun_auto,
    begun_baselines,
    begun_devices,
    begun_good,
    begun_plugins,
    begun_run,
    begun_split,
    begun_teacher,
    check_place,
    new_run,
    run_of,
)
from hfld_lite.data.recordings import Recordings
from hfld_lite.data.simulator.simulate import VERSION
from hfld_lite.data.splits import Split
from hfld_lite.edge.analysis import threads
from hfld_lite.errors import ArgumentError, DataError, Diverged, HfldError, RecipeError
from hfld_lite.evaluation.choice import BUDGET
from hfld_lite.evaluation.detector import TestResult
from hfld_lite.evaluation.good_parts import GoodParts
from hfld_lite.hierarchy import Chain, distill_chain
from hfld_lite.recipes import Augmentation, Recipe
from hfld_lite.rivals.presets import preset
from hfld_lite.storage.locks import InUse

WAIT = 30
"""Seconds in which another process may leave a run that a worker is to train."""


def train(
    out: Annotated[Path | None, Option(help="Folder for the run; it must not exist yet.")] = None,
    resume: Annotated[
        Path | None, Option(help="Resume the unfinished run of this folder, with its own options.")
    ] = None,
    data: Annotated[
        Path | None,
        Option(
            help="Folder of recordings: prepared by a data script, tiles in .mat files (AN.mat, "
            "AD.mat, …), or WAV or FLAC files, a folder for each class, and a folder unlabelled "
            "for those of an unknown class. Default: simulated tiles."
        ),
    ] = None,
    preset_name: Annotated[
        str | None,
        Option("--preset", help="The recipe: classroom (the default), demo, paper or published."),
    ] = None,
    recipe_file: Annotated[
        Path | None, Option("--recipe", help="A recipe as JSON, instead of a preset.")
    ] = None,
    seed: Annotated[int | None, Option(help="Seed; by default the recipe's.")] = None,
    seeds: Annotated[
        int, Option(help="Runs with so many seeds, each with its own split: OUT/seed_0, …")
    ] = 1,
    steps: Annotated[
        int | None, Option(help="Steps of each network, in 10 passes over the data at least.")
    ] = None,
    epochs: Annotated[
        int | None, Option(help="Passes of each network over the data, instead of --steps.")
    ] = None,
    learning_rate: Annotated[float | None, Option(help="Highest learning rate.")] = None,
    batch_size: Annotated[int | None, Option(help="Recordings a step.")] = None,
    view: Annotated[
        str | None,
        Option(help="What networks read: spectrum, log-spectrum, log-mel or time."),
    ] = None,
    bins: Annotated[
        int | None, Option(help="Most values along the frequency, 257 or more; fewer are faster.")
    ] = None,
    level: Annotated[
        str | None,
        Option(help="removed, or kept where loudness tells classes apart (log views only)."),
    ] = None,
    auto: Annotated[
        bool,
        Option(
            "--auto",
            help="First choose view and learning rate on the validation part, by the student "
            "alone; the test part is not read.",
        ),
    ] = False,
    budget: Annotated[
        float | None,
        Option(help=f"Most time for --auto, in trainings of all networks; {BUDGET:g} by default."),
    ] = None,
    method: Annotated[
        str | None,
        Option(
            help="What students learn by: hflkd (the default), or cross-entropy and one loss, such "
            "as kd, dkd, fitnet, attention, standardised, or one that a plugin registers."
        ),
    ] = None,
    unlabelled: Annotated[
        float | None,
        Option(
            help="Share of each batch that students read of unlabelled recordings, where there "
            "are any: 0 to below 1; 0 learns from labelled ones alone. By default the recipe's, "
            "0.5."
        ),
    ] = None,
    teacher: Annotated[
        Path | None,
        Option(
            help="A trained teacher instead of a new one: a run folder, or a .safetensors file "
            "with the weights of the recipe's teacher network."
        ),
    ] = None,
    plugin: Annotated[
        list[Path] | None,
        Option(
            help="A Python file to run first, which registers losses, weightings or readers; may "
            "be given several times."
        ),
    ] = None,
    augment: Annotated[
        bool,
        Option(
            "--augment",
            help="Vary pitch, onset, loudness and noise of the recordings at every step; slower.",
        ),
    ] = False,
    devices: Annotated[
        int | None,
        Option(
            help="Train on so many GPUs together, or in so many processes where there is no GPU; "
            "each takes a part of every batch. 1 by default."
        ),
    ] = None,
    strategy: Annotated[
        str | None, Option(help="How --devices divide a training; so far only ddp.")
    ] = None,
    detect_anomaly: Annotated[
        bool,
        Option("--detect-anomaly", help="Find the operation that produces NaN; much slower."),
    ] = False,
    fresh: Annotated[bool, Option("--fresh", help="Replace an existing run.")] = False,
    quiet: Annotated[bool, Option("--quiet", help="No progress bars.")] = False,
    part: Annotated[
        str | None,
        Option(
            help="Which part of each file is used: first (the default with --samples), loudest, "
            "onset, whole or windows (of which the answers are averaged). By default it is chosen "
            "by the files' lengths and energies."
        ),
    ] = None,
    samples: Annotated[
        int | None, Option(help="Number of samples to use of each file or row.")
    ] = None,
    sample_rate: Annotated[
        int | None, Option(help="Sample rate in Hz, for files that do not state it.")
    ] = None,
    variable: Variable = None,
    window: Annotated[
        int | None, Option(help="Samples of a window, for long recordings in .mat files.")
    ] = None,
    label_pattern: Annotated[
        str | None,
        Option(
            help="For sound files beside each other, and long recordings in .mat files: regular "
            "expression whose one group is the class in a file's name."
        ),
    ] = None,
    normal: Annotated[
        list[str] | None, Option(help="Name of a normal class; may be given several times.")
    ] = None,
    good: Annotated[
        list[str] | None,
        Option(
            help="Train on good parts alone: name of a class of good parts; all others are for "
            "testing only. May be given several times."
        ),
    ] = None,
    defective: Annotated[
        list[str] | None,
        Option(
            help="The same by name of a class of defective parts; all others are good. With --good "
            "too, classes in neither are left out."
        ),
    ] = None,
    false_alarms: Annotated[
        float | None,
        Option(
            help="With --good: promised share of good recordings called defective; by default "
            "0.01, or the least that the number of good parts allows."
        ),
    ] = None,
    score: Annotated[
        str | None,
        Option(
            help="With --good: what answers, spectrum (the default), features, matching or "
            "autoencoder; all are compared in one table."
        ),
    ] = None,
    use_defects: Annotated[
        bool,
        Option(
            "--use-defects",
            help="With --good: let half of the defective parts choose the score and the limit of "
            "unsure, instead of keeping all for the test.",
        ),
    ] = False,
    condition: Annotated[
        list[str] | None,
        Option(
            help="With --good: regular expression whose one group is a condition (microphone, day) "
            "in a file's name; a condition that training did not know is warned of."
        ),
    ] = None,
    group_pattern: Annotated[
        str | None,
        Option(help="Regular expression whose one group is the tile in a sound file's name."),
    ] = None,
    merge_names: Annotated[
        bool,
        Option(
            "--merge-names",
            help="Give names of classes or groups that look alike (Good and good, 7 and 7.0) one "
            "spelling.",
        ),
    ] = False,
    resample: Annotated[
        bool, Option("--resample", help="Resample files that have another sample rate.")
    ] = False,
    pad: Annotated[bool, Option("--pad", help="Pad sound files that are too short.")] = False,
    baselines: Annotated[
        list[str] | None,
        Option(
            help="minirocket: one more simple baseline beside logistic regression and forest "
            "(the extra baselines installs it); none: no baselines."
        ),
    ] = None,
    jobs: Annotated[
        int,
        Option(help="With --seeds: trainings at a time, one core each; -1 for all cores."),
    ] = 1,
    scheduler: Scheduler = None,
) -> None:
    """Train teacher → secondary teacher → student, and the student alone, and report.

    The run folder holds the recipe, the weights, the metrics as CSV, the figures and report.html.
    """
    replaced = {"seed": seed, "steps": steps, "epochs": epochs, "learning_rate": learning_rate}
    replaced |= {"batch_size": batch_size, "view": view, "bins": bins, "level": level}
    replaced |= {"method": method, "unlabelled": unlabelled}
    if (out is None) == (resume is None):
        raise RecipeError("hfld train needs --out FOLDER for a new run, or --resume FOLDER.")
    reading = {
        "part": part,
        "samples": samples,
        "sample_rate": sample_rate,
        "variable": variable,
        "window": window,
        "label_pattern": label_pattern,
        "normal": normal or None,
        "group_pattern": group_pattern,
        "merge_names": merge_names or None,
        "resample": resample or None,
        "pad": pad or None,
    }
    reading = {name: value for name, value in reading.items() if value is not None}
    choices = {"data": data, "preset": preset_name, "recipe": recipe_file, **replaced, **reading}
    choices |= {"seeds": None if seeds == 1 else seeds, "auto": auto or None, "budget": budget}
    choices |= {"augment": augment or None, "fresh": fresh or None}
    choices |= {"teacher": teacher, "plugin": plugin or None}
    choices |= {"baselines": baselines or None, "devices": devices, "strategy": strategy}
    of_good = {"false_alarms": false_alarms, "score": score, "use_defects": use_defects or None}
    of_good |= {"condition": condition or None}
    choices |= {"good": good or None, "defective": defective or None, **of_good}
    given = [name.replace("_", "-") for name, value in choices.items() if value is not None]
    if resume and given:
        raise RecipeError(f"--resume uses the run's own options; leave --{given[0]} out.")
    if budget is not None and not auto:
        raise RecipeError("--budget is that of --auto; give both or neither.")
    if auto and teacher is not None:
        raise RecipeError("--auto may change what networks read, and --teacher knows its own.")
    kinds = {"good": list(good or ()), "defective": list(defective or ())}
    if any(kinds.values()):
        check_good({"auto": auto, "teacher": teacher, "devices": devices, "baselines": baselines})
    elif not resume and (wrong := [name for name, value in of_good.items() if value is not None]):
        option = wrong[0].replace("_", "-")
        raise RecipeError(f"--{option} is for a training on good parts alone; add --good NAME.")
    several = runs_of(resume) if resume else seeds != 1
    many = _Many(jobs, scheduler)
    if many.wanted and not several:
        raise RecipeError("--jobs and --scheduler are for several trainings; add --seeds.")
    if resume and several:
        with threads(series_threads()):
            _finish_series(resume, quiet, detect_anomaly, many=many)
        return
    began = time.perf_counter()
    if resume:
        out = run_of(resume)
        told = _trained(out, None, fresh, quiet, detect_anomaly)
    else:
        names = wanted_baselines(baselines)
        plugins = [str(path.absolute()) for path in plugin or ()]
        run_plugins(plugins)
        recipe = Recipe.load(recipe_file) if recipe_file else preset(preset_name or "classroom")
        recipe = with_options(recipe, replaced)
        if augment and recipe.augmentation is None:
            recipe = recipe.replace(augmentation=Augmentation())
        if data is None and reading:
            raise RecipeError(f"--{next(iter(reading)).replace('_', '-')} needs --data, a folder.")
        origin: dict[str, Any] = {"simulated": {"seed": recipe.seed, "version": VERSION}}
        if data is not None:
            origin = {"folder": str(data.absolute()), "options": reading}
        origin |= {name: names for name, names in kinds.items() if names}
        if seeds != 1:
            out = series_place(out, seeds, fresh)
        command = shlex.join(["hfld", *sys.argv[1:]])
        most = (BUDGET if budget is None else budget) if auto else None
        if (devices, strategy) != (None, None):
            from hfld_lite.evaluation.parallel import check_devices  # it imports lightning-fabric

            devices = 1 if devices is None else devices
            check_devices(devices, strategy or "ddp", recipe.behaviour)
            many.check(devices)
        plan = _Plan(recipe, origin, command, seeds, plugins, names, most, teacher)
        plan.devices = devices or 1
        if any(kinds.values()):
            plan.baselines, plan.conditions = (), condition or ()
            plan.good = wanted_good(recipe, false_alarms, score, use_defects)
        if seeds > 1:
            with threads(series_threads()):
                _train_series(out, plan, fresh, quiet, detect_anomaly, many)
            return
        told = _trained(out, plan, fresh, quiet, detect_anomaly)
    console.print(f"{time.perf_counter() - began:.0f} s in all")
    if not told:
        raise typer.Exit(2)


@dataclass
class _Plan:
    """What a new run is begun with."""

    recipe: Recipe
    origin: dict[str, Any]
    command: str
    seeds: int = 1
    plugins: Sequence[str] = ()
    baselines: Sequence[str] = ()
    auto: float | None = None
    teacher_from: Path | None = None
    teacher: torch.nn.Module | None = None
    parts: Split | None = None
    devices: int = 1
    good: Wanted | None = None
    conditions: Sequence[str] = ()

    def begun(self) -> dict[str, Any]:
        """Arguments of `begin_run` after the folder and the recipe."""
        names = ("command", "plugins", "teacher", "parts", "baselines", "auto", "devices")
        names += ("good",)
        return {"data": self.origin, **{name: getattr(self, name) for name in names}}


def _trained(out: Path, plan: _Plan | None, fresh: bool, quiet: bool, detect_anomaly: bool) -> bool:
    """Train a run that is planned, or resume one, and save it; then make its report.

    Nothing is written before everything that can be known before a training was checked.

    Returns:
        Whether the report was made.
    """
    with _saying_how_to_resume(out):
        recordings, chain, result = _saved(out, plan, fresh, quiet, detect_anomaly)
    print_table(display_table(result.table))
    if scores_of(out) is not None:
        print_scores(load_run(out))
    told = reported(out, recordings, chain.examples)
    if recordings.simulated:
        console.print("The recordings are simulated, not real.")
    console.print(INTERVAL_NOTE)
    return told


def _saved(
    out: Path, plan: _Plan | None, fresh: bool, quiet: bool, detect_anomaly: bool
) -> tuple[Recordings, Chain, TestResult]:
    """Train a run and save it; its recordings, networks and results."""
    if plan is not None:
        check_place(out, fresh)
        recordings = _read(plan.origin, quiet)
        _check(plan, recordings, quiet)
    with new_run(out, fresh, resume=plan is None) as part:
        if plan is None:
            plan, recordings = _begun(part, quiet)
        else:
            if plan.seeds > 1:
                begin_others(out, plan.seeds, plan.recipe, **plan.begun())
            begin_run(part, plan.recipe, **plan.begun())
        chain, good = _chain(part, plan, recordings, quiet, detect_anomaly)
        result = with_known_costs(chain.test(recordings), chain.detector, recordings)
        given = (plan.origin, plan.command, plan.baselines)
        save_run(part, chain, result, recordings, *given, good=good)
    return recordings, chain, result


def _read(origin: dict[str, Any], quiet: bool, again: bool = False) -> Recordings:
    recordings = read_origin(origin, progress=not quiet, again=again)
    console.print(recordings.summary())
    return recordings


def _begun(part: Path, quiet: bool) -> tuple[_Plan, Recordings]:
    """What an unfinished run was begun with."""
    recipe, origin, command = begun_run(part, run_plugins)
    recordings = _read(origin, quiet, again=True)
    return _Plan(
        recipe,
        origin,
        command,
        baselines=begun_baselines(part),
        auto=begun_auto(part),
        teacher=begun_teacher(part, recipe, len(recordings.class_names)),
        parts=begun_split(part),
        devices=begun_devices(part),
        good=begun_good(part),
    ), recordings


def _check(plan: _Plan, recordings: Recordings, quiet: bool) -> None:
    """Refuse what cannot be trained, and say how long the training will take."""
    if plan.good is not None:
        said, found = check_training_good(
            recordings, plan.recipe, plan.good, plan.conditions, plan.seeds
        )
        console.print(said)
        _say_time(plan, found, quiet)
        return
    if plan.teacher_from is not None:
        found = trained_teacher(plan.teacher_from, plan.recipe, recordings)
        plan.recipe, plan.teacher, plan.parts = found
        console.print(_split_note(plan.parts is not None))
    networks = {} if plan.teacher is None else {"teacher": plan.teacher}
    found = check_training(
        recordings,
        plan.recipe,
        plan.parts,
        seeds=plan.seeds,
        auto=plan.auto,
        networks=networks,
        trained=networks.keys(),
    )
    for said in said_of_unlabelled(recordings, plan.recipe, plan.parts):
        console.print(said)
    _say_time(plan, found, quiet)


def _say_time(plan: _Plan, found: Estimate | None, quiet: bool) -> None:
    if quiet or found is None:
        return
    console.print(found.said)
    if plan.devices > 1:
        console.print("That is the time on one device.")
    if plan.auto is not None:
        console.print(f"The automatic choice before takes up to {plan.auto:g} times that.")
    if plan.seeds > 1:
        console.print(f"All {plan.seeds} seeds, one after the other, take {plan.seeds} times that.")


def _chain(
    part: Path, plan: _Plan, recordings: Recordings, quiet: bool, detect_anomaly: bool
) -> tuple[Chain, GoodParts | None]:
    """Train in an unfinished run's folder, from its newest checkpoint on if there is one."""
    networks = {} if plan.teacher is None else {"teacher": plan.teacher}
    shared: dict[str, Any] = {}
    if plan.devices > 1:
        shared = {"devices": plan.devices, "prepare": partial(run_plugins, begun_plugins(part))}
    try:
        with torch.autograd.set_detect_anomaly(detect_anomaly):
            if plan.good is not None:
                good = trained_good(
                    recordings,
                    plan.recipe,
                    plan.good,
                    progress=not quiet,
                    folder=part / CHECKPOINTS,
                    resume=True,
                )
                return good.chain, good
            recipe = chosen(part, plan.recipe, recordings, plan.parts, plan.auto, not quiet)
            chain = distill_chain(
                recordings,
                recipe,
                plan.parts,
                networks=networks,
                trained=networks.keys(),
                progress=not quiet,
                folder=part / CHECKPOINTS,
                resume=True,
                **shared,
            )
            return chain, None
    except (ArgumentError, DataError, RecipeError) as error:
        if not any((part / CHECKPOINTS).glob("*.safetensors")):  # nothing was trained
            (part / BEGUN).unlink(missing_ok=True)
            if plan.seeds > 1:
                withdraw(run_of(part))
            raise
        if isinstance(error, RecipeError):  # it says how to resume
            raise
        raise RecipeError(f"{error} {_again(run_of(part))}") from error


class _Many(NamedTuple):
    """Where the trainings of a series run."""

    jobs: int = 1
    scheduler: str | None = None

    @property
    def wanted(self) -> bool:
        """Whether they run in other processes than this one."""
        return self.jobs != 1 or self.scheduler is not None

    def check(self, devices: int) -> None:
        """Refuse trainings that need several processes each."""
        if self.wanted and devices > 1:
            raise RecipeError(
                f"Each training takes {devices} processes by --devices; leave --jobs and "
                "--scheduler out."
            )


_HERE = _Many()


def _train_series(
    first: Path, plan: _Plan, fresh: bool, quiet: bool, detect_anomaly: bool, many: _Many
) -> None:
    """Begin and train several seeds, given the folder of the first."""
    began, told = time.perf_counter(), True
    if many.wanted:
        check_place(first, fresh)
        _check(plan, _read(plan.origin, quiet), quiet)
        if many.scheduler:
            from hfld_lite.app.cluster import check_scheduler

            check_scheduler(many.scheduler)
        begin_all(first, plan.seeds, plan.recipe, **plan.begun())
    else:
        told = _trained(first, plan, fresh, quiet, detect_anomaly)
        console.print(f"{time.perf_counter() - began:.0f} s in all")
    _finish_series(first.parent, quiet, detect_anomaly, told, many)


def _elsewhere(run: Path, detect_anomaly: bool) -> bool:
    """Train a begun run in a worker, whose output nobody reads; whether its report was made.

    A worker that lost its scheduler may still be training there; it stops soon.
    """
    for left in reversed(range(WAIT)):
        if (run / FACTS).exists() and not unfinished(run).exists():  # by a worker that died then
            return (run / "report.html").exists()
        try:
            with redirect_stdout(io.StringIO()):
                recordings, chain, _ = _saved(run, None, False, True, detect_anomaly)
                return reported(run, recordings, chain.examples)
        except InUse:
            if not left:
                raise
            time.sleep(1)
    raise AssertionError  # WAIT is 1 or more


def _finish_series(
    out: Path, quiet: bool, detect_anomaly: bool, told: bool = True, many: _Many = _HERE
) -> None:
    """Train what is left of several seeds, and show what all of them say together."""
    left = missing(out)
    for run in left:
        many.check(begun_devices(unfinished(run)))
    if many.wanted:
        train_one = partial(_elsewhere, detect_anomaly=detect_anomaly)
        told = train_runs(out, left, train_one, *many, quiet) and told
        left = []
    for run in left:
        console.print(f"\n{run}")
        told = _trained(run, None, False, quiet, detect_anomaly) and told
    cells = write_series(out, shlex.join(["hfld", *sys.argv[1:]]))
    grid = Table(*cells.columns, box=box.SIMPLE_HEAD)
    for row in cells.to_numpy().tolist():
        grid.add_row(*row)
    console.print(grid)
    console.print(NOTE)
    console.print(f"see {out / 'seeds.html'}")
    if not told:
        raise typer.Exit(2)


def _split_note(same: bool) -> str:
    if same:
        return "The split is that of the teacher's run, so no test recording taught the teacher."
    return (
        "The teacher's training recordings are unknown here: if some of them are in this test "
        "part, its figures and those of its students are too good."
    )


@contextmanager
def _saying_how_to_resume(out: Path) -> Iterator[None]:
    """After Ctrl-C or an error, print the command that resumes the run, where it can resume."""
    try:
        yield
    except (RecipeError, DataError, ArgumentError):
        raise
    except (KeyboardInterrupt, HfldError, *_OUT_OF_ROOM) as error:
        begun = (unfinished(out) / BEGUN).exists()
        how = "Training had not started."
        resumed = f"hfld train --resume {whole(out)}"
        if isinstance(error.__cause__, Diverged):  # with the same bits, it will do so again
            how = f"Resumed, it diverges again: {resumed} --detect-anomaly tells where."
        elif begun:
            how = f"Resume with: {resumed}"
        stopped, said = isinstance(error, KeyboardInterrupt), str(error)
        if isinstance(error, _OUT_OF_ROOM):  # outside of training, which has its own sentences
            said = f"The disk or memory failed ({said or type(error).__name__})."
        elif not begun and not stopped:
            raise
        print(f"hfld: {said or 'Stopped.'} {how}", file=sys.stderr)
        raise typer.Exit(130 if stopped else 2) from error


def _again(out: Path) -> str:
    return f"It would end so again; start {whole(out)} anew with other options and --fresh."


_OUT_OF_ROOM = (OSError, SafetensorError, MemoryError, torch.OutOfMemoryError)
