"""The reader that finds out what a folder holds."""

import subprocess
import sys

import numpy as np
import pytest
import scipy.io
import soundfile

from hfld_lite.data import readers
from hfld_lite.data.readers import read_folder, read_mat, read_signals, reader
from hfld_lite.errors import ArgumentError, DataError


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, shape)


@pytest.fixture
def tiles(tmp_path):
    for name in ("AN", "AD"):
        scipy.io.savemat(tmp_path / f"{name}.mat", {"data": noise(3, 20)})
    return tmp_path


def test_tiles_and_prepared(tiles, tmp_path):
    read = read_folder(tiles, samples=20, pool=False, progress=True)
    assert read.class_names == ("N", "D")
    folder = read.save(tmp_path / "prepared")
    assert read_folder(folder, progress=True, verify=False).source == read.source


def test_long(tmp_path):
    for name in ("B_load0", "N_load0"):
        scipy.io.savemat(tmp_path / f"{name}.mat", {"DE_time": noise(1, 400)})
    assert read_folder(tmp_path, window=10).normal_classes == ("N",)


def test_sounds_with_and_without_manifest(tmp_path):
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "a.wav", noise(100), 8000)
    assert read_folder(tmp_path).class_names == ("good", "bad")
    (tmp_path / "manifest.csv").write_text("file,label\ngood/a.wav,x\nbad/a.wav,y\n")
    assert read_folder(tmp_path).class_names == ("x", "y")


def test_none_or_several(tiles, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: holds nothing that can be read: it is empty"):
        read_folder(tmp_path / "empty")
    (tmp_path / "empty" / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"nothing that can be read: a.txt; expected one of"):
        read_folder(tmp_path / "empty")
    read_mat([tiles / "AN.mat", tiles / "AD.mat"], samples=20).save(tmp_path / "both")
    scipy.io.savemat(tmp_path / "both" / "AN.mat", {"data": noise(3, 20)})
    with pytest.raises(DataError, match=r"holds a prepared folder and tiles in .mat files"):
        read_folder(tmp_path / "both")
    with pytest.raises(DataError, match="nowhere: is not there"):
        read_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"AN.mat: is a file; expected a folder"):
        read_folder(tiles / "AN.mat")


def test_unknown_option(tiles):
    with pytest.raises(ArgumentError, match="no option 'sampels'; the nearest name is samples"):
        read_folder(tiles, sampels=20)


class TestNewFormat:
    """One function with a decorator is all that a new format needs."""

    @pytest.fixture
    def rates(self, monkeypatch):
        monkeypatch.setattr(readers, "READERS", dict(readers.READERS))
        monkeypatch.setattr("hfld_lite.data.class_folders.READERS", readers.READERS)

        @reader(".npy1")
        def read_npy(path):
            rate = 500 if "rate" in path.stem else None
            return np.load(path.open("rb"), allow_pickle=False), rate

    @pytest.fixture
    def folder(self, rates, tmp_path):
        for label in ("bad", "good"):
            (tmp_path / label).mkdir()
            for i in range(2):
                with (tmp_path / label / f"{i}.npy1").open("wb") as file:
                    np.save(file, noise(30) + i)
        return tmp_path

    def test_a_folder(self, folder):
        read = read_folder(folder, sample_rate=100)
        assert (read.class_names, read.sample_rate) == (("good", "bad"), 100)
        assert np.array_equal(read.signals[1], (noise(30) + 1).astype(np.float32))
        assert (read.units, read.origins[0]) == ("", "bad/0.npy1:0")
        assert read.source.endswith(": 4 .npy1 files")
        with pytest.raises(DataError, match=r"bad/0.npy1: does not tell its sample rate; give it"):
            read_folder(folder)
        (folder / "bad" / "0.npy1").rename(folder / "bad" / "rate.npy1")
        assert read_folder(folder).sample_rate == 500
        with pytest.raises(DataError, match=r"bad/rate.npy1: is at 500 Hz; expected 100 Hz"):
            read_folder(folder, sample_rate=100)

    def test_together_with_sounds(self, folder):
        soundfile.write(folder / "bad" / "a.wav", noise(30), 8000)
        read = read_folder(folder)
        assert read.sample_rate == 8000
        assert read.source.endswith(": 5 .npy1 and .wav files")

    def test_one_file(self, folder):
        read = read_signals(folder / "bad" / "1.npy1", sample_rate=7, samples=20)
        assert np.array_equal(read[0], (noise(30) + 1).astype(np.float32)[:20])
        (folder / "bad" / "1.npy1").rename(folder / "rate.npy1")
        with pytest.raises(DataError, match=r"rate.npy1: is at 500 Hz; expected 7 Hz"):
            read_signals(folder / "rate.npy1", sample_rate=7, samples=20)

    def test_messages_know_it(self, folder, tmp_path):
        (tmp_path / "x.txt").write_text("x")
        with pytest.raises(DataError, match=r"'.txt'; .* ends in .mat, .wav, .flac or .npy1"):
            read_signals(tmp_path / "x.txt", sample_rate=1, samples=1)
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match=r"one subfolder of .wav, .flac or .npy1 files"):
            read_folder(tmp_path / "empty")

    def test_what_the_function_raises_or_returns_is_told_with_the_file(self, folder):
        path = folder / "bad" / "0.npy1"
        path.write_bytes(b"no array")
        with pytest.raises(DataError, match=r"0.npy1: cannot be read \(.*copy it again"):
            read_folder(folder, sample_rate=100)
        for content, words in (
            (noise(3, 30), "holds 3 recordings; expected one in each file"),
            (noise(2, 3, 4), r"holds float64 of shape \(2, 3, 4\); expected real numbers"),
            (np.array(["a"]), "holds <U1"),
            (noise(0), r"holds float64 of shape \(1, 0\)"),
        ):
            with path.open("wb") as file:
                np.save(file, content)
            with pytest.raises(DataError, match=f"0.npy1: {words}"):
                read_folder(folder, sample_rate=100)


def test_the_data_modules_load_no_heavy_package():
    code = """if True:
        import sys, types
        package = types.ModuleType("hfld_lite")
        package.__path__ = [sys.argv[1]]
        sys.modules["hfld_lite"] = package  # so that the rest of the library is not loaded
        import hfld_lite.data.readers, hfld_lite.data.simulator.simulate, hfld_lite.data.splits
        print(*{"sklearn", "scipy", "soundfile", "matplotlib"} & set(sys.modules))
    """
    package = readers.__file__.rsplit("/", 2)[0]
    done = subprocess.run(
        [sys.executable, "-c", code, package], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
