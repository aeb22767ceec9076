"""Recordings that are larger than memory: read in pieces, chosen lazily, the same results."""

import errno
import json
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hfld_lite import Recordings, read_folder
from hfld_lite.data import examples, plausibility, splits
from hfld_lite.data.examples import Examples, Stored, without_meta
from hfld_lite.data.views import VIEWS
from hfld_lite.errors import ArgumentError
from hfld_lite.evaluation.detector import trust_of
from hfld_lite.hierarchy import Trainer
from hfld_lite.recipes import Augmentation
from hfld_lite.storage import arrays
from hfld_lite.storage.arrays import Chosen, Rows, choose, gathered, pieces


@pytest.fixture
def mapped(tmp_path):
    """A read-only memory map ``(40, 12)`` and the same in memory."""
    values = np.random.default_rng(0).standard_normal((40, 12)).astype(np.float32)
    np.save(tmp_path / "values.npy", values)
    return np.load(tmp_path / "values.npy", mmap_mode="r"), values


@pytest.fixture
def lazy(monkeypatch):
    """Rows of any memory map stay there."""
    monkeypatch.setattr(arrays, "LAZY", 0)


@pytest.fixture(scope="module")
def stored(tmp_path_factory, tiny_recordings):
    return Recordings.load(tiny_recordings.save(tmp_path_factory.mktemp("growth") / "data"))


class TestChosen:
    ROWS = np.array([7, 3, 3, 39, 0, 12])

    @pytest.fixture
    def both(self, mapped, lazy):
        chosen = choose(mapped[0], self.ROWS)
        assert isinstance(chosen, Chosen)
        return chosen, mapped[1][self.ROWS]

    @pytest.mark.parametrize(
        "key",
        [
            2,
            -1,
            slice(1, 4),
            slice(None),
            [4, 0],
            np.array([True, False, True, False, False, True]),
            (slice(None), slice(2, 5)),
            (slice(1, 3), slice(None, 4)),
            (0, slice(3)),
            (slice(2), 5),
        ],
    )
    def test_indexing_gives_what_the_copy_gives(self, both, key):
        chosen, copy = both
        np.testing.assert_array_equal(np.asarray(chosen[key]), copy[key])

    def test_it_acts_as_the_copy(self, both):
        chosen, copy = both
        assert (chosen.shape, chosen.ndim, chosen.dtype, len(chosen)) == ((6, 12), 2, "<f4", 6)
        assert chosen.nbytes == copy.nbytes
        same = np.testing.assert_array_equal
        same(2 * chosen - chosen.mean(1, keepdims=True), 2 * copy - copy.mean(1, keepdims=True))
        same(np.abs(chosen).max(0), np.abs(copy).max(0))
        same(np.concatenate([chosen, chosen]), np.concatenate([copy, copy]))
        same(torch.as_tensor(np.array(chosen)).numpy(), copy)
        same(np.stack(list(chosen)), copy)
        same(pickle.loads(pickle.dumps(chosen)), copy)
        same(np.concatenate(list(pieces(chosen, 4))), copy)

    def test_columns_and_rows_of_it_are_not_read_either(self, both):
        chosen, copy = both
        for found, expected in (
            (chosen[:, 2:5], copy[:, 2:5]),
            (choose(chosen, np.array([5, 1])), copy[[5, 1]]),
            (choose(chosen, slice(1, 3)), copy[1:3]),
        ):
            assert isinstance(found, Chosen)
            np.testing.assert_array_equal(found, expected)

    def test_few_rows_and_arrays_in_memory_are_copied(self, mapped, monkeypatch):
        assert type(choose(mapped[0], self.ROWS)) is np.ndarray
        monkeypatch.setattr(arrays, "LAZY", 0)
        assert type(choose(mapped[1], self.ROWS)) is np.ndarray
        assert isinstance(choose(mapped[0], slice(3)), np.memmap)

    def test_changes_of_a_private_map_stay(self, mapped, tmp_path):
        """What is written to a copy-on-write map exists in memory only, so it is not let go."""
        private = np.load(tmp_path / "values.npy", mmap_mode="c")
        private[:] = 1
        assert all((piece == 1).all() for piece in pieces(private, 7))
        assert (private == 1).all()


