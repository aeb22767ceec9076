"""The errors that a user of the package can cause, each a sentence that says how to mend it."""

import difflib
import math
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class HfldError(Exception):
    """Base of every error that the package raises on purpose; its text is meant for the user."""


class DataError(HfldError):
    """Data that cannot be used as it is.

    Args:
        where: the file, and the row or key in it, that is at fault.
        found: what stands there.
        expected: what would have been right.
        mend: what the user can do about it.

    The message is one sentence: ``where: found; expected …; mend.``
    """

    def __init__(self, where: object, found: str, *, expected: str = "", mend: str = "") -> None:
        self.where, self.found, self.expected, self.mend = str(where), found, expected, mend
        parts = [found, f"expected {expected}" if expected else "", mend]
        super().__init__(f"{where}: " + "; ".join(part for part in parts if part) + ".")

    def __reduce__(self) -> tuple:
        return (_rebuild, (self.where, self.found, self.expected, self.mend))


def _rebuild(where: str, found: str, expected: str, mend: str) -> DataError:
    """Unpickle a DataError (worker processes send theirs back pickled)."""
    return DataError(where, found, expected=expected, mend=mend)


class RecipeError(HfldError):
    """A recipe, a preset or a run folder that cannot be followed."""


class ArgumentError(HfldError, ValueError):
    """An argument of a library function that has the wrong value or shape."""


class Interrupted(KeyboardInterrupt):
    """A training that the user stopped; its text says what is kept and how to resume."""


class Stopped(Exception):
    """Inside a training: the user asked to stop; says where."""


class Diverged(Exception):
    """Inside a training: something is not finite; says where, and what was."""


def look_up(registry: Mapping[str, Any], name: str, kind: str, error: type = ArgumentError) -> Any:
    """The entry of this name; for an unknown one an ``error`` that offers the nearest name."""
    if name not in registry:
        raise error(f"{kind} {name!r} is unknown; {nearest(name, registry)}.")
    return registry[name]


def nearest(name: object, names: Iterable[str]) -> str:
    """A hint for a name that is not among ``names``: the nearest of them, else all."""
    names = list(names)
    close = difflib.get_close_matches(str(name), names, 1, cutoff=0.5)
    return f"the nearest name is {close[0]}" if close else f"choose from {', '.join(names)}"


