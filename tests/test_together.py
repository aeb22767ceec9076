import copy

import pytest
import torch

from hfld_lite import ArgumentError, HfldError, Network, Recipe
from hfld_lite.data.examples import Samples
from hfld_lite.distillation import Distiller, Supervised
from hfld_lite.evaluation import together
from hfld_lite.evaluation.together import Grouped, Member, fit_together, obstacle, train_together
from hfld_lite.hierarchy import Trainer
from hfld_lite.networks import resnet1d
from hfld_lite.rivals.dense import DenselyGuided
from hfld_lite.teachers import TeacherTargets
from hfld_lite.training import fit
from hfld_lite.weighting import TERMS

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
    train = samples(26, 1, missing=10)
    weights = [dict.fromkeys(TERMS, 1.0), {"kd": 0.5, "cross_entropy": 1.0}]
    made = []
    for i, given in enumerate(weights):
        objective = Distiller(student(i), targets(26, i), given, heads=4).double()
        made.append(member(f"distilled {i}", objective, seed=i, train=train))
    dense = DenselyGuided(student(2), [targets(26, 5), targets(26, 6)])
    return [*made, member("dense", dense, seed=2), member("alone", seed=3)]


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
