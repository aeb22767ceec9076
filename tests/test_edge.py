"""What a network costs: figures derived by hand."""

import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from hfld_lite.edge.analysis import (
    PRECISIONS,
    compare_macs,
    costs,
    count_macs,
    latency,
    size_bytes,
    sizes,
    stored_bytes,
    threads,
    with_costs,
)
from hfld_lite.edge.export import quantise, to_onnx
from hfld_lite.errors import ArgumentError
from hfld_lite.networks import Output, count_parameters, resnet1d
from hfld_lite.rivals.image_networks import cifar_resnet


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


def test_bytes_of_one_convolution_and_one_linear_layer():
    # 5 · 3 · 7 = 105 weights and 5 channels, with batch norm folded in or a bias of its own;
    # 11 · 4 = 44 weights and 4 channels.
    folded = nn.Sequential(nn.Conv1d(3, 5, 7, bias=False), nn.BatchNorm1d(5), nn.Linear(11, 4))
    assert stored_bytes(folded, "fp32") == 4 * (105 + 5 + 44 + 4)
    assert stored_bytes(folded, "fp16") == 2 * (105 + 5 + 44 + 4)
    assert stored_bytes(folded, "int8") == 105 + 44 + 8 * (5 + 4)
    assert stored_bytes(nn.Conv1d(3, 5, 7), "fp32") == 4 * (105 + 5)


def test_sizes_show_where_the_published_student_is():
    network = resnet1d(10, 2)
    table = sizes(network).set_index("part")
    stages = [f"stage {i}" for i in range(1, 5)]
    assert list(table.index) == ["stem", *stages, "attention", "head", "total"]
    assert table.loc["total", "parameters"] == 13_089_378
    # 4608 → 2048 → 512 → 128 → 2, each with a bias
    layers = [4609 * 2048, 2049 * 512, 513 * 128, 129 * 2]
    assert table.loc["head", "parameters"] == sum(layers) == 10_554_242
    assert sizes(network.head)["parameters"].tolist() == [*layers, sum(layers)]
    assert sizes(network.head)["part"].tolist()[0] == "Linear 0"
    assert layers[0] == 9_439_232
    assert table.loc["stem", "parameters"] == 64 * 7 + 2 * 64
    assert table.loc["stem", "int8_bytes"] == 64 * 7 + 8 * 64
    assert table.loc["attention", "parameters"] == 512 * 32 + 32 + 32 * 512 + 512


@pytest.mark.parametrize(
    "network",
    [resnet1d(10, 3, 1 / 8), resnet1d(50, 3, 1 / 16, "small"), cifar_resnet(20), cifar_resnet(56)],
)
def test_parts_sum_to_the_total(network):
    table = sizes(network).set_index("part")
    assert table.drop("total").sum().equals(table.loc["total"])
    assert table.loc["total", "parameters"] == count_parameters(network)
    assert {"stem", "stage 1", "stage 3", "head"} <= set(table.index)
    for precision in PRECISIONS:
        assert table.loc["total", f"{precision}_bytes"] == stored_bytes(network, precision)


def test_a_cifar_network_has_the_same_parts():
    table = sizes(cifar_resnet(20)).set_index("part")
    assert list(table.index) == ["stem", "stage 1", "stage 2", "stage 3", "head", "total"]
    assert table["parameters"].tolist()[::4] == [3 * 16 * 9 + 2 * 16, 64 * 100 + 100]
    assert table.loc["total", "parameters"] == 275_572


def test_bytes_are_those_of_the_exported_graph():
    torch.manual_seed(0)
    network = resnet1d(10, 4, 1 / 8, "small")
    network(torch.rand(8, 600))  # batch norm has seen data: folding leaves biases that are not 0
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.bias)
    model = to_onnx(network, 600)
    pool = next(n.input[1] for n in model.graph.node if n.op_type == "MatMul")

    floats = [i for i in model.graph.initializer if i.data_type == onnx.TensorProto.FLOAT]
    found = sum(int(np.prod(i.dims)) for i in floats if i.name != pool)
    assert 4 * found == stored_bytes(network, "fp32")
    small = quantise(model, np.random.default_rng(0).random((50, 600)))
    weights = [i for i in small.graph.initializer if i.data_type == onnx.TensorProto.INT8]
    # zero points of the same shape as the scales are stored too, and are all 0: not counted
    weights = [i for i in weights if len(i.dims) > 1 and tuple(i.dims) != (19, 9)]
    biases = [i for i in small.graph.initializer if i.data_type == onnx.TensorProto.INT32]
    found = sum(int(np.prod(i.dims)) for i in weights)
    channels = sum(int(np.prod(i.dims)) for i in biases if np.any(onnx.numpy_helper.to_array(i)))
    assert found + 8 * channels == stored_bytes(network, "int8")


def test_what_has_no_known_bytes_is_refused():
    with pytest.raises(ArgumentError, match="precision is 'int4'; choose one of fp32, fp16, int8"):
        stored_bytes(nn.Linear(1, 1), "int4")
    with pytest.raises(ArgumentError, match="network has parameters in a LayerNorm"):
        sizes(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)))


