"""What all checks have in common: an answer gets one sentence, never a traceback from deep inside.

A check is a function ``check_NAME`` of the learner's own answer. It returns a sentence about what
is right, or raises :class:`NotRight` with the likely mistake, which nbgrader counts as no points.
"""

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hfld_lite.errors import HfldError


class NotRight(HfldError, AssertionError):
    """An answer that is not right yet; its text tells the learner the likely mistake."""

    def _render_traceback_(self) -> list[str]:
        """What Jupyter shows: the sentence alone, without the lines of the check."""
        return [f"Not yet. {self}"]


class NotAnswered(NotRight):
    """An answer that is still the empty form of the exercise."""


class Descent:
    """Plain gradient descent on a module, with the two methods of an optimiser that a step calls.

    It stands in for ``torch.optim.SGD`` in checks: at its first step that loads torch's compiler,
    and the learner would wait for seconds.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], rate: float = 0.1) -> None:
        self.parameters, self.rate = list(parameters), rate

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> None:
        """θ ← θ − η ∇θ."""
        with torch.no_grad():
            for parameter in self.parameters:
                if parameter.grad is not None:
                    parameter -= self.rate * parameter.grad


def check(function: Callable[..., str]) -> Callable[..., None]:
    """Make a check for learners of a function that judges their answer.

    The result prints "Right. …" or raises :class:`NotRight`. Whatever else the learner's code
    raises becomes a sentence. Randomness drawn inside is the same each time, and leaves the
    learner's own generator as it was. Warnings are silent: nbgrader takes a word on stderr for a
    failure.
    """
    name = function.__name__.removeprefix("check_")

    @wraps(function)
    def checked(*answers: Any) -> None:
        inspect.signature(function).bind(*answers)  # a call with too few answers is our own fault
        try:
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                torch.manual_seed(0)
                warnings.simplefilter("ignore")
                said = function(*(answered(answer) for answer in answers))
        except (NotAnswered, NotImplementedError):
            raise NotAnswered(
                f'Exercise "{name}" is not answered yet; hint("{name}", 1) helps to begin.'
            ) from None
        except NotRight:
            raise
        except Exception as error:
            text = str(error).strip().splitlines() or [""]
            raise NotRight(
                f"Your code stops with {type(error).__name__}: {text[0].rstrip('.')}. Try it on a "
                "small example of your own first."
            ) from error
        print(f"Right. {said}")

    return checked


def ask(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """What the learner's function returns; nothing means that it is not written yet."""
    expect(callable(function), f"A function is asked for; this is a {type(function).__name__}.")
    return answered(function(*arguments, **named))


def expect(condition: object, sentence: str) -> None:
    """Refuse the answer with this sentence unless the condition holds."""
    if not condition:
        raise NotRight(sentence)


def number(value: Any, what: str) -> float:
    """The answer as a number, or a sentence that says what was found instead."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise NotRight(f"{what} is {value!r}; a number is asked for.") from None


def tensor(value: Any, shape: tuple[int, ...], what: str) -> Tensor:
    """The answer as a tensor of this shape, or a sentence about its shape."""
    try:
        value = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise NotRight(
            f"{what} is a {type(value).__name__}; a tensor of shape {shape} is asked for."
        ) from None
    expect(tuple(value.shape) == shape, f"{what} has shape {tuple(value.shape)}; expected {shape}.")
    return value


def close(found: Any, right: Any, tolerance: float = 1e-4) -> bool:
    """Whether two numbers or tensors agree, relative to the larger entry, and are finite."""
    found, right = (np.asarray(_plain(value), dtype=np.float64) for value in (found, right))
    if found.shape != right.shape or not np.isfinite(found).all():
        return False
    return bool(np.abs(found - right).max() <= tolerance * max(np.abs(right).max(), 1e-6))


def compare(found: Any, right: Any, mistakes: Mapping[str, Any], otherwise: str) -> None:
    """Refuse an answer that differs from the right one, by the name of its mistake.

    Args:
        found: the answer, a number or a tensor.
        right: what it must be.
        mistakes: what comes out if a mistake is made, by the sentence that names it.
        otherwise: the sentence where none of them fits.
    """
    if close(found, right):
        return
    for sentence, value in mistakes.items():
        if close(found, value):
            raise NotRight(sentence)
    raise NotRight(otherwise)


def answered(value: Any) -> Any:
    """The answer itself; None or ``...`` means that there is none yet, a NotAnswered."""
    if value is None or value is ...:
        raise NotAnswered
    _plain_type(value)
    return value


def _plain_type(value: Any) -> None:
    """Refuse an object of a class from the notebook: it could say that it equals everything."""
    kind = type(value)
    expect(
        kind.__module__ != "__main__" or isinstance(value, nn.Module),
        f"The answer holds an object of your own class {kind.__name__}; numbers, texts, lists, "
        "arrays, tensors and functions are asked for.",
    )
    if isinstance(value, list | tuple | set):
        for each in value:
            _plain_type(each)
    elif isinstance(value, dict):
        for each in value.values():
            _plain_type(each)


def _plain(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value
