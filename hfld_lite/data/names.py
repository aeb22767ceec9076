"""Names of classes, groups and files as people write them: what looks equal is equal."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from hfld_lite.errors import DataError

_INVISIBLE = ("Cc", "Cf", "Zs", "Zl", "Zp")  # controls, zero-width characters, all kinds of blanks

_VARIANTS = [*map(chr, range(0xFE00, 0xFE10))]  # of the character before: as a text, as a picture

# Characters of other scripts, and of word processors, that are drawn like one of ASCII.
_ALIKE = str.maketrans(
    "АВЕКМНОРСТХІЈЅаеорсухіјѕΑΒΕΖΗΙΚΜΝΟΡΤΥΧο‐‒–—−’‘´“”",
    "ABEKMHOPCTXIJSaeopcyxijsABEZHIKMNOPTYXo-----'''\"\"",
)


def tidy(name: str) -> str:
    """A name without blanks and invisible characters around it, in Unicode's form NFC."""
    if name.isascii() and name.isprintable():
        return name.strip()
    begin, end = 0, len(name)
    while begin < end and unicodedata.category(name[begin]) in _INVISIBLE:
        begin += 1
    while end > begin and unicodedata.category(name[end - 1]) in _INVISIBLE:
        end -= 1
    return unicodedata.normalize("NFC", name[begin:end])


def no_label(name: str) -> bool:
    """Whether a class name says that the class is unknown: nothing, -1 or unlabelled."""
    return bool(re.fullmatch(r"|-1(\.0+)?|unlabell?ed", tidy(name).casefold()))


def tidied(names: np.ndarray) -> np.ndarray:
    """An array of names with :func:`tidy` applied to each; the same array where nothing changes."""
    known = {name: tidy(name) for name in set(names.tolist())}
    if all(name == new for name, new in known.items()):
        return names
    return np.array([known[name] for name in names.tolist()])


def _look(name: str) -> str:
    """What twins have in common: ``Part 07``, ``part 7.0`` and one with a blank of another kind."""
    text = name.casefold()
    if not name.isascii():
        text = unicodedata.normalize("NFKC", name).translate(_ALIKE).casefold()
        text = unicodedata.normalize("NFKC", text)
        text = "".join(c for c in text if unicodedata.category(c) != "Cf" and c not in _VARIANTS)
    text = re.sub(r"(?<=\de)\+?0*(?=\d)", "", " ".join(text.split()))  # 7E+03 and 7e3
    text = re.sub(r"(?<![\d.,])0+(?=\d)", "", text)
    return re.sub(r"(?<=\d)(\.0+|,0)(?!\d|[.,]\d)", "", text)


def twins(names: Iterable[str]) -> list[list[str]]:
    """Names that differ only in case, in how a number is written (7, 7.0, 07), or not visibly."""
    alike = defaultdict(list)
    for name in dict.fromkeys(names):
        alike[_look(name)].append(name)
    return [found for found in alike.values() if len(found) > 1]


def merged(names: Sequence[str]) -> np.ndarray:
    """The names with one spelling for those that look alike: the commonest, or the first of these.

    Args:
        names: ``(n,)``, of classes or groups.

    Returns:
        str ``(n,)``.
    """
    names = [tidy(str(name)) for name in names]
    count, known = Counter(names), {name: name for name in names}
    for found in twins(names):
        known |= dict.fromkeys(found, max(found, key=count.__getitem__))
    return np.array([known[name] for name in names])


def refuse_twins(
    where: object, names: Iterable[str] | Mapping[str, int], what: str, merge: str
) -> None:
    """Raise a DataError if two names look alike.

    Args:
        where: the names stand.
        names: of classes or groups, each as often as it occurs, or with its number.
        what: "class" or "group".
        merge: what merges them, for the message.
    """
    count = Counter(names)
    found = twins(count)
    if not found:
        return
    listed = " and ".join(f"{_shown(name)} ({count[name]} times)" for name in found[0][:4])
    others = f", and {len(found) - 1} other {what} names are alike" if len(found) > 1 else ""
    raise DataError(
        where,
        f"the {what} names {listed} look alike{others}",
        expected=f"one spelling for one {what}",
        mend=f"correct them if they mean the same, or {merge}; rename one if they do not",
    )


def one_spelling(
    where: object, names: Sequence[str], what: str, merge: bool = False
) -> dict[str, str]:
    """Map each name as written to the one that is used, and warn where two became one.

    Args:
        where: the names stand, for messages.
        names: as written, once for each file.
        what: "class" or "group".
        merge: give twins one spelling, instead of refusing them.

    Raises:
        DataError: two names look alike, and `merge` is not set.
    """
    tidy_ = {name: tidy(name) for name in names}
    if not merge:
        refuse_twins(
            where, map(tidy_.get, names), what, "merge them (--merge-names, merge_names=True)"
        )
    known = dict(zip(names, merged(names).tolist(), strict=True)) if merge else tidy_
    became = defaultdict(list)
    for name, new in known.items():
        became[new].append(name)
    many = {new: found for new, found in became.items() if len(found) > 1}
    if many:
        new, found = next(iter(many.items()))
        others = f", and likewise {len(many) - 1} more" if len(many) > 1 else ""
        text = f"{where}: read {' and '.join(map(_shown, found))} as one {what}, {new!r}{others}"
        warnings.warn(text, stacklevel=3)
    return known


def some_names(names: Iterable[object], count: int = 0) -> str:
    """Up to three of the names, each once, and dots where there are more, or `count` is above 3."""
    first = list(dict.fromkeys(map(str, names)))
    return ", ".join(first[:3]) + ", …" * (max(len(first), count) > 3)


def _shown(name: str) -> str:
    """A name in quotes, with the codes of characters that may look like others."""
    return repr(name) if repr(name) == ascii(name) else f"{name!r} ({ascii(name)[1:-1]})"
