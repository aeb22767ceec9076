"""Recipes: saved and read as they are, and refused where they would fail later."""

import json
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from hfld_lite.errors import ArgumentError, RecipeError
from hfld_lite.recipes import PRECISIONS, Network, Recipe
from hfld_lite.rivals.presets import PRESETS, preset
from hfld_lite.rivals.released import repeats

CHANGED = Recipe(
    name="mine",
    teacher=Network(50, 0.5, "published", 0.3, 7),
    student=Network(10, 1 / 16, "small", None, 9),
    view="time",
    samples=4096,
    bins=2048,
    optimizer="sgd",
    schedule="drops",
    drops=(4, 2),
    heads=4,
    nu=0.0,
    precision="bf16-mixed",
    seed=11,
)


@pytest.mark.parametrize("recipe", [*PRESETS.values(), CHANGED], ids=lambda r: r.name)
def test_json_round_trip(recipe, tmp_path):
    recipe.save(tmp_path / "recipe.json")
    loaded = Recipe.load(tmp_path / "recipe.json")
    assert loaded == recipe
    assert isinstance(loaded.teacher, Network)
    assert isinstance(loaded.drops, tuple)


def test_the_file_holds_every_choice_in_plain_json(tmp_path):
    CHANGED.save(tmp_path / "recipe.json")
    values = json.loads((tmp_path / "recipe.json").read_text())
    assert set(values) == {f.name for f in fields(Recipe)}
    assert set(values["student"]) == {f.name for f in fields(Network)}


def test_a_partial_file_takes_the_defaults(tmp_path):
    (tmp_path / "recipe.json").write_text('{"seed": 3, "student": {"depth": 18}}')
    assert Recipe.load(tmp_path / "recipe.json") == Recipe(seed=3, student=Network(18))


def test_a_recipe_cannot_be_changed_but_replaced():
    with pytest.raises(FrozenInstanceError):
        CHANGED.seed = 5
    other = CHANGED.replace(seed=5, teacher={"depth": 34})
    assert (other.seed, other.teacher, other.heads) == (5, Network(34), 4)
    assert CHANGED.seed == 11


def test_weights_by_the_names_of_the_terms():
    recipe = Recipe(alpha=1, mu=2, nu=3, beta=4)
    assert recipe.weights == {"feature": 1, "tckd": 2, "nckd": 3, "cross_entropy": 4}


def test_networks_by_role_in_the_order_of_training():
    assert list(CHANGED.chain.items()) == [
        ("teacher", CHANGED.teacher),
        ("secondary_teacher", *CHANGED.secondary_teachers),
        ("student", CHANGED.student),
    ]
    assert list(CHANGED.replace(secondary_teachers=[]).chain) == ["teacher", "student"]
    two = CHANGED.replace(secondary_teachers=[{"depth": 34}, {"depth": 18}])
    assert [n.depth for n in list(two.chain.values())[1:3]] == [34, 18]
    assert list(two.chain)[1:3] == ["secondary_teacher_1", "secondary_teacher_2"]


@pytest.mark.parametrize("between", [None, Network(18), 5, [None], [{"depht": 18}]])
def test_secondary_teachers_are_a_list_of_networks(between):
    with pytest.raises(RecipeError, match="secondary_teacher"):
        Recipe(secondary_teachers=between)


def test_drops_must_fall_within_every_networks_epochs():
    with pytest.raises(RecipeError, match="the student trains for 40"):
        preset("paper").replace(student=Network(10, epochs=40))


def test_repeats_have_a_seed_each_but_for_the_published_ones():
    assert repeats(CHANGED, 3) == tuple(CHANGED.replace(seed=seed) for seed in (11, 12, 13))
    assert repeats(CHANGED, 1) == (CHANGED,)
    assert repeats(preset("published").replace(seed=2), 5) == (
        *[preset("published").replace(seed=2)] * 5,
    )


@pytest.mark.parametrize("count", [0, -1, 2.0, True, "5"])
def test_repeats_are_one_or_more(count):
    with pytest.raises(ArgumentError, match=f"count is {count!r}; it must be a whole number"):
        repeats(Recipe(), count)


def test_meta_needs_a_share_and_weighting_a_known_name():
    with pytest.raises(RecipeError, match="meta_share is 0; the weighting 'meta' needs it above 0"):
        Recipe(weighting="meta")
    with pytest.raises(RecipeError, match="weighting is 'metta'; the nearest name is meta"):
        Recipe(weighting="metta")
    assert Recipe(weighting="meta", meta_share=0.1).meta_every == 15


# What cannot be


def write(path, **values):
    (path / "recipe.json").write_text(json.dumps(values))
    return path / "recipe.json"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"temprature": 4.0},
            "recipe's temprature is not a known entry; the nearest name is temperature",
        ),
        (
            {"batchsize": 4},
            "recipe's batchsize is not a known entry; the nearest name is batch_size",
        ),
        ({"zzz": 4}, "recipe's zzz is not a known entry; choose from name, teacher"),
        (
            {"student": {"depth": 10, "widht": 1}},
            "student.widht is not a known entry; the nearest name is width",
        ),
        ({"student": {"width": 1}}, "student.depth is missing"),
        ({"student": 10}, "student is 10; expected an object"),
        ({"drops": 40}, "drops is 40; expected a list"),
    ],
)
def test_entries_that_do_not_exist_name_the_nearest(values, message, tmp_path):
    path = write(tmp_path, **values)
    with pytest.raises(RecipeError, match=message) as error:
        Recipe.load(path)
    assert str(path) in str(error.value)


