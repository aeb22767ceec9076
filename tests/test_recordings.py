"""Recordings: what is accepted, what is refused in which words, and the way to disk and back."""

import json
from dataclasses import replace

import numpy as np
import pytest

from hfld_lite.data.recordings import Recordings
from hfld_lite.errors import ArgumentError, DataError
from hfld_lite.storage import arrays


def make(n: int = 12, samples: int = 8, **fields) -> Recordings:
    rng = np.random.default_rng(0)
    given = {
        "signals": rng.standard_normal((n, samples)).astype(np.float32),
        "labels": np.arange(n) % 2,
        "groups": [f"tile{i // 2}" for i in range(n)],
        "sample_rate": 40_000,
        "class_names": ("N", "D"),
        "normal_classes": ("N",),
        "origins": [f"tiles.mat:{i}" for i in range(n)],
        "source": "noise",
        "units": "Pa",
        "simulated": True,
    }
    return Recordings(**(given | fields))


class TestFields:
    def test_types_are_converted_and_float32_is_not_copied(self):
        signals = np.random.default_rng(0).standard_normal((12, 8)).astype(np.float32)
        made = make(signals=signals, labels=np.arange(12, dtype=np.int8) % 2, groups=np.arange(12))
        assert made.signals is signals
        assert (made.labels.dtype, made.groups.dtype.kind) == (np.int64, "U")
        assert (len(made), made.samples, made.class_names) == (12, 8, ("N", "D"))
        assert make(signals=signals.astype(np.float64)).signals.dtype == np.float32

    def test_origins_have_a_default(self):
        assert make(origins=None).origins[11] == "recording:11"

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"signals": np.zeros(12)}, ["shape (12,)", "(recordings, samples)"]),
            ({"signals": np.full((12, 8), "x")}, ["real numbers"]),
            ({"signals": np.zeros((12, 8), complex)}, ["complex128", "real numbers"]),
            ({"signals": [[1.0, 2.0], [1.0]]}, ["differ in length"]),
            ({"labels": np.full(12, 0.5)}, ["labels", "float64", "12 integers"]),
            ({"labels": ["N"] * 12}, ["labels", "12 integers"]),
            ({"labels": np.zeros(11, int)}, ["labels", "(11,)", "12 integers"]),
            ({"labels": np.arange(12)}, ["tiles.mat, row 2 ", "label is 2", "0 to 1"]),
            (
                {"labels": np.arange(12) % 2 - 2},
                ["tiles.mat, row 0 ", "label is -2", "or -1 where"],
            ),
            ({"labels": -np.ones(12, int)}, ["none of the 12 has a label", "labelled recordings"]),
            ({"groups": ["a"] * 11}, ["groups", "12 strings"]),
            ({"groups": [""] * 12}, ["groups", "none of them empty"]),
            ({"origins": np.zeros((12, 2))}, ["origins", "12 strings"]),
            ({"class_names": ()}, ["there is no class", "one or more"]),
            ({"class_names": ("N", "N")}, ["named twice"]),
            ({"class_names": "ND"}, ["tuple of strings"]),
            ({"class_names": ("N", "")}, ["strings that are not empty"]),
            ({"normal_classes": ("normal",)}, ["'normal'", "choose from N, D"]),
            ({"normal_classes": ("N", "D")}, ["every class", "defective"]),
            ({"sample_rate": 0}, ["sample_rate is 0", "whole number above 0"]),
            ({"sample_rate": 40e3}, ["sample_rate is 40000.0"]),
            ({"window": (8, 0)}, ["hop of window is 0"]),
            ({"window": (8, 8, 8)}, ["window is (8, 8, 8)"]),
        ],
    )
    def test_what_does_not_fit_is_refused(self, fields, words):
        with pytest.raises((DataError, ArgumentError)) as caught:
            make(**fields)
        assert all(word in str(caught.value) for word in words), caught.value

    def test_no_recordings(self):
        with pytest.raises(DataError, match="there are none"):
            make(0, signals=np.zeros((0, 8)))


