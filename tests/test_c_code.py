"""What is written in C, compiled here: against torch in float32, bit by bit in eight bits."""

import ctypes
import shutil
import subprocess
from importlib import resources

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import random_inputs, random_program

from hfld_lite.edge.c_code import float32_source, int8_source, network_header
from hfld_lite.edge.export import CALIBRATION
from hfld_lite.edge.integers import to_integers
from hfld_lite.edge.program import place, read_program

COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror", "-O1")
RANDOM = 24
SIZES = [
    (depth, width, length, "small")
    for depth in (10, 18)
    for width, length in ((1 / 16, 601), (1 / 8, 600), (1 / 4, 601))
]

pytestmark = pytest.mark.skipif(not COMPILERS, reason="no C compiler here")


def compiled(folder, programs, eight_bits, *flags, compiler=None):
    """A function for each program, from inputs ``(length,)`` to logits; all in one library."""
    for name in ("hfld_kernels.h", "hfld_math.h"):
        text = resources.files("hfld_lite.edge").joinpath(f"templates/c/{name}").read_text("utf-8")
        (folder / name).write_text(text)
    networks, names = [], []
    for number, program in enumerate(programs):
        integers = to_integers(program, random_inputs(program, CALIBRATION))
        source = int8_source(integers) if eight_bits else float32_source(program)
        header = f"#define hfld_network network_{number}\n" + network_header(program, True)
        (folder / f"hfld_network_{number}.h").write_text(header)
        source = source.replace('"hfld_network.h"', f'"hfld_network_{number}.h"')
        names.append(folder / f"network_{number}.c")
        names[-1].write_text(source)
        networks.append(integers if eight_bits else program)
    path = folder / "all.so"
    precision = [] if eight_bits else ["-DHFLD_FLOAT32"]
    command = [
        compiler or COMPILERS[0],
        *STRICT,
        *precision,
        *flags,
        "-shared",
        "-fPIC",
        "-o",
        path,
    ]
    done = subprocess.run([*command, *names], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    library = ctypes.CDLL(str(path))
    width = 1 if eight_bits else 4

    def caller(number, program):
        def call(x):
            # What lies around the arena must stay as it was; stale values must not be read.
            size, guard = place(program, width).bytes, 64
            arena = np.full(size + 2 * guard, 0xFF, np.uint8)  # NaN as floats
            arena[guard : guard + 4 * len(x)] = np.ascontiguousarray(x).view(np.uint8)
            logits = np.full(program.shapes[-1].channels + 1, np.nan, np.float32)
            at = ctypes.c_void_p(arena.ctypes.data + guard)
            library[f"network_{number}"](at, ctypes.c_void_p(logits.ctypes.data))
            assert (arena[:guard] == 0xFF).all()
            assert (arena[guard + size :] == 0xFF).all()
            assert np.isnan(logits[-1])
            return logits[:-1]

        return call

    return [
        (caller(i, program), each)
        for i, (program, each) in enumerate(zip(programs, networks, strict=True))
    ]


def assert_equal(call, network, inputs, eight_bits):
    found = np.stack([call(x) for x in inputs])
    expected = network.run(inputs)[-1][:, :, 0].numpy()
    if eight_bits:
        np.testing.assert_array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.fixture(scope="module", params=[False, True], ids=["float32", "int8"])
def eight_bits(request):
    return request.param


@pytest.mark.parametrize("tile", [1, 2, 4, 8])
def test_random_networks_of_every_operation(tmp_path, eight_bits, tile):
    programs = [random_program(1000 * tile + seed) for seed in range(RANDOM)]
    kinds = {op.kind for program in programs for op in program.operations}
    assert len(kinds) == 7
    flags = (f"-DHFLD_TILE={tile}",)
    for call, network in compiled(tmp_path, programs, eight_bits, *flags):
        program = network.program if eight_bits else network
        inputs = np.concatenate(
            [random_inputs(program, 3, 1), 50 * random_inputs(program, 1, 2) - 9]
        )
        assert_equal(call, network, inputs, eight_bits)


def test_resnets(tmp_path, exported, eight_bits):
    programs = [read_program(exported(*size)[1]) for size in SIZES]
    for number, (call, network) in enumerate(compiled(tmp_path, programs, eight_bits)):
        inputs = random_inputs(programs[number], 4, 3)
        assert_equal(call, network, inputs, eight_bits)
        if not eight_bits:
            with torch.no_grad():
                right = exported(*SIZES[number])[0](torch.from_numpy(inputs)).logits.numpy()
            found = np.stack([call(x) for x in inputs])
            np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-5 * np.abs(right).max())


