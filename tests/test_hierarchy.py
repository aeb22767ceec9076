from itertools import pairwise

import numpy as np
import pytest
import torch

import hfld_lite.hierarchy as trainer_module
from hfld_lite import (
    ArgumentError,
    DataError,
    HfldError,
    Network,
    Recipe,
    distill_chain,
    losses,
    preset,
    simulate_tiles,
    spectrum,
)
from hfld_lite.data.simulator.tiles import Bench
from hfld_lite.networks import count_parameters, resnet1d
from hfld_lite.recipes import ALONE
from hfld_lite.training import predict_logits
from hfld_lite.weighting import TERMS

ROLES = ["teacher", "secondary_teacher", "student", ALONE]


def test_roles_learn_from_the_one_before(tiny_chain):
    learned = {role: stage.learned_from for role, stage in tiny_chain.stages.items()}
    assert learned == {
        "teacher": "labels",
        "secondary_teacher": "labels and teacher",
        "student": "labels and secondary_teacher",
        ALONE: "labels",
    }


def test_all_four_terms_are_at_work_in_distilled_stages_only(tiny_chain):
    history = tiny_chain.history().set_index("role")
    for role in ("secondary_teacher", "student"):
        assert (history.loc[role, list(TERMS)] > 0).all(axis=None)
    for role in ("teacher", ALONE):
        assert history.loc[role, ["feature", "tckd", "nckd"]].isna().all(axis=None)


def test_student_and_control_begin_equal_and_see_the_same_batches(
    tiny_recordings, tiny_recipe, monkeypatch
):
    begun = {}
    real = trainer_module.fit

    def spy(objective, train, validation, recipe, epochs, **options):
        weights = {k: v.clone() for k, v in objective.student.state_dict().items()}
        begun[options["title"]] = (weights, options["seed"], epochs)
        return real(objective, train, validation, recipe, epochs, **options)

    monkeypatch.setattr(trainer_module, "fit", spy)
    distill_chain(tiny_recordings, tiny_recipe, progress=False)
    student = begun["student ← labels and secondary teacher"]
    alone = begun["student alone ← labels"]
    assert student[1:] == alone[1:]
    assert all(torch.equal(student[0][name], alone[0][name]) for name in student[0])


def test_same_seed_same_bits_and_another_seed_others(tiny_recordings, tiny_recipe, tiny_chain):
    again = distill_chain(tiny_recordings, tiny_recipe, progress=False)
    other = distill_chain(tiny_recordings, tiny_recipe.replace(seed=1), progress=False)
    for role in ROLES:
        mine, same, changed = (
            c.detector.networks[role].state_dict() for c in (tiny_chain, again, other)
        )
        assert all(torch.equal(mine[name], same[name]) for name in mine)
        assert not torch.equal(mine["stem.0.weight"], changed["stem.0.weight"])


def test_test_part_is_disjoint_by_tile_and_measured_as_a_live_pass_says(
    tiny_chain, tiny_recordings
):
    parts = tiny_chain.split.parts()
    groups = {name: set(tiny_recordings.groups[rows]) for name, rows in parts.items()}
    assert not groups["train"] & groups["test"]
    assert not groups["validation"] & groups["test"]
    assert not groups["train"] & groups["validation"]
    result = tiny_chain.test(tiny_recordings)
    assert list(result.table["role"]) == ROLES
    assert list(result.table) == [
        *("role", "network", "parameters", "accuracy", "low", "high", "miss_rate"),
        *("false_alarm_rate", "macro_recall", "recordings"),
    ]
    for row in result.table.itertuples():
        network = tiny_chain.detector.networks[row.role]
        inputs = spectrum(tiny_recordings.signals[parts["test"]], 600)
        labels = tiny_recordings.labels[parts["test"]]
        right = predict_logits(network, inputs).argmax(1).numpy() == labels
        assert row.accuracy == pytest.approx(right.mean())
        assert row.low <= row.accuracy <= row.high
        assert row.parameters == count_parameters(network)
    assert len(result.predictions) == len(parts["test"])
    assert (result.predictions["class"] == result.predictions["student"]).mean() == (
        pytest.approx(result.evaluations["student"].accuracy)
    )


def test_networks_end_in_eval_mode_with_the_best_epochs_weights(tiny_chain, tiny_recordings):
    rows = tiny_chain.split.validation
    inputs = spectrum(tiny_recordings.signals[rows], 600)
    for stage in tiny_chain.stages.values():
        assert not stage.network.training
        reached = predict_logits(stage.network, inputs).argmax(1).numpy()
        history = stage.fit.history.set_index("epoch")["validation_accuracy"]
        assert (reached == tiny_recordings.labels[rows]).mean() == pytest.approx(
            history[stage.fit.best_epoch]
        )
        assert history[stage.fit.best_epoch] == history.max()


