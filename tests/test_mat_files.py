"""MATLAB files: tiles in rows, long recordings in windows, and what is wrong with them."""

import contextlib
import os
import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from hfld_lite.data.mat_files import read_long_mat, read_mat, variable_name
from hfld_lite.data.parts import Part
from hfld_lite.data.readers import read_cuts, read_folder
from hfld_lite.data.splits import published_split, split
from hfld_lite.errors import ArgumentError, DataError

REAL = os.environ.get("HFLD_REAL_DATA")


def rows(n: int = 10, samples: int = 50, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, samples))


def tiles(folder: Path, names=("AN", "AD", "BN", "BD"), **change) -> Path:
    """Write a folder in the published layout; `change` gives some files other rows."""
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate(names):
        scipy.io.savemat(folder / f"{name}.mat", {"data": change.get(name, rows(seed=seed))})
    return folder


class TestTiles:
    def test_pooled(self, tmp_path):
        read = read_mat(tiles(tmp_path), samples=40)
        assert read.class_names == ("AN", "AD", "BN", "BD")
        assert read.normal_classes == ("AN", "BN")
        assert (read.sample_rate, read.signals.shape, read.signals.dtype) == (
            40_000,
            (40, 40),
            np.float32,
        )
        assert read.labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10 + [3] * 10
        assert np.array_equal(read.signals[12], rows(seed=1)[2, :40].astype(np.float32))
        assert read.origins[12] == read.groups[12] == "AD.mat:2"
        assert "AN.mat, AD.mat, BN.mat, BD.mat" in read.source
        assert "the tile of a row is unknown" in read.source

    def test_two_classes(self, tmp_path):
        read = read_mat(tiles(tmp_path), samples=40, pool=False)
        assert (read.class_names, read.normal_classes) == (("N", "D"), ("N",))
        assert read.labels.tolist() == ([0] * 10 + [1] * 10) * 2
        assert published_split(read).test.tolist() == [4, 9, 14, 19, 24, 29, 34, 39]

    def test_files_in_any_order_and_integers(self, tmp_path):
        whole = np.arange(500, dtype=np.int16).reshape(10, 50)
        folder = tiles(tmp_path, AN=whole)
        read = read_mat([folder / "AD.mat", str(folder / "AN.mat")], samples=50, progress=True)
        assert read.class_names == ("AN", "AD")
        assert np.array_equal(read.signals[:10], whole)

    def test_other_files_are_named(self, tmp_path):
        (tiles(tmp_path) / "notes.txt").write_text("x")
        with pytest.warns(UserWarning, match=r"left out 1 that are not .mat files: notes.txt"):
            read_mat(tmp_path, samples=40)

    def test_folder_missing(self, tmp_path):
        with pytest.raises(DataError, match="nowhere: is not there; expected a folder"):
            read_mat(tmp_path / "nowhere")

    def test_no_matching_files(self, tmp_path):
        (tmp_path / "a.wav").write_text("x")
        with pytest.raises(DataError, match=r"holds no .mat file: a.wav; expected one .mat file"):
            read_mat(tmp_path)

    def test_name_of_neither_class(self, tmp_path):
        tiles(tmp_path, ["AN", "AD", "A3"])
        with pytest.raises(
            DataError, match=r"A3.mat: the name ends neither in N nor in D; expected"
        ):
            read_mat(tmp_path)

    def test_same_name_twice(self, tmp_path):
        one, other = tiles(tmp_path / "one"), tiles(tmp_path / "other")
        with pytest.raises(DataError, match=r"AD.mat: 2 files have this name"):
            read_mat([one, other])

    @pytest.mark.parametrize(
        "damage",
        [
            lambda data: data[: len(data) // 2],
            lambda data: data[:100],
            lambda data: data[:-1],
            lambda data: b"no MATLAB file at all, only some text" * 20,
            lambda data: b"\x00" * 300,
            lambda data: b"\x89HDF\r\n\x1a\n" + data,
        ],
    )
    def test_truncated_or_not_matlab(self, tmp_path, damage):
        path = tiles(tmp_path) / "BN.mat"
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(DataError, match=r"BN.mat: the file is truncated or not a MATLAB file"):
            read_mat(tmp_path, samples=40)

    @pytest.mark.parametrize("compressed", [False, True])
    def test_unknown_type_code_does_not_crash_scipy(self, tmp_path, compressed):
        path = tiles(tmp_path) / "BN.mat"
        data = bytearray(path.read_bytes())
        assert data[176] == 9  # the tag of the numbers: doubles
        data[176] = 8
        if compressed:
            packed = zlib.compress(data[128:])
            data[128:] = struct.pack("<II", 15, len(packed)) + packed
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"BN.mat: .*'data' has data of type 8"):
            read_mat(tmp_path, samples=40)

    @pytest.mark.parametrize("options", [{"format": "4"}, {"do_compression": True}])
    def test_random_damage_never_ends_in_a_traceback(self, tmp_path, options):
        path = tiles(tmp_path) / "BN.mat"
        scipy.io.savemat(path, {"data": rows()}, **options)
        whole, rng = path.read_bytes(), np.random.default_rng(0)
        for _ in range(100):
            data = bytearray(whole)
            for place in rng.integers(0, 260, 3):
                data[place] = rng.integers(256)
            path.write_bytes(data)
            with warnings.catch_warnings(), contextlib.suppress(DataError):
                warnings.simplefilter("ignore")
                read_mat(tmp_path, samples=40)

    @pytest.mark.parametrize("options", [{"format": "4"}, {"do_compression": True}])
    def test_other_formats(self, tmp_path, options):
        names = {"first": "text", "data": rows(), "x" * 31: {"a": 1}}
        if options == {"format": "4"}:
            names = {"data": rows()}
        scipy.io.savemat(tiles(tmp_path) / "BN.mat", names, **options)
        assert np.array_equal(read_mat(tmp_path, samples=50).signals[20:30], np.float32(rows()))

    def test_empty_file(self, tmp_path):
        (tiles(tmp_path) / "BN.mat").write_bytes(b"")
        with pytest.raises(DataError, match=r"BN.mat: the file is empty"):
            read_mat(tmp_path, samples=40)

    def test_hdf5(self, tmp_path):
        head = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
        (tiles(tmp_path) / "BN.mat").write_bytes(head.ljust(512, b"\0") + b"\x89HDF\r\n\x1a\n")
        with pytest.raises(DataError, match=r"BN.mat: .*7.3 \(HDF5\).*'data', '-v7'"):
            read_mat(tmp_path, samples=40)

    def test_missing_variable(self, tmp_path):
        tiles(tmp_path)
        scipy.io.savemat(tmp_path / "BN.mat", {"sound": rows(), "rate": 1})
        with pytest.raises(DataError, match=r"BN.mat: there is no variable 'data'.*: sound, rate"):
            read_mat(tmp_path, samples=40)

    @pytest.mark.parametrize("value", ["text", {"a": 1}, np.array([{}], object), rows() + 1j])
    def test_variable_of_another_kind(self, tmp_path, value):
        with pytest.raises(DataError, match=r"BN.mat: 'data' is not a matrix of real numbers"):
            read_mat(tiles(tmp_path, BN=value), samples=40)

    def test_empty_variable(self, tmp_path):
        with pytest.raises(DataError, match=r"BN.mat: 'data' is empty, shape \(0, 50\)"):
            read_mat(tiles(tmp_path, BN=np.zeros((0, 50))), samples=40)

    def test_fewer_samples_than_asked(self, tmp_path):
        words = r"BN.mat, rows 0 to 9: .*30 samples a row, shape \(10, 30\); expected 40"
        with pytest.raises(DataError, match=words):
            read_mat(tiles(tmp_path, BN=rows(samples=30)), samples=40)

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
    def test_not_finite(self, tmp_path, value):
        bad = rows()
        bad[6, 5] = value
        with pytest.raises(DataError, match=r"BN.mat, row 6 .*sample 5 is (nan|inf)"):
            read_mat(tiles(tmp_path, BN=bad), samples=40)

    def test_what_lies_beyond_the_samples_used_does_not_matter(self, tmp_path):
        late = rows()
        late[6, 45] = np.nan
        assert len(read_mat(tiles(tmp_path, BN=late), samples=40)) == 40

    def test_silent(self, tmp_path):
        bad = rows()
        bad[3] = 0
        with pytest.raises(DataError, match=r"BN.mat, row 3 .*constant \(silent\)"):
            read_mat(tiles(tmp_path, BN=bad), samples=40)

    @pytest.mark.parametrize(("names", "pool"), [(["AN"], True), (["AN", "BN"], False)])
    def test_one_class_only(self, tmp_path, names, pool):
        with pytest.raises(DataError, match=r"only the class '(AN|N)'; expected two classes"):
            read_mat(tiles(tmp_path, names), samples=40, pool=pool)

    def test_samples_is_no_number(self, tmp_path):
        with pytest.raises(ArgumentError, match="samples is 0"):
            read_mat(tiles(tmp_path), samples=0)


