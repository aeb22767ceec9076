"""Manifests: CSV files that name the class, and perhaps the group, of each sound file."""

from __future__ import annotations

import csv
import difflib
import os
import re
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from io import StringIO
from pathlib import Path, PurePosixPath

from hfld_lite.data.names import tidy
from hfld_lite.data.readers import class_endings, endings_text, left_out, of_people
from hfld_lite.errors import DataError
from hfld_lite.storage.files import read_text

_MANIFEST_BYTES = 1 << 24
_COLUMNS = ("file", "label", "group")
_ERRORS = re.compile(r"#(N/A|REF!|VALUE!|NAME\?|DIV/0!|NUM!|NULL!)")


def manifest_in(inside: list[Path]) -> Path | None:
    """Return the manifest among the files of a folder, ``manifest.csv`` in capitals or not."""
    found = [p for p in of_people(inside) if p.name.casefold() == "manifest.csv" and p.is_file()]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise DataError(found[0].parent, f"holds {names}", expected="one manifest")
    return found[0] if found else None


def read_manifest(folder: Path, manifest: Path) -> dict[Path, tuple[str, str, str]]:
    """Read which files there are: name below the folder, class, group (the name if none is given).

    Spreadsheets and programs write manifests in several ways: with commas, semicolons or tabs
    between the columns, in capitals, with further columns, with empty rows, in UTF-8 or UTF-16,
    with paths of Windows. All values are read as text, so that 007 and NA stay as they are. A label
    that is empty or -1 says that the class is not known.

    Raises:
        DataError: the manifest cannot be read, or a row is incomplete or names a file that is not
            below `folder`; the message has the line.
    """
    root, found, line = folder.resolve(), {}, 1
    if not folder.is_dir():
        raise DataError(folder, "is not there", expected="a folder")
    files = _Files(root)
    try:
        table = _Table(manifest, read_text(manifest, _MANIFEST_BYTES))
        for line, row in table.rows():
            path = files.find(row["file"])
            fault = ""
            if not path.is_relative_to(root):
                fault = "lies outside the folder"
            elif not path.is_file():
                fault = "is not there"
            elif path.suffix.lower() not in class_endings():
                fault = f"does not end in {endings_text(class_endings())}"
            elif path in found:
                fault = "is listed twice"
            if fault:
                raise DataError(
                    f"{manifest}, line {line}",
                    f"the file {row['file']!r} {fault}",
                    expected=f"a file below {folder}, listed once",
                    mend="" if path in found else files.nearest(row["file"]),
                )
            name = unicodedata.normalize("NFC", path.relative_to(root).as_posix())
            found[path] = (name, row["label"], row.get("group", name))
    except (OSError, ValueError, RuntimeError, csv.Error) as error:  # Runtime: links in a circle
        raise DataError(
            f"{manifest}, line {line}",
            f"cannot be read ({error})",
            expected="a CSV file in UTF-8 (in a spreadsheet: save as CSV UTF-8)",
        ) from error
    if said := [*table.said(), *files.said()]:
        warnings.warn(f"{manifest}: {'; '.join(said)}", stacklevel=3)
    others = {Path(place, name) for place, _, names in os.walk(root) for name in names}
    left_out(folder, sorted(others - {*found, manifest.resolve()}), "the manifest lacks")
    return found


