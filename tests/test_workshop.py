"""From a folder of sound files to a device's file: each step, and the widget without a browser."""

import csv
import re
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from hfld_lite import ArgumentError, DataError, read_wav_folder, simulate_tiles
from hfld_lite.app.runs import load_run
from hfld_lite.course import monitor as monitor_module
from hfld_lite.course import workshop
from hfld_lite.course.workshop import (
    Workshop,
    check_folder,
    folder_beside,
    in_words,
    write_wav_folder,
)
from hfld_lite.storage.files import portable_name


@pytest.fixture(scope="module")
def sounds():
    """Enough to calibrate eight bits with."""
    return simulate_tiles("AB", tiles_per_class=12, drops=2, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, sounds):
    return write_wav_folder(sounds, tmp_path_factory.mktemp("sounds") / "tiles")


@pytest.fixture
def shop(folder, tiny_recipe, tmp_path, monkeypatch):
    """A workshop of the tiny chain; what it trains is ended with the test."""
    monkeypatch.setattr(monitor_module, "_known", {})
    made = Workshop(folder, tmp_path / "out", tiny_recipe)
    yield made
    for live in monitor_module._known.values():
        live.stop()
        live._thread.join(60)


def test_what_was_written_is_read_with_its_groups(folder, sounds):
    read = read_wav_folder(folder)
    assert read.class_names == sounds.class_names
    assert read.normal_classes == sounds.normal_classes
    assert read.sample_rate == sounds.sample_rate
    assert read.labels.tolist() == sounds.labels.tolist()
    assert read.groups.tolist() == sounds.groups.tolist()
    scale = 0.9 / np.abs(sounds.signals).max()
    assert np.abs(read.signals - scale * sounds.signals).max() < 1 / 2**15


def test_classes_of_any_name_lie_in_folders_that_every_system_can_hold(sounds, tmp_path):
    names = ("AUX", "../a: b", 'so, "so".', "ok")[: len(sounds.class_names)]
    named = replace(sounds, class_names=names, normal_classes=names[:1])
    folder = write_wav_folder(named, tmp_path / "x")
    assert {path.name for path in tmp_path.iterdir()} == {"x"}
    for path in folder.rglob("*"):
        assert path.name == portable_name(path.name)
    read = read_wav_folder(folder, normal=[names[0]])
    assert [read.class_names[i] for i in read.labels] == [names[i] for i in named.labels]


def test_a_folder_that_holds_something_is_left_alone(folder, sounds, tmp_path):
    with pytest.raises(DataError, match="new or empty"):
        write_wav_folder(sounds, folder)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        write_wav_folder(sounds, tmp_path / "file" / "tiles")


def test_a_check_reads_splits_and_tries_the_recipe(folder, tiny_recipe):
    checked = check_folder(folder, tiny_recipe)
    assert checked.words.startswith("96 recordings of 48 parts, 7000 samples at 40000 Hz")
    assert checked.notes == ()
    assert not {*checked.recordings.groups[checked.parts.train]} & {
        *checked.recordings.groups[checked.parts.test]
    }
    with pytest.raises(ArgumentError, match="bins is 5000"):
        check_folder(folder, tiny_recipe.replace(bins=5000))


def test_a_check_says_where_groups_and_normal_classes_are_missing(tmp_path, tiny_recipe):
    rng = np.random.default_rng(0)
    for name in ("red", "blue"):
        (tmp_path / name).mkdir()
        for number in range(8):
            soundfile.write(tmp_path / name / f"{number}.wav", rng.normal(0, 0.1, 2000), 8000)
    (tmp_path / "red" / "notes.txt").touch()
    notes = " ".join(check_folder(tmp_path, tiny_recipe).notes)
    assert "name the parts in the manifest's column group" in notes
    assert "no misses and no false alarms" in notes
    assert "notes.txt" in notes, "what is left out is told"
    assert "an export in eight bits needs 50" in notes
    assert "With two classes the term NCKD" in notes


