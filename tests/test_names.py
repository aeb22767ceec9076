"""Names that look equal: made equal where only blanks or Unicode's form differ, else refused."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hfld_lite.data.examples import Examples
from hfld_lite.data.names import merged, tidy, twins
from hfld_lite.data.readers import read_long_mat, read_wav_folder
from hfld_lite.data.recordings import Recordings
from hfld_lite.errors import ArgumentError, DataError
from hfld_lite.recipes import Recipe

NFD = unicodedata.normalize("NFD", "größer")


def put(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, 60), 8000)
    return path


def make(groups, names=("good", "bad"), **fields) -> Recordings:
    n = len(groups)
    signals = np.random.default_rng(0).standard_normal((n, 8))
    return Recordings(signals, np.arange(n) % 2, groups, 8000, names, **fields)


@pytest.mark.parametrize(
    "name",
    [
        "größer",
        NFD,
        " größer",
        "größer\t\r\n",
        "\u00a0größer\u3000",
        "\ufeffgrößer\u200b",
        "größer\0",
    ],
)
def test_tidy(name):
    assert tidy(name) == "größer"
    assert tidy(tidy(name)) == tidy(name)


def test_what_is_inside_a_name_stays():
    assert tidy("a\u00a0b  c\u200cd") == "a\u00a0b  c\u200cd"
    assert tidy(" \u200b\ufeff") == ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Good", "good"),
        ("GROSS", "groß"),
        ("7", "7.0"),
        ("7E+03", "7e3"),
        ("7", "07"),
        ("7,0", "7"),
        ("part 7", "Part 07.00"),
        ("1.0mm", "1mm"),
        ("0", "0.0"),
        ("part7", "part７"),
        ("ｇｏｏｄ", "good"),
        ("A1", "\u04101"),  # CYRILLIC CAPITAL LETTER A
        ("OK", "\u039fK"),  # GREEK CAPITAL LETTER OMICRON
        ("part 7", "part\u00a07"),
        ("part 7", "part  7"),
        ("part7", "part\u200b7"),
        ("a-b", "a–b"),
        ("ﬁne", "fine"),
        ("µ", "μ"),
    ],
)
def test_twins(one, other):
    assert twins([one, "another", other, one]) == [[one, other]]


def test_names_that_differ_are_no_twins():
    different = (
        "1 10 100 01a 1b 1.1 1.10 1.01 0.5 5 1,000 -1 1-1 11 v2.0.1 v2.1 2.0.1 N D AN AD α a"
    )
    different += " part_7 part-7 part7 part7a б b größer grosser"
    assert twins(different.split()) == []


def test_merged_takes_the_commonest_spelling_or_the_first():
    assert merged(["Good", "good", "good ", "Bad", "bad"]).tolist() == ["good"] * 3 + ["Bad"] * 2
    assert merged(["7.0", "8.0"]).tolist() == ["7.0", "8.0"]


class TestRecordings:
    def test_names_are_tidied(self):
        made = make(["a ", "a", NFD, "größer"], (" good", NFD), normal_classes=["good "])
        assert made.groups.tolist() == ["a", "a", "größer", "größer"]
        assert (made.class_names, made.normal_classes) == (("good", "größer"), ("good",))

    def test_what_becomes_equal_or_empty_is_refused(self):
        with pytest.raises(DataError, match="named twice"):
            make(["a"] * 4, ("good", "good "))
        with pytest.raises(DataError, match="none of them empty"):
            make(["a", " "])

    def test_twins_are_refused(self):
        with pytest.raises(DataError, match=r"class names 'Good' \(2 times\) and 'good' \(2 t"):
            make(["a"] * 4, ("Good", "good"))
        words = r"group names '7' \(1 times\) and '7.0' \(3 times\) look alike; .*names.merged"
        with pytest.raises(DataError, match=words):
            make(["7", "7.0", "7.0", "7.0"])
        with pytest.raises(DataError, match=r"alike, and 1 other group names are alike"):
            make(["7", "7.0", "8", "8.0"])
        assert set(make(merged(["7", "7.0", "7.0"])).groups) == {"7.0"}

    def test_characters_that_are_drawn_alike_are_shown_by_their_codes(self):
        with pytest.raises(DataError, match=r"'A1' .* and '\u04101' \(\\u04101\)"):
            make(["A1", "\u04101"])

    def test_names_of_files_as_groups_may_be_alike(self):
        origins = ["a/1.wav:0", "a/01.wav:0", "a/A.wav:0", "a/a.wav:0"]
        make(origins, origins=origins)
        make([origin.removesuffix(":0") for origin in origins], origins=origins)

    def test_a_prepared_folder_of_an_earlier_version(self, tmp_path):
        made = make(["a1", "a2"])
        object.__setattr__(made, "groups", np.array(["a1", "a01"]))
        made.save(tmp_path / "prepared")
        with pytest.raises(DataError, match=r"prepared: .*'a01' .* and 'a1' .* look alike"):
            Recordings.load(tmp_path / "prepared")


@pytest.mark.filterwarnings("ignore:.*as one class")
class TestClassFolders:
    def test_blanks_and_forms_of_unicode(self, tmp_path):
        for i, label in enumerate(("good", "good ", NFD, "größer")):
            put(tmp_path / label / f"{i}.wav", i)
        with pytest.warns(UserWarning, match="read 'good' and 'good ' as one class, 'good', and l"):
            read = read_wav_folder(tmp_path, normal=["good\u00a0"])
        assert (read.class_names, read.normal_classes) == (("good", "größer"), ("good",))
        assert read.labels.tolist().count(0) == 2

    def test_twins_are_refused_or_merged(self, tmp_path):
        for i, label in enumerate(("Good", "good", "good", "bad")):
            put(tmp_path / label / f"{i}.wav", i)
        words = r"class names 'Good' \(1 times\) and 'good' \(2 times\) look alike; .*--merge-names"
        with pytest.raises(DataError, match=words):
            read_wav_folder(tmp_path)
        with pytest.warns(UserWarning, match="read 'Good' and 'good' as one class, 'good'"):
            read = read_wav_folder(tmp_path, merge_names=True)
        assert read.class_names == ("good", "bad")
        with pytest.raises(
            ArgumentError, match="no class is named 'Good'; the nearest name is good"
        ):
            read_wav_folder(tmp_path, merge_names=True, normal=["Good"])

    def test_files_of_one_name_in_two_forms(self, tmp_path):
        put(tmp_path / "a" / "größer.wav")
        put(tmp_path / "a" / f"{NFD}.wav")
        put(tmp_path / "b" / "x.wav")
        with pytest.raises(
            DataError, match="2 files have names that differ only in Unicode's form"
        ):
            read_wav_folder(tmp_path)

    def test_patterns_find_names_in_any_form(self, tmp_path):
        for i, name in enumerate((f"{NFD}_tile7", "größer_tile7 ", "good_tile07", "good_tile8")):
            put(tmp_path / f"{name}_{i}.wav", i)
        find = {"label_pattern": "^(größer|good)"}
        read = read_wav_folder(tmp_path, **find)
        assert set(read.class_names) == {"good", "größer"}
        assert all(unicodedata.is_normalized("NFC", group) for group in read.groups)
        find["group_pattern"] = "_(tile[^_]*)_"
        with pytest.raises(DataError, match=r"group names 'tile07' .* 'tile7' \(2 times\) look"):
            read_wav_folder(tmp_path, **find)
        with pytest.warns(UserWarning, match="as one group, 'tile7'"):
            read = read_wav_folder(tmp_path, **find, merge_names=True)
        assert set(read.groups) == {"tile7", "tile8"}

    def test_names_of_files_are_no_twins(self, tmp_path):
        for name in ("a/1", "a/01", "a/B", "a/b", "c/x"):
            put(tmp_path / f"{name}.wav", hash(name) % 1000)
        assert len(set(read_wav_folder(tmp_path).groups)) == 5


def test_long_recordings_in_mat_files(tmp_path):
    import scipy.io

    for name in ("N_load0", f"{NFD}_load0", "größer_load1"):
        data = np.random.default_rng(0).standard_normal((1, 400))
        scipy.io.savemat(tmp_path / f"{name}.mat", {"DE_time": data})
    assert read_long_mat(tmp_path, window=10).class_names == ("N", "größer")


def test_groups_of_a_dataset():
    signals = torch.randn(4, 1, 600)

    def items(*groups):
        return [(x, i % 2, group) for i, (x, group) in enumerate(zip(signals, groups, strict=True))]

    class Given(list):
        """A map-style dataset."""

    examples = Examples.of(Given(items("a ", "a", None, 7)), Recipe())
    assert examples.groups.tolist() == ["a", "a", "2", "7"]
    with pytest.raises(DataError, match=r"Given: the group names '7' .* '7.0' .* look alike"):
        Examples.of(Given(items(7, 7.0, 8, 9)), Recipe())
