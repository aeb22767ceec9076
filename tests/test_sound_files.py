"""WAV and FLAC folders: classes, manifests, rates, lengths, tiles; and what is wrong with them."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hfld_lite.data.class_folders import read_wav_folder
from hfld_lite.data.parts import Part
from hfld_lite.errors import ArgumentError, DataError


def noise(samples: int = 400, seed: int = 0, channels: int = 1) -> np.ndarray:
    shape = (samples, channels) if channels > 1 else samples
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape).astype(np.float32)


def put(path: Path, signal: np.ndarray, rate: int = 8000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    subtype = "PCM_24" if path.suffix == ".flac" else "FLOAT"
    soundfile.write(path, signal, rate, subtype=subtype)
    return path


@pytest.fixture
def folder(tmp_path):
    """Two classes of four files, two drops of each tile."""
    for label in ("normal", "cracked"):
        for i in range(4):
            path = tmp_path / "sounds" / label / f"{label[0]}_tile{i // 2}_drop{i % 2}.wav"
            put(path, noise(seed=i + 10 * (label == "cracked")))
    return tmp_path / "sounds"


class TestFolder:
    def test_subfolders_are_classes(self, folder):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read = read_wav_folder(folder, progress=True)
        assert (read.class_names, read.normal_classes) == (("normal", "cracked"), ("normal",))
        assert (read.sample_rate, read.signals.shape, read.units) == (8000, (8, 400), "full scale")
        assert read.labels.tolist() == [1] * 4 + [0] * 4
        assert read.origins[5] == "normal/n_tile0_drop1.wav:0"
        assert np.array_equal(read.signals[5], noise(seed=1))
        assert read.source == "sounds: 8 .wav files"
        assert "each recording its own" in str(read)

    def test_flac(self, folder):
        put(folder / "cracked" / "c_tile9_drop0.FLAC".lower(), noise(seed=9))
        read = read_wav_folder(folder)
        assert np.allclose(read.signals[4], noise(seed=9), atol=1e-6)

    def test_normal_by_name_or_by_pattern(self, tmp_path):
        for label in ("BD", "AD", "AN", "BN"):
            put(tmp_path / label / "a.wav", noise())
        read = read_wav_folder(tmp_path)
        assert read.class_names == ("AN", "AD", "BN", "BD")
        assert read.normal_classes == ("AN", "BN")
        assert read_wav_folder(tmp_path, normal=["AD"]).normal_classes == ("AD",)
        assert read_wav_folder(tmp_path, normal=[]).normal_classes == ()
        with pytest.raises(ArgumentError, match="no class is named 'XY'"):
            read_wav_folder(tmp_path, normal=["XY"])

    def test_what_is_left_out_is_named(self, folder):
        (folder / "cracked" / "notes.txt").write_text("x")
        (folder / "stray.wav").write_text("x")
        (folder / "cracked" / "deeper").mkdir()
        (folder / ".cache").mkdir()
        words = "left out 4 that .*: .cache, deeper, notes.txt, stray.wav"
        with pytest.warns(UserWarning, match=words) as caught:
            read_wav_folder(folder)
        assert len(caught) == 1

    def test_tiles_from_names(self, folder):
        read = read_wav_folder(folder, group_pattern=r"^(._tile\d)")
        assert sorted(set(read.groups)) == ["c_tile0", "c_tile1", "n_tile0", "n_tile1"]
        with pytest.raises(
            DataError, match=r"c_tile0_drop0.wav: the name does not contain the tile"
        ):
            read_wav_folder(folder, group_pattern="(piece.)")
        for pattern in ("tile", "(", "(a)(b)"):
            with pytest.raises(ArgumentError, match="group_pattern"):
                read_wav_folder(folder, group_pattern=pattern)

    def test_missing(self, tmp_path):
        with pytest.raises(DataError, match="nowhere: is not there"):
            read_wav_folder(tmp_path / "nowhere")

    def test_nothing_there(self, tmp_path):
        put(tmp_path / "a.wav", noise())
        with pytest.raises(
            DataError, match=r"holds no class folder: a.wav; expected one subfolder"
        ):
            read_wav_folder(tmp_path)

    def test_class_without_files(self, folder):
        (folder / "chipped").mkdir()
        with pytest.raises(DataError, match=r"chipped: holds no .wav or .flac file: it is empty"):
            read_wav_folder(folder)

    def test_one_class_only(self, tmp_path):
        put(tmp_path / "N" / "a.wav", noise())
        with pytest.raises(DataError, match="only the class 'N'"):
            read_wav_folder(tmp_path)


class TestFiles:
    def test_empty(self, folder):
        path = folder / "normal" / "x.wav"
        path.write_bytes(b"")
        with pytest.raises(DataError, match=r"x.wav: is empty"):
            read_wav_folder(folder)
        put(path, noise(0))
        with pytest.raises(DataError, match=r"x.wav: is empty: it has a header but no samples"):
            read_wav_folder(folder)

    def test_no_sound_file(self, folder):
        (folder / "normal" / "x.wav").write_text("some text")
        with pytest.raises(DataError, match=r"x.wav: is damaged or not a sound file"):
            read_wav_folder(folder)

    @pytest.mark.parametrize("keep", [30, 60, 500])
    def test_truncated_flac(self, folder, keep):
        path = put(folder / "normal" / "x.flac", noise())
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(DataError, match=r"x.flac: (is|ends|has)"):
            read_wav_folder(folder)

    def test_header_that_claims_too_much_reserves_nothing(self, folder):
        path = put(folder / "normal" / "x.flac", noise())
        data = bytearray(path.read_bytes())
        data[21] |= 0x0F  # the 36-bit count of samples in STREAMINFO
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"x.flac"):
            read_wav_folder(folder)

    def test_silent(self, folder):
        put(folder / "normal" / "x.wav", np.zeros(400))
        with pytest.raises(DataError, match=r"normal/x.wav, row 0 .*constant \(silent\)"):
            read_wav_folder(folder)

    @pytest.mark.parametrize("resample", [False, True])
    def test_not_a_number(self, folder, resample):
        signal = noise(400)
        signal[7] = np.nan
        put(folder / "normal" / "x.wav", signal)
        with pytest.raises(DataError, match=r"normal/x.wav, row 0 .*NaN"):
            read_wav_folder(folder, resample=resample)

    def test_channels_are_mixed_down_and_counted(self, folder):
        signal = noise(400, channels=2)
        put(folder / "cracked" / "a.wav", signal)
        with pytest.warns(UserWarning, match="of 9 files, 1 mixed down to one channel") as caught:
            read = read_wav_folder(folder)
        assert len(caught) == 1
        assert np.allclose(read.signals[0], signal.mean(axis=1))
        assert "1 mixed down" in read.source


class TestRates:
    def test_unequal(self, folder):
        put(folder / "normal" / "x.wav", noise(), rate=16_000)
        words = (
            r"x.wav: is at 16000 Hz; expected 8000 Hz, as cracked/c_tile0_drop0.wav is; .*resampl"
        )
        with pytest.raises(DataError, match=words):
            read_wav_folder(folder)

    def test_other_than_asked(self, folder):
        with pytest.raises(DataError, match="is at 8000 Hz; expected 16000 Hz;"):
            read_wav_folder(folder, sample_rate=16_000)
        with pytest.raises(ArgumentError, match="sample_rate is 0"):
            read_wav_folder(folder, sample_rate=0)

    def test_resampled_to_the_usual_rate(self, folder):
        tone = np.sin(2 * np.pi * 500 * np.arange(800) / 16_000).astype(np.float32)
        put(folder / "normal" / "x.wav", tone, rate=16_000)
        with pytest.warns(UserWarning, match="1 resampled to 8000 Hz"):
            read = read_wav_folder(folder, resample=True)
        assert read.signals.shape == (9, 400)
        expected = np.sin(2 * np.pi * 500 * np.arange(400) / 8000)
        assert np.allclose(read.signals[-1][50:-50], expected[50:-50], atol=5e-3)

    def test_resampled_to_a_rate_given(self, folder):
        with pytest.warns(UserWarning, match="8 resampled to 4000 Hz"):
            read = read_wav_folder(folder, resample=True, sample_rate=4000)
        assert (read.sample_rate, read.samples) == (4000, 200)


class TestLengths:
    def test_unequal_lengths_are_used_and_said(self, folder):
        put(folder / "normal" / "x.wav", noise(300))
        words = "of 9 files, 9 cut into windows of 300 samples, .*: --part windows --samples 300"
        with pytest.warns(UserWarning, match=words) as caught:
            read = read_wav_folder(folder)
        assert len(caught) == 1
        assert read.signals.shape == (9, 300)
        assert read.part == Part("windows", 300)

    def test_unequal_lengths_asked_for_as_they_are(self, folder):
        put(folder / "normal" / "x.wav", noise(300))
        words = r"x.wav: has 300 samples and cracked/.* has 400; .* --pad .*--part first .*s 300"
        with pytest.raises(DataError, match=words):
            read_wav_folder(folder, part="whole")

    def test_cut(self, folder):
        with pytest.warns(UserWarning, match="8 cut to the first 150 samples"):
            read = read_wav_folder(folder, samples=150)
        assert np.array_equal(read.signals[4], noise(seed=0)[:150])

    def test_padded_only_when_asked(self, folder):
        put(folder / "normal" / "x.wav", noise(300, seed=5))
        with pytest.raises(DataError, match=r"x.wav: has 300 samples; expected 400 or more; .*pad"):
            read_wav_folder(folder, samples=400)
        with pytest.warns(UserWarning, match="1 padded with zeros to 400 samples"):
            read = read_wav_folder(folder, samples=400, pad=True)
        assert np.array_equal(read.signals[-1], np.pad(noise(300, seed=5), (0, 100)))
        assert "1 padded with zeros" in read.source


class TestManifest:
    @staticmethod
    def write(folder: Path, text: str, name: str = "manifest.csv") -> Path:
        (folder / name).write_text(text, encoding="utf-8-sig")
        return folder / name

    @pytest.fixture
    def flat(self, tmp_path):
        for i in range(4):
            put(tmp_path / "flat" / f"{i}.wav", noise(seed=i))
        return tmp_path / "flat"

    def test_labels_and_groups(self, flat):
        self.write(
            flat, 'file,label,group\n0.wav,ok,a\n"1.wav",bad,"b, left"\n2.wav,ok,a\n3.wav,bad,c\n'
        )
        read = read_wav_folder(flat)
        assert (read.class_names, read.normal_classes) == (("ok", "bad"), ("ok",))
        assert read.labels.tolist() == [0, 1, 0, 1]
        assert read.groups.tolist() == ["a", "b, left", "a", "c"]
        with pytest.raises(ArgumentError, match="leave out group_pattern"):
            read_wav_folder(flat, group_pattern="(.)")

    def test_elsewhere_and_without_groups(self, flat, tmp_path):
        path = self.write(tmp_path, "label,file\nok,0.wav\nbad,1.wav\n", "list.csv")
        with pytest.warns(UserWarning, match=r"left out 2 that the manifest lacks: 2.wav, 3.wav"):
            read = read_wav_folder(flat, manifest=path)
        assert read.groups.tolist() == ["0.wav", "1.wav"]

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "line 1: the columns are none; expected file,label"),
            ("file;label\n0.wav;ok\n", "line 1: the columns are file;label; expected"),
            ("file,label,tile\n0.wav,ok,a\n", "line 1: the columns are file, label, tile"),
            ("file\n0.wav\n", "line 1: the columns are file; expected"),
            ("file,label\n0.wav,ok\n9.wav,bad\n", "line 3: the file '9.wav' is not there"),
            ("file,label\n0.wav,ok\n0.wav,bad\n", "line 3: the file '0.wav' is listed twice"),
            ("file,label\n../outside.wav,ok\n", "line 2: the file '../outside.wav' lies outside"),
            ("file,label\n/etc/passwd,ok\n", "line 2: the file '/etc/passwd' lies outside"),
            (
                "file,label\nmanifest.csv,ok\n",
                "line 2: the file 'manifest.csv' does not end in .wav",
            ),
            ("file,label\n0.wav,ok\n1.wav\n", "line 3: a field is empty, missing or superfluous"),
            ("file,label\n0.wav,ok,x\n", "line 2: a field is empty, missing or superfluous"),
            ("file,label\n0.wav,\n", "line 2: a field is empty"),
            ('file,label\n0.wav,ok\n"1.wav', "cannot be read"),
            ("file,label\n0\0.wav,ok\n", "line [12]: cannot be read"),
            ("file,label\n", "there is no class"),
            ("file,label\n0.wav,ok\n", "only the class 'ok'"),
        ],
    )
    def test_what_is_wrong_is_named_with_its_line(self, flat, text, words):
        put(flat.parent / "outside.wav", noise())
        self.write(flat, text)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(DataError, match=words) as caught:
                read_wav_folder(flat)
        assert "class" in words or "manifest.csv, line" in str(caught.value)

    def test_not_there_or_not_text(self, flat):
        with pytest.raises(DataError, match=r"no.csv, line 1: cannot be read .*No such file"):
            read_wav_folder(flat, manifest=flat / "no.csv")
        (flat / "manifest.csv").write_bytes(b"file,label\n\xff\xfe,a\n")
        with pytest.raises(DataError, match=r"manifest.csv, line 1: cannot be read"):
            read_wav_folder(flat)
