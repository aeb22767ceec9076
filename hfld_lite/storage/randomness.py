"""Seeds and states of random generators."""

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def derive_seed(seed: int, purpose: str) -> int:
    """A seed of its own for each purpose, the same on every machine."""
    state = np.random.SeedSequence([seed, zlib.crc32(purpose.encode())]).generate_state(1)
    return int(state[0])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block with torch's generators seeded, and give the caller's back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def random_states(
    generators: Mapping[str, torch.Generator], device: torch.device
) -> dict[str, Any]:
    """The states of these generators and of torch's own, from which dropout draws."""
    return {
        "generators": {name: generator.get_state() for name, generator in generators.items()},
        "dropout": torch.get_rng_state(),
        "cuda_dropout": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_random_states(
    state: Mapping[str, Any], generators: Mapping[str, torch.Generator], device: torch.device
) -> None:
    """Put the generators back into the states that :func:`random_states` gave."""
    for name, generator in generators.items():
        generator.set_state(state["generators"][name])
    torch.set_rng_state(state["dropout"])
    if device.type == "cuda" and state["cuda_dropout"] is not None:
        torch.cuda.set_rng_state(state["cuda_dropout"], device)
