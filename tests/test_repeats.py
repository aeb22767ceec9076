import numpy as np
import pandas as pd
import pytest

from hfld_lite import ArgumentError
from hfld_lite.evaluation import repeats
from hfld_lite.evaluation.repeats import over_seeds, scores, summary


def runs(**accuracies):
    return pd.concat(
        [
            scores(pd.DataFrame({"role": [name], "accuracy": a, "macro_recall": a / 2}), seed)
            for seed in range(max(map(len, accuracies.values())))
            for name, values in accuracies.items()
            for a in values[seed : seed + 1]
        ]
    )


def test_mean_sample_deviation_and_paired_difference():
    table = summary(runs(student=[0.9, 0.8, 0.7], forest=[0.8, 0.75, 0.6])).set_index("method")
    assert table.loc["student", "accuracy"] == pytest.approx(0.8)
    assert table.loc["student", "deviation"] == pytest.approx(0.1), "n − 1 below the sum"
    assert table.loc["student", "macro_recall"] == pytest.approx(0.4)
    assert np.isnan(table.loc["student", "student_minus"])
    forest = table.loc["forest"]
    assert forest["seeds"] == 3
    assert forest["student_minus"] == pytest.approx((0.1 + 0.05 + 0.1) / 3)
    # 0.1, 0.05 and 0.1: s / √3 = 1 / 60, and t(0.975; 2) = 4.3027
    assert [forest["low"], forest["high"]] == pytest.approx(
        [0.25 / 3 - 4.3027 / 60, 0.25 / 3 + 4.3027 / 60], abs=1e-5
    )


def test_the_interval_is_paired_and_that_of_scipys_t_test():
    from scipy.stats import ttest_1samp

    rng = np.random.default_rng(0)
    hard = rng.normal(0.6, 0.2, 12)  # seeds differ by far more than the methods
    gain = rng.normal(0.02, 0.01, 12)
    table = summary(runs(student=list(hard + gain), alone=list(hard)))
    found = table.set_index("method").loc["alone"]
    known = ttest_1samp(gain, 0).confidence_interval(0.95)
    assert found["low"] == pytest.approx(known.low)
    assert found["high"] == pytest.approx(known.high)
    assert found["high"] - found["low"] < 0.02


def test_seeds_that_all_differ_alike_do_not_show_an_interval():
    table = summary(runs(student=[0.9, 0.8, 0.7], forest=[0.8, 0.7, 0.6])).set_index("method")
    assert table.loc["forest", "student_minus"] == pytest.approx(0.1)
    assert np.isnan(table.loc["forest", ["low", "high"]].astype(float)).all()


def test_a_method_is_compared_on_the_seeds_that_it_has_and_one_seed_gives_no_interval():
    table = summary(runs(student=[0.5, 0.9], forest=[0.4])).set_index("method")
    assert table.loc["forest", "student_minus"] == pytest.approx(0.1)
    assert np.isnan(table.loc["forest", ["deviation", "low", "high"]].astype(float)).all()


def test_each_seed_has_its_own_split_and_weights_and_the_table_is_of_the_test(
    tiny_recordings, tiny_recipe, tmp_path, monkeypatch
):
    chains = []
    usual = repeats.chains_together
    monkeypatch.setattr(
        repeats, "chains_together", lambda *a, **k: chains.extend(usual(*a, **k)) or chains
    )
    found = over_seeds(tiny_recordings, tiny_recipe, [4, 7], progress=False, folder=tmp_path)
    assert [chain.recipe.seed for chain in chains] == [4, 7]
    assert chains[0].split.test.tolist() != chains[1].split.test.tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed_4", "seed_7"]
    roles = ["teacher", "secondary_teacher", "student", "student_alone"]
    assert found.table["method"].tolist() == roles
    for chain in chains:
        test = chain.test(tiny_recordings).table.set_index("role")["accuracy"]
        mine = found.runs[found.runs["seed"] == chain.recipe.seed].set_index("method")["accuracy"]
        pd.testing.assert_series_equal(test, mine, check_names=False)


@pytest.mark.parametrize("seeds", [0, -1, [], [3, 3]])
def test_seeds_must_be_there_and_differ(tiny_recordings, tiny_recipe, seeds):
    with pytest.raises(ArgumentError, match="seeds is"):
        over_seeds(tiny_recordings, tiny_recipe, seeds)


def test_with_an_automatic_choice_seeds_are_trained_one_by_one(
    tiny_recordings, tiny_recipe, tiny_chain, monkeypatch
):
    seeds = []
    monkeypatch.setattr(repeats, "chains_together", lambda *_, **__: pytest.fail("together"))
    monkeypatch.setattr(
        repeats, "distill_chain", lambda data, r, **_: seeds.append(r.seed) or tiny_chain
    )
    over_seeds(tiny_recordings, tiny_recipe, 2, progress=False, auto=1.0)
    assert seeds == [0, 1]
