from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import TensorDataset

from hfld_lite import (
    ArgumentError,
    DataError,
    Network,
    RecipeError,
    distill_chain,
    simulate_tiles,
    split,
)
from hfld_lite.data.splits import Split
from hfld_lite.evaluation import choice
from hfld_lite.evaluation.choice import balanced_mean, choose_recipe, chosen_before
from hfld_lite.recipes import Recipe

SAME = ["candidate", "steps", "score", "standard_error", "chosen"]
TINY = Network(10, 1 / 16, epochs=2)


@pytest.fixture(scope="module")
def recordings():
    """Of 60 tiles, 12 are in the validation part: enough for all views."""
    return simulate_tiles("A", tiles_per_class=30, drops=1, seed=3, progress=False)


@pytest.fixture(scope="module")
def recipe():
    return Recipe(
        teacher=TINY, secondary_teachers=(), student=TINY, view="spectrum", bins=300, batch_size=16
    )


FEWER = {"VIEWS": choice.VIEWS[:1] + choice.VIEWS[2:3], "RATES": (3.0,)}
"""Views and rates of the tests that train."""


@pytest.fixture(scope="module")
def learning(recipe):
    """A recipe by which a student learns something in a second."""
    network = replace(TINY, epochs=8)
    return recipe.replace(teacher=network, student=network, batch_size=8)


@pytest.fixture(scope="module")
def known(recordings, learning):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in FEWER.items():
            patch.setattr(choice, name, value)
        return choose_recipe(recordings, learning, budget=9.0, progress=False)


@pytest.fixture
def tries(monkeypatch):
    """The tries are not trained but scored by a given function of the candidate and its length."""

    def use(right):
        def tried(search, recipe, part):
            labels = search.labels[search.validation]
            correct = np.arange(len(labels)) < right(recipe)
            score, error = balanced_mean(
                correct.astype(float), labels, search.groups[search.validation]
            )
            row = {"candidate": choice._name(recipe), "steps": search._epochs(part) * search._each}
            search.rows.append(row | {"score": score, "standard_error": error})
            return choice._Try(recipe, correct.astype(float), score, len(search.rows) - 1)

        monkeypatch.setattr(choice._Search, "_try", tried)

    return use


def test_the_table_tells_what_was_tried(known, learning):
    recipe, table, said = known
    assert list(table) == [
        *("candidate", "view", "level", "learning_rate", "steps", "score", "standard_error"),
        *("seconds", "chosen"),
    ]
    assert table["view"].tolist()[:2] == ["spectrum", "log-spectrum"]
    assert table["learning_rate"].tolist() == [0.01, 0.01, 0.03]
    assert table["score"].nunique() > 1, "something was learned, or this test says nothing"
    assert (table["steps"] >= 32).all()
    assert (table["standard_error"] >= 0).all()
    assert table["chosen"].sum() == 1
    assert chosen_before(learning, table) == recipe
    assert "3 tries of the student alone" in said


def test_the_choice_never_reads_the_test_part(recordings, learning, known, monkeypatch):
    """Other signals and labels there, and other generators: the same choice to the last bit."""
    for name, value in FEWER.items():
        monkeypatch.setattr(choice, name, value)
    parts = split(recordings, seed=learning.seed)
    signals, labels = recordings.signals.copy(), recordings.labels.copy()
    rng = np.random.default_rng(0)
    signals[parts.test] = rng.normal(size=signals[parts.test].shape)
    labels[parts.test] = rng.permutation(labels[parts.test])
    other = replace(recordings, signals=signals, labels=labels)
    torch.manual_seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    again = choose_recipe(other, learning, parts, budget=9.0, progress=False)
    pd.testing.assert_frame_equal(again.table[SAME], known.table[SAME])
    assert again.recipe == known.recipe
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_training_and_validation_are_used_as_said(recordings, recipe, monkeypatch):
    """What trains, chooses the epoch and scores are disjoint by group; the test part is absent."""
    seen = []

    class Spy(choice.Trainer):
        def supervise(self, role):
            seen.append((role, self.examples, self.parts))
            return super().supervise(role)

    monkeypatch.setattr(choice, "Trainer", Spy)
    monkeypatch.setattr(choice, "VIEWS", ())
    monkeypatch.setattr(choice, "RATES", ())
    choose_recipe(recordings, recipe, progress=False)
    ((role, examples, tried),) = seen
    parts = split(recordings, seed=recipe.seed)
    assert role == "student_alone"
    groups = {name: set(examples.groups[rows]) for name, rows in tried.parts().items()}
    assert groups["test"] == set(recordings.groups[parts.validation]), "it scores"
    assert groups["train"] | groups["validation"] == set(recordings.groups[parts.train])
    assert not groups["train"] & groups["validation"]
    assert not set(examples.groups) & set(recordings.groups[parts.test])


def test_all_views_and_rates_are_tried(recordings, recipe, tries):
    tries(lambda r: 6)
    table = choose_recipe(recordings, recipe, budget=9.0, progress=False).table
    levels = [f"{view}, level {level}, rate 0.01" for view, level in choice.VIEWS[1:]]
    rates = ["spectrum, rate 0.00333", "spectrum, rate 0.03"]
    assert table["candidate"].tolist() == ["spectrum, rate 0.01", *levels, *rates]


