"""Prepare long bearing recordings, CLASS_LOAD.mat, cut into windows within blocks of time."""

from typing import Annotated

from _frame import Folder, Out, Overwrite, prepare, program
from typer import Option

from hfld_lite.data.mat_files import LONG_NAME, LONG_VARIABLE
from hfld_lite.data.readers import read_long_mat


@program(
    __doc__
    + " Each class is one physical bearing, so what a network learns from them is to tell known "
    "bearings. Case Western's normal recordings were sampled at 48 kHz and the others at 12 kHz: "
    "prepare_public.py converts them.",
    "python data_scripts/prepare_bearings.py ../shared/data/cwru --out data/bearings",
)
def app(
    folder: Folder,
    out: Out,
    variable: Annotated[
        str,
        Option(
            help="Name of the variable in each file, or a pattern; several with commas between, "
            "the first that fits counts."
        ),
    ] = LONG_VARIABLE,
    label_pattern: Annotated[
        str, Option(help="Regular expression; its one group finds the class in a file's name.")
    ] = LONG_NAME,
    sample_rate: Annotated[int, Option(help="In Hz; the files do not tell it.")] = 12_000,
    window: Annotated[int, Option(help="Samples of a window.")] = 2048,
    hop: Annotated[int, Option(help="Samples from window to window.")] = 1024,
    blocks: Annotated[int, Option(help="Blocks of time to a recording, the groups.")] = 20,
    leave_out: Annotated[
        list[str] | None,
        Option(help="A class to leave out, again for more; '' for none; by default N if there."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Read the long recordings, cut them and write a prepared folder."""
    if leave_out is None:  # the stored study: N is one recording of one load
        leave_out = ["N"] if any(folder.glob("N_*.mat")) else []
    options = {
        "variable": variable,
        "label_pattern": label_pattern,
        "sample_rate": sample_rate,
        "window": window,
        "hop": hop,
        "blocks": blocks,
        "leave_out": [name for name in leave_out if name],
        "what": "known bearings",
    }
    prepare(lambda: read_long_mat(folder, **options, progress=True), out, overwrite)


if __name__ == "__main__":
    app()
