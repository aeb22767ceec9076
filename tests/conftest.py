"""What several test files share: tiny recordings, a tiny recipe, a chain trained on them."""

import os

import pytest
import torch

from hfld_lite import Network, Recipe, distill_chain, simulate_tiles


def pytest_configure():
    if "PYTEST_XDIST_WORKER" in os.environ:  # two workers on two cores: more threads only wait
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"  # for the programs that tests start


@pytest.fixture(scope="session")
def tiny_recordings():
    """Four classes, 10 tiles each, 2 drops of each tile."""
    return simulate_tiles("AB", tiles_per_class=10, drops=2, seed=3)


@pytest.fixture(scope="session")
def tiny_recipe():
    return Recipe(
        name="tiny",
        teacher=Network(10, 1 / 8, epochs=2),
        secondary_teachers=(Network(10, 1 / 16, epochs=2),),
        student=Network(10, 1 / 16, epochs=2),
        bins=600,
        batch_size=8,
    )


@pytest.fixture(scope="session")
def tiny_chain(tiny_recordings, tiny_recipe):
    return distill_chain(tiny_recordings, tiny_recipe, progress=False)
