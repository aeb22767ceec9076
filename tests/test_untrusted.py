"""Files that lie: what the fuzzer found (`tests/fuzz.py`), and what was thought of without it."""

import json
import os
import re
import resource
import struct
import time
import zlib
from pathlib import Path

import fuzz
import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from hfld_lite import Recipe, RecipeError
from hfld_lite.app.chosen import tried
from hfld_lite.app.runs import load_run
from hfld_lite.app.tables import read_baselines, read_history, read_predictions, read_results
from hfld_lite.data.readers import read_mat, read_signals, read_wav_folder
from hfld_lite.data.recordings import Recordings
from hfld_lite.errors import DataError, HfldError
from hfld_lite.storage.files import read_json


class TestJson:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("[" * 100_000, "nested too deeply"),
            ('{"a": ' * 100_000, "nested too deeply"),
            ('{"a": 1, "b": 2, "a": 3}', "the key 'a' occurs twice"),
            ('{"a": NaN}', "NaN is not a finite number"),
            ("[-Infinity]", "-Infinity is not a finite number"),
            ("[1e999]", "1e999 is not a finite number"),
            ("1" * 5000, "4300 digits"),
            (r'{"\ud800": 1}', "surrogates not allowed"),
            ('"' + " " * (1 << 23) + '"', "the limit is 8388608"),
        ],
    )
    def test_what_readers_disagree_on_is_refused(self, tmp_path, text, words):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ValueError, match=words):
            read_json(tmp_path / "x.json")
        with pytest.raises(RecipeError, match=f"x.json: the recipe cannot be read .*{words}"):
            Recipe.load(tmp_path / "x.json")

    def test_what_is_sound_is_read(self, tmp_path):
        (tmp_path / "x.json").write_text(r'{"a": [1.5, "\ud83d\ude00", "ä"], "b": {"a": -0.0}}')
        assert read_json(tmp_path / "x.json") == {"a": [1.5, "😀", "ä"], "b": {"a": 0.0}}

    def test_a_pipe_or_device_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
            with pytest.raises(RecipeError, match="not a regular file"):
                Recipe.load(path)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"student": {"depth": 10, "width": "1"}}, "student.width is '1'"),
            ({"student": {"depth": [10]}}, r"student.depth is \[10\]"),
            ({"student": {"depth": 10, "head": {}}}, "student.head is {}"),
            ({"student": {"depth": 10, "dropout": "no"}}, "student.dropout is 'no'"),
            ({"student": {"depth": 10, "epochs": True}}, "student.epochs is True"),
            ({"learning_rate": 10**400}, "learning_rate is 1000"),
            ({"drops": [True]}, "drops"),
            ({"name": 5}, "name is 5"),
        ],
    )
    def test_values_of_the_wrong_kind(self, tmp_path, change, words):
        (tmp_path / "x.json").write_text(json.dumps(change))
        with pytest.raises(RecipeError, match=words):
            Recipe.load(tmp_path / "x.json")


def wav_with(data: bytes, claimed: int) -> bytes:
    """Change what the chunk "data" of a WAV claims."""
    at = data.index(b"data") + 4
    return data[:at] + struct.pack("<I", claimed) + data[at + 4 :]


