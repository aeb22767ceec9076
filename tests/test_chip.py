"""A small C folder like an exported one, linked and run on emulated Cortex-M."""

import ctypes
import dataclasses
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from hfld_lite.edge import chip
from hfld_lite.errors import ArgumentError, HfldError

NEEDED = bool(os.environ.get("HFLD_NEED_CHIP"))
MISSING = chip.missing_tools()
CORES = ("m0", "m4", "m55") if NEEDED else ("m0", "m3", "m4", "m7", "m33", "m55")
SAMPLES, CLASSES, KNOWN, LARGE = 64, 3, 2_000_000, 1_500

on_chip = pytest.mark.skipif(
    bool(MISSING) and not NEEDED, reason=f"apt install {' '.join(MISSING)}"
)

HEADER = f"""
#ifndef HFLD_H
#define HFLD_H
#include <stdint.h>
#define HFLD_CLASSES {CLASSES}
#define HFLD_SAMPLES {SAMPLES}
#define HFLD_ARENA_BYTES 2048
enum {{ HFLD_OK = 0, HFLD_BAD_LENGTH = -1, HFLD_NOT_FINITE = -2, HFLD_CONSTANT = -3 }};
enum {{ HFLD_UNSURE = -1 }};
int hfld_predict(const float *samples, int32_t count, float *probabilities);
int hfld_answer(const float *probabilities);
int hfld_warnings(const float *samples, int32_t count);
void hfld_network(void *arena, float *logits);
#endif
"""
LIBRARY = """
#include <math.h>
#include "hfld.h"
static uint32_t arena[HFLD_ARENA_BYTES / 4];
static volatile int32_t clipped = 2;
int hfld_predict(const float *samples, int32_t count, float *probabilities)
{
    float *read = (float *)arena, logits[HFLD_CLASSES], sum = 0;
    if (count != HFLD_SAMPLES) return -1;
    for (int32_t i = 0; i < count; i++) {
        if (!isfinite(samples[i])) return -2;
        read[i] = samples[i];
        sum += samples[i] * samples[i];
    }
    if (sum <= 0) return -3;
    for (int32_t i = 0; i < count; i++) read[i] = read[i] / sqrtf(sum);
    hfld_network(arena, logits);
    for (int32_t i = 0; i < HFLD_CLASSES; i++) probabilities[i] = logits[i];
    return 0;
}
int hfld_answer(const float *probabilities)
{
    return probabilities[0] > probabilities[1] ? 0 : -1;
}
int hfld_warnings(const float *samples, int32_t count)
{
    int32_t loud = 0;
    for (int32_t i = 0; i < count; i++) loud += fabsf(samples[i]) >= 1.0f;
    return loud > 1 ? clipped : 0;
}
"""
WEIGHTS = ", ".join(f"{value:.9g}f" for value in np.random.default_rng(3).normal(size=192))
FLOAT32 = f"""
#include "hfld.h"
static const float weights[{CLASSES * SAMPLES}] = {{{WEIGHTS}}};
void hfld_network(void *arena, float *logits)
{{
    float *x = (float *)arena, *y = x + {SAMPLES};
    /* Element by element, which a vector unit may do, and down to subnormal numbers. */
    for (int32_t i = 0; i < {SAMPLES}; i++) y[i] = x[i] * 1e-38f * x[i];
    for (int32_t i = 0; i < {SAMPLES}; i++) y[i] = y[i] * 1e37f + x[i] * 0.3f;
    for (int32_t c = 0; c < {CLASSES}; c++) {{
        float sum = 0.25f;
        for (int32_t i = 0; i < {SAMPLES}; i++) sum += weights[c * {SAMPLES} + i] * y[i];
        logits[c] = sum / (1.0f + sum * sum);
    }}
}}
"""
INT8 = f"""
#include "hfld.h"
static const int8_t weights[{SAMPLES}] = {{1, -2, 3, -4, 127, -127}};
void hfld_network(void *arena, float *logits)
{{
    float *x = (float *)arena;
    int8_t *q = (int8_t *)(x + {SAMPLES});
    for (int32_t i = 0; i < {SAMPLES}; i++) q[i] = (int8_t)(int32_t)(x[i] * 100.0f);
    for (int32_t c = 0; c < {CLASSES}; c++) {{
        int32_t sum = c;
        for (int32_t i = 0; i < {SAMPLES}; i++) sum += weights[i] * (q[i] - 3);
        const int64_t scaled = ((int64_t)sum * 1518500250 + (1 << 30)) >> 31;
        logits[c] = (float)(int32_t)scaled * 0.001f;
    }}
}}
"""
# Further code in front of hfld_network; `&` stands for its first statement.
FAULTED = "stopped with a HardFault on m.*, in hfld_network at 0x"
LOOP = f"""
    uint32_t left = {KNOWN // 2};
    __asm__ volatile(".syntax unified\\n1: subs %0, #1\\n bne 1b" : "+l"(left)::"cc");
"""
ARRAY = f"""
    volatile uint8_t large[{LARGE}];
    for (int32_t i = 0; i < {LARGE}; i++) large[i] = (uint8_t)i;
"""
USES_IT = "    arena_2[((uint8_t *)arena)[0]]++;\n"
FAULT = '    __asm__ volatile("udf #0");\n'


