"""Execute notebooks from top to bottom, each in a fresh kernel, and store them with their outputs.

What changes from run to run for no reason is left out: widget state and the cells' times. With
--solutions those of the exercises are executed, in notebooks/solutions/.
"""

from pathlib import Path
from typing import Annotated

import nbformat
import typer
from nbclient import NotebookClient
from nbformat import NotebookNode
from typer import Argument, Option

from hfld_lite.storage.files import write_whole

FOLDER = Path(__file__).parent.parent / "notebooks"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=__doc__, epilog="Example: python data_scripts/execute_notebooks.py 03 04")
def main(
    numbers: Annotated[list[str] | None, Argument(help="Which, by number; all by default.")] = None,
    solutions: Annotated[bool, Option(help="Those of the exercises instead.")] = False,
) -> None:
    """Execute and store."""
    folder = FOLDER / "solutions" if solutions else FOLDER
    paths = sorted(folder.glob("*.ipynb"))
    if unknown := {n for n in numbers or () if not any(p.name.startswith(n) for p in paths)}:
        raise typer.BadParameter(f"there is no notebook {sorted(unknown)[0]!r} in {folder.name}/")
    for path in paths:
        if not numbers or path.name.startswith(tuple(numbers)):
            execute(path)
            print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def execute(path: Path) -> None:
    """Execute one notebook in place; it is written whole, or stays as it was."""
    notebook = nbformat.read(path, 4)
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=600, store_widget_state=False, resources=resources).execute()
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = whole(cell.outputs)
    write_whole(path, lambda part: nbformat.write(notebook, part))


def whole(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """The outputs, with what was printed in one go in one piece, however the kernel cut it."""
    joined: list[NotebookNode] = []
    for output in outputs:
        before = joined[-1] if joined else {}
        if output.output_type == "stream" and before.get("name") == output.name:
            before["text"] += output.text
        else:
            joined.append(output)
    return joined


if __name__ == "__main__":
    app()