def test_probabilities_and_refusal_of_other_recordings(tiny_chain, tiny_recordings):
    signals = tiny_recordings.signals[:3]
    probabilities = tiny_chain.predict(signals, 40_000)
    assert probabilities.shape == (3, 4)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    with pytest.raises(DataError, match=r"44100 Hz; expected 40000 Hz"):
        tiny_chain.predict(signals, 44_100)
    with pytest.raises(DataError, match=r"6999 samples; expected 7000"):
        tiny_chain.predict(signals[:, 1:], 40_000)
    with pytest.raises(HfldError, match=r"'pupil'.*student"):
        tiny_chain.predict(signals, 40_000, role="pupil")
    with pytest.raises(DataError, match="classes are AN, AD; expected AN, AD, BN, BD"):
        tiny_chain.detector.test(simulate_tiles("A", 1, 1))


def test_recordings_shorter_than_the_recipe_asks_for(tiny_recordings, tiny_recipe):
    with pytest.raises(DataError, match="7000 samples; expected 9000 or more"):
        distill_chain(tiny_recordings, tiny_recipe.replace(samples=9000), progress=False)


def test_a_term_that_was_zero_is_named_and_ends_no_training(tiny_recordings, tiny_recipe):
    trainer = trainer_module.Trainer(tiny_recordings, tiny_recipe, progress=False)
    trainer.supervise("teacher")
    objective, _ = trainer._distiller("student", "teacher", tiny_recipe)
    row = {f"weight_{name}": 1.0 for name in TERMS} | dict.fromkeys(TERMS, 0.5)
    assert objective.verdict(row) == ""
    said = "The term nckd was zero although it has a weight: it taught nothing."
    assert objective.verdict(row | {"nckd": 0.0}) == said
    assert objective.verdict(row | {"nckd": 0.0, "weight_nckd": 0.0}) == ""
    objective.targets = objective.targets._replace(logits=objective.targets.logits[:, :2])
    assert objective.verdict(row | {"nckd": 0.0}) == "", "NCKD of two classes is zero"


def test_wiring_faults_show_before_any_training(tiny_recordings, tiny_recipe, monkeypatch):
    monkeypatch.setattr(trainer_module, "fit", lambda *_, **__: pytest.fail("training began"))
    with pytest.raises(ArgumentError, match="heads is 7, which does not divide the 64 channels"):
        distill_chain(tiny_recordings, tiny_recipe.replace(heads=7), progress=False)
    short = tiny_recipe.replace(samples=400, bins=None)
    with pytest.raises(ArgumentError, match=r"a length of at least 257.*found shape \(2, 200\)"):
        distill_chain(tiny_recordings, short, progress=False)


def test_chains_of_two_and_of_four_networks(tiny_recordings, tiny_recipe):
    one = tiny_recipe.secondary_teachers[0]
    for between, roles in (
        ((), ["teacher", "student"]),
        ((one, one), ["teacher", "secondary_teacher_1", "secondary_teacher_2", "student"]),
    ):
        recipe = tiny_recipe.replace(secondary_teachers=between)
        stages = distill_chain(tiny_recordings, recipe, controls=(), progress=False).stages
        assert list(stages) == roles
        for before, role in pairwise(roles):
            assert stages[role].learned_from == f"labels and {before}"


def test_on_epoch_reports_every_stage(tiny_recordings, tiny_recipe):
    seen = []
    recipe = tiny_recipe.replace(student=tiny_recipe.secondary_teachers[0])
    distill_chain(
        tiny_recordings,
        recipe,
        controls=(),
        progress=False,
        on_epoch=lambda role, row: seen.append((role, row["epoch"])),
    )
    assert seen == [(role, epoch) for role in ROLES[:3] for epoch in (1, 2)]


def test_demo_preset_spans_a_factor_of_twenty():
    recipe = preset("demo")
    size = {
        role: count_parameters(resnet1d(n.depth, 6, n.width, n.head))
        for role, n in recipe.chain.items()
    }
    assert size["teacher"] >= 20 * size["student"]
    assert size["teacher"] > size["secondary_teacher"] > size["student"]
    assert all(weight > 0 for weight in recipe.weights.values())


