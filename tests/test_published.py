"""The published losses: their golden values, and each fault beside the sound function."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hfld_lite.errors import ArgumentError
from hfld_lite.losses import one_to_all_matching, separated_logit_loss
from hfld_lite.rivals.released import (
    published_embedding,
    published_image_matching,
    published_matching,
    published_separated_logit_loss,
)

GOLDEN = json.loads((Path(__file__).parent / "golden_losses.json").read_text())
pytestmark = pytest.mark.filterwarnings("ignore:With two classes")


def noise(shape: tuple[int, ...], b: int) -> torch.Tensor:
    """The golden values' inputs, by their rule."""
    value = 43758.5453 * np.sin(
        12.9898 * np.arange(math.prod(shape), dtype=np.float64) + 78.233 * b
    )
    return torch.from_numpy((2 * (value - np.floor(value)) - 1).astype(np.float32)).view(shape)


def golden_embedding(teacher_channels: int, student_channels: int) -> torch.nn.Sequential:
    embedding = published_embedding(teacher_channels, student_channels)
    with torch.no_grad():
        embedding[0].weight.copy_(0.05 * noise((student_channels, teacher_channels, 1), 3))
    return embedding


def golden_logits(case):
    batch, classes = case["batch"], case["classes"]
    student, teacher = (
        noise((batch, classes), case[b]) * case["scale"] for b in ("student_b", "teacher_b")
    )
    return student.requires_grad_(), teacher, torch.arange(batch) * 7 % classes


# Separated logits


@pytest.mark.parametrize("case", GOLDEN["separated_logits"])
def test_golden_separated_logits(case):
    student, teacher, target = golden_logits(case)
    loss = published_separated_logit_loss(
        student, teacher, target, case["temperature"], case["mu"], case["nu"]
    )
    loss.backward()
    assert loss.item() == pytest.approx(case["published_value"], rel=1e-5)
    gradient = student.grad.norm().item()
    assert gradient == pytest.approx(case["published_grad_student_l2"], rel=1e-5)


@pytest.mark.parametrize("case", GOLDEN["separated_logits"])
def test_the_published_loss_is_divided_by_the_batch_twice(case):
    student, teacher, target = golden_logits(case)
    inputs = student.detach(), teacher, target, case["temperature"]
    tckd, nckd = separated_logit_loss(*inputs)
    sound = case["mu"] * tckd + case["nu"] * nckd
    published = published_separated_logit_loss(*inputs, case["mu"], case["nu"])
    assert (sound / published).item() == pytest.approx(case["batch"], rel=1e-5)
    # The same samples twice over: the sound mean stays, the published loss is halved.
    doubled = (*(torch.cat([x, x]) for x in inputs[:3]), case["temperature"])
    torch.testing.assert_close(separated_logit_loss(*doubled), (tckd, nckd), rtol=1e-5, atol=1e-7)
    halved = published_separated_logit_loss(*doubled, case["mu"], case["nu"])
    torch.testing.assert_close(halved, published / 2)


def test_24_times_too_small_at_the_published_batch():
    case = GOLDEN["separated_logits"][0]
    student, teacher, target = golden_logits(case)
    tckd, _ = separated_logit_loss(student, teacher, target, 5.0)
    published = published_separated_logit_loss(student, teacher, target, 5.0)
    assert (tckd / published).item() == pytest.approx(24, rel=1e-5)


def test_two_published_classes_separate_nothing():
    case = GOLDEN["separated_logits"][0]
    student, teacher, target = golden_logits(case)
    nckd = published_separated_logit_loss(student, teacher, target, 5.0, mu=0.0)
    (gradient,) = torch.autograd.grad(nckd, student)
    assert nckd == 0
    assert not gradient.any()
    pair = (student / 5).log_softmax(1), (teacher / 5).softmax(1)
    kd = F.kl_div(*pair, reduction="batchmean") * 25
    tckd = published_separated_logit_loss(student, teacher, target, 5.0, nu=0.0)
    torch.testing.assert_close(tckd * 24, kd)


def both_at_a_gap(gap, student_on, teacher_on, classes=3, temperature=5.0):
    """(value, gradient) of the published and of the sound loss; the target is class 0."""
    found = []
    for loss in (published_separated_logit_loss, lambda *x: sum(separated_logit_loss(*x))):
        student, teacher = torch.zeros(2, 1, classes)
        student[0, student_on] = teacher[0, teacher_on] = gap * temperature
        student.requires_grad_()
        value = loss(student, teacher, torch.tensor([0]), temperature)
        (gradient,) = torch.autograd.grad(value, student)
        found.append((value, gradient))
    return found


