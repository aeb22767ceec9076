"""The registry of file formats, what their readers share, and what finds the right reader.

A new format is one function with ``@reader(".ending")`` that returns the signals in a file and
their sample rate, or None if the file does not contain it. The functions here, their messages and
the folders with a subfolder for each class know the format from then on::

    @reader(".npy")
    def read_npy(path):
        return np.load(path, allow_pickle=False), None

A new kind of folder is a function with ``@layout``. Each reader returns `Recordings` or raises a
`DataError` with the file and the row. A warning or `source` counts whatever it leaves out, mixes
down, cuts or pads.
"""

from __future__ import annotations

import inspect
import math
import os
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hfld_lite.data.names import no_label, tidy
from hfld_lite.data.parts import Cut, Part
from hfld_lite.data.prepared import MANIFEST
from hfld_lite.data.recordings import UNLABELLED, Recordings
from hfld_lite.errors import ArgumentError, DataError, HfldError, nearest
from hfld_lite.storage.files import RATIO, SLACK

__all__ = ["read_folder", "read_long_mat", "read_mat", "read_signals", "read_wav_folder", "reader"]


# ---- registries ---------------------------------------------------------------------------------
class Reader(NamedTuple):
    """How a file with some ending is read; see `reader`."""

    read: Callable[..., tuple[np.ndarray, int | None]]
    header: Callable[[Path], tuple] | None
    units: str
    class_folders: bool


class Layout(NamedTuple):
    """How a kind of folder is called, described, recognised and read; see `layout`."""

    name: str
    description: str
    is_here: Callable[[list[Path]], bool]
    read: Callable[..., Recordings]


READERS: dict[str, Reader] = {}
LAYOUTS: dict[str, Layout] = {}

_SYSTEM = set(
    """__macosx|system volume information|$recycle.bin|recycler|recycled|lost+found|lost.dir
    |found.000|config.msi|@eadir|@recycle|#recycle|#snapshot|network trash folder|temporary items
    |thumbs.db|ehthumbs.db|desktop.ini|icon\r""".replace("\n    ", "").split("|")
)
_MOST_RATIO = 1 << 18
_OWN_NAMES = ("manifest", "label_pattern", "group_pattern", "variable")
"""Options that say what files are; then a public data set may be read in another way."""


def reader(
    *endings: str,
    header: Callable[[Path], tuple] | None = None,
    units: str = "",
    class_folders: bool = True,
) -> Callable:
    """Register the decorated function for the files that end so.

    The function gets a path and returns real numbers, ``(n, samples)`` or ``(samples,)`` for one
    recording, and the sample rate in Hz or None. Arguments named ``variable``, ``long`` and
    ``samples``, if it has them, get the name of the variable to read, whether the file holds one
    long recording, and how many samples of each are wanted.

    Args:
        endings: in lower case, with the dot.
        header: returns rate in Hz, samples and channels without reading the whole file, so that a
            folder with one wrong file is refused at once; and, if there is something to say of
            such a file, a note, which is counted.
        units: of the signals.
        class_folders: whether such files may lie in a folder for each class, one recording a file.
    """

    def register(read: Callable) -> Callable:
        READERS.update(dict.fromkeys(endings, Reader(read, header, units, class_folders)))
        return read

    return register


def layout(name: str, description: str, is_here: Callable[[list[Path]], bool]) -> Callable:
    """Register the decorated function for folders whose sorted content `is_here` recognises.

    ``{endings}`` in the name and the description stands for those of the class folders' formats.
    """

    def register(read: Callable) -> Callable:
        LAYOUTS[name] = Layout(name, description, is_here, read)
        return read

    return register


layout(
    "a prepared folder",
    "a prepared folder",
    lambda inside: MANIFEST in {path.name for path in inside},
)(Recordings.load)


def class_endings() -> list[str]:
    """Return the endings of the formats that may lie in class folders."""
    return [ending for ending, known in READERS.items() if known.class_folders]


def endings_text(endings: Iterable[str]) -> str:
    """Phrase endings, ``".wav, .flac or .mat"``."""
    *first, last = endings
    return f"{', '.join(first)} or {last}" if first else last


