"""`hfld watch`: the files of a folder are answered as they arrive, each once, across restarts.

The output is the memory: a record is appended for each file, flushed to the disk with its batch,
and read again at the next start. A file is known by its name, size and time of modification, so
that one that changed later is a new file and gets another record.
"""

import csv
import io
import json
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from hfld_lite.app.answers import Answered, Answers
from hfld_lite.app.output import header, or_sentence, records
from hfld_lite.app.runs import FACTS
from hfld_lite.app.tally import Tally, printable
from hfld_lite.data.names import some_names
from hfld_lite.data.readers import READERS, endings_text, is_of_people
from hfld_lite.errors import RecipeError
from hfld_lite.storage.files import bytes_digest
from hfld_lite.storage.locks import lock_beside, lock_files, unlock_beside

UNFINISHED = (".part", ".tmp")
"""Names that end so are left until they are renamed, as hidden ones are."""

EACH = 20
"""A batch of so many files is printed as a line for each, a larger one as a line."""

Stamp = tuple[int, int]
"""Size in bytes and time of modification in ns: what a file is known by beside its name."""


class Arrivals:
    """The files in a folder and below it that are written whole and not answered yet.

    Args:
        folder: that is looked at.
        done: stamps of the files that are answered, by :func:`key`; it grows meanwhile.
    """

    def __init__(self, folder: Path, done: Mapping[str, Stamp]) -> None:
        self.folder, self._done = folder, done
        self.waiting: dict[str, Stamp] = {}
        self.others: list[str] = []
        self.there = True
        self._locked: set[str] = set()

    def poll(self) -> dict[str, Stamp]:
        """The new files that are as they were at the last poll, in the order of their arrival."""
        found = {file: stamp for file, stamp in self._scan() if self._done.get(key(file)) != stamp}
        settled = [file for file in found if found[file] == self.waiting.get(file)]
        self.waiting = found
        return {
            file: found[file] for file in sorted(settled, key=lambda file: (found[file][1], file))
        }

    def _scan(self) -> Iterator[tuple[str, Stamp]]:
        self.others, places = [], [os.path.abspath(self.folder)]
        self.there = os.path.isdir(self.folder)
        while places and self.there:
            place = places.pop()
            try:
                with os.scandir(place) as entries:
                    inside = list(entries)
            except OSError as error:
                if os.path.isdir(place) and place not in self._locked:  # else it is gone
                    self._locked.add(place)
                    warnings.warn(f"{place} cannot be listed ({error.strerror})", stacklevel=2)
                continue
            for entry in inside:
                ending = os.path.splitext(entry.name)[1].lower()
                if not is_of_people(entry.name) or ending in UNFINISHED:
                    continue
                try:
                    if entry.is_dir(follow_symlinks=False):  # links may be circles
                        places.append(entry.path)
                    elif ending in READERS and entry.is_file():
                        status = entry.stat()
                        yield entry.path, (status.st_size, status.st_mtime_ns)
                    else:
                        self.others.append(entry.path)
                except OSError:  # it is gone
                    continue


def key(file: str) -> str:
    """A file's name as the output has it, where bytes that are no UTF-8 stand as codes."""
    return file.encode("utf-8", "backslashreplace").decode()


class _Record(NamedTuple):
    file: str
    stamp: Stamp
    count: int


