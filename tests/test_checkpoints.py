"""Files that are whole or not at all, read only if undamaged, and of the training that resumes."""

import errno
import json
import os
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from hfld_lite import HfldError, RecipeError
from hfld_lite.storage import checkpoints
from hfld_lite.storage.checkpoints import (
    Checkpoints,
    DamagedError,
    StageCheckpoints,
    read_state,
    write_state,
)
from hfld_lite.teachers import digest
from hfld_lite.training import Samples

FACTS, MADE_WITH = {"recipe": {"weights": (1.0, 2.0)}, "split": "a"}, {"torch": "2", "threads": 1}


def equal(first, second):
    """Equal to the bit, types and order included."""
    if isinstance(first, torch.Tensor):
        known = isinstance(second, torch.Tensor) and first.dtype == second.dtype
        return known and first.shape == second.shape and torch.equal(first, second)
    if isinstance(first, dict):
        return (
            isinstance(second, dict)
            and list(first) == list(second)
            and [type(key) for key in first] == [type(key) for key in second]
            and all(equal(first[key], second[key]) for key in first)
        )
    if isinstance(first, list | tuple):
        same = type(first) is type(second) and len(first) == len(second)
        return same and all(map(equal, first, second))
    return type(first) is type(second) and first == second


def state(seed=0):
    rng = torch.Generator().manual_seed(seed)
    table = torch.randn(4, 6, generator=rng)
    return {
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0)}, 7: {"moment": table}},
            "groups": [{"betas": (0.9, 0.999), "params": [0, 7], "foreach": None, "decay": True}],
        },
        "best": (-1.0, -float("inf")),
        "tiny": 1e-323,
        "third": 1 / 3,
        "large": 2**62 + 1,
        "text": 'ü ← "quoted"\n\0',
        "nothing": {"dict": {}, "list": [], "tuple": (), "text": ""},
        "kinds": [
            torch.randn(5, generator=rng).bfloat16(),
            torch.randint(-(2**60), 2**60, (3,), generator=rng),
            torch.randint(256, (11,), generator=rng).to(torch.uint8),
            torch.tensor([True, False, True]),
            torch.tensor(False),
            torch.empty(0),
            torch.empty(3, 0, dtype=torch.int64),
            table.double().T,
            table.half()[:, ::2],
            torch.tensor([-0.0, float("inf"), 1e-45]),
        ],
        "dict": {"tensor": "0", "list": [{"tuple": 1}]},  # like the marks that the format uses
    }


# A file


def test_a_state_comes_back_as_it_was(tmp_path):
    write_state(tmp_path / "a", state())
    found = read_state(tmp_path / "a")
    assert equal(found, state())
    assert not equal(found, state(1))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    for tensor in found["kinds"]:
        tensor.zero_()  # writable, so not a view of the file
    assert equal(read_state(tmp_path / "a"), state())


def test_what_a_training_has_besides_becomes_plain(tmp_path):
    named = Samples(torch.ones(2), torch.zeros(1))
    given = {"a": OrderedDict(x=1), "b": named, "c": np.float64(0.1)}
    write_state(tmp_path / "a", given)
    plain = {"a": {"x": 1}, "b": (torch.ones(2), torch.zeros(1)), "c": 0.1}
    assert equal(read_state(tmp_path / "a"), plain)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({1, 2}, "set"),
        (np.ones(2), "ndarray"),
        (np.int64(3), "int64"),
        (1j, "complex"),
        (Path("x"), "PosixPath"),
        ({(1, 2): 3}, "tuple as a key"),
        ({0.5: 3}, "float as a key"),
        ({None: 3}, "NoneType as a key"),
    ],
)
def test_what_would_not_come_back_is_refused_and_the_file_stays(tmp_path, value, named):
    write_state(tmp_path / "a", state())
    with pytest.raises(TypeError, match=f"cannot hold a {named}"):
        write_state(tmp_path / "a", {"deep": [{"x": value}]})
    assert equal(read_state(tmp_path / "a"), state())
    assert len(list(tmp_path.iterdir())) == 1


