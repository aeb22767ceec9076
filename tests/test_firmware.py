"""The exported C folder: compiled, checked, called with bad input, exported with bad names."""

import ctypes
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hfld_lite import ArgumentError, HfldError, RecipeError, adapt
from hfld_lite.app import cli
from hfld_lite.app.runs import load_run
from hfld_lite.edge import firmware as made
from hfld_lite.edge.firmware import LONGEST_IDENTIFIER, c_string, export_firmware, identifiers
from hfld_lite.evaluation.trust import CLIPPED, NOVEL

COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror")
OK, BAD_LENGTH, NOT_FINITE, CONSTANT, UNSURE = 0, -1, -2, -3, -1

needs_compiler = pytest.mark.skipif(
    not COMPILERS or not shutil.which("make"), reason="no C compiler here"
)


@pytest.fixture(scope="module")
def run(saved_run):
    return load_run(saved_run[0])


@pytest.fixture(scope="module", autouse=True)
def one_graph():
    """The graph of a network is made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made, "to_onnx", cache(made.to_onnx))
        yield


@pytest.fixture(scope="module")
def export(run, saved_run):
    def call(folder, format="c", detector=None, **options):
        options = {"trust": run.trust["student"]} | options
        given = {"recordings": lambda: saved_run[1], "split": run.split}
        return export_firmware(detector or run.detector, folder, format, **given, **options)

    return call


@pytest.fixture(scope="module")
def written(export, tmp_path_factory):
    return export(tmp_path_factory.mktemp("firmware") / "c")


def sh(folder, *command, code=0):
    done = subprocess.run(
        list(map(str, command)), cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def library(folder, out, precision, *flags):
    sources = sorted(folder.glob("hfld*.c"))
    chosen = ["-DHFLD_FLOAT32"] if precision == "float32" else []
    sh(
        folder,
        *(COMPILERS[0], *STRICT, "-O1", *chosen, *flags, "-shared", "-fPIC", "-o", out),
        *(*sources, "-lm"),
    )
    return ctypes.CDLL(str(out))


@pytest.fixture(scope="module", params=["int8", "float32"])
def compiled(request, written, tmp_path_factory):
    if not COMPILERS:
        pytest.skip("no C compiler here")
    out = tmp_path_factory.mktemp("so") / "hfld.so"
    return request.param, library(written.folder, out, request.param)


def predict(loaded, signal, count=None, classes=4):
    found = np.full(classes + 1, 7, np.float32)
    kind = "_int16" if signal.dtype == np.int16 else ""
    status = getattr(loaded, f"hfld_predict{kind}")(
        ctypes.c_void_p(np.ascontiguousarray(signal).ctypes.data),
        len(signal) if count is None else count,
        ctypes.c_void_p(found.ctypes.data),
    )
    assert found[-1] == 7
    assert status == OK or (found == 7).all(), "an error leaves them as they were"
    return status, found[:-1]


def answer(loaded, probabilities):
    values = np.asarray(probabilities, np.float32)
    return loaded.hfld_answer(ctypes.c_void_p(values.ctypes.data))


def warned(loaded, signal):
    values = np.ascontiguousarray(signal, np.float32)
    return loaded.hfld_warnings(ctypes.c_void_p(values.ctypes.data), len(signal))


def test_the_folder_has_the_files_that_it_says_and_arduino_has_the_same(written):
    folder = written.folder
    found = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert found == sorted(written.files)
    names = ["hfld.c", "hfld.h", "hfld_config.h", "hfld_float32.c", "hfld_int8.c"]
    names += ["hfld_kernels.h", "hfld_math.h", "hfld_network.h", "hfld_view.c", "hfld_view.h"]
    others = ["Makefile", "README.md", "main.c", "test_vector.h"]
    assert sorted(p.name for p in folder.iterdir()) == sorted([*names, *others, "arduino"])
    library_ = folder / "arduino" / "hfld_detector"
    assert sorted(p.name for p in (library_ / "src").iterdir()) == names
    for name in names:
        assert (library_ / "src" / name).read_text() == (folder / name).read_text()
    assert "includes=hfld.h" in (library_ / "library.properties").read_text()
    assert "hfld_predict_int16" in (library_ / "examples/classify/classify.ino").read_text()
    included = set(re.findall(r"#include <(.+)>", "".join((folder / n).read_text() for n in names)))
    assert included == {"stdint.h", "math.h"}
    assert written.precisions == ("int8", "float32")
    assert written.difference < 1e-5


def test_exports_are_the_same_bytes(written, export, tmp_path):
    again = export(tmp_path)
    for name in written.files:
        assert (tmp_path / name).read_bytes() == (written.folder / name).read_bytes()
    assert again.memory == written.memory


@needs_compiler
def test_make_check_as_the_readme_says_and_a_changed_weight_fails(written, tmp_path):
    folder = shutil.copytree(written.folder, tmp_path / "copy")
    assert "    make check PRECISION=float32\n" in (folder / "README.md").read_text()
    for options in ((), ("PRECISION=float32",), ("CFLAGS=-O1 -DHFLD_WARNINGS=0",)):
        said = sh(folder, "make", "-B", "check", *options, *(() if options else ("CC=cc",)))
        assert len(re.findall(r"recording \d: (sound|defective|unsure),", said)) == 2
    path, text = folder / "hfld_int8.c", (folder / "hfld_int8.c").read_text()
    wrong = re.sub(r"(hfld_quantise\(\S+ -?\d+)", r"\1 - 64", text)  # the input's zero point
    path.write_text(wrong)
    assert "differ by more than" in sh(folder, "make", "-B", "check", code=2)
    path.write_text(text)
    for precision, wrong in (("int8", "9999999"), ("float32", "99.0f"), ("float32", "0.0f / 0.0f")):
        path = folder / f"hfld_{precision}.c"
        text = path.read_text()
        *_, bias = re.finditer(r"bias_\d+\[\] = \{\n +(\S+),", text)  # of the last layer
        path.write_text(text[: bias.start(1)] + wrong + text[bias.end(1) :])
        said = sh(folder, "make", "-B", "check", f"PRECISION={precision}", "CFLAGS=-O0", code=2)
        assert "of 2 recordings differ by more than" in said
        path.write_text(text)


@needs_compiler
def test_answers_are_python_s(compiled, written, run, saved_run):
    precision, loaded = compiled
    signals = np.asarray(saved_run[1].signals, np.float32)
    expected = written.predict[precision](signals)
    found = []
    for signal in signals:
        status, probabilities = predict(loaded, signal)
        assert status == OK
        found.append(probabilities)
    found = np.stack(found)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)
    errors = np.abs(found - expected)
    assert np.ptp(expected, 0).max() > 0.1, "the network tells recordings apart"
    assert errors.max() < (1e-4 if precision == "float32" else made.LOOSE)
    assert np.median(errors) < 1e-5, "usually not even a step differs"
    whole = np.round(signals[0] / np.abs(signals[0]).max() * 32767).astype(np.int16)
    assert predict(loaded, whole)[1].tolist() == (
        predict(loaded, (whole / 32768).astype(np.float32))[1].tolist()
    )
    trust = written.trust if precision == "int8" else run.trust["student"]
    for row in found:
        doubtful = trust.unsure(row[None].astype(float))[0]
        near = abs(1 - row[list(trust.normal)].sum() - trust.limit) < 1e-5
        assert near or answer(loaded, row) == (UNSURE if doubtful else row.argmax())
    normal = trust.normal[0]
    least = np.full(4, (1 - 0.999) / 3)
    least[normal] = 0.999
    assert answer(loaded, least) in (normal, UNSURE)
    assert answer(loaded, np.roll(least, 1 if normal < 3 else -1)) != UNSURE
    for signal, words in zip(signals, run.trust["student"].warnings(signals), strict=True):
        assert warned(loaded, signal) == (NOVEL in words) + 2 * (CLIPPED in words)


@needs_compiler
def test_bad_recordings_have_their_code(compiled, saved_run):
    _, loaded = compiled
    good = np.array(saved_run[1].signals[0], np.float32)
    assert predict(loaded, good)[0] == OK
    for count in (0, -1, len(good) - 1, len(good) + 1, 2**31 - 1, -(2**31)):
        assert predict(loaded, good, count)[0] == BAD_LENGTH
    for value in (np.nan, np.inf, -np.inf):
        for at in (0, len(good) // 2, len(good) - 1):
            bad = good.copy()
            bad[at] = value
            assert predict(loaded, bad)[0] == NOT_FINITE
            assert warned(loaded, bad) == NOT_FINITE
    for value in (0, 1, -0.5, 1e-45):
        assert predict(loaded, np.full_like(good, value))[0] == CONSTANT
        assert warned(loaded, np.full_like(good, value)) == CONSTANT
    assert predict(loaded, np.zeros(len(good), np.int16))[0] == CONSTANT
    huge = good / np.abs(good).max() * 3.4e38
    assert predict(loaded, huge.astype(np.float32))[0] == NOT_FINITE


DRIVER = """
#include <stdio.h>
#include "hfld.h"
int main(void)
{
    static float samples[HFLD_SAMPLES];
    static int16_t ints[HFLD_SAMPLES];
    float p[HFLD_CLASSES];
    long errors = 0;
    while (fread(samples, sizeof samples, 1, stdin) == 1) {
        for (int i = 0; i < HFLD_SAMPLES; i++) {
            float x = samples[i];
            ints[i] = (int16_t)(x > -1 && x < 1 ? x * 32767 : x > 0 ? 32767 : -32768);
        }
        for (int i = 0; i < 2; i++) {
            int status = i ? hfld_predict_int16(ints, HFLD_SAMPLES, p)
                           : hfld_predict(samples, HFLD_SAMPLES, p);
            float sum = 0;
            if (status == HFLD_OK) {
                for (int c = 0; c < HFLD_CLASSES; c++)
                    sum += p[c];
                if (!(sum > 0.99f && sum < 1.01f) || hfld_answer(p) >= HFLD_CLASSES)
                    return 3;
            } else
                errors++;
        }
        hfld_warnings(samples, HFLD_SAMPLES);
        hfld_warnings_int16(ints, HFLD_SAMPLES);
        if (hfld_predict(samples, 3, p) != HFLD_BAD_LENGTH)
            return 4;
    }
    printf("%ld errors", errors);
    return 0;
}
"""


@needs_compiler
@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_sanitizers_find_nothing_in_a_thousand_recordings(written, saved_run, tmp_path, precision):
    rng = np.random.default_rng(0)
    signals = np.asarray(saved_run[1].signals, np.float32)
    some = signals[rng.integers(0, len(signals), 500)] * 10 ** rng.uniform(-9, 5, (500, 1))
    some[::5, rng.integers(0, signals.shape[1], 100)] = np.nan
    some[1::5, ::7] = np.inf
    some[2::5] = np.sign(some[2::5])  # full scale
    some[3::5] *= 1e-38  # denormal
    some[4::10] = 0
    (tmp_path / "in").write_bytes(some.astype("<f4").tobytes())
    (tmp_path / "driver.c").write_text(DRIVER)
    chosen = ["-DHFLD_FLOAT32"] if precision == "float32" else []
    sources = sorted(written.folder.glob("hfld*.c"))
    flags = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    sh(
        tmp_path,
        *(COMPILERS[0], "-std=c99", *flags, *chosen, f"-I{written.folder}", "-o", "driver"),
        *("driver.c", *sources, "-lm"),
    )
    with open(tmp_path / "in", "rb") as file:
        done = subprocess.run(
            [tmp_path / "driver"], stdin=file, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert 300 < int(done.stdout.split()[0]) < 800


AWKWARD = ('quote" back\\slash ??/', "0 digits first", "tüv/ß*/", "Tüv ß*/")


@needs_compiler
def test_awkward_class_names(export, run, tmp_path):
    detector = replace(run.detector, class_names=AWKWARD, normal_classes=())
    names, _ = identifiers(AWKWARD)
    written = export(tmp_path / "c", "c-float32", detector, trust=None)
    header = (tmp_path / "c" / "hfld.h").read_text()
    for position, name in enumerate(names):
        assert f"    {name} = {position},\n" in header
    for compiler in COMPILERS:
        sh(
            written.folder,
            *(
                compiler,
                *STRICT,
                "-O0",
                "-trigraphs",
                "-shared",
                "-fPIC",
                "-o",
                tmp_path / compiler,
            ),
            *(*sorted(written.folder.glob("hfld*.c")), "-lm"),
        )
    loaded = ctypes.CDLL(str(tmp_path / COMPILERS[0]))
    for table in ("hfld_class_names", "hfld_answers"):
        found = (ctypes.c_char_p * 4).in_dll(loaded, table)
        assert [text.decode() for text in found] == list(AWKWARD)
    # No class is normal and there are no limits: the likeliest class is the answer.
    assert answer(loaded, [0.25, 0.26, 0.25, 0.24]) == 1


def test_names_in_c_are_distinct_and_short():
    names = ("a b", "A_B", "a b 0", "x" * 80, "x" * 81, "fine", "", "9")
    found, notes = identifiers(names)
    assert len(set(found)) == len(names)
    assert all(re.fullmatch(r"HFLD_CLASS_[A-Z0-9_]*", name) for name in found)
    assert max(map(len, found)) <= LONGEST_IDENTIFIER
    assert found[5] == "HFLD_CLASS_FINE"
    assert len(notes) == 4
    assert notes[0] == (
        f"The class 'a b' is {found[0]} in hfld.h, since another class has the same name in C."
    )
    assert "since its name is too long for C" in notes[2]
    assert c_string('a"\\?ß1') == '"a\\042\\134\\077\\303\\2371"'


def test_float32_after_int8_leaves_nothing_stale(export, tmp_path):
    export(tmp_path)
    written = export(tmp_path, "c-float32")
    assert not list(tmp_path.rglob("hfld_int8.c"))
    assert written.precisions == ("float32",)
    if COMPILERS:
        said = sh(tmp_path, "make", "check", "CFLAGS=-O1")
        assert "largest difference" in said


def test_refusals_write_nothing(export, run, tmp_path):
    with pytest.raises(ArgumentError, match="format is 'asm'; choose one of c, c-float32"):
        export(tmp_path / "x", "asm")
    with pytest.raises(ArgumentError, match="export in the format 'c-float32' without a miss rate"):
        export_firmware(run.detector, tmp_path / "x")
    with pytest.raises(HfldError, match="There is no 'pupil' here"):
        export(tmp_path / "x", role="pupil")
    length = made.input_length(run.detector)
    layers = nn.Unflatten(1, (1, length)), nn.Conv1d(1, 4, length), nn.Tanh(), nn.Flatten()
    networks = {"student": nn.Sequential(*layers)}
    with pytest.raises(ArgumentError, match="operator Tanh, not written in C; export it as onnx"):
        export(tmp_path / "x", detector=replace(run.detector, networks=networks))
    layer = nn.Conv1d(1, 4, length)
    nn.init.constant_(layer.weight, torch.nan)
    broken = adapt(nn.Sequential(nn.Unflatten(1, (1, length)), layer, nn.Flatten()), "1")
    with pytest.raises(HfldError, match="differ from torch's by nan in a probability"):
        export(
            tmp_path / "x",
            "c-float32",
            replace(run.detector, networks={"student": broken}),
        )
    assert not (tmp_path / "x").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match=r"file cannot be written \(.+\); choose another folder"):
        export(tmp_path / "file")
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(RecipeError, match=r"is a run's own folder; choose another"):
        export(tmp_path, "c-float32")
    (tmp_path / "run.json").unlink()
    (tmp_path / "main.c").write_text("mine")
    with pytest.raises(RecipeError, match=r"has a main\.c that no export of C wrote"):
        export(tmp_path, "c-float32")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "main.c"]
    assert (tmp_path / "main.c").read_text() == "mine"


def test_int8_without_its_recordings_names_the_other_format(
    saved_run, tmp_path, monkeypatch, capsys
):
    copy = shutil.copytree(saved_run[0], tmp_path / "run")
    facts = (copy / "run.json").read_text()
    folder = Path(saved_run[0]).parent / "data"
    (copy / "run.json").write_text(facts.replace(str(folder), "gone"))
    arguments = ["export", copy, "--format", "c", "--out", tmp_path / "x"]
    monkeypatch.setattr(sys, "argv", ["hfld", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr()
    assert stop.value.code == 2
    text = " ".join((said.out + said.err).split())
    assert "c-float32" in text
    assert text.startswith("hfld: ")
    assert not (tmp_path / "x").exists()


@needs_compiler
def test_a_program_of_one_s_own_is_compiled_as_the_readme_says(export, tmp_path):
    folder = export(tmp_path, "c-float32", role="student_alone").folder
    readme = (folder / "README.md").read_text()
    assert "edge RUN --role student_alone --on" in readme
    (said,) = re.findall(r"(?m)^Compile all files `(.+?)`, and link with `(.+?)`", readme)
    snippet = "".join(re.findall(r"(?m)^ {4}(.*\n)", readme.partition("In your program:")[2]))
    head, _, body = snippet.partition("float probabilities")
    (folder / "own.c").write_text(
        f"{head}int main(void) {{ float probabilities{body}"
        "return status != HFLD_CONSTANT || answer > 9 || bits > 3; }\n"
    )
    sh(folder, "sh", "-c", f"cc -std=c99 {said[0]} own.c {said[1]} -o own && ./own")


@pytest.mark.skipif(not shutil.which("g++") or not COMPILERS, reason="no C++ compiler here")
def test_the_sketch_keeps_the_sample_rate(written, tmp_path):
    """With a clock of whole microseconds, at a rate whose period is not whole."""
    (tmp_path / "Arduino.h").write_text(
        "#include <stdint.h>\n#include <stdlib.h>\n#define A0 0\n"
        "static unsigned long clock_, last_;\n"
        "static unsigned long micros() { return clock_ += 1; }\n"
        "static void analogReadResolution(int) {}\n"
        "static int analogRead(int) { last_ = clock_; return 0; }\n"
        "static struct { void begin(int) {}  template <class T> void print(T) {}\n"
        "template <class T> void print(T, int) {}\n"
        "template <class T> void println(T) {} } Serial;\n"
    )
    sketch = written.folder / "arduino/hfld_detector/examples/classify/classify.ino"
    source = sketch.read_text().replace("<hfld.h>", '"own.h"')
    (tmp_path / "own.h").write_text(
        "#define HFLD_SAMPLES 44101\n#define HFLD_SAMPLE_RATE 44100\n#define HFLD_CLASSES 2\n"
        "enum { HFLD_OK, HFLD_UNSURE = -1, HFLD_NOVEL = 1 };\n"
        "static const char *hfld_class_names[2], *hfld_answers[2];\n"
        "static int hfld_predict_int16(const int16_t *, int32_t, float *) { return 1; }\n"
        "static int hfld_answer(const float *) { return 0; }\n"
        "static int hfld_warnings_int16(const int16_t *, int32_t) { return 0; }\n"
    )
    (tmp_path / "run.cpp").write_text(
        f'#include "Arduino.h"\n{source}\n#include <stdio.h>\nint main() {{ setup(); '
        'unsigned long from = clock_; loop(); printf("%lu", last_ - from); }\n'
    )
    sh(tmp_path, "g++", "-Wall", "-Werror", "-Wno-unused-variable", "run.cpp", "-o", "run")
    assert abs(int(sh(tmp_path, "./run")) - 1_000_000) < 10  # a second


@pytest.mark.skipif(not shutil.which("g++") or not COMPILERS, reason="no C++ compiler here")
def test_the_header_is_included_from_cpp(written, tmp_path):
    (tmp_path / "use.cpp").write_text(
        '#include "hfld.h"\n#include <cstdio>\nint main() { float p[HFLD_CLASSES] = {1};\n'
        "return hfld_answer(p) == HFLD_UNSURE || !hfld_class_names[0]; }\n"
    )
    library(written.folder, tmp_path / "libhfld.so", "int8")
    sh(tmp_path, "g++", "-Wall", "-Werror", f"-I{written.folder}", "use.cpp", "./libhfld.so")
    sh(tmp_path, "./a.out")
