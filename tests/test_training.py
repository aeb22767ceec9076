"""One loop for every objective: what is trained, what is not, what is kept, and repeatability."""

import copy
import math
import signal
import threading
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from hfld_lite.data.examples import shuffle
from hfld_lite.distillation import Distiller, Supervised
from hfld_lite.errors import ArgumentError, HfldError, Interrupted
from hfld_lite.losses import one_to_all_matching, separated_logit_loss
from hfld_lite.networks import resnet1d
from hfld_lite.recipes import Network, Recipe
from hfld_lite.rivals.meta import Meta
from hfld_lite.rivals.presets import preset
from hfld_lite.rivals.strategies import Naive, Uncertainty
from hfld_lite.rivals.trusted import Trusted, optimizer_step
from hfld_lite.storage.checkpoints import Checkpoints, StageCheckpoints
from hfld_lite.storage.randomness import derive_seed, seeded
from hfld_lite.teachers import Batch, teacher_targets
from hfld_lite.training import Samples, _optimizer, _schedule, fit, make_fabric, predict_logits
from hfld_lite.weighting import TERMS, Fixed

CLASSES = 3
RECIPE = Recipe(batch_size=8, learning_rate=3e-3)
WEIGHTS = {"feature": 0.5, "tckd": 1.0, "nckd": 2.0, "cross_entropy": 0.25}


def samples(count: int, seed: int = 0) -> Samples:
    """Spectra with a broad peak whose place is the class."""
    rng = torch.Generator().manual_seed(seed)
    target = torch.arange(count) % CLASSES
    place = 60.0 + 65 * target[:, None] + 4 * torch.randn(count, 1, generator=rng)
    peak = torch.exp(-(((torch.arange(257) - place) / 12) ** 2))
    return Samples(peak + 0.1 * torch.rand(count, 257, generator=rng), target)


TRAIN, VALIDATION = samples(36, 1), samples(18, 2)


def network(seed: int = 0, **options) -> nn.Module:
    options = {"width": 1 / 16, "head": "small", "dropout": 0.2} | options
    with seeded(seed):
        return resnet1d(10, CLASSES, **options)


def run(objective, recipe=RECIPE, epochs=2, train=TRAIN, validation=VALIDATION, seed=0, **options):
    fabric = Fabric(accelerator="cpu", devices=1, precision=recipe.precision)
    options = {"progress": False, "fabric": fabric} | options
    return fit(objective, train, validation, recipe, epochs, seed=seed, **options)


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    values = module.state_dict()
    return {name: v.clone() for name, v in values.items() if isinstance(v, torch.Tensor)}


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


