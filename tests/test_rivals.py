"""The rivals' losses: closed forms, torch's own functions, invariances, gradients, errors."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F

from hfld_lite.distillation import Distiller
from hfld_lite.errors import ArgumentError
from hfld_lite.hierarchy import Trainer
from hfld_lite.losses import separated_logit_loss
from hfld_lite.networks import resnet1d
from hfld_lite.rivals import losses as rivals
from hfld_lite.rivals.losses import (
    attention_transfer_loss,
    densely_guided_kd_loss,
    dkd_loss,
    fitnet_loss,
    kd_loss,
    standardise_logits,
    standardised_kd_loss,
)
from hfld_lite.teachers import Batch, teacher_targets

T = 4.0


def logits(batch=5, classes=6, seed=0, number=2, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    return tuple(3 * torch.randn(number, batch, classes, generator=rng, dtype=dtype))


def target(batch=5, classes=6):
    return torch.arange(batch) * 7 % classes


def features(student=(3, 8, 5), teacher=(3, 8, 5), seed=0, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=rng, dtype=dtype) for shape in (student, teacher))


def dense(student, teacher, temperature, reduction="mean"):
    teachers = [teacher, teacher.roll(1, 1)]
    return densely_guided_kd_loss(student, teachers, temperature, reduction=reduction)


def dkd(student, teacher, temperature, reduction="mean"):
    y = target(*student.shape)
    return dkd_loss(student, teacher, y, temperature, reduction=reduction)


ON_LOGITS = [kd_loss, dkd, dense, standardised_kd_loss]
ON_FEATURES = [fitnet_loss, attention_transfer_loss]


# What all of them share


@pytest.mark.parametrize("loss", ON_LOGITS)
def test_gradcheck_on_logits(loss):
    student, teacher = logits(3, 4)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, teacher, T, "none"), student)


@pytest.mark.parametrize("loss", ON_FEATURES)
@pytest.mark.parametrize("positions", [(4,), (3, 2)])
def test_gradcheck_on_features(loss, positions):
    student, teacher = features((2, 3, *positions), (2, 3, 2, *positions[1:]))
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, reduction="none"), student)


@pytest.mark.parametrize("loss", ON_LOGITS + ON_FEATURES)
def test_reductions_divide_by_the_batch_once(loss):
    student, teacher = logits() if loss in ON_LOGITS else features()
    more = (T,) if loss in ON_LOGITS else ()
    each = loss(student, teacher, *more, reduction="none")
    assert each.shape == (len(student),)
    assert (each > 0).all()
    torch.testing.assert_close(loss(student, teacher, *more), each.mean())
    torch.testing.assert_close(loss(student, teacher, *more, reduction="sum"), each.sum())
    with pytest.raises(ArgumentError, match="reduction is 'batchmean'"):
        loss(student, teacher, *more, reduction="batchmean")


@pytest.mark.parametrize("loss", ON_LOGITS + ON_FEATURES)
def test_no_gradient_into_the_teacher_and_none_lost_by_an_equal_student(loss):
    student, teacher = logits() if loss in ON_LOGITS else features()
    more = (T,) if loss in ON_LOGITS else ()
    student.requires_grad_()
    teacher.requires_grad_()
    loss(student, teacher, *more).backward()
    assert teacher.grad is None
    assert student.grad.any()
    if loss is not dense:  # its two teachers disagree
        assert loss(teacher, teacher, *more).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("loss", ON_LOGITS + ON_FEATURES)
def test_bf16_is_computed_in_float32(loss):
    pair = logits() if loss in ON_LOGITS else features()
    student, teacher = (x.bfloat16() for x in pair)
    more = (T,) if loss in ON_LOGITS else ()
    found = loss(student, teacher, *more)
    assert found.dtype == torch.float32
    exact = loss(student.double(), teacher.double(), *more)
    assert found.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [0.0, 1e-3, 1e4])
@pytest.mark.parametrize("loss", ON_LOGITS + ON_FEATURES)
def test_values_and_gradients_stay_finite(loss, size, dtype):
    pair = logits() if loss in ON_LOGITS else features()
    student, teacher = (size * x.to(dtype) for x in pair)
    student.requires_grad_()
    value = loss(student, teacher, *((T,) if loss in ON_LOGITS else ()))
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("loss", ON_LOGITS)
@pytest.mark.parametrize(
    ("student", "teacher", "temperature", "message"),
    [
        ((4, 3), (4, 5), 5.0, r"found \(4, 3\) and \(4, 5\)"),
        ((4, 3, 1), (4, 3, 1), 5.0, "must (both )?be"),
        ((4, 3), (4, 3), 0.0, "temperature is 0.0"),
        ((4, 3), (4, 3), float("nan"), "temperature is nan"),
    ],
)
def test_bad_logits_are_refused(loss, student, teacher, temperature, message):
    if loss is dkd:
        loss = lambda *a: dkd_loss(*a[:2], torch.zeros(4, dtype=torch.int64), a[2])  # noqa: E731
    with pytest.raises(ArgumentError, match=message):
        loss(torch.zeros(student), torch.zeros(teacher), temperature)


@pytest.mark.parametrize("loss", ON_FEATURES)
@pytest.mark.parametrize(
    ("student", "teacher"),
    [((2, 8), (2, 8)), ((2, 8, 5), (3, 8, 5)), ((2, 8, 5), (2, 8, 5, 5)), ((2, 8, 1, 2, 3),) * 2],
)
def test_bad_features_are_refused(loss, student, teacher):
    with pytest.raises(ArgumentError, match="Features of one batch") as error:
        loss(torch.zeros(student), torch.zeros(teacher))
    assert f"{student} and {teacher}" in str(error.value)


# KD, decoupled and dense


def test_kd_is_torchs_divergence_times_the_square_of_the_temperature():
    student, teacher = logits()
    pair = (student / T).log_softmax(1), (teacher / T).softmax(1)
    expected = F.kl_div(*pair, reduction="batchmean") * T**2
    torch.testing.assert_close(kd_loss(student, teacher, T), expected)


def test_kd_by_hand():
    # p_t = (1/2, 1/2), p_s = (1/4, 3/4): KL = ln 2 / 2 + ln (2/3) / 2.
    student, teacher = torch.tensor([[1.0, 3.0]]).log(), torch.zeros(1, 2)
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert kd_loss(student, teacher, 1.0).item() == pytest.approx(expected, rel=1e-6)


def test_the_gradient_of_kd_keeps_its_size_at_high_temperatures():
    # Hinton's limit: (z_s − z_t) / classes, both centred, for each sample.
    student, teacher = logits(1)
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(kd_loss(student, teacher, 1e4), student)
    gap = student.detach() - teacher
    torch.testing.assert_close(gradient, (gap - gap.mean()) / 6, rtol=1e-2, atol=1e-3)


def test_dkd_is_the_weighted_sum_of_the_separated_terms():
    student, teacher = logits()
    tckd, nckd = separated_logit_loss(student, teacher, target(), T)
    torch.testing.assert_close(dkd_loss(student, teacher, target(), T), tckd + 8 * nckd)
    found = dkd_loss(student, teacher, target(), T, alpha=0.5, beta=0.0)
    torch.testing.assert_close(found, 0.5 * tckd)


@pytest.mark.filterwarnings("ignore:With two classes NCKD")
def test_dkd_of_two_classes_is_kd():
    student, teacher = logits(classes=2)
    found = dkd_loss(student, teacher, target(classes=2), T)
    torch.testing.assert_close(found, kd_loss(student, teacher, T))


def test_dense_guidance_is_the_mean_of_kd_from_every_teacher():
    student, *teachers = logits(number=4)
    each = [kd_loss(student, teacher, T) for teacher in teachers]
    torch.testing.assert_close(densely_guided_kd_loss(student, teachers, T), sum(each) / 3)
    assert torch.equal(densely_guided_kd_loss(student, teachers[:1], T), each[0])


def test_dense_guidance_refuses_no_teacher():
    student, _ = logits()
    with pytest.raises(ArgumentError, match="teacher_logits is empty"):
        densely_guided_kd_loss(student, [], T)


# Standardised logits


def test_z_scores_are_torchs_layer_norm():
    (z,) = logits(number=1)
    found = standardise_logits(z)
    torch.testing.assert_close(found, F.layer_norm(z, (6,), eps=0))
    torch.testing.assert_close(found.square().mean(1), torch.ones_like(found[:, 0]))
    # As in the authors' code, but for the temperature that the docstring names.
    theirs = (z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True)
    torch.testing.assert_close(found / math.sqrt(6 / 5), theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("height", [0.0, 0.1, 1e4 + 0.1])
def test_equal_logits_give_zeros_and_no_gradient(height, dtype):
    z = torch.full((2, 7), height, dtype=dtype, requires_grad=True)
    found = standardise_logits(z)
    loss = standardised_kd_loss(z, torch.randn(2, 7, dtype=dtype), 2.0)
    loss.backward()
    assert not found.any()
    assert loss > 0
    assert not z.grad.any()


def test_rescaling_and_shifting_the_students_logits_changes_only_plain_kd():
    student, teacher = logits()
    scale, shift = torch.tensor([1e-5, 0.5, 1, 3, 100.0])[:, None], torch.arange(5.0)[:, None]
    moved = student * scale + shift
    expected = standardised_kd_loss(student, teacher, 2.0)
    torch.testing.assert_close(standardised_kd_loss(moved, teacher, 2.0), expected)
    torch.testing.assert_close(standardised_kd_loss(student, 5 * teacher - 1, 2.0), expected)
    assert not torch.isclose(kd_loss(moved, teacher, 2.0), kd_loss(student, teacher, 2.0))
    assert standardised_kd_loss(-student, teacher, 2.0) != expected


def test_standardised_kd_is_kd_of_z_scores():
    student, teacher = logits()
    z_scores = [F.layer_norm(z, (6,), eps=0) for z in (student, teacher)]
    torch.testing.assert_close(standardised_kd_loss(student, teacher, T), kd_loss(*z_scores, T))


def test_two_classes_leave_standardised_kd_no_gradient_and_a_warning_says_so_once(monkeypatch):
    monkeypatch.setattr(rivals, "_warned", set())
    student, teacher = logits(classes=2)
    student.requires_grad_()
    with pytest.warns(UserWarning, match="teaches nothing") as caught:
        loss = standardised_kd_loss(student, teacher, 2.0)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        standardised_kd_loss(student, teacher, 2.0)
        standardised_kd_loss(*logits(), 2.0)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss > 0
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


def test_z_scores_of_something_else_are_refused():
    with pytest.raises(ArgumentError, match=r"found \(6,\)"):
        standardise_logits(torch.zeros(6))


# Features


@pytest.mark.parametrize("positions", [(5,), (4, 3)])
def test_fitnet_is_torchs_mean_squared_error(positions):
    student, teacher = features((3, 8, *positions), (3, 8, *positions))
    torch.testing.assert_close(fitnet_loss(student, teacher), F.mse_loss(student, teacher))


def test_fitnet_minds_the_order_of_positions():
    student, teacher = features()
    assert not torch.isclose(
        fitnet_loss(student.flip(2), teacher), fitnet_loss(student, teacher), rtol=1e-3
    )


def test_the_longer_axis_is_pooled_to_the_shorter():
    student, teacher = features((2, 3, 6), (2, 3, 3))
    pairs = student.unflatten(2, (3, 2)).mean(3)
    torch.testing.assert_close(fitnet_loss(student, teacher), F.mse_loss(pairs, teacher))
    torch.testing.assert_close(fitnet_loss(teacher, student), F.mse_loss(teacher, pairs))
    # Maps: each axis by itself, here the student's height and the teacher's width.
    student, teacher = features((2, 3, 4, 3), (2, 3, 2, 6))
    pooled = student.unflatten(2, (2, 2)).mean(3), teacher.unflatten(3, (3, 2)).mean(4)
    torch.testing.assert_close(fitnet_loss(student, teacher), F.mse_loss(*pooled))


def test_fitnet_needs_equal_channels():
    with pytest.raises(ArgumentError, match="has 8 channels and the teacher 16; project"):
        fitnet_loss(torch.zeros(2, 8, 5), torch.zeros(2, 16, 5))


@pytest.mark.parametrize("power", [1, 2, 3.5])
def test_attention_transfer_follows_its_definition(power):
    student, teacher = features((3, 8, 5), (3, 4, 5))
    expected = 0
    for s, t in zip(student, teacher, strict=True):
        maps = [x.abs().pow(power).mean(0) for x in (s, t)]
        expected += (maps[0] / maps[0].norm() - maps[1] / maps[1].norm()).square().sum()
    found = attention_transfer_loss(student, teacher, power)
    torch.testing.assert_close(found, expected / 3)


def test_attention_transfer_by_hand():
    # Student (3, 0), teacher (0, 1 and 1): maps at right angles, so the distance is √2.
    student, teacher = torch.tensor([[[3.0, 0]]]), torch.tensor([[[0.0, 1], [0, 1]]])
    assert attention_transfer_loss(student, teacher).item() == pytest.approx(2)
    # Maps (9, 16) and (1, 0), normalised (0.49, 0.87) and (1, 0): 2 − 2 · 9 / √337.
    student, teacher = torch.tensor([[[3.0, -4]]]), torch.tensor([[[-1.0, 0]]])
    expected = 2 - 18 / math.sqrt(337)
    assert attention_transfer_loss(student, teacher).item() == pytest.approx(expected, rel=1e-6)


def test_attention_transfer_sees_neither_channels_order_nor_sign_nor_size():
    student, teacher = features()
    loss = attention_transfer_loss(student, teacher)
    for same in (student[:, torch.randperm(8)], -student, 10 * student, student.repeat(1, 2, 1)):
        torch.testing.assert_close(attention_transfer_loss(same, teacher), loss)
    moved = attention_transfer_loss(student.flip(2), teacher)
    assert not torch.isclose(moved, loss, rtol=1e-3)


def test_attention_maps_are_pooled_and_not_the_features():
    # Opposite signs would cancel in pooled features; their attention does not.
    student = torch.tensor([[[1.0, -1, 0, 0]]])
    assert attention_transfer_loss(student, torch.tensor([[[1.0, 0]]])).item() == pytest.approx(0)


def test_attention_transfer_on_maps_is_that_of_their_flattened_positions():
    student, teacher = features((3, 8, 4, 3), (3, 6, 4, 3))
    flat = attention_transfer_loss(student.flatten(2), teacher.flatten(2))
    torch.testing.assert_close(attention_transfer_loss(student, teacher), flat)


@pytest.mark.parametrize("shape", [(2, 8, 1), (2, 8, 1, 1)])
def test_a_single_position_leaves_no_attention_to_transfer(shape):
    with pytest.raises(ArgumentError, match="needs two positions or more"):
        attention_transfer_loss(torch.ones(shape), torch.ones(2, 8, *(4 for _ in shape[2:])))


@pytest.mark.parametrize("power", [0.5, 0, -1, float("nan")])
def test_powers_below_one_are_refused(power):
    with pytest.raises(ArgumentError, match="power is"):
        attention_transfer_loss(*features(), power)


@pytest.fixture(scope="module")
def taught():
    """A student, what a teacher says of 12 inputs, and a batch of five of them."""
    torch.manual_seed(0)
    student, teacher = resnet1d(10, 4, 1 / 16, "small", 0.0), resnet1d(10, 4, 1 / 8, "small")
    inputs, labels = torch.rand(12, 600), torch.randint(0, 4, (12,))
    rows = torch.tensor([7, 2, 3, 11, 0])
    targets = teacher_targets(teacher.eval(), inputs)
    return student, targets, Batch(inputs[rows], labels[rows], rows)


RIVALS = {
    "kd": ["temperature"],
    "dkd": ["temperature", "beta"],
    "standardised": ["temperature"],
    "fitnet": [],
    "attention": [],
}


@pytest.mark.parametrize("method", RIVALS)
def test_a_rivals_objective_is_its_loss_beside_the_cross_entropy(taught, method):
    student, targets, batch = taught
    weights = {"cross_entropy": 1.0, method: 3.0}
    options = {k: v for k, v in {"temperature": 2.0, "beta": 5.0}.items() if k in RIVALS[method]}
    objective = Distiller(student, targets, weights, **options)
    total, terms = objective.eval()(batch)
    output = student(batch.inputs)
    features, logits = targets.answers(batch)
    expected = {
        "kd": lambda: kd_loss(output.logits, logits, 2.0),
        "dkd": lambda: dkd_loss(output.logits, logits, batch.target, 2.0, 1.0, 5.0),
        "standardised": lambda: standardised_kd_loss(output.logits, logits, 2.0),
        "fitnet": lambda: fitnet_loss(objective.project(output.features), features),
        "attention": lambda: attention_transfer_loss(output.features, features),
    }[method]()
    cross_entropy = F.cross_entropy(output.logits, batch.target)
    torch.testing.assert_close(terms[method], expected)
    torch.testing.assert_close(total, cross_entropy + 3 * expected)
    trained = {name for name, _ in objective.named_parameters() if name.startswith("project")}
    assert bool(trained) == (method == "fitnet")


def test_an_unknown_rival_is_refused(taught):
    student, targets, _ = taught
    with pytest.raises(ArgumentError, match="The term 'attentoin' is unknown; the nearest name is"):
        Distiller(student, targets, {"attentoin": 1.0})
    with pytest.raises(ArgumentError, match="No term here takes the option 'beta'"):
        Distiller(student, targets, {"kd": 1.0}, beta=1.0)


def test_training_by_an_objective_of_ones_own_is_that_of_the_trainer(tiny_recordings, tiny_recipe):
    """The same objective, by name and by hand, gives the same bits: weights, batches, projector."""
    trainer = Trainer(tiny_recordings, tiny_recipe, progress=False)
    trainer.supervise("teacher")
    named = trainer.distil("student", "teacher")

    def build(student, targets):
        recipe = tiny_recipe
        return Distiller(student, targets[0], recipe.weights, recipe.temperature, recipe.heads)

    by_hand = trainer.distil_by("student", ("teacher",), build, "by hand")
    assert trainer.stages["by hand"] is by_hand
    pairs = zip(named.network.parameters(), by_hand.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
