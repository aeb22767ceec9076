"""The distillation losses: closed forms, published values, gradients, extremes."""

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hfld_lite import losses
from hfld_lite.errors import ArgumentError
from hfld_lite.losses import one_to_all_matching, separated_logit_loss

GOLDEN = json.loads((Path(__file__).parent / "golden_losses.json").read_text())
TWO_CLASSES = "ignore:With two classes"


def logits(batch=5, classes=6, seed=0, spread=3.0, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    student, teacher = spread * torch.randn(2, batch, classes, generator=rng, dtype=dtype)
    return student, teacher, torch.randint(classes, (batch,), generator=rng)


def features(channels=8, student=5, teacher=5, batch=3, seed=0, dtype=torch.float32):
    rng = torch.Generator().manual_seed(seed)
    s = torch.randn(batch, channels, student, generator=rng, dtype=dtype)
    return s, torch.randn(batch, channels, teacher, generator=rng, dtype=dtype)


# Separated logits


def by_definition(student, teacher, target, temperature):
    """TCKD and NCKD of each sample, in the words of the definition, with plain probabilities."""
    p_s, p_t = (F.softmax(z / temperature, 1) for z in (student, teacher))
    tckd, nckd = [], []
    for s, t, y in zip(p_s, p_t, target.tolist(), strict=True):
        two = [torch.stack([p[y], 1 - p[y]]) for p in (s, t)]
        rest = [torch.cat([p[:y], p[y + 1 :]]) / (1 - p[y]) for p in (s, t)]
        tckd.append((two[1] * (two[1] / two[0]).log()).sum())
        nckd.append((rest[1] * (rest[1] / rest[0]).log()).sum())
    return torch.stack(tckd) * temperature**2, torch.stack(nckd) * temperature**2


@pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0, 20.0])
@pytest.mark.parametrize("classes", [3, 6, 100])
def test_both_terms_follow_their_definition(classes, temperature):
    inputs = logits(7, classes, seed=classes)
    found = separated_logit_loss(*inputs, temperature, reduction="none")
    torch.testing.assert_close(found, by_definition(*inputs, temperature), rtol=1e-9, atol=1e-10)


def test_a_case_by_hand():
    # p_t = (1/2, 1/4, 1/4), p_s = (1/4, 1/4, 1/2), y = 0, T = 1.
    teacher, student = torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([[1.0, 1, 2]]).log()
    tckd, nckd = separated_logit_loss(student, teacher, torch.tensor([0]), 1.0)
    assert tckd.item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75), rel=1e-6)
    rest = 0.5 * math.log(0.5 / (1 / 3)) + 0.5 * math.log(0.5 / (2 / 3))
    assert nckd.item() == pytest.approx(rest, rel=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 4.0, 20.0])
@pytest.mark.parametrize(
    "classes", [pytest.param(2, marks=pytest.mark.filterwarnings(TWO_CLASSES)), 3, 6, 100]
)
def test_identity_with_plain_distillation_per_sample(classes, temperature):
    student, teacher, target = logits(11, classes, seed=classes)
    tckd, nckd = separated_logit_loss(student, teacher, target, temperature, reduction="none")
    log_s, log_t = (F.log_softmax(z / temperature, 1) for z in (student, teacher))
    kd = F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(1) * temperature**2
    p_ty = log_t.gather(1, target[:, None])[:, 0].exp()
    torch.testing.assert_close(tckd + (1 - p_ty) * nckd, kd, rtol=0, atol=1e-6)
    assert kd.min() > 1e-4  # the identity says something


def test_a_student_that_equals_its_teacher_loses_nothing():
    student, _, target = logits()
    for term in separated_logit_loss(student, student + 7.0, target, 3.0, reduction="none"):
        torch.testing.assert_close(term, torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 5.0])
