"""Options of `hfld train` that replace attributes of the recipe."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hfld_lite.errors import RecipeError
from hfld_lite.recipes import Recipe

REPLACED = ("steps", "learning_rate", "batch_size", "view", "bins", "level", "seed", "method")
REPLACED += ("unlabelled",)
"""Options that have the name of the recipe's attribute."""

_ATTRIBUTE = re.compile(r"(?:The recipe's|The network's|its) (\w+)")


def with_options(recipe: Recipe, given: Mapping[str, Any]) -> Recipe:
    """The recipe with the options that were given; those that are None change nothing.

    Args:
        recipe: of a preset or a file.
        given: values by the option's name with underscores: those of REPLACED, and ``epochs``, of
            all networks. ``steps`` takes the networks' own epochs away.

    Raises:
        RecipeError: if a value is impossible, in the command line's words.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if {"steps", "epochs"} <= set(given):
        raise RecipeError("--steps and --epochs both say how long to train; give one of them.")
    changes = {name: given[name] for name in REPLACED if name in given}

    def lasting(network: Any) -> Any:
        return replace(network, epochs=given.get("epochs"))

    try:
        if {"steps", "epochs"} & set(given):
            changes |= {
                "teacher": lasting(recipe.teacher),
                "secondary_teachers": tuple(map(lasting, recipe.secondary_teachers)),
                "student": lasting(recipe.student),
            }
        return recipe.replace(**changes)
    except RecipeError as error:
        raise RecipeError(_ATTRIBUTE.sub(lambda m: _option(m, given), str(error))) from error


def _option(found: re.Match, given: Mapping[str, Any]) -> str:
    """The option for an attribute that an error names, or the words as they were."""
    return f"--{found[1].replace('_', '-')}" if found[1] in given else found[0]
