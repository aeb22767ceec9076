"""The small exercises inside the walkthrough notebooks: an answer at once, and no points."""

from collections.abc import Mapping
from typing import Any

from hfld_lite.course.exercises.answers import NotAnswered, NotRight, answered, compare, expect


def quick_check(
    answer: Any,
    right: Any,
    because: str,
    mistakes: Mapping[str, Any] | None = None,
    hint: str = "Compute it once more.",
) -> None:
    """Print whether a small answer is right; a wrong one raises nothing, so the notebook runs on.

    Args:
        answer: a number, a tensor, a word, or ``...`` as long as there is none.
        right: what it must be; an answer is rounded to as many decimals as a float here has.
        because: what to say of a right answer.
        mistakes: what comes out if a mistake is made, by the sentence that names it.
        hint: what to say of any other answer.
    """
    try:
        answered(answer)
        if isinstance(right, str):
            expect(str(answer).strip().lower() == right.lower(), _named(answer, mistakes, hint))
        else:
            decimals = len(str(right).partition(".")[2]) if isinstance(right, float) else None
            found = answer if decimals is None else round(float(answer), decimals)
            compare(found, right, mistakes or {}, hint)
    except NotAnswered:
        print("Not answered yet: replace the three dots and run the cell again.")
    except NotRight as wrong:
        print(f"Not yet. {wrong}")
    except (TypeError, ValueError):
        print(f"Not yet. {answer!r} is not a number.")
    else:
        print(f"Right. {because}")


def _named(answer: Any, mistakes: Mapping[str, str] | None, hint: str) -> str:
    words = str(answer).strip().lower()
    return next((said for said, word in (mistakes or {}).items() if word.lower() == words), hint)
