"""The reader that finds out what a folder holds."""

import numpy as np
import pytest
import scipy.io
import soundfile

from hfld_lite.data.readers import read_folder, read_mat
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
