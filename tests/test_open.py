"""What a user may bring: networks, trained teachers, losses, weightings and data sets."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from hfld_lite import (
    ArgumentError,
    DataError,
    Network,
    Output,
    Recipe,
    RecipeError,
    adapt,
    distill_chain,
    resnet1d,
    rival,
    weighting,
)
from hfld_lite.data.augmentation import Augmentation
from hfld_lite.data.examples import Examples, Stored, probe
from hfld_lite.distillation import TERMS
from hfld_lite.errors import note_weak_teacher
from hfld_lite.hierarchy import Trainer
from hfld_lite.rivals.image_networks import cifar_resnet
from hfld_lite.weighting import WEIGHTINGS, Fixed

SMALL = Recipe(
    teacher=Network(10, 1 / 8, epochs=2),
    secondary_teachers=(Network(10, 1 / 16, epochs=2),),
    student=Network(10, 1 / 16, epochs=2),
    batch_size=8,
    samples=600,
    view="spectrum",
    bins_by="cutting",
    heads=4,
)


class OneLayer(nn.Module):
    """A network of a user, from vectors to (features, logits)."""

    def __init__(self, classes, channels=8, positions=5):
        super().__init__()
        self.first, self.last = nn.Linear(1, channels), nn.Linear(channels * positions, classes)
        self.pool = nn.AdaptiveAvgPool1d(positions)

    def forward(self, x):
        features = self.pool(torch.relu(self.first(x.unsqueeze(2))).transpose(1, 2))
        return Output(features, self.last(features.flatten(1)))


def images(classes=3, count=36, side=8, seed=0):
    """Images whose mean tells the class, in groups of two."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) // 2 % classes
    x = rng.normal(y[:, None, None, None], 0.5, (count, 3, side, side)).astype(np.float32)
    return [(x[i], int(y[i]), f"g{i // 2}") for i in range(count)]


class Items(Dataset):
    """A data set of a list."""

    def __init__(self, items, classes=None):
        self.items = items
        if classes:
            self.classes = classes

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def cnn(classes=3, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, classes),
    )


def quiet(data, recipe=SMALL, **options):
    return distill_chain(data, recipe, progress=False, **options)


def state(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


# Networks


def test_a_network_of_ones_own_takes_a_role_and_stays_as_it_was(tiny_recordings):
    classes = len(tiny_recordings.class_names)
    mine = OneLayer(classes)
    before = state(mine)
    chain = quiet(tiny_recordings, networks={"secondary_teacher": mine}, controls=())
    assert same(before, state(mine))
    trained = chain.stages["secondary_teacher"].network
    assert isinstance(trained, OneLayer)
    assert not same(before, state(trained))
    assert chain.given == {"secondary_teacher"}
    assert list(chain.test(tiny_recordings).table["role"]) == list(SMALL.chain)


def test_controls_begin_with_the_given_students_weights(tiny_recordings):
    mine = OneLayer(len(tiny_recordings.class_names))
    trainer = Trainer(tiny_recordings, SMALL, progress=False, networks={"student": mine})
    for role in ("student", "student_alone", "student_direct"):
        assert same(state(trainer.network(role)[0]), state(mine))


@pytest.mark.parametrize("path", ["3", "3.0"])
def test_adapt_taps_a_layer_and_changes_nothing(path):
    module, x = cnn().eval(), torch.rand(4, 3, 8, 8)
    adapted = adapt(module, path).eval()
    features, logits = adapted(x)
    torch.testing.assert_close(logits, module(x))
    assert features.shape == (4, 16, 16)
    tapped = module.get_submodule(path)
    assert not tapped._forward_hooks
    copied = pickle.loads(pickle.dumps(adapted))
    torch.testing.assert_close(copied(x).features, features)


def test_adapt_refuses_a_path_that_taps_nothing_and_names_the_nearest():
    with pytest.raises(
        ArgumentError, match="has no layer 'block3' to tap; the nearest name is block"
    ):
        adapt(nn.Sequential(), "block3") if False else adapt(
            nn.ModuleDict({"block": nn.Linear(2, 2)}), "block3"
        )


def test_a_vector_is_one_position_and_says_so():
    adapted = adapt(cnn(), "5")
    with pytest.warns(UserWarning, match="counts as one position: one-to-all matching is then one"):
        assert adapted(torch.rand(2, 3, 8, 8)).features.shape == (2, 16, 1)


def test_a_layer_that_is_not_used_is_named():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.used(x)

    with pytest.raises(ArgumentError, match="The layer 'idle' gave NoneType"):
        adapt(Idle(), "idle")(torch.rand(2, 4))


def returns(value):
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return value(x)

    return Fixed()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda x: x, r"returns a tensor of shape \(2, 300\); it must return Output"),
        (lambda x: None, "returns a NoneType; it must return Output"),
        (lambda x: Output(x, x), "returns features that are a tensor of shape"),
        (lambda x: Output(x[:, :0, None], x[:, 0]), "must leave a position or more"),
        (
            lambda x: Output(x[:, None, :5], x[:, :9]),
            "knows 9 classes, and the data have 4",
        ),
        (lambda x: x.view(7, -1), "cannot read inputs of shape"),
    ],
)
def test_networks_that_do_not_fit_are_refused_before_training(
    value, message, tiny_recordings, monkeypatch
):
    monkeypatch.setattr("hfld_lite.hierarchy.fit", lambda *_, **__: pytest.fail("training began"))
    with pytest.raises(ArgumentError, match="network of the student.*" + message):
        quiet(tiny_recordings, networks={"student": returns(value)})


