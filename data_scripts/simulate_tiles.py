"""Simulate the drop test of ferrite tiles and write the recordings as a prepared folder.

The recordings are simulated, not real: see hfld_lite/data/simulator/ for the physics.
"""

from dataclasses import replace
from typing import Annotated

from _frame import Out, Overwrite, prepare, program
from typer import Option

from hfld_lite.data.simulator.simulate import simulate_tiles
from hfld_lite.data.simulator.tiles import TILE_TYPES, Bench


@program(__doc__, "python data_scripts/simulate_tiles.py --out data/tiles --types AB --seed 1")
def app(
    out: Out,
    types: Annotated[str, Option(help=f"Tile types, of {''.join(TILE_TYPES)}.")] = "ABC",
    tiles_per_class: Annotated[int, Option(help="Sound tiles of a type, and defective ones.")] = (
        260
    ),
    drops: Annotated[int, Option(help="Recordings of each tile.")] = 3,
    seed: Annotated[int, Option(min=0, help="Of everything.")] = 0,
    two_classes: Annotated[
        bool, Option("--two-classes", help="Classes N and D instead of AN, AD, BN, …")
    ] = False,
    snr: Annotated[
        float | None, Option(help="Impact to pink noise in dB; by default the calibrated level.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Simulate and write a prepared folder."""
    bench = Bench() if snr is None else replace(Bench(), snr=snr)
    prepare(
        lambda: simulate_tiles(
            types, tiles_per_class, drops, seed, bench, not two_classes, progress=True
        ),
        out,
        overwrite,
    )


if __name__ == "__main__":
    app()