@pytest.mark.parametrize(("student_on", "teacher_on"), [(1, 0), (0, 1), (0, 0), (1, 2)])
@pytest.mark.parametrize("classes", [2, 3, 6])
def test_large_gaps_break_the_published_loss_and_not_the_sound_one(student_on, teacher_on, classes):
    teacher_on = min(teacher_on, classes - 1)
    for gap in (110, 900):
        published, sound = both_at_a_gap(gap, student_on, teacher_on, classes)
        assert not published[0].isfinite()
        assert not published[1].isfinite().any()
        assert sound[0].isfinite()
        assert sound[1].isfinite().all()
        # With teacher and student agreed and sure, there is nothing to lose: not a number.
        assert published[0].isnan() == (
            student_on == teacher_on or 0 not in (student_on, teacher_on)
        )


def test_the_published_gradient_breaks_before_the_value_does():
    published, sound = both_at_a_gap(95, 1, 0)
    torch.testing.assert_close(published[0], sound[0], rtol=1e-4, atol=0)  # a batch of one
    assert published[1].isnan().all()
    assert sound[1].isfinite().all()


def test_at_moderate_gaps_both_agree_for_a_batch_of_one():
    for gap in (1, 20, 80):
        published, sound = both_at_a_gap(gap, 1, 0)
        torch.testing.assert_close(published, sound, rtol=1e-5, atol=1e-6)


def test_the_published_mask_leaks_beyond_a_thousand_temperatures():
    student, target = torch.tensor([[0.0, 0.0]]), torch.tensor([0])
    for gap, leaks in ((750, False), (1500, True)):
        teacher = torch.tensor([[gap * 2.0, 0.0]])
        found = published_separated_logit_loss(student, teacher, target, 2.0, mu=0.0)
        # Leaking, the teacher is sure of the class that should be left out: KL near 1000.
        assert found.item() == pytest.approx(4 * 1000 if leaks else 0)
        assert separated_logit_loss(student, teacher, target, 2.0)[1] == 0


def test_published_weights_may_be_what_a_pvpn_predicted():
    student, teacher, target = golden_logits(GOLDEN["separated_logits"][2])
    weights = torch.tensor([0.3, 0.7], requires_grad=True)
    loss = published_separated_logit_loss(student, teacher, target, 5.0, *weights)
    loss.backward()
    expected = published_separated_logit_loss(student, teacher, target, 5.0, 0.3, 0.7)
    torch.testing.assert_close(loss, expected)
    assert (weights.grad > 0).all()  # minimised over the weights too, they fall


def test_the_published_code_sends_gradients_into_the_teacher():
    student, teacher, target = golden_logits(GOLDEN["separated_logits"][2])
    teacher.requires_grad_()
    published_separated_logit_loss(student, teacher, target, 5.0).backward()
    assert teacher.grad.any()


def test_bad_published_logits_are_refused():
    logits, target = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ArgumentError, match=r"\(4, 3\) and \(4, 2\)"):
        published_separated_logit_loss(logits, logits[:, :2], target, 5.0)
    with pytest.raises(ArgumentError, match="target holds 3"):
        published_separated_logit_loss(logits, logits, target + 3, 5.0)
    with pytest.raises(ArgumentError, match="temperature is 0"):
        published_separated_logit_loss(logits, logits, target, 0)


# Matching


@pytest.fixture(params=GOLDEN["feature_matching"][:2], ids=["teacher", "secondary"], scope="module")
def matching(request):
    case = request.param
    batch, positions = case["batch"], case["positions"]
    student = noise((batch, case["student_channels"], positions), case["student_b"])
    teacher = noise((batch, case["teacher_channels"], positions), case["teacher_b"])
    embedding = golden_embedding(case["teacher_channels"], case["student_channels"])
    return case, student, teacher, embedding


def test_golden_matching(matching):
    case, student, teacher, embedding = matching
    student = student.clone().requires_grad_()
    loss, similarity = published_matching(
        student, teacher, embedding, case["heads"], return_similarity=True
    )
    loss.backward()
    assert loss.item() == pytest.approx(case["published_value"], rel=1e-5)
    gradient = student.grad.norm().item()
    assert gradient == pytest.approx(case["published_grad_student_l2"], rel=1e-5)
    assert similarity.shape == (4, 8, 9, 9)
    first = similarity[0, 0, 0].tolist()
    assert first == pytest.approx(case["published_similarity_first_row"], abs=1e-6)
    assert torch.equal(published_matching(student, teacher, embedding), loss)


def test_sound_roles_on_the_published_tensors(matching):
    case, student, teacher, embedding = matching
    loss = one_to_all_matching(student, embedding(teacher), case["heads"], scale=False)
    expected = case["check_same_tensors_with_teacher_queries"]
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert loss < 0.9 * case["published_value"]


