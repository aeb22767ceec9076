"""Tables in notebooks: one for eyes, with words that a screen reader finds."""

import xml.etree.ElementTree as ElementTree

import pandas as pd

from hfld_lite.course import tables


def test_a_table_names_its_rows_columns_and_subject(monkeypatch):
    table = pd.DataFrame({"way": ["a < b", "naive"], "accuracy, %": ["93.8", "48.3"]}, index=[7, 8])
    shown = []
    monkeypatch.setattr(tables, "display", shown.append)
    tables.show_table(table, 'Ways & "means"')
    page = ElementTree.fromstring(shown[0].data)
    assert page.findtext(".//caption") == page.get("aria-label") == 'Ways & "means"'
    assert [cell.text for cell in page.iter("th")] == ["way", "accuracy, %", "a < b", "naive"]
    assert [cell.get("scope") for cell in page.iter("th")] == ["col", "col", "row", "row"]
    assert [cell.text for cell in page.iter("td")] == ["93.8", "48.3"]
    assert "overflow-x:auto" in page.get("style"), "a wide table scrolls by itself on a phone"
