"""What nbval does not see: notebooks that check nothing, or whose pictures are lost."""

import ast
import importlib
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbval.plugin import find_metadata_tags

import hfld_lite
from hfld_lite.course.exercises import exercise

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
BUILT = FOLDER / "06_build_the_chain.ipynb"
"""The notebook that builds the method; its lines have the tag ``hflkd``, wherever they stand."""
COMPARED = "nbval-check-output"
"""A cell with this tag prints what it printed when it was stored, or nbval fails."""

CHECK = "remove-cell"
"""A cell with this tag asserts something; JupyterLab collapses it and the book leaves it out."""

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == kind]


def tags(cell):
    return cell.metadata.get("tags", [])


def prose(path):
    return "\n".join(cell.source for cell in cells(path, "markdown"))


def pictures(path):
    """Every HTML or PNG output that holds a picture."""
    for cell in cells(path, "code"):
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data or "<img" in data.get("text/html", ""):
                yield data


def test_is_stored_executed_from_top_to_bottom_without_errors(path):
    code = cells(path, "code")
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(o.output_type == "error" for cell in code for o in cell.outputs)
    assert not any(o.get("name") == "stderr" for cell in code for o in cell.outputs)


def test_is_small_and_has_no_widget_state(path):
    assert path.stat().st_size < 1_000_000
    assert "widgets" not in nbformat.read(path, 4).metadata


def asks(cell):
    """The numbers of the exercises whose checks this cell makes."""
    return re.findall(r"^check_(\d+) = exercise\(", cell.source, re.M)


def answers(cell):
    """The numbers of the exercises that a learner answers in this cell."""
    return re.findall(r"^check_(\d+)\(", cell.source, re.M)


def test_a_third_of_the_code_is_checked_and_every_compared_cell_has_an_output(path):
    code = [cell for cell in cells(path, "code") if not asks(cell) and not answers(cell)]
    compared = [cell for cell in code if COMPARED in tags(cell)]
    checks = [cell for cell in code if CHECK in tags(cell) and "assert " in cell.source]
    for cell in compared:
        assert dict(find_metadata_tags(cell.metadata)) == {"check": True}, "nbval reads it"
        assert cell.outputs, cell.source
    assert len(compared) + len(checks) >= len(code) / 3
    assert not any("raises-exception" in tags(cell) for cell in code)


def test_checks_stand_in_hidden_cells_and_not_in_what_learners_read(path):
    for cell in cells(path, "code"):
        if CHECK in tags(cell):
            # It asserts something, holds an exercise's answer, or installs a missing package.
            assert re.search(r"^ *assert |find_spec", cell.source, re.M) or asks(cell), cell.source
            assert cell.metadata.jupyter.source_hidden
            assert not cell.outputs, "the book leaves this cell out, and its output with it"
        else:
            assert "NBVAL" not in cell.source
            printed = "".join(output.get("text", "") for output in cell.outputs)
            assert not re.search(r": +(True|False)$", printed, re.M), printed


def test_every_section_has_an_exercise_whose_answer_is_hidden_and_behind_a_fold(path):
    all_cells, section, sections, found = nbformat.read(path, 4).cells, None, {}, []
    for index, cell in enumerate(all_cells):
        if cell.cell_type == "markdown":
            for heading in re.findall(r"^## (.*)", cell.source, re.M):
                section = heading if heading[0].isdigit() else None
                sections |= {section: False} if section else {}
        elif "explore_guess(" in cell.source:
            sections[section] = True  # it asks, answers and counts
        elif number := answers(cell):
            sections[section] = True
            found += number
            before, after = all_cells[index - 1], all_cells[index + 1]
            assert f"**Exercise {number[0]}.**" in before.source
            assert "exercise(" not in cell.source, "it shows the answer"
            assert "Not answered yet" in cell.outputs[0].text
            assert after.source.startswith(f"<details><summary>Answer to exercise {number[0]}<")
            hidden = next(c for c in all_cells[:index] if number == asks(c))
            assert CHECK in tags(hidden)
    assert found == [str(number) for number in range(1, len(found) + 1)]
    # Names that are used once: after all cells have run, each cell still has its own check.
    assert found == [number for cell in all_cells for number in asks(cell)]
    assert len(sections) > 4
    assert all(sections.values()), [name for name, has in sections.items() if not has]