class Watched(Supervised):
    """An objective that keeps the batches that it saw."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__(student)
        self.batches: list[Batch] = []

    def forward(self, batch):
        self.batches.append(batch)
        return super().forward(batch)


@pytest.fixture(scope="module")
def taught():
    """A teacher (with dropout, in training mode) and its targets."""
    teacher = network(7, width=1 / 8, dropout=0.5)
    run(Supervised(teacher), epochs=3)
    teacher.train()
    return teacher, teacher_targets(teacher, TRAIN.inputs)


def distiller(targets, seed: int = 0) -> Distiller:
    student = network(seed)
    with seeded(seed + 100):
        return Distiller(student, targets, WEIGHTS)


# Unlabelled rows


def half_known(train: Samples = TRAIN) -> Samples:
    """Samples of which two thirds have no label."""
    known = torch.arange(len(train.target)) % 9 < 3
    return Samples(train.inputs, torch.where(known, train.target, -1))


def test_batches_mix_labelled_and_unlabelled_rows_in_the_share_that_is_asked_for():
    target, draw = half_known().target, torch.Generator().manual_seed(0)
    for share, free in ((0.5, 4), (0.25, 2), (0.0, 0), (0.99, 7)):
        batches = shuffle(target, draw, True, 8, share).split(8)[:4]
        assert [int((target[rows] == -1).sum()) for rows in batches] == [free] * 4
    rows = shuffle(target, draw, False, 8, 0.5)
    assert len(rows) == len(target)
    once = rows[target[rows] == -1]
    assert len(set(once.tolist())) == len(once)  # 16 of 24: none comes again before all came
    one = shuffle(target, draw, False, 160, 0.5)  # a batch larger than the training part
    assert len(one) == 36
    assert int((target[one] == -1).sum()) == 18
    everything = torch.arange(36) % 3
    as_before = torch.randperm(36, generator=torch.Generator().manual_seed(3))
    assert torch.equal(shuffle(everything, torch.Generator().manual_seed(3), 0, 8, 0.5), as_before)


def test_labels_alone_are_read_where_an_objective_needs_them():
    objective = Watched(network())
    run(objective, train=half_known())
    assert len(objective.batches) == 2 * (36 // 8)
    assert all((batch.target >= 0).all() for batch in objective.batches)


def test_unlabelled_rows_enter_all_terms_but_cross_entropy(taught):
    _, targets = taught
    objective = distiller(targets)
    rows = torch.arange(9)
    target = half_known().target[rows]
    batch = Batch(TRAIN.inputs[rows], target, rows)
    objective.eval()
    _, terms = objective(batch)
    output = objective.student(batch.inputs)
    known = target >= 0
    expected = F.cross_entropy(output.logits[known], target[known])
    assert torch.allclose(terms["cross_entropy"], expected)
    said = targets.logits[rows]
    guessed = torch.where(known, target, said.argmax(1))
    tckd, nckd = separated_logit_loss(output.logits, said, guessed, 5.0)
    assert torch.allclose(terms["tckd"], tckd)
    assert torch.allclose(terms["nckd"], nckd)
    terms["feature"].backward()
    assert objective.student.stem[0].weight.grad.abs().sum() > 0


def test_unlabelled_rows_change_a_distilled_student_and_zero_leaves_them_out(taught):
    _, targets = taught
    seen = {}
    for share in (0.0, 0.5):
        objective = distiller(targets)
        result = run(objective, RECIPE.replace(unlabelled=share), train=half_known())
        assert result.history["cross_entropy"].notna().all()
        seen[share] = state(objective.student)
    assert not same(seen[0.0], seen[0.5])
    labelled = distiller(targets)
    labelled.unlabelled = False
    run(labelled, train=half_known())
    assert same(state(labelled.student), seen[0.0])


# Learning


def test_fit_learns_and_says_how():
    rows = []
    objective = Supervised(network())
    result = run(objective, epochs=12, on_epoch=rows.append)
    history = result.history
    assert list(history.columns) == [
        "epoch",
        "cross_entropy",
        "total",
        "learning_rate",
        "validation_accuracy",
        "validation_loss",
        "seconds",
        "verdict",
    ]
    assert set(history["verdict"]) == {""}
    assert history["epoch"].tolist() == list(range(1, 13))
    assert history["cross_entropy"].iloc[-1] < 0.5 * history["cross_entropy"].iloc[0]
    assert history["validation_accuracy"].max() > 0.9
    assert rows == history.to_dict("records")
    assert result.seconds >= history["seconds"].sum() * 0.99
    fresh = predict_logits(objective.student, samples(60, 9).inputs).argmax(1)
    assert (fresh == samples(60, 9).target).float().mean() > 0.8


def test_the_history_holds_means_over_the_epochs_steps():
    seen = []

    class Counting(Supervised):
        def forward(self, batch):
            total, terms = super().forward(batch)
            seen.append(terms["cross_entropy"].item())
            return total, terms

    history = run(Counting(network())).history
    assert len(seen) == 2 * (36 // 8)
    expected = torch.tensor(seen).view(2, -1).mean(1)
    torch.testing.assert_close(torch.tensor(history["cross_entropy"].to_numpy()).float(), expected)


def test_distillation_minimises_the_weighted_sum(taught):
    history = run(distiller(taught[1]), epochs=3).history
    total = sum(weight * history[name] for name, weight in WEIGHTS.items())
    assert history["total"].tolist() == pytest.approx(total.tolist(), rel=1e-5)
    assert (history[list(TERMS)] > 0).all(axis=None)
    assert history["total"].iloc[-1] < history["total"].iloc[0]


def test_modes_in_training_and_validation_and_after():
    objective, seen = Supervised(network()), []
    objective.student.register_forward_hook(
        lambda module, *_: seen.append(
            (module.training, module.head[0].training, torch.is_grad_enabled())
        )
    )
    objective.eval()  # as a network that was looked at before
    run(objective, epochs=3)
    step, check = (True, True, True), (False, False, False)
    assert seen == ([step] * (36 // 8) + [check]) * 3
    assert not objective.student.training
    assert all(not module.training for module in objective.student.modules())


def test_the_best_epochs_weights_are_the_ones_returned():
    objective, kept = Supervised(network()), {}

    def spoil(row):
        kept[row["epoch"]] = state(objective.student)
        if row["epoch"] == 3:  # a network that guesses from now on
            for parameter in objective.student.parameters():
                parameter.data.mul_(torch.randn(parameter.shape))

    recipe = replace(RECIPE, optimizer="sgd", learning_rate=0.02, weight_decay=0, schedule="drops")
    result = run(objective, recipe, epochs=4, on_epoch=spoil)
    history = result.history.set_index("epoch")
    order = history.sort_values(
        ["validation_accuracy", "validation_loss"], ascending=[False, True]
    ).index
    assert result.best_epoch == order[0] < 4
    assert same(state(objective.student), kept[result.best_epoch])
    logits = predict_logits(objective.student, VALIDATION.inputs)
    best = history.loc[result.best_epoch]
    accuracy = (logits.argmax(1) == VALIDATION.target).float().mean().item()
    assert accuracy == pytest.approx(best["validation_accuracy"])
    loss = F.cross_entropy(logits, VALIDATION.target).item()
    assert loss == pytest.approx(best["validation_loss"], rel=1e-5)


def test_of_equal_accuracies_the_lowest_validation_loss_wins(monkeypatch):
    # Always right, with growing, then shrinking, then growing confidence.
    sure = iter([1.0, 3.0, 2.0, 3.0])

    def logits(*_, **__):
        return next(sure) * F.one_hot(VALIDATION.target, CLASSES).float()

    monkeypatch.setattr("hfld_lite.training.predict_logits", logits)
    assert run(Supervised(network()), epochs=4).best_epoch == 2


def test_validation_has_no_part_in_training():
    first, second = Supervised(network()), Supervised(network())
    run(first, epochs=1)
    run(second, epochs=1, validation=samples(9, 77))
    assert same(state(first), state(second))


def test_frozen_parameters_stay():
    objective = Supervised(network())
    objective.student.stem.requires_grad_(False)
    before = objective.student.stem[0].weight.clone()
    run(objective)
    assert torch.equal(objective.student.stem[0].weight, before)


# Batches


def test_every_epoch_has_its_own_order_and_leaves_out_the_incomplete_batch():
    objective = Watched(network())
    run(objective, epochs=4, train=samples(20))
    assert [len(batch.rows) for batch in objective.batches] == [8, 8] * 4
    epochs = [torch.cat([b.rows for b in objective.batches[i : i + 2]]) for i in range(0, 8, 2)]
    assert all(len(set(rows.tolist())) == 16 for rows in epochs)
    assert len({tuple(rows.tolist()) for rows in epochs}) == 4
    assert len(set(torch.cat(epochs).tolist())) == 20  # what is left out changes
    for batch in objective.batches:
        assert torch.equal(batch.inputs, samples(20).inputs[batch.rows])
        assert torch.equal(batch.target, samples(20).target[batch.rows])


def test_the_order_depends_on_the_seed_alone():
    # So that a control without a teacher, or with another network, sees the same batches.
    orders = []
    for dropout, seed in ((0.5, 0), (0.0, 0), (0.0, 1)):
        objective = Watched(network(dropout=dropout))
        run(objective, epochs=3, seed=seed)
        orders.append(torch.cat([batch.rows for batch in objective.batches]))
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[1], orders[2])


def test_an_incomplete_batch_is_used_if_it_is_the_only_one():
    objective = Watched(network())
    run(objective, train=samples(5))
    assert [sorted(batch.rows.tolist()) for batch in objective.batches] == [list(range(5))] * 2


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"validation": samples(0)}, "36, 0 and 2"),
        ({"train": samples(0)}, "0, 18 and 2"),
        ({"train": samples(1)}, "1, 18 and 2"),
        ({"epochs": 0}, "36, 18 and 0"),
    ],
)
def test_too_little_to_train_on(change, found):
    objective = Supervised(network())
    before = state(objective)
    with pytest.raises(ArgumentError, match=f"found {found}"):
        run(objective, **change)
    assert same(state(objective), before)


# Schedules and optimisers


def test_one_cycle_rises_for_a_tenth_of_the_steps_and_falls_to_nearly_nothing():
    factor = _schedule(Recipe(schedule="one-cycle"), 10, 20)
    factors = [factor(step) for step in range(200)]
    assert factors[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert factors[20] == 1
    assert factors[110] == pytest.approx(0.5)
    assert factors[20:] == sorted(factors[20:], reverse=True)
    assert 0 < factors[-1] < 1e-3


@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (1, 2), (2, 3), (1, 9)])
def test_one_cycle_of_a_few_steps_never_stands_still(epochs, steps):
    factor = _schedule(Recipe(schedule="one-cycle"), epochs, steps)
    assert all(0 < factor(step) <= 1 for step in range(epochs * steps))


def test_drops_count_from_the_end():
    factor = _schedule(preset("paper"), 200, 3)
    factors = [factor(step) for step in range(600)]
    assert factors == pytest.approx([1.0] * 160 * 3 + [0.1] * 20 * 3 + [0.01] * 20 * 3)


def rates(recipe: Recipe, **options) -> tuple[list[float], list[object], object]:
    """The learning rates that the optimiser really used, its kinds, and the fit."""
    used, optimizers = [], []

    def note(optimizer, *_):
        used.append(optimizer.param_groups[0]["lr"])
        if not any(optimizer is known for known in optimizers):
            optimizers.append(optimizer)

    handle = register_optimizer_step_pre_hook(note)
    try:
        result = run(Supervised(network()), recipe, **options)
    finally:
        handle.remove()
    return used, optimizers, result


def test_the_optimiser_follows_the_schedule_and_stays_one():
    recipe = replace(
        RECIPE,
        optimizer="sgd",
        learning_rate=0.5,
        momentum=0.7,
        weight_decay=1e-3,
        schedule="drops",
        drops=(2, 1),
    )
    used, optimizers, _ = rates(recipe, epochs=4, train=samples(24))
    assert used == pytest.approx([0.5] * 6 + [0.05] * 3 + [0.005] * 3)
    assert [type(optimizer) for optimizer in optimizers] == [torch.optim.SGD]  # momentum is kept
    group = optimizers[0].param_groups[0]
    assert (group["momentum"], group["weight_decay"]) == (0.7, 1e-3)


def test_the_history_holds_a_rate_that_its_epoch_used():
    recipe = replace(RECIPE, optimizer="sgd", learning_rate=0.5, schedule="drops", drops=(2, 1))
    history = rates(recipe, epochs=4, train=samples(24))[2].history
    assert history["learning_rate"].tolist() == pytest.approx([0.5, 0.5, 0.05, 0.005])


def test_adamw_takes_the_recipes_values():
    recipe = replace(RECIPE, learning_rate=2e-3, weight_decay=0.03)
    used, optimizers, _ = rates(recipe, epochs=2, train=samples(80))
    assert type(optimizers[0]) is torch.optim.AdamW
    assert optimizers[0].param_groups[0]["weight_decay"] == 0.03
    factor = _schedule(recipe, 2, 10)
    assert used == pytest.approx([2e-3 * factor(step) for step in range(20)])


# Teacher and student


def test_the_teacher_is_left_as_it_was(taught):
    teacher, targets = taught
    teacher.zero_grad(set_to_none=True)
    before = state(teacher)
    for training in (False, True):
        teacher.train(training)
        teacher_targets(teacher, TRAIN.inputs)
        assert teacher.training is training
        assert same(state(teacher), before)
    calls = []
    handle = teacher.register_forward_hook(lambda *_: calls.append(1))
    run(distiller(targets))
    handle.remove()
    assert not calls  # it was run before, once
    assert same(state(teacher), before)
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())


def test_targets_are_left_as_they_were(taught):
    before = [t.clone() for t in taught[1][:4]]
    run(distiller(taught[1]))
    assert all(torch.equal(x, y) for x, y in zip(before, taught[1][:4], strict=True))


def test_targets_are_standardised_and_can_be_used_in_autograd(taught):
    targets = taught[1]
    assert targets.features.shape == (36, 64, 9)
    assert targets.logits.shape == (36, CLASSES)
    assert not targets.features.is_inference()
    assert not targets.logits.requires_grad
    alive = targets.deviation > 1e-5
    mean, deviation = targets.features.mean((0, 2)), targets.features.std((0, 2))
    torch.testing.assert_close(mean, torch.zeros(64), rtol=0, atol=1e-4)
    torch.testing.assert_close(deviation[alive], torch.ones(int(alive.sum())), rtol=0, atol=1e-4)
    assert alive.sum() > 32
    assert targets.features.isfinite().all()


def test_targets_do_not_depend_on_the_batches(taught):
    again = teacher_targets(taught[0], TRAIN.inputs, 5)
    for expected, found in zip(taught[1][:4], again[:4], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_targets_equal_a_live_pass_row_by_row_under_shuffling(taught):
    teacher, targets = taught
    alive = copy.deepcopy(teacher).eval()
    checked = []

    class Checking(Distiller):
        def forward(self, batch):
            with torch.no_grad():
                live = alive(batch.inputs)
            features = (live.features - targets.mean[:, None]) / targets.deviation[:, None]
            torch.testing.assert_close(
                self.targets.features[batch.rows], features, rtol=1e-4, atol=1e-4
            )
            torch.testing.assert_close(
                self.targets.logits[batch.rows], live.logits, rtol=1e-4, atol=1e-5
            )
            checked.append(batch.rows)
            return super().forward(batch)

    run(Checking(network(), targets, WEIGHTS), epochs=2)
    assert len(checked) == 8
    assert not torch.equal(checked[0], checked[0].sort().values)  # shuffled, that is


def test_the_terms_are_the_losses_of_the_projected_student(taught):
    objective, rows = distiller(taught[1]).eval(), torch.tensor([5, 0, 17, 3])
    targets = taught[1]
    batch = Batch(TRAIN.inputs[rows], TRAIN.target[rows], rows)
    with torch.no_grad():
        (found, terms), output = objective(batch), objective.student(batch.inputs)
        tckd, nckd = separated_logit_loss(output.logits, targets.logits[rows], batch.target, 5.0)
        projected = objective.project(output.features)
        feature = one_to_all_matching(projected, targets.features[rows], 8)
    assert tuple(terms) == TERMS
    expected = (feature, tckd, nckd, F.cross_entropy(output.logits, batch.target))
    torch.testing.assert_close(tuple(terms.values()), expected)
    total = sum(WEIGHTS[name] * value for name, value in terms.items())
    torch.testing.assert_close(found, total)


def test_the_projector_is_trained_and_no_part_of_the_student(taught):
    objective = distiller(taught[1])
    before = state(objective.project)
    assert objective.project[0].weight.shape == (64, 32, 1)
    optimizers = []
    handle = register_optimizer_step_pre_hook(lambda optimizer, *_: optimizers.append(optimizer))
    try:
        run(objective)
    finally:
        handle.remove()
    trained = {id(p) for group in optimizers[0].param_groups for p in group["params"]}
    assert trained == {id(p) for p in objective.parameters()}
    assert not torch.equal(objective.project[0].weight, before["0.weight"])
    assert not torch.equal(objective.project[1].running_mean, before["1.running_mean"])
    assert not any(name.startswith("project") for name in objective.student.state_dict())
    assert not any("targets" in name for name in objective.state_dict())


def test_the_student_in_a_distiller_changes(taught):
    objective = distiller(taught[1])
    before = state(objective.student)
    run(objective, epochs=1)
    after = state(objective.student)
    assert all(not torch.equal(before[n], after[n]) for n in before if n.endswith("weight"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"student": resnet1d(10, 5, 1 / 16, "small")}, "knows 3 classes and the student 5"),
        ({"heads": 7}, "heads is 7, which does not divide the 64 channels of the teacher"),
        ({"weighting": {"featur": 1.0}}, "The term 'featur' is unknown; the nearest name is feat"),
        ({"weighting": dict.fromkeys(TERMS, 0.0)}, "one above 0"),
    ],
)
def test_a_distiller_that_is_wired_wrongly_fails_when_it_is_built(taught, change, message):
    arguments = {"student": network(), "targets": taught[1], "weighting": WEIGHTS} | change
    with pytest.raises(ArgumentError, match=message):
        Distiller(**arguments)


def test_fixed_weights_give_the_weighted_sum():
    weigh = Fixed({"b": 2.0, "a": 0.5})
    terms = {"a": torch.tensor(3.0), "b": torch.tensor(5.0, requires_grad=True)}
    total = weigh(terms)
    assert total.item() == 11.5
    assert torch.autograd.grad(total, terms["b"])[0] == 2
    assert not list(weigh.parameters())


@pytest.mark.parametrize("weights", [{"a": -1.0}, {"a": 0.0, "b": 0.0}, {"a": math.nan, "b": 1.0}])
def test_bad_weights(weights):
    with pytest.raises(ArgumentError, match="each must be 0 or more and one above 0"):
        Fixed(weights)


# Repeatability


def trained(seed=0, disturb=0, targets=None):
    torch.manual_seed(disturb)
    torch.rand(disturb + 1)
    objective = distiller(targets) if targets else Supervised(network())
    history = run(objective, seed=seed, epochs=2).history
    return state(objective), history.drop(columns="seconds")


@pytest.mark.parametrize("distilled", [False, True])
def test_the_same_seed_gives_the_same_bits(taught, distilled):
    targets = taught[1] if distilled else None
    first, second, other = (trained(*seeds, targets=targets) for seeds in ((0, 0), (0, 5), (1, 0)))
    assert same(first[0], second[0])
    assert first[1].equals(second[1])
    assert not same(first[0], other[0])


def test_the_callers_random_numbers_are_untouched(taught):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    run(distiller(taught[1]))
    with seeded(9):
        torch.rand(5)
    assert torch.equal(torch.get_rng_state(), before)


def test_seeded_gives_the_generator_back_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(KeyError), seeded(1):
        raise KeyError(torch.rand(5))
    assert torch.equal(torch.get_rng_state(), before)


def test_derived_seeds_differ_by_purpose_and_are_the_same_everywhere():
    seeds = {derive_seed(seed, purpose) for seed in range(50) for purpose in ("order", "dropout")}
    assert len(seeds) == 100
    assert derive_seed(0, "order") == 1_428_798_525


# Precision, prediction, progress


def test_bf16_trains_with_a_finite_loss_and_keeps_float32_weights(taught):
    recipe = replace(RECIPE, precision="bf16-mixed")
    objective, kinds = distiller(taught[1]), set()
    objective.student.stem[0].register_forward_hook(lambda m, i, output: kinds.add(output.dtype))
    history = run(objective, recipe).history
    assert torch.isfinite(torch.tensor(history.select_dtypes("number").to_numpy())).all()
    assert kinds == {torch.bfloat16}  # in training and in validation
    assert {p.dtype for p in objective.parameters()} == {torch.float32}


def test_make_fabric_takes_the_recipes_precision():
    assert make_fabric(RECIPE)._precision.precision == "32-true"
    assert make_fabric(replace(RECIPE, precision="bf16-mixed"))._precision.precision == "bf16-mixed"


@pytest.mark.parametrize("training", [False, True])
def test_prediction_is_an_eval_pass_in_batches(training):
    student = network(dropout=0.5).train(training)
    before = state(student)
    found = predict_logits(student, TRAIN.inputs, batch_size=7)
    assert student.training is training
    assert same(state(student), before)
    assert found.dtype == torch.float32
    with torch.no_grad():
        expected = copy.deepcopy(student).eval()(TRAIN.inputs).logits
    torch.testing.assert_close(found, expected)


def test_progress_shows_title_terms_and_validation(capsys):
    run(Supervised(network()), progress=True, title="teacher from labels")
    shown = capsys.readouterr().err
    for part in ("teacher from labels", "epoch 2/2", "cross_entropy", "validation", "%"):
        assert part in shown
    assert len(shown.splitlines()) == 2, "off a terminal a line for each epoch"
    run(Supervised(network()))
    assert capsys.readouterr().err == ""


def meta_objective(taught, order=None, kind=Meta):
    student = network()
    order = order or torch.Generator().manual_seed(0)

    def next_batch():
        rows = torch.randint(len(VALIDATION.inputs), (8,), generator=order)
        return VALIDATION.inputs[rows], VALIDATION.target[rows]

    weighting = kind(student.feature_channels, 9, student, next_batch, 1e-2, every=2)
    return Distiller(student, taught[1], weighting, 4.0, 8)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_meta_weights_are_trained_in_either_precision(taught, precision):
    recipe = replace(RECIPE, precision=precision, weighting="meta", meta_share=0.1)
    history = run(meta_objective(taught), recipe, epochs=3).history
    weights = history[[f"weight_{name}" for name in TERMS]].to_numpy()
    assert torch.isfinite(torch.tensor(weights)).all()
    assert abs(weights[-1] - 1).max() > 1e-3


def test_the_weights_predictor_is_an_optimiser_group_of_its_own(taught):
    recipe = replace(RECIPE, weighting="meta", meta_share=0.1, meta_every=7)
    objective = meta_objective(taught)
    used = _optimizer(objective, recipe).param_groups
    assert [group["lr"] for group in used] == [RECIPE.learning_rate, 2 * RECIPE.learning_rate]
    assert [group["weight_decay"] for group in used] == [0.3, 0]
    assert {id(p) for p in used[1]["params"]} == {id(p) for p in objective.weigh.parameters()}
    held = sum(len(group["params"]) for group in used)
    assert held == len(list(objective.parameters())), "every parameter is in just one group"


def test_a_strategy_is_given_the_optimiser_of_the_training(taught):
    objective, seen = meta_objective(taught, kind=Trusted), []
    real = objective.weigh.gradient
    objective.weigh.gradient = lambda *read: seen.append(read[-1]) or real(*read)
    run(objective, META, epochs=1)
    assert seen
    assert {step.func for step in seen} == {optimizer_step}
    groups = [step.args[0].param_groups[0] for step in seen]
    held = {id(p) for p in groups[0]["params"]}
    assert {id(p) for p in objective.student.parameters()} <= held


def test_given_weights_are_never_called_collapsed(taught):
    given = WEIGHTS | {"feature": 0.0001}
    objective = Distiller(network(), taught[1], given, 4.0, 8)
    assert not any(run(objective).history["verdict"])


def test_naive_weights_that_collapse_are_named_in_the_history(taught):
    student = network()
    weighting = Naive(student.feature_channels, 9)
    with torch.no_grad():
        weighting.pvpn.layers[-1].bias.fill_(-8.0)
    row = run(Distiller(student, taught[1], weighting, 4.0, 8)).history.iloc[-1]
    assert "saturated" in row["verdict"]


# Interrupts


class Troubled(Supervised):
    """An objective to which something happens in the steps of the given numbers, from 1."""

    def __init__(self, trouble, *steps: int) -> None:
        super().__init__(network())
        self.trouble, self.at, self.seen = trouble, steps, 0

    def forward(self, batch):
        self.seen += 1
        total, terms = super().forward(batch)
        if self.seen in self.at and (changed := self.trouble(self, terms)):
            return sum(changed.values()), changed
        return total, terms


def interrupt(*_):
    signal.raise_signal(signal.SIGINT)


def interrupt_twice(*_):
    interrupt()
    interrupt()


@pytest.fixture
def optimised():
    """Counts the steps of all optimisers."""
    steps = []
    handle = register_optimizer_step_pre_hook(lambda *_: steps.append(1))
    yield steps
    handle.remove()


@pytest.fixture
def handler():
    """A handler of Ctrl-C that is no other's, so that it can be told."""

    def mine(number, frame):
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, mine)
    yield mine
    signal.signal(signal.SIGINT, before)