class TestSignals:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
    @pytest.mark.parametrize("piece", [32, 1 << 22])
    def test_the_first_that_is_not_finite_is_named(self, value, piece, monkeypatch):
        monkeypatch.setattr(arrays, "PIECE", piece)
        signals = np.random.default_rng(0).standard_normal((12, 8))
        signals[7, 3] = signals[9, 0] = value
        with pytest.raises(DataError) as caught:
            make(signals=signals)
        text = str(caught.value)
        assert "tiles.mat, row 7 (counted from 0): sample 3 is" in text
        assert "1 other recording" in text

    def test_the_first_that_is_constant_is_named(self):
        signals = np.random.default_rng(0).standard_normal((12, 8))
        signals[5] = 0.25
        with pytest.raises(DataError, match=r"tiles.mat, row 5 .*constant \(silent\), 0.25"):
            make(signals=signals)

    def test_looked_at_once_only(self):
        signals = np.zeros((12, 8), np.float32)
        assert len(make(signals=signals, checked=True).select([1, 2])) == 2
        with pytest.raises(DataError, match="constant"):
            replace(make(signals=signals, checked=True), source="anew")


class TestSelect:
    def test_integers_mask_and_slice_agree(self):
        made = make()
        for indices in ([3, 4, 5], np.isin(np.arange(12), [3, 4, 5]), slice(3, 6)):
            part = made.select(indices)
            assert np.array_equal(part.signals, made.signals[3:6])
            assert list(part.origins) == ["tiles.mat:3", "tiles.mat:4", "tiles.mat:5"]
            assert (part.source, part.units, part.simulated) == ("noise", "Pa", True)
        assert np.shares_memory(made.select(slice(3, 6)).signals, made.signals)
        assert len(made.select([])) == 0

    @pytest.mark.parametrize("indices", [[12], [-1], [0.5], [[0]], [True]])
    def test_other_indices_are_refused(self, indices):
        with pytest.raises(ArgumentError):
            make().select(indices)


def test_summary():
    text = str(make())
    assert (
        "noise\n12 recordings of 8 samples at 40000 Hz (0.0002 s each, 0.0024 s in all, in Pa)"
        in text
    )
    assert "N 6 (normal), D 6" in text
    assert "groups: 6, 6 of them in more than one class" in text
    assert "each recording its own" in str(make(groups=np.arange(12)))
    assert repr(make()) == "<12 recordings of 8 samples: N, D>"