def test_no_flipped_byte_is_ever_taken_for_data(tmp_path):
    path = tmp_path / "a"
    write_state(path, {"a": (1, -2.5), "b": torch.arange(40), "c": torch.ones(3).bfloat16()})
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    assert b"BF16" in content[:header]
    assert len(content) - header == 40 * 8 + 3 * 2
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(DamagedError, match=r"a: the checkpoint is damaged \("):
            read_state(path)
    path.write_bytes(content)
    assert read_state(path)["a"] == (1, -2.5)


def test_no_part_of_a_file_and_no_other_file_is_taken_for_it(tmp_path):
    path = tmp_path / "a"
    write_state(path, state())
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    cuts = {0, 1, 7, 8, 9, header - 1, header, header + 1, len(content) // 2, len(content) - 1}
    for wrong in (*(content[:cut] for cut in cuts), content + b"\0", b"x" * 200, b"{}", b"\0" * 99):
        path.write_bytes(wrong)
        with pytest.raises(DamagedError, match="damaged"):
            read_state(path)
    for metadata in (None, {"state": "{}"}, {"sha256": "0"}, {"state": "3", "sha256": "x"}):
        save_file({"a": torch.ones(3)}, path, metadata)
        with pytest.raises(DamagedError, match="check sum"):
            read_state(path)
    path.unlink()
    for make in (lambda: None, path.mkdir):
        make()
        with pytest.raises(DamagedError, match="damaged"):
            read_state(path)


def test_the_digest_tells_names_types_shapes_and_values_apart():
    base = {"a": torch.zeros(4), "b": torch.ones(1)}
    others = (
        base | {"a": torch.zeros(2, 2)},
        base | {"a": torch.zeros(4, dtype=torch.int32)},
        base | {"a": -torch.zeros(4)},
        {"c": torch.zeros(4), "b": torch.ones(1)},
        {"a": torch.zeros(4)},
    )
    digests = {digest("", tensors) for tensors in (base, *others)} | {digest("x", base)}
    assert len(digests) == 7
    assert digest("", dict(reversed(base.items()))) == digest("", base)
    assert digest("", {"a": torch.eye(2)[:, 0]}) == digest("", {"a": torch.tensor([1.0, 0])})


def test_a_file_is_flushed_before_it_gets_its_name_and_its_folder_after(tmp_path, monkeypatch):
    done = []

    def spy(module, name, tell):
        real = getattr(module, name)

        def call(*arguments):
            done.append((name, tell(*arguments), (tmp_path / "a").exists()))
            return real(*arguments)

        monkeypatch.setattr(module, name, call)

    def opened(handle):
        there = (tmp_path, *tmp_path.iterdir())
        return next(p.name for p in there if os.path.samestat(os.fstat(handle), p.stat()))

    spy(checkpoints, "save_file", lambda _tensors, path, _metadata: path.name)
    spy(os, "fsync", opened)
    spy(os, "replace", lambda source, target: (source.name, target.name))
    write_state(tmp_path / "a", state())
    assert done == [
        ("save_file", "a.part", False),
        ("fsync", "a.part", False),
        ("replace", ("a.part", "a"), False),
        ("fsync", tmp_path.name, True),
    ]


# A folder


def begin(folder, resume=False, **facts):
    return Checkpoints(folder, FACTS | facts, MADE_WITH, resume)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def train(kept, stage, epochs, until=None, made_of=None):
    """What fit does with checkpoints: take up the last, then save each epoch; the epochs done."""
    of_stage, done = StageCheckpoints(kept, stage, made_of or {}), []
    for epoch in range(((of_stage.load() or {"epoch": 0})["epoch"]) + 1, epochs + 1):
        of_stage.save({"epoch": epoch, "value": torch.tensor(epoch)}, epoch, epoch == epochs)
        done.append(epoch)
        if epoch == until:
            break
    return done


def test_two_epochs_of_the_stage_at_work_and_the_finished_stages_are_kept(tmp_path):
    kept, seen = begin(tmp_path / "c"), []
    for stage in ("teacher", "student"):
        for epoch in range(1, 6):
            kept.save(stage, {"epoch": epoch}, epoch, finished=epoch == 5)
            seen.append(names(tmp_path / "c")[:-1])
            assert names(tmp_path / "c")[-1] == "training.json"
    teacher = [f"teacher.epoch-{n:05d}.safetensors" for n in range(5)]
    student = [f"student.epoch-{n:05d}.safetensors" for n in range(5)]
    ended = "teacher.safetensors"
    assert seen == [
        teacher[1:2],
        teacher[1:3],
        teacher[2:4],
        teacher[3:5],
        [*teacher[3:5], ended],
        [student[1], ended],
        [*student[1:3], ended],
        [*student[2:4], ended],
        [*student[3:5], ended],
        [*student[3:5], "student.safetensors", ended],
    ]
    assert kept.load("teacher") == kept.load("student") == {"epoch": 5}
    assert kept.load("other") is None


def test_stages_whose_names_begin_alike_are_told_apart(tmp_path):
    kept = begin(tmp_path)
    kept.save("student", {"epoch": 1}, 1, finished=False)
    assert kept.load("student_alone") is None
    kept.save("student_alone", {"epoch": 2}, 2, finished=False)
    assert kept.load("student") is None
    assert kept.load("student_alone") == {"epoch": 2}


def test_a_damaged_checkpoint_gives_way_to_the_one_before_with_a_message(tmp_path):
    kept = begin(tmp_path)
    assert train(kept, "teacher", 9, until=3) == [1, 2, 3]
    last = tmp_path / "teacher.epoch-00003.safetensors"
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=r"epoch-00003.safetensors: .* damaged .* one before it"):
        assert kept.load("teacher")["epoch"] == 2
    assert "epoch-00002" in kept.kept(), "a damaged one is no good one"
    with pytest.warns(UserWarning, match="damaged"):
        assert train(kept, "teacher", 9, until=3) == [3]
    assert "epoch-00003" in kept.kept()
    assert kept.load("teacher")["epoch"] == 3