def test_the_buttons_lead_from_a_folder_to_a_program_that_answers(
    shop, sounds, tiny_recipe, tmp_path
):
    (tmp_path / "out" / "run").mkdir(parents=True)  # another folder's was exported before
    folder = write_wav_folder(sounds, tmp_path / "tiles")
    shop.fields["folder"].value = str(folder)
    assert [button.disabled for button in shop.buttons.values()] == [False, True, True]
    shop.buttons["Check"].click()
    assert shop.alt.startswith("Checked. 96 recordings of 48 parts")
    assert 'alt="Mean spectrum of each class' in shop.picture.value
    began = time.monotonic()
    shop.buttons["Train"].click()
    assert time.monotonic() - began < 5
    assert shop.training.children == (shop.live,)
    result = shop.wait(60)
    assert shop.alt == f"Tested. {in_words(result)}"
    assert 'alt="Confusion matrices of all networks' in shop.picture.value
    assert shop._repr_mimebundle_()["text/html"] == shop.status.value + shop.picture.value
    shop.buttons["Export"].click()
    assert shop.alt.startswith("Exported. student.onnx has")
    out = tmp_path / "tiles-detector"
    run = load_run(out / "run")
    assert run.recordings().fingerprint() == shop.checked.recordings.fingerprint()
    assert (out / "run" / "report.html").is_file()
    some = sorted(folder.glob("AN/*.wav"))[0]
    said = subprocess.run(
        [sys.executable, out / "device" / "predict.py", some], capture_output=True, text=True
    )
    assert re.match(r".*AN_00\.wav: (sound|defective|unsure) \(", said.stdout), said.stderr
    again = Workshop(folder, out, tiny_recipe)  # its cell is run again
    again.check()
    assert again.train() is shop.live
    assert again.wait(60).table["accuracy"].tolist() == result.table["accuracy"].tolist()
    with pytest.raises(ArgumentError, match="type a new folder, such as tiles-detector-2"):
        again.export_files()


def test_what_is_wrong_is_said_in_a_sentence_and_nothing_is_lost(shop, folder, sounds, tmp_path):
    with pytest.raises(ArgumentError, match="press Check"):
        shop.train()
    with pytest.raises(ArgumentError, match="press Train"):
        shop.export_files()
    with pytest.raises(ArgumentError, match="press Train"):
        shop.wait()
    shop.check()
    shop.train()
    result = shop.wait(60)
    (tmp_path / "out" / "run").mkdir(parents=True)
    (tmp_path / "out" / "run" / "mine.txt").touch()
    shop.buttons["Export"].click()
    assert shop.alt.startswith("Not done. ")
    assert "has a folder 'run' already, which is kept" in shop.alt
    assert "fresh" not in shop.alt
    assert shop.result is result
    assert not shop.buttons["Export"].disabled
    shop.fields["out"].value = str(tmp_path / "elsewhere")
    assert shop.export_files().model.is_file()
    assert shop.export_files().model.is_file(), "once more, into the same run"
    broken = write_wav_folder(sounds, tmp_path / "broken")
    path = broken / "BN" / "BN_49.wav"
    path.write_bytes(path.read_bytes()[:6000])
    shop.fields["folder"].value = str(broken)
    assert shop.result is None, "nothing of another folder is shown as this one's"
    assert shop.buttons["Train"].disabled
    shop.buttons["Check"].click()
    assert shop.alt.startswith("Not done. ")
    assert "BN_49.wav: is damaged" in shop.alt
    assert shop.alt.count(". ") < 3
    shop.fields["folder"].value = str(folder)
    shop.check()
    shop.train()
    assert shop.result is not None, "the finished training of this folder is there still"


