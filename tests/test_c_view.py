"""From samples to what the network reads in C, compiled here and compared with Python."""

import ctypes
import functools
import re
import shutil
import subprocess
from importlib import resources

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hfld_lite import Detector, Recipe
from hfld_lite.data.views import network_inputs
from hfld_lite.edge.c_view import circle, factors, view_config, work
from hfld_lite.evaluation.trust import CLIPPED, NOVEL, make_trust

pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="there is no C compiler (gcc)")

TEMPLATES = resources.files("hfld_lite.edge") / "templates" / "c"
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror")
NAMES = ("hfld_view.c", "hfld_view.h", "hfld_math.h")
OK, NOT_FINITE, CONSTANT = 0, -2, -3

HEADER = """
#define HFLD_CLASSES %d
#define HFLD_SAMPLES %d
enum { HFLD_OK = 0, HFLD_BAD_LENGTH = -1, HFLD_NOT_FINITE = -2, HFLD_CONSTANT = -3 };
enum { HFLD_NOVEL = 1, HFLD_CLIPPED = 2 };
"""

OPENED = """
#include "hfld_view.c"
float opened_exp(float x) { return hfld_exp(x); }
float opened_log(float x) { return hfld_log(x); }
#if HFLD_POINTS || HFLD_DOUBTS
void opened_fourier(const hfld_source *source, int32_t count, const hfld_wave *wave, float *x)
{
    hfld_load(source, 0, count, 0.0f, 0, wave, x);
    hfld_fourier(wave, x);
}
#endif
#if HFLD_DOUBTS
float opened_novelty(const hfld_source *source, float *work) { return hfld_novelty(source, work); }
#endif
"""
"""A file that shows what is static in hfld_view.c, too."""

VIEWS = (
    dict(view="spectrum", bins_by="cutting"),
    dict(view="spectrum"),
    dict(view="log-spectrum", level="removed"),
    dict(view="log-spectrum"),
    dict(view="log-mel", level="removed"),
    dict(view="log-mel"),
    dict(view="time"),
)


class Source(ctypes.Structure):
    """C's hfld_source."""

    _fields_ = (("floats", ctypes.c_void_p), ("ints", ctypes.c_void_p))

    @classmethod
    def of(cls, x):
        made = cls(x.ctypes.data, None) if x.dtype == np.float32 else cls(None, x.ctypes.data)
        made.kept = x
        return made


