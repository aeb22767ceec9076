"""Notebook 10's widget without a browser: what it computes, and that the picture follows it."""

import re
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from hfld_lite import preset
from hfld_lite.course import good_parts
from hfld_lite.course.good_parts import KINDS, SEVERITIES, at_promise, of_severity
from hfld_lite.errors import ArgumentError
from hfld_lite.evaluation.metrics import accuracy_interval
from hfld_lite.evaluation.scores import SCORES, Distance

PLAIN, OTHER = list(KINDS.values())[:2]


def table(good, defective, seed):
    """Scores of parts with two recordings each; a worse defect has a larger score."""
    rng = np.random.default_rng(seed)
    groups = [*(f"n{i:02d}" for i in range(good)), *(f"d{i:02d}" for i in range(defective))]
    severity = np.r_[np.full(good, np.nan), np.linspace(0.1, 0.3, defective)].repeat(2)
    bad = np.isfinite(severity)
    score = np.exp(rng.normal(size=2 * len(groups)) / 3 + np.where(bad, 10 * severity, 0) - 0.5)
    return pd.DataFrame(
        {
            "group": np.repeat(groups, 2),
            "defective": bad,
            "severity": severity,
            PLAIN: score,
            OTHER: score**2,
        }
    )


LIMIT_SETTING, HIDDEN = table(39, 0, 1), table(30, 30, 2)


def test_a_limit_and_its_rates_are_those_counted_by_hand():
    rates = at_promise(LIMIT_SETTING, HIDDEN, PLAIN, 1 / 40)
    assert rates.limit == LIMIT_SETTING[PLAIN].max(), "39 parts promise 1/40 by the largest score"
    good, bad = (HIDDEN[HIDDEN["defective"] == is_bad] for is_bad in (False, True))
    missed = bad[PLAIN] <= rates.limit
    assert rates.misses[0] == pytest.approx(missed.mean())
    assert rates.false_alarms[0] == pytest.approx((good[PLAIN] > rates.limit).mean())
    low, high = accuracy_interval(~missed.to_numpy(), bad["group"].to_numpy())
    assert rates.misses[1:] == pytest.approx((1 - high, 1 - low))
    assert 0 < rates.misses[1] < rates.misses[0] < rates.misses[2]


def test_a_larger_promise_lowers_the_limit_and_the_misses():
    few, many = (at_promise(LIMIT_SETTING, HIDDEN, PLAIN, share) for share in (0.05, 0.3))
    assert many.limit < few.limit
    assert many.misses[0] < few.misses[0]
    assert many.false_alarms[0] > few.false_alarms[0]
    with pytest.raises(ArgumentError, match="39 good groups can promise"):
        at_promise(LIMIT_SETTING, HIDDEN, PLAIN, 0.01)


def test_thirds_of_the_severities_are_disjoint_and_ordered():
    assert of_severity(HIDDEN, SEVERITIES[0]) is HIDDEN
    thirds = [of_severity(HIDDEN, which) for which in SEVERITIES[1:]]
    bad = [set(part[part["defective"]]["group"]) for part in thirds]
    assert [len(each) for each in bad] == [10, 10, 10]
    assert set.union(*bad) == set(HIDDEN[HIDDEN["defective"]]["group"])
    means = [part["severity"].mean() for part in thirds]
    assert means == sorted(means)
    assert all((~part["defective"]).sum() == 60 for part in thirds), "good ones stay"


def test_every_recording_has_each_score_of_the_librarys_networks():
    recipe = preset("classroom")
    networks = {}
    for number, (score, role) in enumerate(KINDS):
        assert role in SCORES[score].empty(recipe), (score, role)
        body = nn.Linear(2, 2)
        nn.init.constant_(body.weight, 0)
        nn.init.constant_(body.bias, number)
        networks.setdefault(score, {})[role] = Distance(body, 2)
    samples = SimpleNamespace(samples=lambda rows: SimpleNamespace(inputs=torch.ones(len(rows), 2)))
    found = SimpleNamespace(networks=networks, chain=SimpleNamespace(examples=samples))
    recordings = SimpleNamespace(groups=np.array(list("abcd")), labels=np.array([0, 0, 1, 0]))
    scores = good_parts.scored(found, recordings, np.array([1, 2]))
    assert scores["group"].tolist() == ["b", "c"]
    assert scores["defective"].tolist() == [False, True]
    assert [scores[name].tolist() for name in KINDS.values()] == [[i**2] * 2 for i in range(6)]


def test_the_picture_and_its_words_follow_every_control():
    explorer = good_parts.explore_promise(LIMIT_SETTING, HIDDEN)
    assert next(of[1] for of in explorer.controls["percent"].options) == 3, "1/40 is 2.5 %"
    assert all(control.description for control in explorer.controls.values())
    bundle = explorer._repr_mimebundle_()
    assert re.search(r'<img alt="[^"]{40,}" src="data:image/png;base64,', bundle["text/html"])
    for name, value in (("score", OTHER), ("percent", 20), ("severity", SEVERITIES[1])):
        picture, words = explorer.picture.value, explorer.alt
        explorer.controls[name].value = value
        assert explorer.alt != words, name
        assert explorer.picture.value != picture, name
    part = of_severity(HIDDEN, SEVERITIES[1])
    rates = at_promise(LIMIT_SETTING, part, OTHER, 0.2)
    assert f"promised false alarms 20 %: the limit is {rates.limit:.3g}." in explorer.alt
    low, high = rates.misses[1:]
    assert f"(the smallest third): {rates.misses[0]:.0%} ({low:.0%} to {high:.0%})" in explorer.alt


def test_a_line_stands_in_every_histogram_where_it_was_asked_for():
    figure = good_parts.histograms(
        {"good": np.array([1e-9, 1.0, 2.0]), "defective": np.array([3.0, 9.0])}, [1.5, 4.0], "score"
    )
    assert [axis.lines[0].get_xdata()[0] for axis in figure.axes] == [1.5, 4.0]
    assert [len(axis.patches) > 0 for axis in figure.axes] == [True, True]


def test_reading_a_limit_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Distance(nn.Linear(2, 2), 2, limit=3.0).limit == pytest.approx(3)