# ---- what a user calls --------------------------------------------------------------------------
def read_folder(
    folder: str | Path,
    *,
    progress: bool = False,
    one_class: bool = False,
    again: bool = False,
    **options,
) -> Recordings:
    """Read a folder of any known layout: prepared, tiles or long recordings in .mat files, classes.

    Args:
        folder: what to read.
        progress: show a bar.
        one_class: accept a single class, for a training on good parts alone.
        again: it was read before, by a version that did not know public data sets.
        options: for the reader of that layout: `Recordings.load`, `read_mat`, `read_long_mat` or
            `read_wav_folder`.

    Raises:
        DataError: the folder holds no known layout, or several, or a public data set as it is
            published, which a program prepares.
        ArgumentError: the reader has no such option.
    """
    folder = Path(folder)
    inside = listing(folder)
    if not again and not any(options.get(name) for name in _OWN_NAMES):
        refuse_public(folder, inside)
    found = [known for known in LAYOUTS.values() if known.is_here(of_people(inside))]
    if len(found) != 1:
        names = " and ".join(_with_endings(known.name) for known in found)
        descriptions = "; ".join(_with_endings(known.description) for known in LAYOUTS.values())
        raise DataError(
            folder,
            f"holds {names or 'nothing that can be read: ' + some(inside)}",
            expected=f"one of: {descriptions}",
            mend="give each its own folder" if found else "",
        )
    name, read = _with_endings(found[0].name), found[0].read
    known = list(inspect.signature(read).parameters)[1:]
    for option in options:
        if option not in known:
            raise ArgumentError(
                f"{folder} holds {name}, which have no option {option!r}; {nearest(option, known)}."
            )
    more = {"progress": progress, "one_class": one_class}
    return read(folder, **options, **{name: more[name] for name in more if name in known})


def read_signals(
    file: str | Path,
    *,
    sample_rate: int,
    samples: int,
    hop: int | None = None,
    variable: str | None = None,
) -> np.ndarray:
    """Read the first samples of each recording in a file, or the windows of a long one.

    Args:
        file, sample_rate, hop, variable: as in :func:`read_cuts`.
        samples: of one recording; the first so many are used.

    Returns:
        float32 ``(n, samples)``.

    Raises:
        DataError: as :func:`read_cuts` does.
    """
    part = Part("first", samples)
    cuts = read_cuts(file, sample_rate=sample_rate, part=part, hop=hop, variable=variable)
    return np.concatenate([cut.signals for cut in cuts])


def read_cuts(
    file: str | Path,
    *,
    sample_rate: int,
    part: Part,
    hop: int | None = None,
    variable: str | None = None,
    resample: bool = False,
) -> list[Cut]:
    """Read one file and cut it as the training data was cut, for a trained network.

    Args:
        file: a sound file, a .mat file with a recording a row (or, with `hop`, one long one), or
            one of another registered format.
        sample_rate: in Hz, compared with the file's if that contains one.
        part: what is used of each recording.
        hop: where the training data were windows of long recordings, each a recording of its own:
            the step between them.
        variable: in a .mat file, a name or a pattern; by default ``data``, or for long recordings
            ``DE_time`` or what ends in ``_DE_time``.
        resample: convert a file of another rate to `sample_rate`, as the training did.

    Returns:
        One for each recording, with signals in float32.

    Raises:
        DataError: the file is missing, damaged, too short, at another rate, or holds a recording
            that is constant or not finite.
    """
    file = Path(file)
    options = {"hop": hop, "variable": variable, "resample": resample}
    signals = read_recordings(file, sample_rate=sample_rate, part=part, **options)
    if hop is not None:
        signals = np.lib.stride_tricks.sliding_window_view(signals[0], part.samples)[::hop]
    rows = [f"{file}, row {row}" for row in range(len(signals))]
    cuts = [part.cut(x, sample_rate, where) for x, where in zip(signals, rows, strict=True)]
    for where, cut in zip(rows, cuts, strict=True):
        if not np.isfinite(cut.signals).all():
            raise DataError(where, "holds NaN or infinity", mend="record it again")
        if (cut.signals.min(1) == cut.signals.max(1)).any():
            raise DataError(where, "is constant (silent)", mend="record it again")
    return [
        cut._replace(overlooked=part.overlooked(x, cut.signals[0]))
        for x, cut in zip(signals, cuts, strict=True)
    ]


