"""CIFAR ResNets: published sizes, option-A shortcuts, the published weights."""

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from hfld_lite.distillation import Batch, Distiller, teacher_targets
from hfld_lite.errors import ArgumentError
from hfld_lite.image_networks import BLOCKS, Block, cifar_resnet
from hfld_lite.losses import one_to_all_matching
from hfld_lite.networks import Output, count_parameters

PUBLISHED = {110: 1_733_812, 56: 858_868, 32: 470_004, 20: 275_572}
WEIGHTS = {"feature": 1.0, "tckd": 1.0, "nckd": 1.0, "cross_entropy": 1.0}


@pytest.mark.parametrize(("depth", "parameters"), PUBLISHED.items())
def test_parameter_counts_are_the_published_ones(depth, parameters):
    network = cifar_resnet(depth)
    assert count_parameters(network) == parameters
    convs = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convs) + 1 == depth  # the shortcuts hold none
    assert all(conv.bias is None and conv.kernel_size == (3, 3) for conv in convs)
    assert set(BLOCKS) == set(PUBLISHED)


@torch.inference_mode()
def test_features_are_the_map_before_pooling():
    network = cifar_resnet(20, 7).eval()
    output = network(torch.rand(2, 3, 32, 32))
    assert isinstance(output, Output)
    assert output.features.shape == (2, 64, 8, 8)
    assert output.logits.shape == (2, 7)
    assert (network.feature_channels, network.num_classes) == (64, 7)
    pooled = F.adaptive_avg_pool2d(output.features, 1).flatten(1)
    torch.testing.assert_close(network.linear(pooled), output.logits)


def test_default_is_a_hundred_classes():
    assert cifar_resnet(20).num_classes == 100


@pytest.mark.parametrize("side", [8, 9, 31, 33])
@torch.inference_mode()
def test_odd_and_small_sides_leave_several_positions(side):
    features = cifar_resnet(20).eval()(torch.rand(1, 3, side, side)).features
    assert features.shape == (1, 64, -(-side // 4), -(-side // 4))


def test_shortcut_takes_every_second_pixel_and_pads_channels_on_both_sides():
    block = Block(4, 8, 2).eval()
    torch.nn.init.zeros_(block.bn2.weight)  # leaves the shortcut alone
    x = torch.rand(1, 4, 6, 6)
    with torch.inference_mode():
        y = block(x)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert not y[:, :2].any()
    assert not y[:, 6:].any()


def test_every_parameter_gets_a_gradient():
    network = cifar_resnet(20, 5)
    F.cross_entropy(network(torch.rand(4, 3, 32, 32)).logits, torch.arange(4)).backward()
    assert all(p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize("depth", [0, 18, 44, "32", None])
def test_wrong_depth_names_the_right_ones(depth):
    with pytest.raises(ArgumentError, match=r"depth is .* \[20, 32, 56, 110\]"):
        cifar_resnet(depth)


@pytest.mark.parametrize("classes", [1, 0, -3, 2.0])
def test_too_few_classes(classes):
    with pytest.raises(ArgumentError, match="num_classes"):
        cifar_resnet(20, classes)


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 1, 32, 32), (2, 32, 32, 3), (2, 3, 32, 7)])
def test_wrong_input_shape_is_named(shape):
    with pytest.raises(ArgumentError, match=r"\(batch, 3, height, width\).*found shape") as error:
        cifar_resnet(20)(torch.zeros(shape))
    assert str(shape) in str(error.value)


def test_matching_sees_64_positions_and_the_pooled_map_gives_plain_mse():
    student, teacher = torch.randn(2, 64, 8, 8), torch.randn(2, 64, 8, 8)
    _, similarity = one_to_all_matching(student, teacher, return_similarity=True)
    assert similarity.shape == (2, 8, 64, 64)
    pooled = [x.mean((2, 3), keepdim=True) for x in (student, teacher)]
    torch.testing.assert_close(one_to_all_matching(*pooled), F.mse_loss(*pooled))


def test_an_image_network_can_be_distilled():
    images, target = torch.rand(4, 3, 16, 16), torch.arange(4) % 3
    targets = teacher_targets(cifar_resnet(32, 3), images)
    distiller = Distiller(cifar_resnet(20, 3), targets, WEIGHTS)
    terms = distiller(Batch(images, target, torch.arange(4)))
    assert distiller.total(terms).isfinite()


def published_state() -> dict[str, torch.Tensor]:
    root = os.environ.get("HFLD_REAL_DATA")
    if not root:
        pytest.skip("HFLD_REAL_DATA is not set; it names the folder of the published network")
    path = Path(root) / "published" / "resnet32_cifar100_hkd.pkl"
    state = torch.load(path, weights_only=True, map_location="cpu")
    return {name.removeprefix("module."): value for name, value in state.items()}


def test_published_weights_load_strictly():
    state = published_state()
    network = cifar_resnet(32)
    assert len(state) == 188
    network.load_state_dict(state, strict=True)
    assert torch.equal(network.layer3[4].conv2.weight, state["layer3.4.conv2.weight"])
    with torch.inference_mode():
        logits = network.eval()(torch.randn(4, 3, 32, 32)).logits
    assert logits.isfinite().all()
    assert logits.std() > 0.5  # trained: classes stand apart