def long(folder: Path, names=("B1_load0", "B1_load1", "IR_load0", "N_load0"), **change) -> Path:
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate(names):
        signal = change.get(name, rows(1, 1030, seed).T)
        scipy.io.savemat(folder / f"{name}.mat", {"DE_time": signal.astype(np.float32)})
    return folder


class TestLong:
    def test_classes_groups_and_source(self, tmp_path):
        read = read_long_mat(long(tmp_path), window=50, blocks=4, leave_out="N")
        assert (read.class_names, read.normal_classes) == (("B1", "IR"), ())
        assert (read.window, read.sample_rate, len(read)) == ((50, 50), 12_000, 3 * 20)
        assert read.origins[21] == "B1_load1.mat:1"
        assert read.groups[21] == "B1_load1/block00"
        assert len(set(read.groups)) == 12
        assert read.source.startswith("known bearings: 3 recordings")
        assert "2.9% of the samples fill no window" in read.source
        assert "left out by name: N (1 file)" in read.source
        drawn = split(read, validation=0.25, test=0.25)
        assert not set(read.groups[drawn.train]) & set(read.groups[drawn.test])

    @pytest.mark.parametrize("hop", [50, 20, 70])
    def test_windows_are_the_samples_of_their_block(self, tmp_path, hop):
        read = read_long_mat(long(tmp_path), window=50, hop=hop, blocks=4)
        signal = rows(1, 1030, 0).ravel().astype(np.float32)
        ends = [0, 257, 515, 772, 1030]
        row = 0
        for block in range(4):
            for start in range(ends[block], ends[block + 1] - 50 + 1, hop):
                assert np.array_equal(read.signals[row], signal[start : start + 50])
                assert read.groups[row] == f"B1_load0/block{block:02d}"
                row += 1
        assert read.origins[row] == "B1_load1.mat:0"

    def test_normal_classes(self, tmp_path):
        assert read_long_mat(long(tmp_path), window=50, blocks=4).normal_classes == ("N",)
        read = read_long_mat(tmp_path, window=50, blocks=4, normal=["B1"])
        assert read.normal_classes == ("B1",)
        with pytest.raises(
            ArgumentError, match="normal: no class is named 'B2'; the nearest name is B1"
        ):
            read_long_mat(tmp_path, window=50, blocks=4, normal=["B2"])

    def test_unknown_class_to_leave_out(self, tmp_path):
        words = "leave_out: no class is named 'X'; choose from B1, IR, N"
        with pytest.raises(ArgumentError, match=words):
            read_long_mat(long(tmp_path), leave_out=["X"])

    def test_one_class_only(self, tmp_path):
        with pytest.raises(DataError, match="only the class 'IR'"):
            read_long_mat(long(tmp_path), leave_out=["N", "B1"])

    def test_name_that_tells_no_class(self, tmp_path):
        long(tmp_path, ["B1_load0", "IR"])
        with pytest.raises(DataError, match=r"IR.mat: the name does not contain the class"):
            read_long_mat(tmp_path)
        read = read_long_mat(tmp_path, label_pattern="([A-Z]+)", window=50)
        assert read.class_names == ("B", "IR")
        with pytest.raises(
            DataError,
            match=r"IR.mat: .*a name in which '\(\[0-9\]\)' is found; .*"
            r"label-pattern",
        ):
            read_long_mat(tmp_path, label_pattern="([0-9])")

    @pytest.mark.parametrize("label", ["(", "x", "(?P<label>.)(.)"])
    def test_label_expression(self, tmp_path, label):
        with pytest.raises(ArgumentError, match="label_pattern"):
            read_long_mat(long(tmp_path), label_pattern=label)

    def test_too_short(self, tmp_path):
        words = r"B1_load0.mat: has 1030 samples, 51 in each of 20 blocks; expected blocks of 52"
        with pytest.raises(DataError, match=words):
            read_long_mat(long(tmp_path), window=52)

    def test_no_vector(self, tmp_path):
        with pytest.raises(DataError, match=r"IR_load0.mat: 'DE_time' has shape \(10, 50\)"):
            read_long_mat(long(tmp_path, IR_load0=rows()), window=50, blocks=4)

    def test_not_finite(self, tmp_path):
        bad = rows(1, 1030)
        bad[0, 130] = np.nan
        with pytest.raises(DataError, match=r"IR_load0.mat, row 2 .*sample 30 is nan"):
            read_long_mat(long(tmp_path, IR_load0=bad), window=50, blocks=4)


