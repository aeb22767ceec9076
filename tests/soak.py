"""Kill trainings at random moments, go on with them, and compare the final weights bit for bit.

    python tests/soak.py [--kills 20] [--seed 0]      # prints a table; status 1 if a bit differs
    python tests/soak.py --once [--threads 1 2]       # trains once with each, prints what came out

Every training is a process of its own, forked so that it need not import anything, and killed by
SIGKILL: at a moment spread over the time that an undisturbed one takes, or, every fourth, by itself
in the middle of writing a checkpoint. The recipes take turns, so that every kind of state is there:
weights that are learned, meta batches, augmentation, dropout, and a teacher that drifts.
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

import torch

from hfld_lite import Network, Recipe, distill_chain, simulate_tiles
from hfld_lite.data.recordings import Recordings
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


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
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
        sys.exit(not soak(options.kills, options.seed, Path(folder)))


if __name__ == "__main__":
    main()
