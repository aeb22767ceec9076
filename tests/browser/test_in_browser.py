"""The course as a learner without a mouse meets it: every notebook, in JupyterLab and Chromium."""

import os
import re
import statistics
import subprocess
import sys
from contextlib import suppress

import pytest
from in_lab import AS_STORED, NOTEBOOKS, TIMED, violations
from playwright.sync_api import Error as PlaywrightError

ALL = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
WITH_WIDGET = [name for name in ALL if name not in AS_STORED]
LATEST = 150
"""Milliseconds from a key to the new picture, the median, at most, on two quiet cores."""

REFERENCE = 85
"""Milliseconds that the reference takes on a fast machine. The quiet two-core machine of the first
CI run took 105 (and the notebooks 122 to 144), so that the limit is 185 there: a fifth is left to
noise before a test fails."""

CONTROLS = "[role=slider], .widget-readout, select, input, textarea, button, audio"

BOXES = """() => [...document.querySelectorAll('.jp-OutputArea-output .widget-vbox')].filter(
  box => !box.parentElement.closest('.widget-vbox') && !box.classList.contains('reference'))"""
"""The outermost widgets of the page."""

DESCRIBE = """control => {
  const row = control.closest('.widget-inline-hbox');
  return {
    label: (row?.querySelector('.widget-label') ?? control).innerText?.trim(),
    ends: ['aria-valuemin', 'aria-valuemax'].map(name => control.getAttribute(name)),
  };
}"""

CONTRAST = """text => {
  const rgba = colour => {
    const [red, green, blue, alpha = 1] = colour.match(/[\\d.]+/g).map(Number);
    return {rgb: [red, green, blue], alpha};
  };
  const over = (top, alpha, below) => top.map((c, i) => alpha * c + (1 - alpha) * below[i]);
  const layers = [];
  for (let at = text; at; at = at.parentElement) {
    layers.push(rgba(getComputedStyle(at).backgroundColor));
  }
  let below = [255, 255, 255];
  for (const {rgb, alpha} of layers.reverse()) below = over(rgb, alpha, below);
  const {rgb, alpha} = rgba(getComputedStyle(text).color);
  const light = colour => colour.map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + [0.2126, 0.7152, 0.0722][i] * c, 0);
  const [dark, bright] = [light(over(rgb, alpha, below)), light(below)].sort((a, b) => a - b);
  return (bright + 0.05) / (dark + 0.05);
}"""
"""The ratio of WCAG 2: of a text to what it stands on."""

FOLLOW = """box => {
  const image = () => box.querySelector('img');
  let source = image().src;
  box.seen = [];
  new MutationObserver(async () => {
    if (!image() || image().src === source) return;
    source = image().src;
    await image().decode();
    requestAnimationFrame(() => setTimeout(() => box.seen.push(performance.now())));
  }).observe(box, {subtree: true, childList: true, attributes: true});
  box.addEventListener('keydown', event => { box.pressed = event.timeStamp; }, true);
}"""
"""Notes when a key went down, and when another picture was on the screen."""


@pytest.mark.parametrize("name", ["07_hierarchical_training"])
def test_the_monitor_is_paused_stopped_and_gone_on_with(opened, name):
    notebook = opened(name, run=False)
    page = notebook.page
    for words in ("from hfld_lite import ", "recordings = simulate_tiles", "live = monitor("):
        place = notebook.run_cell(words)
    cell = page.locator(".jp-Cell").nth(place)
    status = cell.locator("[role=status]")

    def wait_for(state):
        status.filter(has_text=f"The training is {state}").wait_for(timeout=60_000)

    def press(button):
        cell.get_by_role("button", name=button).focus()
        page.keyboard.press("Enter")

    wait_for("running")
    meanwhile = page.locator(".jp-Cell").nth(notebook.run_cell("This cell ran while"))
    meanwhile.get_by_text("while the training was running").last.wait_for(timeout=30_000)
    wait_for("running")  # and goes on after that cell
    press("Pause")
    wait_for("paused")
    said = status.inner_text()
    page.wait_for_timeout(1000)
    assert status.inner_text() == said
    press("Start")
    wait_for("running")
    press("Stop")
    wait_for("stopped")
    said = status.inner_text()
    assert "Best validation accuracy so far" in said
    notebook.run_cell("live = monitor(")
    page.wait_for_function(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session"
        ".kernel.status === 'idle'"
    )
    assert status.inner_text() == said, "the same training, not a new one"
    press("Start")
    wait_for("running")