class _Table:
    """The rows of a CSV file, whose separator follows from its first line."""

    def __init__(self, manifest: Path, text: str) -> None:
        self.manifest, self.empty = manifest, 0
        self.hint = re.match(r"sep=.\r?\n", text)  # Excel's own first line
        text = text[self.hint.end() :] if self.hint else text
        tried, fault = [], None
        for separator in ",;\t|":
            reader = csv.reader(StringIO(text, newline=""), delimiter=separator, strict=True)
            try:
                first = next((fields for fields in reader if any(map(tidy, fields))), [])
            except csv.Error as error:
                fault = error
            else:
                tried.append((reader, [tidy(name).casefold() for name in first]))
        if not tried:
            raise fault
        self.reader, self.names = max(tried, key=lambda found: len({*_COLUMNS} & {*found[1]}))
        count = Counter(name for name in self.names if name in _COLUMNS)
        if not {"file", "label"} <= set(count) or max(count.values()) > 1:
            raise DataError(
                f"{manifest}, line {self.line or 1}",
                f"the columns are {', '.join(self.names) or 'none'}",
                expected="file,label or file,label,group, each once",
            )

    @property
    def line(self) -> int:
        """Where the last row ends."""
        return self.reader.line_num + bool(self.hint)

    def rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Return the line and the values of each row that is not empty."""
        for fields in self.reader:
            if not any(map(tidy, fields)):
                self.empty += 1
                continue
            row = {n: field for n, field in zip(self.names, fields, strict=False) if n in _COLUMNS}
            lacking = [n for n in self.names if n in _COLUMNS and not tidy(row.get(n, ""))]
            lacking = [n for n in lacking if n != "label" or n not in row]  # empty: not known
            wrong = [n for n, value in row.items() if _ERRORS.fullmatch(tidy(value))]
            fault = expected = mend = ""
            if any(map(tidy, fields[len(self.names) :])):
                fault = f"there are {len(fields)} fields"
                expected = f"{len(self.names)}, as in the first line"
                mend = "put a name that contains the separator in quotes"
            if lacking:
                fault, expected = f"the {lacking[0]} is empty or missing", "one in each row"
                if lacking[0] == "label":
                    fault = "the label is missing"
                    mend = "where the class is not known, leave it empty behind its separator"
            if wrong:
                fault = f"the {wrong[0]} is {row[wrong[0]]}, an error of the spreadsheet"
                expected, mend = "a name", "mend its formula and save it again"
            if fault:
                where = f"{self.manifest}, line {self.line}"
                raise DataError(where, fault, expected=expected, mend=mend)
            yield self.line, row

    def said(self) -> Iterator[str]:
        """Count what was left out."""
        if self.empty:
            yield f"left out {self.empty} empty row{'s' * (self.empty > 1)}"
        # A column without a name is an index that pandas wrote.
        index = re.compile(r"(unnamed: \d+)?")
        if other := [n for n in self.names if n not in _COLUMNS and not index.fullmatch(n)]:
            own = (
                ""
                if "group" in self.names
                else (
                    ", so that each file is its own group: name a column 'group' if it says which "
                    "files belong to one part"
                )
            )
            yield f"ignored the column{'s' * (len(other) > 1)} {', '.join(other)}{own}"


class _Files:
    """The files below a folder, found by names that may differ from theirs in form."""

    def __init__(self, root: Path) -> None:
        self.root, self.known, self.otherwise = root, None, 0

    def find(self, name: str) -> Path:
        """Return the path that a manifest means, below the folder or not, there or not."""
        for written in (name, tidy(name).replace("\\", "/")):
            exact = (self.root / written).resolve()
            if exact.is_file():
                return exact
        found = self._all().get(_form(name), [])
        if len(found) == 1:
            self.otherwise += 1
            return found[0]
        return exact

    def nearest(self, name: str) -> str:
        """Suggest the file that is called alike, for an error."""
        form = PurePosixPath(_form(name))
        names = [path for paths in self._all().values() for path in paths]
        near = [path for path in names if _form(path.name) == form.name]
        if not near:
            close = difflib.get_close_matches(str(form), list(self._all())[:2000], 1)
            near = self._all()[close[0]] if close else []
        return f"the nearest name is {near[0].relative_to(self.root).as_posix()}" if near else ""

    def said(self) -> Iterator[str]:
        """Count what was found by another form of its name."""
        if self.otherwise:
            yield (
                f"found {self.otherwise} files whose names are written in another case, with other "
                "blanks or in another form of Unicode"
            )

    def _all(self) -> dict[str, list[Path]]:
        if self.known is None:
            self.known = defaultdict(list)
            for place, folders, names in os.walk(self.root):  # does not follow links
                folders[:] = [path.name for path in of_people(map(Path, sorted(folders)))]
                for name in sorted(names):
                    path = Path(place, name)
                    if os.path.isfile(path) and not path.is_symlink():
                        self.known[_form(path.relative_to(self.root).as_posix())].append(path)
        return self.known


def _form(name: str) -> str:
    """A path with / between its parts, in lower case, each part tidied."""
    parts = re.split(r"[/\\]+", name)
    return "/".join(tidy(part).casefold() for part in parts if part != ".")
