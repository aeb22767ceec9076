"""Manifests as people, spreadsheets and pandas write them, and what is wrong with them."""

import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from hfld_lite.data.class_folders import read_wav_folder
from hfld_lite.data.readers import read_folder
from hfld_lite.errors import ArgumentError, DataError
from hfld_lite.recipes import Recipe, RecipeError

NFD = unicodedata.normalize("NFD", "größer")


def put(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, 60), 8000)
    return path


def write(folder: Path, text: str, name: str = "manifest.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8-sig", newline="")
    return folder / name


@pytest.fixture
def flat(tmp_path):
    for i in range(4):
        put(tmp_path / "flat" / f"{i}.wav", i)
    return tmp_path / "flat"


def test_labels_and_groups(flat):
    write(flat, 'file,label,group\n0.wav,ok,a\n"1.wav",bad,"b, left"\n2.wav,ok,a\n3.wav,bad,c\n')
    read = read_wav_folder(flat)
    assert (read.class_names, read.normal_classes) == (("ok", "bad"), ("ok",))
    assert read.labels.tolist() == [0, 1, 0, 1]
    assert read.groups.tolist() == ["a", "b, left", "a", "c"]
    with pytest.raises(ArgumentError, match="leave out group_pattern"):
        read_wav_folder(flat, group_pattern="(.)")


def test_elsewhere_and_without_groups(flat, tmp_path):
    path = write(tmp_path, "label,file\nok,0.wav\nbad,1.wav\n", "list.csv")
    with pytest.warns(UserWarning, match=r"left out 2 that the manifest lacks: 2.wav, 3.wav"):
        read = read_wav_folder(flat, manifest=path)
    assert read.groups.tolist() == ["0.wav", "1.wav"]


ROWS = [("file", "label", "group")]
ROWS += [(f"{i}.wav", "NA" if i % 2 else "007", f"part {i // 2}, left") for i in range(4)]


def lines(separator: str = ",", end: str = "\n", rows=ROWS) -> str:
    quoted = [[f'"{cell}"' if " " in cell else cell for cell in row] for row in rows]
    return end.join(separator.join(row) for row in quoted) + end


FRAME = pd.DataFrame(ROWS[1:], columns=ROWS[0])
HEAD, *BODY = lines().splitlines()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lines(), ""),
        (lines(end="\r\n"), ""),
        (lines(end="\r"), ""),
        (lines(";"), ""),
        (lines("\t"), ""),
        (lines("|"), ""),
        ("sep=;\r\n" + lines(";", "\r\n"), ""),
        ("\n" + lines(), ""),
        (lines().encode("utf-16"), ""),
        ("\ufeff" + lines(";", "\r\n"), ""),
        (("\ufeff" + lines("\t")).encode("utf-16-be"), ""),
        (FRAME.to_csv(), ""),
        (FRAME.to_csv(quoting=1), ""),
        (FRAME.to_csv(quoting=1, sep=";", index_label="Unnamed: 0"), ""),
        (lines().replace(HEAD, " File ,LABEL,\u00a0Group"), ""),
        (lines().replace("file,label", '"file", label'), ""),
        (lines() + ",,\n,,\n", "left out 2 empty rows"),
        ("\n".join([HEAD, BODY[0], "", " ,\t,\u00a0", *BODY[1:]]), "left out 2 empty rows"),
        ("\n".join(line + ",," for line in lines().splitlines()), ""),
        (FRAME.assign(day="Mon", rpm=[1, 2, None, 4]).to_csv(), "ignored the columns day, rpm"),
        (FRAME[["group", "label", "file"]].to_csv(index=False), ""),
    ],
)
def test_what_spreadsheets_and_pandas_write(flat, content, said):
    content = content if isinstance(content, bytes) else content.encode()
    (flat / "manifest.csv").write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read = read_wav_folder(flat)
    assert [str(w.message).split(": ", 1)[1] for w in caught] == [said] * bool(said)
    assert read.class_names == ("007", "NA")  # no number, nothing missing
    assert read.groups.tolist() == [row[2] for row in ROWS[1:]]


