"""What a network costs: figures derived by hand."""

import time

import pytest
import torch
from torch import nn

from hfld_lite.edge import count_macs, median_latency, size_bytes, threads
from hfld_lite.networks import Output, count_parameters, resnet1d


class Alone(nn.Module):
    """One layer that takes ``(batch, length)``, as a network does."""

    def __init__(self, layer: nn.Module, channels: bool) -> None:
        super().__init__()
        self.layer, self.channels = layer, channels

    def forward(self, x):
        y = self.layer(x.unsqueeze(1) if self.channels else x)
        return Output(y, y)


@pytest.mark.parametrize("bias", [False, True])
def test_macs_of_one_convolution(bias):
    # Length 100, kernel 7, stride 2, padding 3: 50 outputs of 5 channels, 7 products each.
    assert count_macs(Alone(nn.Conv1d(1, 5, 7, 2, 3, bias=bias), True), 100) == 50 * 5 * 7


@pytest.mark.parametrize("bias", [False, True])
def test_macs_of_one_linear_layer(bias):
    assert count_macs(Alone(nn.Linear(30, 11, bias=bias), False), 30) == 30 * 11


def test_macs_of_grouped_convolutions_behind_each_other():
    layers = nn.Sequential(nn.Conv1d(1, 4, 1), nn.ReLU(), nn.Conv1d(4, 8, 3, padding=1, groups=2))
    assert count_macs(Alone(layers, True), 20) == 20 * 4 + 20 * 8 * 2 * 3


def test_macs_of_a_resnet_sum_over_its_layers():
    network, macs = resnet1d(10, 3, 1 / 16, "small"), 0

    def add(module, inputs, output):
        nonlocal macs
        weight = module.weight
        places = output.shape[-1] if isinstance(module, nn.Conv1d) else 1
        macs += weight.numel() * places

    for module in network.modules():
        if isinstance(module, (nn.Conv1d, nn.Linear)):
            module.register_forward_hook(add)
    assert count_macs(network, 400) == macs
    assert macs > 10_000


@pytest.mark.parametrize("training", [False, True])
def test_counting_leaves_the_network_as_it_was(training):
    network = resnet1d(10, 3, 1 / 16).train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    count_macs(network, 300)
    assert network.training is training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(p.grad is None and not p.is_inference() for p in network.parameters())


def test_size_counts_parameters_and_running_statistics():
    layers = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
    assert size_bytes(layers) == 4 * (3 * 5 + 5 + 2 * 5 + 2 * 5)
    assert size_bytes(layers.half()) == 2 * (3 * 5 + 5 + 2 * 5 + 2 * 5)
    network = resnet1d(10, 3, 1 / 16)
    statistics = sum(m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm1d))
    assert size_bytes(network) == 4 * (count_parameters(network) + 2 * statistics)


def test_threads_are_restored_also_after_an_error():
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(KeyError), threads(before + 1):
        raise KeyError
    assert torch.get_num_threads() == before


def test_latency_is_the_median_in_ms_on_one_thread():
    seen = []

    def run() -> None:
        seen.append(torch.get_num_threads())
        time.sleep(0.25 if len(seen) in (1, 2, 5) else 0.002)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        latency = median_latency(run, warmups=2, runs=9)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert len(seen) == 11
    assert set(seen) == {1}
    assert 2 <= latency < 20  # neither the slow warm-ups nor the one slow run move it


def test_latency_of_a_network_is_positive():
    network, x = resnet1d(10, 3, 1 / 16, "small").eval(), torch.rand(1, 300)
    assert median_latency(lambda: network(x), warmups=1, runs=3) > 0
