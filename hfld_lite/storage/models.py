"""Values that come from files, checked by pydantic; its findings become our sentences."""

import json
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from functools import wraps
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass

from hfld_lite.errors import RecipeError, nearest
from hfld_lite.storage.files import read_json, write_whole

LARGEST = 2**53
"""The largest whole number that a float, and so JSON everywhere, holds exactly."""

Whole = Annotated[int, Field(strict=True, le=LARGEST)]
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Words = Annotated[str, Field(strict=True, max_length=1000)]

MOST = 1 << 40
"""The largest number of samples, hertz or rows that is accepted."""


class Checked(BaseModel):
    """Base of the models of JSON files: no type is converted, no number may be NaN or infinite."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


def _few(value: Any) -> Any:
    # pydantic describes each wrong entry of an object, at a kilobyte each
    if isinstance(value, dict) and len(value) > 100:
        raise ValueError(f"there are {len(value)} entries; expected 100 or fewer")
    return value


Few = BeforeValidator(_few)
"""For an object whose keys are not fixed: it may have 100 entries."""

LINE = 10_000
"""Characters of the longest text that is accepted: megabytes of it cannot be shown."""

Text = Annotated[str, Field(max_length=LINE)]
LONGEST_NAME = 5000
"""A path may have 4096 characters."""
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
Index = Annotated[int, Field(ge=0, lt=MOST)]
Size = Annotated[int, Field(gt=0, le=MOST)]
Window = Annotated[list[Size] | None, Field(min_length=2, max_length=2, fail_fast=True)]
"""Window and hop in samples, or null."""


def choices(**nested: type) -> Callable[[type], type]:
    """Make a class a frozen dataclass whose fields pydantic checks.

    What is wrong is a RecipeError of one sentence: "The recipe's heads is 0; expected 1 or more."

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
        if issubclass(made, Saved):  # a field may be a dict, which has no hash
            made.__hash__ = lambda self: hash(self.to_json())
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
            RecipeError: if the file cannot be read, is not a JSON object, or holds an unknown key
                or an impossible value; the message names it.
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
_EXPECTED = {
    **dict.fromkeys(("int_type", "int_from_float"), "an integer"),
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "dataclass_type": "an object",
    "literal_error": "{expected}",
    "too_short": "a length of {min_length} or more",
    "too_long": "a length of {max_length} or less",
    "string_too_short": "a length of {min_length} or more",
    "string_too_long": "a length of {max_length} or less",
    "greater_than": "more than {gt:.16g}",
    "greater_than_equal": "{ge:.16g} or more",
    "less_than": "less than {lt:.16g}",
    "less_than_equal": "{le:.16g} or less",
}
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def short(value: Any) -> str:
    """The value as Python writes it, cut to the length that fits into a message."""
    return _SHORT.repr(value)


def explain(error: ValidationError, names: Sequence[str] = ()) -> str:
    """The first error that pydantic found, as "sample_rate is '40k'; expected an integer".

    An unknown entry comes before all others, with the nearest of the ``names`` that there are. The
    text of a ValueError that a validator raised follows the place that it is about.
    """
    errors = error.errors(include_url=False)
    first = min(errors, key=lambda one: one["type"] not in _UNKNOWN) if names else errors[0]
    kind, context = first["type"], first.get("ctx", {})
    place = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in first["loc"])
    place = place.removeprefix(".") or "the whole"
    if kind in ("missing", "missing_argument"):
        return f"{place} is missing"
    if kind in _UNKNOWN:
        hint = f"; {nearest(first['loc'][-1], names)}" if names else ""
        return f"{place} is not a known entry{hint}"
    if kind == "value_error":
        return f"{place}: {context['error']}" if first["loc"] else str(context["error"])
    expected = _EXPECTED.get(kind, first["msg"].removeprefix("Input should be ")).format(**context)
    return f"{place} is {short(first['input'])}; expected {expected}"