def test_a_role_that_is_not_there_names_the_nearest(tiny_recordings):
    with pytest.raises(ArgumentError, match="'teachr'; the nearest name is teacher"):
        quiet(tiny_recordings, networks={"teachr": OneLayer(4)})
    with pytest.raises(ArgumentError, match="'teacher'; name it in networks"):
        quiet(tiny_recordings, trained={"teacher"})


def test_heads_must_divide_the_channels_of_a_given_teacher(tiny_recordings):
    with pytest.raises(ArgumentError, match="heads is 4, which does not divide the 6"):
        quiet(tiny_recordings, networks={"teacher": OneLayer(4, channels=6)})


def test_probe_leaves_a_network_as_it_was():
    network = resnet1d(10, 3, 1 / 16, "small").train()
    network.stem.eval()
    before = state(network)
    shape = probe(network, torch.rand(2, 300))
    assert shape == (32, 9, 3)
    assert same(before, state(network))
    assert network.training
    assert not network.stem.training


# Trained teachers


def test_a_trained_teacher_is_taken_as_it_is(tiny_recordings):
    first = quiet(tiny_recordings, controls=())
    teacher = first.stages["teacher"].network
    epochs = []
    chain = quiet(
        tiny_recordings,
        networks={"teacher": teacher},
        trained={"teacher"},
        controls=(),
        on_epoch=lambda role, row: epochs.append(role),
    )
    assert "teacher" not in epochs
    assert same(state(chain.stages["teacher"].network), state(teacher))
    # From the same teacher the same students come.
    for role in ("secondary_teacher", "student"):
        assert same(state(chain.stages[role].network), state(first.stages[role].network))
    row = chain.stages["teacher"].fit.history.iloc[0]
    best = first.stages["teacher"].fit
    before = best.history.set_index("epoch").loc[best.best_epoch]
    assert row["validation_accuracy"] == before["validation_accuracy"]


def test_a_teacher_that_knows_nothing_is_named(tiny_recordings):
    teacher = OneLayer(len(tiny_recordings.class_names))
    nn.init.zeros_(teacher.last.weight)
    with pytest.warns(UserWarning, match="The given teacher is right in"):
        quiet(tiny_recordings, networks={"teacher": teacher}, trained={"teacher"}, controls=())


