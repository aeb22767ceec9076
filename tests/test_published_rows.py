"""What the preset `published` does and the default does not: rows of method.md, section 4."""

import warnings

import pytest
import torch
import torch.nn.functional as F

from hfld_lite import Network, Recipe, RecipeError, hierarchy, preset, training
from hfld_lite.distillation import Batch, Distiller, PublishedDistiller, teacher_targets
from hfld_lite.hierarchy import Trainer
from hfld_lite.losses import one_to_all_matching
from hfld_lite.networks import resnet1d
from hfld_lite.published import published_image_matching, published_matching
from hfld_lite.weighting import Published

EQUAL = {"feature": 1.0, "tckd": 1.0, "nckd": 1.0, "cross_entropy": 1.0}


def pair(classes=6):
    torch.manual_seed(0)
    teacher, student = resnet1d(18, classes, 1 / 16), resnet1d(10, classes, 1 / 16, dropout=0.0)
    batch = Batch(torch.rand(6, 257), torch.arange(6) % classes, torch.arange(6))
    return teacher, student, batch


def published(teacher, student):
    weighting = Published(student.feature_channels, 9, detach_input=False, hidden="published")
    return PublishedDistiller(student, teacher, weighting)


def sound(teacher, student, batch):
    return Distiller(student, teacher_targets(teacher, batch.inputs), EQUAL)


def test_the_preset_is_paper_with_one_switch():
    changed = preset("paper").replace(
        name="published", behaviour="published", weighting="published"
    )
    assert preset("published") == changed
    assert Recipe().behaviour == preset("paper").behaviour == "sound"
    with pytest.raises(RecipeError, match="behaviour is 'odd'; it must be"):
        Recipe(behaviour="odd")
    with pytest.raises(RecipeError, match="weighting is 'fixed'; it must be"):
        Recipe(behaviour="published")


def test_row_two_classes_nckd_is_zero_in_both():
    teacher, student, batch = pair(2)
    for objective in (published(teacher, student), sound(teacher, student, batch)):
        assert objective.train()(batch)["nckd"].item() == pytest.approx(0, abs=1e-6)


def test_row_logit_loss_is_divided_by_the_batch_twice():
    teacher, student, batch = pair()
    twin = Batch(*(torch.cat([x, x]) for x in batch))
    for layer in teacher.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0

    def ratio(objective):
        objective.train()
        return objective(twin)["tckd"] / objective(batch)["tckd"]

    # Doubled data is the same mean, but a second division by the batch halves it.
    assert ratio(published(teacher, student)).item() == pytest.approx(0.5, rel=1e-3)
    assert ratio(sound(teacher, student, batch)).item() == pytest.approx(1.0, rel=1e-3)


def test_rows_pvpn_and_embedding_are_in_no_optimiser():
    teacher, student, batch = pair()
    objective = published(teacher, student)
    trained = {id(p) for p in objective.parameters() if p.requires_grad}
    assert trained == {id(p) for p in student.parameters()}
    _, embedding = objective._outside
    assert embedding[0].in_channels == teacher.feature_channels  # the *teacher's* are projected
    assert all(p.requires_grad for p in embedding.parameters())
    project = sound(teacher, student, batch).project
    assert project[0].in_channels == student.feature_channels
    assert all(p.requires_grad for p in project.parameters())


def test_row_pvpn_reads_undetached_features():
    features = torch.rand(4, 32, 9, requires_grad=True)
    losses = {name: torch.tensor(1.0) for name in EQUAL}
    Published(32, 9, detach_input=False)(losses, features).backward()
    assert features.grad.any()
    assert not Published(32, 9)(losses, features).requires_grad


def test_row_teacher_runs_live():
    teacher, student, batch = pair()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    objective = sound(teacher, student, batch).train()
    objective.total(objective(batch)).backward()
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())
    objective = published(teacher.eval(), student).train()
    objective.total(objective(batch)).backward()
    assert teacher.training
    assert any(p.grad is not None and p.grad.any() for p in teacher.parameters())
    parameters = dict(teacher.named_parameters())
    moved = {k for k, v in teacher.state_dict().items() if not torch.equal(v, before[k])}
    assert moved
    assert not moved & set(parameters)


def tiny(behaviour):
    return Recipe(
        teacher=Network(10, 1 / 16, "small", None, 2),
        secondary_teachers=(),
        student=Network(10, 1 / 16, "published", None, 2),
        bins=257,
        behaviour=behaviour,
        weighting="published",
        optimizer="sgd",
        learning_rate=0.01,
        schedule="drops",
        drops=(1,),
        batch_size=16,
    )


def test_rows_test_part_chooses_and_student_drops_out(tiny_recordings):
    with pytest.warns(UserWarning, match="test part chooses the best epoch"):
        trainer = Trainer(tiny_recordings, tiny("published"), progress=False)
    default = Trainer(tiny_recordings, tiny("sound"), progress=False)
    labels = torch.from_numpy(tiny_recordings.labels.copy())
    assert torch.equal(trainer.validation.target.cpu(), labels[trainer.parts.test])
    assert torch.equal(default.validation.target.cpu(), labels[default.parts.validation])
    for recipe, some in ((tiny("published"), True), (tiny("sound"), False)):
        student = hierarchy._build(recipe, "student", 6)
        rates = [m.p for m in student.modules() if isinstance(m, torch.nn.Dropout)]
        assert any(rates) is some
    teacher = trainer.supervise("teacher").network
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    stage = trainer.distil("student", "teacher")
    assert len(stage.fit.history) == 2
    after = teacher.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "only a copy drifts"
    assert not teacher.training


@pytest.mark.parametrize("behaviour", ["published", "sound"])
def test_row_new_optimiser_at_each_drop(behaviour, tiny_recordings, monkeypatch):
    held, real = [], torch.optim.SGD.step

    def spy(self, *args, **options):
        held.append(any("momentum_buffer" in state for state in self.state.values()))
        return real(self, *args, **options)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Trainer(tiny_recordings, tiny(behaviour), progress=False).supervise("teacher")
    half = len(held) // 2  # the drop is one epoch before the end, and there are two epochs
    assert (held[0], held[half]) == (False, behaviour == "sound")
    assert all(held[1:half] + held[half + 1 :])


def test_row_drops_as_published_are_the_last_40_and_20_epochs():
    renewed = [training._is_renewed(preset("published"), left) for left in (41, 40, 39, 20)]
    assert renewed == [False, True, False, True]
    assert not training._is_renewed(preset("paper"), 40)


def test_rows_attention_roles_and_scale():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 4, 32, 9).unbind()
    order = torch.tensor([3, 1, 4, 0, 5, 8, 2, 6, 7])
    found = [published_matching(s, teacher, None) for s in (student, student[:, :, order])]
    assert not torch.isclose(*found, rtol=1e-3)
    torch.testing.assert_close(
        *(one_to_all_matching(s, teacher) for s in (student, student[:, :, order]))
    )
    sharp = published_matching(student, teacher, None, return_similarity=True)[1]
    soft = one_to_all_matching(student, teacher, return_similarity=True)[1]
    assert sharp.amax(-1).mean() > soft.amax(-1).mean() + 0.1


def test_row_images_pooled_first_are_matched_by_plain_mse():
    torch.manual_seed(0)
    student, teacher = torch.rand(2, 3, 16, 4, 4).unbind()
    plain = F.mse_loss(student.mean((2, 3)), teacher.mean((2, 3)))
    torch.testing.assert_close(published_image_matching(student, teacher), plain)
    assert not torch.isclose(one_to_all_matching(student, teacher), plain, rtol=0.1)
