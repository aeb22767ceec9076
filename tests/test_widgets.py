"""The explorers without a browser: what they compute, and that the picture follows the controls."""

import base64
import io
import re
from itertools import product

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from hfld_lite import resnet1d
from hfld_lite.course import widgets
from hfld_lite.edge.analysis import receptive_field, sizes
from hfld_lite.edge.devices import DEVICES, Needs, device, judge
from hfld_lite.losses import one_to_all_matching

TEACHER, STUDENT, NAMES = [4.0, 1.5, 2.5, -1.0], [1.5, 1.0, 0.0, 0.5], ["AN", "AD", "BN", "BD"]

DEFECTIVE = np.arange(40) < 20
DOUBT = np.concatenate([np.linspace(1, 0.3, 20), np.linspace(0.6, 0, 20)])
SWEEP = pd.DataFrame(
    {
        **{"alpha": alpha, "mu": mu, "nu": nu, "seeds": 3, "deviation": 0.01, "teacher": 0.97},
        "validation_accuracy": 0.9 + 0.04 * alpha + 0.02 * mu - 0.01 * nu,
        "against_alone": 0.04 * alpha + 0.02 * mu - 0.01 * nu,
        **{"lowest": -0.02, "highest": 0.1, "secondary_teacher": 0.96},
    }
    for alpha, mu, nu in product((0.0, 1.0), repeat=3)
)


def history(share):
    rows = [
        {"epoch": e, "validation_accuracy": 1 - share**e / 2, "verdict": ""}
        | {f"weight_{t}": share**e for t in ("feature", "tckd", "nckd", "cross_entropy")}
        for e in range(1, 6)
    ]
    rows[-1]["verdict"] = "All weights are small." if share < 1 else ""
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def explorers():
    torch.manual_seed(0)
    students = {
        "small": Needs("int8", 10_000, 5_000, 1000),
        "large": Needs("int8", 10**6, 10**6, 9),
    }
    return {
        "logits": widgets.explore_logits(TEACHER, STUDENT, NAMES),
        "matching": widgets.explore_matching(torch.randn(8, 9), torch.randn(8, 9), 2),
        "sizes": widgets.explore_sizes(1750),
        "weights": widgets.explore_weights({"naive": history(0.5), "fixed": history(1.0)}),
        "tiles": widgets.explore_tiles(seed=3),
        "devices": widgets.explore_devices(students, {"small": 0.9, "large": 0.95}),
        "threshold": widgets.explore_threshold(DOUBT, DEFECTIVE),
        "ablations": widgets.explore_ablations(SWEEP),
    }


KINDS = ["logits", "matching", "sizes", "weights", "tiles", "devices", "threshold", "ablations"]


def other(control):
    """Another value that the control takes."""
    if hasattr(control, "options"):
        values = [o[1] if isinstance(o, tuple) else o for o in control.options]
        return next(value for value in values if value != control.value)
    if hasattr(control, "base"):
        return control.base**control.max
    return control.min if control.value == control.max else control.max


@pytest.mark.parametrize("kind", KINDS)
def test_every_control_changes_the_picture_and_its_words(explorers, kind):
    explorer = explorers[kind]
    for name, control in explorer.controls.items():
        if name == "severity":  # disabled for sound tiles, which have none
            explorer.controls["state"].value = "defective"
        before, words, value = explorer.picture.value, explorer.alt, control.value
        control.value = other(control)
        assert explorer.picture.value != before, name
        if name != "head" or kind != "matching":  # its words may be the same in another head
            assert explorer.alt != words, name
        control.value = value
        assert explorer.alt == words


@pytest.mark.parametrize("kind", KINDS)
def test_every_control_has_a_label_and_the_picture_words(explorers, kind):
    explorer = explorers[kind]
    assert all(control.description for control in explorer.controls.values())
    assert len(explorer.alt) > 40
    bundle = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert re.search(r'<img alt="[^"]{40,}" src="data:image/png;base64,', bundle["text/html"])
    assert bundle["text/html"] == explorer.picture.value


