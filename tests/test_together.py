import copy
import warnings

import numpy as np
import pytest
import torch

from hfld_lite import ArgumentError, HfldError, Network, Recipe, adapt, distill_chain
from hfld_lite.data.examples import Samples, Shape
from hfld_lite.distillation import Distiller, Supervised
from hfld_lite.evaluation import together
from hfld_lite.evaluation.together import (
    Grouped,
    Member,
    chains_together,
    fit_together,
    obstacle,
    train_together,
)
from hfld_lite.hierarchy import Trainer
from hfld_lite.networks import resnet1d
from hfld_lite.rivals.dense import DenselyGuided
from hfld_lite.teachers import TeacherTargets
from hfld_lite.training import fit
from hfld_lite.weighting import TERMS, make_weighting

CLASSES, LENGTH = 3, 260
RECIPE = Recipe(batch_size=8, learning_rate=3e-3)


def samples(count, seed, missing=0):
    rng = torch.Generator().manual_seed(seed)
    inputs = torch.rand(count, LENGTH, generator=rng, dtype=torch.float64)
    target = torch.randint(CLASSES, (count,), generator=rng)
    target[:missing] = -1
    return Samples(inputs, target)


def student(seed, dropout=0.0, depth=10):
    torch.manual_seed(seed)
    return resnet1d(depth, CLASSES, 1 / 16, "small", dropout).double()


def targets(count, seed):
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 16, 9, generator=rng, dtype=torch.float64)
    logits = torch.randn(count, CLASSES, generator=rng, dtype=torch.float64)
    return TeacherTargets(features, logits, torch.zeros(16), torch.ones(16))


def member(name, objective=None, *, seed=0, train=None, recipe=RECIPE, epochs=2, **more):
    train = train or samples(26, seed)
    objective = objective or Supervised(student(seed))
    return Member(name, objective, train, samples(5 + seed, 9), recipe, epochs, seed, **more)


def one_by_one(members):
    """The same trainings by `fit`, of copies."""
    objectives = [copy.deepcopy(m.objective) for m in members]
    fits = [
        fit(o, m.train, m.validation, m.recipe, m.epochs, seed=m.seed, progress=False)
        for o, m in zip(objectives, members, strict=True)
    ]
    return objectives, fits


def check_same(members, fits, objectives, usual, tolerance=1e-7):
    for m, found, objective, expected in zip(members, fits, objectives, usual, strict=True):
        assert found.best_epoch == expected.best_epoch
        assert list(found.history) == list(expected.history)
        numbers = [c for c in found.history if c not in ("seconds", "verdict")]
        torch.testing.assert_close(
            torch.tensor(found.history[numbers].to_numpy(float)),
            torch.tensor(expected.history[numbers].to_numpy(float)),
            rtol=1e-5,
            atol=1e-6,
        )
        assert found.history["verdict"].tolist() == expected.history["verdict"].tolist()
        state, other = m.objective.state_dict(), objective.state_dict()
        assert list(state) == list(other)
        for name, value in state.items():
            torch.testing.assert_close(
                value, other[name], rtol=0, atol=tolerance, msg=f"{m.name} {name}"
            )
        assert not m.objective.student.training


def distillers():
    """Objectives of every kind, with other weights, seeds, data and missing labels."""
    train, recipe = samples(26, 1, missing=10), RECIPE.replace(unlabelled=0.5)
    weights = [dict.fromkeys(TERMS, 1.0), {"kd": 0.5, "cross_entropy": 1.0}]
    made = []
    for i, given in enumerate(weights):
        objective = Distiller(student(i), targets(26, i), given, heads=4).double()
        made.append(member(f"distilled {i}", objective, seed=i, train=train, recipe=recipe))
    dense = DenselyGuided(student(2), [targets(26, 5), targets(26, 6)])
    more = {"train": samples(26, 2, missing=5), "recipe": recipe}
    return [*made, member("dense", dense, seed=2, **more), member("alone", seed=3, **more)]


# In float64, since AdamW divides a gradient by its size: where one is nearly zero, the last bit of
# float32 decides the sign of a whole step.
@pytest.mark.parametrize("epochs", [1, 3])
def test_networks_trained_together_are_those_trained_one_by_one(epochs):
    members = distillers()
    for m in members:
        m.epochs = epochs
    objectives, usual = one_by_one(members)
    check_same(members, fit_together(members, progress=False), objectives, usual)


