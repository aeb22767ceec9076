"""The page of a run: what it shows, from what it is made, and that it can be made again."""

import base64
import json
import re
import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from matplotlib.image import imread

from hfld_lite.app.cli_report import report, reported
from hfld_lite.app.compared import Comparison
from hfld_lite.app.display import baselines_table, display_table
from hfld_lite.app.figures import confusions, spectra
from hfld_lite.app.report import report_run, write_report
from hfld_lite.app.runs import load_run, save_run, with_known_costs
from hfld_lite.app.tables import read_results
from hfld_lite.app.unfinished import new_run

BASELINE = {
    "baseline": "forest",
    "input": "64 log-mel bands",
    "validation_accuracy": np.nan,
    "accuracy": 0.875,
    "low": 0.75,
    "high": 0.95,
    "miss_rate": 0.125,
    "false_alarm_rate": 0.25,
    "macro_recall": 0.85,
    "seconds": 1.0,
}
BESIDE = Comparison(pd.DataFrame([BASELINE]), "Forest on 64 log-mel bands is as good as <it>.")


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_chain, tiny_recordings):
    folder = tmp_path_factory.mktemp("report") / "run"
    tiny_recordings.save(folder.parent / "data")
    noted = replace(tiny_recordings, notes=("3 of <80> files are odd.",))
    with new_run(folder) as part:
        origin = {"folder": str(folder.parent / "data"), "options": {}}
        result = with_known_costs(
            tiny_chain.test(tiny_recordings), tiny_chain.detector, tiny_recordings
        )
        command = "hfld train --out '<x>'"
        save_run(part, tiny_chain, result, noted, origin, command, ("forest",))
    BESIDE.save(folder)
    return folder


@pytest.fixture(scope="module")
def page(run, tiny_recordings):
    write_report(load_run(run), tiny_recordings, BESIDE)
    return run, (run / "report.html").read_text(), read_results(run)


@pytest.fixture
def copied(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "run"))


def test_page_is_self_contained_and_says_simulated(page):
    _, text, _ = page
    assert not re.search(r"(src|href)=[\"'](?!data:)", text), "nothing is fetched"
    assert "<script" not in text
    assert "Simulated data." in text
    assert "&lt;x&gt;" in text, "what users give is escaped"


def test_page_shows_what_looks_wrong_in_the_data(page):
    _, text, _ = page
    assert re.findall(r"<h2>What looks wrong in the data</h2>\n<ul><li>(.*)</li></ul>", text) == [
        "3 of &lt;80&gt; files are odd."
    ]


def test_page_holds_every_cell_of_the_table(page):
    _, text, table = page
    cells = display_table(table).to_numpy().ravel()
    assert len(cells) == 4 * 9
    for cell in cells:
        assert f"<td>{cell}</td>" in text


def test_page_shows_the_baselines_and_the_sentence(page, copied, tiny_recordings):
    _, text, _ = page
    cells = list(baselines_table(BESIDE.table).iloc[0])
    assert cells == [
        *("forest", "64 log-mel bands", "–", "87.5 % (75.0 to 95.0)", "12.5 %", "25.0 %", "85.0 %"),
    ]
    for cell in cells:
        assert f"<td>{cell}</td>" in text
    assert "is as good as &lt;it&gt;." in text
    write_report(load_run(copied), tiny_recordings)
    assert "Simple baselines" in text
    assert "Simple baselines" not in (copied / "report.html").read_text()


def test_a_report_is_made_again_from_the_folder_alone(page, copied, tiny_recordings):
    _, text, _ = page
    shutil.rmtree(copied / "figures")
    (copied / "report.html").unlink()
    assert report_run(copied, load_run(copied).recordings()).sentence == BESIDE.sentence
    assert (copied / "report.html").read_text() == text, "to the last byte of the pictures"
    report_run(copied)
    found = (copied / "report.html").read_text()
    assert "picture of what the networks read is left out" in found
    assert found.count("<img") == text.count("<img") - 1


def test_baselines_that_are_missing_are_fitted_with_the_report(copied, tiny_recordings, capsys):
    (copied / "baselines.csv").unlink()
    assert report_run(copied) is None, "there is nothing to fit them on"
    found = report_run(copied, tiny_recordings)
    assert set(found.table["baseline"]) == {"forest"}
    assert "Simple baselines" in (copied / "report.html").read_text()
    assert "baselines: forest" in capsys.readouterr().out