class TestTheSameResults:
    def test_selected_recordings(self, stored, tiny_recordings, lazy):
        rows = np.arange(0, len(stored), 3)
        few, copied = stored.select(rows), tiny_recordings.select(rows)
        assert isinstance(few.signals, Chosen)
        assert isinstance(copied.signals, np.ndarray)
        assert few.fingerprint() == copied.fingerprint()
        assert few.digests() == copied.digests()
        assert few.summary() == copied.summary()
        again = few.select(np.arange(4))
        assert isinstance(again.signals, Chosen)
        assert again.fingerprint() == copied.select(np.arange(4)).fingerprint()

    def test_a_saved_selection(self, stored, lazy, tmp_path):
        few = stored.select(np.arange(5, 30))
        assert Recordings.load(few.save(tmp_path / "few")).fingerprint() == few.fingerprint()

    def test_a_test_and_its_limits(self, stored, tiny_recordings, tiny_chain, lazy):
        detector, parts = tiny_chain.detector, tiny_chain.split
        found = detector.test(stored, parts.test)
        expected = detector.test(tiny_recordings, parts.test)
        assert found.table.equals(expected.table)
        assert found.predictions.equals(expected.predictions)
        limits = [
            trust_of(detector, data, parts, detector.predictor("student"))
            for data in (stored, tiny_recordings)
        ]
        assert limits[0] == limits[1]

    def test_meta_batches(self, stored, tiny_recordings, tiny_recipe, lazy):
        rows = np.arange(len(stored))
        found, expected = (
            Examples.of(data, tiny_recipe, False).cut(rows, 0.2, seed=1)
            for data in (stored, tiny_recordings)
        )
        assert all(map(np.array_equal, found, expected))
        assert len(without_meta(stored, 0.2, 1).test) == len(found[1])

    @pytest.mark.parametrize("view", VIEWS)
    def test_views_of_a_batch(self, view, stored, tiny_recipe):
        """A batch's views have the bits of all made at once, and are made in one call."""
        recipe = tiny_recipe.replace(view=view, bins_by="averaging", bins=None)
        whole = Examples.of(stored, recipe, True).inputs
        inputs = Examples.of(stored, recipe, False).everything()
        order = torch.randperm(len(stored), generator=torch.Generator().manual_seed(0))
        for size in (1, 7, 32):
            for rows, found in inputs.batches(order.split(size)):
                assert torch.equal(found, whole[rows])

    def test_a_batch_is_made_in_one_call(self, stored, tiny_recipe, monkeypatch):
        data = Examples.of(stored, tiny_recipe, False).select(np.arange(40))
        calls, made = [], examples.network_inputs
        monkeypatch.setattr(
            examples, "network_inputs", lambda *x: (calls.append(len(x[0])), made(*x))[1]
        )
        list(data.everything().batches(torch.arange(40).split(16)))
        assert calls == [16, 16, 8]

    def test_augmented_training(self, stored, tiny_recipe):
        """Raw signals stay in the folder too, where inputs do."""
        recipe = tiny_recipe.replace(augmentation=Augmentation())
        trained = []
        for in_memory in (True, False):
            trainer = Trainer(stored, recipe, progress=False, in_memory=in_memory)
            assert isinstance(trainer._signals.inputs, Stored) is not in_memory
            trained.append(trainer.supervise("student").network.state_dict())
        assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])

    def test_augmented_signals_stay_in_a_large_map(self, stored, tiny_recipe, lazy):
        recipe = tiny_recipe.replace(augmentation=Augmentation())
        found = Examples.of(stored, recipe, True).signals(np.arange(30)).inputs
        assert isinstance(found, Stored)
        assert np.array_equal(found[torch.arange(30)].numpy(), stored.signals[:30])

    def testlinked_groups(self, tiny_recordings, monkeypatch):
        """Groups that share recordings, by chains too, have the least number of theirs."""
        rng = np.random.default_rng(0)
        for sets in ([], [[0, 5], [5, 20], [41, 9, 70]], [*rng.integers(0, 80, (25, 2))]):
            sets = [np.unique(rows) for rows in sets]
            monkeypatch.setattr(splits, "_equal", lambda _, sets=sets: sets)
            expected = np.unique(tiny_recordings.groups, return_inverse=True)[1]
            for rows in sets:  # one after the other, which takes the square of the time
                expected[np.isin(expected, expected[rows])] = expected[rows].min()
            np.testing.assert_array_equal(splits.linked_groups(tiny_recordings), expected)

    def test_equal_rows_are_found_by_hashes(self, mapped):
        signals = np.concatenate([mapped[1], mapped[1][[3, 20, 3]], np.ones((2, 12), np.float32)])
        found = [rows.tolist() for rows in plausibility.equal_rows(signals)]
        assert found == [[3, 40, 42], [20, 41]]

    def test_standardised_answers(self):
        rows = torch.randn(50, 3, 4, generator=torch.Generator().manual_seed(0))
        kept = Rows(50, 1 << 20, None)
        for chunk in rows.split(16):
            kept.append(chunk)
        found, mean, deviation = kept.standardised()
        assert torch.equal(mean, rows.mean((0, 2)))
        assert torch.equal(deviation, rows.std((0, 2)))
        assert torch.equal(found, (rows - mean[:, None]) / deviation[:, None])


