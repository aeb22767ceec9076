"""The small exercises inside the walkthrough notebooks: an answer at once, and no points."""

import re
import warnings
from collections.abc import Callable, Mapping
from reprlib import Repr
from typing import Any

import numpy as np

from hfld_lite.course.exercises.answers import NotRight, close, compare

_SHORT = Repr()
_SHORT.maxother = _SHORT.maxstring = _SHORT.maxlong = 40


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
        is none. It prints in one sentence whether the answer is right. Nothing that it is given
        makes it raise, so the notebook runs on.
    """
    judge = _judge_word if isinstance(right, str) else _judge_number

    def check(answer: Any) -> None:
        if answer is ...:
            print("Not answered yet: replace the three dots and run the cell again.")
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a gradient, for example
                warnings.filterwarnings("error", "Casting complex")  # an imaginary part is wrong
                judge(answer, right, mistakes or {}, hint)
        except NotRight as error:
            print(f"Not yet. {error}")
        except Exception:  # whatever an answer may be, it gets a sentence
            print(f"Not yet. {_said(answer)} cannot be compared. {hint}")
        else:
            print(f"Right. {because}")

    return check


def _judge_word(answer: Any, right: str, mistakes: Mapping[str, str], hint: str) -> None:
    if not isinstance(answer, str):
        raise NotRight("A word is asked for: write it in quotation marks.")
    word = _plain(answer)
    if word != _plain(right):
        raise NotRight(next((said for said, of in mistakes.items() if _plain(of) == word), hint))


def _plain(word: str) -> str:
    return re.sub(r"^the |['\"]", "", word.replace("_", " ").strip().lower())


def _judge_number(answer: Any, right: Any, mistakes: Mapping[str, Any], hint: str) -> None:
    if answer is None:
        raise NotRight("That is None, nothing at all: is a return missing?")
    if isinstance(answer, tuple) or (isinstance(answer, str) and "," in answer):
        raise NotRight("Write the number without a comma, such as 1156 or 0.5.")
    if isinstance(answer, str):
        raise NotRight(f"{_said(answer)} is not a number: write it without quotation marks.")
    if not isinstance(right, float):
        compare(_alone(answer) if isinstance(right, int) else answer, right, mistakes, hint)
        return
    number = _alone(answer)
    if np.size(number) != 1:
        raise NotRight(f"One number is asked for, not {np.size(number)}. {hint}")
    try:
        number = float(number)
    except TypeError:
        raise NotRight(f"{_said(answer)} is not a number.") from None
    decimals = len(str(right).partition(".")[2])
    typed = len(str(answer).partition(".")[2]) if isinstance(answer, int | float) else decimals
    found, exact = round(number, decimals), typed > 0 or abs(right) >= 10  # 0 is not 0.4 rounded
    if exact and typed < decimals and number == round(right, typed) and not close(found, right):
        raise NotRight(f"That is right as far as it goes: decimals are missing, give {decimals}.")
    compare(found, right, {said: round(float(of), decimals) for said, of in mistakes.items()}, hint)


def _alone(answer: Any) -> Any:
    """The one entry of a tensor, an array or a list that has no more; anything else as it is."""
    if hasattr(answer, "detach"):
        answer = answer.detach().cpu().numpy()
    if np.size(answer) != 1:
        return answer
    return np.real_if_close(np.asarray(answer).reshape(-1)[0])


def _said(answer: Any) -> str:
    """The answer on one short line."""
    try:
        return " ".join(_SHORT.repr(answer).split())
    except Exception:
        return f"This {type(answer).__name__}"
