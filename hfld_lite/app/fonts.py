"""Names in figures: in a font that has their characters, or as numbers."""

import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from matplotlib import ft2font
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager, get_font
from matplotlib.text import Text

USUAL = "DejaVu Sans"
"""Matplotlib's own font, which is always there."""

LONGEST = 24
"""Longer names would leave no room for the figure."""

_SHAPES = hasattr(ft2font, "__libraqm_version__")
"""Whether this matplotlib joins Arabic letters and writes them from right to left."""

_NO_FONTS = ("Last Resort", "Emoji", "LastResort")


def shown(names: Sequence[str]) -> list[str]:
    """The names as a figure shows them: themselves, or numbers from 1.

    Numbers stand for all of them if one is longer than LONGEST or one font of this machine does not
    have all characters; :func:`numbered` tells what they mean.
    """
    short = all(0 < len(name) <= LONGEST for name in names)
    if short and family("".join(names)) is not None:
        return list(names)
    return [str(number) for number, _ in enumerate(names, 1)]


def numbered(names: Sequence[str]) -> str:
    """A sentence with the names of the numbers that figures show; empty where they show names."""
    if shown(names) == list(names):
        return ""
    said = ", ".join(f"{number}: {name}" for number, name in enumerate(names, 1))
    return f"The figures number the classes: {said}."


def spell(figure: Figure) -> None:
    """Give each text of a figure a font that has its characters, or write their codes.

    No text is a formula or set by TeX, whatever was the user's style when it was made.
    """
    texts = figure.findobj(Text)
    for text in texts:
        text.set_usetex(False)
        text.set_parse_math(False)
    texts = [text for text in texts if not text.get_text().isascii()]
    common = family("".join(text.get_text() for text in texts)) if texts else None
    for text in texts:
        said = text.get_text()
        found = common or family(said.replace("\n", ""))
        if found is None:
            text.set_text(said.encode("ascii", "backslashreplace").decode())
        elif found != USUAL:
            text.set_fontfamily(found)


def family(text: str) -> str | None:
    """The first font family of this machine that has all characters of a text, USUAL before others.

    None if there is none, or the text needs what this matplotlib cannot do.
    """
    if any(unicodedata.category(letter)[0] == "C" for letter in text):  # controls, half characters
        return None
    if not _SHAPES and any(map(_shaped, text)):
        return None
    return _family(frozenset(map(ord, text)))


def _shaped(letter: str) -> bool:
    written = unicodedata.bidirectional(letter) in ("R", "AL", "AN")
    return written or unicodedata.category(letter) in ("Mn", "Mc")


@lru_cache(maxsize=1000)
def _family(characters: frozenset[int]) -> str | None:
    if max(characters, default=0) < 0x7F:
        return USUAL
    for name, path in _fonts():
        try:
            if characters <= get_font(path).get_charmap().keys():
                return name
        except (OSError, RuntimeError):  # a font that is damaged, or gone
            continue
    return None


@lru_cache(maxsize=1)
def _fonts() -> list[tuple[str, str]]:
    """Upright fonts by name, USUAL first."""
    found = {
        font.name: font.fname
        for font in fontManager.ttflist
        if font.style == "normal" and not any(word in font.name for word in _NO_FONTS)
    }
    first = {USUAL: found.pop(USUAL)} if USUAL in found else {}
    return [*first.items(), *sorted(found.items())]