def test_an_earlier_report_survives_one_that_fails(copied, tiny_recordings, monkeypatch, capsys):
    (copied / "report.html").write_text("the earlier one")

    def fail(*_, **__):
        raise ValueError("matplotlib has\nchanged")

    monkeypatch.setattr("hfld_lite.app.report.curves", fail)
    assert not reported(copied, tiny_recordings)
    said = capsys.readouterr().err
    assert said == (
        f"hfld: {copied}: the report failed (ValueError: matplotlib has); the run is finished and "
        f"safe; make the report again with: hfld report {copied}\n"
    )
    assert (copied / "report.html").read_text() == "the earlier one"
    monkeypatch.undo()
    monkeypatch.setattr("hfld_lite.app.report.write_whole", lambda *_: fail())
    assert not reported(copied, tiny_recordings)
    assert (copied / "report.html").read_text() == "the earlier one"
    assert load_run(copied).detector.networks


def test_the_command_makes_a_report_where_the_recordings_are_gone(
    copied, tmp_path, monkeypatch, capsys
):
    moved = shutil.copytree(
        copied.parent.parent / load_run(copied).facts["data"]["folder"], tmp_path / "moved"
    )
    facts = json.loads((copied / "run.json").read_text())
    facts["data"]["folder"] = str(tmp_path / "gone")
    shutil.rmtree(copied / "figures", ignore_errors=True)
    (copied / "run.json").write_text(json.dumps(facts))
    with pytest.warns(
        UserWarning, match=r"left out.*gone: is not there; .*where they are now with --data"
    ):
        report(copied)
    assert "spectra" not in {path.stem for path in (copied / "figures").iterdir()}
    report(copied, moved)
    assert "spectra" in {path.stem for path in (copied / "figures").iterdir()}
    (copied / "history.csv").unlink()
    with pytest.raises(typer.Exit):
        report(copied, moved)
    assert "history.csv is missing" in capsys.readouterr().err


def test_pictures_are_the_files_have_alternative_text_and_show_something(page):
    folder, text, _ = page
    found = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]*)"', text)
    files = {path.read_bytes() for path in (folder / "figures").iterdir()}
    assert {base64.b64decode(data) for data, _ in found} == files
    assert len(found) == 4
    for data, alt in found:
        assert len(alt) > 40
        pixels = imread(BytesIO(base64.b64decode(data)))
        assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 20


def test_display_table_formats_units_and_shows_balanced_accuracy():
    row = {
        "role": "secondary_teacher",
        "network": "n",
        "parameters": 12100,
        "macs": 1_714_728,
        "size_kb": 50.1,
        "latency_ms": 0.678,  # in a run of hfld_lite 0.2.0; it is not shown
        "accuracy": 0.9583,
        "low": 0.937,
        "high": 0.973,
        "miss_rate": 0.021,
        "false_alarm_rate": 0.032,
        "macro_recall": 0.95,
    }
    cells = display_table(pd.DataFrame([row])).iloc[0]
    assert list(cells) == [
        "secondary teacher",
        "n",
        "12,100",
        "1.71 M",
        "50",
        "95.8 % (93.7 to 97.3)",
        "2.1 %",
        "3.2 %",
        "95.0 %",
    ]
    bearings = display_table(pd.DataFrame([row | {"miss_rate": None, "false_alarm_rate": None}]))
    assert bearings["balanced accuracy"][0] == "95.0 %"
    assert "miss rate" not in bearings
    bare = pd.DataFrame([row]).drop(columns=["macs", "size_kb", "latency_ms"])
    assert list(display_table(bare).iloc[0]) == [*cells[:3], *cells[5:]]


def test_confusions_print_every_count_once():
    counts = np.array([[7, 2], [0, 11]])
    figure = confusions({"student": counts, "teacher": counts, "x": counts}, ["N", "D"])
    assert len(figure.axes) == 3
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert sorted(texts) == ["11", "2", "7"]
    assert "2 of 20 wrong" in figure.axes[0].get_title()


def test_spectra_axis_is_in_khz():
    inputs, labels = np.random.default_rng(0).random((6, 350)), np.array([0, 0, 1, 1, 2, 2])
    figure = spectra(inputs, labels, ["a", "b", "c"], hertz=57.1)
    assert len(figure.axes) == 3
    line = figure.axes[0].lines[0]
    assert line.get_xdata()[-1] == pytest.approx(349 * 57.1 / 1000)
    np.testing.assert_allclose(line.get_ydata(), inputs[:2].mean(0))
