"""A teacher's answers: cached or live, in any order, and never of another teacher or other data."""

import pytest
import torch

from hfld_lite.distillation import Distiller
from hfld_lite.errors import ArgumentError
from hfld_lite.networks import resnet1d
from hfld_lite.teachers import Batch, LiveTeacher, teacher_targets
from hfld_lite.training import seeded

WEIGHTS = {"feature": 1.0, "tckd": 1.0, "nckd": 1.0, "cross_entropy": 1.0}


@pytest.fixture
def inputs():
    return torch.rand(20, 257, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def teacher():
    with seeded(1):
        return resnet1d(10, 3, 1 / 16, "small", 0.5)


def batch(inputs, rows):
    return Batch(inputs[rows], torch.zeros(len(rows), dtype=torch.long), rows)


@pytest.mark.parametrize("limit", [2**30, 0])
def test_each_cached_row_is_what_a_live_pass_says_in_any_order(teacher, inputs, limit, tmp_path):
    targets = teacher_targets(teacher, inputs, 7, limit=limit, folder=tmp_path)
    live, order = LiveTeacher(teacher, targets), torch.randperm(20)
    for rows in order.split(6):
        for cached, said in zip(
            targets.answers(batch(inputs, rows)), live.answers(batch(inputs, rows)), strict=True
        ):
            torch.testing.assert_close(cached, said, rtol=1e-4, atol=1e-4)


def test_memory_mapped_answers_equal_those_in_memory(teacher, inputs):
    held, mapped = teacher_targets(teacher, inputs), teacher_targets(teacher, inputs, 7, limit=0)
    for name in ("features", "logits", "mean", "deviation"):
        torch.testing.assert_close(getattr(held, name), getattr(mapped, name), rtol=1e-4, atol=1e-4)
    assert held.key == mapped.key
    assert held.nbytes == mapped.nbytes == 4 * (held.features.numel() + 20 * 3)


def test_other_inputs_and_another_teacher_are_refused(teacher, inputs):
    targets = teacher_targets(teacher, inputs)
    targets.check(inputs, teacher)
    with pytest.raises(ArgumentError, match="other inputs or by another teacher"):
        targets.check(inputs + 1e-3, teacher)
    with torch.no_grad():
        next(teacher.buffers()).add_(1)
    with pytest.raises(ArgumentError, match="other inputs or by another teacher"):
        targets.check(inputs, teacher)


def test_a_live_teacher_stays_in_eval_and_never_changes(teacher, inputs):
    live = LiveTeacher(teacher, teacher_targets(teacher, inputs))
    before = {name: value.clone() for name, value in live.state_dict().items()}
    objective = Distiller(resnet1d(10, 3, 1 / 16, "small"), live, WEIGHTS).train()
    objective.total(objective(batch(inputs, torch.arange(8)))).backward()
    assert not any(module.training for module in live.modules())
    assert all(p.grad is None and not p.requires_grad for p in live.parameters())
    assert all(torch.equal(before[name], value) for name, value in live.state_dict().items())
    assert all(p.requires_grad for p in teacher.parameters()), "the caller's is left alone"