def folder_with(at: Path, first: str = "", *, before: str = "", network: str = FLOAT32) -> Path:
    """The folder, with a first statement of hfld_network."""
    at.mkdir(parents=True, exist_ok=True)
    changed = network.replace("arena, float *logits)\n{", "arena, float *logits)\n{" + first)
    changed = changed.replace("static const", before + "static const", 1)
    for name, text in {
        "hfld.h": HEADER,
        "hfld.c": LIBRARY,
        "hfld_float32.c": changed,
        "hfld_int8.c": INT8,
        "main.c": "#error the host's program\n",
    }.items():
        (at / name).write_text(text)
    return at


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folder_with(tmp_path_factory.mktemp("firmware"))


@pytest.fixture(scope="module")
def recordings():
    rng = np.random.default_rng(0)
    made = rng.normal(size=(8, SAMPLES)).astype("float32")
    made[4] *= 1e-18  # its energy is subnormal
    made[5, 3], made[6], made[7] = np.inf, 0.0, np.sign(made[7])
    return made


def on_host(folder: Path, precision: str, recordings: np.ndarray, place: Path):
    """Statuses, probabilities, answers and warnings of the same C, compiled by the host's gcc."""
    library = place / f"host_{precision}.so"
    sources = [str(folder / name) for name in ("hfld.c", f"hfld_{precision}.c")]
    flags = ["-O2", "-std=c99", "-fPIC", "-shared", "-o", str(library)]
    subprocess.run(["gcc", *sources, *flags, "-lm"], check=True)
    c, floats = ctypes.CDLL(str(library)), ctypes.POINTER(ctypes.c_float)
    out = [[], [], [], []]
    for recording in recordings:
        given = recording.ctypes.data_as(floats)
        answer = np.full(CLASSES, np.nan, "float32")
        out[0].append(c.hfld_predict(given, SAMPLES, answer.ctypes.data_as(floats)))
        out[1].append(answer)
        out[2].append(-1 if out[0][-1] else c.hfld_answer(answer.ctypes.data_as(floats)))
        out[3].append(c.hfld_warnings(given, SAMPLES))
    return [np.array(values) for values in out]


def test_the_tools_are_there_where_they_must_be():
    assert not (NEEDED and MISSING), f"HFLD_NEED_CHIP is set; apt install {' '.join(MISSING)}"


