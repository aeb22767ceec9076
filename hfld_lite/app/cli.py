"""The `hfld` command; each subcommand is a function of a `cli_….py`."""

# ruff: noqa: E402  what comes first must be done before the rest loads
import gc

gc.freeze()  # torch's objects stay; without this the collector looks through them again and again

import sys
import warnings
from typing import Annotated

import typer
from typer import Option

from hfld_lite.app import cli_edge, cli_report, cli_train, cli_use
from hfld_lite.app.console import console, on_terminal, prepare_streams
from hfld_lite.errors import HfldError
from hfld_lite.version import __version__

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train, measure and use small defect detectors by hierarchical knowledge distillation.",
)

COMMANDS = {
    cli_train.train: "hfld train --data data/bearings --preset classroom --out runs/bearings",
    cli_use.evaluate: "hfld evaluate runs/mine --data other/recordings --role student",
    cli_use.predict: "hfld predict impact.wav --run runs/mine",
    cli_use.watch: "hfld watch incoming --run runs/mine --output answers.csv",
    cli_use.info: "hfld info runs/demo",
    cli_report.report: "hfld report runs/demo",
    cli_edge.export: "hfld export runs/demo --format onnx-int8 --out device",
    cli_edge.edge: "hfld edge runs/demo --device STM32F411RE",
}
"""Subcommands in the order of --help, each with an example."""

for command, example in COMMANDS.items():
    app.command(epilog=f"Example: {example}")(command)


def _version(asked: bool) -> None:
    if asked:
        console.print(f"hfld_lite {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command; for a user's mistake print one sentence and exit with status 2."""
    prepare_streams()
    app.rich_markup_mode = "rich" if on_terminal() else None  # None: help without boxes
    warnings.showwarning = lambda message, *_args, **_kw: print(f"note: {message}", file=sys.stderr)
    try:
        app()
    except HfldError as error:
        print(f"hfld: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # no file is named if it was the output
        what = error.filename or "the output cannot be written"
        print(f"hfld: {what}: {error.strerror or error}.", file=sys.stderr)
        sys.stdout = None  # nothing is written to it at exit
        sys.exit(2)


if __name__ == "__main__":
    main()
