"""WAV and FLAC folders: classes, rates, lengths, tiles; and what is wrong with them."""

import os
import struct
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import soundfile

from hfld_lite.data.class_folders import read_wav_folder
from hfld_lite.data.parts import Part
from hfld_lite.data.readers import read_cuts, read_folder, read_signals
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
        words = "left out 3 that .*: deeper, notes.txt, stray.wav; and 1 that are hidden .*: .cache"
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

    @pytest.mark.parametrize(
        ("head", "words"),
        [
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
                "is a pointer of Git LFS; .*; run `git lfs pull`",
            ),
            (b"../.git/annex/objects/Mx/j8/SHA256E-s9--0.wav\n", "git-annex.* `git annex get`"),
            (b"\n<!DOCTYPE html>\n<html><title>404", "is a web page; .*; download the file"),
            (b"\xef\xbb\xbf<html lang=de>", "is a web page"),
            (b'<?xml version="1.0"?><Error><Code>AccessDenied', "is a server's answer"),
            (b"\0\x05\x16\x07\0\x02\0\0", "is the companion of a file of a Mac .*; remove it"),
            (b"PK\x03\x04\x14\0\0\0", "is a ZIP archive .*; unpack or export it"),
            (b"ID3\x04\0\0", "is an MP3 file under another name; .*; convert it to WAV or FLAC"),
            (b"\0\0\0\x20ftypM4A ", "is an MP4 or M4A file"),
            (b"FORM\0\0\0\x20AIFFCOMM", "is an AIFF file"),
            (b"some text", "is a text, 'some text'; .*; take it out or download"),
            (b'{"message": "Not Found"}', "is a text"),
        ],
    )
    def test_what_stands_in_a_sounds_place_is_named(self, folder, head, words):
        (folder / "normal" / "x.wav").write_bytes(head)
        with pytest.raises(DataError, match=rf"x.wav: .*{words}") as caught:
            read_wav_folder(folder)
        assert "copy" not in str(caught.value)

    def test_no_sound_file(self, folder):
        (folder / "normal" / "x.wav").write_bytes(bytes(200))
        with pytest.raises(DataError, match=r"x.wav: is damaged or not a sound file .*copy it"):
            read_wav_folder(folder)

    def test_a_coding_that_is_unknown(self, folder):
        path = put(folder / "normal" / "x.wav", noise())
        data = path.read_bytes()
        at = data.index(b"fmt ") + 8
        path.write_bytes(data[:at] + b"\x22\0" + data[at + 2 :])  # TrueSpeech
        with pytest.raises(DataError, match=r"x.wav: codes its sound .*0x0022 .*; convert it to"):
            read_wav_folder(folder)

    def test_a_file_that_may_not_be_read(self, folder, monkeypatch):
        def denied(path):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("hfld_lite.data.sound_files.regular_size", denied)
        words = r"cannot be read \(Permission denied\); expected a WAV or FLAC file\.$"
        with pytest.raises(DataError, match=words):
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


def streamed(data: bytes, claimed: int, chunk: bytes = b"data") -> bytes:
    at = data.index(chunk) + 4
    return data[:at] + struct.pack("<I", claimed) + data[at + 4 :]


