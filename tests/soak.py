"""Kill trainings at random moments, resume them, and compare the final weights bit for bit.

    python tests/soak.py [--kills 20] [--seed 0]      # prints a table; status 1 if a bit differs
    python tests/soak.py --once [--threads 1 2]       # trains once with each, prints what came out
    python tests/soak.py --burst 5000 [--kills 2]     # files for `hfld watch`, which is killed

Every training is a process of its own, forked so that it need not import anything, and killed by
SIGKILL: at a moment spread over the time that an undisturbed one takes, or, every fourth, by itself
in the middle of writing a checkpoint. The recipes take turns, so that every kind of state is there:
weights that are learned, meta batches, augmentation, dropout, and a teacher that drifts.

In a burst, files arrive while `hfld watch` runs: in halves, renamed into place, in folders, 2 % of
them damaged. It is killed at random moments, every second time by itself in the middle of a record,
and started again. At the end each file must have one record: its answer or the reason.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import soundfile
import torch

from hfld_lite import Network, Recipe, distill_chain, simulate_tiles
from hfld_lite.app import answers, cli, watching
from hfld_lite.app.runs import load_run, save_run
from hfld_lite.app.unfinished import new_run
from hfld_lite.data.readers import read_cuts
from hfld_lite.data.recordings import Recordings
from hfld_lite.edge.analysis import with_costs
from hfld_lite.recipes import Augmentation
from hfld_lite.storage import checkpoints
from hfld_lite.teachers import digest

PLAIN = Recipe(
    name="soak",
    teacher=Network(10, 1 / 8, dropout=0.2, epochs=4),
    secondary_teachers=(Network(10, 1 / 16, dropout=0.1, epochs=4),),
    student=Network(10, 1 / 16, epochs=4),
    view="spectrum",
    bins=600,
    batch_size=8,
)
RECIPES = {
    "fixed": PLAIN,
    "meta, augmented": PLAIN.replace(
        weighting="meta", meta_share=0.2, meta_every=3, augmentation=Augmentation()
    ),
    "uncertainty": PLAIN.replace(weighting="uncertainty"),
    "published": PLAIN.replace(
        weighting="published",
        behaviour="published",
        optimizer="sgd",
        learning_rate=0.01,
        schedule="drops",
        drops=(2,),
    ),
}


def train(
    recordings: Recordings,
    recipe: Recipe,
    folder: Path | None,
    controls: tuple[str, ...] = ("alone", "dense"),
) -> dict[str, str]:
    """Train the chain with controls, and give the digest of each network's final weights."""
    warnings.simplefilter("ignore")
    chain = distill_chain(
        recordings, recipe, controls=controls, progress=False, folder=folder, resume=bool(folder)
    )
    networks = chain.detector.networks
    return {role: digest("", network.state_dict()) for role, network in networks.items()}


def in_child(work: Callable[[], object], kill_after: float | None = None) -> float | None:
    """Run ``work`` in a forked process; its seconds, or None if it was killed."""
    began = time.perf_counter()
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    if kill_after is not None:
        while time.perf_counter() - began < kill_after:
            if os.waitpid(child, os.WNOHANG)[0]:
                return time.perf_counter() - began
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return None
    if os.WEXITSTATUS(status):
        sys.exit("a training failed; its error stands above")
    return time.perf_counter() - began


def die_while_writing(number: int) -> None:
    """Let this process kill itself when half of its checkpoint of that number is written."""
    real, written = checkpoints.save_file, []

    def save_file(tensors: dict, path: Path, metadata: dict) -> None:
        real(tensors, path, metadata)
        written.append(path)
        if len(written) == number:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoints.save_file = save_file


def newest(folder: Path) -> str:
    """The last whole checkpoint, and whether another was being written."""
    files = sorted(folder.glob("*.safetensors"), key=lambda file: file.stat().st_mtime_ns)
    half = ", half of the next" if any(folder.glob("*.safetensors.part")) else ""
    return (files[-1].stem if files else "none") + half