def as_published(folder: Path, **more) -> Path:
    """Files of Case Western Reserve University: variables named anew in each; `more` by file."""
    folder.mkdir(exist_ok=True)
    for number, name in ((105, "IR007_0"), (118, "B007_0"), (119, "B007_1"), (99, "Normal_2")):
        sets = {f"X{number:03d}_{end}_time": rows(1, 1030, number + len(end)).T
                for end in ("DE", "FE")}  # fmt: skip
        sets |= {f"X{number:03d}RPM": [[1797.0]]} | more.get(name, {})
        scipy.io.savemat(folder / f"{name}.mat", sets)
    return folder


class TestAsPublished:
    def test_the_drive_end_is_chosen_and_said(self, tmp_path):
        words = r"variables that fit .* are X118_DE_time of B007_0.mat, X119_DE_time of B007_1.mat"
        rate = r"X097 to X100\) were sampled at 48000 Hz"
        with pytest.warns(UserWarning, match=words), pytest.warns(UserWarning, match=rate):
            read = read_folder(as_published(tmp_path), window=50)
        assert read.class_names == ("B007", "IR007", "Normal")
        assert read.normal_classes == ("Normal",)
        assert "4 recordings ('X118_DE_time', …)" in read.source
        signal = rows(1, 1030, 118 + 2).ravel().astype(np.float32)
        assert np.array_equal(read.signals[0], signal[:50])

    @pytest.mark.parametrize("pattern", ["X*_FE_time", "X???_FE*", "X*FE_time, DE_time"])
    def test_a_pattern(self, tmp_path, pattern):
        as_published(tmp_path)
        with pytest.warns(UserWarning, match="X118_FE_time of B007_0.mat"):
            read = read_folder(tmp_path, window=50, variable=pattern, label_pattern="^([A-Za-z]+)")
        assert read.class_names == ("B", "IR", "Normal")
        with pytest.raises(
            DataError,
            match=r"B007_0.mat: there is no variable 'X\*_BA_time'; expec"
            r"ted one of those in the file: X118_DE_time, X118_FE_time, X118RPM; ",
        ):
            read_folder(tmp_path, window=50, variable="X*_BA_time")

    def test_two_sets_in_a_file_are_named(self, tmp_path):
        other = {"X098_DE_time": rows(1, 1030, 0).T}
        as_published(tmp_path, Normal_2=other)
        words = (
            r"Normal_2.mat: X099_DE_time and X098_DE_time fit '\*_DE_time'; expected one variable; "
            r"name the one you want before the pattern \(--variable 'X098_DE_time,\*_DE_time', "
        )
        with pytest.raises(DataError, match=words):
            read_folder(tmp_path, window=50)
        with pytest.warns(UserWarning, match="fit"):
            read = read_folder(tmp_path, window=50, variable="X098_DE_time,*_DE_time")
        normal = read.signals[read.labels == 2]
        assert np.array_equal(normal[0], np.float32(rows(1, 1030, 0).ravel()[:50]))

    def test_the_number_in_the_name_of_the_file_says_which(self, tmp_path):
        other = {"X098_DE_time": rows(1, 1030, 0).T}
        as_published(tmp_path, Normal_2=other)
        (tmp_path / "Normal_2.mat").rename(tmp_path / "099_Normal_2.mat")
        assert variable_name(tmp_path / "099_Normal_2.mat", "*_DE_time") == "X099_DE_time"

    def test_files_named_by_numbers_only(self, tmp_path):
        (as_published(tmp_path) / "B007_0.mat").rename(tmp_path / "118.mat")
        words = r"118.mat: the name does not contain the class; expected CLASS_loadNUMBER.mat or CL"
        with pytest.raises(DataError, match=words):
            read_long_mat(tmp_path, window=50)

    def test_predict_finds_it_too(self, tmp_path):
        file = as_published(tmp_path) / "B007_0.mat"
        for variable in (None, "X*_DE_time"):
            cuts = read_cuts(
                file, sample_rate=12_000, part=Part("first", 50), hop=50, variable=variable
            )
            assert np.array_equal(cuts[0].signals[0], np.float32(rows(1, 1030, 120).ravel()[:50]))

    def test_a_struct_is_named_with_the_way_out(self, tmp_path):
        for name in ("baseline_1", "fault_1"):
            bearing = {"gs": rows(1, 1030).T, "sr": 97656, "load": 270, "rate": 25}
            scipy.io.savemat(tmp_path / f"{name}.mat", {"bearing": bearing})
        said = {"DE_time": "one of those in the file: bearing", "bearing": "but a struct"}
        for variable, found in said.items():
            with pytest.raises(DataError) as caught:
                read_long_mat(tmp_path, window=50, variable=variable)
            assert found in str(caught.value)
        code = re.search(r"in Python: (.*); then give --variable x", str(caught.value))[1]
        (tmp_path / "new").mkdir()
        for name in ("baseline_1", "fault_1"):
            with contextlib.chdir(tmp_path):
                exec(code.replace("baseline_1", name))
        read = read_long_mat(tmp_path / "new", variable="x", window=50, sample_rate=97656)
        assert np.array_equal(read.signals[0], np.float32(rows(1, 1030).ravel()[:50]))