def test_what_is_clearly_better_is_chosen(recordings, recipe, tries):
    tries(lambda r: 12 if (r.view, r.level) == ("log-mel", "kept") else 4)
    found = choose_recipe(recordings, recipe, budget=9.0, progress=False)
    assert (found.recipe.view, found.recipe.level) == ("log-mel", "kept")
    assert found.recipe.learning_rate == recipe.learning_rate
    assert found.table.query("chosen")["candidate"].tolist() == ["log-mel, level kept, rate 0.01"]
    assert "Chosen on validation: log-mel, level kept, rate 0.01 (7 tries" in found.said
    tries(lambda r: 12 if r.learning_rate == 0.03 and r.view == "log-spectrum" else 4)
    logs = recipe.replace(view="log-spectrum")  # its level is kept by default
    found = choose_recipe(recordings, logs, budget=9.0, progress=False).recipe
    assert (found.view, found.learning_rate) == ("log-spectrum", 0.03)


def test_within_the_noise_the_recipe_stays(recordings, recipe, tries):
    tries(lambda r: 7 if r.view == "log-mel" else 6)
    found = choose_recipe(recordings, recipe, budget=9.0, progress=False)
    assert found.recipe == recipe
    assert "stays as it was" in found.said
    best = found.table["score"].max()
    assert found.table.query("chosen")["score"].item() < best, "one recording is no evidence"


def test_a_small_budget_leaves_most_out_early_and_counts_steps(recordings, recipe, tries):
    tries(lambda r: {"log-mel": 12, "log-spectrum": 8}.get(r.view, 4))
    longer = recipe.replace(**{role: replace(TINY, epochs=40) for role in ("teacher", "student")})
    costs = []
    for budget in (9.0, 4.0, 2.5, 1.2):
        table = choose_recipe(recordings, longer, budget=budget, progress=False).table
        costs.append(table["steps"].sum())
        assert table.query("chosen")["candidate"].item().startswith("log-mel"), table
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0] / 2
    counts = table.groupby("candidate").size()
    assert counts["spectrum, rate 0.01"] == 2, "the recipe as it was is tried at every length"
    assert counts["log-mel, level removed, rate 0.01"] == 2
    assert sorted(counts)[:3] == [1, 1, 1], "the others are left out"
    with pytest.raises(ArgumentError, match=r"the least that it takes is [\d.]+\. Give"):
        choose_recipe(recordings, longer, budget=0.1, progress=False)


def test_a_try_is_not_shorter_than_the_warm_up(recordings, recipe, tries):
    tries(lambda r: 5)
    longer = replace(TINY, epochs=40)
    warm = recipe.replace(teacher=longer, student=longer, warmup=70)
    with pytest.raises(ArgumentError, match="the least that it takes"):
        choose_recipe(recordings, warm, budget=1.5, progress=False)
    with pytest.raises(ArgumentError, match="warmup is 200 steps"):
        choose_recipe(recordings, warm.replace(warmup=200), progress=False)


def test_few_groups_are_refused_or_reduce_the_field(recipe, tries):
    tries(lambda r: 12 if r.view == "log-mel" else 4)
    few = simulate_tiles("A", tiles_per_class=12, drops=3, seed=0, progress=False)
    found = choose_recipe(few, recipe, progress=False)
    assert {name.partition(",")[0] for name in found.table["candidate"]} == {"spectrum", "log-mel"}
    assert "groups, so only unlike views were tried" in found.said
    parts = split(few, seed=0)
    groups = few.groups[parts.validation]
    one = few.labels[parts.validation] == 1
    kept = parts.validation[~one | (groups == groups[one][0])]
    with pytest.raises(DataError, match="validation part: the class 'AD' has 1 group; expected 2"):
        choose_recipe(few, recipe, Split(parts.train, kept, parts.test), progress=False)


def test_of_a_dataset_only_rates_are_tried(recipe):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    x = torch.from_numpy(rng.normal(size=(60, 300)) + labels[:, None]).float()
    found = choose_recipe(TensorDataset(x, torch.from_numpy(labels)), recipe, progress=False)
    assert found.table["learning_rate"].tolist() == [0.01, 0.00333, 0.03]
    assert set(found.table["view"]) == {"spectrum"}


def test_distill_chain_takes_a_budget(recordings, recipe, tries):
    tries(lambda r: 12 if r.view == "log-mel" else 4)
    chain = distill_chain(recordings, recipe, auto=9.0, progress=False)
    assert chain.recipe == recipe.replace(view="log-mel", level="removed", bins_by="averaging")
    assert distill_chain(recordings, recipe, progress=False).recipe == recipe


def test_a_recipe_without_a_validation_part_is_refused(recordings, recipe):
    published = recipe.replace(behaviour="published", weighting="published")
    with pytest.raises(RecipeError, match="trains on the validation part"):
        choose_recipe(recordings, published)


def test_a_damaged_table_is_refused(known, recipe):
    for table in (known.table.assign(chosen=False), known.table.drop(columns="view")):
        with pytest.raises(RecipeError, match="table of the automatic choice is damaged"):
            chosen_before(recipe, table)
    with pytest.raises(RecipeError, match="view is 'ears'"):
        chosen_before(recipe, known.table.assign(view="ears"))


def test_the_balanced_mean_and_its_error_hold_in_a_simulation():
    """Known answer: two classes of 30 and 10 groups, three equal recordings in each group."""
    rng, chances = np.random.default_rng(1), (0.9, 0.6)
    labels = np.repeat([0] * 30 + [1] * 10, 3)
    groups = np.repeat(np.arange(40), 3)
    found = np.array(
        [
            balanced_mean(
                np.repeat(rng.random(40) < np.repeat(chances, (30, 10)), 3).astype(float),
                labels,
                groups,
            )
            for _ in range(3000)
        ]
    )
    assert found[:, 0].mean() == pytest.approx(0.75, abs=0.01)
    true = np.sqrt(0.9 * 0.1 / 30 + 0.6 * 0.4 / 10) / 2
    assert found[:, 0].std() == pytest.approx(true, rel=0.05)
    assert np.sqrt((found[:, 1] ** 2).mean()) == pytest.approx(true, rel=0.1)