class Ledger:
    """The output of a watch: what is answered already, and where the next records go.

    Args:
        path: of the output, .csv or .jsonl; it is made if it is not there.
        columns: of a record.
        marks: columns with the same value in every record, which say whose answers these are.

    Raises:
        RecipeError: the file has other columns, other marks or is damaged, or cannot be read.
    """

    def __init__(self, path: Path, columns: Sequence[str], marks: Mapping[str, str]) -> None:
        self.path, self.marks = path, dict(marks)
        self.columns = [*columns, "size", "modified_ns", "answered", "records", *marks]
        self.form = path.suffix.lower()
        self.done: dict[str, Stamp] = {}
        self.cut = 0
        with or_sentence(path):
            self._file = path.open("a+b", buffering=0)
            self._restore()

    def add(self, batch: Sequence[tuple[Answered, Stamp]], answers: Answers) -> None:
        """Append the records of files, and return when they are on the disk."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        rows = [
            answers.fields(row)
            | {"size": size, "modified_ns": modified, "answered": now, "records": len(one.rows)}
            | self.marks
            for one, (size, modified) in batch
            for row in one.rows
        ]
        self._append(records(rows, self.columns, self.form))
        self.done |= {key(one.file): stamp for one, stamp in batch}

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, data: bytes) -> None:
        with or_sentence(self.path):
            if not self._in_place():
                raise RecipeError(
                    f"--output {self.path} was removed or replaced during the watch, so the newest "
                    "answers are kept nowhere; start the watch again to have them."
                )
            before = os.fstat(self._file.fileno()).st_size
            try:
                view = memoryview(data)
                while view:
                    view = view[self._file.write(view) :]
                os.fsync(self._file.fileno())
            except OSError:  # the disk is full: half a record would stay
                self._file.truncate(before)
                raise

    def _in_place(self) -> bool:
        """Whether the open file is still the one that has the output's name."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False

    def _restore(self) -> None:
        """Read what is answered, and cut off what a kill has left half written."""
        size = os.fstat(self._file.fileno()).st_size
        start = header(self.columns, self.form)
        whole, known, left = 0, None, 0
        for number, (text, end) in enumerate(self._texts(), 1):
            if number == 1 and start:
                if text != start:
                    raise self._refused("it has other columns")
                whole = end
                continue
            record = self._parsed(text, number)
            if left and record != known:
                raise self._refused(f"record {number} is not the one that belongs there")
            known, left = record, (left or record.count) - 1
            if not left:
                self.done[record.file], whole = record.stamp, end
        if size and not whole:  # all of it would be cut off
            self._file.seek(0)
            begins = start or b'{"file": '
            head = self._file.read(size if start else len(begins))
            if not begins.startswith(head):
                raise self._refused("it holds something else")
        if whole < size:
            self.cut = size - whole
            self._file.truncate(whole)
        if start and not whole:
            self._append(start)

    def _texts(self) -> Iterator[tuple[bytes, int]]:
        """Each whole record, and where it ends; in CSV a text in quotes may hold lines."""
        lines, end, open_ = [], 0, False
        with self.path.open("rb") as file:
            for line in file:
                lines.append(line)
                end += len(line)
                open_ ^= self.form == ".csv" and line.count(b'"') % 2 == 1
                if not open_ and line.endswith(b"\n"):
                    yield b"".join(lines), end
                    lines = []

    def _parsed(self, text: bytes, number: int) -> _Record:
        try:
            values = self._values(text.decode())
            if list(values) != self.columns:
                raise self._refused("it has other columns")
            stamp = int(values["size"]), int(values["modified_ns"])
            record = _Record(key(values["file"]), stamp, int(values["records"]))
            if record.count < 1:
                raise ValueError("records is not above 0")
        except (ValueError, TypeError) as error:
            raise self._refused(f"record {number} is damaged") from error
        for name, mine in self.marks.items():
            if values[name] != mine:
                raise self._refused(f"its answers are those of {name} {values[name]}, not {mine}")
        return record

    def _values(self, text: str) -> dict[str, Any]:
        if self.form == ".jsonl":
            found = json.loads(text)
            if not isinstance(found, dict):
                raise ValueError("no object")
            return found
        (cells,) = csv.reader(io.StringIO(text, newline=""))
        return dict(zip(self.columns, cells, strict=True))

    def _refused(self, why: str) -> RecipeError:
        self._file.close()
        return RecipeError(
            f"--output {self.path} is not the output of such a watch ({why}); give another "
            "name, or move it away."
        )