def test_what_is_damaged_or_given_up_never_pushes_out_what_was_just_written(tmp_path):
    kept = begin(tmp_path)
    train(kept, "teacher", 9, until=4)
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match="damaged"):
        assert train(kept, "teacher", 9, until=1) == [1]
    assert names(tmp_path) == ["teacher.epoch-00001.safetensors", "training.json"]
    assert train(begin(tmp_path, resume=True), "teacher", 9, until=2) == [2], "and it goes on"


def test_a_stage_of_another_teacher_is_trained_anew(tmp_path):
    kept = begin(tmp_path)
    assert train(kept, "student", 3, made_of={"teacher": "a", "recipe": "r"}) == [1, 2, 3]
    assert train(kept, "student", 3, made_of={"teacher": "a", "recipe": "r"}) == []
    other = {"teacher": "b", "recipe": "r"}
    with pytest.warns(
        UserWarning, match="student was trained with another teacher than the"
    ) as said:
        assert train(kept, "student", 3, until=1, made_of=other) == [1]
    assert "another recipe" not in str(said[0].message)
    assert train(kept, "student", 3, made_of=other) == [2, 3], "the outdated end is gone"


# Facts


def test_a_folder_is_not_taken_by_mistake(tmp_path):
    begin(tmp_path / "c")
    with pytest.raises(RecipeError, match=r"holds a training already; resume it or choose"):
        begin(tmp_path / "c")
    begin(tmp_path / "c", resume=True)
    begin(tmp_path / "new" / "deep", resume=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "teacher.safetensors").write_text("weights of a run")
    (tmp_path / "run" / "download.part").write_text("mine")
    for resume in (False, True):
        with pytest.raises(RecipeError, match=r"holds other files \(download.part\)"):
            begin(tmp_path / "run", resume)
    assert names(tmp_path / "run") == ["download.part", "teacher.safetensors"]
    with pytest.raises(RecipeError, match=r"cannot be written \(Not a directory\)"):
        begin(tmp_path / "run" / "download.part" / "c")


