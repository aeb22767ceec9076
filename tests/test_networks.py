"""1-D ResNets: the published sizes, every width, the shapes and the refusals."""

import pytest
import torch
from torch import nn

from hfld_lite.errors import ArgumentError
from hfld_lite.networks import (
    MIN_SAMPLES,
    STAGE_BLOCKS,
    Block,
    Output,
    SqueezeExcitation,
    count_parameters,
    resnet1d,
)

PUBLISHED = {50: 55_084_290, 18: 14_431_458, 34: 17_805_794, 10: 13_089_378}
WIDTHS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)


def small(depth: int = 10, classes: int = 3, **options) -> nn.Module:
    return resnet1d(depth, classes, **({"width": 1 / 16, "head": "small"} | options))


@pytest.mark.parametrize(("depth", "parameters"), PUBLISHED.items())
def test_parameter_counts_are_the_published_ones(depth, parameters):
    assert count_parameters(resnet1d(depth, 2)) == parameters


def test_count_parameters_leaves_out_buffers_and_counts_frozen_ones():
    layer = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5)).requires_grad_(False)
    assert count_parameters(layer) == 3 * 5 + 5 + 2 * 5


@pytest.mark.parametrize("depth", sorted(STAGE_BLOCKS))
@torch.inference_mode()
def test_shapes_at_all_depths(depth):
    network = small(depth, 6).eval()
    output = network(torch.rand(2, 300))
    channels = 32 * (4 if depth >= 50 else 1)
    assert isinstance(output, Output)
    assert output.features.shape == (2, channels, 9)
    assert output.logits.shape == (2, 6)
    assert (network.feature_channels, network.num_classes) == (channels, 6)
    assert [len(stage) for stage in network.stages] == list(STAGE_BLOCKS[depth])


@pytest.mark.parametrize("width", WIDTHS)
@torch.inference_mode()
def test_width_scales_every_stage_with_four_channels_at_least(width):
    network = resnet1d(10, 2, width, "small").eval()
    channels = [stage[-1].body[-1][1].num_features for stage in network.stages]
    assert channels == [max(4, round(c * width)) for c in (64, 192, 384, 512)]
    assert network.stem[0].out_channels == max(4, round(64 * width))
    assert network(torch.rand(1, 512)).features.shape == (1, channels[-1], 9)


def test_small_networks_have_tens_of_thousands_of_parameters():
    assert count_parameters(small(10, 6)) < 30_000


@pytest.mark.parametrize("head", ["published", "small"])
def test_head_reads_the_flattened_features(head):
    network = resnet1d(10, 2, 1 / 16, head).eval()
    sizes = [m.out_features for m in network.head if isinstance(m, nn.Linear)]
    assert sizes == ([2048, 512, 128, 2] if head == "published" else [2])
    with torch.inference_mode():
        output = network(torch.rand(2, 300))
        torch.testing.assert_close(network.head(output.features.flatten(1)), output.logits)


@pytest.mark.parametrize("depth", [10, 18, 50])
@torch.inference_mode()
def test_257_samples_leave_nine_positions_without_stretching(depth):
    network = small(depth).eval()
    seen = []
    network.stages.register_forward_hook(lambda module, inputs, output: seen.append(output))
    output = network(torch.rand(1, MIN_SAMPLES))
    assert MIN_SAMPLES == 257
    assert seen[0].shape[-1] == 9  # what the pooling finds
    assert output.features.shape[-1] == 9


@pytest.mark.parametrize("shape", [(1, 256), (300,), (2, 1, 300), (0,)])
def test_too_short_or_misshapen_inputs_are_named(shape):
    with pytest.raises(ArgumentError, match=r"\(batch, length\).*at least 257") as error:
        small()(torch.zeros(shape))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize(
    ("head", "given", "expected"),
    [
        ("published", None, 0.5),
        ("small", None, 0.0),
        ("published", 0.0, 0.0),
        ("published", 0.25, 0.25),
        ("small", 0.3, 0.3),
    ],
)
def test_dropout(head, given, expected):
    network = resnet1d(10, 2, 1 / 16, head, given)
    found = [m.p for m in network.modules() if isinstance(m, nn.Dropout)]
    assert found == [expected] * (3 if head == "published" else 1)


def test_dropout_acts_in_training_and_not_in_evaluation():
    network = small(dropout=0.5)
    features = torch.rand(4, network.feature_channels * 9)
    with torch.inference_mode():
        assert not torch.equal(network.head(features), network.head(features))
        network.eval()
        assert torch.equal(network.head(features), network.head(features))


def test_every_parameter_gets_a_gradient():
    network = small(50)
    output = network(torch.rand(4, 300))
    nn.functional.cross_entropy(output.logits, torch.tensor([0, 1, 2, 0])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    convs = [m for m in network.stages.modules() if isinstance(m, nn.Conv1d)]
    assert all(conv.weight.grad.any() for conv in convs)


def test_squeeze_and_excitation_gates_channels_by_their_mean():
    layer, x = SqueezeExcitation(4, 2), torch.rand(3, 4, 5)
    first, second = layer.gate[1], layer.gate[3]
    hidden = torch.relu(x.mean(2) @ first.weight[:, :, 0].T + first.bias)
    gate = torch.sigmoid(hidden @ second.weight[:, :, 0].T + second.bias)
    torch.testing.assert_close(layer(x), x * gate[:, :, None])


@pytest.mark.parametrize(("depth", "hidden"), [(10, 512 // 16), (50, 2048 // 32)])
def test_squeeze_and_excitation_has_the_published_hidden_size(depth, hidden):
    with torch.device("meta"):
        network = resnet1d(depth, 2)
    assert network.attention.gate[1].out_channels == hidden


@pytest.mark.parametrize("bottleneck", [False, True])
def test_block_is_residual(bottleneck):
    channels = 2 if bottleneck else 8
    block = Block(8, channels, 1, bottleneck).eval()
    kinds = [type(layer) for layer in block.body]
    assert kinds == [nn.Sequential] + [nn.ReLU, nn.Sequential] * (2 if bottleneck else 1)
    assert isinstance(block.shortcut, nn.Identity)
    nn.init.zeros_(block.body[-1][1].weight)  # the last batch norm: leaves the shortcut alone
    x = torch.randn(2, 8, 10)
    torch.testing.assert_close(block(x), torch.relu(x))
    assert Block(8, channels, 2, bottleneck)(x).shape == (2, 8, 5)


def test_weights_follow_the_seed():
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in small().parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"depth": 12}, "depth"),
        ({"depth": "18"}, "depth"),
        ({"num_classes": 1}, "num_classes"),
        ({"num_classes": 2.5}, "num_classes"),
        ({"width": 1 / 17}, "width"),
        ({"width": 2.1}, "width"),
        ({"width": float("nan")}, "width"),
        ({"head": "tiny"}, "head"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
    ],
)
def test_bad_arguments_are_named(changes, name):
    arguments = {"depth": 10, "num_classes": 2, "width": 1 / 16} | changes
    with pytest.raises(ArgumentError, match=f"^{name} is {changes[name]!r}"):
        resnet1d(**arguments)