def read_recordings(
    file: str | Path,
    *,
    sample_rate: int,
    part: Part,
    hop: int | None = None,
    variable: str | None = None,
    resample: bool = False,
) -> np.ndarray:
    """Read the recordings of one file whole, for a trained network.

    Args and raises as in :func:`read_cuts`, but the values are not checked.

    Returns:
        float32 ``(n, samples)``; with `hop`, one long recording.
    """
    file = Path(file)
    expected = f"a file that ends in {endings_text(READERS)}"
    if not os.path.isfile(file):  # for a name that is too long, Path.is_file raises
        found = "is not a file that can be read" if os.path.lexists(file) else "is not there"
        raise DataError(file, found, expected=expected)
    if file.suffix.lower() not in READERS:
        raise DataError(file, f"ends in {file.suffix.lower()!r}", expected=expected)
    least = None if part.kind == "whole" else part.samples
    signals, rate = read_file(file, variable=variable, long=hop is not None, samples=least)
    if (header := READERS[file.suffix.lower()].header) and (note := header(file)[3:]):
        warnings.warn(f"{file} is {note[0]}", stacklevel=2)
    if rate not in (None, sample_rate):
        if not resample:
            raise DataError(
                file,
                f"is at {rate} Hz",
                expected=f"{sample_rate} Hz",
                mend="resample it, or train with --resample",
            )
        signals = np.stack([resampled(x, rate, sample_rate, file) for x in signals])
    if hop is not None:
        signals = signals.reshape(1, -1)
    part.check_length(signals.shape[1], file, "record longer ones, or train with --pad")
    return float32(signals)


def files_below(folder: Path) -> list[Path]:
    """Find the files of the registered formats in a folder and below it, sorted.

    Hidden files, those of a system and other files are left out with a note.

    Raises:
        DataError: there is none.
    """
    found, left, locked = [], [], []
    for place, folders, names in os.walk(folder, onerror=locked.append):
        below, files = ([Path(place, name) for name in each] for each in (folders, names))
        kept = [path for path in of_people(below) if not path.is_symlink()]  # links may be circles
        known = of_format(files, READERS)
        folders[:] = [path.name for path in kept]
        found += known
        taken = {*kept, *known}
        left += [path for path in (*below, *files) if path not in taken]
    found += [Path(error.filename) for error in locked]  # reading these says what they are
    endings = endings_text(READERS)
    if not found:
        raise DataError(folder, f"holds no {endings} file: {some(sorted(left))}")
    left_out(folder, sorted(left), f"are links or not {endings} files")
    return sorted(found)


# ---- what the readers share ---------------------------------------------------------------------
def read_file(path: Path, **options: Any) -> tuple[np.ndarray, int | None]:
    """Read a file of a registered format: signals ``(n, samples)``, and their rate in Hz or None.

    The function of the format gets those options that it has arguments for.
    """
    read = READERS[path.suffix.lower()].read
    known = inspect.signature(read).parameters
    try:
        signals, rate = read(path, **{name: options[name] for name in options if name in known})
        signals = np.atleast_2d(signals)
    except HfldError:
        raise
    except Exception as error:  # a reader need not foresee every fault of a file
        raise DataError(
            path, f"cannot be read ({error})", mend="copy it again if it is damaged"
        ) from error
    if signals.ndim != 2 or signals.dtype.kind not in "fiu" or signals.size == 0:
        raise DataError(
            path,
            f"holds {signals.dtype} of shape {signals.shape}",
            expected="real numbers, a recording in each row",
        )
    return signals, rate


def resampled(signal: np.ndarray, rate: int, wanted: int, path: Path) -> np.ndarray:
    """Convert a signal ``(samples,)`` from a rate in Hz to another by a polyphase filter.

    Raises:
        DataError: the file's rate cannot be meant.
    """
    common = math.gcd(wanted, rate)
    up, down = wanted // common, rate // common
    # the filter has 20 · max(up, down) coefficients, and the result up / down as many samples
    if max(up, down) > _MOST_RATIO or len(signal) * up > max(SLACK, RATIO * len(signal)) * down:
        raise DataError(
            path,
            f"says that its rate is {rate} Hz, which cannot be converted to {wanted} Hz",
            expected="a usual sample rate",
            mend="correct the header or take the file out",
        )
    import scipy.signal  # here, since `import hfld_lite` should not wait for it

    return scipy.signal.resample_poly(signal, up, down)


