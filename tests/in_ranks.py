"""What tests/test_parallel.py runs first in each rank; a module of its own, quick to import."""

import json
import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path

from hfld_lite import training
from hfld_lite.hierarchy import CONTROLS
from hfld_lite.storage import ranks
from hfld_lite.storage.files import digest
from hfld_lite.weighting import WEIGHTINGS


def weighed(name, trainer, role):
    """Distil with another weighting, with a meta gradient at every second step."""
    return trainer.distil(role, "teacher", trainer.recipe.replace(weighting=name, meta_every=2))


def noting(path):
    """Add a control for each weighting, and note the losses and weights of each step."""
    CONTROLS.update({name: partial(weighed, name) for name in WEIGHTINGS})
    step = training._Loop._step

    def noted(loop, *given):
        figures = step(loop, *given)
        found = {name: float(value.detach()) for name, value in figures.items()}
        found["weights"] = digest("", dict(loop.objective.named_parameters()))
        rank = ranks.fabric.global_rank if ranks.fabric else "alone"
        with Path(f"{path}-{rank}").open("a") as file:
            file.write(json.dumps(found) + "\n")
        return figures

    training._Loop._step = noted


def at_step(number, act):
    """Rank 0 does something before a step."""
    step, seen = training._Loop._step, []

    def counted(loop, *given):
        seen.append(loop)
        if len(seen) == number and not ranks.fabric.global_rank:
            act()
        return step(loop, *given)

    training._Loop._step = counted


def copy(folder, to):
    """What a kill at this moment would leave."""
    shutil.copytree(folder, to)


def press_ctrl_c():
    """As the terminal does; the ranks get it from the process that started them."""
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(0.5)
