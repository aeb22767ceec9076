"""Costs and export of any module, on inputs of any shape: a small network for images, by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from hfld_lite import ArgumentError, preset
from hfld_lite.edge.analysis import compare_macs, count_macs, sizes, stored_bytes
from hfld_lite.edge.devices import fits, needs, verdicts
from hfld_lite.edge.export import INPUT, quantise, session, to_onnx
from hfld_lite.edge.memory import activation_memory
from hfld_lite.networks import Output

SHAPE = (3, 12, 10)
MACS = 12 * 10 * 8 * 3 * 9 + 6 * 5 * 16 * (8 // 2) * 9 + 16 * 5


class Small(nn.Module):
    """Two convolutions, the second one grouped and with stride 2, a mean, a linear layer."""

    def __init__(self, norm=nn.BatchNorm2d, output=True):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), norm(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1, groups=2), nn.ReLU())
        self.pool, self.head, self.output = nn.AdaptiveAvgPool2d(1), nn.Linear(16, 5), output

    def forward(self, x):
        features = self.body(self.stem(x))
        logits = self.head(self.pool(features).flatten(1))
        return Output(features, logits) if self.output else logits


@pytest.fixture(params=[True, False], ids=["output", "logits"])
def network(request):
    torch.manual_seed(0)
    made = Small(output=request.param)
    with torch.no_grad():  # statistics that are not those of an untrained layer
        made.stem[1].running_mean.normal_()
        made.stem[1].running_var.uniform_(0.5, 2)
    return made.eval()


def logits(network, images):
    with torch.inference_mode():
        found = network(torch.from_numpy(images))
    return getattr(found, "logits", found)


@pytest.fixture
def images():
    return np.random.default_rng(0).random((60, *SHAPE), np.float32)


def test_operations_and_bytes_are_those_counted_by_hand(network):
    assert count_macs(network, SHAPE) == MACS
    table = compare_macs(network, SHAPE).set_index("method")
    assert table.loc["by hand", "macs"] == MACS
    assert (table["difference"] == table["explained"]).all()
    weights, channels = 8 * 27 + 16 * 36 + 16 * 5, 8 + 16 + 5
    assert stored_bytes(network, "fp32") == 4 * (weights + channels)
    assert stored_bytes(network, "int8") == weights + 8 * channels
    assert list(sizes(network)["part"]) == ["stem", "body", "head", "total"]


def test_the_graph_answers_as_torch_for_any_batch(network, images):
    expected = torch.softmax(logits(network, images), 1).numpy()
    assert np.ptp(expected, axis=0).max() > 0.001
    model = to_onnx(network, SHAPE)
    found = session(model).run(None, {INPUT: images})[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    one = session(model).run(None, {INPUT: images[:1]})[0]
    np.testing.assert_allclose(one, expected[:1], atol=1e-4)


def test_the_quantised_graph_is_near_and_the_memory_falls(network, images):
    exact = to_onnx(network, SHAPE)
    small = quantise(exact, images)
    expected = torch.softmax(logits(network, images), 1).numpy()
    found = session(small).run(None, {INPUT: images})[0]
    np.testing.assert_allclose(found, expected, atol=0.03)
    # The second convolution reads 8 x 12 x 10 values and writes 16 x 6 x 5, the first one reads
    # 3 x 12 x 10 and writes 8 x 12 x 10; an activation writes over what it reads.
    assert activation_memory(exact).peak == 4 * max(960 + 480, 360 + 960)
    assert activation_memory(small).peak < 2000


def test_verdicts_know_what_an_image_takes(network, images):
    assert needs(network, SHAPE, "fp32").ram_bytes == 4 * 1440
    assert needs(network, SHAPE).ram_bytes == max(1440, 5 * 360)
    assert needs(network, SHAPE, "int8", images).macs == MACS
    assert fits(network, "STM32F103C8", SHAPE).fits
    assert verdicts(network, SHAPE)["macs"].eq(MACS).all()


def test_a_row_of_values_is_a_shape_of_one_axis():
    network = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    assert count_macs(network, 6) == count_macs(network, (6,)) == 24 + 12
    given = np.random.default_rng(0).random((60, 6), np.float32)
    expected = torch.softmax(logits(network, given), 1).numpy()
    exact = to_onnx(network, (6,))
    for model, tolerance in ((exact, 1e-4), (quantise(exact, given), 0.03)):
        found = session(model).run(None, {INPUT: given})[0]
        np.testing.assert_allclose(found, expected, atol=tolerance)


def test_what_is_not_known_is_named():
    with pytest.raises(ArgumentError, match="parameters in a GroupNorm, whose bytes are not known"):
        stored_bytes(Small(lambda channels: nn.GroupNorm(2, channels)), "int8")
    with pytest.raises(ArgumentError, match="the recipe's view gives a row of values"):
        to_onnx(Small(), SHAPE, recipe=preset("classroom"), samples=7000)
