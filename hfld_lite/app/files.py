"""Which files a user means: files, folders and patterns."""

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from hfld_lite.data.readers import READERS, endings_text, files_below, left_out, of_format, some
from hfld_lite.errors import DataError


def given_files(given: Iterable[Path]) -> Iterator[tuple[str, DataError | None]]:
    """The files that are given, in given folders or match a pattern.

    For a folder without such a file, or a pattern without a match, its error.

    Args:
        given: files, folders, and patterns as `glob` knows them: ``*``, ``?``, ``[abc]``, and
            ``**`` for any depth of folders. A name that exists is not a pattern. A folder that
            a pattern matches is read as a folder, unless the pattern has ``**``.
    """
    for path in given:
        try:
            if not os.path.lexists(path) and glob.has_magic(str(path)):
                folders, files = _matching(path)
                yield from ((str(file), None) for file in files)
                yield from given_files(folders)
            elif os.path.isdir(path):  # Path.is_dir raises for a name that is too long
                yield from ((str(file), None) for file in files_below(path))
            else:
                yield str(path), None
        except DataError as error:
            yield str(path), error


def _matching(pattern: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the files that a pattern matches, sorted."""
    matches = [Path(name) for name in sorted(glob.glob(str(pattern), recursive=True))]
    folders = [path for path in matches if path.is_dir()]
    files = of_format(matches, READERS)
    left = sorted({*matches} - {*folders, *files})
    endings = endings_text(READERS)
    if "**" in pattern.parts:
        folders = []
    if not files and not folders:
        raise DataError(
            pattern,
            f"matches no {endings} file" + (f": {some(left)}" if left else ""),
            mend="* is any text within a name, and ** any folders (quote the pattern)",
        )
    left_out(pattern, left, f"are not {endings} files")
    return folders, files