def test_leftovers_of_a_killed_write_are_removed_at_the_start(tmp_path):
    train(begin(tmp_path), "teacher", 9, until=2)
    (tmp_path / "teacher.epoch-00003.safetensors.part").write_text("half")
    kept = begin(tmp_path, resume=True)
    assert not list(tmp_path.glob("*.part"))
    assert kept.load("teacher")["epoch"] == 2
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "training.json.part").write_text("killed at the very start")
    begin(tmp_path / "b", resume=True)
    assert names(tmp_path / "b") == ["training.json"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"recipe": {"weights": (1.0, 3.0)}}, "recipe"), ({"split": "b"}, "split"), ({"x": 1}, "x")],
)
def test_another_training_is_refused_by_the_name_of_what_differs(tmp_path, changes, named):
    begin(tmp_path)
    with pytest.raises(RecipeError, match=f"has another {named}; resume it"):
        begin(tmp_path, resume=True, **changes)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000, "\0"])
def test_a_damaged_training_json_is_named(tmp_path, text):
    begin(tmp_path)
    (tmp_path / "training.json").write_text(text)
    with pytest.raises(RecipeError, match=r"training.json cannot be read"):
        begin(tmp_path, resume=True)


def test_another_format_is_refused(tmp_path):
    begin(tmp_path)
    facts = json.loads((tmp_path / "training.json").read_text())
    (tmp_path / "training.json").write_text(json.dumps(facts | {"format": 99}))
    with pytest.raises(RecipeError, match="another format"):
        begin(tmp_path, resume=True)


def test_other_versions_or_threads_are_no_error_but_said(tmp_path):
    begin(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        begin(tmp_path, resume=True)
    with pytest.warns(UserWarning, match="its results may differ in some bits") as said:
        Checkpoints(tmp_path, FACTS, {"torch": "3", "threads": 4}, resume=True)
    assert "'torch': '2'" in str(said[0].message)
    assert "'threads': 4" in str(said[0].message)


# Writes that fail


@pytest.mark.parametrize(
    ("where", "error", "reason"),
    [
        ("save_file", OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        ("save_file", OSError(errno.EROFS, "Read-only file system"), "Read-only file system"),
        ("save_file", OSError("odd"), "odd"),
        ("save_file", MemoryError(), "MemoryError"),
        ("save_file", SafetensorError("I/O error: full\nmore"), "I/O error: full"),
        ("replace", OSError(errno.EROFS, "Read-only file system"), "Read-only file system"),
        ("fsync", OSError(errno.EIO, "Input/output error"), "Input/output error"),
    ],
)
def test_a_failing_write_leaves_the_last_good_checkpoint_and_says_so(
    tmp_path, monkeypatch, where, error, reason
):
    kept = begin(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(checkpoints if where == "save_file" else os, where, _raise(error))
        with pytest.raises(HfldError, match=r"There is no checkpoint in .* yet"):
            kept.save("teacher", {"epoch": 1}, 1, finished=False)
    assert train(kept, "teacher", 9, until=2) == [1, 2]
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for finished, name in ((False, "teacher.epoch-00003"), (True, "teacher")):
        with monkeypatch.context() as broken:
            broken.setattr(checkpoints if where == "save_file" else os, where, _raise(error))
            with pytest.raises(HfldError) as stop:
                kept.save("teacher", {"epoch": 3}, 3, finished)
        said = str(stop.value)
        assert f"{tmp_path / name}.safetensors cannot be written ({reason})" in said
        assert f"good checkpoint is {tmp_path / 'teacher.epoch-00002.safetensors'}. Free" in said
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert train(kept, "teacher", 9, until=3) == [3]


def _raise(error):
    def fail(*_):
        raise error

    return fail