def test_the_first_interrupt_lets_the_step_end(optimised, handler, capfd):
    objective = Troubled(interrupt, 6)
    with pytest.raises(Interrupted) as stop:
        run(objective, title="student ← labels")
    said = "student ← labels was stopped at step 2 of 4 of epoch 2. Nothing of it is kept on disk."
    assert str(stop.value) == said
    assert isinstance(stop.value, KeyboardInterrupt)
    assert objective.seen == len(optimised) == 6
    assert "stopping after this step; Ctrl-C again stops at once" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_second_interrupt_stops_within_the_step(optimised, handler):
    objective = Troubled(interrupt_twice, 6)
    with pytest.raises(KeyboardInterrupt) as stop:
        run(objective)
    assert type(stop.value) is KeyboardInterrupt
    assert (objective.seen, len(optimised)) == (6, 5)
    assert signal.getsignal(signal.SIGINT) is handler
    assert not objective.student.training


def test_an_interrupt_in_the_last_validation_is_not_forgotten(handler):
    objective, epochs = Troubled(None), []

    def on_epoch(row):
        epochs.append(row["epoch"])
        if row["epoch"] == 2:
            interrupt()

    with pytest.raises(Interrupted, match="stopped after epoch 2 of 2"):
        run(objective, on_epoch=on_epoch)
    assert epochs == [1, 2]
    assert signal.getsignal(signal.SIGINT) is handler


