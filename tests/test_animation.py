"""Animations: what is played is what was trained."""

import base64
import io
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hfld_lite.course import animation
from hfld_lite.errors import ArgumentError
from hfld_lite.hierarchy import Trainer
from hfld_lite.losses import one_to_all_matching


def strip(page):
    data = base64.b64decode(re.search(r'src="data:image/png;base64,([^"]*)"', page)[1])
    return Image.open(io.BytesIO(data))


def test_m_is_kept_for_each_epoch_of_a_training(tiny_recordings, tiny_recipe, shown):
    trainer = Trainer(tiny_recordings, tiny_recipe, progress=False)
    trainer.supervise("teacher")
    usual = trainer.fit
    tables = animation.similarity_during_training(trainer)
    assert trainer.fit is usual
    assert list(tables) == [0, 1, 2]
    for table in tables.values():
        assert table.shape == (9, 9)
        assert table.sum(1) == pytest.approx(1, abs=1e-5)
    assert not np.allclose(tables[0], tables[2], atol=1e-3)
    twin = Trainer(tiny_recordings, tiny_recipe, progress=False)
    twin.supervise("teacher")
    plain = twin.distil("student", "teacher").fit.history.drop(columns="seconds")
    watched = trainer.stages["student with M"].fit.history.drop(columns="seconds")
    pd.testing.assert_frame_equal(plain, watched)  # looking changes nothing
    built, _ = trainer._distiller("student", "teacher", tiny_recipe)
    built.eval()
    features = built.project(built.student(trainer.train.inputs).features)
    said = trainer.targets("teacher").features
    _, first = one_to_all_matching(features, said, tiny_recipe.heads, True, True)
    assert tables[0] == pytest.approx(first.detach().mean((0, 1)).numpy(), abs=1e-6)
    animation.show_similarity(tables)
    assert shown[0].count('type="radio"') == 3


def test_a_collapse_is_played_and_told(shown):
    shares = [0.5, 0.1, 0.001]
    history = pd.DataFrame(
        {"epoch": [1, 2, 3], "weight_tckd": shares, "weight_feature": shares}
        | {"validation_accuracy": [0.3, 0.5, 0.6]}
    )
    animation.show_collapse(history)
    (page,) = shown
    assert "tckd 0.500 to 0.001" in page
    assert "from 30% to 60%" in page
    assert len(set(re.findall(r'id="(frames-[0-9a-f]{8})"', page))) == 1
    assert strip(page).height % 3 == 0


def test_a_page_that_cannot_be_played_is_refused():
    with pytest.raises(ArgumentError, match="0 frames and 1 names"):
        animation.animation([], ["1"], "nothing")


def test_many_epochs_are_thinned_evenly():
    kept = animation._some(list(range(1, 101)))
    assert len(kept) == animation.FRAMES
    assert (kept[0], kept[-1]) == (1, 100)
    assert max(np.diff(kept)) - min(np.diff(kept)) <= 1