def test_a_teacher_below_the_student_alone_is_named():
    with pytest.warns(UserWarning, match=r"right in 50.0% .* and the student alone in 90.0%"):
        note_weak_teacher("teacher", 0.5, alone=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        note_weak_teacher("teacher", 0.9, chance=0.5, alone=0.9)


# Losses and weightings


@pytest.fixture
def mine():
    """A registered loss that goes again after the test."""

    @rival("halved_error")
    def halved(student, teacher, target):
        return 0.5 * (student.logits - teacher.logits).square().mean()

    yield halved
    del TERMS["halved_error"]


def test_one_function_and_one_decorator_make_a_method(mine, tiny_recordings):
    chain = quiet(tiny_recordings, SMALL.replace(method="halved_error"), controls=())
    history = chain.stages["student"].fit.history
    assert (history["halved_error"] > 0).all()
    assert not {"feature", "tckd"} & set(history.columns)
    expected = history["halved_error"] + history["cross_entropy"]
    np.testing.assert_allclose(history["total"], expected, rtol=1e-5)
    assert (history["weight_halved_error"] == 1).all()


def test_a_fifth_term_is_one_weight(mine, tiny_recordings):
    recipe = SMALL.replace(terms={"halved_error": 0.25})
    history = quiet(tiny_recordings, recipe, controls=()).stages["student"].fit.history
    weights = {"feature": 1, "tckd": 0.3, "nckd": 0.3, "cross_entropy": 1, "halved_error": 0.25}
    expected = sum(weight * history[name] for name, weight in weights.items())
    np.testing.assert_allclose(history["total"], expected, rtol=1e-5)


@pytest.mark.parametrize("strategy", ["naive", "uncertainty", "meta", "trusted", "published"])
def test_every_strategy_weighs_a_fifth_term(strategy, mine, tiny_recordings):
    recipe = SMALL.replace(
        terms={"halved_error": 1.0}, weighting=strategy, meta_share=0.25, meta_every=2
    )
    history = quiet(tiny_recordings, recipe, controls=()).stages["student"].fit.history
    assert (history["weight_halved_error"] > 0).all()


@pytest.mark.parametrize(
    ("names", "value", "found"),
    [
        (("each",), lambda z: z.square(), r"\(8, 4\)"),
        (("one", "two"), lambda z: z.square().mean(), r"\(\)"),
    ],
)
def test_a_loss_that_is_not_a_scalar_is_refused(names, value, found, tiny_recordings):
    rival(*names)(lambda student, teacher, target: value(student.logits - teacher.logits))
    try:
        with pytest.raises(ArgumentError, match=f"must give a scalar each; it gave {found}"):
            quiet(tiny_recordings, SMALL.replace(method=names[0]), controls=())
    finally:
        for name in names:
            del TERMS[name]


def test_a_name_that_is_taken_is_refused(mine):
    for name in ("halved_error", "feature"):
        with pytest.raises(ArgumentError, match=f"{name!r} is registered already; choose another"):
            rival(name)(mine)
    with pytest.raises(ArgumentError, match="'fixed' is registered already"):
        weighting("fixed")(Fixed)
    with pytest.raises(ArgumentError, match="a name of your own"):
        rival()


def test_a_weighting_of_ones_own_is_known_by_its_name(tiny_recordings):
    @weighting("twice")
    class Twice(Fixed):
        """Twice the recipe's weights."""

        @classmethod
        def of(cls, recipe, *_given):
            return cls({name: 2 * weight for name, weight in recipe.weights.items()})

    try:
        chain = quiet(tiny_recordings, SMALL.replace(weighting="twice"), controls=())
    finally:
        del WEIGHTINGS["twice"]
    assert (chain.stages["student"].fit.history["weight_feature"] == 2).all()


def test_methods_and_terms_that_are_unknown_name_the_nearest():
    with pytest.raises(RecipeError, match="method is 'fitnett'; the nearest name is fitnet"):
        Recipe(method="fitnett")
    with pytest.raises(RecipeError, match="terms is 'dkdd'; the nearest name is dkd"):
        Recipe(terms={"dkdd": 1.0})


# Data


def image_chain(data, **options):
    networks = {
        "teacher": cifar_resnet(20, 3),
        "secondary_teacher": adapt(cnn(seed=1), "3"),
        "student": adapt(cnn(seed=2), "3"),
    }
    recipe = SMALL.replace(samples=None, validation=0.25, test=0.25)
    return quiet(data, recipe, networks=networks, **options)


def test_a_dataset_of_images_trains_a_chain_and_is_tested():
    torch.manual_seed(0)
    data = Items(images(), classes=["low", "middle", "high"])
    chain = image_chain(data)
    result = chain.test(data)
    assert list(result.table["role"]) == [
        "teacher",
        "secondary_teacher",
        "student",
        "student_alone",
    ]
    assert set(result.predictions["class"]) == {"low", "middle", "high"}
    groups = [{data[i][2] for i in part} for part in chain.split.parts().values()]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]


def test_inputs_from_memory_and_from_the_dataset_give_the_same_bits():
    chains = []
    for options in ({"in_memory": True}, {"in_memory": False}, {"in_memory": False, "workers": 1}):
        torch.manual_seed(0)
        chains.append(image_chain(Items(images()), controls=("alone", "direct"), **options))
    for other in chains[1:]:
        assert other.examples.inputs is None
        for role, stage in chains[0].stages.items():
            assert same(state(stage.network), state(other.stages[role].network)), role
            one, two = (s.fit.history.drop(columns="seconds") for s in (stage, other.stages[role]))
            assert one.equals(two)