class TestManyFiles:
    @pytest.mark.parametrize("limit", [0, 3 * 48 * 5, 1 << 29])
    def test_gathered_rows(self, mapped, monkeypatch, limit):
        monkeypatch.setattr(arrays, "GATHERED", limit)
        windows = np.lib.stride_tricks.sliding_window_view(mapped[1][0], 5)[::2]
        parts = [mapped[1][:3, :5], windows, mapped[1][9:10, :5]]
        found = gathered(iter(parts))
        assert isinstance(found, np.memmap) == (limit < sum(part.nbytes for part in parts))
        np.testing.assert_array_equal(found, np.concatenate(parts))
        assert found.dtype == np.float32

    @pytest.mark.parametrize("part", ["first", "windows"])
    def test_a_folder_larger_than_memory(self, tmp_path, tiny_recordings, monkeypatch, part):
        """A folder of files above the limit gives the same recordings, on the disk."""
        for row in range(0, 80, 8):
            name = tmp_path / tiny_recordings.class_names[tiny_recordings.labels[row]]
            name.mkdir(exist_ok=True)
            soundfile.write(name / f"{row}.wav", tiny_recordings.signals[row] / 2, 40_000)
        found = []
        for limit in (1 << 29, 10_000):
            monkeypatch.setattr(arrays, "GATHERED", limit)
            with pytest.warns(UserWarning, match="of 10 files"):
                found.append(read_folder(tmp_path, part=part, samples=3000))
        assert [isinstance(data.signals, np.memmap) for data in found] == [False, True]
        assert found[0].fingerprint() == found[1].fingerprint()
        assert found[0].summary() == found[1].summary()
        assert len(found[1]) == (20 if part == "windows" else 10)

    def test_no_room(self, mapped, monkeypatch):
        class Full(tempfile.SpooledTemporaryFile):
            def write(self, _):
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(tempfile, "SpooledTemporaryFile", Full)
        with pytest.raises(ArgumentError, match=r"more than 0 MB cannot be kept there \(No space"):
            gathered([mapped[1]])


MEASURED = """
import json, sys, warnings
from pathlib import Path
import numpy as np, torch
from hfld_lite import Recipe, read_folder, simulate_tiles
from hfld_lite.data.examples import Examples
from hfld_lite.data.splits import split
from hfld_lite.storage import arrays

warnings.simplefilter("ignore")
torch.set_num_threads(1)
arrays.LAZY = 0

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith("VmHWM")).split()[1]) / 1024

def steps(recordings):
    yield "read", lambda: read_folder(sys.argv[1]) if len(recordings) > 100 else None
    yield "findings", lambda: recordings.findings
    yield "fingerprint", recordings.fingerprint
    yield "split", lambda: split(recordings)
    examples = Examples.of(recordings, Recipe(), False)
    # Each row may map a huge page of 2 MB.
    rows = torch.randperm(len(recordings)).split(4)
    yield "batches", lambda: [0 for _ in examples.everything().batches(rows)]
    chosen = recordings.select(np.arange(len(recordings))[::-1])
    yield "selected", chosen.digests

for _, run in steps(simulate_tiles(tiles_per_class=10, drops=1)):
    run()  # loads what is loaded at first use
found = {}
for name, run in steps(read_folder(sys.argv[1])):
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    run()
    found[name] = peak() - before
print(json.dumps(found))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak")
def test_memory_is_a_fraction_of_the_recordings(tmp_path):
    """Of 56 MB, each step holds less than a third; pages of the folder's file are counted."""
    count, samples = 2000, 7000
    signals = np.random.default_rng(0).random((count, samples), dtype=np.float32)
    names, rows = ("good", "bad"), np.arange(count)
    groups = np.char.add("tile ", (rows // 30).astype(str))
    data = Recordings(signals, rows % 2, groups, 40_000, names)
    folder = data.save(tmp_path / "data")
    command = [sys.executable, "-c", MEASURED, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    found = json.loads(done.stdout)
    assert max(found.values()) < signals.nbytes / 2**20 / 3, found
