"""Recipes by name: small networks for a class, and the paper's."""

from hfld_lite.errors import RecipeError, look_up
from hfld_lite.recipes import Network, Recipe

PRESETS: dict[str, Recipe] = {
    "classroom": Recipe(name="classroom"),
    "demo": Recipe(name="demo"),
    "paper": Recipe(
        name="paper",
        teacher=Network(50, 1.0, "published", None, 200),
        secondary_teachers=(Network(18, 1.0, "published", None, 200),),
        student=Network(10, 1.0, "published", None, 200),
        view="spectrum",
        bins_by="cutting",
        balance=False,
        mu=1.0,
        nu=1.0,
        optimizer="sgd",
        learning_rate=0.01,
        weight_decay=1e-5,
        schedule="drops",
        drops=(40, 20),
        batch_size=24,
    ),
}
"""The presets by name; `released` adds "published"."""


def preset(name: str) -> Recipe:
    """The preset of this name; an unknown one is a RecipeError that offers the nearest.

    ``classroom``: the defaults; small networks, a minute or two on two cores for a small data set.
    ``demo``: what ``make demo`` trains.
    ``paper``: the published sizes, optimiser and schedule; hours without a GPU.
    ``published``: the same with the released code's behaviour, mistakes included; to compare only.
    """
    return look_up(PRESETS, name, "Preset", RecipeError)