def test_words_are_escaped():
    assert 'alt="a &quot;b&quot; &lt;c&gt;"' in widgets.image(b"", 'a "b" <c>')


def test_terms_of_the_explorer_add_up():
    terms = widgets.logit_terms(TEACHER, STUDENT, 0, 3.0)
    assert terms["TCKD"] + terms["(1 − p_y) NCKD"] == pytest.approx(terms["KD"])
    assert 0 < terms["(1 − p_y) NCKD"] < terms["NCKD"]


def test_matching_shows_the_librarys_similarity(explorers):
    torch.manual_seed(0)
    student, teacher = torch.randn(8, 9), torch.randn(8, 9)
    explorer = widgets.explore_matching(student, teacher, 2)
    _, table = one_to_all_matching(student[None], teacher[None], 2, True, True)
    explorer.controls["head"].value, explorer.controls["position"].value = 1, 4
    row = table[0, 1, 4]
    assert f"position 4 looks at student position {int(row.argmax())} most" in explorer.alt
    assert f"a share of {row.max():.0%}" in explorer.alt


def test_sizes_are_those_of_the_network(explorers):
    explorer = explorers["sizes"]
    explorer.controls["depth"].value, explorer.controls["head"].value = 50, "published"
    network = resnet1d(50, 6, 1 / 16, "published")
    assert f"{sizes(network)['parameters'].iloc[-1]:,} parameters" in explorer.alt
    explorer.controls["depth"].value, explorer.controls["head"].value = 10, "small"


def test_the_verdict_is_that_of_the_device(explorers):
    explorer = explorers["devices"]
    for one in DEVICES:
        explorer.controls["device"].value = one.name
        large = judge(Needs("int8", 10**6, 10**6, 9), device(one.name)).fits
        assert f"{1 + large} of 2 students fit on {one.name}" in explorer.alt
        assert ("large with 95.0%" if large else "small with 90.0%") in explorer.alt


def test_the_tile_that_is_seen_is_heard(explorers):
    explorer = explorers["tiles"]
    page = explorer.picture.value
    assert page.count("<audio") == 1
    data = base64.b64decode(re.search(r'src="data:audio/wav;base64,([^"]*)"', page)[1])
    sound, rate = soundfile.read(io.BytesIO(data))
    values = {name: control.value for name, control in explorer.controls.items()}
    signal = widgets.one_tile(
        values["kind"],
        values["state"] == "defective",
        values["severity"],
        values["snr"],
        3 + values["tile"],
    )
    assert rate == 40_000
    assert np.corrcoef(sound, signal)[0, 1] > 0.999


def test_severity_changes_a_defective_tile_and_no_sound_one():
    sound = [widgets.one_tile("B", False, severity, 20, 1) for severity in (0.05, 0.3)]
    defective = [widgets.one_tile("B", True, severity, 20, 1) for severity in (0.05, 0.3)]
    assert np.array_equal(*sound)
    assert not np.allclose(*defective, atol=1e-3)


def test_a_guess_is_held_against_the_truth_and_the_networks(tiny_recordings):
    rows = [0, 25, 45]  # AN, AD, BN
    assert tiny_recordings.labels[rows].tolist() == [0, 1, 2]
    said = {"student": ["sound", "sound", "defective"]}
    explorer = widgets.explore_guess(tiny_recordings, rows, said)
    sound, defective = explorer.buttons["sound"], explorer.buttons["defective"]
    assert "listen, then guess" in explorer.alt
    assert "No guess yet" in explorer.alt
    sound.click()
    assert explorer.alt.startswith(
        "Tile 1 is sound. Your guess, sound, is right; the student said sound"
    )
    assert "Right so far, of 1 tile: you 1, student 1" in explorer.alt
    explorer.controls["number"].value = 2
    assert "Tile 2 of 3: listen, then guess" in explorer.alt, "the next tile is not shown"
    assert "defective" not in explorer.alt
    defective.click()
    assert "Right so far, of 2 tiles: you 2, student 1" in explorer.alt
    sound.click()
    assert "Your guess, defective, is right" in explorer.alt, "the first guess counts"
    explorer.controls["number"].value = 1
    assert explorer.alt.startswith("Tile 1 is sound"), "what was guessed stays known"
    assert explorer.picture.value.count("<audio") == 1
    assert '<div role="status">Tile 1 is sound' in explorer.picture.value