def rf64_with(data: bytes, claimed: int) -> bytes:
    """Change the 64-bit sizes of an RF64: of the sound in bytes, and in samples."""
    at = data.index(b"ds64") + 16
    data = data[:at] + struct.pack("<QQ", claimed, claimed // 4) + data[at + 16 :]
    return wav_with(data, 0xFFFFFFFF)


def w64_with(data: bytes, claimed: int) -> bytes:
    at = data.index(b"data\xf3\xac") + 16
    return data[:at] + struct.pack("<Q", claimed + 24) + data[at + 8 :]


def flac_with(data: bytes, claimed: int) -> bytes:
    """Change STREAMINFO's 36-bit count of samples."""
    return data[:21] + bytes([data[21] & 0xF0 | claimed >> 32]) + struct.pack(
        ">I", claimed & 0xFFFFFFFF
    ) + data[26:]  # fmt: skip


class TestSounds:
    @pytest.mark.parametrize(
        ("form", "change", "words"),
        [
            (
                "WAV",
                lambda d: wav_with(d, 2**32 - 5001),
                "claims 4294962295 bytes of sound and has 640",
            ),
            ("WAV", lambda d: wav_with(d, 641), "claims 641 bytes of sound and has 640"),
            ("WAV", lambda d: d[:-2], "claims 640 bytes of sound and has 638, so it was cut off"),
            ("WAVEX", lambda d: d[:-2], "claims 1280 bytes of sound and has 1278"),
            ("RF64", lambda d: rf64_with(d, 4 * 10**12), "claims 4000000000000 bytes of sound"),
            ("RF64", lambda d: rf64_with(d, 2**63), "claims 9223372036854775808 bytes of sound"),
            ("W64", lambda d: w64_with(d, 4 * 10**12), "claims 4000000000000 bytes of sound"),
            ("W64", lambda d: w64_with(d, 2**63), "claims 9223372036854775808 bytes of sound"),
            ("FLAC", lambda d: flac_with(d, 2**36 - 1), "claims 68719476735 samples in 1 channels"),
            ("WAV", lambda d: d[:36], "the chunk 'data' is missing"),
            ("WAV", lambda d: d[:36] + b"junk\0\0\0\0" * 2000 + d[36:], "within 1000 chunks"),
            ("WAV", lambda d: d[:16] + b"\xff" * 4 + d[20:], "a chunk claims 4294967295 bytes"),
        ],
    )
    def test_claims_are_held_against_the_size(self, tmp_path, monkeypatch, form, change, words):
        channels = 2 if form in ("WAVEX", "RF64", "W64") else 1
        (tmp_path / "x.wav").write_bytes(change(fuzz.sound(form, "PCM_16", channels)))
        monkeypatch.setattr(soundfile, "read", lambda *_, **__: pytest.fail("reading began"))
        with pytest.raises(DataError, match=f"x.wav: is damaged or not a sound file .*{words}"):
            read_signals(tmp_path / "x.wav", sample_rate=8000, samples=100)

    @pytest.mark.parametrize("form", ["WAV", "WAVEX", "RF64", "W64", "FLAC"])
    def test_all_forms_are_read(self, tmp_path, form):
        (tmp_path / "x.wav").write_bytes(fuzz.sound(form, "PCM_16"))
        read = read_signals(tmp_path / "x.wav", sample_rate=8000, samples=320)
        assert np.allclose(read[0], np.tile(fuzz.NOISE[0], 5), atol=1e-4)

    def test_big_endian_and_odd_chunks(self, tmp_path):
        wave = fuzz.NOISE[0]
        soundfile.write(tmp_path / "x.wav", wave, 8000, endian="BIG", subtype="PCM_16")
        data = (tmp_path / "x.wav").read_bytes()
        assert data.startswith(b"RIFX")
        odd = b"note" + struct.pack(">I", 3) + b"abc\0"
        (tmp_path / "x.wav").write_bytes(data[:12] + odd + data[12:])
        read = read_signals(tmp_path / "x.wav", sample_rate=8000, samples=64)
        assert np.allclose(read[0], wave, atol=1e-4)

    @pytest.mark.parametrize("rate", [1, 2_147_483_647])
    def test_a_rate_that_would_need_a_giant_filter(self, tmp_path, rate):
        for label, here in (("a", rate), ("b", 96_001), ("c", 96_001)):
            (tmp_path / label).mkdir()
            soundfile.write(tmp_path / label / "x.wav", np.tile(fuzz.NOISE[0], 4000), here)
        with pytest.raises(DataError, match=f"x.wav: says that its rate is {rate} Hz"):
            read_wav_folder(tmp_path, resample=True)


class TestManifest:
    @pytest.fixture
    def folder(self, tmp_path):
        folder = tmp_path / "sounds"
        folder.mkdir()
        for name in ("0.wav", "1.wav", "../outside.wav"):
            (folder / name).write_bytes(fuzz.sound("WAV", "PCM_16"))
        (folder / "link.wav").symlink_to("../outside.wav")
        (folder / "up").symlink_to("..")
        (folder / "circle").symlink_to("circle")
        os.mkfifo(folder / "pipe.wav")
        return folder

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("../outside.wav", "'../outside.wav' lies outside the folder"),
            ("/dev/zero", "'/dev/zero' lies outside the folder"),
            ("link.wav", "'link.wav' lies outside the folder"),
            ("up/outside.wav", "'up/outside.wav' lies outside the folder"),
            ("pipe.wav", "'pipe.wav' is not there"),
            ("circle/0.wav", "cannot be read .*[lL]oop"),
            ("x" * 300 + ".wav", "cannot be read .*File name too long"),
        ],
    )
    def test_names_that_lead_away(self, folder, name, words):
        (folder / "manifest.csv").write_text(f"file,label\n0.wav,ok\n{name},bad\n")
        with pytest.raises(DataError, match=rf"manifest.csv, line \d: .*{words}"):
            read_wav_folder(folder)

    def test_a_pipe_for_a_manifest_and_one_that_is_too_long(self, folder, monkeypatch):
        with pytest.raises(
            DataError, match=r"pipe.wav, line 1: cannot be read .*not a regular file"
        ):
            read_wav_folder(folder, manifest=folder / "pipe.wav")
        monkeypatch.setattr("hfld_lite.data.manifests._MANIFEST_BYTES", 10)
        (folder / "manifest.csv").write_text("file,label\n0.wav,ok\n1.wav,bad\n")
        with pytest.raises(DataError, match=r"it has 30 bytes, and the limit is 10"):
            read_wav_folder(folder)