def test_students_that_read_the_same_batches_share_them(monkeypatch):
    train, read = samples(26, 1), []
    usual = Grouped.forward
    monkeypatch.setattr(Grouped, "forward", lambda s, x: read.append(len(x)) or usual(s, x))
    members = [
        member(f"weight {w:g}", Distiller(student(0), targets(26, 0), {"kd": w}).double())
        for w in (0.3, 1.0)
    ]
    for m in members:
        m.train, m.validation = train, samples(5, 2)
    validation = members[0].validation
    members[1].validation = validation
    objectives, fits = one_by_one(members)
    check_same(members, fit_together(members, progress=False), objectives, fits)
    assert set(read) == {1}
    other = members[1].objective.student.state_dict()
    assert any((v != other[k]).any() for k, v in members[0].objective.student.state_dict().items())


def test_the_caller_s_random_numbers_stay_as_they_were():
    members = [member("a"), member("b", seed=1)]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fit_together(members, progress=False)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"recipe": RECIPE.replace(patience=5)}, "b: its recipe has a patience"),
        ({"recipe": RECIPE.replace(precision="bf16-mixed")}, "precision is bf16-mixed"),
        ({"recipe": RECIPE.replace(learning_rate=0.1)}, "b differs from a in learning_rate"),
        ({"epochs": 3}, "b differs from a in epochs"),
        ({"train": samples(40, 0)}, "b differs from a in steps of an epoch"),
        ({"objective": Supervised(student(0, dropout=0.5))}, "b: its network has dropout"),
        ({"objective": Supervised(student(0, depth=18))}, "b differs from a in architecture"),
        ({"objective": Supervised(adapt(student(0), "pool"))}, "is a Adapted, not a resnet1d"),
        ({"augment": lambda x, _: x}, "b: its inputs are augmented"),
    ],
)
def test_what_cannot_be_trained_with_the_others_is_refused(change, said):
    change = {"objective": None, **change}
    with pytest.raises(ArgumentError, match=said):
        fit_together([member("a"), member("b", change.pop("objective"), **change)], progress=False)


def test_weights_that_are_learned_are_refused():
    recipe, shape = Recipe(weighting="uncertainty"), Shape(32, 9, CLASSES)
    weighing = make_weighting(recipe, shape, student(0), None)
    objective = Distiller(student(0), targets(26, 0), weighing)
    assert "weighed by Uncertainty" in obstacle([member("a"), member("b", objective)])
    assert obstacle([member("a")]) == "there are fewer than two"


def test_members_may_differ_in_size_as_long_as_the_steps_agree():
    members = [member("a", train=samples(24, 0)), member("b", train=samples(31, 1), seed=1)]
    objectives, usual = one_by_one(members)
    check_same(members, fit_together(members, progress=False), objectives, usual)


def test_an_error_names_the_network_whose_loss_or_gradient_is_not_finite(monkeypatch):
    members = [member("a"), member("b", seed=1)]
    members[1].train.inputs[:] = torch.nan
    with pytest.raises(HfldError, match="in b, the loss is not finite at step 1 of 3 of epoch 1"):
        fit_together(members, progress=False)
    members = [member("a"), member("b", seed=1)]
    usual = Supervised.forward

    def steep(objective, batch):
        total, terms = usual(objective, batch)
        if objective is members[1].objective:
            total = total + (0 * objective.student(None).logits.sum()).sqrt()
        return total, terms

    monkeypatch.setattr(Supervised, "forward", steep)
    before = copy.deepcopy(members[0].objective.student.state_dict())
    with pytest.raises(HfldError, match="in b, the gradient is not finite at step 1 of 3"):
        fit_together(members, progress=False)
    after = members[0].objective.student.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.fixture(scope="module")
def gentle(tiny_recipe):
    """SGD, which does not blow rounding up as AdamW does in its first steps; an epoch each."""
    short = {
        "teacher": Network(10, 1 / 8, epochs=1),
        "secondary_teachers": (Network(10, 1 / 16, epochs=1),),
        "student": Network(10, 1 / 16, epochs=2),
    }
    return tiny_recipe.replace(optimizer="sgd", learning_rate=1e-3, weight_decay=1e-4, **short)