def test_replace_names_the_nearest():
    with pytest.raises(RecipeError, match="nearest name is learning_rate"):
        Recipe().replace(learning_rat=0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ("[1]", "it holds a list, not a JSON object"),
    ],
)
def test_files_that_are_no_recipe(text, message, tmp_path):
    path = tmp_path / "recipe.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RecipeError, match=message) as error:
        Recipe.load(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", ["clasroom", "Paper", "demos"])
def test_unknown_presets_name_the_nearest(name):
    near = {"clasroom": "classroom", "Paper": "paper", "demos": "demo"}[name]
    with pytest.raises(RecipeError, match=f"{name!r} is unknown; the nearest name is {near}"):
        preset(name)


def test_an_unknown_preset_that_is_near_to_none_lists_them():
    with pytest.raises(RecipeError, match="'xyz' is unknown; choose from classroom, demo, paper"):
        preset("xyz")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("view", "picture"),
        ("view", None),
        ("optimizer", "adam"),
        ("schedule", "cosine"),
        ("precision", "16"),
        ("learning_rate", 0),
        ("learning_rate", -0.1),
        ("learning_rate", "fast"),
        ("learning_rate", float("nan")),
        ("temperature", 0.0),
        ("temperature", None),
        ("batch_size", 1),
        ("batch_size", 24.0),
        ("batch_size", True),
        ("heads", 0),
        ("heads", 2.0),
        ("heads", True),
        ("seed", -1),
        ("seed", 1.5),
        ("alpha", -1),
        ("mu", -0.5),
        ("nu", float("nan")),
        ("beta", "1"),
        ("momentum", -0.9),
        ("weight_decay", -1e-5),
        ("validation", 0),
        ("validation", 0.5),
        ("test", 0.0),
        ("test", 1),
        ("samples", 256),
        ("samples", 7000.0),
        ("bins", 100),
        ("bins", "all"),
        ("teacher", {"depth": 18, "epochs": 0}),
        ("student", {"depth": 10, "epochs": 2.5}),
        ("learning_rate", 10**400),
        ("seed", 10**400),
        ("method", "hflk"),
        ("terms", {"kd": -1.0}),
        ("terms", {"kdd": 1.0}),
    ],
)
def test_bad_values_are_named(name, value):
    with pytest.raises(RecipeError, match=f"recipe's {name}.* is .*(expected|nearest name)"):
        Recipe(**{name: value})
    with pytest.raises(RecipeError, match=name):
        replace(Recipe(), **{name: value})


@pytest.mark.parametrize("drops", [("a",), (1.5,), (-1,), "40", 40])
def test_drops_that_would_fail_in_training(drops):
    with pytest.raises(RecipeError, match="drops"):
        Recipe(schedule="drops", drops=drops)


def test_weights_that_are_all_zero():
    # `Fixed` refuses them, but only once the teacher is trained.
    with pytest.raises(RecipeError, match=r"alpha|weight"):
        Recipe(alpha=0, mu=0, nu=0, beta=0)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_precisions(precision):
    assert Recipe(precision=precision).precision == precision


# Presets


def test_presets_know_their_names():
    assert {name: preset(name).name for name in PRESETS} == {name: name for name in PRESETS}


def test_paper_holds_the_published_settings():
    paper = preset("paper")
    networks = list(paper.chain.values())
    assert [n.depth for n in networks] == [50, 18, 10]
    assert {(n.width, n.head, n.epochs) for n in networks} == {(1.0, "published", 200)}
    assert (paper.optimizer, paper.learning_rate, paper.momentum) == ("sgd", 0.01, 0.9)
    assert (paper.weight_decay, paper.batch_size) == (1e-5, 24)
    assert (paper.schedule, paper.drops) == ("drops", (40, 20))
    assert (paper.temperature, paper.heads, paper.view) == (5.0, 8, "spectrum")


def test_classroom_is_small():
    recipe = preset("classroom")
    assert all(n.width <= 1 / 4 for n in recipe.chain.values())
    assert all(n.head == "small" for n in recipe.chain.values())


# The digest of a recipe, by which stored results are found again


def test_a_digest_leaves_out_what_is_at_its_default():
    assert Recipe().choices() == {}
    assert Recipe(teacher=Network(18, 1 / 4), seed=0).digest() == Recipe().digest()
    changed = Recipe(student=Network(10, 1 / 8), terms={"kd": 1.0}, drops=(3, 2))
    expected = {"student": {"depth": 10, "width": 0.125}, "drops": (3, 2), "terms": {"kd": 1.0}}
    assert changed.choices() == expected | {"drops": [3, 2]}
    assert changed.digest() != Recipe().digest()


def test_a_new_attribute_does_not_change_a_digest(monkeypatch):
    from dataclasses import dataclass, field

    from hfld_lite.storage.models import Saved

    @dataclass(frozen=True)
    class Old(Saved):
        """One attribute."""

        seed: int = 0

    @dataclass(frozen=True)
    class New(Saved):
        """The same and another."""

        seed: int = 0
        added: dict = field(default_factory=dict)

    assert Old(3).digest() == New(3).digest() != New(3, {"a": 1}).digest()