@pytest.mark.parametrize("term", [0, 1])
def test_gradcheck_of_separated_logits(term, temperature):
    student, teacher, target = logits(3, 4)
    student.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: separated_logit_loss(z, teacher, target, temperature)[term], student
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0, 20.0])
@pytest.mark.parametrize("gap", [0.0, 100.0, 1e4])
@pytest.mark.filterwarnings(TWO_CLASSES)
def test_values_and_gradients_stay_finite_at_large_gaps(gap, temperature, dtype):
    for classes in (2, 3, 6):
        # Every pair of classes that student and teacher may be sure of (or sure against), and
        # every target.
        kinds = torch.cartesian_prod(*[torch.arange(classes)] * 3)
        sure = gap * torch.eye(classes, dtype=dtype)
        student = torch.cat([sure[kinds[:, 0]], -sure[kinds[:, 0]]]).requires_grad_()
        teacher, target = sure[kinds[:, 1]].repeat(2, 1), kinds[:, 2].repeat(2)
        tckd, nckd = separated_logit_loss(student, teacher, target, temperature, "none")
        (gradient,) = torch.autograd.grad((tckd + nckd).sum(), student)
        assert tckd.isfinite().all()
        assert nckd.isfinite().all()
        assert gradient.isfinite().all()
        assert tckd.dtype == nckd.dtype == torch.float32


def test_a_large_gap_gives_the_limit_of_the_loss():
    # Sure and wrong against sure and right: KL tends to the gap, times T after the factor T².
    student, teacher = torch.tensor([[0.0, 1e4, 0.0]]), torch.tensor([[1e4, 0.0, 0.0]])
    tckd, nckd = separated_logit_loss(student, teacher, torch.tensor([0]), 2.0)
    assert tckd.item() == pytest.approx(2.0 * 1e4, rel=1e-6)
    assert nckd.item() == pytest.approx(2.0 * (0.5 * 1e4) - 4.0 * math.log(2), rel=1e-6)


def test_bf16_logits_are_computed_in_float32():
    student, teacher, target = (x.bfloat16() if x.is_floating_point() else x for x in logits())
    found = separated_logit_loss(student, teacher, target, 5.0)
    exact = separated_logit_loss(student.double(), teacher.double(), target, 5.0)
    for term, truth in zip(found, exact, strict=True):
        assert term.item() == pytest.approx(truth.item(), rel=1e-5)


@pytest.mark.filterwarnings(TWO_CLASSES)
def test_two_classes_leave_nothing_irrelevant():
    student, teacher, target = logits(9, 2)
    student.requires_grad_()
    tckd, nckd = separated_logit_loss(student, teacher, target, 5.0, reduction="none")
    assert not nckd.any()
    (gradient,) = torch.autograd.grad(nckd.sum(), student, retain_graph=True)
    assert not gradient.any()
    log_s, log_t = (F.log_softmax(z / 5, 1) for z in (student, teacher))
    kd = 25 * F.kl_div(log_s, log_t, reduction="batchmean", log_target=True)
    torch.testing.assert_close(tckd.mean(), kd)
    gradients = [torch.autograd.grad(x, student, retain_graph=True)[0] for x in (tckd.mean(), kd)]
    torch.testing.assert_close(*gradients)


def test_two_classes_warn_once(monkeypatch):
    monkeypatch.setattr(losses, "_warned", set())
    with pytest.warns(UserWarning, match="NCKD is zero by definition"):
        separated_logit_loss(*logits(classes=2), 5.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        separated_logit_loss(*logits(classes=2), 5.0)


def test_three_classes_do_not_warn(monkeypatch):
    monkeypatch.setattr(losses, "_warned", set())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        separated_logit_loss(*logits(classes=3), 5.0)


def test_divided_by_the_batch_once():
    once = separated_logit_loss(*logits(), 5.0)
    twice = separated_logit_loss(*(torch.cat([x, x]) for x in logits()), 5.0)
    torch.testing.assert_close(once, twice)
    each = separated_logit_loss(*logits(), 5.0, reduction="none")
    torch.testing.assert_close(once, tuple(x.mean() for x in each))
    total = separated_logit_loss(*logits(), 5.0, reduction="sum")
    torch.testing.assert_close(total, tuple(x.sum() for x in each))
    assert each[0].shape == each[1].shape == (5,)


def test_no_gradient_into_the_teachers_logits():
    student, teacher, target = logits()
    student.requires_grad_()
    teacher.requires_grad_()
    sum(separated_logit_loss(student, teacher, target, 5.0)).backward()
    assert teacher.grad is None
    assert student.grad.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"student_logits": torch.zeros(4, 3, 1)}, "logits must both be"),
        ({"teacher_logits": torch.zeros(4, 5)}, r"\(4, 3\) and \(4, 5\)"),
        ({"student_logits": torch.zeros(4, 1), "teacher_logits": torch.zeros(4, 1)}, "two classes"),
        ({"target": torch.zeros(5, dtype=torch.int64)}, "4 whole numbers"),
        ({"target": torch.zeros(4)}, "whole numbers"),
        ({"target": torch.tensor([0, 1, 2, 3])}, "target holds 3.*from 0 to 2"),
        ({"target": torch.tensor([0, -1, 2, 0])}, "target holds -1"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": -5.0}, "temperature is -5.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"reduction": "batchmean"}, "reduction is 'batchmean'"),
    ],
)
def test_bad_logits_are_refused(change, message):
    arguments = {
        "student_logits": torch.zeros(4, 3),
        "teacher_logits": torch.zeros(4, 3),
        "target": torch.zeros(4, dtype=torch.int64),
        "temperature": 5.0,
    }
    with pytest.raises(ArgumentError, match=message):
        separated_logit_loss(**(arguments | change))