@on_chip
@pytest.mark.parametrize("precision", chip.PRECISIONS)
@pytest.mark.parametrize("core", CORES)
def test_each_core_answers_as_the_host_does(core, precision, folder, recordings, tmp_path):
    linked = chip.build(folder, core, precision, tmp_path, flags=("-Werror",))
    found = chip.emulate(linked, recordings, timeout=60)
    expected = on_host(folder, precision, recordings, tmp_path)
    assert found.statuses.tolist() == [0, 0, 0, 0, 0, -2, -3, 0]
    for ours, host in zip(
        (found.statuses, found.probabilities, found.answers, found.warnings), expected, strict=True
    ):
        np.testing.assert_array_equal(ours, host)
    assert found.probabilities.dtype == np.float32
    assert linked.machine.name in found.machine
    assert (found.instructions[:5] > 1_000).all()
    assert found.instructions[6] < found.instructions[0], "a constant recording returns early"
    assert 0 < found.stack_bytes < 500
    assert (
        found.ram_bytes
        == 2048 + linked.ram["static data"] + linked.ram["runtime library"] + found.stack_bytes
    )


@on_chip
@pytest.mark.parametrize("core", CORES)
def test_instructions_of_a_known_loop_and_bytes_of_a_known_array_are_counted(
    core, folder, recordings, tmp_path
):
    plain = chip.emulate(chip.build(folder, core, "float32", tmp_path / "plain"), recordings[:2])
    changed = folder_with(tmp_path / "changed", ARRAY + LOOP)
    linked = chip.build(changed, core, "float32", tmp_path / "out", flags=("-fstack-usage",))
    more = chip.emulate(linked, recordings[:2])
    known = more.instructions - plain.instructions - 6 * LARGE  # about 6 fill a byte
    np.testing.assert_allclose(known, KNOWN, rtol=0.003)
    assert LARGE <= more.stack_bytes - plain.stack_bytes <= LARGE + 64
    said = (tmp_path / "out" / "hfld_float32.su").read_text().split("\t")
    assert LARGE <= int(said[1]) < more.stack_bytes < int(said[1]) + 200


@on_chip
def test_a_timer_that_counts_something_else_is_refused(folder, recordings, tmp_path):
    linked = chip.build(folder, "m4", "int8", tmp_path)
    machine = dataclasses.replace(linked.machine, hertz=24_000_000)
    with pytest.raises(HfldError, match=r"counted 1,041,\d+ instructions in a loop of 1,000,000"):
        chip.emulate(dataclasses.replace(linked, machine=machine), recordings)


@on_chip
@pytest.mark.parametrize("core", ["m0", "m4"])
def test_the_parts_are_what_the_linker_placed(core, folder, tmp_path):
    linked = chip.build(folder, core, "float32", tmp_path)
    said = subprocess.run(
        ["arm-none-eabi-size", "-A", str(linked.elf)], capture_output=True, text=True, check=True
    ).stdout
    size = {n: int(s) for n, s in re.findall(r"^(\.\w+)\s+(\d+)", said, re.M)}
    in_flash = (".vectors", ".text", ".rodata", ".data")
    assert linked.flash_bytes == sum(linked.flash.values()) == sum(size[name] for name in in_flash)
    assert sum(linked.ram.values()) == size[".data"] + size[".bss"]
    assert linked.ram["arena"] == 2048
    assert linked.ram["recording buffer"] == 4 * SAMPLES
    assert linked.ram["static data"] == 4
    assert 768 <= linked.flash["constants"] <= 780, "192 weights, the initial value of `clipped`"
    assert 0 < linked.flash["start-up and test program"] < 900
    assert (linked.flash["runtime library"] > 0) == (core == "m0"), "an M4 has floats in hardware"
    placed = {row.name: row for row in linked.placed}
    assert placed["weights"].section == ".rodata"
    assert placed["hfld_predict"].part == "code"
    assert placed["main"].part == placed["vectors"].part == "start-up and test program"
    assert [row.address for row in linked.placed] == sorted(row.address for row in linked.placed)


@on_chip
def test_flags_of_the_compiler_are_obeyed(folder, recordings, tmp_path):
    fast, small = (
        chip.build(folder, "m4", "float32", tmp_path / flags[-1], flags=flags)
        for flags in (("-O2",), ("-DHFLD_WARNINGS=0", "-Os"))
    )
    assert small.flash["code"] < fast.flash["code"]
    assert {row.name for row in fast.placed} - {row.name for row in small.placed} >= {
        "hfld_warnings"
    }
    assert not chip.emulate(small, recordings).warnings.any()