def identity(answers: Answers) -> dict[str, str]:
    """What tells the answers of one network and way of asking from those of another."""
    folder, role = answers.run.folder, answers.role
    files = [(folder / name).read_bytes() for name in (FACTS, f"{role}.safetensors")]
    asked = f"{answers.step} {answers.reading['variable']}"
    return {"role": role, "run": bytes_digest([*files, asked.encode()])[:12]}


@contextmanager
def opened(path: Path, answers: Answers) -> Iterator[Ledger]:
    """The ledger at a path, which no other process may write meanwhile.

    Raises:
        RecipeError: another process writes it, or as `Ledger` says.
    """
    with or_sentence(path):
        lock = lock_beside(path, "writes it; let it finish, or give another --output")
    try:
        ledger = Ledger(path, answers.columns, identity(answers))
        try:
            yield ledger
        finally:
            ledger.close()
    finally:
        unlock_beside(lock, path)


@contextmanager
def stop_by_signal() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets; a second one ends the process as usual."""
    stop, before = threading.Event(), {}

    def handle(number: int, _frame: object) -> None:
        signal.signal(number, before[number])
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.getsignal(number)
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def watch_folder(
    answers: Answers,
    folder: Path,
    ledger: Ledger,
    poll: float,
    stop: threading.Event,
    say: Callable[[str], object],
    complain: Callable[[str], object],
) -> Tally:
    """Answer what arrives in a folder until `stop` is set; what was answered is counted.

    Args:
        answers: of one network.
        folder: may vanish meanwhile, and is waited for.
        ledger: where answers go.
        poll: seconds between two looks at the folder, at least.
        stop: ends after the batch that is being answered.
        say, complain: print a line about answers, and about what went wrong.
    """
    arrivals, tally = Arrivals(folder, ledger.done), Tally()
    there, told = True, {*map(os.path.abspath, (ledger.path, *lock_files(ledger.path)))}
    while not stop.is_set():
        began = time.monotonic()
        settled = arrivals.poll()
        if arrivals.there != there:
            there = arrivals.there
            complain(f"{folder} {'is back' if there else 'is not there any more; waiting for it'}.")
        if new := sorted({*arrivals.others} - told):
            told |= {*new}
            complain(f"left out, as they are links or not {endings_text(READERS)}: {_some(new)}.")
        for batch in answers.each((file, None) for file in settled):
            kept, lost = [], []
            for one in batch:
                stamp = _stamp(one.file)
                if stamp is None and one.error is not None:
                    lost.append(one.file)
                elif stamp in (None, settled[one.file]):  # else it is being written again
                    kept.append(one)
            if lost:
                complain(f"removed before they were answered: {_some(lost)}.")
            if kept:
                ledger.add([(one, settled[one.file]) for one in kept], answers)
            _tell(kept, say, complain)
            for one in kept:
                tally.add(one)
            if stop.is_set():
                break
        stop.wait(max(0.0, began + poll - time.monotonic()))
    return tally


def _stamp(file: str) -> Stamp | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _some(files: Sequence[str]) -> str:
    return f"{len(files)} ({some_names(map(printable, files))})"


def _tell(
    batch: Sequence[Answered], say: Callable[[str], object], complain: Callable[[str], object]
) -> None:
    counts = Tally()
    for one in batch:
        counts.add(one)
        if one.error is not None:
            complain(str(one.error))
        elif len(batch) <= EACH:
            say(f"{printable(one.file)}: {_in_words(one)}")
    if len(batch) > EACH:
        say(f"{len(batch)} files: {counts.counts}")
    for text in counts.spans:
        say(text)


def _in_words(one: Answered) -> str:
    alone, row = Tally(), one.rows[0]
    alone.add(one)
    if sum(alone.answers.values()) > 1:
        said = [alone.counts]
    else:
        said = [f"{row['answer']} ({row['class']}, {row['probability']:.3f})", *row["warnings"]]
    if alone.overlooked:
        said.append(f"{alone.share:.0%} of it was not looked at (see --windows)")
    return "; ".join(said)