def element(kind: int, data: bytes, claimed: int | None = None) -> bytes:
    return struct.pack("<II", kind, len(data) if claimed is None else claimed) + data


def matrix(claimed: int | None = None, numbers: int = 16, name: int | None = None) -> bytes:
    """A 5.0 matrix "data" of doubles whose tags claim what is asked for."""
    parts = element(6, struct.pack("<II", 6, 0)) + element(5, struct.pack("<ii", 1, 2))
    parts += element(1, b"data\0\0\0\0", 4 if name is None else name)
    return element(14, parts + element(9, bytes(16), numbers), claimed)


HEAD = b"MATLAB 5.0".ljust(124) + b"\x00\x01IM"


class TestMat:
    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (matrix(claimed=2**32 - 8), "an element claims 4294967288 bytes"),
            (matrix(numbers=2**32 - 8), "claims to hold one of 4294967288"),
            (matrix(name=2**32 - 8), "claims to hold one of 4294967288"),
            (element(15, zlib.compress(matrix(2**32 - 8))), r"compressed bytes claim to hold 42"),
            (element(15, zlib.compress(matrix(numbers=2**31))), "claims to hold one of 2147483648"),
            (element(15, zlib.compress(b"")), "a compressed element holds nothing"),
            (element(15, zlib.compress(bytes(2**25))), "truncated or not a MATLAB file"),
        ],
    )
    def test_version_5(self, tmp_path, monkeypatch, content, words):
        (tmp_path / "AN.mat").write_bytes(HEAD + content)
        monkeypatch.setattr("scipy.io.loadmat", lambda *_, **__: pytest.fail("reading began"))
        with pytest.raises(DataError, match=f"AN.mat: .*{words}"):
            read_signals(tmp_path / "AN.mat", sample_rate=1, samples=2)

    def test_the_file_without_lies_is_read(self, tmp_path):
        numbers = matrix()[:-16] + struct.pack("<dd", 1, 2)
        for content in (numbers, element(15, zlib.compress(numbers))):
            (tmp_path / "AN.mat").write_bytes(HEAD + content)
            read = read_signals(tmp_path / "AN.mat", sample_rate=1, samples=2)
            assert read.tolist() == [[1, 2]]

    @pytest.mark.parametrize("order", "<>")
    @pytest.mark.parametrize(
        ("numbers", "words"),
        [
            ((2**31 - 1, 2**31 - 1, 0, 5), r"shape \(2147483647, 2147483647\) is claimed"),
            ((1, 2, 0, 2**31 - 1), r"shape \(1, 2\) is claimed, and 21 bytes are left"),
            ((-1, 2, 0, 5), r"shape \(-1, 2\) is claimed"),  # scipy would go back, and never end
            ((1, 3, 0, 5), r"shape \(1, 3\) is claimed, and 21 bytes are left"),
            ((1, 2, 1, 5), r"shape \(1, 2\) is claimed, and 21 bytes are left"),
        ],
    )
    def test_version_4(self, tmp_path, monkeypatch, order, numbers, words):
        kind = 0 if order == "<" else 1000
        head = struct.pack(order + "5i", kind, *numbers)
        (tmp_path / "AN.mat").write_bytes(head + b"data\0" + bytes(16))
        monkeypatch.setattr("scipy.io.whosmat", lambda *_, **__: pytest.fail("reading began"))
        with pytest.raises(DataError, match=f"AN.mat: .*{words}"):
            read_signals(tmp_path / "AN.mat", sample_rate=1, samples=2)

    def test_the_first_of_a_name_is_the_one_that_is_checked(self, tmp_path):
        first = matrix().replace(struct.pack("<II", 6, 0), struct.pack("<II", 2, 0))  # a structure
        (tmp_path / "AN.mat").write_bytes(HEAD + first + matrix())
        (tmp_path / "AD.mat").write_bytes(HEAD + matrix())
        with pytest.raises(DataError, match=r"AN.mat: 'data' is not a matrix of real numbers"):
            read_mat(tmp_path, samples=2)