def test_severity_is_for_defective_tiles(explorers):
    controls = explorers["tiles"].controls
    controls["state"].value = "sound"
    assert controls["severity"].disabled
    controls["state"].value = "defective"
    assert not controls["severity"].disabled


def test_a_player_keeps_its_sound_in_a_notebook_that_has_not_run():
    page = widgets.player(np.sin(np.arange(400.0)), 8000)
    assert re.search(r'<audio [^>]*src="data:audio/wav;base64,', page)
    assert "<source" not in page, "JupyterLab drops its address"


@pytest.mark.parametrize("kind", ["logits", "weights", "matching"])
def test_the_axes_stay_where_they_are_while_a_slider_moves(explorers, kind):
    explorer = explorers[kind]
    seen = set()
    for name in ("temperature", "confidence", "epoch", "position", "head", "strategy"):
        if (control := explorer.controls.get(name)) is None:
            continue
        values = {key: one.value for key, one in explorer.controls.items()}
        for value in (values[name], other(control)):
            axes = explorer.draw(**values | {name: value})[0].axes
            seen.add(tuple((*axis.get_xlim(), *axis.get_ylim()) for axis in axes))
    assert len(seen) == 1


def test_a_collapse_is_told_in_words(explorers):
    explorer = explorers["weights"]
    explorer.controls["strategy"].value, explorer.controls["epoch"].value = "naive", 5
    assert explorer.alt.endswith("validation accuracy 98%. All weights are small.")
    assert "nckd 0.0312" in explorer.alt
    explorer.controls["epoch"].value = 4
    assert explorer.alt.endswith("97%.")


@pytest.mark.parametrize(("depth", "width"), [(10, 1 / 16), (18, 1 / 16), (50, 1 / 16)])
def test_receptive_field_is_where_gradients_come_from(depth, width):
    torch.manual_seed(0)
    network = resnet1d(depth, 3, width, "small").double().eval()
    x = torch.randn(8, 1, 4001, dtype=torch.float64, requires_grad=True)
    maps = network.stages(network.stem(x))
    maps[:, :, maps.shape[2] // 2].sum().backward()
    reached = x.grad.abs().sum((0, 1)).nonzero().flatten()
    seen = int(reached.max() - reached.min()) + 1
    assert seen <= receptive_field(network)
    assert seen >= 0.9 * receptive_field(network)  # ReLU and pooling close some of the way


def test_the_cost_of_a_part_is_that_worked_out_by_hand():
    doubt, bad = np.array([0.9, 0.2, 0.6, 0.1, 0.1]), np.array([True, True, False, False, False])
    missed, alarmed, cost = widgets.cost_of(doubt, bad, 0.5, miss=100, alarm=6, share=0.1)
    assert (missed, alarmed) == (0.5, pytest.approx(1 / 3))
    assert cost == pytest.approx(0.1 * 0.5 * 100 + 0.9 / 3 * 6)
    assert widgets.cost_of(doubt, bad, 0.6, 1, 1, 0.5)[1] == alarmed, "called defective from it on"


def test_the_cheapest_limit_falls_when_misses_cost_more(explorers):
    def cheapest(miss):
        explorer.controls["miss"].value = miss
        return float(re.search(r"cheapest limit is ([\d.]+)", explorer.alt)[1])

    explorer = explorers["threshold"]
    assert cheapest(200) < cheapest(5)


def test_ablations_show_the_stored_student(explorers):
    explorer = explorers["ablations"]
    explorer.controls["alpha"].value, explorer.controls["nu"].value = 0.0, 1.0
    explorer.controls["mu"].value = 1.0
    assert "α = 0, μ = 1, ν = 1" in explorer.alt
    assert "reach 91.0% on average, +1.0 points" in explorer.alt