class TestStreamed:
    """A recorder that was cut off, or a pipe, leaves a header without a length."""

    @pytest.mark.parametrize(
        "claimed", [0, 2**32 - 1, 2**32 - 37, 0x7FFFF000, 0x7FFFF000 // 3 * 3, 0x7FFFFF00]
    )
    @pytest.mark.parametrize("riff", [36, 2**32 - 1])
    def test_wav_is_read_to_its_end(self, folder, claimed, riff):
        path = folder / "normal" / "n_tile0_drop0.wav"
        path.write_bytes(streamed(streamed(path.read_bytes(), claimed), riff, b"RIFF"))
        with pytest.warns(UserWarning, match="of 8 files, 1 without a length in the") as said:
            read = read_wav_folder(folder)
        assert len(said) == 1
        assert np.array_equal(read.signals[4], noise())
        assert "1 without a length" in read.source

    def test_half_a_sample_at_the_end(self, folder):
        path = folder / "normal" / "n_tile0_drop0.wav"
        path.write_bytes(streamed(path.read_bytes(), 0) + b"\1\2\3")
        with pytest.warns(UserWarning, match="1 without a length"):
            assert read_wav_folder(folder).samples == 400

    def test_flac_of_unknown_length(self, folder):
        path = put(folder / "normal" / "x.flac", np.tile(noise(), 400))
        data = bytearray(path.read_bytes())
        data[21] &= 0xF0  # the count of samples in STREAMINFO
        data[22:26] = bytes(4)
        path.write_bytes(data)
        with pytest.warns(UserWarning, match="1 without a length in the header"):
            read = read_wav_folder(folder, samples=400)
        assert np.allclose(read.signals[-1], noise(), atol=1e-6)
        with pytest.warns(UserWarning, match="x.flac is without a length"):
            read = read_signals(path, sample_rate=8000, samples=160_000)
        assert np.allclose(read[0], np.tile(noise(), 400), atol=1e-6)

    @pytest.mark.parametrize("head", [b"RF64", b"BW64"])
    def test_64_bit_sizes(self, folder, head):
        path = folder / "normal" / "n_tile0_drop0.wav"
        soundfile.write(path, noise(), 8000, subtype="FLOAT", format="RF64")
        data = bytearray(path.read_bytes())
        data[:4] = head
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.array_equal(read_wav_folder(folder).signals[4], noise())
        data[28:36] = bytes(8)  # the bytes of sound in ds64
        path.write_bytes(data)
        with pytest.warns(UserWarning, match="1 without a length in the header"):
            assert np.array_equal(read_wav_folder(folder).signals[4], noise())

    def test_no_sound_is_still_none(self, folder):
        """A length of 0 is true if nothing or another chunk follows."""
        path = put(folder / "normal" / "x.wav", noise(0))
        for tail in (b"", b"LIST\4\0\0\0INFO"):
            path.write_bytes(path.read_bytes() + tail)
            with pytest.raises(DataError, match=r"x.wav: is empty: it has a header but no samples"):
                read_wav_folder(folder)

    def test_cut_off_by_a_usual_size_is_still_refused(self, folder):
        path = folder / "normal" / "n_tile0_drop0.wav"
        for claimed in (1601, 10_000, 3_000_000_000):
            path.write_bytes(streamed(path.read_bytes(), claimed))
            with pytest.raises(DataError, match=f"claims {claimed} bytes .*; copy it again"):
                read_wav_folder(folder)


SYSTEM = [".DS_Store", "Thumbs.db", "desktop.ini", "._n_tile0_drop0.wav", ".~lock.manifest.csv#"]
FOLDERS = ["__MACOSX", "System Volume Information", "$RECYCLE.BIN", "lost+found", "@eaDir"]
FOLDERS += [".Trashes"]


class TestSystemFiles:
    """What operating systems and servers add to a folder is left out, with its number."""

    def test_in_class_folders(self, folder):
        for name in SYSTEM:
            (folder / "normal" / name).write_bytes(b"\0\5\x16\7")
            (folder / name).write_bytes(b"\0\5\x16\7")
        for name in FOLDERS:
            for place in (folder, folder / "normal"):
                put(place / name / "normal" / "x.wav", noise())
                (place / name / "y.wav").write_bytes(b"\0\5\x16\7")
        with pytest.warns(UserWarning, match="left out 22 that are hidden or a system's") as said:
            read = read_folder(folder)
        assert len(said) == 1
        assert (len(read), read.class_names) == (8, ("normal", "cracked"))

    def test_beside_each_other_and_in_a_manifest(self, tmp_path):
        for i in range(4):
            put(tmp_path / f"{'ab'[i % 2]}{i}.wav", noise(seed=i))
        (tmp_path / "._a0.wav").write_bytes(b"\0\5\x16\7")
        with pytest.warns(UserWarning, match=r"left out 1 that are hidden or a system's: ._a0.wav"):
            assert len(read_folder(tmp_path, label_pattern="^([ab])")) == 4
        (tmp_path / "manifest.csv").write_text("file,label\na0.wav,a\nb1.wav,b\n")
        (tmp_path / "._manifest.csv").write_bytes(b"\0\5\x16\7")
        with pytest.warns(
            UserWarning,
            match=r"left out 2 that the manifest lacks: a2.wav, b3.wav; and 2 that are hidden",
        ):
            assert len(read_folder(tmp_path)) == 2

    def test_beside_mat_files(self, tmp_path):
        for name in ("AN", "AD"):
            scipy.io.savemat(tmp_path / f"{name}.mat", {"data": noise(60).reshape(3, 20)})
            (tmp_path / f"._{name}.mat").write_bytes(b"\0\5\x16\7")
        with pytest.warns(UserWarning, match=r"left out 2 that .*: ._AD.mat, ._AN.mat"):
            assert len(read_folder(tmp_path, samples=20)) == 6
        (tmp_path / "AN.mat").write_text("version https://git-lfs.github.com/spec/v1\n" + "x" * 99)
        with (
            pytest.warns(UserWarning, match="left out 2"),
            pytest.raises(DataError, match=r"AN.mat: is a pointer of Git LFS; .*`git lfs pull`"),
        ):
            read_folder(tmp_path, samples=20)

    def test_a_systems_folder_is_never_listed(self, folder, monkeypatch):
        """It may not be readable, and nobody can take it off a disk."""
        (folder / "System Volume Information").mkdir()
        real = Path.iterdir

        def iterdir(path):
            if "System" in path.name:
                raise PermissionError(13, "Permission denied")
            return real(path)

        monkeypatch.setattr(Path, "iterdir", iterdir)
        with pytest.warns(UserWarning, match="left out 1 that .*: System Volume Information"):
            assert len(read_folder(folder)) == 8


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere such names cannot be")
def test_a_name_that_is_not_text(tmp_path):
    path = tmp_path / os.fsdecode(b"bad\xff.wav")
    soundfile.write(tmp_path / "good.wav", np.random.default_rng(0).uniform(-1, 1, 100), 8000)
    (tmp_path / "good.wav").rename(path)
    with pytest.raises(DataError, match=r"has a name that is not text in UTF-8; .* rename it"):
        read_cuts(path, sample_rate=8000, part=Part("first", 10))
