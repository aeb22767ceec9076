"""Prepare a folder of WAV or FLAC files: a subfolder for each class, or a manifest.csv."""

from pathlib import Path
from typing import Annotated

from _frame import Folder, Out, Overwrite, prepare, program
from typer import Option

from hfld_lite.data.readers import read_wav_folder


@program(
    __doc__,
    "python data_scripts/prepare_wav.py sounds --out data/sounds --samples 7000 "
    "--group-pattern '(tile[0-9]+)'",
)
def app(
    folder: Folder,
    out: Out,
    part: Annotated[
        str | None,
        Option(help="Which part of each file: first, loudest, onset, whole or windows."),
    ] = None,
    samples: Annotated[
        int | None, Option(help="Use so many of each file, the first ones without --part.")
    ] = None,
    pad: Annotated[bool, Option("--pad", help="Append zeros to files that are shorter.")] = False,
    sample_rate: Annotated[int | None, Option(help="In Hz, what the files must have.")] = None,
    resample: Annotated[
        bool, Option("--resample", help="Convert other rates to --sample-rate or the usual one.")
    ] = False,
    manifest: Annotated[
        Path | None, Option(help="CSV file with file,label or file,label,group.")
    ] = None,
    label_pattern: Annotated[
        str | None,
        Option(help="Regular expression; its one group finds the class in a file name."),
    ] = None,
    group_pattern: Annotated[
        str | None, Option(help="Regular expression; its one group finds the tile in a file name.")
    ] = None,
    normal: Annotated[
        list[str] | None, Option(help="Name of a normal class; may be given several times.")
    ] = None,
    merge_names: Annotated[
        bool,
        Option("--merge-names", help="Give names that look alike (Good and good) one spelling."),
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Read the sound files and write a prepared folder."""
    options = {
        "part": part,
        "samples": samples,
        "pad": pad,
        "sample_rate": sample_rate,
        "resample": resample,
        "manifest": manifest,
        "label_pattern": label_pattern,
        "group_pattern": group_pattern,
        "normal": normal or None,
        "merge_names": merge_names,
    }
    prepare(lambda: read_wav_folder(folder, **options, progress=True), out, overwrite)


if __name__ == "__main__":
    app()