def test_the_students_order_matters_to_the_published_matching_alone(matching):
    _, student, teacher, embedding = matching
    target = embedding(teacher).detach()
    order = torch.tensor([3, 1, 4, 0, 5, 8, 2, 6, 7])
    sound = [one_to_all_matching(s, target) for s in (student, student[:, :, order])]
    torch.testing.assert_close(*sound)
    loss, similarity = published_matching(student, teacher, embedding, return_similarity=True)
    moved, rows = published_matching(
        student[:, :, order], teacher, embedding, return_similarity=True
    )
    assert abs(moved - loss) > 1e-3 * loss
    # Its rows move with the queries; the columns stay, while the values behind them changed.
    torch.testing.assert_close(rows, similarity[:, :, order])


def test_published_rows_say_which_teacher_position_fits(matching):
    _, student, teacher, embedding = matching
    order = torch.tensor([3, 1, 4, 0, 5, 8, 2, 6, 7])
    similarity, moved = (
        published_matching(student, t, embedding, return_similarity=True)[1]
        for t in (teacher, teacher[:, :, order])
    )
    torch.testing.assert_close(moved, similarity[..., order])


def test_published_attention_saturates_without_the_scale(matching):
    _, student, teacher, embedding = matching
    _, published = published_matching(student, teacher, embedding, return_similarity=True)
    target = embedding(teacher).detach()
    _, sound = one_to_all_matching(student, target, return_similarity=True)
    assert published.amax(-1).mean() > 0.7
    assert sound.amax(-1).mean() < 0.3


def test_the_published_embedding_is_on_the_teacher_and_in_training_mode(matching):
    case, student, teacher, embedding = matching
    assert embedding.training
    assert [name for name, _ in embedding.named_parameters()] == ["0.weight", "1.weight", "1.bias"]
    target = embedding(teacher)
    torch.testing.assert_close(target.mean((0, 2)), torch.zeros(512), rtol=0, atol=1e-5)
    # The target depends on the batch, and gradients flow into embedding and teacher.
    alone = embedding(teacher[:2])
    assert not torch.allclose(alone, target[:2], atol=0.1)
    teacher = teacher.clone().requires_grad_()
    embedding.zero_grad()
    published_matching(student, teacher, embedding, case["heads"]).backward()
    assert teacher.grad.any()
    assert embedding[0].weight.grad.any()


def test_published_image_step_is_plain_mse():
    case = GOLDEN["feature_matching"][2]
    shape = (case["batch"], case["channels"], 1, 1)
    student, teacher = noise(shape, case["student_b"]), noise(shape, case["teacher_b"])
    loss, similarity = published_image_matching(student, teacher, case["heads"], True)
    assert loss.item() == pytest.approx(case["published_value"], rel=1e-5)
    torch.testing.assert_close(loss, F.mse_loss(student, teacher))
    assert torch.equal(similarity, torch.ones(4, 8, 1, 1))
    student.requires_grad_()
    teacher.requires_grad_()
    published_image_matching(student, teacher, case["heads"]).backward()
    torch.testing.assert_close(student.grad, 2 * (student - teacher).detach() / student.numel())
    torch.testing.assert_close(teacher.grad, -student.grad)


def test_published_image_step_pools_what_is_not_pooled():
    student, teacher = noise((3, 16, 4, 4), 1), noise((3, 16, 4, 4), 2)
    pooled = student.mean((2, 3)), teacher.mean((2, 3))
    found = published_image_matching(student, teacher)
    torch.testing.assert_close(found, F.mse_loss(*pooled))
    # Pooled first, positions say nothing; the map before pooling has them to match.
    torch.testing.assert_close(published_image_matching(student.flip(2), teacher), found)
    assert not torch.isclose(one_to_all_matching(student, teacher), found, rtol=0.1)


def test_bf16_autocast_does_not_make_the_published_matching_coarse(matching):
    _, student, teacher, embedding = matching
    exact = published_matching(student, teacher, embedding)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(published_matching(student, teacher, embedding), exact)
    coarse = published_matching(student.bfloat16(), teacher.bfloat16(), embedding)
    assert coarse.dtype == torch.float32
    assert coarse.item() == pytest.approx(exact.item(), rel=1e-2)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [((2, 8, 5), (2, 8, 3)), ((2, 8, 5), (2, 16, 5)), ((2, 8, 5), (3, 8, 5)), ((2, 8), (2, 8))],
)
def test_published_matching_needs_one_shape(student, teacher):
    with pytest.raises(ArgumentError, match="must have one shape") as error:
        published_matching(torch.zeros(student), torch.zeros(teacher), None)
    assert f"{student} and {teacher}" in str(error.value)


@pytest.mark.parametrize("heads", [3, 0])
def test_published_heads_divide_the_channels(heads):
    with pytest.raises(ArgumentError, match=f"heads is {heads}, which does not divide the 8"):
        published_matching(torch.zeros(2, 8, 5), torch.zeros(2, 8, 5), None, heads)
