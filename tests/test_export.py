"""ONNX graphs: equal to torch, small, quantised on training inputs."""

import copy

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from hfld_lite import ArgumentError, DataError, Network, Recipe, resnet1d, spectrum, time_view
from hfld_lite.data.views import network_inputs
from hfld_lite.edge.export import (
    CALIBRATION,
    INPUT,
    OPSETS,
    _plain,
    _Spectrum,
    _View,
    quantise,
    quantise_dynamically,
    session,
    to_onnx,
)


@pytest.fixture(scope="module")
def network():
    """A network whose batch norm has seen data, left in train mode."""
    torch.manual_seed(0)
    made = resnet1d(10, 4, 1 / 8, "small")
    for _ in range(5):
        made(torch.rand(16, 900))
    return made


@pytest.fixture(scope="module")
def model(network):
    return to_onnx(network, 900)


def run(model: onnx.ModelProto, inputs: np.ndarray) -> np.ndarray:
    return session(model).run(None, {INPUT: np.asarray(inputs, np.float32)})[0]


def torchs(network, inputs) -> np.ndarray:
    with torch.inference_mode():
        return torch.softmax(copy.deepcopy(network).eval()(inputs).logits, 1).numpy()


def test_the_graph_answers_as_torch_does_in_any_batch(network, model):
    inputs = torch.rand(37, 900)
    expected = torchs(network, inputs)
    assert np.abs(expected - expected.mean(0)).max() > 1e-3, "the network tells inputs apart"
    np.testing.assert_allclose(run(model, inputs), expected, atol=1e-5)
    np.testing.assert_allclose(run(model, inputs[:1]), expected[:1], atol=1e-5)


def test_exporting_leaves_the_network_as_it_was(network):
    before, pool = copy.deepcopy(network.state_dict()), network.pool
    to_onnx(network, 900)
    assert network.training
    assert network.pool is pool
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


LOWEST_IR = {18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}
"""By opset, from the table of released versions in ONNX's specification."""


def needs(model: onnx.ModelProto) -> tuple[int, dict[str, int]]:
    """What a runtime must know to open the file."""
    return model.ir_version, {entry.domain: entry.version for entry in model.opset_import}


def test_quantised_files_need_no_newer_runtime_than_the_others(network, model):
    assert needs(model) == (8, {"": 18})
    inputs = np.random.default_rng(0).random((60, 900))
    assert needs(quantise(model, inputs)) == (8, {"": 18})
    assert needs(quantise_dynamically(model)) == (8, {"": 18})


def test_a_domain_that_a_branch_uses_stays():
    then = onnx.helper.make_graph(
        [onnx.helper.make_node("Mine", [], ["y"], domain="mine")], "g", [], []
    )
    node = onnx.helper.make_node("If", ["x"], ["z"], then_branch=then, else_branch=then)
    imports = [onnx.helper.make_opsetid(name, 1) for name in ("", "mine", "unused")]
    graph = onnx.helper.make_graph([node], "g", [], [])
    made = _plain(onnx.helper.make_model(graph, opset_imports=imports))
    assert needs(made)[1] == {"": 1, "mine": 1}


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_that_is_offered_gives_the_same_answers(network, opset):
    recipe = Recipe(view="spectrum", bins=900, bins_by="cutting")
    made = to_onnx(network, 900, recipe=recipe, samples=2100, opset=opset)
    assert needs(made) == (LOWEST_IR[opset], {"": opset})
    signals = torch.randn(5, 2100)
    np.testing.assert_allclose(
        run(made, signals), torchs(network, spectrum(signals, 900)), atol=1e-4
    )


@pytest.mark.parametrize("opset", [17, 24, 0, "20"])
def test_other_opsets_are_refused(network, opset):
    with pytest.raises(ArgumentError, match=rf"opset is {opset!r}; choose one from 18 to 23"):
        to_onnx(network, 900, opset=opset)


@pytest.mark.parametrize("view", ["spectrum", "time"])
def test_raw_samples_go_through_the_recipes_view_inside_the_graph(network, view):
    student = Network(10, 1 / 8)
    recipe = Recipe(view=view, samples=2000, bins=900, bins_by="cutting", student=student)
    made = to_onnx(network, 900, recipe=recipe, samples=2100)
    signals = torch.randn(5, 2100)
    signals[:, 2000:] *= 100  # beyond what the recipe uses
    seen = {"spectrum": spectrum, "time": time_view}[view](signals[:, :2000], 900)
    np.testing.assert_allclose(run(made, signals), torchs(network, seen), atol=1e-4)


