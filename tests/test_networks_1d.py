"""The networks that the released code compares with: counts, shapes, refusals, training."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hfld_lite.errors import ArgumentError
from hfld_lite.networks import Output, count_parameters, resnet1d
from hfld_lite.rivals.networks_1d import NETWORKS_1D

RELEASED = {
    "alexnet": 6_588_866,
    "vgg19": 62_007_362,
    "googlenet": 62_297_142,
    "densenet121": 15_481_474,
}
LEAST = {"alexnet": 79, "vgg19": 288, "googlenet": 287, "densenet121": 285}
every = pytest.mark.parametrize("name", NETWORKS_1D)


def small(name: str, classes: int = 3, seed: int = 0, **options) -> nn.Module:
    torch.manual_seed(seed)
    return NETWORKS_1D[name](classes, **({"width": 1 / 8, "dropout": 0.0} | options))


def bumps() -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with a bump whose place is the class, three classes."""
    classes = torch.arange(24) % 3
    signals = 0.3 * torch.rand(24, 300, generator=torch.Generator().manual_seed(0))
    for row, label in enumerate(classes.tolist()):
        signals[row, 60 * (label + 1) : 60 * (label + 1) + 20] += 0.7
    return signals, classes


def losses(network: nn.Module, steps: int) -> list[float]:
    signals, classes = bumps()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    found = []
    for _ in range(steps):
        loss = F.cross_entropy(network(signals).logits, classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@every
def test_parameter_counts_are_the_released_ones(name):
    with torch.device("meta"):  # shapes without numbers: 62 million parameters take no memory
        assert count_parameters(NETWORKS_1D[name](2)) == RELEASED[name]


def test_the_auxiliary_heads_are_those_of_the_two_dimensional_network():
    with torch.device("meta"):
        network = NETWORKS_1D["googlenet"](2)
    assert count_parameters(network.auxiliary) == 4_333_828
    for head, channels in zip(network.auxiliary, (512, 528), strict=True):
        answers = head.to_empty(device="cpu")(torch.zeros(1, channels, 70))
        assert head[1].in_channels == channels
        assert answers.shape == (1, 2)


@every
@pytest.mark.parametrize("length", [301, 1023])
@torch.inference_mode()
def test_shapes_of_odd_lengths(name, length):
    network = small(name, 5).eval()
    output = network(torch.rand(2, length))
    assert isinstance(output, Output)
    assert network.feature_channels == (32 if name == "alexnet" else 128)
    assert output.features.shape == (2, network.feature_channels, 9)
    assert output.logits.shape == (2, network.num_classes) == (2, 5)
    torch.testing.assert_close(network.head(output.features.flatten(1)), output.logits)


@every
@pytest.mark.parametrize("width", [1 / 16, 3 / 16, 1 / 2, 2])
def test_width_scales_every_layer(name, width):
    with torch.device("meta"):
        full, scaled = (NETWORKS_1D[name](7, width=w) for w in (1.0, width))
    pairs = zip(full.modules(), scaled.modules(), strict=True)
    layers = [pair for pair in pairs if isinstance(pair[0], nn.Conv1d | nn.Linear)]
    assert len(layers) == {"alexnet": 9, "vgg19": 19, "googlenet": 66, "densenet121": 123}[name]
    for one, other in layers:
        before, after = one.weight.shape[0], other.weight.shape[0]
        # a concatenation adds numbers that were rounded one by one
        assert after == (7 if before == 7 else round(before * width))
    assert scaled.feature_channels == pytest.approx(full.feature_channels * width, abs=2)


@every
def test_a_short_input_is_refused_in_one_sentence(name):
    network = small(name).eval()
    least = LEAST[name]
    assert network(torch.rand(1, least)).features.shape[2] == 9
    assert network.trunk(torch.rand(1, 1, least)).shape[2] == 9, "nothing is stretched"
    assert network.trunk(torch.rand(1, 1, least - 1)).shape[2] == 8
    for shape in ((2, least - 1), (2, 400, 3), (400,)):
        with pytest.raises(ArgumentError) as refusal:
            network(torch.rand(shape))
        assert str(refusal.value) == (
            f"{network.name} takes inputs of shape (batch, length) with a length of at least "
            f"{least}, so that 9 positions are left; found shape {shape}."
        )


@every
def test_a_narrow_network_learns(name):
    found = losses(small(name), 12)
    assert found[-1] < 0.3 * found[0]


@pytest.mark.parametrize("name", ["vgg19", "googlenet"])
def test_with_torchs_default_weights_they_would_stay_at_chance(name):
    network = small(name)
    for layer in network.modules():
        if isinstance(layer, nn.Conv1d | nn.Linear):
            layer.reset_parameters()
    assert losses(network, 12)[-1] == pytest.approx(torch.tensor(3.0).log().item(), abs=0.01)


@every
def test_gradients_reach_every_parameter_but_the_auxiliary_heads(name):
    network = small(name)
    signals, classes = bumps()
    F.cross_entropy(network(signals).logits, classes).backward()
    named = dict(network.named_parameters())
    without = {key for key, p in named.items() if p.grad is None}
    zero = {key for key, p in named.items() if p.grad is not None and not p.grad.any()}
    auxiliary = {key for key in named if key.startswith("auxiliary.")}
    assert without == auxiliary
    assert len(auxiliary) == (12 if name == "googlenet" else 0)
    assert not zero


@every
@torch.inference_mode()
def test_evaluation_is_deterministic_and_training_drops_out(name):
    network = small(name, dropout=0.5)
    signals = bumps()[0]
    network.eval()
    assert torch.equal(network(signals).logits, network(signals).logits)
    alone = network(signals[:1]).logits
    torch.testing.assert_close(alone, network(signals).logits[:1], rtol=1e-4, atol=1e-5)
    network.train()
    assert not torch.equal(network(signals).logits, network(signals).logits)


@every
def test_weights_follow_the_seed(name):
    def weights(seed: int) -> torch.Tensor:
        return nn.utils.parameters_to_vector(small(name, seed=seed).parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@every
@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"num_classes": 1}, "num_classes"),
        ({"num_classes": 2.5}, "num_classes"),
        ({"width": 1 / 17}, "width"),
        ({"width": 2.1}, "width"),
        ({"width": float("nan")}, "width"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
    ],
)
def test_bad_arguments_are_named_as_those_of_a_resnet(name, changes, argument):
    arguments = {"num_classes": 2, "width": 1 / 16} | changes
    with pytest.raises(ArgumentError, match=f"^{argument} is {changes[argument]!r}") as found:
        NETWORKS_1D[name](**arguments)
    with pytest.raises(ArgumentError) as expected:
        resnet1d(10, **arguments)
    assert str(found.value) == str(expected.value)
