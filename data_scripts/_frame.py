"""The frame that the prepare programs share: plain words in place of tracebacks, and a summary."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from hfld_lite.data.recordings import Recordings
from hfld_lite.errors import HfldError
from hfld_lite.storage.progress import print_any_character

Folder = Annotated[Path, typer.Argument(help="The folder to read.", show_default=False)]
Out = Annotated[Path, typer.Option(help="The folder to write, new or empty.", show_default=False)]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace recordings that --out holds already.")
]


def prepare(read: Callable[[], Recordings], out: Path, overwrite: bool) -> None:
    """Read, save to `out` and print a summary; for an HfldError, its sentence and exit 2."""
    print_any_character()
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_: typer.echo(f"note: {message}", err=True)
        try:
            recordings = read()
            folder = recordings.save(out, overwrite=overwrite)
        except HfldError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(2) from error
    typer.echo(f"{recordings.summary()}\nwritten to {folder}")


def program(help: str, example: str) -> Callable[[Callable], typer.Typer]:
    """Make a command-line program of the decorated function."""

    def make(function: Callable) -> typer.Typer:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command(help=help, epilog=f"Example: {example}")(function)
        return app

    return make
