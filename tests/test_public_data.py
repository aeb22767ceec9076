"""Public data sets: the folders in which they are published, made small, and what is read."""

import importlib
import re
import shlex
import struct
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import scipy.io
import soundfile
from typer.testing import CliRunner

from hfld_lite.data.mat_files import struct_signal
from hfld_lite.data.mat_structs import check_struct
from hfld_lite.data.parts import Part
from hfld_lite.data.public_sets import CWRU, SETS
from hfld_lite.data.readers import read_cuts, read_folder
from hfld_lite.data.recordings import UNLABELLED, Recordings
from hfld_lite.data.splits import split
from hfld_lite.errors import DataError

SCRIPTS = Path(__file__).parents[1] / "data_scripts"
RATE = 800  # of the sounds here, so that a second is short


def noise(samples: int, seed: object = 0) -> np.ndarray:
    return np.random.default_rng(crc32(str(seed).encode())).uniform(-1, 1, samples)


def sound(path: Path, samples: int = 2 * RATE, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    signal = noise(samples * channels, path).reshape(samples, channels)
    soundfile.write(path, signal, RATE)


def mat(path: Path, content: dict, compressed: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, content, do_compression=compressed)


def mfpt(folder: Path) -> None:
    for place, name, rate, count in (
        ("1 - Three Baseline Conditions", "baseline_{}", 97_656, 3),
        ("2 - Three Outer Race Fault Conditions", "OuterRaceFault_{}", 97_656, 1),
        ("3 - Seven More Outer Race Fault Conditions", "OuterRaceFault_vload_{}", 48_828, 2),
        ("4 - Seven Inner Race Fault Conditions", "InnerRaceFault_vload_{}", 48_828, 3),
    ):
        for i in range(1, count + 1):
            file = name.format(i)
            gs = noise(200 * rate // 48_828, file)[:, None]
            mat(
                folder / place / f"{file}.mat",
                {"bearing": {"sr": rate, "gs": gs, "load": 270, "rate": 25}},
                compressed=i == 1,
            )
    fields = {"sr": 97_656, "gs": noise(400), "ball": 1.0}
    mat(folder / "6 - Real World Examples" / "OilPumpShaftBearing.mat", {"bearing": fields})


def measured(
    path: Path, names: tuple = ("force", "vibration_1"), samples: int = 300, compressed: bool = True
) -> None:
    """One file of Paderborn University: a struct of structs named like the file."""
    entries = np.empty((1, len(names)), [(n, object) for n in ("Name", "Type", "Data", "Raster")])
    for i, name in enumerate(names):
        data = noise(samples, f"{path.stem}{name}")[None] if name == "vibration_1" else [[1.0, 2.0]]
        entries[0, i] = (name, "double", np.array(data), "HostService")
    content = {"Info": {"Program": "x"}, "X": entries[:, :1], "Y": entries, "Description": "text"}
    mat(path, {path.stem: content}, compressed)


def paderborn(folder: Path, bearings: str = "K001 K002 KA01 KA03 KI01 KI14") -> None:
    for bearing in bearings.split():
        for i in (1, 2):
            measured(folder / bearing / f"N15_M07_F10_{bearing}_{i}.mat")


def cwru(folder: Path, numbers: tuple = (97, 99, 105, 106, 118, 3001, 109, 174, 278)) -> None:
    for number in numbers:
        variable = {3001: 56, 174: 173}.get(number, number)
        rate = CWRU.get(number, ("", 12_000))[1]
        content = {
            f"X{variable:03d}_{end}_time": noise(400 * rate // 12_000, f"{number}{end}")[:, None]
            for end in ("DE", "FE")
        }
        if number == 99:  # as published, with a second recording in it
            content["X098_DE_time"] = noise(1600, "98")[:, None]
        mat(folder / f"{number}.mat", content | {f"X{variable:03d}RPM": [[1797.0]]})


def mimii(folder: Path, machines: tuple = ("fan",), ids: tuple = ("00", "02", "04", "06")) -> None:
    for noise_level in ("0_dB", "6_dB"):
        for machine in machines:
            for number in ids:
                for label in ("normal", "abnormal"):
                    place = folder / f"{noise_level}_{machine}" / machine / f"id_{number}" / label
                    for i in range(2):
                        sound(place / f"{i:08d}.wav", channels=2)


def dcase(folder: Path) -> None:
    for number in ("00", "02"):
        for i in range(3):
            sound(folder / "fan" / "train" / f"normal_id_{number}_{i:08d}.wav")
        for label in ("normal", "anomaly"):
            sound(folder / "fan" / "test" / f"{label}_id_{number}_00000000.wav")
    for place, part in (("train", "train"), ("source_test", "test"), ("target_test", "test")):
        for label in ("normal", "anomaly")[: 1 + (part == "test")]:
            name = f"section_00_source_{part}_{label}_0000_n_B.wav"
            sound(folder / "ToyCar" / place / name)
    sound(folder / "ToyCar" / "test" / "section_00_0001.wav")  # of the evaluation: no label


def esc50(folder: Path) -> None:
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for fold in range(1, 6):
        for target, category in enumerate(("dog", "rain")):
            for take in "AB":
                name = f"{fold}-1{fold}{target}-{take}-{target}.wav"
                sound(folder / "audio" / name, 5 * RATE)
                rows.append(f"{name},{fold},{target},{category},False,1{fold}{target},{take}")
    (folder / "meta").mkdir()
    (folder / "meta" / "esc50.csv").write_text("\n".join(rows) + "\n")


def speech(folder: Path) -> None:
    for word in ("yes", "no", "stop"):
        for speaker in range(6):
            sound(folder / word / f"0a1b2c{speaker:02d}_nohash_0.wav", RATE - 100 * (speaker == 1))
    sound(folder / "_background_noise_" / "white_noise.wav", 10 * RATE)
    (folder / "README.md").write_text("x")
    (folder / "testing_list.txt").write_text(
        "yes/0a1b2c00_nohash_0.wav\nno/0a1b2c00_nohash_0.wav\n"
    )
    (folder / "validation_list.txt").write_text("yes/0a1b2c01_nohash_0.wav\n")


MAKERS = {f.__name__: f for f in (mfpt, paderborn, cwru, mimii, dcase, esc50, speech)}
WINDOW = ("--window", 50)


@pytest.fixture
def prepare(monkeypatch, tmp_path):
    """Make a data set, run the program on it; return recordings, what it printed and its notes."""
    monkeypatch.syspath_prepend(SCRIPTS)
    app = importlib.import_module("prepare_public").app

    def run(name: str, *args: object, folder: Path | None = None) -> tuple[Recordings, str, str]:
        if folder is None:
            MAKERS[name](folder := tmp_path / name)
        out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
        words = [name, str(folder), "--out", str(out), *map(str, args)]
        result = CliRunner().invoke(app, words)
        if result.exit_code:
            assert isinstance(result.exception, SystemExit)
            assert not out.exists()
            raise DataError("refused", result.stderr.strip())
        return Recordings.load(out), result.stdout, result.stderr

    return run


def test_mfpt(prepare):
    read, text, notes = prepare("mfpt", *WINDOW)
    assert read.class_names == ("InnerRaceFault", "OuterRaceFault", "baseline")
    assert read.normal_classes == ("baseline",)
    assert (read.sample_rate, read.window) == (48_828, (50, 50))
    assert sorted(set(read.groups[read.labels == 2])) == ["baseline_1", "baseline_2", "baseline_3"]
    assert np.bincount(read.labels).tolist() == [12, 12, 12], "97656 Hz became 48828 Hz"
    first = read.signals[read.origins.tolist().index(
        "4 - Seven Inner Race Fault Conditions/InnerRaceFault_vload_2.mat:1")]  # fmt: skip
    assert np.array_equal(first, np.float32(noise(200, "InnerRaceFault_vload_2")[50:100]))
    assert "1 in 6 - Real World Examples (OilPumpShaftBearing.mat)" in notes
    assert "InnerRaceFault at 48828 Hz, baseline at 97656 Hz" in text
    assert "with --sample-rate 24414 all are converted" in text
    assert "may be to tell known bearings" in text
    assert "has 3 recordings, and the usual split of hfld train needs 5 groups" in text
    assert "a recipe whose validation and test are 1/3 each" in text
    split(read, validation=1 / 3, test=1 / 3)
    assert "licence: see the data set's own page\n" in text


def test_mfpt_by_blocks_of_time(prepare):
    read, text, _ = prepare("mfpt", *WINDOW, "--known", "--blocks", 4, "--sample-rate", 24_414,
                            "--window", 20)  # fmt: skip
    assert len(set(read.groups)) == 4 * 9
    assert "needs 5 groups" not in text
    assert "different rates" not in text
    split(read)


def test_paderborn(prepare, tmp_path):
    paderborn(tmp_path / "kat")
    damaged = tmp_path / "kat" / "KA01" / "N15_M07_F10_KA01_2.mat"
    damaged.write_bytes(damaged.read_bytes()[:600])
    read, text, _ = prepare("paderborn", *WINDOW, "--hop", 25, folder=tmp_path / "kat")
    assert read.class_names == ("K0", "KA", "KI")
    assert read.normal_classes == ("K0",)
    assert (read.sample_rate, read.window) == (64_000, (50, 25))
    assert set(read.groups) == {"K001", "K002", "KA01", "KA03", "KI01", "KI14"}
    vibration = noise(300, "N15_M07_F10_K001_1vibration_1")
    assert np.array_equal(read.signals[1], np.float32(vibration[25:75]))
    assert re.search(r"note: Left out, since it cannot be read: \S*N15_M07_F10_KA01_2.mat", text)
    assert "Attribution-NonCommercial" in read.source
    assert "The class K0 has 2 bearings, and the usual split" in text


def test_paderborn_with_one_bearing_for_each_class(prepare, tmp_path):
    paderborn(tmp_path / "kat", "K001 KA01")
    _, text, _ = prepare("paderborn", *WINDOW, folder=tmp_path / "kat")
    assert "Each class is one bearing alone: K0 (K001), KA (KA01)." in text
    assert "prepare it with --known." in text
    read, text, _ = prepare("paderborn", *WINDOW, "--known", "--blocks", 5, folder=tmp_path / "kat")
    assert "to tell known bearings" in text
    assert "K001/N15_M07_F10_K001_1/block00" in read.groups
    split(read)


def test_paderborn_without_vibration(prepare, tmp_path):
    for i in range(3):
        measured(tmp_path / "kat" / f"N15_M07_F10_KA01_{i}.mat", names=("force", "torque"))
        measured(tmp_path / "kat" / f"N15_M07_F10_K001_{i}.mat")
    with pytest.raises(DataError, match=r"2 of 6 files cannot be read .*KA01_1.*; expected a str"):
        prepare("paderborn", *WINDOW, folder=tmp_path / "kat")


def test_cwru(prepare):
    read, text, notes = prepare("cwru", *WINDOW, "--blocks", 2)
    assert read.class_names == ("B007", "IR007", "IR014", "IR028", "Normal")
    assert read.normal_classes == ("Normal",)
    assert "278.mat" in notes, "of the fan end"
    assert "known bearings of Case Western bearings: 8 files" in read.source
    assert "Each class is one bearing, the same in all its files" in text
    assert "known bearings: B007, IR007, IR014, IR028, Normal." in text
    assert np.bincount(read.labels).tolist() == [8, 24, 8, 8, 16], "48 kHz became 12 kHz"
    assert set(read.groups[read.labels == 0]) == {"118/block00", "118/block01"}
    row = read.origins.tolist().index("3001.mat:0")
    assert np.array_equal(read.signals[row], np.float32(noise(400, "3001DE")[:50]))
    assert "Normal at 48000 Hz" in text
    read, text, _ = prepare("cwru", "--sample-rate", 48_000, *WINDOW, "--classes", "Normal,IR007")
    assert "Left out 2 recordings at a lower rate than 48000 Hz: 105.mat (12000 Hz)" in text
    row = read.origins.tolist().index("99.mat:0")
    assert np.array_equal(read.signals[row], np.float32(noise(1600, "99DE")[:50]))


def test_mimii(prepare):
    read, _, _ = prepare("mimii")
    assert read.class_names == ("abnormal", "normal")
    assert read.normal_classes == ("normal",)
    assert set(read.groups) == {"id_00", "id_02", "id_04", "id_06"}
    assert (read.part, read.sample_rate) == (Part("windows", RATE), RATE)
    assert len(read) == 2 * len(set(read.wholes)) == 2 * 2 * 4 * 2 * 2
    split(read, validation=1 / 4, test=1 / 4)
    assert "machines of MIMII: 32 files, windows of 800 samples" in read.source


def test_mimii_with_several_machine_types(prepare, tmp_path):
    mimii(tmp_path / "all", ("fan", "valve"), ("00",))
    with pytest.raises(DataError, match=r"machine types fan, valve; .* such as --machine fan"):
        prepare("mimii", folder=tmp_path / "all")
    with pytest.raises(DataError, match=r"No machine type is 'van'; the nearest name is fan"):
        prepare("mimii", "--machine", "van", folder=tmp_path / "all")
    read, text, _ = prepare("mimii", "--machine", "valve", "--known", folder=tmp_path / "all")
    assert "known machines of MIMII (valve)" in read.source
    assert "may be in all parts of a split" in text
    assert set(read.groups) == {f"valve/id_00/{label}/{i:08d}"
                                for label in ("normal", "abnormal") for i in (0, 1)}  # fmt: skip


def test_dcase(prepare, tmp_path):
    dcase(tmp_path / "dcase")
    read, _, _ = prepare("dcase", folder=tmp_path / "dcase" / "fan")
    assert read.class_names == ("anomaly", "normal")
    assert set(read.groups) == {"id_00", "id_02"}
    assert len(set(read.wholes)) == 10
    read, _, _ = prepare("dcase", "--only", "test", folder=tmp_path / "dcase" / "fan")
    assert {name.split("/")[0] for name in read.wholes} == {"test"}
    read, _, _ = prepare("dcase", "--only", "train", folder=tmp_path / "dcase" / "fan")
    assert read.class_names == ("normal",)  # enough for a training on good parts
    read, text, _ = prepare("dcase", "--machine", "ToyCar", folder=tmp_path / "dcase")
    assert set(read.groups) == {"section_00"}
    assert len(set(read.wholes)) == 6
    assert np.sum(read.labels == UNLABELLED) == 2
    assert "has 1 machine, and the usual split of hfld train needs 5 groups" in text
    with pytest.raises(DataError, match="for DCASE task 2 it must be one of train, test"):
        prepare("dcase", "--only", "training", folder=tmp_path / "dcase" / "fan")


def test_esc50(prepare, tmp_path):
    read, _, _ = prepare("esc50")
    assert read.class_names == ("dog", "rain")
    assert set(read.groups) == {f"fold {i}" for i in range(1, 6)}
    assert (read.part, len(read)) == (Part("whole", 5 * RATE, pad=True), 20)
    assert len(set(read.groups[split(read).test])) == 1
    known, _, _ = prepare("esc50", "--known", folder=tmp_path / "esc50")
    assert len(set(known.groups)) == 10, "pieces of one recording stay together"
    (tmp_path / "esc50" / "meta" / "esc50.csv").write_text("name,class\n")
    with pytest.raises(DataError, match=r"esc50.csv: lacks a column; expected filename, fold, cat"):
        prepare("esc50", folder=tmp_path / "esc50")


def test_speech(prepare, tmp_path):
    read, _, notes = prepare("speech")
    assert read.class_names == ("no", "stop", "yes")
    assert set(read.groups) == {f"0a1b2c{i:02d}" for i in range(6)}
    assert (read.part, len(read)) == (Part("first", RATE, pad=True), 18)
    assert "1 in _background_noise_ (white_noise.wav)" in notes
    assert "README.md" in notes
    assert "testing_list.txt" not in notes
    split(read)
    folder = tmp_path / "speech"
    read, _, _ = prepare("speech", "--only", "testing", folder=folder)
    assert read.origins.tolist() == ["no/0a1b2c00_nohash_0.wav:0", "yes/0a1b2c00_nohash_0.wav:0"]
    read, _, _ = prepare("speech", "--only", "training", "--classes", "yes,no", folder=folder)
    assert len(read) == 12 - 3
    with pytest.raises(DataError, match=r"No class is 'yess'; the nearest name is yes"):
        prepare("speech", "--classes", "no,yess", folder=folder)
    (folder / "testing_list.txt").unlink()
    with pytest.raises(DataError, match=r"lacks testing_list.txt; leave out --only"):
        prepare("speech", "--only", "testing", folder=folder)


def test_silent_and_damaged_files_are_named(prepare, tmp_path):
    speech(folder := tmp_path / "speech")
    soundfile.write(folder / "yes" / "0a1b2c03_nohash_0.wav", np.zeros(RATE), RATE)
    read, text, _ = prepare("speech", folder=folder)
    assert len(read) == 17
    assert "0a1b2c03_nohash_0.wav: is constant (silent)" in text
    (folder / "no" / "0a1b2c04_nohash_0.wav").write_bytes(b"RIFF")
    (folder / "stop" / "0a1b2c05_nohash_0.wav").write_text("x")
    with pytest.raises(DataError, match="2 of 18 files cannot be read"):
        prepare("speech", "--classes", "yes,no,stop", folder=folder)


@pytest.mark.parametrize("name", SETS)
def test_the_command_that_hfld_train_names_prepares_the_folder(name, prepare, tmp_path):
    MAKERS[name](folder := tmp_path / name)
    with pytest.raises(DataError) as caught:
        read_folder(folder)
    text = str(caught.value)
    assert f"holds the data set {SETS[name].title} as it is published" in text
    words = shlex.split(re.search(r"prepare it with: (.*?)( \(or .*\))?\.$", text)[1])
    assert words[:2] == ["python", "data_scripts/prepare_public.py"]
    assert words[3:5] == [str(folder), "--out"]
    extra = () if name not in ("mfpt", "paderborn", "cwru") else (*WINDOW, "--blocks", 2)
    assert len(prepare(words[2], *words[6:], *extra, folder=folder)[0])


@pytest.mark.parametrize("name", SETS)
def test_help_names_the_licence_and_the_origin(name, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    app = importlib.import_module("prepare_public").app
    text = " ".join(CliRunner().invoke(app, ["--help"], terminal_width=200).stdout.split())
    for words in (SETS[name].title, SETS[name].origin, SETS[name].licence):
        assert words.split(", ")[0] in text


def test_other_folders_are_read_as_before(tmp_path):
    for machine in ("id_00", "id_02"):  # one machine of MIMII: two classes in folders
        for label in ("normal", "abnormal"):
            sound(tmp_path / machine / label / "00000000.wav")
    assert read_folder(tmp_path / "id_00").class_names == ("normal", "abnormal")
    speech(tmp_path / "words")
    with pytest.warns(UserWarning, match="left out"):  # by a run of an earlier version
        assert len(read_folder(tmp_path / "words", again=True)) > 18
    options = {"group_pattern": "^([0-9a-z]+)_"}
    with pytest.warns(UserWarning, match="left out"):
        assert len(read_folder(tmp_path / "words", **options)) > 18
    (tmp_path / "words" / "manifest.csv").write_text(
        "file,label\nyes/0a1b2c00_nohash_0.wav,a\nno/0a1b2c00_nohash_0.wav,b\n"
    )
    with pytest.warns(UserWarning, match="the manifest lacks"):
        assert len(read_folder(tmp_path / "words")) == 2
    for name in ("101", "102"):
        mat(tmp_path / "mine" / f"{name}.mat", {"DE_time": noise(100)[None]})
    with pytest.raises(DataError, match="the name does not contain the class"):
        read_folder(tmp_path / "mine", window=20)


def test_a_file_of_structs_is_read_for_a_trained_network(tmp_path):
    measured(path := tmp_path / "N15_M07_F10_KA01_1.mat")
    cuts = read_cuts(path, sample_rate=64_000, part=Part("windows", 50), hop=50)
    assert len(cuts) == 6
    assert np.array_equal(
        cuts[0].signals[0], noise(300, f"{path.stem}vibration_1")[:50].astype("f")
    )
    with pytest.raises(DataError, match="is at 64000 Hz; expected 12000 Hz"):
        read_cuts(path, sample_rate=12_000, part=Part("windows", 50), hop=50)


@pytest.mark.parametrize("compressed", [True, False])
def test_damaged_structs_are_refused_in_a_sentence(compressed, tmp_path):
    measured(tmp_path / "p.mat", compressed=compressed)
    content = {"bearing": {"sr": 97_656, "gs": noise(50)}}
    mat(tmp_path / "m.mat", content, compressed)
    rng = np.random.default_rng(0)
    for name in ("p.mat", "m.mat"):
        whole = np.frombuffer((tmp_path / name).read_bytes(), np.uint8)
        refused = 0
        for _ in range(60):
            broken = whole.copy()
            broken[rng.integers(124, len(broken), 3)] = rng.integers(0, 256, 3)
            (tmp_path / "broken.mat").write_bytes(broken.tobytes()[: rng.integers(100, len(whole))])
            try:
                struct_signal(tmp_path / "broken.mat")
            except DataError:
                refused += 1
        assert refused > 20


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (struct.pack("<II", 9, 400), struct.pack("<II", 27, 400), "data of the types \\[27\\]"),
        (struct.pack("<II", 9, 400), struct.pack("<II", 9, 1 << 30), "claims 1073741824 bytes"),
        # the dimensions of the struct: two of them are claimed, or a million
        (struct.pack("<IIii", 5, 8, 1, 1), struct.pack("<IIii", 5, 8, 1, 2), "4 matrices are"),
        (struct.pack("<IIii", 5, 8, 1, 1), struct.pack("<IIii", 5, 8, 1000, 1000), "2000000 matr"),
    ],
    ids=("unknown type", "too long", "more structs", "a million structs"),
)
def test_tags_in_a_struct_are_checked_before_scipy_believes_them(old, new, words, tmp_path):
    mat(path := tmp_path / "m.mat", {"bearing": {"gs": noise(50), "sr": 97_656}}, compressed=False)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    with pytest.raises(ValueError, match=words):
        check_struct(path, "bearing")
    with pytest.raises(DataError, match=words):
        struct_signal(path)


def test_structs_of_other_kinds(tmp_path):
    mat(path := tmp_path / "a.mat", {"s": {"sr": "fast", "gs": noise(9)}})
    with pytest.raises(DataError, match="'s' has the sample rate 'fast'; expected a number of Hz"):
        struct_signal(path)
    mat(path, {"s": {"sr": 100, "gs": noise(9).reshape(3, 3)}})
    with pytest.raises(DataError, match=r"shape \(3, 3\); expected a vector"):
        struct_signal(path)
    for content in ({"s": {"x": 1.0}}, {"x": noise(9)}, {"a": {"gs": 1.0}, "b": {"gs": 1.0}}):
        mat(path, content)
        assert struct_signal(path) is None