@pytest.mark.parametrize("name", ["03_logit_separation"])
def test_the_temperature_slider_moves_picture_and_numbers(opened, name):
    page = opened(name).page
    handle = page.get_by_role("slider", name="temperature T")
    image = page.locator(".widget-vbox", has=handle).locator("img").first
    before = {of: image.get_attribute(of) for of in ("src", "alt")}
    value, said = (handle.get_attribute(f"aria-value{of}") for of in ("now", "text"))
    assert said == "1.00"
    handle.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "words => !document.querySelector(`.widget-html img[alt='${words}']`)", arg=before["alt"]
    )
    page.wait_for_timeout(500)  # the last of three pictures
    assert float(handle.get_attribute("aria-valuenow")) > float(value)
    assert float(handle.get_attribute("aria-valuetext")) == pytest.approx(10**0.15, abs=0.01)
    words = image.get_attribute("alt")
    assert image.get_attribute("src") != before["src"]
    assert re.search(r"temperature ([\d.]+)", words)[1] == "1.4"
    for term in ("TCKD", "NCKD", "KD"):
        numbers = [
            re.search(rf"\b{term} is ([\d.e-]+)", text)[1] for text in (before["alt"], words)
        ]
        assert numbers[0] != numbers[1]


@pytest.mark.parametrize(
    ("name", "role", "control", "keys"),
    [
        (TIMED[0], "slider", "impact to noise, dB", ["ArrowLeft"]),
        (TIMED[1], "slider", "temperature T", ["ArrowRight", "ArrowLeft"]),
        (TIMED[2], "slider", "teacher position", ["ArrowRight", "ArrowLeft"]),
        (TIMED[3], "combobox", "device", ["ArrowDown", "ArrowUp"]),
    ],
)
def test_a_new_picture_follows_a_key_at_once(opened, name, role, control, keys):
    # The limit holds on a quiet machine. On a busy or slow one the reference takes longer as well:
    # a widget that draws two lines with matplotlib alone, pressed in turn with the notebook's own.
    # By as much the limit rises: what fails is the widget, and never what runs beside it.
    page = opened(name).page
    pressed = {
        "reference": (page.locator(".reference [role=slider]"), ["ArrowRight"]),
        name: (page.get_by_role(role, name=control, exact=True), keys),
    }
    boxes = {
        "reference": page.locator(".reference"),
        name: page.locator(".widget-vbox", has=pressed[name][0]),
    }
    for box in boxes.values():
        box.evaluate(FOLLOW)
    took = {what: [] for what in pressed}
    for turn in range(20):
        for what, (element, keys) in pressed.items():
            element.focus()
            page.keyboard.press(keys[turn % len(keys)])
            box = boxes[what].element_handle()
            page.wait_for_function("([box, turn]) => box.seen.length > turn", arg=[box, turn])
            took[what].append(box.evaluate("box => box.seen.at(-1) - box.pressed"))
    widget, reference = statistics.median(took[name]), statistics.median(took["reference"])
    limit = LATEST * max(1, reference / REFERENCE)
    print(
        f"{name}: {widget:.0f} ms from key to picture, at most {limit:.0f}; the reference "
        f"{reference:.0f} ms (medians of 20; load {os.getloadavg()[0]:.1f})"
    )
    assert widget <= limit


@pytest.mark.parametrize("name", ["01_data_preparation"])
def test_the_sound_plays_by_keyboard(opened, name):
    page = opened(name).page
    audio = page.locator(".widget-vbox audio").first
    audio.scroll_into_view_if_needed()
    page.wait_for_function("audio => audio.readyState >= 2", arg=audio.element_handle())
    assert audio.evaluate("audio => audio.duration") == pytest.approx(0.175, abs=0.01)
    audio.evaluate("audio => { audio.onended = () => { audio.heard = true; }; }")
    audio.focus()
    page.keyboard.press("Space")
    page.wait_for_function("audio => audio.heard", arg=audio.element_handle())
    assert all(page.locator("audio").evaluate_all("all => all.map(audio => audio.duration > 0.1)"))