def test_the_handler_of_interrupts_is_given_back_after_the_end_and_after_errors(handler):
    run(Troubled(None), epochs=1)
    assert signal.getsignal(signal.SIGINT) is handler

    def fail(*_):
        assert signal.getsignal(signal.SIGINT) is not handler
        raise KeyError("x")

    with pytest.raises(KeyError):
        run(Troubled(fail, 1))
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_job_that_ignores_interrupts_goes_on_ignoring_them(handler):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert len(run(Troubled(interrupt, 2)).history) == 2
    except KeyboardInterrupt:
        pytest.fail("it was stopped")
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_fit_works_in_another_thread(handler):
    found = []
    thread = threading.Thread(target=lambda: found.append(run(Troubled(None))))
    thread.start()
    thread.join(60)
    assert len(found[0].history) == 2
    assert signal.getsignal(signal.SIGINT) is handler


# Divergence and memory


def nan_loss(objective, terms):
    """The square root of −1, whose backward gives NaN too."""
    bad = torch.sqrt(0 * terms["cross_entropy"] - 1)
    return {"cross_entropy": terms["cross_entropy"], "extra": bad}


def infinite_loss(objective, terms):
    return {"cross_entropy": terms["cross_entropy"], "extra": terms["cross_entropy"] * math.inf}