class TestColumns:
    def test_they_are_read_and_said(self, tmp_path):
        folder = tiles(tmp_path, **{n: rows(seed=i).T for i, n in enumerate(("AN", "AD", "BN"))})
        words = (
            r"in 3 of 4 files the recordings are the columns, .* fewer than 40 samples: AN.mat, sh"
        )
        with pytest.warns(UserWarning, match=words):
            read = read_mat(folder, samples=40)
        assert read.fingerprint() == read_mat(tiles(tmp_path / "rows"), samples=40).fingerprint()

    def test_a_length_that_fits_neither_names_both(self, tmp_path):
        with pytest.raises(DataError, match=r"--samples 10, or, if .* columns, --samples 50"):
            read_mat(tiles(tmp_path, AN=rows().T), samples=7000)

    def test_predict(self, tmp_path):
        file = tiles(tmp_path, AN=rows().T) / "AN.mat"
        with pytest.warns(UserWarning, match="recordings are the columns"):
            cuts = read_cuts(file, sample_rate=40_000, part=Part("first", 40))
        assert np.array_equal(cuts[3].signals[0], np.float32(rows()[3, :40]))

    def test_most_of_the_rows_is_not_used(self, tmp_path):
        assert read_mat(tiles(tmp_path), samples=5).notes == ()
        (text,) = read_mat(tmp_path, samples=4).notes
        assert text.startswith("Only 8 % of the samples are used, 4 of 50")


@pytest.mark.skipif(not REAL, reason="HFLD_REAL_DATA names no folder with real recordings")
class TestReal:
    def test_bearings(self):
        read = read_long_mat(Path(REAL) / "cwru", leave_out=["N"])
        assert len(read.class_names) == 11
        assert read.signals.shape == (1780, 2048)
        assert len(set(read.groups)) == 44 * 20
        drawn = split(read, seed=1)
        assert len(drawn.test) == pytest.approx(356, abs=20)

    def test_the_normal_one_is_there_if_wanted(self):
        read = read_long_mat(Path(REAL) / "cwru", blocks=10)
        assert read.normal_classes == ("N",)
        with pytest.raises(DataError, match="is in more than one part"):
            published_split(read)