@on_chip
def test_an_m0_program_too_large_for_the_microbit_runs_on_a_cortex_m3(recordings, tmp_path):
    large = folder_with(tmp_path / "large", before="uint8_t arena_2[16384];\n", first=USES_IT)
    found = chip.emulate(chip.build(large, "m0", "float32", tmp_path / "out"), recordings)
    assert found.statuses[0] == 0
    assert found.machine == (
        "QEMU's mps2-an385, whose Cortex-M3 executes the same ARMv6-M program, as it does not fit "
        "the microbit"
    )
    code = subprocess.run(
        ["arm-none-eabi-readelf", "-A", str(found.linked.elf)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "Tag_CPU_arch: v6S-M" in code


@on_chip
def test_what_the_user_can_cause_is_said_in_a_sentence(folder, recordings, tmp_path):
    with pytest.raises(
        ArgumentError, match=r"core 'm5' is unknown; choose from cortex-m0, .*m55\."
    ):
        chip.build(folder, "m5", "int8", tmp_path)
    with pytest.raises(
        ArgumentError, match="precision 'int4' is unknown; the nearest name is int8"
    ):
        chip.build(folder, "m4", "int4", tmp_path)
    with pytest.raises(ArgumentError, match=r"has no hfld\.h; give a folder that `hfld export"):
        chip.build(tmp_path, "m4", "int8", tmp_path)
    large = "static const uint8_t big[5 << 20] = {1};\n"
    reads = "    logits[0] = big[(int32_t)((float *)arena)[0] & 0xFFFF];\n"
    too_large = folder_with(tmp_path / "large", reads, before=large)
    with pytest.raises(
        HfldError, match=r"needs 5,12\d KiB of flash where mps2-an386 has 4,096; ex"
    ):
        chip.build(too_large, "m4", "float32", tmp_path / "out")
    broken = folder_with(tmp_path / "broken", "    int x = y;\n")
    with pytest.raises(HfldError, match=r"hfld_float32\.c could not .*:\d+:\d+: error: .y. undecl"):
        chip.build(broken, "m4", "float32", tmp_path / "out")
    with pytest.raises(ArgumentError, match=r"shape \(8, 63\); the program reads \(n, 64\)"):
        chip.emulate(chip.build(folder, "M4", "int8", tmp_path / "out"), recordings[:, 1:])


@on_chip
@pytest.mark.parametrize("core", ["m0", "cortex-m4", "M55"])
def test_a_fault_and_a_stack_that_runs_over_are_said(core, recordings, tmp_path):
    array = ARRAY.replace(str(LARGE), "70000")
    for first, said in ((FAULT, FAULTED), (array, "stack ran over the 1?[26],[0-9]{3} bytes")):
        folder = folder_with(tmp_path / "changed", first)
        linked = chip.build(folder, core, "float32", tmp_path / "out")
        with pytest.raises(HfldError, match=said):
            chip.emulate(linked, recordings)


@on_chip
def test_a_program_that_takes_too_long_is_stopped(recordings, tmp_path):
    endless = folder_with(tmp_path / "endless", "    if (logits) for (;;) { }\n")
    linked = chip.build(endless, "m4", "float32", tmp_path / "out")
    with pytest.raises(HfldError, match=r"ran 0 of 8 recordings in 0\.5 s; give fewer"):
        chip.emulate(linked, recordings, timeout=0.5)


def test_without_the_tools_the_packages_are_named(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert chip.missing_tools() == [
        "gcc-arm-none-eabi",
        "libnewlib-arm-none-eabi",
        "qemu-system-arm",
    ]
    with pytest.raises(
        HfldError, match="apt install gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm"
    ):
        chip.build(folder, "m4", "int8", tmp_path)


@pytest.mark.parametrize("name", ["m0", "M4", "cortex-m55", "Cortex-M33", "cortex-m0plus", "m0+"])
def test_a_core_has_several_names(name):
    assert chip.core_named(name).name in chip.CORES