class TestFolder:
    def test_round_trip_as_a_memory_map(self, tmp_path):
        made = make(window=(8, 4))
        folder = made.save(tmp_path / "new" / "folder")
        assert sorted(path.name for path in folder.parent.iterdir()) == ["folder"]
        for verify in (True, False):
            read = Recordings.load(folder, verify)
            assert isinstance(read.signals, np.memmap)
            assert not read.signals.flags.writeable
            for name in ("signals", "labels", "groups", "origins"):
                assert np.array_equal(getattr(read, name), getattr(made, name))
            for name in ("sample_rate", "class_names", "normal_classes", "source", "units"):
                assert getattr(read, name) == getattr(made, name)
            assert (read.simulated, read.window) == (True, (8, 4))
        assert np.array_equal(read.select([3, 1]).signals, made.signals[[3, 1]])

    def test_signals_in_another_order(self, tmp_path):
        signals = np.asfortranarray(make().signals)
        for given in (signals, signals[:, ::2]):
            read = Recordings.load(make(signals=given).save(tmp_path / "folder", overwrite=True))
            assert np.array_equal(read.signals, given)

    def test_reading_leaves_a_large_file_on_disk(self, tmp_path):
        folder = make(4, 8).save(tmp_path / "large")
        shape = (4, 1 << 34)  # 256 GiB, as a sparse file: more than any memory here
        np.lib.format.open_memmap(folder / "signals.npy", "w+", np.float32, shape)
        manifest = json.loads((folder / "manifest.json").read_text()) | {"samples": shape[1]}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        assert Recordings.load(folder, verify=False).signals.shape == shape

    def test_what_is_there_is_replaced_only_when_asked_and_only_recordings(self, tmp_path):
        folder = make().save(tmp_path / "folder")
        with pytest.raises(DataError, match=r"folder: already holds recordings.*overwrite=True"):
            make().save(folder)
        loaded = Recordings.load(make(source="other").save(folder, overwrite=True))
        assert loaded.source == "other"
        loaded.save(folder, overwrite=True)  # onto the files that its own signals are mapped from
        assert Recordings.load(folder).source == "other"
        (folder / "notes.txt").write_text("mine")
        with pytest.raises(DataError, match=r"other files \(notes.txt\)"):
            make().save(folder, overwrite=True)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["folder"]

    def test_folder_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(DataError, match=r"file: is a file; expected a folder"):
            make().save(tmp_path / "file")
        with pytest.raises(DataError, match=r"file/folder: cannot be written \("):
            make().save(tmp_path / "file" / "folder")

    def test_whole_or_not_at_all(self, tmp_path, monkeypatch):
        folder = make(source="old").save(tmp_path / "folder")

        def full(path, *args, **kwargs):
            raise OSError(28, "No space left on device", str(path))

        monkeypatch.setattr(np, "save", full)
        with pytest.raises(DataError, match="No space left on device"):
            make(source="new").save(folder, overwrite=True)
        assert Recordings.load(folder).source == "old"
        assert [path.name for path in tmp_path.iterdir()] == ["folder"]

    def test_nothing_to_save(self, tmp_path):
        with pytest.raises(DataError, match="no recording to save"):
            make().select([]).save(tmp_path / "folder")

    def test_folder_that_is_not_there_or_not_prepared(self, tmp_path):
        with pytest.raises(DataError, match="nowhere: is not there"):
            Recordings.load(tmp_path / "nowhere")
        with pytest.raises(DataError, match=r"holds no manifest.json; expected a prepared folder"):
            Recordings.load(tmp_path)

    @pytest.mark.parametrize("name", ["signals.npy", "labels.npy", "groups.npy", "origins.npy"])
    @pytest.mark.parametrize(
        ("damage", "words"),
        [
            (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "does not match its checksum"),
            (lambda data: data[:-8], "is not a whole .npy file"),
            (lambda data: data + b"more", "its size does not fit its header"),
            (lambda data: b"", "is not a whole .npy file"),
            (lambda data: data[:9] + b"\xff" + data[10:], "is not a whole .npy file"),
            (lambda data: data.replace(b"(12,", b"(11,"), r"expected <.* of shape \(12,"),
            (lambda data: None, "is missing"),
        ],
    )
    def test_damaged_arrays(self, tmp_path, name, damage, words):
        folder = make().save(tmp_path / "folder")
        data = damage((folder / name).read_bytes())
        if words.startswith("expected"):  # a shorter array, whole in itself
            np.save(folder / name, np.load(folder / name)[:11])
        elif data is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(data)
        with pytest.raises(DataError, match=f"{name}: .*{words}"):
            Recordings.load(folder)

    def test_pickles_are_not_opened(self, tmp_path):
        folder = make().save(tmp_path / "folder")
        np.save(folder / "groups.npy", np.array([{}] * 12), allow_pickle=True)
        with pytest.raises(DataError, match=r"groups.npy: is not a whole"):
            Recordings.load(folder, verify=False)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"format": 2}, "format version is 2; expected 1"),
            ({"count": "12"}, "count is '12'; expected an integer"),
            ({"count": True}, "count is True; expected an integer"),
            ({"window": 3}, "window is 3; expected a list"),
            ({"window": [3]}, "window is "),
            ({"source": None}, "source is None; expected text"),
            ({"sample_rate": -1}, "sample_rate is -1"),
            ({"classes": ["N", "N"]}, "named twice"),
            ({"classes": ["N", 3]}, r"classes\[1\] is 3; expected text"),
            ({"normal_classes": [["N"]]}, r"normal_classes\[0\] is \['N'\]; expected text"),
            ({"normal_classes": ["X"]}, "the normal class 'X' is not a class"),
            (
                {"sha256": {"../../etc/passwd": ""}},
                "sha256: the files are ../../etc/passwd; expected exactly",
            ),
            ({"sha256": {}}, "sha256: the files are none"),
            ({"samples": 9}, r"signals.npy: holds float32 of shape \(12, 8\); expected"),
        ],
    )
    def test_wrong_manifest(self, tmp_path, change, words):
        folder = make().save(tmp_path / "folder")
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        with pytest.raises(DataError, match=f"folder.*{words}"):
            Recordings.load(folder)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("{", "not readable as JSON"),
            ("[" * 100_000, "not readable as JSON"),
            ("\udcff", "not readable as JSON"),
            ("[]", "format version is None"),
            ('{"format": 1}', "source is missing"),
        ],
    )
    def test_unreadable_manifest(self, tmp_path, text, words):
        folder = make().save(tmp_path / "folder")
        (folder / "manifest.json").write_text(text, encoding="utf-8", errors="surrogateescape")
        with pytest.raises(DataError, match=f"manifest.json: .*{words}"):
            Recordings.load(folder)

    def test_labels_beyond_the_classes(self, tmp_path):
        folder = make().save(tmp_path / "folder")
        np.save(folder / "labels.npy", np.full(12, 7))
        with pytest.raises(DataError, match=r"folder: tiles.mat, row 0 .*label is 7"):
            Recordings.load(folder, verify=False)