@pytest.mark.parametrize(
    ("samples", "bins"), [(7000, 1750), (7000, 3501), (60, 31), (8192, 100), (3499, 1000)]
)
def test_the_graphs_spectrum_is_the_fourier_transforms(samples, bins):
    # 3499 is a prime above LONGEST_FACTOR
    signals = np.random.default_rng(0).standard_normal((3, samples)).astype(np.float32)
    expected = np.abs(np.fft.rfft(signals.astype(float)))[:, :bins]
    found = _Spectrum(samples, bins)(torch.from_numpy(signals)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6 * expected.max())


def test_ill_suited_lengths_take_the_runtimes_transform(network):
    kinds = {}
    for samples in (2100, 2099):
        recipe = Recipe(view="spectrum", bins=900, bins_by="cutting")
        made = to_onnx(network, 900, recipe=recipe, samples=samples)
        kinds[samples] = {node.op_type for node in made.graph.node}
    assert "DFT" not in kinds[2100]
    assert "DFT" in kinds[2099]
    signals = torch.randn(5, 2099)
    expected = torchs(network, spectrum(signals, 900))
    np.testing.assert_allclose(run(made, signals), expected, atol=1e-4)


# Every view inside the graph

VIEWS = {
    "averaged": Recipe(view="spectrum"),
    "averaged 300": Recipe(view="spectrum", bins=300),
    "cut": Recipe(view="spectrum", bins_by="cutting"),
    "dB": Recipe(view="log-spectrum", level="removed"),
    "dB with level": Recipe(view="log-spectrum", level="kept"),
    "mel": Recipe(view="log-mel", level="removed", bins=300),
    "mel with level": Recipe(view="log-mel", level="kept"),
    "time": Recipe(view="time"),
}
RATES = {7000: 40_000, 4410: 44_100, 2099: 16_000, 800: 8000, 64: 1000}