def test_an_ignored_column_may_have_been_the_group(flat):
    write(flat, "file,label,Tile\n0.wav,ok,a\n1.wav,bad,a\n2.wav,ok,b\n3.wav,bad,b\n")
    with pytest.warns(UserWarning, match="ignored the column tile, so that each file is its own"):
        assert len(set(read_wav_folder(flat).groups)) == 4


def test_capitals_in_its_own_name(flat):
    write(flat, lines(), "Manifest.CSV")
    assert len(read_folder(flat)) == 4
    write(flat, lines())
    with pytest.raises(DataError, match=r"holds Manifest.CSV and manifest.csv; expected one"):
        read_folder(flat)


class TestNamesOfFiles:
    @pytest.fixture
    def folder(self, tmp_path):
        for i, name in enumerate((f"{NFD}/0.wav", "A/1.WAV", "A/a b.wav")):
            put(tmp_path / name, i)
        return tmp_path

    @pytest.mark.parametrize(
        ("first", "second", "said"),
        [
            ("größer/0.wav", "A/1.WAV", 1),
            ("größer\\0.wav", "A\\1.WAV", 1),
            (f"{NFD}/0.wav", ".\\A\\1.WAV", 0),
            (f" {NFD}/0.wav ", "./A/1.WAV\u00a0", 1),
            ("Größer/0.wav", "a/1.wav", 2),
        ],
    )
    def test_other_forms_are_found(self, folder, first, second, said):
        write(folder, f"file,label\n{first},ok\n{second},bad\nA/a b.wav,ok\n")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            read = read_wav_folder(folder)
        assert read.groups.tolist() == ["größer/0.wav", "A/1.WAV", "A/a b.wav"]
        found = f"found {said} files whose names are written in another case"
        assert [found in str(w.message) for w in caught] == [True] * bool(said)

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("1.wav", r"'1.wav' is not there; .*; the nearest name is A/1.WAV"),
            ("C:\\data\\A\\1.wav", r"is not there; .*; the nearest name is A/1.WAV"),
            ("/home/me/A/1.wav", r"lies outside the folder; .*; the nearest name is A/1.WAV"),
            ("A/a_b.wav", r"'A/a_b.wav' is not there; .*; the nearest name is A/a b.wav"),
            ("zzz", r"'zzz' is not there; expected a file below .*, listed once\.$"),
        ],
    )
    def test_the_nearest_is_suggested(self, folder, name, words):
        write(folder, f"file,label\nA/1.WAV,ok\n{name},bad\n")
        with pytest.raises(DataError, match=f"manifest.csv, line 3: the file .*{words}"):
            read_wav_folder(folder)

    def test_two_that_it_could_mean(self, folder):
        put(folder / "a" / "1.wav")
        write(folder, "file,label\nA/1.Wav,ok\n")
        with pytest.raises(DataError, match=r"'A/1.Wav' is not there; .*; the nearest name is A/1"):
            read_wav_folder(folder)

    def test_one_file_by_two_names(self, folder):
        write(folder, "file,label\nA/1.WAV,ok\na\\1.wav,bad\n")
        with pytest.raises(DataError, match=r"line 3: the file .* is listed twice"):
            read_wav_folder(folder)


