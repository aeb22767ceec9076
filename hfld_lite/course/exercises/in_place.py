"""The small exercises inside the walkthrough notebooks: an answer at once, and no points."""

from collections.abc import Callable, Mapping
from typing import Any

from hfld_lite.course.exercises.answers import NotAnswered, NotRight, answered, compare, expect


def exercise(
    right: Any,
    because: str,
    mistakes: Mapping[str, Any] | None = None,
    hint: str = "Compute it once more.",
) -> Callable[[Any], None]:
    """The check of a small exercise; it stands in a hidden cell, or the answer could be read there.

    Args:
        right: the right answer; if it is a float, answers and mistakes are rounded to as many
            decimals as it has.
        because: what to say of a right answer.
        mistakes: what comes out if a mistake is made, by the sentence that names it.
        hint: what to say of any other answer.

    Returns:
        A function of the learner's answer: a number, a tensor, a word, or ``...`` as long as there
        is none. It prints whether the answer is right. A wrong one raises nothing, so the notebook
        runs on.
    """
    decimals = len(str(right).partition(".")[2]) if isinstance(right, float) else None

    def rounded(value: Any) -> Any:
        return value if decimals is None else round(float(value), decimals)

    def check(answer: Any) -> None:
        try:
            answered(answer)
            if isinstance(right, str):
                expect(str(answer).strip().lower() == right.lower(), _named(answer, mistakes, hint))
            else:
                wrong = {said: rounded(value) for said, value in (mistakes or {}).items()}
                compare(rounded(answer), right, wrong, hint)
        except NotAnswered:
            print("Not answered yet: replace the three dots and run the cell again.")
        except NotRight as error:
            print(f"Not yet. {error}")
        except (TypeError, ValueError):
            print(f"Not yet. {answer!r} is not a number.")
        else:
            print(f"Right. {because}")

    return check


def _named(answer: Any, mistakes: Mapping[str, str] | None, hint: str) -> str:
    words = str(answer).strip().lower()
    return next((said for said, word in (mistakes or {}).items() if word.lower() == words), hint)
