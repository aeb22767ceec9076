"""Animations in a page without a kernel: chosen by a key, played when asked, still otherwise."""

import pytest

PLACE = (
    "image => image.getBoundingClientRect().top - image.parentElement.getBoundingClientRect().top"
)


@pytest.fixture(scope="module")
def page_of(tmp_path_factory):
    from matplotlib.figure import Figure

    from hfld_lite.course.animation import animation

    figures = []
    for number in range(3):
        figures.append(Figure(figsize=(5, 3), layout="constrained"))
        figures[-1].subplots().plot([0, number])
    path = tmp_path_factory.mktemp("page") / "animation.html"
    path.write_text("<!doctype html><body>" + animation(figures, "abc", "A line gets steeper"))
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


def test_nothing_moves_where_less_motion_is_preferred(chromium, page_of):
    page = chromium.new_page(reduced_motion="reduce")
    page.goto(page_of)
    assert not page.get_by_label("play").is_visible()
    page.get_by_label("b", exact=True).check()
    image = page.get_by_role("img", name="A line gets steeper")
    height = image.evaluate("image => image.getBoundingClientRect().height")
    assert image.evaluate(PLACE) == pytest.approx(-height / 3, abs=1)
    page.close()