def test_another_folder_is_exported_beside_itself_unless_the_user_chose_a_place(shop, tmp_path):
    shop.fields["folder"].value = f' "{tmp_path / "mine"}" '  # as Windows copies a path
    assert shop.fields["out"].value == str(tmp_path / "mine-detector")
    (tmp_path / "mine-detector").mkdir()
    assert folder_beside(tmp_path / "mine") == tmp_path / "mine-detector-2"
    shop.fields["out"].value = str(tmp_path / "chosen")
    shop.fields["folder"].value = str(tmp_path / "other")
    assert shop.fields["out"].value == str(tmp_path / "chosen")


def test_the_names_of_files_say_which_part_they_come_from(shop, tmp_path, sounds):
    folder = write_wav_folder(sounds, tmp_path / "tiles")
    for row, group in enumerate(sounds.groups):
        (path,) = folder.glob(f"*/*_{row:02}.wav")
        path.rename(path.with_name(f"{group}_drop{row}.wav"))
    (folder / "manifest.csv").unlink()
    shop.fields["folder"].value = str(folder)
    shop.buttons["Check"].click()
    assert "96 recordings of 96 parts" in shop.alt
    assert "by a pattern of the file names" in shop.alt
    shop.fields["pattern"].value = "(.*)_drop"
    assert shop.checked is None
    shop.buttons["Check"].click()
    assert "96 recordings of 48 parts" in shop.alt, shop.alt
    assert shop._options() == {"group_pattern": "(.*)_drop"}, "kept in the run, to read it again"
    shop.fields["pattern"].value = "tile"
    shop.buttons["Check"].click()
    assert shop.alt.startswith("Not done. group_pattern 'tile' must have exactly one group")


def test_a_button_shows_every_error(shop, monkeypatch):
    monkeypatch.setattr(workshop, "check_folder", lambda *_, **__: 1 / 0)
    shop.buttons["Check"].click()
    assert shop.alt == "Not done. Unexpected error, ZeroDivisionError: division by zero"
    assert isinstance(shop.error, ZeroDivisionError)


def test_every_control_has_a_visible_label(shop):
    labels = [field.description for field in shop.fields.values()]
    assert labels == ["folder of recordings", "part in the file name", "write to"]
    assert all(button.description and button.tooltip for button in shop.buttons.values())


def test_options_reach_the_reader(tmp_path, tiny_recipe):
    made = simulate_tiles("A", tiles_per_class=10, drops=2, seed=4)
    folder = write_wav_folder(made, tmp_path / "tiles")
    with (folder / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["group"] for row in rows} == {*made.groups}
    assert check_folder(folder, tiny_recipe, samples=4000).recordings.samples == 4000
    with pytest.raises(ArgumentError, match="no option 'sample'"):
        check_folder(folder, tiny_recipe, sample=4000)


def test_a_folder_of_good_parts_alone_gives_a_detector(tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(monitor_module, "_known", {})
    tiles = simulate_tiles("A", tiles_per_class=36, drops=1, seed=4)
    good = tiles.select(np.flatnonzero(tiles.labels == 0))
    folder = tmp_path / "tiles"
    for row, signal in enumerate(good.signals):
        (folder / "good").mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / "good" / f"{row}.wav", signal / 2, good.sample_rate)
    shop = Workshop(folder, tmp_path / "out", tiny_recipe)
    shop.buttons["Check"].click()
    assert shop.error is None, shop.alt
    assert "of good recordings are called defective" in shop.alt
    assert "misses are unknown" in shop.alt
    assert "alt=" in shop.picture.value
    shop.buttons["Train"].click()
    shop.wait(120)
    assert "called defective" in shop.alt
    assert "is unknown, since there was none" in shop.alt
    shop.buttons["Export"].click()
    assert shop.error is None, shop.alt
    assert load_run(shop.run.folder).promise
    assert (tmp_path / "out" / "device" / "spectrum.onnx").exists()


def test_a_class_of_good_parts_leaves_the_others_for_the_test(folder, tiny_recipe):
    with pytest.raises(DataError, match="12 good groups"):
        check_folder(folder, tiny_recipe, good="AN")
    with pytest.raises(ArgumentError, match="no class is named 'XN'"):
        check_folder(folder, tiny_recipe, good="XN")
