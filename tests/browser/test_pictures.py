"""Pictures that answer: animations in a page without a kernel, and a guess that is kept hidden."""

import re

import pytest

PLACE = (
    "image => image.getBoundingClientRect().top - image.parentElement.getBoundingClientRect().top"
)


@pytest.fixture(scope="module")
def page_of(tmp_path_factory):
    """A page with an animation of three frames; beside it the same without its style sheet."""
    from matplotlib.figure import Figure

    from hfld_lite.course.animation import animation

    figures = []
    for number in range(3):
        figures.append(Figure(figsize=(5, 3), layout="constrained"))
        figures[-1].subplots().plot([0, number])
    path = tmp_path_factory.mktemp("page") / "animation.html"
    whole = "<!doctype html><body>" + animation(figures, "abc", "A line gets steeper")
    path.write_text(whole)
    path.with_name("bare.html").write_text(
        re.sub(r"(?s)<style>.*?</style>|<input [^>]*>", "", whole)
    )
    return path.as_uri()


@pytest.mark.parametrize("width", [400, 900])
def test_a_frame_is_chosen_by_keys_and_all_are_played_when_asked(chromium, page_of, width):
    page = chromium.new_page(viewport={"width": width, "height": 600})
    page.goto(page_of)
    image = page.get_by_role("img", name="A line gets steeper")
    height = image.evaluate("image => image.getBoundingClientRect().height")
    last = image.evaluate(PLACE)
    assert last == pytest.approx(-2 / 3 * height, abs=1)
    page.get_by_label("c", exact=True).focus()
    page.keyboard.press("ArrowRight")
    assert image.evaluate(PLACE) == pytest.approx(0, abs=1)
    assert page.get_by_label("a", exact=True).is_checked()
    page.wait_for_timeout(600)
    assert image.evaluate(PLACE) == pytest.approx(0, abs=1), "it does not move by itself"
    page.get_by_label("play").focus()
    page.keyboard.press("Space")
    seen = set()
    for _ in range(30):
        seen.add(round(image.evaluate(PLACE) / height * 3))
        page.wait_for_timeout(60)
    assert seen == {0, -1, -2}
    page.keyboard.press("Space")
    assert image.evaluate(PLACE) == pytest.approx(0, abs=1)
    page.close()


def test_one_frame_is_seen_where_the_style_sheet_is_removed(chromium, page_of):
    page = chromium.new_page(viewport={"width": 900, "height": 600})
    page.goto(page_of.replace("animation.html", "bare.html"))
    image = page.get_by_role("img", name="A line gets steeper")
    height = image.evaluate("image => image.getBoundingClientRect().height")
    shown = image.evaluate("image => image.parentElement.getBoundingClientRect().height")
    assert shown == pytest.approx(height / 3, abs=1)
    assert image.evaluate(PLACE) == pytest.approx(0, abs=1)
    page.close()


def test_nothing_moves_where_less_motion_is_preferred(chromium, page_of):
    page = chromium.new_page(reduced_motion="reduce")
    page.goto(page_of)
    assert not page.get_by_label("play").is_visible()
    page.get_by_label("b", exact=True).check()
    image = page.get_by_role("img", name="A line gets steeper")
    height = image.evaluate("image => image.getBoundingClientRect().height")
    assert image.evaluate(PLACE) == pytest.approx(-height / 3, abs=1)
    page.close()


@pytest.mark.parametrize("name", ["00_start_here"])
def test_only_a_pressed_button_shows_what_a_tile_was(opened, name):
    page = opened(name).page
    box = page.locator(".widget-vbox", has=page.get_by_role("button", name="defective")).last
    said, tile = box.get_by_role("status"), box.get_by_role("slider", name="tile")
    tile.focus()
    page.keyboard.press("End")
    said.filter(has_text="listen, then guess").wait_for()
    number = tile.get_attribute("aria-valuenow")
    for button in ("sound", "defective"):
        page.keyboard.press("Tab")
        while page.evaluate("document.activeElement.tagName") != "BUTTON":
            page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.innerText").strip() == button
        assert "listen, then guess" in said.inner_text(), "passing through shows nothing"
    page.keyboard.press("Enter")
    said.filter(has_text="Your guess, defective, is").wait_for()
    assert "Right so far, of" in said.inner_text()
    tile.focus()
    page.keyboard.press("ArrowLeft")
    said.filter(has_text="listen, then guess").wait_for()
    assert tile.get_attribute("aria-valuenow") != number


@pytest.mark.parametrize("name", ["01_data_preparation"])
def test_severity_is_reached_for_defective_tiles_only(opened, name):
    page = opened(name).page
    severity = page.get_by_role("slider", name="severity of the defect")
    for state, disabled in (("sound", "true"), ("defective", "false"), ("sound", "true")):
        page.get_by_role("combobox", name="class").select_option(state)
        page.wait_for_function(
            "([s, told]) => s.getAttribute('aria-disabled') === told",
            arg=[severity.element_handle(), disabled],
        )
        assert severity.evaluate("s => s.tabIndex") == (-1 if disabled == "true" else 0)
