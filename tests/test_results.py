"""The tables that notebooks read: stored once, and found from any folder."""

import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest

import hfld_lite
from hfld_lite import ArgumentError
from hfld_lite.course import start
from hfld_lite.course.results import stored_table
from hfld_lite.version import __version__

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted(ROOT.glob("notebooks/**/*.ipynb"))


def test_a_stored_table_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = stored_table("study.csv")
    path = Path(hfld_lite.__file__).parent / "results" / "study.csv"
    pd.testing.assert_frame_equal(table, pd.read_csv(path, comment="#"))
    assert {"data", "method", "accuracy"} <= set(table.columns)


@pytest.mark.parametrize("name", ["stud.csv", "README.md", "../version.py"])
def test_a_table_that_is_not_there_names_the_nearest(name):
    with pytest.raises(ArgumentError, match=r"There is no stored table '.*'; "):
        stored_table(name)


def test_notebooks_read_no_file_of_their_folder_and_only_tables_that_are_there():
    read = set()
    for path in NOTEBOOKS:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r'read_csv\(\\"(?!http)[\w/.]+\\"', text), path.name
        read |= set(re.findall(r'stored_table\(\\"(.+?)\\"', text))
    assert read, "nothing is read, so that nothing is tested"
    for name in read:
        assert len(stored_table(name))


def test_another_version_warns_and_the_notebook_continues(capsys):
    start(__version__)
    assert f"hfld_lite {__version__}, torch" in capsys.readouterr().out
    with pytest.warns(UserWarning, match=r"written for hfld_lite 0\.0\.1, and .* is installed"):
        start("0.0.1")
    assert f"hfld_lite {__version__}, torch" in capsys.readouterr().out


INSTALL = """import importlib.util

if importlib.util.find_spec("hfld_lite") is None:  # on Colab, for example
    get_ipython().run_line_magic("pip", "install --quiet hfld_lite")"""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_notebook_installs_only_where_the_package_is_missing(path):
    cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    for place, cell in enumerate(cells):
        if "find_spec" in cell.source or "pip" in cell.source.split('"'):
            assert cell.source == INSTALL
            assert place == 0
            assert "remove-cell" in cell.metadata["tags"]
        for version in re.findall(r'^start\("(.+?)"\)', cell.source, re.M):
            assert version == __version__