# One-to-all matching


@pytest.mark.parametrize("scale", [True, False])
def test_matching_follows_its_definition(scale):
    student, teacher = features(8, 5, 3, dtype=torch.float64)
    heads, d = 2, 4
    expected = torch.empty_like(teacher)
    for b in range(3):
        for h in range(heads):
            s, t = (x[b, h * d : (h + 1) * d] for x in (student, teacher))  # (d, positions)
            for i in range(3):
                scores = s.T @ t[:, i] / (math.sqrt(d) if scale else 1)
                expected[b, h * d : (h + 1) * d, i] = s @ scores.softmax(0)
    found = one_to_all_matching(student, teacher, heads, scale)
    torch.testing.assert_close(found, F.mse_loss(expected, teacher), rtol=1e-10, atol=0)


def test_scaling_changes_the_loss_and_is_the_default():
    scaled, unscaled = (one_to_all_matching(*features(), 2, scale) for scale in (True, False))
    assert not torch.isclose(scaled, unscaled)
    assert torch.equal(one_to_all_matching(*features(), 2), scaled)


def test_eight_heads_are_the_default():
    assert one_to_all_matching(*features(16), return_similarity=True)[1].shape[1] == 8


@pytest.mark.parametrize(("n_student", "n_teacher"), [(9, 9), (5, 3), (3, 5), (1, 4)])
@pytest.mark.parametrize("scale", [True, False])
def test_fused_equals_explicit(n_student, n_teacher, scale):
    pairs = []
    for explicit in (False, True):
        student, teacher = features(16, n_student, n_teacher, batch=4)
        student.requires_grad_()
        result = one_to_all_matching(student, teacher, 4, scale, return_similarity=explicit)
        loss = result[0] if explicit else result
        loss.backward()
        pairs.append((loss.detach(), student.grad))
    torch.testing.assert_close(*pairs, rtol=1e-5, atol=1e-6)


def test_similarity_has_its_shape_and_rows_of_sum_one():
    student, teacher = features(8, 5, 3, batch=2)
    _, similarity = one_to_all_matching(student, teacher, 4, return_similarity=True)
    assert similarity.shape == (2, 4, 3, 5)
    assert (similarity > 0).all()
    torch.testing.assert_close(similarity.sum(3), torch.ones(2, 4, 3))


def test_the_students_order_does_not_matter_and_the_teachers_does_not_either():
    student, teacher = features(16, 9, 9)
    loss = one_to_all_matching(student, teacher)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(order, torch.arange(9))
    torch.testing.assert_close(one_to_all_matching(student[:, :, order], teacher), loss)
    torch.testing.assert_close(one_to_all_matching(student, teacher[:, :, order]), loss)
    _, similarity = one_to_all_matching(student, teacher, return_similarity=True)
    _, moved = one_to_all_matching(student[:, :, order], teacher, return_similarity=True)
    torch.testing.assert_close(moved, similarity[..., order])


def test_maps_are_matched_as_their_flattened_positions():
    student, teacher = torch.randn(2, 8, 4, 3), torch.randn(2, 8, 2, 5)
    flat = one_to_all_matching(student.flatten(2), teacher.flatten(2))
    assert torch.equal(one_to_all_matching(student, teacher), flat)


def test_one_student_position_gives_plain_mse():
    student, teacher = features(8, 1, 1)
    torch.testing.assert_close(one_to_all_matching(student, teacher), F.mse_loss(student, teacher))