def test_the_answer_behind_the_fold_is_right_and_a_named_mistake_is_not(path, capsys):
    all_cells, tried = nbformat.read(path, 4).cells, 0
    for index, cell in enumerate(all_cells):
        if cell.cell_type != "code" or not (number := answers(cell)):
            continue
        hidden = next(c for c in all_cells[:index] if c.cell_type == "code" and asks(c) == number)
        made = ast.parse(hidden.source).body[-1].value
        fold = re.search(r"`answer = (.+?)`", all_cells[index + 1].source)
        try:  # what does not depend on the notebook's own variables
            said = {of.arg: eval(ast.unparse(of.value), {}) for of in made.keywords}
            answer = fold and eval(fold[1], {"np": np})
        except NameError:
            continue
        if answer is None:
            continue
        tried += 1
        for value, word in (
            (answer, "Right"),
            *((m, "Not yet") for m in said.get("mistakes", {}).values()),
        ):
            exercise(**said)(value)
            assert capsys.readouterr().out.startswith(word), f"{hidden.source}\n{value}"
    assert tried >= 2


def test_no_line_is_a_comment_in_the_book(path):
    # MyST leaves out a line that begins with a percent sign, which JupyterLab shows.
    assert not re.findall(r"(?m)^\s*(?:%|\+\+\+).*", prose(path))


def test_begins_with_goals_minutes_and_the_librarys_version(path):
    first = cells(path, "markdown")[0].source
    assert re.match(rf"# {path.stem[:2]} ", first)
    assert "You will be able to" in first
    minutes = re.search(r"\*\*(\d) minutes?\*\*", first)
    assert minutes
    assert int(minutes[1]) <= 3
    start = next(cell for cell in cells(path, "code") if CHECK not in tags(cell)).source
    assert start == f'from hfld_lite.course import start\n\nstart("{hfld_lite.__version__}")'
    assert "## Takeaways" in prose(path)


def test_shows_pictures_and_says_what_they_show(path):
    found = list(pictures(path))
    assert found
    for data in found:
        assert "image/png" not in data, "a bare picture has no alternative text; use widgets.image"
        for image in re.findall(r"<img [^>]*>", data["text/html"]):
            assert len(re.search(r'alt="([^"]*)"', image)[1]) > 30


def test_has_a_widget_whose_picture_stands_in_static_pages(path):
    if path == BUILT:
        pytest.skip("it builds the method, with small exercises in place of a widget")
    views = [
        output.data
        for cell in cells(path, "code")
        for output in cell.outputs
        if "application/vnd.jupyter.widget-view+json" in output.get("data", {})
    ]
    assert any("<img" in data.get("text/html", "") for data in views)


def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", prose(path)):
        assert "://" not in link, "the course works offline"
        assert (FOLDER / link).exists(), link


def test_defines_nothing_that_the_library_has(path):
    public = set()
    for module in Path(hfld_lite.__file__).parent.rglob("*.py"):
        tree = ast.parse(module.read_text())
        kinds = ast.FunctionDef | ast.ClassDef
        public |= {node.name for node in tree.body if isinstance(node, kinds)}
    for cell in cells(path, "code"):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                assert node.name not in public


def test_imports_only_what_is_installed_and_used(path):
    source = "\n".join(cell.source for cell in cells(path, "code"))
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            for alias in node.names:
                known = hasattr(module, alias.name)
                assert known or importlib.import_module(f"{node.module}.{alias.name}")


def test_names_no_place_of_the_machine(path):
    text = path.read_text()
    assert str(ROOT) not in text
    assert "/tmp/" not in text


def hflkd(path):
    return [cell.source for cell in cells(path, "code") if "hflkd" in tags(cell)]


def test_the_method_takes_about_a_hundred_lines_and_a_learner_has_met_them(path):
    built = "\n\n\n".join(hflkd(BUILT))
    assert 90 < sum(bool(line.strip()) for line in built.splitlines()) < 130
    assert "hfld_lite" not in built, "the method is built of torch alone"
    assert hflkd(path) or path.stem[:2] not in ("02", "03", "04", "05")
    for source in hflkd(path):
        assert source in built, "this is not what is assembled in the end"