def nan_gradient(objective, terms):
    return terms | {"extra": torch.sqrt(0 * terms["cross_entropy"])}


def infinite_gradient(objective, terms):
    here = terms["cross_entropy"]
    return terms | {"extra": torch.sqrt(here - here.detach())}


@pytest.mark.parametrize("step", [2, 7])
@pytest.mark.parametrize(
    ("trouble", "what", "extra"),
    [
        (nan_loss, "the loss is not finite", "nan"),
        (infinite_loss, "the loss is not finite", "inf"),
        (nan_gradient, "a gradient is not finite", "0"),
        (infinite_gradient, "a gradient is not finite", "0"),
    ],
)
def test_what_is_not_finite_stops_the_training_before_the_weights(
    optimised, trouble, what, extra, step
):
    objective, clean = Troubled(trouble, step), Troubled(None)
    kept, losses = [state(objective.student)], []
    with pytest.raises(HfldError) as stop:
        run(
            objective,
            title="the student",
            on_epoch=lambda row: kept.append(state(objective.student)),
        )
    steps, done = len(optimised), step - 1
    clean.trouble, clean.at = lambda _, terms: losses.append(terms["cross_entropy"].item()), (step,)
    run(clean)
    place = f"the student: {what} at step {done % 4 + 1} of 4 of epoch {done // 4 + 1}"
    said = str(stop.value)
    assert said.startswith(place)
    assert f"cross_entropy {losses[0]:.4g}, extra {extra}, total " in said
    rate = RECIPE.learning_rate * _schedule(RECIPE, 2, 4)(done)
    assert f"learning rate {rate:.3g})" in said
    for word in ("lower learning_rate", "32-true", "set_detect_anomaly(True)", "--detect-anomaly"):
        assert word in said
    assert steps == done, "the optimiser did not take this step"
    after = state(objective.student)
    assert all(torch.isfinite(value).all() for value in after.values())
    assert same(after, kept[-1])
    assert len(kept) == 1 + done // 4


