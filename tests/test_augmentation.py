import dataclasses
import math

import numpy as np
import pytest
import torch

import hfld_lite.data.examples as examples_module
from hfld_lite import ArgumentError, Recipe, RecipeError, spectrum
from hfld_lite.data.augmentation import Augmentation, augment
from hfld_lite.data.views import network_inputs
from hfld_lite.distillation import Distiller
from hfld_lite.hierarchy import Trainer, distill_chain
from hfld_lite.networks import resnet1d
from hfld_lite.rivals.dense import DenselyGuided
from hfld_lite.teachers import LiveTeacher, teacher_targets
from hfld_lite.training import Samples, fit
from hfld_lite.weighting import TERMS

RATE = 40_000
OFF = Augmentation(noise=None, shift=0, gain=0, frequency=0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(count, seed=0):
    """ε, s, g in [−1, 1] and r in [0, 1], as augment draws them."""
    values = torch.rand(4, count, 1, generator=generator(seed))
    return (*(2 * values[:3] - 1).squeeze(-1), values[3, :, 0])


def sines(frequencies, samples=4000):
    time = torch.arange(samples) / RATE
    return torch.sin(2 * math.pi * torch.tensor(frequencies)[:, None] * time)


def test_nothing_asked_changes_nothing():
    signals = torch.randn(3, 500, generator=generator(1))
    torch.testing.assert_close(augment(signals, RATE, OFF, generator()), signals)


@pytest.mark.parametrize("pitch", [500.0, 5_000.0, 15_000.0])
def test_every_frequency_is_multiplied_by_one_plus_epsilon(pitch):
    varied = augment(sines([pitch] * 4), RATE, dataclasses.replace(OFF, frequency=0.1), generator())
    expected = sines((pitch * (1 + 0.1 * drawn(4)[0])).tolist())
    middle = slice(200, 3400)  # the FFT's ends do not meet; the last tenth may be silent
    error = (varied - expected)[:, middle].square().mean().sqrt()
    assert error < 0.04
    assert (varied - sines([pitch] * 4))[:, middle].square().mean().sqrt() > 0.5
    peaks = spectrum(varied).argmax(1) * RATE / 4000
    torch.testing.assert_close(peaks, pitch * (1 + 0.1 * drawn(4)[0]), atol=10, rtol=0)


def test_an_impact_comes_later_or_earlier_and_silence_fills_the_rest():
    signals = torch.zeros(8, 400)
    signals[:, 200] = 1
    varied = augment(signals, RATE, dataclasses.replace(OFF, shift=2.0), generator())
    late = (drawn(8)[1] * 2.0 * RATE / 1000).round().long()
    assert late.min() < 0 < late.max()
    assert torch.equal(varied.argmax(1), 200 + late)
    edge = torch.ones(8, 400)
    varied = augment(edge, RATE, dataclasses.replace(OFF, shift=2.0), generator())
    for row, moved in zip(varied, late.tolist(), strict=True):
        silent = row[:moved] if moved > 0 else row[len(row) + moved :]
        assert len(silent) == abs(moved)
        assert not silent.any()
        assert (row != 0).sum() == 400 - abs(moved)


def test_a_weaker_impact_stands_in_the_same_noise():
    signals = sines([1000.0] * 6, 40_000)
    asked = dataclasses.replace(OFF, noise=(0.0, 20.0))
    noisy = augment(signals, RATE, asked, generator())
    louder = augment(signals, RATE, dataclasses.replace(asked, gain=6.0), generator())
    factor = 10 ** (6.0 * drawn(6)[2] / 20)
    torch.testing.assert_close(louder - factor[:, None] * signals, noisy - signals)
    found = 10 * torch.log10(signals.square().mean(1) / (noisy - signals).square().mean(1))
    torch.testing.assert_close(found, 20 * drawn(6)[3], atol=0.2, rtol=0)


def test_one_generator_one_result_and_the_signals_stay_as_they_are():
    signals = torch.randn(5, 700, generator=generator(1))
    before = signals.clone()
    first, same = (augment(signals, RATE, Augmentation(), generator(3)) for _ in range(2))
    other = augment(signals, RATE, Augmentation(), generator(4))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(signals, before)
    assert first.dtype == torch.float32


def test_a_shift_out_of_the_window_is_refused(tiny_recordings, tiny_recipe):
    far = dataclasses.replace(OFF, shift=50.0)
    with pytest.raises(ArgumentError, match=r"shift is 50 ms; .* allow 2\.5 ms at most"):
        augment(torch.randn(2, 400), RATE, far, generator())
    with pytest.raises(ArgumentError, match="shift is 50 ms"):
        Trainer(tiny_recordings, tiny_recipe.replace(augmentation=far), progress=False)


def test_a_recipe_keeps_its_augmentation_as_json(tmp_path):
    recipe = Recipe(augmentation=Augmentation(noise=(5.0, 30.0), shift=1.0))
    recipe.save(tmp_path / "recipe.json")
    assert Recipe.load(tmp_path / "recipe.json") == recipe
    assert Recipe().augmentation is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise": (20.0, 10.0)}, "noise is"),
        ({"noise": 3.0}, "noise is 3.0; expected a list"),
        ({"shift": -1.0}, "shift is -1.0; expected 0 or more"),
        ({"gain": float("nan")}, "gain is nan"),
        ({"frequency": 0.5}, "frequency is 0.5; expected 0.2 or less"),
        ({"shift": True}, "shift is True"),
    ],
)
def test_impossible_ranges_are_refused(changes, message):
    with pytest.raises(RecipeError, match=message):
        Augmentation(**changes)


