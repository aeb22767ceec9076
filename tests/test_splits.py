"""Splits: no group on two sides, every class in every part, the same seed the same split."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfld_lite.data.examples import Examples
from hfld_lite.data.recordings import Recordings
from hfld_lite.data.splits import Split, check_split, published_split, split
from hfld_lite.errors import ArgumentError, DataError


def make(labels, groups, origins=None, classes=3) -> Recordings:
    return Recordings(
        signals=np.zeros((len(labels), 2), np.float32),
        labels=np.asarray(labels, int),
        groups=[str(group) for group in groups],
        sample_rate=1,
        class_names=[f"class{i}" for i in range(classes)],
        origins=origins,
        checked=True,
    )


@st.composite
def tiles(draw):
    """Three classes of 5 to 12 tiles, each of 1 to 4 recordings, in any order."""
    rows = []
    for label in range(3):
        for tile in range(draw(st.integers(5, 12))):
            rows += [(label, f"{label}-{tile}")] * draw(st.integers(1, 4))
    rows = draw(st.permutations(rows))
    return make([label for label, _ in rows], [group for _, group in rows])


@settings(max_examples=40, deadline=None)
@given(tiles(), st.integers(0, 2**32 - 1), st.sampled_from([0.2, 0]))
def test_properties(recordings, seed, validation):
    drawn = split(recordings, validation=validation, seed=seed)
    parts = [part for part in drawn.parts().values() if part.size]
    assert len(parts) == (3 if validation else 2)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(recordings)))
    groups = [set(recordings.groups[part]) for part in parts]
    assert sum(map(len, groups)) == len(set.union(*groups))
    assert all(set(recordings.labels[part]) == {0, 1, 2} for part in parts)
    again = split(recordings, validation=validation, seed=seed)
    assert again.to_dict() == drawn.to_dict()


@pytest.mark.parametrize("fractions", [(0.2, 0.2), (0.1, 0.2), (0, 0.3), (0.15, 0.15), (0.05, 0.5)])
def test_sizes_follow_the_fractions(fractions):
    recordings = make(np.arange(600) % 3, np.arange(600))
    drawn = split(recordings, validation=fractions[0], test=fractions[1], seed=1)
    sizes = len(drawn.validation) / 600, len(drawn.test) / 600
    assert sizes == pytest.approx(fractions, abs=0.011)
    other = split(recordings, validation=fractions[0], test=fractions[1], seed=2)
    assert not np.array_equal(other.test, drawn.test)


def test_too_few_groups():
    recordings = make(
        np.arange(60) % 3, [f"{i % 3}-{i // 3 % (4 if i % 3 == 1 else 9)}" for i in range(60)]
    )
    with pytest.raises(DataError, match=r"'class1' has 4 groups to draw 20% and 20% .* at least 5"):
        split(recordings)
    assert len(split(recordings, validation=0.25, test=0.25).test)


@pytest.mark.parametrize("wrong", [{"test": 0}, {"test": 1.0}, {"validation": -0.2}, {"test": 0.9}])
def test_fractions_out_of_range(wrong):
    with pytest.raises(ArgumentError, match="The parts to draw are"):
        split(make(np.arange(60) % 3, np.arange(60)), **wrong)


@pytest.mark.parametrize("seed", [-1, 1.5, "a", 2**32])
def test_seed_out_of_range(seed):
    with pytest.raises(ArgumentError, match="The seed is"):
        split(make(np.arange(60) % 3, np.arange(60)), seed=seed)


class TestPublished:
    files = ("AN", "AD", "BN")

    def recordings(self, rows=20, groups=None):
        origins = [f"{file}.mat:{row}" for file in self.files for row in range(rows)]
        return make(np.repeat([0, 1, 2], rows), groups or origins, origins)

    def test_every_fifth_row_of_each_file(self):
        drawn = published_split(self.recordings(rows=12))
        assert drawn.test.tolist() == [4, 9, 12 + 4, 12 + 9, 24 + 4, 24 + 9]
        assert len(drawn.train) == 30
        assert drawn.validation.size == 0

    def test_rows_are_those_of_the_file_after_a_selection_too(self):
        whole = self.recordings()
        rest = whole.select(np.arange(3, 60))
        assert set(rest.origins[published_split(rest).test]) == set(
            whole.origins[published_split(whole).test]
        )

    def test_validation_is_taken_from_the_rest(self):
        recordings = self.recordings()
        drawn = published_split(recordings, validation=0.2, seed=3)
        assert np.array_equal(drawn.test, published_split(recordings).test)
        assert (len(drawn.validation), len(drawn.train)) == (12, 36)
        again = published_split(recordings, validation=0.2, seed=3)
        assert np.array_equal(again.validation, drawn.validation)

    def test_shared_groups_are_refused(self):
        groups = [f"{file}-{row // 2}" for file in self.files for row in range(20)]
        with pytest.raises(DataError, match=r"group 'AD-2' is in more than one part.*use `split`"):
            published_split(self.recordings(groups=groups))

    def test_files_too_short(self):
        with pytest.raises(DataError, match="'class0' is missing from the test part"):
            published_split(self.recordings(rows=4))

    def test_origins_without_rows(self):
        with pytest.raises(DataError, match=r"'a.wav' does not end with a row number"):
            published_split(make([0, 1, 2], "abc", ["a.wav", "b.wav:0", "c.wav:0"]))


class TestCheck:
    recordings = make([0, 1, 2] * 4, ["a", "b", "c"] * 2 + ["d", "e", "f"] * 2)

    def test_sound_split_is_returned(self):
        sound = Split([0, 1, 2, 3, 4, 5], [], [6, 7, 8])
        assert check_split(sound, self.recordings) is sound

    @pytest.mark.parametrize(
        ("parts", "words"),
        [
            (
                ([0, 1, 2], [], [6, 7, 12]),
                "the test part has indices from 6 to 12; expected 0 to 11",
            ),
            (([-1, 1, 2], [], [6, 7, 8]), "the train part has indices from -1"),
            (([0, 1, 2], [], [2, 6, 7]), "row 2 .* drawn twice, the second time for the test"),
            (([0, 1, 1, 2], [], [6, 7, 8]), "row 1 .* drawn twice"),
            (([0, 1, 2], [], [3, 6, 7, 8]), "group 'a' is in more than one part"),
            (([0, 1, 2], [], [6, 8]), "'class1' is missing from the test part"),
            (([0, 1], [], [6, 7, 8]), "'class2' is missing from the train part"),
            (([0, 1, 2], [3], [6, 7, 8]), "group 'a'"),
            (([], [], []), "'class0' is missing from the train part"),
        ],
    )
    def test_unsound_splits(self, parts, words):
        with pytest.raises(DataError, match=words):
            check_split(Split(*parts), self.recordings)

    def test_empty_validation_is_sound_but_a_poor_one_is_not(self):
        recordings = make([0, 1, 2] * 3, range(9))
        with pytest.raises(DataError, match="missing from the validation part"):
            check_split(Split([0, 1, 2], [3], [6, 7, 8]), recordings)


class TestEqual:
    """Recordings that are equal, sample for sample."""

    def recordings(self, copies: dict[int, int], groups=None, origins=None) -> Recordings:
        """60 of noise in three classes, each its own group, some of them copies of others."""
        signals = np.random.default_rng(0).standard_normal((60, 40)).astype(np.float32)
        for copy, source in copies.items():
            signals[copy] = signals[source]
        origins = origins or [f"class{i % 3}/{i}.wav:0" for i in range(60)]
        groups = range(60) if groups is None else groups
        return replace(make(np.arange(60) % 3, groups, origins), signals=signals, checked=True)

    def test_of_different_groups_stay_together_with_all_of_their_groups(self):
        groups = np.arange(60)
        groups[36] = 33
        recordings = self.recordings({33: 3, 7: 4, 8: 7}, groups)
        for seed in range(20):
            parts = split(recordings, seed=seed).parts().values()
            assert any({3, 33, 36} <= set(part) for part in parts)
            assert any({4, 7, 8} <= set(part) for part in parts)

    def test_of_one_group_stay_together(self):
        groups = np.arange(60)
        groups[33] = 3
        recordings = self.recordings({33: 3}, groups)
        for seed in range(5):
            parts = split(recordings, seed=seed).parts().values()
            assert any({3, 33} <= set(part) for part in parts)

    def test_a_given_split_is_refused_only_where_it_separates_them(self):
        recordings = self.recordings({33: 3})
        with pytest.raises(DataError, match=r"class0/3.wav and class0/33.wav are equal"):
            check_split(Split(range(30), [], range(30, 60)), recordings)
        rest = [*range(30, 33), *range(34, 60)]
        check_split(Split([*range(30), 33], [], rest), recordings)
        check_split(Split(range(30), [], rest), recordings)

    def test_the_published_rule_may_separate_them(self):
        origins = [f"{name}.mat:{row}" for row in range(20) for name in ("AN", "AD", "BN")]
        published_split(self.recordings({3: 0}, origins=origins))
        with pytest.raises(DataError, match=r"AN.mat:0 and AN.mat:4 are equal"):
            published_split(self.recordings({12: 0}, origins=origins))

    def test_examples_made_of_recordings_too(self, tiny_recipe):
        recordings = self.recordings({33: 3})
        signals = np.tile(recordings.signals, 40)
        recordings = replace(recordings, signals=signals, sample_rate=40_000)
        examples = Examples.of(recordings, tiny_recipe)
        for seed in range(5):
            parts = split(examples, seed=seed).parts().values()
            assert any({3, 33} <= set(part) for part in parts)
        with pytest.raises(DataError, match=r"class0/3.wav and class0/33.wav are equal"):
            check_split(Split(range(30), [], range(30, 60)), examples)


class TestDict:
    def test_round_trip_through_json(self):
        drawn = split(make(np.arange(60) % 3, np.arange(60)))
        again = Split.from_dict(json.loads(json.dumps(drawn.to_dict())))
        for name, part in drawn.parts().items():
            assert np.array_equal(again.parts()[name], part)
            assert again.parts()[name].dtype == np.int64

    def test_a_recording_in_two_parts(self):
        with pytest.raises(ArgumentError, match="holds recording 1 more than once"):
            Split.from_dict({"train": [0, 1], "validation": [2], "test": [1, 3]})

    @pytest.mark.parametrize("wrong", [{}, [], {"train": [], "validation": [], "tests": []}])
    def test_other_keys(self, wrong):
        with pytest.raises(ArgumentError, match="exactly the keys"):
            Split.from_dict(wrong)

    @pytest.mark.parametrize("wrong", [[0.5], ["a"], [[0]], [True], 3])
    def test_other_values(self, wrong):
        with pytest.raises(ArgumentError, match="The test indices are"):
            Split([0], [1], wrong)