@pytest.mark.parametrize(
    ("trouble", "operation"), [(nan_loss, "SqrtBackward0"), (nan_gradient, "MulBackward0")]
)
def test_anomaly_detection_names_the_operation(trouble, operation):
    with (
        pytest.warns(UserWarning, match="Traceback of forward call"),
        torch.autograd.set_detect_anomaly(True),
        pytest.raises(HfldError) as stop,
    ):
        run(Troubled(trouble, 2))
    assert f"'{operation}' returned nan values in its 0th output at step 2 of" in str(stop.value)
    assert "extra " in str(stop.value)


def test_with_anomaly_detection_other_losses_stop_too():
    with torch.autograd.set_detect_anomaly(True), pytest.raises(HfldError, match="loss is not fin"):
        run(Troubled(lambda *_: {"a": torch.tensor(math.nan, requires_grad=True)}, 2))


@pytest.mark.parametrize("epochs", [1, 3])
def test_weights_that_overflow_in_an_epochs_last_step_are_not_its_best(epochs):
    objective = Supervised(network())
    before = state(objective.student)
    recipe = replace(RECIPE, optimizer="sgd", learning_rate=1e38, schedule="drops", drops=())
    with pytest.raises(HfldError, match=r"on validation data is not finite after epoch 1 \(cross"):
        run(objective, recipe, epochs=epochs, train=samples(8))
    assert same(state(objective.student), before)