def test_recordings_too_large_for_memory_give_the_same_bits(tiny_recordings, monkeypatch):
    whole = quiet(tiny_recordings)
    monkeypatch.setattr("hfld_lite.data.examples.MEMORY_SHARE", 0.0)
    stored = quiet(tiny_recordings)
    assert whole.examples.inputs is not None
    assert stored.examples.inputs is None
    for role, stage in whole.stages.items():
        assert same(state(stage.network), state(stored.stages[role].network)), role
    assert stored.test(tiny_recordings).table.equals(whole.test(tiny_recordings).table)


def test_items_without_groups_are_a_group_each():
    x, y = torch.rand(6, 5), torch.tensor([0, 1, 2, 0, 1, 2])
    examples = Examples.of(TensorDataset(x, y), SMALL)
    assert examples.class_names == ("0", "1", "2")
    assert len(set(examples.groups)) == 6
    torch.testing.assert_close(examples.inputs, x)
    assert isinstance(Examples.of(TensorDataset(x, y), SMALL, False).everything(), Stored)


class Lying(Items):
    def __len__(self):
        return len(self.items) + 1


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


def broken(index, item):
    items = images()
    items[index] = item
    return Items(items)


X = np.zeros((3, 8, 8), np.float32)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (Lying(images()), DataError, r"Lying\[36\]: there is no such item.*36|37 items, as len"),
        (broken(5, (X[:2], 0)), DataError, r"Items\[5\]: x has shape \(2, 8, 8\); expected \(3, 8"),
        (broken(4, (X * np.nan, 0)), DataError, r"Items\[4\]: x holds NaN or infinity"),
        (broken(3, (X, 1.5)), DataError, r"Items\[3\]: y is 1.5; expected a whole number from 0"),
        (broken(3, (X, -2)), DataError, r"Items\[3\]: y is -2"),
        (broken(2, X), DataError, r"Items\[2\]: the item is a ndarray; expected \(x, y\)"),
        (broken(2, ("text", 1)), DataError, r"Items\[2\]: x is a str; expected a tensor"),
        (Items([(X, 7)] * 9 + [(X, 0)]), DataError, "no item has the label 1"),
        (Items([(X, 0)] * 9), DataError, "expected two classes or more"),
        (Items([]), DataError, "it has no items"),
        (Stream(), ArgumentError, "an IterableDataset; splits and cached answers"),
        ([1, 2], (ArgumentError, DataError), "the item is a int"),
        (5, ArgumentError, "The data are a int; give Recordings, or a dataset"),
    ],
)
def test_datasets_that_cannot_be_used_are_refused(data, error, message):
    with pytest.raises(error, match=message):
        Examples.of(data, SMALL)


def test_a_dataset_that_cannot_be_pickled_is_refused_where_there_are_workers():
    data = Items(images())
    data.open_file = lambda: None
    assert len(Examples.of(data, SMALL)) == 36
    with pytest.raises(ArgumentError, match="Items cannot be sent to worker processes"):
        Examples.of(data, SMALL, workers=2)


def test_recordings_only_can_be_augmented():
    networks = dict.fromkeys(SMALL.chain, cifar_resnet(20, 3))
    recipe = SMALL.replace(augmentation=Augmentation(), validation=0.25, test=0.25)
    with pytest.raises(ArgumentError, match="varies recordings, and these data are a dataset"):
        quiet(Items(images()), recipe, networks=networks)


def test_a_chain_with_given_networks_is_resumed(tiny_recordings, tmp_path):
    mine = OneLayer(len(tiny_recordings.class_names))
    options = {"networks": {"teacher": mine}, "folder": tmp_path / "kept", "controls": ()}
    whole = quiet(tiny_recordings, networks={"teacher": mine}, controls=())

    def stop(role, row):
        if role == "secondary_teacher":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quiet(tiny_recordings, on_epoch=stop, **options)
    resumed = quiet(tiny_recordings, resume=True, **options)
    for role, stage in whole.stages.items():
        assert same(state(stage.network), state(resumed.stages[role].network)), role
    other = OneLayer(len(tiny_recordings.class_names), channels=16)
    with pytest.raises(RecipeError, match="another networks"):
        quiet(tiny_recordings, resume=True, **{**options, "networks": {"teacher": other}})