class TestPrepared:
    @pytest.fixture
    def folder(self, tmp_path):
        return fuzz.prepared(tmp_path / "prepared")

    @pytest.mark.parametrize("name", ["signals.npy", "groups.npy", "manifest.json"])
    def test_links_that_lead_out(self, folder, name):
        (folder / name).rename(folder.parent / name)
        (folder / name).symlink_to(folder.parent / name)
        with pytest.raises(DataError, match=f"{name}: is a link that leads out of the folder"):
            Recordings.load(folder)

    def test_a_folder_that_is_a_link_itself_is_fine(self, folder):
        (folder.parent / "link").symlink_to(folder)
        assert len(Recordings.load(folder.parent / "link")) == 8

    def test_a_header_that_claims_gigabytes(self, folder, monkeypatch):
        (folder / "signals.npy").write_bytes(b"\x93NUMPY\x02\x00" + b"\xff" * 4 + b"{}")
        monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("reading began"))
        with pytest.raises(DataError, match=r"npy: .*its header claims 4294967295 bytes"):
            Recordings.load(folder)

    @pytest.mark.parametrize("code", [0x110000, 0xFFFFFFFF, 0xD800, 0xDFFF])
    def test_numbers_that_are_no_characters(self, folder, code):
        data = (folder / "groups.npy").read_bytes()
        (folder / "groups.npy").write_bytes(data[:-4] + struct.pack("<I", code))
        with pytest.raises(DataError, match=r"groups.npy: holds numbers that are not characters"):
            Recordings.load(folder, verify=False)


TRUST = {"rate": 0.1, "limit": 0.5, "normal": [0], "novelty": 3.0, "run": 3}
TRUST |= {"means": [[0.0] * 24] * 2, "deviations": [[1.0] * 24] * 2}
TRUST |= {"harmful": 9, "usual": 20, "doubted": 0.0}


