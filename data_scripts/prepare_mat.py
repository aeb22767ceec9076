"""Prepare tile recordings in the published layout: *N.mat and *D.mat, one recording a row."""

from typing import Annotated

from _frame import Folder, Out, Overwrite, prepare, program
from typer import Option

from hfld_lite.data.readers import read_mat


@program(__doc__, "python data_scripts/prepare_mat.py tiles --out data/tiles")
def app(
    folder: Folder,
    out: Out,
    variable: Annotated[
        str, Option(help="Name of the variable in each file, or a pattern.")
    ] = "data",
    samples: Annotated[int, Option(help="How many samples of each row to use.")] = 7000,
    sample_rate: Annotated[int, Option(help="In Hz; the files do not tell it.")] = 40_000,
    two_classes: Annotated[
        bool, Option("--two-classes", help="N and D over all types, not a class for each file.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Read the .mat files and write a prepared folder."""
    options = {"variable": variable, "samples": samples, "sample_rate": sample_rate}
    prepare(
        lambda: read_mat(folder, **options, pool=not two_classes, progress=True), out, overwrite
    )


if __name__ == "__main__":
    app()
