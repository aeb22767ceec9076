import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from hfld_lite import Network, distill_chain
from hfld_lite.app import estimate as module
from hfld_lite.app.estimate import Estimate, duration, estimate
from hfld_lite.errors import ArgumentError, Interrupted
from hfld_lite.recipes import Augmentation


def weights(chain):
    return {
        (role, name): value
        for role, stage in chain.stages.items()
        for name, value in stage.network.state_dict().items()
    }


def test_a_training_has_the_same_bits_with_an_estimate_before_it(tiny_recordings, tiny_recipe):
    plain = weights(distill_chain(tiny_recordings, tiny_recipe, progress=False))
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    states = torch.get_rng_state(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
    assert estimate(tiny_recordings, tiny_recipe) is not None
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (str(np.random.get_state()), random.getstate()) == states[1:]  # noqa: NPY002
    again = weights(distill_chain(tiny_recordings, tiny_recipe, progress=False))
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)


def test_given_networks_stay_as_they_were(tiny_recordings, tiny_recipe, tiny_chain):
    teacher = tiny_chain.stages["teacher"].network
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    given = {"networks": {"teacher": teacher}, "trained": ("teacher",)}
    found = estimate(tiny_recordings, tiny_recipe, **given)
    assert "teacher" not in found.steps, "it is not trained"
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_the_steps_are_those_of_the_training(tiny_recordings, tiny_recipe, tiny_chain):
    found = estimate(tiny_recordings, tiny_recipe)
    each = len(tiny_chain.split.train) // 8
    assert found.steps == {
        role: len(stage.fit.history) * each for role, stage in tiny_chain.stages.items()
    }
    longer = replace(tiny_recipe.student, epochs=200)
    more = estimate(tiny_recordings, tiny_recipe.replace(student=longer))
    assert more.steps["student"] == more.steps["student_alone"] == 100 * found.steps["student"]
    assert more.seconds > 10 * found.seconds


def test_steps_that_take_longer_are_estimated_longer(tiny_recordings, tiny_recipe):
    small = estimate(tiny_recordings, tiny_recipe)
    large = Network(18, 1 / 2, epochs=2)
    assert estimate(tiny_recordings, tiny_recipe.replace(teacher=large)).seconds > small.seconds


def test_what_recipes_may_have_does_not_disturb_the_few_steps(tiny_recordings, tiny_recipe):
    for changes in (
        {"augmentation": Augmentation()},
        {"weighting": "meta", "meta_share": 0.2},
        {"warmup": 11, "patience": 3},
        {"schedule": "drops", "drops": (1,)},
        {"secondary_teachers": ()},
        {"behaviour": "published", "weighting": "published"},
    ):
        assert estimate(tiny_recordings, tiny_recipe.replace(**changes)) is not None, changes


def test_what_the_training_will_refuse_is_refused(tiny_recordings, tiny_recipe, monkeypatch):
    with pytest.raises(ArgumentError, match="heads is 7"):
        estimate(tiny_recordings, tiny_recipe.replace(heads=7))
    absurd = tiny_recipe.replace(optimizer="sgd", learning_rate=1e30, schedule="drops", drops=())
    assert estimate(tiny_recordings, absurd) is None, "it diverges, and the training says so"

    def stop(*_, **__):
        raise Interrupted("Stopped.")

    monkeypatch.setattr(module, "distill_chain", stop)
    with pytest.raises(Interrupted):
        estimate(tiny_recordings, tiny_recipe)


def test_what_is_said():
    roles = ("teacher", "secondary_teacher", "student", "student_alone")
    said = Estimate(dict.fromkeys(roles, 600), 40.2).said
    assert said == "4 networks, 600 steps each: about 40 s on this machine."
    said = Estimate({"teacher": 1200, "student": 600}, 900).said
    assert said.startswith("2 networks, 600 to 1,200 steps: about 15 min on this machine.")
    for option in ("--bins", "--samples", "--steps", "--part"):
        assert option in said
    assert [duration(s) for s in (0.1, 119, 300, 8000)] == ["1 s", "119 s", "5 min", "2.2 h"]