@pytest.mark.parametrize("name", WITH_WIDGET)
def test_every_control_has_a_label_a_name_and_contrast(opened, name):
    page = opened(name).page
    boxes = page.evaluate_handle(BOXES)
    found = 0
    for box in boxes.get_properties().values():
        for control in box.as_element().query_selector_all(CONTROLS):
            found += 1
            kind = control.evaluate("control => control.tagName + ' ' + control.className")
            accessible = accessible_name(page, control)
            assert accessible, f"{kind} has no name"
            if kind.startswith("AUDIO"):
                continue
            label = control.evaluate(DESCRIBE)["label"]
            assert label, f"{kind} has no visible label"
            assert label in accessible
        for text in box.as_element().query_selector_all(
            ".widget-label, .widget-readout, select, input, textarea, button:enabled, [role=status]"
        ):
            assert text.evaluate(CONTRAST) >= 4.5, text.inner_text()
    assert found


def accessible_name(page, element):
    """What a screen reader says, by Chromium's own accessibility tree."""
    session = page.context.new_cdp_session(page)
    element.evaluate("element => { window.asked = element; }")
    asked = session.send("Runtime.evaluate", {"expression": "window.asked"})["result"]["objectId"]
    tree = session.send(
        "Accessibility.getPartialAXTree", {"objectId": asked, "fetchRelatives": False}
    )
    session.detach()
    return tree["nodes"][0].get("name", {}).get("value", "").strip()


@pytest.mark.parametrize("name", ALL)
def test_axe_finds_nothing_in_texts_and_outputs(opened, name):
    assert not violations(opened(name).page, ".jp-RenderedMarkdown", ".jp-OutputArea-output")


@pytest.mark.parametrize("name", ALL)
def test_every_picture_has_words(opened, name):
    page = opened(name).page
    images = page.locator(".jp-OutputArea-output img").all()
    assert images
    for image in images:
        assert len(image.get_attribute("alt") or "") > 30
        assert image.evaluate("image => image.naturalWidth") > 100
    assert not page.locator(".jp-OutputArea-output :is(canvas, svg.main-svg)").count()


@pytest.mark.parametrize("name", WITH_WIDGET)
def test_every_control_is_reached_by_tab_and_changed_by_keys(opened, name):
    page = opened(name).page
    followed = 0
    for box in page.evaluate_handle(BOXES).get_properties().values():
        box = box.as_element()
        box.scroll_into_view_if_needed()
        box.evaluate("box => { box.tabIndex = -1; box.focus(); }")
        place = 0
        while place < len(usable(box)):  # found anew: a player comes and goes with its picture
            control, place = usable(box)[place], place + 1
            page.keyboard.press("Tab")
            kind = control.evaluate("control => control.className || control.tagName")
            assert control.evaluate("c => c === document.activeElement"), f"Tab misses {kind}"
            followed += change(page, box, control)
    assert followed or name.startswith("11")


def usable(box):
    for _ in range(5):
        with suppress(PlaywrightError):  # a control was replaced while it was asked
            return [one for one in box.query_selector_all(CONTROLS) if one.is_enabled()]
    raise AssertionError("the controls do not come to rest")


def change(page, box, control):
    """Press keys until the control has another value; true if a picture should follow, and did."""
    kind = control.evaluate("c => c.getAttribute('role') ?? c.tagName.toLowerCase()")
    if kind in ("button", "audio", "textbox"):
        return False
    if kind in ("input", "textarea"):
        value = control.input_value()
        page.keyboard.type("x")
        assert control.input_value() != value
        page.keyboard.press("Backspace")
        return False
    value = "c => c.value ?? c.closest('.widget-slider').querySelector('.widget-readout').innerText"
    images = "box => [...box.querySelectorAll('img')].map(image => image.src + image.alt).join()"
    before, shown = control.evaluate(value), box.evaluate(images)
    for key in ("ArrowRight", "ArrowLeft") if kind == "slider" else ("ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
        if control.evaluate(value) != before:
            break
    assert control.evaluate(value) != before, "no key changes it"
    page.wait_for_function(
        f"([box, shown]) => ({images})(box) !== shown", arg=[box, shown], timeout=10_000
    )
    return True


def test_a_static_page_shows_the_widgets_picture(chromium, tmp_path):
    source = NOTEBOOKS / "03_logit_separation.ipynb"
    command = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "html", "--output-dir"]
    subprocess.run([*command, tmp_path, source], check=True, capture_output=True, timeout=120)
    context = chromium.new_context(offline=True)
    page = context.new_page()
    page.goto((tmp_path / "03_logit_separation.html").as_uri())
    image = page.locator("img[alt^='At temperature 1 the teacher gives']")
    assert image.is_visible()
    assert image.evaluate("image => image.complete && image.naturalWidth") > 400
    assert image.evaluate("image => image.getBoundingClientRect().width") > 400
    context.close()