@contextmanager
def first_interrupt_waits() -> Iterator[Callable[[], bool]]:
    """Give a function that says whether Ctrl-C was pressed; a second one interrupts as usual."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # signals reach the main thread only
        return
    before = signal.getsignal(signal.SIGINT)
    if before in (None, signal.SIG_IGN):  # a job in the background is not to be stopped by Ctrl-C
        yield lambda: False
        return

    def note(number: int, _frame: object) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, before)
        # A print could be interrupted by itself here.
        os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)


def registering(
    registry: dict[str, Any], kind: str, base: type = object
) -> Callable[[str], Callable]:
    """A decorator that keeps what it decorates in a registry, by a name that is not taken."""

    def named(name: str) -> Callable:
        """Register what follows by a name; one that is taken is an ArgumentError."""
        if not isinstance(name, str) or not name:
            raise ArgumentError(f'A {kind} needs a name: @{kind}("my_{kind}").')
        if name in registry:
            raise ArgumentError(f"The {kind} {name!r} is registered already; choose another name.")

        def register(thing: Any) -> Any:
            if base is not object and not (isinstance(thing, type) and issubclass(thing, base)):
                raise ArgumentError(f"The {kind} {name!r} must be a class made of {base.__name__}.")
            return registry.setdefault(name, thing)

        return register

    return named


def called(loss: Callable, names: tuple[str, ...], *read: Any, **options: Any) -> dict[str, Any]:
    """What a registered loss gives, by the terms' names.

    Raises:
        ArgumentError: if it fails, or does not give a scalar tensor for each name that depends on
            the student.
    """
    said = f"The loss of {', '.join(names)}"
    try:
        found = loss(*read, **options)
    except HfldError:
        raise
    except Exception as error:  # whatever the user's function raises
        reason = (str(error) or type(error).__name__).splitlines()[0]
        hint = ""
        if "size of tensor" in reason or "shape" in reason:
            hint = " To compare features, register it with projected=True."
        raise ArgumentError(f"{said} failed ({type(error).__name__}: {reason}).{hint}") from error
    found = found if isinstance(found, tuple) else (found,)
    kinds = [
        f"{tuple(value.shape)}" if hasattr(value, "requires_grad") else type(value).__name__
        for value in found
    ]
    if len(found) != len(names) or any(kind != "()" for kind in kinds):
        raise ArgumentError(f"{said} must give a scalar each; it gave {', '.join(kinds)}.")
    wanted = getattr(read[0].logits, "requires_grad", False) if read else False
    if wanted and not all(value.requires_grad for value in found):
        raise ArgumentError(
            f"{said} does not depend on the student, so it teaches nothing; compute it from the "
            "student's features or logits without detaching them."
        )
    return dict(zip(names, found, strict=True))


def note_weak_teacher(role: str, known: float, *, chance: float = -1.0, alone: float = 0.0) -> None:
    """Warn of a given network that is not better than chance, or worse than the student alone.

    Args:
        role: of the network.
        known: its validation accuracy, 0 to 1.
        chance: that of always naming the commonest class.
        alone: that of the student that learned from labels alone.
    """
    said = f"The given {role.replace('_', ' ')} is right in {known:.1%} of the validation data, "
    if known <= chance:
        warnings.warn(
            f"{said}and naming the commonest class always in {chance:.1%}. Check that it knows "
            "these classes in this order, and reads these inputs.",
            stacklevel=4,
        )
    if known < alone:
        warnings.warn(
            f"{said}and the student alone in {alone:.1%}, so it may hold students back.",
            stacklevel=4,
        )


def collapse(
    weights: Mapping[str, float], low: float = 0.01, sigmoid: bool = False, saturated: float = 1e-3
) -> str:
    """Name the collapse of the weights in a sentence, or return "" where there is none.

    A term is starved below the share ``low`` of all weight (exactly 0 means switched off), and a
    ``sigmoid`` is ``saturated`` as near as that to 0 or 1.
    """
    used = {name: float(w) for name, w in weights.items() if w != 0}
    total = sum(used.values())
    if not math.isfinite(total):
        return f"The weights are no longer finite: {used}."
    if sigmoid and all(min(w, 1 - w) < saturated for w in used.values()):
        return f"All weights are saturated (sum {total:.2g}), each within {saturated:g} of 0 or 1."
    shares = {name: w / total for name, w in used.items()}
    if len(shares) > 1:
        winner = max(shares, key=shares.get)
        if shares[winner] > 1 - low:
            return f"{winner} has {shares[winner]:.1%} of all weight; no other term counts."
        if starved := [f"{name} ({share:.1%})" for name, share in shares.items() if share < low]:
            return f"Terms with less than {low:.0%} of all weight: {', '.join(starved)}."
    return ""


@contextmanager
def training_errors(title: str, checkpoints: Any = None) -> Iterator[Callable[[], bool]]:
    """Turn what ends a training early into one sentence that says what is kept.

    Args:
        title: of the training.
        checkpoints: with a method ``kept()`` that says which checkpoint is the newest, or None.

    Yields:
        a function that says whether Ctrl-C was pressed.

    Raises:
        Interrupted: for Stopped.
        HfldError: for Diverged, or if memory runs out.
    """
    title = title or "fit"
    kept = checkpoints.kept if checkpoints else lambda: "Nothing of it is kept on disk."
    try:
        with first_interrupt_waits() as stopped:
            yield stopped
    except Stopped as stop:
        hint = " The same call with resume=True continues from there." if checkpoints else ""
        raise Interrupted(f"{title} was stopped {stop}. {kept()}{hint}") from None
    except Diverged as error:
        raise HfldError(
            f"{title}: {error}. The network is left as in its best epoch so far. {kept()} Try a "
            "new run with a lower learning_rate or precision 32-true, or check the data; to find "
            "the operation that gives it, repeat this one with "
            "torch.autograd.set_detect_anomaly(True) (hfld train: --detect-anomaly)."
        ) from error
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(
            word in str(error) for word in _NO_MEMORY
        ):
            raise
        raise HfldError(
            f"{title}: memory ran out. {kept()} A smaller batch_size or a smaller network needs "
            "less."
        ) from error


_NO_MEMORY = ("DefaultCPUAllocator", "ALLOC_FAILED", "out of memory")