def fail(error):
    def trouble(*_):
        raise error

    return trouble


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 8 bytes."
        ),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_lack_of_memory_is_said_in_a_sentence(error):
    objective, kept = Troubled(fail(error), 6), []
    with pytest.raises(HfldError, match=r"t: memory ran out\. Nothing .* batch_size"):
        run(objective, title="t", on_epoch=lambda _: kept.append(state(objective.student)))
    assert same(state(objective.student), kept[0])


@pytest.mark.parametrize("text", ["tensors allocated on other devices", "shape '[3]' is invalid"])
def test_other_errors_pass_as_they_are(text):
    error = RuntimeError(text)
    with pytest.raises(RuntimeError) as stop:
        run(Troubled(fail(error), 6))
    assert stop.value is error


# Checkpoints; whole chains and killed processes are in test_resume.py


def checkpoints(folder, resume=False) -> StageCheckpoints:
    return StageCheckpoints(Checkpoints(folder, {}, {}, resume), "student", {})


def noisy(inputs, generator):
    return inputs + 0.1 * torch.randn(inputs.shape, generator=generator)


class Drifting(Supervised):
    """Its loss depends on a module that changes and that no optimiser holds."""

    def __init__(self) -> None:
        super().__init__(network())
        self._steps = (nn.BatchNorm1d(1),)

    def get_extra_state(self):
        return [dict(module.state_dict()) for module in self._steps]

    def set_extra_state(self, state):
        self._steps[0].load_state_dict(state[0])

    def forward(self, batch):
        self._steps[0].num_batches_tracked += 1
        factor = 1 + 0.1 * self._steps[0].num_batches_tracked
        total, terms = super().forward(batch)
        return total * factor, {name: value * factor for name, value in terms.items()}


SGD = replace(RECIPE, optimizer="sgd", learning_rate=0.02, schedule="drops", drops=(2,))
META = replace(RECIPE, weighting="meta", meta_share=0.1, meta_every=2)


@pytest.mark.parametrize("kind", ["augmented", "sgd", "outside", "meta", "trusted", "uncertainty"])
def test_an_interrupted_training_goes_on_with_the_same_bits(tmp_path, taught, kind):
    def train(folder=None, resume=False, on_epoch=None):
        order = torch.Generator().manual_seed(5)
        objective, options, recipe = Supervised(network()), {}, RECIPE
        if kind == "augmented":
            options["augment"] = noisy
        elif kind == "sgd":
            recipe = SGD
        elif kind == "outside":
            objective = Drifting()
        elif kind == "meta":
            with seeded(6):
                objective, recipe = meta_objective(taught, order), META
            options["generators"] = {"meta": order}
        elif kind == "trusted":
            with seeded(6):
                recipe, objective = META, meta_objective(taught, order, Trusted)
            objective.weigh.low, objective.weigh.high = -9.0, 9.0  # every signal moves the weights
            options["generators"] = {"meta": order}
        else:
            with seeded(6):
                objective = Distiller(network(), taught[1], Uncertainty(32, 9))
        if folder:
            options["checkpoints"] = checkpoints(folder, resume)
        result = run(objective, recipe, epochs=4, on_epoch=on_epoch, **options)
        torch.testing.assert_close(result.seconds, result.history["seconds"].sum())
        return state(objective), result.history.drop(columns="seconds"), result.best_epoch

    def end(row):
        if row["epoch"] == 2:
            raise KeyError("power cut")

    with seeded(0):
        undisturbed = train()
    with seeded(1), pytest.raises(KeyError):
        train(tmp_path, on_epoch=end)
    numbers = []
    with seeded(2):
        resumed = train(tmp_path, resume=True, on_epoch=lambda row: numbers.append(row["epoch"]))
    assert numbers == [3, 4]
    assert same(resumed[0], undisturbed[0])
    assert resumed[1].equals(undisturbed[1])
    assert resumed[2] == undisturbed[2]
    if kind == "trusted":
        weights = resumed[1][["weight_tckd", "weight_nckd"]].to_numpy()
        assert abs(weights[-1] - 1).max() > 1e-3


