"""Values that come from files, checked by pydantic; its findings become our sentences."""

import json
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from functools import wraps
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from hfld_lite.errors import RecipeError, nearest
from hfld_lite.storage.files import read_json, write_whole

LARGEST = 2**53
"""The largest whole number that a float, and so JSON everywhere, holds exactly."""

Whole = Annotated[int, Field(strict=True, le=LARGEST)]
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Text = Annotated[str, Field(strict=True)]


def choices(**nested: type) -> Callable[[type], type]:
    """Make a class a frozen dataclass whose fields pydantic checks.

    What is wrong is a RecipeError of one sentence: "The recipe's heads is 0; it must be 1 or more."

    Args:
        nested: classes of fields that are such classes themselves, for hints at unknown entries.
    """

    def make(kind: type) -> type:
        made = dataclass(frozen=True, config=ConfigDict(extra="forbid"))(kind)
        made.known = [f.name for part in (made, *nested.values()) for f in fields(part)]
        init = made.__init__

        @wraps(init)
        def speaking(self: Any, *values: Any, **named: Any) -> None:
            try:
                init(self, *values, **named)
            except ValidationError as error:
                raise RecipeError(_sentence(made, error)) from error

        made.__init__ = speaking
        return made

    return make


def validated(kind: type, values: object) -> Any:
    """A value of a class of :func:`choices` from plain dicts and lists; errors as there."""
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise RecipeError(_sentence(kind, error)) from error


class Saved:
    """What a class of :func:`choices` gains: copies with changes, JSON and a digest."""

    def replace(self, **changes: Any) -> Self:
        """A copy with some attributes changed; an unknown one is a RecipeError."""
        return replace(self, **changes)

    def to_json(self) -> str:
        """All attributes as indented JSON."""
        return json.dumps(asdict(self), indent=2)

    def choices(self) -> dict[str, Any]:
        """What differs from the defaults: attributes that a later version adds are not in it."""
        return _chosen(self)

    def digest(self) -> str:
        """SHA-256 of :meth:`choices`, the same in later versions."""
        return sha256(json.dumps(self.choices(), sort_keys=True).encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write a JSON file."""
        write_whole(Path(path), self.to_json() + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file that :meth:`save` wrote or a person edited.

        Raises:
            RecipeError: if the file cannot be read, is no JSON object, or holds an unknown key or
                an impossible value; the message names it.
        """
        try:
            values = read_json(Path(path))
            if not isinstance(values, dict):
                raise ValueError(f"it holds a {type(values).__name__}, not a JSON object")
            return validated(cls, values)
        except (OSError, ValueError) as error:
            said = f"{path}: the {cls.__name__.lower()} cannot be read ({error})."
            raise RecipeError(said) from error
        except RecipeError as error:
            raise RecipeError(f"{path}: {error}") from error


def _chosen(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_chosen(item) for item in value]
    if not is_dataclass(value):
        return value
    found = {}
    for f in fields(value):
        usual = f.default if f.default_factory is MISSING else f.default_factory()
        if (item := getattr(value, f.name)) != usual:
            found[f.name] = _chosen(item)
    return found


def _sentence(kind: type, error: ValidationError) -> str:
    return f"The {kind.__name__.lower()}'s {explain(error, kind.known)}."


_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def explain(error: ValidationError, names: Sequence[str] = ()) -> str:
    """Pydantic's first finding in our words: "heads is 0; it must be 1 or more".

    An unknown entry comes before all others, with the nearest of the ``names`` that there are.
    """
    found = min(error.errors(), key=lambda one: one["type"] not in _UNKNOWN)
    where = ".".join(str(part) for part in found["loc"]) or "value"
    kind, context, value = found["type"], found.get("ctx", {}), repr(found["input"])
    value = value if len(value) < 80 else value[:79] + "…"
    if kind in ("missing", "missing_argument"):
        return f"{where} is missing"
    if kind in _UNKNOWN:
        return f"{where} is unknown" + (f"; {nearest(found['loc'][-1], names)}" if names else "")
    rules = {
        "greater_than": "above {gt}",
        "greater_than_equal": "{ge:g} or more",
        "less_than": "below {lt}",
        "less_than_equal": "{le:.16g} or less",
        "literal_error": "{expected}",
        "too_long": "of {max_length} entries or fewer",
        "too_short": "of {min_length} entries or more",
        "string_too_long": "of {max_length} characters or fewer",
        "finite_number": "a finite number",
        **dict.fromkeys(("int_type", "int_from_float"), "a whole number"),
        **dict.fromkeys(("float_type", "float_parsing"), "a number"),
        **dict.fromkeys(("string_type",), "a text"),
        **dict.fromkeys(("bool_type",), "true or false"),
        **dict.fromkeys(("tuple_type", "list_type"), "a list"),
        **dict.fromkeys(("dict_type", "dataclass_type", "model_type"), "an object"),
    }
    said = rules.get(kind, "").format(**context) or found["msg"].removeprefix("Value error, ")
    return f"{where} is {value}; it must be {said}"