@pytest.fixture(scope="module")
def chains(tiny_recordings, gentle, tmp_path_factory):
    """Recipes of two seeds, their chains, the sizes of the groups, and folders of checkpoints."""
    recipes, sizes = [gentle.replace(seed=seed) for seed in (4, 7)], []
    folders = [tmp_path_factory.mktemp("chains") / name for name in "ab"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            together, "fit_together", lambda m, **k: sizes.append(len(m)) or fit_together(m, **k)
        )
        found = chains_together(
            tiny_recordings, recipes, controls=CONTROLS, folders=folders, progress=False
        )
    return recipes, found, sizes, folders


CONTROLS = ("alone", "dense")


def test_chains_of_several_seeds_are_those_of_one_by_one(tiny_recordings, chains):
    recipes, found, sizes, _ = chains
    assert sizes == [2, 2, 6], "teachers, secondary teachers, students and controls"
    expected = distill_chain(tiny_recordings, recipes[1], controls=CONTROLS, progress=False)
    assert list(found[1].stages) == list(expected.stages)
    for role, stage in expected.stages.items():
        mine = found[1].stages[role]
        assert mine.learned_from == stage.learned_from
        assert mine.fit.best_epoch == stage.fit.best_epoch
        state = mine.network.state_dict()
        for name, value in stage.network.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-3, atol=1e-4)


def test_finished_stages_are_kept_and_not_trained_again(tiny_recordings, chains, monkeypatch):
    recipes, first, _, folders = chains
    options = {"controls": CONTROLS, "resume": True, "progress": False}
    (folders[1] / "student.safetensors").unlink()
    monkeypatch.setattr(together, "fit_together", lambda *_, **__: pytest.fail("trained again"))
    again = chains_together(tiny_recordings, recipes, folders=folders, **options)
    single = distill_chain(tiny_recordings, recipes[0], folder=folders[0], **options)
    for chain in (again[0], single):
        for role, stage in first[0].stages.items():
            assert chain.stages[role].fit.history.equals(stage.fit.history)
            for name, value in stage.network.state_dict().items():
                assert torch.equal(chain.stages[role].network.state_dict()[name], value)


@pytest.fixture
def trainer(tiny_recordings, gentle):
    return Trainer(tiny_recordings, gentle, progress=False)


def test_students_of_one_trainer_that_differ_in_weights(trainer):
    trainer.supervise("teacher")
    recipes = {f"alpha {a:g}": trainer.recipe.replace(alpha=a) for a in (0.0, 1.0)}
    stages = train_together(
        [(trainer, lambda t, n=n: t.distil("student", "teacher", recipes[n], n)) for n in recipes],
        progress=False,
    )
    assert [stage.role for stage in stages] == list(recipes)
    for name, recipe in recipes.items():
        alone = trainer.distil("student", "teacher", recipe, "alone")
        (stage,) = [stage for stage in stages if stage.role == name]
        np.testing.assert_allclose(stage.fit.history["total"], alone.fit.history["total"], 1e-4)


def test_what_does_not_fit_is_trained_one_by_one_and_that_is_said(trainer, tiny_recordings, gentle):
    other = Trainer(tiny_recordings, gentle.replace(batch_size=4), progress=False)
    with pytest.warns(
        UserWarning, match=r"one by one: teacher of seed 0 \(.* differs .* batch size"
    ):
        stages = train_together(
            [(t, lambda t: t.supervise("teacher")) for t in (trainer, other)], progress=False
        )
    assert all(len(stage.fit.history) == 1 for stage in stages)
    patient = Trainer(tiny_recordings, gentle.replace(patience=100), progress=False)
    with pytest.warns(UserWarning, match=r"teacher of seed 0 \(its recipe has a patience"):
        train_together([(patient, lambda t: t.supervise("teacher"))], progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_together([(trainer, lambda t: t.supervise("teacher"))], progress=False)


def test_a_function_that_trains_two_stages_is_refused_and_none_is_left(trainer):
    def two(trainer):
        trainer.supervise("teacher")
        return trainer.supervise("student")

    with pytest.raises(ArgumentError, match="trained 2 stages; it may train one"):
        train_together([(trainer, two)], progress=False)
    assert not trainer.stages
    assert trainer.supervise("student").fit.best_epoch > 0, "it trains as before"
