"""A teacher's answers: cached or live, in any order, and never of another teacher or other data."""

import collections
import errno
import shutil
import subprocess
import sys
import tempfile

import pytest
import torch

from hfld_lite import HfldError, teachers
from hfld_lite import hierarchy as trainer_module
from hfld_lite.distillation import Distiller
from hfld_lite.errors import ArgumentError
from hfld_lite.hierarchy import Trainer
from hfld_lite.networks import resnet1d
from hfld_lite.storage.randomness import seeded
from hfld_lite.teachers import Batch, LiveTeacher, cache_key, teacher_targets

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
    objective(batch(inputs, torch.arange(8)))[0].backward()
    assert not any(module.training for module in live.modules())
    assert all(p.grad is None and not p.requires_grad for p in live.parameters())
    assert all(torch.equal(before[name], value) for name, value in live.state_dict().items())
    assert all(p.requires_grad for p in teacher.parameters()), "the caller's is left alone"


def test_the_key_knows_the_order_of_the_inputs(teacher, inputs):
    targets = teacher_targets(teacher, inputs)
    with pytest.raises(ArgumentError, match="other inputs or by another teacher"):
        targets.check(inputs.flip(0), teacher)
    assert cache_key(teacher, inputs) != cache_key(teacher, inputs.flip(0))


class Breaks(torch.nn.Module):
    """A network whose second batch fails."""

    def __init__(self, network):
        super().__init__()
        self.network, self.calls = network, 0

    def forward(self, x):
        self.calls += 1
        if self.calls == 2:
            raise ValueError("broken")
        return self.network(x)


def test_each_module_gets_its_own_mode_back_even_after_an_error(teacher, inputs):
    broken = Breaks(teacher)
    teacher.train()
    teacher.stem.eval()
    before = [module.training for module in broken.modules()]
    assert len(set(before)) == 2
    with pytest.raises(ValueError, match="broken"):
        teacher_targets(broken, inputs, 7)
    assert [module.training for module in broken.modules()] == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_teacher_that_has_diverged_does_not_teach(teacher, inputs, value):
    inputs[13, 5] = value
    with pytest.raises(HfldError, match="answer to training row 13 is not finite"):
        teacher_targets(teacher, inputs, 5)


def test_a_folder_without_room_is_named(teacher, inputs, tmp_path, monkeypatch):
    with pytest.raises(ArgumentError, match=r"gone: the teacher's answers, 0 MB, cannot be kept"):
        teacher_targets(teacher, inputs, limit=0, folder=tmp_path / "gone")
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(10, 0, 10))
    with pytest.raises(ArgumentError, match=r"No space left on device\); make room"):
        teacher_targets(teacher, inputs, limit=0, folder=tmp_path)
    monkeypatch.undo()

    def full(*arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(ArgumentError, match="Read-only file system"):
        teacher_targets(teacher, inputs, limit=0, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_teacher_is_asked_once_for_each_row_however_many_learn_from_it(
    tiny_recordings, tiny_recipe
):
    trainer = Trainer(tiny_recordings, tiny_recipe, progress=False)
    network, asked = trainer.supervise("teacher").network, []
    network.register_forward_hook(lambda _, inputs, __: asked.append(len(inputs[0])))
    trainer.distil("secondary_teacher", "teacher")
    assert sum(asked) == len(trainer.train.inputs)
    trainer.distil("student", "teacher", name="student_direct")
    trainer_module.CONTROLS["dense"](trainer, "student_dense")
    assert sum(asked) == len(trainer.train.inputs)


def test_one_pass_makes_no_tensor_above_32_mib(inputs):
    # Above it the allocation costs more than the arithmetic; bench_distillation measures it.
    published, sizes = resnet1d(50, 3, head="small"), []
    for module in published.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda _, __, output: sizes.append(output.nbytes))
    rows = []
    published.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    teacher_targets(published, torch.rand(1, 3500))
    assert max(sizes) * teachers.AT_ONCE <= 2**25
    teacher_targets(published, inputs.repeat(2, 1))
    assert rows == [1, teachers.AT_ONCE, 40 - teachers.AT_ONCE]


def test_another_process_gets_the_same_bits(teacher, inputs, tmp_path):
    torch.save((teacher, inputs), tmp_path / "case.pt")
    program = """
import sys, torch
from hfld_lite.teachers import teacher_targets
torch.set_num_threads(int(sys.argv[2]))
teacher, inputs = torch.load(sys.argv[1] + "/case.pt", weights_only=False)
torch.save(tuple(teacher_targets(teacher, inputs)), sys.argv[1] + "/said.pt")
"""
    arguments = [sys.executable, "-c", program, str(tmp_path), str(torch.get_num_threads())]
    subprocess.run(arguments, check=True)
    *said, key = torch.load(tmp_path / "said.pt")
    *here, own = teacher_targets(teacher, inputs)
    assert key == own
    assert all(torch.equal(*pair) for pair in zip(said, here, strict=True))


def test_kept_answers_are_refused_once_the_stage_has_changed(tiny_recordings, tiny_recipe):
    trainer = Trainer(tiny_recordings, tiny_recipe, progress=False)
    trainer.supervise("teacher")
    kept = trainer.targets("teacher")
    assert trainer.targets("teacher") is kept
    with torch.no_grad():
        next(trainer.stages["teacher"].network.parameters()).add_(0.1)
    with pytest.raises(ArgumentError, match="other inputs or by another teacher"):
        trainer.targets("teacher")