@pytest.mark.skipif(len(COMPILERS) < 2, reason="only one C compiler here")
def test_another_compiler_gives_the_same_bits_without_a_warning(tmp_path, eight_bits):
    programs = [random_program(seed) for seed in range(12)]
    answers = []
    for compiler in COMPILERS:
        folder = tmp_path / compiler
        folder.mkdir()
        found = compiled(folder, programs, eight_bits, compiler=compiler)
        inputs = [random_inputs(program, 2) for program in programs]
        answers.append(
            [call(x) for (call, _), rows in zip(found, inputs, strict=True) for x in rows]
        )
    for first, second in zip(*answers, strict=True):
        np.testing.assert_array_equal(first, second)


KERNELS = """
#include "hfld_math.h"
#include "hfld_kernels.h"
#ifdef HFLD_INT8
void convolve(const int32_t *n, const int8_t *w, const int32_t *b, const int32_t *m,
              const uint8_t *h, const int8_t *in, int8_t *out)
{
    const hfld_conv v = {
        {n[0], n[1], n[2], n[3], n[4], n[5], n[6]}, n[7], n[8], n[9], w, b, m, h, 0};
    hfld_convolve(&v, in, out, 0);
}
#else
void convolve(const int32_t *n, const float *w, const float *b, const float *in, float *out)
{
    const hfld_conv v = {{n[0], n[1], n[2], n[3], n[4], n[5], n[6]}, n[7], w, b};
    hfld_convolve(&v, in, out);
}
void pool(const int32_t *n, const float *in, float *out)
{
    const hfld_shape s = {n[0], n[1], n[2], n[3], n[4], n[5], n[6]};
    hfld_max_pool(&s, in, out);
}
void mean(const int32_t *n, const float *in, float *out)
{
    hfld_mean(n[0], n[1], n[3], in, out);
}
#endif
"""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernels")
    for name in ("hfld_kernels.h", "hfld_math.h"):
        text = resources.files("hfld_lite.edge").joinpath(f"templates/c/{name}").read_text("utf-8")
        (folder / name).write_text(text)
    (folder / "kernels.c").write_text(KERNELS)
    libraries = {}
    for kind in ("HFLD_INT8", "HFLD_FLOAT32"):
        path = folder / f"{kind}.so"
        command = [COMPILERS[0], "-std=c99", "-O1", "-shared", "-fPIC", f"-D{kind}", "-o", path]
        subprocess.run([*command, folder / "kernels.c"], check=True)
        libraries[kind] = ctypes.CDLL(str(path))
    return libraries


def call(function, *values):
    function(*(ctypes.c_void_p(np.ascontiguousarray(v).ctypes.data) for v in values))


@st.composite
def shapes(draw):
    """Channels, positions, outputs, output positions, kernel, stride, pad."""
    channels, positions = draw(st.integers(1, 9)), draw(st.integers(1, 20))
    kernel, stride = draw(st.integers(1, 25)), draw(st.integers(1, 5))
    pad = draw(st.integers(0, kernel))
    after = draw(st.integers(max(0, kernel - pad - positions), kernel + 3))
    out = (positions + pad + after - kernel) // stride + 1
    return channels, positions, draw(st.integers(1, 9)), out, kernel, stride, pad


def unrolled(x, shape, empty):
    """Windows ``(channels, output positions, kernel)`` of ``(channels, positions)``."""
    channels, positions, _, out, kernel, stride, pad = shape
    wide = np.full((channels, pad + positions + out * stride + kernel), empty, x.dtype)
    wide[:, pad : pad + positions] = x
    return np.stack([wide[:, i * stride : i * stride + kernel] for i in range(out)], 1)


