"""What the preset `published` does and the default does not: a row for each mistake."""

import os
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import hfld_lite.losses as losses
from hfld_lite import (
    DataError,
    Network,
    Recipe,
    RecipeError,
    distill_chain,
    preset,
    published_split,
    spectrum,
    split,
    time_view,
)
from hfld_lite.app.report import write_report
from hfld_lite.app.runs import load_run, save_run
from hfld_lite.app.unfinished import new_run
from hfld_lite.data.augmentation import Augmentation
from hfld_lite.data.views import network_inputs
from hfld_lite.distillation import Distiller
from hfld_lite.hierarchy import TRAINERS, Trainer
from hfld_lite.losses import one_to_all_matching
from hfld_lite.networks import resnet1d
from hfld_lite.rivals.released import (
    Published,
    PublishedDistiller,
    PublishedTrainer,
    published_image_matching,
    published_matching,
    published_min_max,
    published_weight_decay,
    repeats,
)
from hfld_lite.rivals.strategies import Naive, Uncertainty
from hfld_lite.storage.checkpoints import DamagedError, read_state
from hfld_lite.teachers import Batch, teacher_targets
from hfld_lite.training import predict_logits

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
    with pytest.raises(RecipeError, match="behaviour is 'odd'; expected"):
        Recipe(behaviour="odd")
    with pytest.raises(RecipeError, match="weighting is 'fixed'; its behaviour is 'published'"):
        Recipe(behaviour="published")


def test_row_two_classes_nckd_is_zero_in_both(monkeypatch):
    monkeypatch.setattr(losses, "_warned", set())  # it warns once in a process
    teacher, student, batch = pair(2)
    gone = published(teacher, student).train()(batch)[1]["nckd"]
    assert gone.item() == pytest.approx(0, abs=1e-6)
    with pytest.warns(UserWarning, match="With two classes NCKD is zero by definition"):
        gone = sound(teacher, student, batch).train()(batch)[1]["nckd"]
    assert gone.item() == pytest.approx(0, abs=1e-6)
    teacher, student, batch = pair(6)
    for objective in (published(teacher, student), sound(teacher, student, batch)):
        assert objective.train()(batch)[1]["nckd"] > 1e-6


def test_row_logit_loss_is_divided_by_the_batch_twice():
    teacher, student, batch = pair()
    twin = Batch(*(torch.cat([x, x]) for x in batch))
    for layer in teacher.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0

    def ratio(objective):
        objective.train()
        return objective(twin)[1]["tckd"] / objective(batch)[1]["tckd"]

    # Doubled data is the same mean, but a second division by the batch halves it.
    assert ratio(published(teacher, student)).item() == pytest.approx(0.5, rel=1e-3)
    assert ratio(sound(teacher, student, batch)).item() == pytest.approx(1.0, rel=1e-3)


