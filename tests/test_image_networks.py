"""CIFAR ResNets: published sizes, option-A shortcuts, the published weights."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from hfld_lite.distillation import Distiller
from hfld_lite.errors import ArgumentError, DataError
from hfld_lite.losses import one_to_all_matching
from hfld_lite.networks import Output, count_parameters
from hfld_lite.rivals.image_networks import BLOCKS, Block, cifar_resnet, load_published
from hfld_lite.teachers import Batch, teacher_targets

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
    total, terms = distiller(Batch(images, target, torch.arange(4)))
    assert total.isfinite()
    assert (terms["feature"] > 0).all()


def published_file() -> Path:
    root = os.environ.get("HFLD_REAL_DATA")
    if not root:
        pytest.skip("HFLD_REAL_DATA is not set; it names the folder of the published network")
    return Path(root) / "published" / "resnet32_cifar100_hkd.pkl"


def test_published_weights_load_strictly():
    network = load_published(published_file())
    state = network.state_dict()
    assert len(state) == 188
    assert count_parameters(network) == 470_004
    assert not network.training
    assert all(p.requires_grad and p.device.type == "cpu" for p in network.parameters())
    raw = torch.load(published_file(), weights_only=True, map_location="cpu")
    assert all(torch.equal(state[name.removeprefix("module.")], raw[name]) for name in raw)
    with torch.inference_mode():
        logits = network(torch.randn(4, 3, 32, 32)).logits
    assert logits.isfinite().all()
    assert logits.std() > 0.5  # trained: classes stand apart


@pytest.fixture
def state():
    torch.manual_seed(0)
    return cifar_resnet(20, 7).state_dict()


def load(path: Path) -> torch.nn.Module:
    return load_published(path, 20, 7)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_saved_weights_come_back(tmp_path, state, prefix):
    path = tmp_path / "x.pkl"
    torch.save({prefix + name: value for name, value in state.items()}, path)
    loaded = load(path).state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


class Malicious:
    """Unpickled without care, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class MaliciousByName(Malicious):
    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("kind", [Malicious, MaliciousByName])
@pytest.mark.parametrize("form", ["zip", "torch before 1.6", "pickle"])
@pytest.mark.parametrize("beside", [True, False])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, state, kind, form, beside):
    path, made = tmp_path / "weights.pkl", tmp_path / "made"
    content = {**state, "linear.bias": kind(made)} if beside else kind(made)
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(DataError, match=r"weights.pkl: is not a file of weights") as caught:
        load(path)
    assert not made.exists()
    assert "weights_only" not in str(caught.value)  # torch advises to load it unsafely
    if form == "zip":
        assert "its pickle calls for " in str(caught.value)
    (pickle.loads if form == "pickle" else unsafe_load)(path.read_bytes())
    assert made.exists()  # it would have


def unsafe_load(data: bytes) -> object:
    return torch.load(io.BytesIO(data), weights_only=False)


def rewrite(path: Path, change, **options) -> None:
    """Pack a torch archive anew, with its pickle changed."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in records.items():
            archive.writestr(name, change(data) if name.endswith("data.pkl") else data)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: [*s.values()], "no dict of names and tensors"),
        (lambda s: {"epoch": 3, **s}, "no dict of names and tensors"),
        (lambda s: {1: s["linear.bias"]}, "no dict of names and tensors"),
        (lambda s: {"state": s}, "no dict of names and tensors"),
        (lambda s: {}, r"lacks \d+ tensors"),
        (lambda s: {k: v for k, v in s.items() if k != "linear.bias"}, "lacks 1 .*'linear.bias'"),
        (lambda s: {**s, "more": s["linear.bias"]}, "has 1 tensors, such as 'more'"),
        (lambda s: {**s, "module.linear.bias": s["linear.bias"]}, "twice"),
        (lambda s: {**s, "linear.bias": torch.zeros(8)}, r"linear.bias is torch.float32 \(8,\)"),
        (lambda s: {**s, "linear.bias": torch.zeros(7).double()}, "linear.bias is torch.float64"),
        (lambda s: {**s, "linear.bias": torch.zeros(1).expand(7)}, "part of something larger"),
        (lambda s: {**s, "linear.bias": torch.zeros(9999)[:7]}, "part of something larger"),
    ],
)
def test_other_content_is_named(tmp_path, state, change, words):
    torch.save(change(state), tmp_path / "x.pkl")
    with pytest.raises(DataError, match=f"x.pkl: .*{words}.*expected the state of a CIFAR"):
        load(tmp_path / "x.pkl")


def test_another_depth_or_number_of_classes_is_refused(tmp_path, state):
    torch.save(state, tmp_path / "x.pkl")
    with pytest.raises(DataError, match=r"lacks .* ResNet32 with 7 classes"):
        load_published(tmp_path / "x.pkl", 32, 7)
    with pytest.raises(DataError, match=r"linear.* ResNet20 with 8 classes"):
        load_published(tmp_path / "x.pkl", 20, 8)
    with pytest.raises(ArgumentError, match="depth is 33"):
        load_published(tmp_path / "x.pkl", 33, 7)


@pytest.mark.parametrize("keep", [0, 3, 100, 5000, -1, -100])
def test_a_truncated_file_is_refused(tmp_path, state, keep):
    path = tmp_path / "x.pkl"
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"x.pkl: is not a file of weights"):
        load(path)


@pytest.mark.parametrize("where", ["missing.pkl", "", "pipe"])
def test_what_is_no_file_is_refused(tmp_path, where):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match=r"not a regular file|No such file"):
        load(tmp_path / where)


def test_a_compressed_archive_is_refused_unopened(tmp_path, state):
    torch.save(state, tmp_path / "x.pkl")
    rewrite(tmp_path / "x.pkl", lambda data: data, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match="a record is compressed"):
        load(tmp_path / "x.pkl")


def test_records_that_claim_more_than_the_file_are_refused(tmp_path, state):
    path = tmp_path / "x.pkl"
    torch.save(state, path)
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")  # the last of the directory: its two sizes
    data[entry + 20 : entry + 28] = (2**31).to_bytes(4, "little") * 2
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"its records claim 2\d{9} bytes"):
        load(path)


def test_a_tensor_that_claims_too_much_reserves_nothing(tmp_path, state, monkeypatch):
    path = tmp_path / "x.pkl"
    torch.save(state, path)
    seven, many = b"K\x07t", b"J\xff\xff\xff\x7ft"  # the storage's length, in the pickle
    rewrite(path, lambda data: data.replace(seven, many))
    devices, real = [], torch.load
    monkeypatch.setattr(
        torch, "load", lambda *a, **k: devices.append(str(k["map_location"])) or real(*a, **k)
    )
    with pytest.raises(DataError, match=r"linear.bias is a part of something larger"):
        load(path)
    assert devices == ["meta"]