def soak(kills: int, seed: int, folder: Path) -> bool:
    """Print a row for each kill; True if all trainings ended with the undisturbed bits."""
    rng, recordings = random.Random(seed), simulate_tiles("AB", tiles_per_class=10, drops=2, seed=3)
    undisturbed: dict[str, tuple[float, dict[str, str]]] = {}
    print(f"{'kill':>4}  {'recipe':<16} {'after':>8}  {'newest checkpoint then':<46} weights")
    same = True
    for number in range(kills):
        name = list(RECIPES)[number % len(RECIPES)]
        recipe, place, result = RECIPES[name], folder / str(number), folder / "result.json"

        def work(recipe: Recipe = recipe, place: Path | None = place) -> None:
            result.write_text(json.dumps(train(recordings, recipe, place)))  # noqa: B023

        def die(work: Callable = work, write: int = rng.randint(1, 20)) -> None:
            die_while_writing(write)
            work()

        if name not in undisturbed:
            seconds = in_child(lambda work=work: work(place=None))
            undisturbed[name] = seconds, json.loads(result.read_text())
        seconds, expected = undisturbed[name]
        result.unlink()
        if number % 4 == number // 4 % 4:  # another recipe each time
            moment, ended = "writing", in_child(die)
        else:
            after = (number + rng.random()) / kills * seconds
            moment, ended = f"{after:.2f} s", in_child(work, after)
        place.mkdir(exist_ok=True)
        left = "finished before" if ended is not None else newest(place)
        in_child(work)
        equal = json.loads(result.read_text()) == expected
        same = same and equal
        print(f"{number:>4}  {name:<16} {moment:>8}  {left:<46} {'same' if equal else 'OTHERS'}")
        sys.stdout.flush()
        shutil.rmtree(place)
    print(f"{kills} kills: {'every' if same else 'NOT every'} training ended with the same bits")
    return same


DAMAGES = {
    "cut off": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "text": lambda data: b"no sound at all, but a text that somebody has put here",
    "another rate": lambda data: data[:24] + (8000).to_bytes(4, "little") + data[28:],
}


