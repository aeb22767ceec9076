"""What is told of the answers to many files: the first rows, counts, and what limits them."""

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from hfld_lite.app.answers import Answered, Answers
from hfld_lite.app.console import console, print_rows
from hfld_lite.data.names import some_names

MOST_ROWS = 100
"""So many rows are printed."""

_MOST_WARNINGS, _MOST_SPANS = 20, 10

_SHARE = re.compile(r" \(\d+ of \d+ windows\)$")


class Tally:
    """Counts, and the first few names of each kind, of answers that are not kept.

    Attributes:
        files, rows: how many there were.
        answers: how many recordings have each answer; those that could not be read count as one.
        bad, seen, overlooked: files that could not be read, that the network learned from, and
            that it saw in part only.
        share: the largest that was overlooked of a file.
    """

    def __init__(self) -> None:
        self.files, self.rows, self.share = 0, 0, 0.0
        self.answers: Counter[str] = Counter()
        self.bad, self.seen, self.overlooked = Named(), Named(), Named()
        self._rows: list[dict[str, Any]] = []
        self._wholes: list[dict[str, Any]] = []
        self._spans, self._in_part = [], 0
        self._warned: dict[str, Named] = {}
        self._each: list[str] = []

    def add(self, one: Answered) -> None:
        """Count a file."""
        self.files += 1
        self.rows += len(one.rows)
        if one.error is not None:
            self.bad.add(one.file)
        begins = [i for i, row in enumerate(one.rows) if row.get("window") is None]
        for begin, end in pairwise([*begins, len(one.rows)]):
            row, windows = one.rows[begin], one.rows[begin + 1 : end]
            self.answers[row["answer"]] += 1
            for text in row.get("warnings", ()):
                self._warned.setdefault(_SHARE.sub("", text), Named()).add(one.file)
                if len(self._each) < _MOST_WARNINGS:
                    self._each.append(f"{printable(one.file)}, row {row['row']}: {text}")
            if row.get("defective"):
                self._in_part += 1
                if len(self._spans) < _MOST_SPANS:
                    self._spans.append(
                        f"{printable(one.file)}, row {row['row']}: {row['defective']} of "
                        f"{row['windows']} windows are defective: {_spans(windows)}"
                    )
        wholes = [one.rows[i] for i in begins]
        self._rows += one.rows[: MOST_ROWS - len(self._rows)]
        self._wholes += wholes[: MOST_ROWS - len(self._wholes)]
        if any(row.get("trained_on") for row in wholes):
            self.seen.add(one.file)
        if share := max(row.get("overlooked", 0.0) for row in wholes):
            self.overlooked.add(one.file)
            self.share = max(self.share, share)

    @property
    def shown(self) -> list[dict[str, Any]]:
        """All rows; where these are too many, those of the first recordings without windows."""
        return self._rows if self.rows <= MOST_ROWS else self._wholes

    @property
    def spans(self) -> list[str]:
        """When the windows of the first recordings are defective, and how many others have such."""
        more = self._in_part - len(self._spans)
        return self._spans + [f"… and {more:,} more recordings with defective windows"] * (more > 0)

    @property
    def counts(self) -> str:
        """How many recordings have each answer, in words, the commonest first."""
        return ", ".join(f"{answer} {count:,}" for answer, count in self.answers.most_common())

    @property
    def warnings(self) -> list[str]:
        """What is to be said of recordings: each, or where there are many, their number."""
        if sum(map(len, self._warned.values())) <= _MOST_WARNINGS:
            return self._each
        return [f"{len(named):,} recordings ({named}): {t}" for t, named in self._warned.items()]


class Named:
    """How many there are, and the names of the first."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []

    def __len__(self) -> int:
        return self.count

    def add(self, name: str) -> None:
        """Count one."""
        self.count += 1
        if len(self.first) < 4 and name not in self.first:
            self.first.append(name)

    def __str__(self) -> str:
        return some_names(self.first)


def print_answers(answers: Answers, tally: Tally, output: Path | None) -> None:
    """Print the first rows as a table, how many there are of each answer, and what limits them."""
    form = {"file": printable, "row": str}
    if answers.step:
        form |= {"window": str, "start": "{:.3f}".format, "end": "{:.3f}".format, "windows": str}
        form |= {"defective": str} if answers.run.detector.normal_classes else {}
    form |= {"answer": str, "class": str}
    form |= {"probability": "{:.3f}".format, "ms": "{:.2f}".format}
    cells = [
        ["" if row.get(name) is None else write(row[name]) for name, write in form.items()]
        for row in tally.shown
    ]
    print_rows(list(form), cells)
    if tally.rows > len(cells):
        where = f"all are in {output}" if output else "--output FILE.csv writes all"
        console.print(f"… {tally.rows - len(cells):,} more rows; {where}.")
        console.print(f"{tally.files:,} files: {tally.counts}")
    for text in tally.spans:
        console.print(text)
    print_limits(answers, tally)


def print_limits(answers: Answers, tally: Tally) -> None:
    """Print what the answers are worth: warnings, the promise, what was not looked at."""
    for text in tally.warnings:
        console.print(f"warning: {text}")
    trust = answers.run.trust.get(answers.role)
    if trust is None:
        console.print("There is no validation part, so no answer can be marked unsure.")
    elif not answers.run.promise or trust.harmful:
        console.print(trust.promise)
    if answers.run.promise:
        console.print(answers.run.promise)
        console.print("A probability of 0.5 is at the limit; it is not that of a defect.")
    part = answers.reading["part"]
    if answers.step:
        _print_windows(answers)
    elif tally.overlooked:
        share = f"{tally.share:.0%}"
        which = f"{share} of {tally.overlooked} was"
        if len(tally.overlooked) > 1:
            which = f"up to {share} of {len(tally.overlooked)} files ({tally.overlooked}) was"
        console.print(
            f"warning: {which} not looked at: the answer is that of {part.words}. To have all of a "
            "file answered, add --windows, or train with --part windows; to find an event in it, "
            "train with --part onset."
        )
    if tally.seen:
        console.print(
            f"note: the run was trained or validated on {len(tally.seen)} of {tally.files} files "
            f"({tally.seen}); such answers do not tell how it does on new ones."
        )


def _print_windows(answers: Answers) -> None:
    part, rate = answers.reading["part"], answers.run.detector.sample_rate
    console.print(
        f"Windows of {part.samples / rate:.3g} s begin every {answers.step / rate:.3g} s, and the "
        "last ends with its recording; a row without a window is the average of its recording."
    )
    if part.kind in ("onset", "loudest"):
        console.print(
            f"note: the run was trained on {part.words}; windows begin anywhere, and of those "
            "without an event the answer does not count."
        )


def printable(name: str) -> str:
    """A name as it is, or in quotes with codes, so that each stays on its line."""
    return name if name.isprintable() else repr(name)


def _spans(rows: list[dict[str, Any]]) -> str:
    """The times at which windows are defective, those that meet as one."""
    found: list[list[float]] = []
    for row in rows:
        if row["answer"] == "defective":
            if found and row["start"] <= found[-1][1]:
                found[-1][1] = row["end"]
            else:
                found.append([row["start"], row["end"]])
    more = f" and {len(found) - _MOST_SPANS} more" if len(found) > _MOST_SPANS else ""
    return ", ".join(f"{start:.3f} to {end:.3f} s" for start, end in found[:_MOST_SPANS]) + more
