"""Public data sets that are recognised in the folders in which they are published.

Read as other folders are, most of them would be read wrongly: a word's folder beside one of
background noise, ``train`` and ``test`` as two classes, each speaker's or machine's recordings on
both sides of the split. So `read_folder` names the program that prepares them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from hfld_lite.data.manifests import manifest_in
from hfld_lite.data.prepared import MANIFEST
from hfld_lite.data.readers import is_of_people
from hfld_lite.errors import DataError

PROGRAM = "python data_scripts/prepare_public.py"

_FOLDERS, _FILES = 200, 5  # looked at, and so many files of each
_UNKNOWN = "see the data set's own page"


class PublicSet(NamedTuple):
    """A data set as it is published.

    Attributes:
        title: for people.
        origin: who published it, in words.
        licence: only where it is known for certain.
        files: matches the path of a recording from the folder's own name on, with the groups
            ``label`` and ``group``, and perhaps ``machine`` and ``list`` (the part of the data
            set's own division). A file that it does not match is not one of the recordings.
        unit: what a group is.
        normal: the classes of good parts.
    """

    title: str
    origin: str
    licence: str
    files: re.Pattern
    unit: str
    normal: tuple[str, ...] = ()

    def match(self, path: str) -> re.Match | None:
        """What is in the path of a file, ``"folder/sub/file.wav"``; None if it is none of these."""
        return self.files.fullmatch(path)


def _path(pattern: str) -> re.Pattern:
    return re.compile(r"(?:.*/)?" + pattern)


SETS = {
    "mfpt": PublicSet(
        "MFPT bearing faults",
        "Society for Machinery Failure Prevention Technology, fault data sets",
        _UNKNOWN,
        _path(r"(?P<group>(?P<label>baseline|(?:Inner|Outer)RaceFault)(?:_vload)?_\d+)\.mat"),
        "recording",
        ("baseline",),
    ),
    "paderborn": PublicSet(
        "Paderborn bearings",
        "Paderborn University, chair KAt, bearing data center",
        "Creative Commons Attribution-NonCommercial 4.0",
        _path(r"N\d\d_M\d\d_F\d\d_(?P<group>(?P<label>K0|KA|KB|KI)\d\d)_\d+\.mat"),
        "bearing",
        ("K0",),
    ),
    "cwru": PublicSet(
        "Case Western bearings",
        "Case Western Reserve University, bearing data center",
        _UNKNOWN,
        _path(r"[^/]+\.mat"),  # the variable in a file says which recording it is
        "bearing",
        ("Normal",),
    ),
    "mimii": PublicSet(
        "MIMII",
        "Hitachi, MIMII dataset on Zenodo",
        "Creative Commons Attribution-ShareAlike 4.0",
        _path(r"(?P<machine>[^/]+)/(?P<group>id_\d\d)/(?P<label>normal|abnormal)/[^/]+\.wav"),
        "machine",
        ("normal",),
    ),
    "dcase": PublicSet(
        "DCASE task 2",
        "DCASE challenge of 2020 or later, task 2, on Zenodo",
        "differs by year, " + _UNKNOWN,
        _path(
            r"(?P<machine>[^/]+)/(?:source_|target_)?(?P<list>train|test)/"
            r"(?:(?P<label>normal|anomaly)_)?(?P<group>id_\d\d|section_\d\d)_"
            r"(?:(?:source|target)_)?(?:(?:train|test)_)?(?:(?P<later>normal|anomaly)_)?"
            r"\d+(?:_[^/]*)?\.wav"
        ),
        "machine",
        ("normal",),
    ),
    "esc50": PublicSet(
        "ESC-50",
        "Karol J. Piczak, ESC-50 on GitHub",
        "Creative Commons Attribution-NonCommercial",
        _path(r"audio/(?P<group>\d)-\d+-[A-Z]-(?P<label>\d+)\.wav"),
        "fold",
    ),
    "speech": PublicSet(
        "Speech Commands",
        "Pete Warden, Google, Speech Commands dataset",
        "Creative Commons Attribution 4.0",
        _path(r"(?P<label>(?!_)[^/]+)/(?P<group>[0-9a-f]{6,10})_nohash_\d+\.wav"),
        "speaker",
    ),
}

# Case Western's recordings of the drive end by the number in their variable, "X105_DE_time". The
# files have the same number, but for those of 0.028 inches (3001 to 3008).
_CWRU_12K = {
    "IR007": "105-108", "IR014": "169-172", "IR021": "209-212", "IR028": "56-59,3001-3004",
    "B007": "118-121", "B014": "185-188", "B021": "222-225", "B028": "48-51,3005-3008",
    "OR007": "130-133,144-147,156,158-160", "OR014": "197-200",
    "OR021": "234-237,246-249,258-261",
}  # fmt: skip
_CWRU_48K = {
    "Normal": "97-100",  # its lines are at each multiple of the shaft's speed at 48 kHz only
    "IR007": "109-112", "IR014": "174-177", "IR021": "213-215,217",
    "B007": "122-125", "B014": "189-192", "B021": "226-229",
    "OR007": "135-138,148-151,161-164", "OR014": "201-204",
    "OR021": "238-241,250-253,262-265",
}  # fmt: skip


def _numbers(text: str) -> Iterator[int]:
    for part in text.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


CWRU = {
    number: (label, rate)
    for rate, table in ((12_000, _CWRU_12K), (48_000, _CWRU_48K))
    for label, numbers in table.items()
    for number in _numbers(numbers)
}
"""Class and rate in Hz of Case Western's recordings, by their number."""


def cwru_recording(file: Path) -> tuple[str, str, int] | None:
    """Variable, class and rate in Hz of a recording of Case Western; None if it is none of these.

    The number in the variable says which recording it is, or else that in the file's name, which
    also decides where there are variables of two recordings.
    """
    from hfld_lite.data.mat_files import variable_name  # it imports the readers

    try:
        variable = variable_name(file, "X*_DE_time")
    except DataError:
        return None
    found = re.fullmatch(r"X(\d+)_DE_time", variable)
    for number in (found, re.search(r"(\d+)$", file.stem)) if found else ():
        if number and int(number[1]) in CWRU:
            return variable, *CWRU[int(number[1])]
    return None


def refuse_public(folder: Path, inside: list[Path]) -> None:
    """Name the program for a folder that holds a public data set as it is published.

    Args:
        folder, inside: a folder and what is in it.

    Raises:
        DataError: it does.
    """
    if manifest_in(inside) or any(path.name == MANIFEST for path in inside):
        return
    paths = list(_first_files(folder))
    name = _found(folder, paths)
    if name is None:
        return
    known = SETS[name]
    matches = [known.match(_with(folder, path)) for path in paths]
    machines = {m["machine"]: 0 for m in matches if m and "machine" in known.files.groupindex}
    command = f"{PROGRAM} {name} {quote(str(folder))} --out data/{name}"
    if len(machines) > 1:
        first, *others = machines
        command += f" --machine {first} (or {', '.join(others)})"
    raise DataError(
        folder,
        f"holds the data set {known.title} as it is published",
        expected=f"recordings with groups, here each {known.unit}",
        mend=f"prepare it with: {command}",
    )


def _found(folder: Path, paths: list[Path]) -> str | None:
    if (folder / "meta" / "esc50.csv").is_file():
        return "esc50"
    for name, known in SETS.items():
        if name == "cwru":
            files = [path for path in paths if path.suffix.lower() == ".mat"]
            # IR007_0.mat is read as it is, by its name; 105.mat and B007_0_118.mat cannot be
            numbered = files and re.search(r"(^|_)\d{2,4}$", files[0].stem)
            if numbered and cwru_recording(files[0]):
                return name
        elif any(known.match(_with(folder, path)) for path in paths):
            return name
    return None


def _with(folder: Path, path: Path) -> str:
    return f"{folder.resolve().name}/{path.relative_to(folder).as_posix()}"


def _first_files(folder: Path) -> Iterator[Path]:
    """A few files of each folder, for not too many folders."""
    for count, (place, folders, names) in enumerate(os.walk(folder)):
        if count == _FOLDERS:
            return
        folders[:] = sorted(filter(is_of_people, folders))
        for name in sorted(filter(is_of_people, names))[:_FILES]:
            yield Path(place, name)