def test_row_large_gaps_between_logits_give_gradients_that_are_not_finite():
    teacher, student, batch = pair()
    last = [layer for layer in student.modules() if isinstance(layer, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.bias[0] += 5.0 * 95  # 95 temperatures: p below the smallest normal float32

    def finite(objective):
        student.zero_grad()
        _, terms = objective.train()(batch)
        (terms["tckd"] + terms["nckd"]).backward()
        return all(p.grad.isfinite().all() for p in student.parameters() if p.grad is not None)

    assert not finite(published(teacher, student))
    assert finite(sound(teacher, student, batch))


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
    learning = Distiller(
        student, teacher_targets(teacher, batch.inputs), Uncertainty(student.feature_channels, 9)
    )
    parts = [*learning.project.parameters(), *learning.weigh.pvpn.parameters()]
    assert {id(p) for p in parts} < {id(p) for p in learning.parameters() if p.requires_grad}


def test_row_pvpn_reads_undetached_features():
    features = torch.rand(4, 32, 9, requires_grad=True)
    losses = {name: torch.tensor(1.0) for name in EQUAL}
    Published(32, 9, detach_input=False)(losses, features).backward()
    assert features.grad.any()
    assert not Published(32, 9)(losses, features).requires_grad


def test_row_naive_weights_collapse_and_are_named():
    teacher, student, batch = pair()

    def trained(weighting):
        targets = teacher_targets(teacher, batch.inputs)
        objective = Distiller(student, targets, weighting).train()
        optimizer = torch.optim.Adam(objective.parameters(), 1e-2)
        for _ in range(30):
            optimizer.zero_grad()
            objective(batch)[0].backward()
            optimizer.step()
        row = {name: value.item() for name, value in objective.monitor().items()}
        return list(row.values()), objective.verdict(row)

    weights, verdict = trained(Naive(student.feature_channels, 9))
    assert max(weights) < 1e-3
    assert "All weights are saturated" in verdict
    assert trained(EQUAL) == ([1.0] * 4, "")
    assert (Recipe().weighting, *Recipe().weights.values()) == ("fixed", 1, 0.3, 0.3, 1)


def test_row_teacher_runs_live():
    teacher, student, batch = pair()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    objective = sound(teacher, student, batch).train()
    objective(batch)[0].backward()
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())
    objective = published(teacher.eval(), student).train()
    objective(batch)[0].backward()
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
        view="spectrum",
        bins_by="cutting",
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
        trainer = PublishedTrainer(tiny_recordings, tiny("published"), progress=False)
    default = Trainer(tiny_recordings, tiny("sound"), progress=False)
    labels = torch.from_numpy(tiny_recordings.labels.copy())
    assert torch.equal(trainer.validation.target.cpu(), labels[trainer.parts.test])
    assert torch.equal(default.validation.target.cpu(), labels[default.parts.validation])
    for made, some in ((trainer, True), (default, False)):
        student, _ = made.network("student")
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
        TRAINERS[behaviour](tiny_recordings, tiny(behaviour), progress=False).supervise("teacher")
    half = len(held) // 2  # the drop is one epoch before the end, and there are two epochs
    assert (held[0], held[half]) == (False, behaviour == "sound")
    assert all(held[1:half] + held[half + 1 :])


def test_row_drops_as_published_are_the_last_40_and_20_epochs():
    renewed = []
    for kind, recipe in ((PublishedTrainer, preset("published")), (Trainer, preset("paper"))):
        trainer = object.__new__(kind)
        trainer.recipe = recipe
        for left in (41, 40, 39, 20):
            optimizer = SimpleNamespace(state={"momentum": 1})
            trainer._before_epoch(optimizer, left)
            renewed.append(not optimizer.state)
    assert renewed == [False, True, False, True, False, False, False, False]


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


def quiet(recordings, recipe, parts=None):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The recipe's behaviour is published")
        return TRAINERS[recipe.behaviour](recordings, recipe, parts, progress=False)


@pytest.mark.parametrize("varied", [None, Augmentation()])
def test_row_no_validation_part(varied, tiny_recordings):
    drawn = split(tiny_recordings)
    learned = {
        "published": np.sort(np.concatenate([drawn.train, drawn.validation])),
        "sound": drawn.train,
    }
    for behaviour, rows in learned.items():
        recipe = tiny(behaviour).replace(augmentation=varied)
        trainer = quiet(tiny_recordings, recipe, drawn)
        inputs = network_inputs(tiny_recordings.signals[rows], recipe, 40_000)
        torch.testing.assert_close(trainer.train.inputs.cpu(), inputs)
        labels = torch.from_numpy(tiny_recordings.labels[rows])
        assert torch.equal(trainer.train.target.cpu(), labels)
        if varied:
            signals = torch.from_numpy(tiny_recordings.signals[rows])
            assert torch.equal(trainer._signals.inputs.cpu(), signals)
            assert torch.equal(trainer._signals.target.cpu(), labels)
        # What is said of the run, and saved with it, is what was done.
        assert np.array_equal(trainer.parts.train, rows)
        assert np.array_equal(trainer.parts.test, drawn.test)
        assert len(trainer.parts.validation) == (0 if behaviour == "published" else 16)
    assert (len(learned["published"]), len(drawn.test)) == (64, 16)  # 80/20


@pytest.mark.filterwarnings("ignore:The recipe's behaviour is published")
@pytest.mark.parametrize(("behaviour", "part"), [("published", "test"), ("sound", "validation")])
def test_the_report_says_by_which_part_epochs_were_chosen(
    behaviour, part, tiny_recordings, tmp_path
):
    chain = distill_chain(tiny_recordings, tiny(behaviour), controls=(), progress=False)
    with new_run(tmp_path / "run") as folder:
        save_run(folder, chain, chain.test(tiny_recordings), tiny_recordings, {})
    write_report(load_run(tmp_path / "run"))
    found = f"the {part} part, by which each network&#39;s epoch was chosen"
    assert found in (tmp_path / "run" / "report.html").read_text()


def test_row_every_fifth_row_of_each_file(tiny_recordings):
    rows = np.array([int(origin.rpartition(":")[2]) for origin in tiny_recordings.origins])
    fifth = rows % 5 == 4
    groups = tiny_recordings.groups
    assert set(groups[fifth]) & set(groups[~fifth]), "drops of one tile stand on both sides there"
    with pytest.raises(DataError, match=r"is in more than one part.*use `split`"):
        published_split(tiny_recordings)
    drawn = split(tiny_recordings)
    sides = [set(groups[part]) for part in drawn.parts().values()]
    assert sum(map(len, sides)) == len(set.union(*sides))
    assert all(sides)
    single = replace(tiny_recordings, groups=tiny_recordings.origins)
    there = published_split(single)
    assert np.array_equal(there.test, np.flatnonzero(fifth))
    assert there.validation.size == 0
    trainer = quiet(single, tiny("published"), there)
    assert len(trainer.train.inputs) == (~fifth).sum()


def test_row_same_seed_in_all_repeats(tiny_recordings):
    for behaviour, alike in (("published", True), ("sound", False)):
        first, second = (quiet(tiny_recordings, recipe) for recipe in repeats(tiny(behaviour), 2))
        assert np.array_equal(first.parts.test, second.parts.test) is alike
        assert same(*(trainer.supervise("teacher").network for trainer in (first, second))) is alike


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(("behaviour", "part"), [("published", "test"), ("sound", "validation")])
def test_row_the_next_stages_teacher_is_chosen_on(behaviour, part, tiny_recordings):
    recipe = tiny(behaviour)
    trainer = quiet(tiny_recordings, recipe)
    stage = trainer.supervise("teacher")
    history = stage.fit.history.set_index("epoch")
    ranked = history.sort_values(
        ["validation_accuracy", "validation_loss"], ascending=[False, True]
    )
    assert stage.fit.best_epoch == ranked.index[0]

    def loss(rows):
        logits = predict_logits(
            stage.network, network_inputs(tiny_recordings.signals[rows], recipe, 40_000)
        )
        return F.cross_entropy(logits, torch.from_numpy(tiny_recordings.labels[rows])).item()

    chosen_by = history.loc[stage.fit.best_epoch, "validation_loss"]
    found = {name: loss(rows) for name, rows in split(tiny_recordings).parts().items()}
    assert [name for name in found if found[name] == pytest.approx(chosen_by, rel=1e-4)] == [part]
    # These very weights teach the student.
    if behaviour == "published":
        live, _ = trainer._distiller("student", "teacher", recipe)[0]._outside
        assert same(live, stage.network)
    else:
        trainer.targets("teacher").check(trainer.train.inputs, stage.network)


def test_row_a_sound_chain_is_reproducible(tiny_recordings):
    recipe = tiny("sound").replace(secondary_teachers=(Network(10, 1 / 16, epochs=2),))
    one, other = (
        distill_chain(tiny_recordings, recipe, controls=(), progress=False).stages for _ in range(2)
    )
    assert list(one) == list(other) == list(recipe.chain)
    assert all(same(one[role].network, other[role].network) for role in one)
    assert [stage.learned_from for stage in one.values()] == [
        "labels",
        "labels and teacher",
        "labels and secondary_teacher",
    ]


def test_row_weight_decay_of_networks_trained_alone(tiny_recordings, monkeypatch):
    alone, distilled = (
        [published_weight_decay(epoch, taught) for epoch in range(240)] for taught in (False, True)
    )
    assert alone == [5e-4] * 150 + [5e-5] * 90
    assert distilled == [5e-4] * 240
    decays, real = [], torch.optim.SGD.step

    def spy(self, *args, **options):
        decays.append([group["weight_decay"] for group in self.param_groups])
        return real(self, *args, **options)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    trainer = quiet(tiny_recordings, tiny("sound").replace(weight_decay=5e-4))
    trainer.supervise("teacher")
    decays.clear()
    trainer.supervise("student_alone")
    here_alone = decays.copy()
    decays.clear()
    trainer.distil("student", "teacher")
    assert here_alone == decays == [[5e-4]] * 6  # three steps in each of two epochs


class Trap:
    """What a pickle can hold: a call that is made while it is read, here to make a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_row_a_pickle_runs_code_and_our_files_are_none(tmp_path, tiny_recordings, tiny_chain):
    file, sprung = tmp_path / "checkpoint.pkl", tmp_path / "sprung"
    torch.save({"weight": torch.zeros(2), "trap": Trap(sprung)}, file)
    torch.load(file, weights_only=False)
    assert sprung.is_dir()
    sprung.rmdir()
    with pytest.raises(DamagedError):
        read_state(file)
    with new_run(tmp_path / "run") as part:
        save_run(part, tiny_chain, tiny_chain.test(tiny_recordings), tiny_recordings, {})
    # A small chain, whose checkpoints stay as nobody ends the run.
    distill_chain(
        tiny_recordings,
        tiny("sound"),
        controls=(),
        progress=False,
        folder=tmp_path / "checkpoints",
    )
    weights = set()
    for folder in (tmp_path / "run", tmp_path / "checkpoints"):
        for path in filter(os.path.isfile, folder.rglob("*")):
            if path.suffix == ".safetensors":
                assert load_file(path)
                weights.add(f"{folder.name}/{path.stem}")
            else:  # text; torch.save writes a zip file with a pickle in it
                assert path.suffix in (".json", ".csv")
                assert not path.read_text().startswith("PK")
    assert weights >= {f"run/{role}" for role in tiny_chain.stages} | {
        "checkpoints/teacher",
        "checkpoints/student",
    }
    file.replace(tmp_path / "run" / "student.safetensors")
    with pytest.raises(RecipeError, match=r"student\.safetensors: the weights cannot be read"):
        load_run(tmp_path / "run")
    assert not sprung.exists()


def test_row_min_max_of_a_constant_recording():
    torch.manual_seed(0)
    signals = torch.randn(3, 300)
    torch.testing.assert_close(published_min_max(signals), time_view(signals))
    signals[1] = 0.25
    scaled = published_min_max(signals)
    assert scaled.isnan().any(1).tolist() == [False, True, False]
    assert scaled[1].isnan().all()
    network = resnet1d(10, 6, 1 / 16).train()
    assert F.cross_entropy(network(scaled).logits, torch.arange(3)).isnan()
    for view in (time_view, spectrum):
        with pytest.raises(DataError, match="recording 1: the signal is constant"):
            view(signals)