class TestRuns:
    @pytest.fixture
    def run(self, tmp_path):
        return fuzz.run_folder(tmp_path / "run")

    def test_a_recipe_alone_reserves_nothing(self, run, monkeypatch):
        """ResNet152 of double width and the published head: 2.7 GB, and many seconds."""
        giant = {"depth": 152, "width": 2.0, "head": "published", "dropout": None, "epochs": 1}
        recipe = json.loads((run / "recipe.json").read_text()) | {"teacher": giant}
        (run / "recipe.json").write_text(json.dumps(recipe))
        made = []
        real = torch.nn.init.kaiming_normal_
        monkeypatch.setattr(
            torch.nn.init,
            "kaiming_normal_",
            lambda w, **k: made.append(w.device.type) or real(w, **k),
        )
        with pytest.raises(RecipeError, match=r"teacher.safetensors: .* do not fit the network"):
            load_run(run)
        assert set(made) == {"meta"}

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda w: w.fill_(torch.nan), "holds NaN or infinity"),
            (lambda w: w.view(torch.int32), "is torch.int32, not torch.float32"),
            (lambda w: w.double(), "is torch.float64, not torch.float32"),
            (lambda w: w[:1], "do not fit"),
        ],
    )
    def test_weights_that_torch_would_take(self, run, change, words):
        path = run / "student.safetensors"
        state = load_file(path)
        name = next(name for name in state if name.startswith("stem") and state[name].ndim == 3)
        save_file({**state, name: change(state[name]).contiguous()}, path)
        with pytest.raises(RecipeError, match=f"student.safetensors: .*{words}"):
            load_run(run)

    def test_a_safetensors_header_beyond_the_file(self, run):
        path = run / "student.safetensors"
        data = path.read_bytes()
        for claimed in (len(data), 10**12, 2**64 - 1):
            path.write_bytes(struct.pack("<Q", claimed) + data[8:])
            with pytest.raises(RecipeError, match=r"student.safetensors: .*[Hh]eader"):
                load_run(run)
        path.write_bytes(re.sub(rb'"data_offsets":\[0,', b'"data_offsets":[9,', data, count=1))
        with pytest.raises(RecipeError, match=r"student.safetensors: the weights cannot be read"):
            load_run(run)

    @pytest.mark.parametrize(
        ("key", "value", "words"),
        [
            ("class_names", "ND", "class_names is 'ND'"),
            ("class_names", ["N", 3], r"class_names\[1\] is 3; expected text"),
            ("class_names", ["N", ""], r"class_names\[1\] is ''; expected a length of 1 or more"),
            ("class_names", ["N", "N"], "class_names are"),
            ("normal_classes", ["X"], "normal_classes"),
            ("normal_classes", ["N", "D"], "normal_classes"),
            ("sample_rate", 8000.0, "sample_rate is 8000.0"),
            ("sample_rate", True, "sample_rate is True"),
            ("samples", -1, "samples"),
            ("samples", 2**63, "samples"),
            ("window", [3], r"window is \[3\]"),
            ("window", ["a", 1], "window"),
            ("part", {"kind": "x", "samples": 3}, "part: part is 'x'; choose from first"),
            ("part", {"kind": "first"}, "part: it is .*; expected null or kind, samples, pad"),
            ("part", ["first", 3], "part: it is"),
            ("data", None, "data is None"),
            ("source", None, "source is None"),
            ("stages", ["student"], "stages is"),
            ("stages", {"student": {}}, "stages.student.learned_from is missing"),
            ("stages", {}, "stages is {}; expected a length of 1 or more"),
            (
                "stages",
                {str(i): {} for i in range(500_000)},
                "stages: there are 500000 entries; expected 100",
            ),
            ("samples", 2**41, "samples is 2199023255552; expected 1099511627776 or less"),
            ("window", [2**41, 1], r"window\[0\] is 2199023255552"),
            ("window", [10**18, 10**18], r"window\[0\] is 1000000000000000000"),
            ("window", [1, 1], "window and hop are 1 and 1; expected 16 samples or more"),
            ("window", [2048, 1], "window and hop are 2048 and 1; expected"),
            ("source", "x" * 10_001, "source is 'xxx.*; expected a length of 10000 or less"),
            ("class_names", ["N"] * 10_001, "class_names"),
            (
                "data",
                {"folder": "x", "simulated": {"seed": 1}},
                "data: it names a folder and a sim",
            ),
            ("data", {"folder": "x", "options": {"window": 1}}, "data: window and hop are 1 and 1"),
            ("data", {"folder": "x", "options": {"window": {}}}, "data.options.window"),
            ("data", {"folder": "x", "options": {"samples": -1}}, "data.options.samples"),
            ("data", {"folder": "x", "options": {"a": "x" * 5001}}, "data.options.a"),
            ("made", {"Command": "x" * 10_001}, "made.Command is 'xxx"),
            ("baselines", ["x"] * 101, "baselines"),
            ("normal_classes", [0] * 2_000_000, r"normal_classes\[0\] is 0; expected text"),
            ("trust", {"student": {**TRUST, "normal": [-1]}}, r"normal\[0\] is -1; expected 0 or"),
            ("trust", {"student": {**TRUST, "normal": [2]}}, r"normal is \(2,\); expected \(0,\)"),
            (
                "trust",
                {"student": {**TRUST, "means": [[0] * 23]}},
                r"means\[0\] is \[0, 0.*length of 24",
            ),
            ("trust", {"student": {**TRUST, "deviations": [[0] * 24] * 2}}, "not above 0"),
            ("trust", {"student": {**TRUST, "rate": "0.1"}}, "rate is '0.1'; expected a number"),
            ("data", {"folder": 3, "options": {}}, "data.folder is 3; expected text"),
            ("data", {"simulated": {"seed": -1}}, "data.simulated.seed is -1; expected 0 or more"),
            ("preprocessing", None, "preprocessed by None"),
            ("preprocessing", {**fuzz.preprocessing(fuzz.TINY), "bins": 300}, "'bins': 300"),
        ],
    )
    def test_facts_of_the_wrong_kind(self, run, key, value, words):
        facts = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps(facts | {key: value}))
        with pytest.raises(RecipeError, match=f"run.*{words}"):
            load_run(run)

    def test_wrong_facts_are_refused_at_once_and_in_one_sentence(self, run):
        facts = json.loads((run / "run.json").read_text())
        many = {str(i): {} for i in range(300_000)}
        for change in ({"stages": many}, {"trust": [0] * 10**6}, {"source": "x" * 2**21}):
            (run / "run.json").write_text(json.dumps(facts | change))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            with pytest.raises(RecipeError) as caught:
                load_run(run)
            assert len(str(caught.value)) < 400
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10

    @pytest.mark.parametrize(
        ("name", "change", "words"),
        [
            ("results", lambda t: t.replace("1.0,0.5", "1.5,0.5"), "accuracy is 1.5; expected 1"),
            ("results", lambda t: t.replace("100", "-1", 1), "parameters is -1; expected 0"),
            ("results", lambda t: t.replace("100", "1e999", 1), "parameters is"),
            ("results", lambda t: t.replace("0.5", "", 1), "macs or size_kb has gaps"),
            ("results", lambda t: t.replace("miss_rate", "miss", 1), "column miss_rate is missing"),
            ("results", lambda t: t + t.splitlines()[1] * 2 + "\n", "cannot be read"),
            ("results", lambda t: t + (t.splitlines()[1] + "\n") * 2000, "has 2002 rows"),
            ("results", lambda _: "", "cannot be read"),
            ("results", lambda _: "a," * 300, "has 301 columns"),
            ("results", lambda _: "x" * (33 << 20), "the limit is 33554432"),
            ("results", lambda t: t.replace("a net", "x" * 10_001, 1), "network is 'xxx"),
            ("history", lambda t: t.replace("0.25", "[", 1), "cross_entropy holds a value"),
            ("history", lambda t: t.replace(",0.75", ",", 1), "validation_accuracy .* has gaps"),
            ("history", lambda t: t.replace("0.25", "1e999", 1), "cross_entropy holds a value"),
            ("predictions", lambda t: t.replace("D,D", "D,X", 1), "teacher holds 'X', which is no"),
            ("predictions", lambda t: t.replace("group", "g"), "the column group is missing"),
            ("baselines", lambda t: t.replace("1.0", "nan", 1), "accuracy is None"),
            ("auto", lambda t: t.replace("True", "maybe"), "chosen is 'maybe'"),
            ("auto", lambda t: t.replace("100", "1e400"), "steps is"),
        ],
    )
    def test_tables_of_the_wrong_kind(self, run, name, change, words):
        path = run / f"{name}.csv"
        path.write_text(change(path.read_text()))
        read = {
            "results": read_results,
            "history": read_history,
            "predictions": lambda folder: read_predictions(folder, ("N", "D")),
            "baselines": read_baselines,
            "auto": tried,
        }[name]
        began = time.process_time()
        with pytest.raises(RecipeError, match=f"{name}.csv.*{words}") as caught:
            read(run)
        assert len(str(caught.value)) < 500
        assert time.process_time() - began < 2

    @pytest.mark.parametrize(
        ("numbers", "words"),
        [
            (torch.zeros(3, 5), "shape"),
            (torch.zeros(3, 6, dtype=torch.float64), "float64"),
            (torch.full((3, 6), torch.nan), "NaN"),
            (None, "cannot be read"),
        ],
    )
    def test_sketches_of_the_wrong_kind(self, run, numbers, words):
        path = run / "recordings.safetensors"
        path.write_bytes(b"x" * 100) if numbers is None else save_file({"sketch": numbers}, path)
        with pytest.raises(RecipeError, match=f"recordings.safetensors.*{words}"):
            _ = load_run(run).sketch

    def test_limits_that_fit_are_read(self, run):
        facts = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps(facts | {"trust": {"student": TRUST}}))
        assert load_run(run).trust["student"].to_dict()["normal"] == (0,)

    @pytest.mark.parametrize(
        ("lists", "words"),
        [
            ({"train": [0, True], "validation": [], "test": [1]}, r"train\[1\] is True"),
            ({"train": [-1], "validation": [], "test": [1]}, r"train\[0\] is -1; expected 0 or"),
            ({"train": [0], "validation": [], "test": "1"}, "test is '1'; expected a list"),
            ({"train": ["x"] * 10**6, "validation": [], "test": [1]}, r"train\[0\] is 'x'"),
        ],
    )
    def test_splits_of_the_wrong_kind(self, run, lists, words):
        (run / "split.json").write_text(json.dumps(lists))
        with pytest.raises(RecipeError, match=f"run is damaged .The split cannot be read: {words}"):
            load_run(run)

    @pytest.mark.parametrize("name", ["run.json", "recipe.json", "split.json"])
    @pytest.mark.parametrize("text", ["[" * 100_000, '{"sample_rate": 1e999}', r'{"\ud800": 1}'])
    def test_json_that_escaped_before(self, run, name, text):
        (run / name).write_text(text)
        with pytest.raises(RecipeError, match=name):
            load_run(run)

    def test_input_of_other_rate_length_or_classes_is_an_error(self, run):
        detector = load_run(run).detector
        signals = np.tile(fuzz.NOISE, (1, 10))[:, :600]
        assert detector.predict(signals, 8000).shape == (8, 2)
        with pytest.raises(DataError, match="sample rate is 8001 Hz; expected 8000 Hz"):
            detector.predict(signals, 8001)
        with pytest.raises(DataError, match="has 599 samples; expected 600"):
            detector.predict(signals[:, :599], 8000)
        for names in (("D", "N"), ("N", "X")):
            others = Recordings(signals, np.arange(8) % 2, [*"abcdefgh"], 8000, names)
            with pytest.raises(
                HfldError, match=f"the classes are {', '.join(names)}; expected N, D"
            ):
                detector.test(others)