def test_a_whole_chain_learns_coarse_defects():
    """Large defects, so that few tiles are enough: far above the chance of a quarter."""
    bench = Bench(severity_low=0.2, severity_high=0.3)
    recordings = simulate_tiles("AB", tiles_per_class=50, drops=2, seed=5, bench=bench)
    small, smaller = Network(10, 1 / 8, epochs=12), Network(10, 1 / 16, epochs=12)
    recipe = Recipe(teacher=small, secondary_teachers=(smaller,), student=smaller, batch_size=16)
    table = distill_chain(recordings, recipe, progress=False).test(recordings).table
    assert (table["accuracy"] > 0.7).all(), table[["role", "accuracy"]]


@pytest.mark.parametrize("strategy", ["published", "naive", "uncertainty", "meta"])
def test_every_strategy_runs_through_the_chain_and_its_weights_are_kept(
    tiny_recordings, tiny_recipe, strategy
):
    recipe = tiny_recipe.replace(weighting=strategy, meta_share=0.2, meta_every=2, batch_size=4)
    history = distill_chain(tiny_recordings, recipe, controls=(), progress=False).history()
    weights = history.set_index("role").loc["student", [f"weight_{t}" for t in TERMS]].to_numpy()
    assert np.isfinite(weights.astype(float)).all()
    moved = np.ptp(weights.astype(float), axis=1).max()
    assert moved > 1e-4, "the weights are no longer equal"
    if strategy in ("uncertainty", "meta"):
        np.testing.assert_allclose(weights.sum(1), 4, rtol=1e-4)
    else:
        assert ((weights > 0) & (weights < 1)).all()


def test_meta_share_leaves_the_training_part_by_tile(tiny_recordings, tiny_recipe):
    whole = trainer_module.Trainer(tiny_recordings, tiny_recipe, progress=False)
    cut = trainer_module.Trainer(
        tiny_recordings, tiny_recipe.replace(meta_share=0.2), progress=False
    )
    assert len(cut.meta.inputs) > 0
    assert len(cut.train.inputs) + len(cut.meta.inputs) == len(whole.train.inputs)
    assert torch.equal(cut.validation.inputs, whole.validation.inputs)
    rows, meta = whole.examples.cut(whole.parts.train, 0.2, tiny_recipe.seed)
    assert not set(tiny_recordings.groups[rows]) & set(tiny_recordings.groups[meta])
    assert set(np.concatenate([rows, meta])) == set(whole.parts.train)


def test_strategies_begin_with_the_same_student_and_projector(
    tiny_recordings, tiny_recipe, monkeypatch
):
    begun = {}
    real = trainer_module.fit

    def spy(objective, *arguments, **options):
        begun[options["title"]] = {
            name: value.clone()
            for name, value in objective.state_dict().items()
            if name.startswith(("student.", "project."))
        }
        return real(objective, *arguments, **options)

    monkeypatch.setattr(trainer_module, "fit", spy)
    recipe = tiny_recipe.replace(meta_share=0.2)
    trainer = trainer_module.Trainer(tiny_recordings, recipe, progress=False)
    trainer.supervise("teacher")
    for strategy in ("fixed", "uncertainty", "meta"):
        chosen = recipe.replace(weighting=strategy)
        trainer.distil("student", "teacher", chosen, strategy, epochs=1)
    first, *others = list(begun.values())[1:]
    assert len(others) == 2
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_dense_guidance_and_direct_are_controls(tiny_recordings, tiny_recipe):
    chain = distill_chain(
        tiny_recordings, tiny_recipe, controls=("direct", "dense"), progress=False
    )
    assert chain.stages["student_direct"].learned_from == "labels and teacher"
    assert chain.stages["student_dense"].learned_from == "labels and teacher, secondary_teacher"
    assert (chain.stages["student_dense"].fit.history["dense"] > 0).all()
    with pytest.raises(HfldError, match="'alnoe' is unknown; the nearest name is alone"):
        distill_chain(tiny_recordings, tiny_recipe, controls=("alnoe",))


def test_two_classes_run_with_an_nckd_of_zero_and_say_why(tiny_recipe, monkeypatch):
    monkeypatch.setattr(losses, "_warned", set())
    recordings = simulate_tiles("A", tiles_per_class=10, drops=2, pooled=False)
    with pytest.warns(UserWarning, match="With two classes NCKD is zero by definition"):
        chain = distill_chain(recordings, tiny_recipe, controls=(), progress=False)
    history = chain.history().set_index("role").loc["student"]
    assert (history["nckd"] == 0).all()
    assert (history["tckd"] > 0).all()