class Wave(ctypes.Structure):
    """C's hfld_wave."""

    _fields_ = (
        ("points", ctypes.c_int32),
        ("shift", ctypes.c_int),
        ("coarse", ctypes.c_void_p),
        ("fine", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
    )


class Area:
    """An array of exactly so many floats, which knows whether C wrote beyond its end."""

    def __init__(self, size):
        self.whole = np.full(size + 16, 12345, np.float32)
        self.floats = self.whole[:size]
        self.pointer = ctypes.c_void_p(self.whole.ctypes.data)

    def check(self):
        assert (self.whole[len(self.floats) :] == 12345).all()
        return self.floats


class Built:
    """The C of one run, compiled."""

    def __init__(self, folder, detector, trust=None, compiler="gcc", options=("-O1",)):
        write(folder, detector, trust)
        library = folder / "view.so"
        command = [compiler, *STRICT, *options, "-fPIC", "-shared", "opened.c", "-o", library]
        subprocess.run([*command, "-lm"], cwd=folder, check=True)
        self.detector, self.library = detector, ctypes.CDLL(str(library))
        text = (folder / "hfld_config.h").read_text()
        found = re.findall(r"#define HFLD_(LENGTH|VIEW_WORK|DOUBT_WORK) (\d+)$", text, re.M)
        self.sizes = {name: int(size) for name, size in found}

    def view(self, x):
        """Status and values."""
        out, space = Area(self.sizes["LENGTH"]), Area(self.sizes["VIEW_WORK"])
        status = self.library.hfld_view(ctypes.byref(Source.of(x)), out.pointer, space.pointer)
        space.check()
        return status, out.check()

    def doubt(self, x):
        space = Area(self.sizes["DOUBT_WORK"])
        found = self.library.hfld_doubt(ctypes.byref(Source.of(x)), space.pointer)
        space.check()
        return found

    def novelty(self, x):
        self.library.opened_novelty.restype = ctypes.c_float
        space = Area(self.sizes["DOUBT_WORK"])
        found = self.library.opened_novelty(ctypes.byref(Source.of(x)), space.pointer)
        space.check()
        return found

    def fourier(self, x, points):
        """C's real Fourier transform, ``(points // 2 + 1,)``."""
        tables, space = circle(points), Area(work(points))
        wave = Wave(*(v if np.ndim(v) == 0 else v.ctypes.data for v in tables.values()))
        self.library.opened_fourier(
            ctypes.byref(Source.of(x)), len(x), ctypes.byref(wave), space.pointer
        )
        values, half = space.check()[:points], (points - 1) // 2
        found = values[: points // 2 + 1].astype(complex)
        found.imag[1 : half + 1] = values[::-1][:half]
        return found


def write(folder, detector, trust=None):
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        (folder / name).write_text((TEMPLATES / name).read_text())
    classes = len(detector.class_names)
    (folder / "hfld.h").write_text(HEADER % (classes, detector.samples))
    (folder / "hfld_config.h").write_text(view_config(detector, trust))
    (folder / "opened.c").write_text(OPENED)


def detector_of(samples, sample_rate=40000, /, **recipe):
    return Detector(Recipe(**recipe), {}, ("a", "b", "c"), ("a",), sample_rate, samples)


def recordings(count, samples, seed=0):
    """Decaying noise of several levels, with a tone and an offset of its size: float32."""
    rng = np.random.default_rng(seed)
    t = np.arange(samples)
    x = rng.standard_normal((count, samples)) * np.exp(-t / samples * rng.uniform(0, 9, (count, 1)))
    x += np.sin(rng.uniform(0, np.pi, (count, 1)) * t) + rng.standard_normal((count, 1))
    return (x * 10 ** rng.uniform(-3, 0, (count, 1)) / 8).astype(np.float32)


def integers(x):
    return np.clip(np.round(x * 32768), -32768, 32767).astype(np.int16)


@functools.cache
def trust_for(samples):
    x, labels = recordings(90, samples), np.arange(90) % 3
    probabilities = np.random.default_rng(0).dirichlet([1, 1, 1], 45)
    return make_trust((x[:45], labels[:45]), (x[45:], labels[45:]), probabilities, (0,))


@pytest.fixture(scope="module")
def every_radix(tmp_path_factory):
    detector = detector_of(840, view="spectrum", bins_by="cutting")
    return Built(tmp_path_factory.mktemp("c") / "every", detector)


@pytest.fixture(scope="module")
def mel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("c") / "mel"
    return Built(folder, detector_of(7000, view="log-mel"), trust_for(7000))


def test_exp_and_log_are_those_of_float64_rounded(every_radix):
    functions = every_radix.library.opened_exp, every_radix.library.opened_log
    for function in functions:
        function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float]
    small = np.geomspace(1e-9, 0.1, 100)
    x = np.float32([*np.linspace(-87, 88, 4000), *small, *-small])
    found = np.array([functions[0](value) for value in x])
    np.testing.assert_allclose(found, np.exp(x.astype(float)), rtol=1.2e-7)
    assert [functions[0](value) for value in (0, -1000, -np.inf)] == [1, 0, 0]
    assert functions[0](1000) == np.float32(2.0**127)
    x = np.float32([*np.geomspace(1e-44, 3.4e38, 4000), *(1 + small), *(1 - small)])
    x = x[x != 1]
    found = np.array([functions[1](value) for value in x])
    np.testing.assert_allclose(found, np.log(x.astype(float)), rtol=2e-7)
    assert functions[1](1) == 0


@given(points=st.integers(1, 1500), share=st.floats(0, 1))
@example(points=7000, share=1)
@example(points=12000, share=1)
@example(points=4096, share=0.5)
@example(points=2048, share=0.001)
@example(points=3 * 1021, share=1)
@example(points=1499, share=1)
@settings(max_examples=60, deadline=None)
def test_a_fourier_transform_of_any_length(every_radix, points, share):
    x = np.random.default_rng(points).standard_normal(max(1, int(share * points)))
    x = x.astype(np.float32)
    exact = np.fft.rfft(x.astype(float), points)
    error = np.abs(every_radix.fourier(x, points) - exact).max()
    likely = 1e-6 + 2e-7 * np.sqrt(max(factors(points), default=1))  # of its sums of float32
    assert error <= likely * np.sqrt(np.mean(np.square(np.abs(exact))))


def compare(built, count=3, seed=0, tolerance=1e-5):
    """A view's scale is about 1. 80 dB below the peak, either FFT's rounding is 1e-5 and more."""
    detector = built.detector
    x = recordings(count, detector.samples, seed)
    for rows, floats in ((x, x), (integers(x), integers(x) / np.float32(32768))):
        expected = network_inputs(floats, detector.recipe, detector.sample_rate).numpy()
        for row, wanted in zip(rows, expected, strict=True):
            status, found = built.view(row)
            assert status == OK
            assert np.isfinite(found).all()
            np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("recipe", VIEWS, ids=lambda recipe: "-".join(recipe.values()))
def test_every_view_is_that_of_the_library(tmp_path, recipe):
    compare(Built(tmp_path, detector_of(7000, **recipe)), count=5)


@given(
    samples=st.integers(16, 3000),
    sample_rate=st.sampled_from((500, 8000, 44100, 192000)),
    recipe=st.sampled_from(VIEWS),
    bins=st.none() | st.integers(257, 1000),
    cut=st.none() | st.integers(257, 3000),
)
@example(samples=12000, sample_rate=16000, recipe=VIEWS[5], bins=None, cut=None)
@example(samples=1997, sample_rate=40000, recipe=VIEWS[0], bins=None, cut=None)
@example(samples=2000, sample_rate=40000, recipe=VIEWS[0], bins=1001, cut=None)
@settings(max_examples=10, deadline=None)
def test_a_view_of_any_length(tmp_path_factory, samples, sample_rate, recipe, bins, cut):
    cut = cut if cut and cut <= samples else None
    used = cut or samples
    exists = {"time": used, "spectrum": used // 2 + 1 if "bins_by" in recipe else 1000}
    if bins and bins > exists.get(recipe["view"], 1000):
        bins = None
    recipe = recipe | {"bins": bins, "samples": cut}
    detector = detector_of(samples, sample_rate, **recipe)
    built = Built(tmp_path_factory.mktemp("c"), detector, options=("-O0",))
    compare(built, seed=samples, tolerance=1e-4)


@pytest.mark.parametrize("samples", [7000, 6001, 30])
def test_warnings_are_those_of_the_library(tmp_path, samples, mel):
    view = "time" if samples < 7000 else "log-mel"
    trust = trust_for(samples)
    built = mel if samples == 7000 else Built(tmp_path, detector_of(samples, view=view), trust)
    x = recordings(40, samples, seed=1)
    x[::3] = np.diff(x[::3], prepend=0)  # another balance of the bands
    x[1::3] = np.clip(x[1::3], -np.inf, np.quantile(x[1::3], 0.9, axis=1)[:, None])
    scores = trust.scores(x)
    np.testing.assert_allclose([built.novelty(row) for row in x], scores, rtol=1e-5)
    clear = np.abs(scores / trust.novelty - 1) > 1e-4
    whole = integers(x[clear])
    for rows, floats in ((x[clear], x[clear]), (whole, whole / np.float32(32768))):
        said = trust.warnings(floats)
        expected = [1 * (NOVEL in texts) + 2 * (CLIPPED in texts) for texts in said]
        assert [built.doubt(row) for row in rows] == expected
        assert set(expected) >= ({0, 1, 2} if samples > 30 else {0, 1})


def test_each_class_may_have_its_own_deviations(tmp_path):
    trust = trust_for(30)
    rows = np.linspace(0.3, 3, 3)[:, None] * trust.deviations
    trust = trust.model_copy(update={"deviations": tuple(map(tuple, rows))})
    built = Built(tmp_path, detector_of(30, view="time"), trust)
    x = recordings(20, 30, seed=2)
    np.testing.assert_allclose([built.novelty(row) for row in x], trust.scores(x), rtol=1e-5)


def test_a_run_at_both_ends_is_clipped_from_the_limit_on(mel):
    trust = trust_for(7000)
    x = recordings(1, 7000)[0]
    ends = np.tile([x.min(), x.max()], trust.run)[: trust.run]
    assert mel.doubt(x) & 2 == 0
    x[6999 - trust.run : 6998] = ends[1:]
    assert mel.doubt(x) & 2 == 0
    x[7000 - trust.run :] = ends
    assert mel.doubt(x) & 2


def test_what_is_no_recording_has_a_status(mel, tmp_path):
    x = recordings(1, 7000)[0]
    for value in (np.nan, np.inf, -np.inf):
        for at in (0, 3000, 6999):
            bad = x.copy()
            bad[at] = value
            assert mel.view(bad)[0] == mel.doubt(bad) == NOT_FINITE
    for value in (0, 0.1, -1, 3e38):
        flat = np.full(7000, value, np.float32)
        assert mel.view(flat)[0] == mel.doubt(flat) == CONSTANT
    assert mel.view(np.full(7000, -32768, np.int16))[0] == CONSTANT
    assert mel.view(x * np.float32(1e20))[0] == NOT_FINITE  # its power is
    loud = np.where(x > 0, 32767, -32768).astype(np.int16)
    assert mel.view(loud)[0] == OK
    assert mel.doubt(loud) & 2
    # As in Python, what the view does not read may be constant.
    short = Built(tmp_path, detector_of(700, view="time", bins=300), options=("-O0",))
    x = x[:700].copy()
    x[:300] = 0.5
    assert short.view(x)[0] == CONSTANT
    x[:299] = 0.25
    assert short.view(x)[0] == OK
    x[699] = np.nan
    assert short.view(x)[0] == NOT_FINITE
    wide = np.tile(np.float32([-3e38, 3e38]), 350)
    assert short.view(wide)[0] == NOT_FINITE


def test_without_limits_there_are_no_warnings_but_statuses(tmp_path):
    built = Built(tmp_path, detector_of(600, view="time"))
    x = recordings(1, 600)[0]
    assert built.doubt(np.clip(x, -1e-6, 1e-6)) == OK
    assert built.doubt(x * np.float32(np.nan)) == NOT_FINITE
    assert built.doubt(x * 0) == CONSTANT
    assert "#define HFLD_LIMIT 2.0f" in (tmp_path / "hfld_config.h").read_text()


def test_the_limits_of_the_answer(tmp_path):
    trust = trust_for(7000)
    config = view_config(detector_of(7000, view="time"), trust)
    limit = float(re.search(r"HFLD_LIMIT (.*)f$", config, re.M)[1])
    assert limit == pytest.approx(trust.limit, rel=1e-7)
    assert "hfld_normal[3] = {1, 0, 0};" in config
    assert "hfld_doubtable[3] = {1, 0, 0};" in config
    none = Detector(Recipe(view="time"), {}, ("a", "b"), (), 8000, 600)
    config = view_config(none, None)
    assert "#define HFLD_NORMALS 0" in config
    assert "hfld_doubtable[2] = {1, 1};" in config


def test_the_warnings_can_be_left_out(tmp_path):
    built = Built(
        tmp_path, detector_of(7000, view="log-mel"), trust_for(7000), options=("-DHFLD_WARNINGS=0",)
    )
    assert not hasattr(built.library, "hfld_doubt")
    compare(built)


SANITIZED = """
#include <stdlib.h>
#include "hfld_view.c"
#define NEW(type, count) ((type *)malloc(sizeof(type) * (size_t)(count)))
int main(void)
{
    static const float special[] = {0.0f, 1.0f, -1.0f, 1e-40f, 1e19f, -3e38f, NAN, INFINITY};
    static const int32_t every[] = {1, 2, 7, HFLD_SAMPLES - 1};
    uint32_t seed = 1;
    for (int32_t i = 0; i < 64; i++) {
        float *x = NEW(float, HFLD_SAMPLES), *work = NEW(float, HFLD_VIEW_WORK);
        float *out = NEW(float, HFLD_LENGTH), *more = NEW(float, HFLD_DOUBT_WORK);
        int16_t *whole = NEW(int16_t, HFLD_SAMPLES);
        for (int32_t t = 0; t < HFLD_SAMPLES; t++) {
            seed = seed * 1664525u + 1013904223u;
            whole[t] = (int16_t)((int32_t)(seed >> 16) - 32768);
            x[t] = t % every[i % 4] == 0 ? special[i / 4 % 8] : (float)whole[t] / 32768.0f;
            x[t] = i < 32 ? x[t] : special[i / 4 % 8];
        }
        const hfld_source floats = {x, 0}, ints = {0, whole};
        hfld_view(&floats, out, work);
        hfld_doubt(&floats, more);
        if (hfld_view(&ints, out, work) != HFLD_OK || hfld_doubt(&ints, more) < 0) {
            return 1;
        }
        free(x), free(work), free(out), free(more), free(whole);
    }
    return 0;
}
"""


@pytest.mark.parametrize(
    ("samples", "recipe"), [(7000, VIEWS[5]), (999, VIEWS[3]), (1001, VIEWS[0])]
)
def test_sanitizers_find_nothing(tmp_path, samples, recipe):
    write(tmp_path, detector_of(samples, **recipe), trust_for(samples))
    (tmp_path / "main.c").write_text(SANITIZED)
    sanitized = ("-std=c99", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    command = ["gcc", *sanitized, "main.c", "-o", "main", "-lm"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_compilers_agree_to_the_bit(tmp_path, mel):
    """Without -std=c99 too: gcc then fuses products and sums unless hfld_math.h forbids it."""
    x = recordings(2, 7000)
    expected = [(mel.view(row)[1].tobytes(), mel.novelty(row)) for row in x]
    choices = [("gcc", "-O0"), ("gcc", "-O3", "-march=native", "-std=gnu11")]
    choices += [("clang", "-O3", "-march=native")] * bool(shutil.which("clang"))
    for number, (compiler, *options) in enumerate(choices):
        built = Built(tmp_path / str(number), mel.detector, trust_for(7000), compiler, options)
        assert [(built.view(row)[1].tobytes(), built.novelty(row)) for row in x] == expected