@pytest.mark.parametrize(
    ("depth", "width", "head"),
    [
        (10, 1 / 16, "small"),
        (10, 1, "published"),
        (18, 1 / 8, "published"),
        (18, 1 / 4, "small"),
        (34, 1 / 16, "small"),
        (34, 1 / 2, "published"),
        (50, 1 / 16, "small"),
        (50, 1 / 4, "small"),
    ],
)
@pytest.mark.parametrize("length", [300, 1750])
def test_every_difference_between_counts_is_explained(depth, width, head, length):
    network = resnet1d(depth, 6, width, head).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    table = compare_macs(network, length).set_index("method")
    assert list(table.index) == ["FlopCounterMode / 2", "torchinfo", "by hand"]
    assert (table["difference"] == table["explained"]).all()
    assert table.loc["FlopCounterMode / 2", "macs"] == count_macs(network, length)
    assert table.loc["by hand", "difference"] == 0
    # torchinfo: two numbers a normalised channel, the biases of the head and of the attention
    norms = sum(2 * m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm1d))
    biases = sum(p.numel() for n, p in network.head.named_parameters() if n.endswith("bias"))
    gate = sum(m.bias.numel() for m in network.attention.gate if isinstance(m, nn.Conv1d))
    assert table.loc["torchinfo", "difference"] == norms + biases + gate
    reason = table.loc["torchinfo", "reason"]
    for count in (norms, biases, gate):
        assert f"{count:,}" in reason
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_convolutions_bias_counts_once_a_position_in_torchinfo():
    layers = nn.Sequential(nn.Conv1d(1, 4, 1), nn.Conv1d(4, 8, 3, padding=1, groups=2))
    table = compare_macs(Alone(layers, True), 20).set_index("method")
    assert table.loc["by hand", "macs"] == 20 * 4 + 20 * 8 * 2 * 3
    assert table.loc["torchinfo", "difference"] == table.loc["torchinfo", "explained"] == 20 * 12


def test_operations_outside_layers_are_seen_as_a_difference():
    class Attending(Alone):
        def forward(self, x):
            y = self.layer(x)
            return Output(y.T @ y, y)

    table = compare_macs(Attending(nn.Linear(6, 3), False), 6).set_index("method")
    assert table.loc["by hand", "difference"] == -9
    assert table.loc["by hand", "explained"] == 0


def test_latency_is_the_median_in_ms_on_the_threads_that_are_asked_for():
    seen = []

    def run() -> None:
        seen.append(torch.get_num_threads())
        time.sleep(0.25 if len(seen) in (1, 2, 5) else 0.002)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = latency(run, warmups=2, runs=9)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert len(seen) == 11
    assert set(seen) == {1}
    assert 2 <= found.p50 < 20  # neither the slow warm-ups nor the one slow run move it
    assert found.p99 > 200  # which that run is near
    assert latency(run, threads=3, warmups=0, runs=1).threads == 3
    assert seen[-1] == 3


def test_percentiles_are_those_of_the_calls(monkeypatch):
    clock = iter(np.repeat(np.arange(101.0), 2) + np.tile([0, 1], 101) * np.repeat(range(101), 2))
    monkeypatch.setattr("hfld_lite.edge.analysis.time.perf_counter", lambda: next(clock))
    # the i-th of 101 calls takes i seconds, i = 0 … 100
    found = latency(lambda: None, warmups=3, runs=101)
    assert [found.p50, found.p95, found.p99] == pytest.approx([50e3, 95e3, 99e3])
    assert (found.runs, found.threads) == (101, 1)


@pytest.mark.parametrize("wrong", [{"runs": 0}, {"threads": 0}, {"warmups": -1}])
def test_latency_refuses_impossible_numbers(wrong):
    (name, value), *_ = wrong.items()
    with pytest.raises(ArgumentError, match=f"{name} is {value}; give {value + 1} or more"):
        latency(lambda: None, **wrong)


def test_latency_of_a_network_is_positive():
    network, x = resnet1d(10, 3, 1 / 16, "small").eval(), torch.rand(1, 300)
    assert latency(lambda: network(x), warmups=1, runs=3).p50 > 0


def test_costs_are_counted_without_onnx():
    program = "import sys, hfld_lite.edge.analysis; sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_costs_stand_in_the_tests_table_behind_the_parameters(tiny_chain, tiny_recordings):
    detector, bare = tiny_chain.detector, tiny_chain.test(tiny_recordings)
    result = with_costs(bare, detector, tiny_recordings.signals[0])
    assert list(result.table)[2:6] == ["parameters", "macs", "size_kb", "accuracy"]
    assert result.table.drop(columns=["macs", "size_kb"]).equals(bare.table)
    assert result.predictions is bare.predictions
    for row in result.table.itertuples():
        network = detector.network(row.role)
        assert row.macs == count_macs(network, 600)
        assert row.size_kb == size_bytes(network) / 1000 >= 4 * row.parameters / 1000
    found = costs(detector, "student", tiny_recordings.signals[0])
    assert list(found) == ["parameters", "macs", "size_kb"]
    assert found["parameters"] == count_parameters(detector.network("student"))


def test_recurrent_layers_are_refused_and_attention_is_counted():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(4, 8, batch_first=True)

        def forward(self, x):
            return self.lstm(x)[0]

    with pytest.raises(ArgumentError, match="a layer LSTM, whose operations are not counted"):
        count_macs(Recurrent(), (5, 4))
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    positions = 5
    linear = positions * (8 * 24 + 8 * 8 + 8 * 16 + 16 * 8)
    assert count_macs(layer, (positions, 8)) == linear + 2 * positions * positions * 8