class TestTwins:
    def test_blanks_after_a_group(self, flat):
        write(flat, "file,label,group\n0.wav,ok,a\n1.wav,bad,a \n2.wav,ok ,b\n3.wav,bad,b\u00a0\n")
        with pytest.warns(UserWarning, match="as one class") as caught:
            read = read_wav_folder(flat)
        said = [str(w.message) for w in caught]
        assert "manifest.csv: read 'ok' and 'ok ' as one class, 'ok'" in said[0]
        assert "manifest.csv: read 'a' and 'a ' as one group, 'a', and likewise 1 more" in said[1]
        assert (set(read.groups), read.class_names) == ({"a", "b"}, ("ok", "bad"))

    def test_numbers_as_pandas_writes_them(self, flat):
        text = "file,label,group\n0.wav,ok,7.0\n1.wav,bad,7.0\n2.wav,ok,8.0\n3.wav,bad,{}\n"
        write(flat, text.format("8.0"))
        assert set(read_wav_folder(flat).groups) == {"7.0", "8.0"}
        write(flat, text.format("8"))
        with pytest.raises(
            DataError, match=r"manifest.csv: the group names '8.0' .* and '8' .* lo"
        ):
            read_wav_folder(flat)
        with pytest.warns(UserWarning, match="read '8.0' and '8' as one group, '8.0'"):
            assert set(read_wav_folder(flat, merge_names=True).groups) == {"7.0", "8.0"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: the columns are none; expected file,label"),
        ("name;label\n0.wav;ok\n", "line 1: the columns are name, label; expected file,label or"),
        ("file,label,Label\n0.wav,ok,a\n", "the columns are file, label, label; .* each once"),
        ("file\n0.wav\n", "line 1: the columns are file; expected"),
        ("file,label\n0.wav,ok\n9.wav,bad\n", "line 3: the file '9.wav' is not there"),
        ("file,label\n0.wav,ok\n\n,\n9.wav,bad\n", "line 5: the file '9.wav' is not there"),
        ("sep=,\nfile,label\n0.wav,ok\n9.wav,bad\n", "line 4: the file '9.wav' is not there"),
        ("file,label\n0.wav,ok\n0.wav,bad\n", "line 3: the file '0.wav' is listed twice"),
        ("file,label\n../outside.wav,ok\n", "line 2: the file '../outside.wav' lies outside"),
        ("file,label\n/etc/passwd,ok\n", "line 2: the file '/etc/passwd' lies outside"),
        ("file,label\nmanifest.csv,ok\n", "line 2: the file 'manifest.csv' does not end in .wav"),
        ("file,label\n0.wav,ok\n1.wav\n", "line 3: the label is missing; expected one in"),
        ("file,label\n0.wav,ok,x\n", "line 2: there are 3 fields; expected 2, .*in quotes"),
        ("file,label\n0.wav,\n", "only unlabelled recordings, and no class"),
        ("file,label,group\n0.wav,ok,\u00a0\n", "line 2: the group is empty"),
        ("file,label\n0.wav,ok\n1.wav,#N/A\n", "line 3: the label is #N/A, an error of the spread"),
        ('file,label\n0.wav,ok\n"1.wav', "cannot be read"),
        ("file,label\n0\0.wav,ok\n", "line [12]: cannot be read"),
        ("file,label\n", "there is no class"),
        ("file,label\n0.wav,ok\n", "only the class 'ok'"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(flat, text, words):
    put(flat.parent / "outside.wav")
    write(flat, text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DataError, match=words) as caught:
            read_wav_folder(flat)
    assert "class" in words or "manifest.csv, line" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"file,label\n\xff\xfe,a\n", "it is not in UTF-8: byte 0xff in line 2; save it as UTF-8"),
        ("file,label\n0.wav,größer\n".encode("cp1252"), "byte 0xf6 in line 2; .*save as CSV UTF-8"),
        (lines().encode("utf-16-le"), "it holds NUL characters, so .* as UTF-8"),
        (b"\xff\xfef\0i\0l", "it is not in UTF-16: "),
        (b"PK\x03\x04\x14\0", "it is a ZIP archive or a spreadsheet .*unpack or export it"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "it is a pointer of Git LFS: run `git lfs",
        ),
    ],
)
def test_not_text_in_utf_8(flat, content, words):
    (flat / "manifest.csv").write_bytes(content)
    with pytest.raises(
        DataError, match=rf"manifest.csv, line 1: cannot be read .*{words}"
    ) as caught:
        read_wav_folder(flat)
    assert "damaged" not in str(caught.value)


def test_not_there(flat):
    with pytest.raises(DataError, match=r"no.csv, line 1: cannot be read .*No such file"):
        read_wav_folder(flat, manifest=flat / "no.csv")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_recipe_as_windows_saves_it(tmp_path, encoding):
    (tmp_path / "recipe.json").write_bytes('{"name": "größer"}\r\n'.encode(encoding))
    assert Recipe.load(tmp_path / "recipe.json").name == "größer"


def test_a_recipe_in_another_encoding(tmp_path):
    (tmp_path / "recipe.json").write_bytes('{"name":\n"größer"}'.encode("cp1252"))
    with pytest.raises(
        RecipeError, match=r"it is not in UTF-8: byte 0xf6 in line 2; save it as UTF-8"
    ):
        Recipe.load(tmp_path / "recipe.json")