# What a trial by others found


def test_a_layers_output_is_kept_although_a_later_one_works_in_place():
    module = nn.Sequential(
        nn.Conv1d(1, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(24, 3)
    )
    x = torch.randn(2, 1, 8)
    torch.testing.assert_close(adapt(module, "0")(x).features, module[0](x))
    assert adapt(module, "0")(x).features.min() < 0


class FailsInTraining(OneLayer):
    def forward(self, x):
        if self.training:
            raise KeyError("only in training")
        return super().forward(x)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (FailsInTraining(4), "fails in a training step: 'only in training'"),
        (OneLayer(4).requires_grad_(False), "none of its parameters can be trained"),
        (adapt(nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 4)), "0"), "has lazy layers"),
    ],
)
def test_networks_that_fail_in_training_are_refused_before(
    network, message, tiny_recordings, monkeypatch
):
    monkeypatch.setattr("hfld_lite.hierarchy.fit", lambda *_, **__: pytest.fail("training began"))
    with pytest.raises(ArgumentError, match=f"network of the student.*{message}"):
        quiet(tiny_recordings, networks={"student": network})


def test_a_frozen_network_may_be_a_trained_teacher(tiny_recordings):
    teacher = OneLayer(4).requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = {"networks": {"teacher": teacher}, "trained": {"teacher"}, "controls": ()}
        chain = quiet(tiny_recordings, **given)
    assert same(state(chain.stages["teacher"].network), state(teacher))


def test_tied_weights_are_kept_in_checkpoints(tiny_recordings, tmp_path):
    class Tied(OneLayer):
        def __init__(self):
            super().__init__(4)
            self.again = self.first

    chain = quiet(
        tiny_recordings, networks={"student": Tied()}, folder=tmp_path / "kept", controls=()
    )
    assert chain.stages["student"].network.again is chain.stages["student"].network.first


def test_a_test_on_other_data_is_refused(tiny_recordings):
    items = images()
    chain = image_chain(Items(items), controls=())
    with pytest.raises(DataError, match="not the data that the chain was trained on"):
        chain.test(Items(items[::-1]))
    with pytest.raises(DataError, match="not the data that the chain was trained on"):
        chain.test(tiny_recordings)


def test_items_that_change_from_reading_to_reading_are_refused():
    class Random(Items):
        def __getitem__(self, index):
            x, y, group = super().__getitem__(index)
            return x + np.random.default_rng().normal(size=x.shape), y, group

    with pytest.raises(DataError, match="each reading gives another x or y"):
        Examples.of(Random(images()), SMALL)


def test_a_label_that_is_an_identity_number_takes_no_memory():
    with pytest.raises(
        DataError, match="the labels run to 1000000000, and there are 36 labelled items"
    ):
        Examples.of(broken(3, (X, 10**9)), SMALL)
    with pytest.raises(DataError, match="x is a ndarray; expected a tensor or an array of real"):
        Examples.of(broken(3, (X.astype(complex), 1)), SMALL)


@pytest.mark.parametrize("name", ["hflkd", "epoch", "total", "verdict", "cross_entropy", ""])
def test_names_of_other_things_are_refused(name):
    with pytest.raises(ArgumentError, match="term needs a name of your own"):
        rival(name)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda s, t, y: 0.5, "must give a scalar each; it gave float"),
        (lambda s, t, y: (s.logits - t.logits).square().mean().detach(), "does not depend on the"),
        (lambda s, t, y: s.logits.nothing, "failed .AttributeError: 'Tensor' object has no attr"),
        (lambda s, t, y: (s.features - t.features).mean(), "register it with projected=True"),
    ],
)
def test_losses_that_fail_say_so_in_a_sentence(loss, message, tiny_recordings):
    rival("mine")(loss)
    try:
        with pytest.raises(ArgumentError, match=f"The loss of mine .*{message}"):
            quiet(tiny_recordings, SMALL.replace(method="mine"), controls=())
    finally:
        del TERMS["mine"]


def test_weightings_are_classes_of_weighting():
    with pytest.raises(ArgumentError, match="'odd' must be a class made of Weighting"):
        weighting("odd")(lambda: None)
    with pytest.raises(ArgumentError, match="A weighting needs a name: @weighting"):
        weighting(Fixed)


def test_recipes_can_be_keys():
    assert len({Recipe(), Recipe(), Recipe(terms={"kd": 1.0})}) == 2