def blocks(weight):
    parts = [weight[c : c + 4].transpose(2, 1, 0).ravel() for c in range(0, len(weight), 4)]
    return np.concatenate(parts)


@settings(max_examples=150, deadline=None)
@given(shape=shapes(), relu=st.booleans(), seed=st.integers(0, 2**31))
def test_convolution_of_any_shape_in_float32(kernels, shape, relu, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape[:2]).astype(np.float32)
    weight = rng.normal(size=(shape[2], shape[0], shape[4])).astype(np.float32)
    bias = rng.normal(size=shape[2]).astype(np.float32)
    out = np.full((shape[3] + 1, shape[2]), np.nan, np.float32)
    numbers = np.array([*shape, relu], np.int32)
    call(kernels["HFLD_FLOAT32"].convolve, numbers, blocks(weight), bias, x.T.copy(), out)
    windows = unrolled(x, shape, np.float32(0)).astype(float)
    right = np.einsum("cpk,ock->po", windows, weight.astype(float)) + bias
    size = np.einsum("cpk,ock->po", np.abs(windows), np.abs(weight)) + np.abs(bias)
    right = np.maximum(right, 0) if relu else right
    assert (np.abs(out[:-1] - right) <= 1e-5 * size).all()
    assert np.isnan(out[-1]).all()


@settings(max_examples=150, deadline=None)
@given(shape=shapes(), zeros=st.tuples(*2 * [st.integers(-128, 127)]), seed=st.integers(0, 2**31))
def test_convolution_of_any_shape_in_eight_bits(kernels, shape, zeros, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(-128, 128, shape[:2]).astype(np.int8)
    weight = rng.integers(-127, 128, (shape[2], shape[0], shape[4])).astype(np.int8)
    bias = rng.integers(-(2**16), 2**16, shape[2]).astype(np.int32)
    m = rng.integers(2**30, 2**31, shape[2]).astype(np.int32)
    h = rng.integers(32, 45, shape[2]).astype(np.uint8)
    low = int(rng.choice([-128, zeros[1]]))
    out = np.full((shape[3] + 1, shape[2]), 77, np.int8)
    numbers = np.array([*shape, *zeros, low], np.int32)
    call(kernels["HFLD_INT8"].convolve, numbers, blocks(weight), bias, m, h, x.T.copy(), out)
    windows = unrolled(x.astype(np.int64) - zeros[0], shape, 0)
    total = np.einsum("cpk,ock->po", windows, weight.astype(np.int64)) + bias
    right = zeros[1] + ((total * m + (1 << (h.astype(np.int64) - 1))) >> h)
    np.testing.assert_array_equal(out[:-1], right.clip(low, 127))
    assert (out[-1] == 77).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 30), st.integers(1, 33), st.integers(0, 2**31))
def test_means_and_largest_values_of_any_shape(kernels, channels, positions, outputs, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(channels, positions)).astype(np.float32)
    out = np.zeros((outputs, channels), np.float32)
    numbers = [channels, positions, channels, outputs, 1, 1, 0]
    call(kernels["HFLD_FLOAT32"].mean, np.array(numbers, np.int32), x.T.copy(), out)
    right = torch.nn.functional.adaptive_avg_pool1d(torch.from_numpy(x), outputs)
    np.testing.assert_allclose(out.T, right, rtol=1e-5, atol=1e-6)
    kernel = int(rng.integers(1, positions + 1))
    stride, pad = int(rng.integers(1, 4)), int(rng.integers(0, kernel // 2 + 1))
    right = torch.nn.functional.max_pool1d(torch.from_numpy(x), kernel, stride, pad)
    numbers[3:] = right.shape[1], kernel, stride, pad
    out = np.zeros((right.shape[1], channels), np.float32)
    call(kernels["HFLD_FLOAT32"].pool, np.array(numbers, np.int32), x.T.copy(), out)
    np.testing.assert_array_equal(out.T, right)