def test_gradcheck_of_matching():
    student, teacher = features(4, 3, 2, batch=2, dtype=torch.float64)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: one_to_all_matching(s, teacher, 2), student)
    assert torch.autograd.gradcheck(
        lambda s: one_to_all_matching(s, teacher, 2, return_similarity=True)[0], student
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("explicit", [False, True])
def test_matching_stays_finite_at_large_features(dtype, explicit):
    student, teacher = (1e4 * x.to(dtype) for x in features())
    student.requires_grad_()
    result = one_to_all_matching(student, teacher, 4, False, explicit)
    loss = result[0] if explicit else result
    loss.backward()
    assert loss.isfinite()
    assert loss.dtype == torch.float32
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("explicit", [False, True])
def test_autocast_does_not_make_matching_coarse(explicit):
    exact = one_to_all_matching(*features(), return_similarity=explicit)
    with torch.autocast("cpu", torch.bfloat16):
        found = one_to_all_matching(*features(), return_similarity=explicit)
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=0)


def test_matching_is_a_mean_over_the_batch():
    student, teacher = features()
    twice = one_to_all_matching(torch.cat([student] * 2), torch.cat([teacher] * 2))
    torch.testing.assert_close(twice, one_to_all_matching(student, teacher))


def test_no_gradient_into_the_teachers_features():
    student, teacher = features()
    student.requires_grad_()
    teacher.requires_grad_()
    one_to_all_matching(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.any()


@pytest.mark.parametrize("heads", [3, 16, 0, -1])
def test_heads_that_do_not_divide_the_channels(heads):
    with pytest.raises(ArgumentError, match=f"heads is {heads}, which does not divide the 8"):
        one_to_all_matching(*features(), heads)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [((2, 8, 5), (2, 16, 5)), ((2, 8, 5), (3, 8, 5)), ((2, 8), (2, 8)), ((8, 5), (2, 8, 5))],
)
def test_features_that_do_not_fit_are_refused(student, teacher):
    with pytest.raises(ArgumentError, match="same batch and channels") as error:
        one_to_all_matching(torch.zeros(student), torch.zeros(teacher))
    assert f"{student} and {teacher}" in str(error.value)


# Published values


def noise(shape: tuple[int, ...], b: int) -> torch.Tensor:
    """The golden values' inputs, by their rule."""
    value = 43758.5453 * np.sin(
        12.9898 * np.arange(math.prod(shape), dtype=np.float64) + 78.233 * b
    )
    return torch.from_numpy((2 * (value - np.floor(value)) - 1).astype(np.float32)).view(shape)


@pytest.mark.parametrize("case", GOLDEN["separated_logits"])
@pytest.mark.filterwarnings(TWO_CLASSES)
def test_published_values_of_separated_logits(case):
    batch, classes = case["batch"], case["classes"]
    student, teacher = (
        noise((batch, classes), case[b]) * case["scale"] for b in ("student_b", "teacher_b")
    )
    student.requires_grad_()
    target = torch.arange(batch) * 7 % classes
    tckd, nckd = separated_logit_loss(student, teacher, target, case["temperature"])
    loss = case["mu"] * tckd + case["nu"] * nckd
    loss.backward()
    assert loss.item() == pytest.approx(case["published_value_times_batch"], rel=1e-5)
    gradient = case["published_grad_student_l2"] * batch
    assert student.grad.norm().item() == pytest.approx(gradient, rel=1e-4)


@pytest.mark.parametrize("case", GOLDEN["feature_matching"][:2])
@pytest.mark.parametrize("explicit", [False, True])
def test_published_values_of_matching(case, explicit):
    batch, positions = case["batch"], case["positions"]
    student = noise((batch, case["student_channels"], positions), case["student_b"])
    teacher = noise((batch, case["teacher_channels"], positions), case["teacher_b"])
    weight = 0.05 * noise((case["student_channels"], case["teacher_channels"], 1), 3)
    teacher = F.batch_norm(F.conv1d(teacher, weight), None, None, training=True)
    result = one_to_all_matching(student, teacher, case["heads"], False, explicit)
    loss = result[0] if explicit else result
    assert loss.item() == pytest.approx(case["check_same_tensors_with_teacher_queries"], rel=1e-5)


def test_published_value_of_matching_at_one_position():
    case = GOLDEN["feature_matching"][2]
    shape = (case["batch"], case["channels"], 1, 1)
    student, teacher = noise(shape, case["student_b"]), noise(shape, case["teacher_b"])
    found = one_to_all_matching(student, teacher, case["heads"]).item()
    assert found == pytest.approx(case["plain_mse"], rel=1e-5)