class Sensitive(nn.Module):
    """A network of one convolution whose probabilities spread over the inputs that it is given."""

    def __init__(self, seen):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(1, 4, 9, 4)
        self.last = nn.Linear(4 * ((seen.shape[1] - 9) // 4 + 1), 3)
        with torch.no_grad():
            found = self.last(self._features(seen))
            self.last.weight /= found.std(0).mean()
            self.last.bias -= self.last(self._features(seen)).mean(0)

    def _features(self, x):
        return torch.relu(self.conv(x[:, None])).flatten(1)

    def forward(self, x):
        return self.last(self._features(x))


def knocks(count, samples):
    """Decaying noise of different lengths with an offset."""
    rng = np.random.default_rng(samples)
    fading = np.exp(-np.arange(samples) / (samples * rng.uniform(0.02, 0.5, (count, 1))))
    return (fading * rng.standard_normal((count, samples)) + 0.1).astype(np.float32)


@pytest.mark.parametrize("samples", RATES)
@pytest.mark.parametrize("name", VIEWS)
def test_the_graphs_view_is_the_librarys(name, samples):
    signals, rate = torch.from_numpy(knocks(6, samples)), RATES[samples]
    expected = network_inputs(signals, VIEWS[name], rate)
    found = _View(VIEWS[name], samples, rate, expected.shape[1])(signals)
    # Mel frames that are 80 dB weaker than the loudest differ by the rounding of the mean.
    limit = 2e-4 if "mel" in name else 1e-5
    torch.testing.assert_close(found, expected, rtol=0, atol=limit)


@pytest.mark.parametrize(
    ("name", "samples"),
    [
        ("averaged", 7000),
        ("averaged 300", 4410),
        ("averaged", 2099),
        ("averaged", 64),
        ("dB", 7000),
        ("dB", 800),
        ("dB", 2099),
        ("dB with level", 4410),
        ("mel", 7000),
        ("mel", 64),
        ("mel", 2099),
        ("mel with level", 4410),
        ("time", 800),
    ],
)
def test_raw_samples_give_the_probabilities_of_the_view_in_floats_and_in_eight_bits(name, samples):
    signals, rate, recipe = knocks(CALIBRATION, samples), RATES[samples], VIEWS[name]
    seen = network_inputs(signals, recipe, rate)
    network = Sensitive(seen).eval()
    given = {"samples": samples, "sample_rate": rate}
    raw = to_onnx(network, seen.shape[1], recipe=recipe, **given)
    with torch.inference_mode():
        expected = torch.softmax(network(seen), 1).numpy()
    assert np.ptp(expected, axis=0).max() > 0.3, "the network tells recordings apart"
    np.testing.assert_allclose(run(raw, signals), expected, atol=1e-4)
    assert ("DFT" in {node.op_type for node in raw.graph.node}) == (
        samples == 2099 and recipe.view != "log-mel"
    )
    small = quantise(raw, signals)
    without = quantise(to_onnx(network, seen.shape[1]), seen.numpy())
    rounded = np.abs(run(without, seen) - expected).max()
    assert np.abs(run(small, signals) - run(without, seen)).max() < max(0.02, rounded)
    kinds = [node.op_type for node in small.graph.node]
    first = next(i for i, kind in enumerate(kinds) if kind == "QuantizeLinear")
    view = [node.op_type for node in raw.graph.node]
    products = view[: view.index("Conv")].count("MatMul")
    assert kinds[:first].count("MatMul") == products, "the view is computed in floats"


def test_a_long_recordings_view_adds_little_to_the_file():
    recipe, samples = VIEWS["averaged"], 192_000
    made = sum(b.nbytes for b in _View(recipe, samples, 48_000, 600).buffers())
    assert made < 24 * samples
    mel = sum(b.nbytes for b in _View(VIEWS["mel"], samples, 48_000, 1024).buffers())
    assert mel < 350_000


def test_what_a_view_needs_is_asked_for():
    network = Sensitive(torch.rand(9, 832))
    with pytest.raises(ArgumentError, match="sample_rate is None; the view log-mel needs it"):
        to_onnx(network, 832, recipe=VIEWS["mel"], samples=7000)
    with pytest.raises(ArgumentError, match="samples is None; with a recipe"):
        to_onnx(network, 832, recipe=VIEWS["mel"], sample_rate=40_000)


def test_batch_norm_is_folded_and_nothing_tells_who_made_it(model):
    assert {n.op_type for n in model.graph.node} >= {"Conv", "Gemm", "Softmax"}
    assert not any(n.op_type == "BatchNormalization" for n in model.graph.node)
    assert b"/" + b"hfld_lite" not in model.SerializeToString()
    weights = sum(onnx.numpy_helper.to_array(i).nbytes for i in model.graph.initializer)
    assert model.ByteSize() < 1.2 * weights


def test_eight_bits_answer_nearly_the_same_in_a_third_of_the_bytes(network, model):
    rng = np.random.default_rng(0)
    calibration, others = rng.random((60, 900)), rng.random((30, 900))
    small = quantise(model, calibration)
    expected, found = run(model, others), run(small, others)
    assert 0 < np.abs(found - expected).max() < 0.05
    assert small.ByteSize() < model.ByteSize() / 2
    kinds = {i.data_type for i in small.graph.initializer if len(i.dims) == 3}
    assert kinds == {onnx.TensorProto.INT8}, "the convolutions' weights"
    scales = [i for i in small.graph.initializer if i.data_type == onnx.TensorProto.FLOAT]
    assert max(np.prod(i.dims) for i in scales) > 1, "a scale for each channel"


def test_quantisation_takes_its_ranges_from_the_calibration_inputs(network, model):
    rng = np.random.default_rng(0)
    calibration = rng.random((60, 900))
    wrong, right = quantise(model, calibration / 1000), quantise(model, calibration)
    expected = run(model, calibration)
    errors = [np.abs(run(made, calibration) - expected).mean() for made in (wrong, right)]
    assert errors[0] > 5 * errors[1]


def test_the_view_and_the_softmax_stay_in_float(network):
    recipe = Recipe(view="spectrum", bins=900, bins_by="cutting")
    made = to_onnx(network, 900, recipe=recipe, samples=2100)
    signals = np.random.default_rng(0).standard_normal((60, 2100)).astype(np.float32)
    small = quantise(made, signals)
    producer = {name: node.op_type for node in small.graph.node for name in node.output}
    products = [node for node in small.graph.node if node.op_type == "MatMul"][:6]
    read = {producer.get(name) for node in products for name in node.input}
    assert read == {"Reshape", "Sub", "Add", None}, "the view's products are those of floats"
    kinds = [node.op_type for node in quantise_dynamically(made).graph.node]
    assert kinds.count("MatMul") >= 6
    assert producer[small.graph.output[0].name] == "Softmax"
    assert np.abs(run(small, signals) - run(made, signals)).max() < 0.05


def test_dynamic_quantisation_answers_nearly_the_same(network, model):
    inputs = np.random.default_rng(0).random((30, 900))
    small = quantise_dynamically(model)
    assert any("Integer" in node.op_type for node in small.graph.node)
    assert np.abs(run(small, inputs) - run(model, inputs)).max() < 0.1


def test_too_few_calibration_recordings_are_refused(model):
    with pytest.raises(DataError, match=f"there are 49 recordings; expected {CALIBRATION} or more"):
        quantise(model, np.random.default_rng(0).random((49, 900)))
