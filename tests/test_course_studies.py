"""The studies' tables in the words of the notebooks."""

import pandas as pd
import pytest

from hfld_lite.course.results import stored_table
from hfld_lite.course.studies import in_points, in_words


def test_differences_are_in_points_with_their_interval():
    rows = pd.DataFrame(
        {"against_kd": [0.0136, None], "low_kd": [-0.0028, None], "high_kd": [0.0244, None]},
        index=[4, 7],
    )
    assert in_points(rows, "kd").to_dict() == {4: "+1.4 (-0.3 to +2.4)", 7: ""}
    verdict = pd.DataFrame({"difference": [-0.005], "low": [-0.01], "high": [0.002]})
    assert in_points(verdict, "").tolist() == ["-0.5 (-1.0 to +0.2)"]


@pytest.mark.parametrize("name", ["study.csv", "study_verdicts.csv", "second_study.csv"])
def test_every_method_and_data_of_the_study_has_a_name(name):
    named = in_words(stored_table(name))
    for column in ("data", "method", "better", "than"):
        if column in named:
            assert not named[column].str.contains("_| unseen").any()