def arrive(recordings: Recordings, count: int, folder: Path, seed: int, pause: float) -> None:
    """Write files as machines do: at once, in halves, renamed into place, in folders below."""
    rng, made = random.Random(seed), folder.with_name("made.wav")
    damages = list(DAMAGES.values())
    for i in range(count):
        signal_ = recordings.signals[i % len(recordings)]
        soundfile.write(made, signal_ / (2 * abs(signal_).max()), recordings.sample_rate)
        data = made.read_bytes()
        name = f"{i:05}.wav"
        if i % 50 == 7:
            data, name = damages[i // 50 % len(damages)](data), f"bad{i:05}.wav"
        file = folder / (f"line {i % 3}" if i % 4 else "") / name
        file.parent.mkdir(exist_ok=True)
        if i % 3 == 0:
            part = file.with_name(name + ".part")
            part.write_bytes(data)
            part.rename(file)
        elif i % 100 == 1:
            with file.open("wb") as slow:
                slow.write(data[: len(data) // 3])
                slow.flush()
                time.sleep(pause)
                slow.write(data[len(data) // 3 :])
        else:
            file.write_bytes(data)
        if rng.random() < 0.01:
            time.sleep(pause)


def die_in_a_record(number: int) -> None:
    """Let this process kill itself when half of its batch of that number is written."""
    real, written = watching.Ledger.add, []

    def add(ledger: watching.Ledger, *args: object) -> None:
        written.append(ledger)
        if len(written) == number:
            append = ledger._append

            def half(data: bytes) -> None:
                append(data[: data.index(b",", len(data) // 2)])  # not at a record's end
                os.kill(os.getpid(), signal.SIGKILL)

            ledger._append = half
        real(ledger, *args)

    watching.Ledger.add = add


def burst(count: int, kills: int, seed: int, folder: Path) -> bool:
    """Print what became of a burst of files; True if each has one answer or one reason."""
    recordings = simulate_tiles("AB", tiles_per_class=10, drops=2, seed=3)
    small = Network(10, 1 / 16, epochs=1)
    recipe = PLAIN.replace(teacher=small, secondary_teachers=(), student=small)
    chain = distill_chain(recordings, recipe, progress=False)
    with new_run(folder / "run") as part:
        result = with_costs(chain.test(recordings), chain.detector, recordings.signals[0])
        save_run(part, chain, result, recordings, {"simulated": {"seed": 3}})
    place, output, log = folder / "in", folder / "answers.csv", folder / "log"
    place.mkdir()
    rng, poll = random.Random(seed), 0.1
    answers.FILES = max(8, min(answers.FILES, count // 20))  # so that every watch has two batches
    begun = time.perf_counter()
    feeder = os.fork()
    if not feeder:
        arrive(recordings, count, place, seed, poll / 3)
        os._exit(0)

    def watch() -> None:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.argv = ["hfld", "watch", str(place), "--run", str(folder / "run"), "--poll", str(poll)]
        sys.argv += ["--output", str(output)]
        try:
            cli.main()
        except SystemExit as end:
            os._exit(end.code or 0)

    def records() -> int:
        return output.read_bytes().count(b"\n") - 1 if output.exists() else 0

    killed = True
    for kill in range(kills):
        child = os.fork()
        if not child:
            if kill % 2:
                die_in_a_record(2)
            watch()
        wanted = records() + rng.randint(count // 10, count // 5)
        if kill % 2 == 0:
            late = time.monotonic() + 60
            while records() < wanted and time.monotonic() < late:
                time.sleep(0.005)
            os.kill(child, signal.SIGKILL)
        died = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        killed = killed and died
        whole = output.read_bytes().endswith(b"\n")
        print(f"kill {kill}: at {records()} records, the last {'whole' if whole else 'half'}")
    child = os.fork()
    if not child:
        watch()
    os.waitpid(feeder, 0)
    last, since = 0, time.monotonic()
    while records() < count and time.monotonic() < since + 60:
        if records() > last:
            last, since = records(), time.monotonic()
        time.sleep(poll)
    time.sleep(5 * poll)  # for what would come twice
    os.kill(child, signal.SIGINT)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    seconds = time.perf_counter() - begun

    found = pd.read_csv(output)
    names = {str(file) for file in place.rglob("*.wav")}
    bad = {name for name in names if "bad" in Path(name).name}
    read = found[found["answer"] != "not read"]
    reasons = found[found["answer"] == "not read"]
    run, wrong = load_run(folder / "run"), 0
    for row in read.sample(min(50, len(read)), random_state=seed).to_dict("records"):
        (cut,) = read_cuts(row["file"], **run.reading)
        one = run.detector.predict(cut.signals, recordings.sample_rate)[0]
        wrong += abs(one - [row[f"p_{name}"] for name in recordings.class_names]).max() > 1e-5
    twice = len(found) - found["file"].nunique()
    lost = len(names - {*found["file"]})
    good = (
        not (twice or lost or wrong or ended)
        and killed
        and len(names) == count
        and {*reasons["file"]} == bad
        and reasons["error"].notna().all()
        and read["error"].isna().all()
    )
    print(
        f"{count} files, {len(bad)} damaged, {kills} kills, {seconds:.0f} s: {len(read)} answers, "
        f"{len(reasons)} reasons, {twice} twice, {lost} lost, {wrong} of 50 unlike a single "
        f"answer, exit status {ended}"
    )
    print(log.read_text().splitlines()[-1])
    print("each file has one answer or one reason" if good else "NOT each file has one record")
    return good


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--burst", type=int)
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    options = parser.parse_args()
    if options.once:
        recordings = simulate_tiles("AB", tiles_per_class=10, drops=2, seed=3)
        os.environ["OMP_NUM_THREADS"] = "2"  # set by the user, so that hfld_lite sets no other
        for threads in options.threads:
            torch.set_num_threads(threads)
            digests = train(recordings, RECIPES["meta, augmented"], None, controls=())
            print(json.dumps({"threads": torch.get_num_threads(), **digests}))
        return
    torch.set_num_threads(options.threads[0])
    with tempfile.TemporaryDirectory() as folder:
        if options.burst:
            kills = 2 if options.kills is None else options.kills
            sys.exit(not burst(options.burst, kills, options.seed, Path(folder)))
        kills = 20 if options.kills is None else options.kills
        sys.exit(not soak(kills, options.seed, Path(folder)))


if __name__ == "__main__":
    main()
