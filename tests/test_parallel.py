"""One training in two processes: the curves, weights, stops and refusals of one in one process."""

import dataclasses
import json
import pickle
import sys
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from in_ranks import at_step, copy, noting, press_ctrl_c
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call

from hfld_lite import ArgumentError, DataError, HfldError, Network, distill_chain, training
from hfld_lite.app import cli, cli_train
from hfld_lite.errors import Diverged, Interrupted
from hfld_lite.evaluation import parallel
from hfld_lite.evaluation.parallel import check_devices, check_parts
from hfld_lite.hierarchy import CONTROLS
from hfld_lite.recipes import Augmentation
from hfld_lite.storage import ranks
from hfld_lite.storage.files import digest
from hfld_lite.weighting import WEIGHTINGS

STEPS = 20
"""Of each network whose curve is compared."""


@pytest.fixture(scope="module")
def both(tiny_recordings, tiny_recipe, tmp_path_factory):
    """The chain in one process and in two, and what each step gave: alone, in rank 0, in rank 1."""
    path = tmp_path_factory.mktemp("steps") / "steps"
    labels = tiny_recordings.labels.copy()
    labels[::5] = -1  # in a batch they come first, so that rank 0 has most of them
    data = dataclasses.replace(tiny_recordings, labels=labels)
    network = Network(10, 1 / 16, epochs=-(-STEPS // 4))
    recipe = tiny_recipe.replace(
        teacher=network, secondary_teachers=(), student=network, meta_share=0.2
    )
    ways = ("dense", *(name for name in WEIGHTINGS if name != "fixed"))  # that is the student's
    options = {"controls": ways, "progress": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training._Loop, "_step", training._Loop._step)
        for name in WEIGHTINGS:
            patch.setitem(CONTROLS, name, None)
        noting(path)
        alone = distill_chain(data, recipe, **options)
        shared = distill_chain(data, recipe, devices=2, prepare=partial(noting, path), **options)
    steps = [
        pd.DataFrame([json.loads(line) for line in Path(f"{path}-{who}").read_text().splitlines()])
        for who in ("alone", 0, 1)
    ]
    return alone, shared, steps


@pytest.mark.slow
def test_each_loss_of_each_method_is_that_of_one_process(both):
    alone, shared, (single, first, _second) = both
    each = len(single) // len(alone.stages)
    assert each >= STEPS
    assert list(alone.stages) == list(shared.stages)
    assert len(alone.stages) == 2 + len(WEIGHTINGS)
    numbers = single.columns.drop("weights")
    pd.testing.assert_frame_equal(single[numbers], first[numbers], rtol=0, atol=1e-4)
    meta = single.iloc[list(alone.stages).index("student_meta") * each :].iloc[:each]
    assert meta["weight_feature"].nunique() > 3, "the meta gradients moved nothing"
    same = ["learning_rate", "validation_loss"]
    pd.testing.assert_frame_equal(alone.history()[same], shared.history()[same], rtol=0, atol=1e-4)


def test_both_ranks_have_the_same_weights_after_each_step(both):
    *_, (_single, first, second) = both
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    assert first["weights"].nunique() > len(first) / 2


def test_networks_come_back_plain(both):
    _alone, shared, _steps = both
    for stage in shared.stages.values():
        for module in stage.network.modules():
            assert "forward" not in vars(module)
            assert not module._forward_hooks
            assert not isinstance(module, nn.SyncBatchNorm)
        assert len(stage.network(torch.rand(3, 600)).logits) == 3


@pytest.mark.parametrize("shape", [(6, 5, 7), (4, 5, 3, 2), (6, 5)])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_is_torchs_with_its_gradients_in_both_modes(shape, affine, monkeypatch):
    for name in ("gathered", "summed"):  # of one rank
        monkeypatch.setattr(ranks, name, lambda x: x)
    torch.manual_seed(0)
    x, v = torch.randn(2, *shape, dtype=torch.double)
    kind, found = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d, []
    for ours in (False, True):
        norm = kind(5, affine=affine).double()
        if affine:
            nn.init.uniform_(norm.weight, generator=torch.Generator().manual_seed(1))
        if ours:
            norm.forward = partial(parallel._normalised, norm)
        read = x.clone().requires_grad_()
        y = norm(read)
        (y * v).square().sum().backward()
        values = [y.detach(), read.grad, *(p.grad for p in norm.parameters()), *norm.buffers()]
        with torch.no_grad(), forward_ad.dual_level():
            duals = {
                name: forward_ad.make_dual(p.detach(), torch.full_like(p, 0.3))
                for name, p in norm.named_parameters()
            }
            state = duals | {name: b.clone() for name, b in norm.named_buffers()}
            y = functional_call(norm, state, forward_ad.make_dual(x, v))
            values.append(forward_ad.unpack_dual(y).tangent)
        found.append(values)
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


# Stopped and resumed


def bits(chain):
    found = {role: digest("", n.state_dict()) for role, n in chain.detector.networks.items()}
    return found | {"history": chain.history().drop(columns="seconds").to_json()}


@pytest.mark.slow
def test_killed_and_stopped_trainings_end_with_the_same_bits(
    tiny_recordings, tiny_recipe, tmp_path, capfd
):
    network = Network(10, 1 / 16, epochs=3)
    recipe = tiny_recipe.replace(
        teacher=dataclasses.replace(network, dropout=0.3),
        secondary_teachers=(),
        student=network,
        augmentation=Augmentation(),
    )
    train = partial(
        distill_chain, tiny_recordings, recipe, controls=(), progress=False, resume=True
    )
    folder, kept = tmp_path / "undisturbed", tmp_path / "kept"
    steps = 6  # an epoch
    killed = partial(at_step, steps + 2, partial(copy, folder, kept))
    undisturbed = bits(train(devices=2, folder=folder, prepare=killed))
    assert [p.name for p in kept.glob("*.safetensors")] == ["teacher.epoch-00001.safetensors"]
    stopped = partial(at_step, 2 * steps + 3, press_ctrl_c)
    with pytest.raises(Interrupted, match="student ← labels and teacher was stopped at step 3 of"):
        train(devices=2, folder=kept, prepare=stopped)
    capfd.readouterr()
    assert bits(train(devices=2, folder=kept)) == undisturbed
    assert "note" not in capfd.readouterr().err
    with pytest.warns(UserWarning, match="begun with .*'2 cpu'.* and resumes with .*'cpu'"):
        assert bits(train(folder=kept)) == undisturbed  # all is trained


def test_errors_come_back_as_they_were(tmp_path):
    class Odd(Exception):
        pass

    try:
        raise HfldError("teacher: the loss is not finite.") from Diverged("at step 1")
    except HfldError as error:
        diverged = error
    killed = parallel.ProcessExitedException("", 0, 1, -9, "SIGKILL")
    exited = parallel.ProcessExitedException("", 0, 1, 1)
    for given, ended, said in (
        ((RuntimeError("peer"), diverged), exited, "teacher: the loss is not finite."),
        ((DataError("a.wav", "it is cut", expected="a whole"),), exited, "a.wav: it is cut; exp"),
        ((KeyboardInterrupt(),), exited, ""),
        ((Odd("lost"),), exited, "Odd: lost"),
        ((RuntimeError("connection closed"),), killed, "A process of the training was ended by"),
        ((RuntimeError("a mistake here"),), exited, "a mistake here"),
        ((), exited, "The processes of several devices did not start"),
    ):
        for number, error in enumerate(given):
            parallel._tell(tmp_path / f"failed-{number}", error)
        found = parallel._first_error(tmp_path, ended)
        assert str(found).startswith(said)
        if diverged in given:
            assert isinstance(found.__cause__, Diverged)
        for file in tmp_path.iterdir():
            file.unlink()


# Refused


def test_what_cannot_be_divided_is_refused_in_a_sentence(tiny_recordings, tiny_recipe):
    kind, most = parallel.available()
    names = ("devices", "strategy")
    for given, said in (
        ((0,), r"devices is 0; it must be a whole number, 1 or more\."),
        ((most + 1,), rf"devices is {most + 1}, and there .* {kind}s? here; take {most} at most\."),
        ((1, "fsdp"), r"strategy is 'fsdp'; the nearest name is ddp|choose from ddp"),
    ):
        with pytest.raises(ArgumentError, match=said):
            check_devices(*given)
        with pytest.raises(ArgumentError, match=said):
            distill_chain(
                tiny_recordings, tiny_recipe, None, **dict(zip(names, given, strict=False))
            )
    check_devices(1, "ddp", "published")
    check_parts(2, tiny_recipe, 60)
    for size, count, near in ((9, 60, 8), (2, 60, 4), (32, 29, 28)):
        with pytest.raises(ArgumentError, match=rf"take a batch_size that does, such as {near}\b"):
            check_parts(2, tiny_recipe.replace(batch_size=size), count)


def test_what_a_process_cannot_get_is_refused(tiny_recordings, tiny_recipe, monkeypatch):
    train = partial(distill_chain, tiny_recordings, devices=2, progress=False)
    with pytest.raises(ArgumentError, match=r"cannot be sent to the processes .*lambda"):
        train(tiny_recipe, on_epoch=lambda role, row: None)
    released = tiny_recipe.replace(weighting="published", behaviour="published")
    with pytest.raises(ArgumentError, match="'published' trains on one device only"):
        train(released)
    with pytest.raises(ArgumentError, match="Batches of 9 do not make 2 equal parts"):
        train(tiny_recipe.replace(batch_size=9))
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    with pytest.raises(ArgumentError, match="a notebook or a Python prompt trains on one device"):
        train(tiny_recipe)


# The command


def test_the_command_keeps_the_number_and_the_plugins(
    tiny_recordings, tiny_recipe, tmp_path, monkeypatch, capsys
):
    calls = []

    def called(*_given, **options):
        calls.append(options)
        raise KeyboardInterrupt

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["hfld", "train", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        return exit.value.code, capsys.readouterr().err

    monkeypatch.setattr(cli_train, "distill_chain", called)
    tiny_recordings.save(tmp_path / "data")
    tiny_recipe.save(tmp_path / "recipe.json")
    (tmp_path / "plugin.py").write_text("print('run')\n")
    new = ("--out", tmp_path / "run", "--data", tmp_path / "data", "--quiet")
    new += ("--recipe", tmp_path / "recipe.json", "--plugin", tmp_path / "plugin.py")
    assert command(*new, "--devices", 0) == (
        2,
        "hfld: devices is 0; it must be a whole number, 1 or more.\n",
    )
    assert command(*new, "--devices", 2)[0] == 130
    assert command("--resume", tmp_path / "run")[0] == 130
    status, said = command("--resume", tmp_path / "run", "--devices", 1)
    assert (status, said) == (
        2,
        "hfld: --resume uses the run's own options; leave --devices out.\n",
    )
    for options in calls:
        assert options["devices"] == 2
        monkeypatch.setattr("hfld_lite.app.given._RUN", {})  # as in a new process
        pickle.loads(pickle.dumps(options["prepare"]))()
    assert len(calls) == 2
    assert capsys.readouterr().out.count("run\n") == 2
