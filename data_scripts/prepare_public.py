"""Prepare a public data set in the folder in which it is published, with its groups."""

from enum import StrEnum
from typing import Annotated

from _frame import Folder, Out, Overwrite, prepare, program
from _public import Choice, read_public
from typer import Argument, Option

from hfld_lite.data.public_sets import SETS

Set = StrEnum("Set", list(SETS))


def _words() -> str:
    """The data sets, for the help."""
    return "\n\n".join(
        f"{name}: {known.title}, from {known.origin}; groups: {known.unit}s; licence: "
        f"{known.licence}."
        for name, known in SETS.items()
    )


@program(
    f"{__doc__} The data set must have been downloaded and unpacked.\n\n{_words()}",
    "python data_scripts/prepare_public.py mimii ../mimii --machine fan --out data/fan",
)
def app(
    name: Annotated[Set, Argument(help="Which data set.", show_default=False)],
    folder: Folder,
    out: Out,
    machine: Annotated[
        str | None, Option(help="Machine type, of mimii and dcase, such as fan.")
    ] = None,
    only: Annotated[
        str | None,
        Option(
            help="Only the recordings of one of the set's own lists: training, validation or "
            "testing (speech), train or test (dcase)."
        ),
    ] = None,
    classes: Annotated[
        str | None, Option(help="Only these classes, with commas between: yes,no,stop.")
    ] = None,
    known: Annotated[
        bool,
        Option(
            "--known",
            help="Each recording, or of long .mat recordings each block of time, is a group of its "
            "own, so that networks are tested on machines, bearings or speakers that they know. "
            "Always so for cwru.",
        ),
    ] = False,
    sample_rate: Annotated[
        int | None,
        Option(
            help="In Hz, what recordings are converted to; by default 48828 (mfpt), 12000 (cwru), "
            "else theirs."
        ),
    ] = None,
    window: Annotated[
        int | None,
        Option(
            help="Samples of a window; by default 2048 of .mat recordings, a second of machines "
            "and words, all of an ESC-50 clip."
        ),
    ] = None,
    hop: Annotated[
        int | None, Option(help="Samples from window to window, of .mat recordings.")
    ] = None,
    blocks: Annotated[
        int, Option(help="Blocks of time to a .mat recording, the groups of --known.")
    ] = 20,
    overwrite: Overwrite = False,
) -> None:
    """Read the data set and write a prepared folder."""
    choice = Choice(machine, only, classes, known, sample_rate, window, hop, blocks)
    prepare(lambda: read_public(folder, str(name), choice, progress=True), out, overwrite)


if __name__ == "__main__":
    app()