def _with_endings(text: str) -> str:
    return text.format(endings=endings_text(class_endings()))


def listing(folder: Path) -> list[Path]:
    """Return what is in `folder`, sorted by name."""
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "is not there"
        raise DataError(folder, found, expected="a folder")
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(folder, f"cannot be listed ({error.strerror})") from error


def of_people(paths: Iterable[Path]) -> list[Path]:
    """Leave out hidden files and folders, and those that operating systems and servers make."""
    return [path for path in paths if is_of_people(path.name)]


def is_of_people(name: str) -> bool:
    """Whether a file or folder of this name is neither hidden nor a system's."""
    return not name.startswith(".") and name.casefold() not in _SYSTEM


def of_format(paths: Iterable[Path], endings: Iterable[str]) -> list[Path]:
    """Return the files that end so, but for those that :func:`of_people` leaves out."""
    return [p for p in of_people(paths) if p.suffix.lower() in endings and p.is_file()]


def some(paths: Sequence[Path]) -> str:
    """Name the first few of `paths`."""
    names = ", ".join(tidy(path.name) for path in paths[:5])
    return f"{names}, … ({len(paths)} in all)" if len(paths) > 5 else names or "it is empty"


def left_out(folder: Path, paths: Sequence[Path], why: str) -> None:
    """Warn that `paths` were not read: because they `why`, or are not those of people."""
    told = dict.fromkeys(of_people(paths))
    kinds = {why: [*told], "are hidden or a system's": [p for p in paths if p not in told]}
    said = [f"{len(out)} that {why}: {some(out)}" for why, out in kinds.items() if out]
    if said:
        warnings.warn(f"{folder}: left out {'; and '.join(said)}", stacklevel=3)


def need_two(names: Sequence[str], where: object, unlabelled: bool = False) -> None:
    """Refuse data of one class, or of unlabelled recordings only, before it is read."""
    if len(names) < 2:
        rest = " beside unlabelled recordings" * unlabelled
        found = f"there is only the class {names[0]!r}{rest}" if names else "there is no class"
        if unlabelled and not names:
            found = "there are only unlabelled recordings, and no class"
        raise DataError(
            where if isinstance(where, str | os.PathLike) else "the given files",
            found,
            expected="labelled recordings of two classes or more"
            if unlabelled
            else "two classes or more",
            mend="add the recordings of another class, or train on good parts alone (--good)"
            if names
            else "add the recordings of two classes",
        )


def label_of(name: str, names: Sequence[str]) -> int:
    """The number of a class; UNLABELLED for a name that says that the class is not known."""
    return UNLABELLED if no_label(name) else names.index(name)


def known_classes(
    names: str | Sequence[str], classes: Iterable[str], what: str = "normal"
) -> list[str]:
    """Return `names`, all of them among `classes`, else raise an ArgumentError."""
    names = [tidy(str(name)) for name in ([names] if isinstance(names, str) else names)]
    classes = sorted(set(classes))
    for name in names:
        if name not in classes:
            raise ArgumentError(f"{what}: no class is named {name!r}; {nearest(name, classes)}.")
    return names


def expression(text: str, what: str) -> re.Pattern:
    """Compile a regular expression that has exactly one group.

    It is in Unicode's form NFC, as the names must be that it is searched in.
    """
    try:
        pattern = re.compile(unicodedata.normalize("NFC", text))
    except re.error as error:
        raise ArgumentError(f"{what} {text!r} is not a regular expression: {error}.") from error
    if pattern.groups != 1:
        raise ArgumentError(f"{what} {text!r} must have exactly one group, (…).")
    return pattern


def pooled_order(name: str) -> tuple[str, bool]:
    """Sort key: by type, and N before D."""
    return name[:-1], name[-1] != "N"


def float32(array: np.ndarray) -> np.ndarray:
    """Convert; what overflows becomes infinite, and `Recordings` refuses that."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32, order="C")  # MATLAB keeps columns together


# The modules of the formats register themselves, and import what stands above.
from hfld_lite.data.class_folders import read_wav_folder  # noqa: E402
from hfld_lite.data.mat_files import read_long_mat, read_mat  # noqa: E402
from hfld_lite.data.public_sets import refuse_public  # noqa: E402
from hfld_lite.data.sound_files import read_sound  # noqa: E402, F401