def test_the_best_epoch_may_lie_before_the_interruption(tmp_path, monkeypatch):
    sure = iter([1.0, 3.0, 2.0, 2.5])

    def logits(*_, **__):
        return next(sure) * F.one_hot(VALIDATION.target, CLASSES).float()

    monkeypatch.setattr("hfld_lite.training.predict_logits", logits)
    first, second, best = Supervised(network()), Supervised(network(1)), []

    def end(row):
        if row["epoch"] == 2:
            best.append(state(first.student))
        elif row["epoch"] == 3:
            raise KeyError("power cut")

    with pytest.raises(KeyError):
        run(first, epochs=4, on_epoch=end, checkpoints=checkpoints(tmp_path))
    result = run(second, epochs=4, checkpoints=checkpoints(tmp_path, resume=True))
    assert result.best_epoch == 2
    assert same(state(second.student), best[0])
    assert len(result.history) == 4


def test_an_interrupted_epoch_is_repeated_from_its_start_and_said_to_be(tmp_path):
    undisturbed = Troubled(None)
    run(undisturbed, epochs=3)
    objective = Troubled(interrupt, 7)
    with pytest.raises(Interrupted) as stop:
        run(objective, epochs=3, title="s", checkpoints=checkpoints(tmp_path))
    newest = tmp_path / "student.epoch-00001.safetensors"
    assert str(stop.value) == (
        f"s was stopped at step 3 of 4 of epoch 2. The last good checkpoint is {newest}. The same "
        "call with resume=True continues from there."
    )
    again = Troubled(None)
    run(again, epochs=3, checkpoints=checkpoints(tmp_path, resume=True))
    assert again.seen == 8
    assert same(state(again.student), state(undisturbed.student))


def test_after_divergence_or_lack_of_memory_the_checkpoint_is_named_and_good(tmp_path):
    for name, trouble in (("a", nan_loss), ("b", fail(MemoryError()))):
        with pytest.raises(HfldError) as stop:
            run(Troubled(trouble, 7), epochs=3, checkpoints=checkpoints(tmp_path / name))
        kept = tmp_path / name / "student.epoch-00001.safetensors"
        assert f"The last good checkpoint is {kept}." in str(stop.value)
        found = checkpoints(tmp_path / name, resume=True).load()
        assert found["epoch"] == 1
        assert all(torch.isfinite(value).all() for value in found["objective"].values())


# Steps


@pytest.mark.parametrize(("count", "batch"), [(40, 8), (80, 8), (144, 14), (320, 32), (10_000, 32)])
def test_a_batch_is_a_tenth_of_the_training_part_within_limits(count, batch):
    assert Recipe().batch(count) == batch
    assert Recipe(batch_size=5).batch(count) == 5


@pytest.mark.parametrize(("count", "epochs"), [(40, 80), (144, 40), (1684, 10), (100_000, 10)])
def test_a_budget_of_steps_becomes_whole_passes(count, epochs):
    recipe = Recipe(steps=400)
    assert recipe.epochs("student", count) == epochs
    each = count // recipe.batch(count)
    assert epochs * each >= 400
    assert epochs == 10 or (epochs - 1) * each < 400
    fixed = replace(recipe, student=Network(10, 1 / 16, epochs=7))
    assert fixed.epochs("student_alone", count) == fixed.epochs("student", count) == 7


def test_patience_ends_a_training_that_gets_no_better():
    still = replace(RECIPE, learning_rate=1e-12, weight_decay=0, patience=8)
    result = run(Supervised(network()), still, epochs=20)
    # 36 recordings in batches of 8 are 4 steps an epoch; batch norm's averages settle at first.
    assert len(result.history) < 20
    assert len(result.history) == result.best_epoch + 2
    assert len(run(Supervised(network()), replace(still, patience=None), epochs=20).history) == 20


def test_a_training_that_patience_ended_is_finished_when_resumed(tmp_path):
    still = replace(RECIPE, learning_rate=1e-12, weight_decay=0, patience=8)
    lengths = []
    for resume in (False, True):
        folder = Checkpoints(tmp_path / "kept", {}, "cpu", resume)
        made = Supervised(network())
        found = run(made, still, epochs=20, checkpoints=folder.stage("student", {}))
        lengths.append(len(found.history))
    assert lengths[0] == lengths[1] < 20


def test_a_budget_that_ends_within_the_warmup_is_refused():
    with pytest.raises(ArgumentError, match="warmup is 8 steps and a network trains for 8"):
        run(Supervised(network()), replace(RECIPE, warmup=8))
    short = replace(RECIPE, warmup=2)
    factors = [_schedule(short, 5, 4)(step) for step in range(20)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors[-1] < 0.02


def test_rare_classes_are_drawn_as_often_as_common_ones():
    target = torch.tensor([0] * 90 + [1] * 10)
    drawn = torch.cat(
        [target[shuffle(target, torch.Generator().manual_seed(i), True)] for i in range(50)]
    )
    assert abs(float(drawn.float().mean()) - 0.5) < 0.03
    generator = torch.Generator().manual_seed(0)
    assert sorted(shuffle(target, generator, False).tolist()) == list(range(100))
    even = torch.tensor([0] * 75 + [1] * 25)  # 3 to 1 is not more than 3 to 1
    assert sorted(shuffle(even, generator, True).tolist()) == list(range(100))


def test_decay_is_the_optimisers_own_unless_it_is_given():
    for optimizer, decay in (("adamw", 0.3), ("sgd", 1e-5)):
        made = _optimizer(Supervised(network()), Recipe(optimizer=optimizer))
        assert made.param_groups[0]["weight_decay"] == decay
    made = _optimizer(Supervised(network()), Recipe(weight_decay=0.0))
    assert made.param_groups[0]["weight_decay"] == 0