def test_unknown_entries_of_an_augmentation_are_named():
    with pytest.raises(RecipeError, match="noize is not a known entry; the nearest name is noise"):
        Recipe(augmentation={"noize": None})
    with pytest.raises(RecipeError, match="augmentation is 3; expected an object"):
        Recipe(augmentation=3)


def test_cached_answers_are_refused_where_inputs_are_augmented_or_others(tiny_recipe):
    inputs, target = torch.rand(20, 257), torch.arange(20) % 3
    teacher, student = (resnet1d(10, 3, 1 / 16, "small", 0.0) for _ in range(2))
    targets = teacher_targets(teacher, inputs)
    samples, weights = Samples(inputs, target), dict.fromkeys(TERMS, 1.0)
    for objective in (Distiller(student, targets, weights), DenselyGuided(student, [targets])):

        def train(samples, objective=objective, **options):
            fit(objective, samples, samples, tiny_recipe, 1, seed=0, progress=False, **options)

        with pytest.raises(ArgumentError, match=r"these are augmented; give .* a LiveTeacher"):
            train(samples, augment=lambda x, _: x)
        with pytest.raises(ArgumentError, match="are to 20 inputs and the training set has 12"):
            train(Samples(inputs[:12], target[:12]))
        train(samples)
    live = Distiller(student, LiveTeacher(teacher, targets), weights)
    result = fit(
        live, samples, samples, tiny_recipe, 1, seed=0, progress=False, augment=lambda x, _: x
    )
    assert len(result.history) == 1


def test_teacher_student_and_control_see_the_same_augmented_recordings(
    tiny_recordings, tiny_recipe, monkeypatch
):
    recipe = tiny_recipe.replace(augmentation=Augmentation(), secondary_teachers=())
    seen, real, asked = [], examples_module.augment, LiveTeacher.answers

    def spy(*arguments):
        seen.append(real(*arguments))
        return seen[-1]

    def listen(live, batch):
        answers.append(batch.inputs)
        return asked(live, batch)

    monkeypatch.setattr(examples_module, "augment", spy)
    monkeypatch.setattr(LiveTeacher, "answers", listen)
    trainer = Trainer(tiny_recordings, recipe, progress=False)
    steps = len(trainer.train.inputs) // recipe.batch_size
    inputs, answers = [], []
    for role in ("teacher", "student", "student_alone"):
        if role == "student":
            trainer.distil("student", "teacher")
        else:
            trainer.supervise(role)
        assert len(seen) == 2 * steps
        inputs.append(torch.stack([network_inputs(x, recipe, 40_000) for x in seen]))
        seen.clear()
    assert torch.equal(inputs[1], inputs[2]), "student and control"
    assert torch.equal(torch.stack(answers), inputs[1]), "the teacher hears what the student hears"
    assert not torch.equal(inputs[0], inputs[1])
    assert not torch.equal(inputs[1][:steps], inputs[1][steps:]), "new at every epoch"
    unvaried = network_inputs(np.array(tiny_recordings.signals), recipe, 40_000)
    assert not any((unvaried == row).all(1).any() for row in inputs[1].flatten(0, 1))


def test_an_augmented_chain_trains_dense_and_meta_too(tiny_recordings, tiny_recipe, capsys):
    recipe = tiny_recipe.replace(
        augmentation=Augmentation(), weighting="meta", meta_share=0.2, meta_every=2
    )
    chain = distill_chain(tiny_recordings, recipe, controls=("alone", "dense"))
    assert "answers of the teacher: asked at every step" in (capsys.readouterr().out)
    assert all(math.isfinite(x) for x in chain.history()["total"])
    assert chain.test(tiny_recordings).table["accuracy"].between(0, 1).all()
