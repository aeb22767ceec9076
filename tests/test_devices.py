"""Devices' figures, and verdicts worked out from them."""

import re

import numpy as np
import pytest

from hfld_lite import ArgumentError, resnet1d
from hfld_lite.edge import devices as module
from hfld_lite.edge.analysis import count_macs, stored_bytes
from hfld_lite.edge.devices import (
    DEVICES,
    Device,
    Needs,
    device,
    fits,
    judge,
    needs,
    sizes_in_words,
    too_large,
    verdicts,
)
from hfld_lite.edge.export import quantise, to_onnx
from hfld_lite.edge.memory import activation_memory


@pytest.mark.parametrize(
    ("name", "flash", "ram", "megahertz", "macs_per_cycle"),
    [
        ("STM32F103C8", 65_536, 20_480, 72, 0.5),
        ("STM32F411RE", 524_288, 131_072, 100, 2),
        ("STM32F746NG", 1_048_576, 327_680, 216, 2),
        ("STM32H743ZI", 2_097_152, 524_288, 480, 2),
        ("ESP32-S3", 8_388_608, 327_680, 240, 16),
        ("RP2040", 2_097_152, 270_336, 200, 0.5),
        ("RP2350", 4_194_304, 532_480, 150, 2),
        ("nRF52840", 1_048_576, 262_144, 64, 2),
        ("Arduino Nano 33 BLE", 983_040, 261_632, 64, 2),
        ("Raspberry Pi Zero 2 W", None, 536_870_912, 1000, 4),
        ("Raspberry Pi 4 B", None, 1_073_741_824, 1800, 8),
        ("Jetson Nano", 16_000_000_000, 4_294_967_296, 1430, 8),
    ],
)
def test_figures_are_the_data_sheets(name, flash, ram, megahertz, macs_per_cycle):
    found = device(name)
    assert (found.flash_bytes, found.ram_bytes) == (flash, ram)
    assert (found.clock_hz, found.macs_per_cycle) == (megahertz * 1_000_000, macs_per_cycle)
    assert found.macs_limit is None


def test_dcase_is_a_budget_of_parameters_and_operations():
    found = device("dcase")
    assert (found.flash_bytes, found.macs_limit) == (128_000, 30_000_000)
    assert found.ram_bytes is None
    assert "counted" in found.note  # the last of these challenges was in 2025


FIGURES = {
    "flash": "flash_bytes",
    "RAM": "ram_bytes",
    "clock": "clock_hz",
    "MACs per cycle": "macs_per_cycle",
}


@pytest.mark.parametrize("found", DEVICES, ids=lambda found: found.name)
def test_each_figure_has_a_source_of_its_own(found):
    figures = re.findall(r"(?:^|\. )([^.:]+): ", found.source)
    named = {name for listed in figures for name in re.split(", ", listed)}
    named = {name.lower() if name in ("Flash", "Clock") else name for name in named}
    expected = {name for name, field in FIGURES.items() if getattr(found, field) is not None}
    assert named == expected | ({"MACs"} if found.macs_limit else set())


def test_every_device_has_a_source_and_a_name_of_its_own():
    assert len(DEVICES) >= 10
    assert len({found.name for found in DEVICES}) == len(DEVICES)
    for found in DEVICES:
        assert len(found.source) > 10
        assert device(found.name) is found
        assert "http" not in found.source + found.note


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("rp-2040", "RP2040"),
        ("esp32s3", "ESP32-S3"),
        ("RASPBERRY_PI 4b", "Raspberry Pi 4 B"),
        (" nrf52840 ", "nRF52840"),
        ("arduino nano 33-ble", "Arduino Nano 33 BLE"),
    ],
)
def test_capitals_and_punctuation_do_not_matter(typed, name):
    assert device(typed).name == name


def test_an_unknown_device_is_told_the_nearest():
    with pytest.raises(ArgumentError, match=r"device 'rp2041' is unknown; did you mean RP2040"):
        device("rp2041")
    with pytest.raises(ArgumentError, match="did you mean Raspberry Pi 4 B or Raspberry Pi Zero 2"):
        device("rasberry pi 4")
    with pytest.raises(ArgumentError, match=r"'\?' is unknown; `hfld edge RUN` lists them all"):
        device("?")


SMALL = Device("small", 1000, 2000, 10_000_000, 2, "none", macs_limit=3000)


@pytest.mark.parametrize("limit", ["flash", "ram", "macs"])
@pytest.mark.parametrize("more", [0, 1])
def test_each_limit_is_judged_by_itself(limit, more):
    exact = {"flash": 1000, "ram": 2000, "macs": 3000}
    figures = exact | {limit: exact[limit] + more}
    verdict = judge(Needs("int8", figures["flash"], figures["ram"], figures["macs"]), SMALL)
    fitting = {"flash": verdict.flash_fits, "ram": verdict.ram_fits, "macs": verdict.macs_fit}
    assert fitting == dict.fromkeys(exact, True) | {limit: not more}
    assert verdict.fits is not bool(more)
    assert (verdict.flash_needed, verdict.flash_available) == (figures["flash"], 1000)
    assert (verdict.ram_needed, verdict.ram_available) == (figures["ram"], 2000)
    assert (verdict.macs, verdict.macs_limit) == (figures["macs"], 3000)


def test_the_estimate_is_operations_by_rate():
    # 3000 MACs at 10 MHz and 2 a cycle: 1500 cycles, 0.15 ms
    assert judge(Needs("int8", 1, 1, 3000), SMALL).estimate_ms == pytest.approx(0.15)
    assert judge(Needs("fp32", 1, 1, 3000), SMALL).estimate_ms is None
    assert judge(Needs("int8", 1, 1, 3000), device("dcase")).estimate_ms is None


def test_where_there_is_no_limit_everything_fits():
    free = Device("free", None, None, None, None, "none")
    assert judge(Needs("int8", 10**15, 10**15, 10**15), free).fits


ESTIMATE = Needs("int8", 10_000, 5_000, 3000)
LINKED = Needs("int8", 40_000, 30_000, 0, "cortex-m4")


@pytest.mark.parametrize("found", DEVICES, ids=lambda found: found.name)
def test_linked_sizes_replace_the_estimate_on_a_cortex_m_only(found):
    cortex_m = found.name.startswith(("STM32", "RP2", "nRF", "Arduino"))
    verdict = judge(ESTIMATE, found, LINKED)
    used = LINKED if cortex_m else ESTIMATE
    assert (verdict.flash_needed, verdict.ram_needed) == (used.flash_bytes, used.ram_bytes)
    assert verdict.sizes == ("linked" if cortex_m else "estimated")
    assert verdict.macs == 3000
    assert verdict.estimate_ms == judge(ESTIMATE, found).estimate_ms
    assert judge(ESTIMATE, found).sizes == "estimated"


def test_linked_sizes_decide_what_fits():
    assert judge(ESTIMATE, device("STM32F103C8")).fits
    verdict = judge(ESTIMATE, device("STM32F103C8"), LINKED)
    assert verdict.flash_fits
    assert not verdict.ram_fits


@pytest.mark.parametrize(
    ("name", "flash", "said"),
    [
        ("STM32F411RE", 40_000, "linked for Cortex-M4"),
        ("STM32F746NG", 40_000, "linked for Cortex-M4, not its Cortex-M7"),
        ("RP2040", 50_000, "linked for Cortex-M0"),  # the M0+ has the same instructions
        ("ESP32-S3", 10_000, "estimated"),
    ],
)
def test_the_own_cores_program_comes_first_and_another_is_named(name, flash, said):
    programs = [Needs("int8", 50_000, 30_000, 0, "cortex-m0"), LINKED]
    verdict = judge(ESTIMATE, device(name), programs)
    assert verdict.flash_needed == flash
    assert sizes_in_words(verdict) == said
    plus = judge(ESTIMATE, device("RP2040"), LINKED)
    assert sizes_in_words(plus) == "linked for Cortex-M4, not its Cortex-M0+"


def test_a_program_of_another_precision_does_not_count():
    full = LINKED._replace(precision="fp32", flash_bytes=160_000)
    assert judge(ESTIMATE, device("STM32F411RE"), full).sizes == "estimated"
    assert judge(ESTIMATE, device("STM32F411RE"), [full, LINKED]).flash_needed == 40_000


def test_impossible_linked_sizes_are_refused():
    with pytest.raises(ArgumentError, match="core ''; give a Cortex-M, such as 'cortex-m4'"):
        judge(ESTIMATE, device("RP2040"), ESTIMATE)
    with pytest.raises(ArgumentError, match="'float32'; choose one of fp32, fp16, int8"):
        judge(ESTIMATE, device("RP2040"), LINKED._replace(precision="float32"))


def test_a_student_that_a_microcontroller_has_room_for_is_not_too_large():
    assert too_large(ESTIMATE) is None
    assert too_large(Needs("int8", 8_388_608, 327_680, 1)) is None  # all of the ESP32-S3
    assert too_large(Needs("int8", 4_194_304, 532_480, 1)) is None  # all of the RP2350


def test_a_student_too_large_for_every_microcontroller_is_told_what_fits():
    said = too_large(Needs("int8", 4_194_305, 327_681, 10**9))
    assert said == (
        "The student needs 4,194,305 bytes of flash and 327,681 of RAM; none of the listed "
        "microcontrollers has both: the most flash is 8,388,608 bytes (ESP32-S3), the most RAM "
        "532,480 (RP2350); it fits on Raspberry Pi Zero 2 W or Raspberry Pi 4 B or Jetson Nano."
    )
    assert "it fits on Raspberry Pi 4 B or" in too_large(Needs("int8", 1, 2**30, 1))
    said = too_large(Needs("int8", 1, 2**32 + 1, 1), "secondary_teacher_1")
    assert said == (
        "The secondary teacher 1 needs 1 bytes of flash and 4,294,967,297 of RAM; none of the "
        "listed devices has both: the most RAM is 4,294,967,296 bytes (Jetson Nano)."
    )


@pytest.fixture(scope="module")
def student():
    return resnet1d(10, 6, 1 / 16, "small")


def test_a_narrow_student_fits_where_the_published_one_does_not(student):
    verdict = fits(student, "STM32F103C8", 1750)
    assert verdict.fits
    assert (verdict.device, verdict.precision) == ("STM32F103C8", "int8")
    assert verdict.flash_needed == stored_bytes(student, "int8")
    assert verdict.macs == count_macs(student, 1750)
    assert verdict.estimate_ms == pytest.approx(verdict.macs / (72e6 * 0.5) * 1e3)
    published = fits(resnet1d(10, 2), "dcase", 1750)
    assert published.flash_needed > 13_000_000
    assert not published.flash_fits
    assert not published.macs_fit
    assert published.ram_fits
    assert not published.fits


def test_needs_in_each_precision(student):
    full, half = needs(student, 1750, "fp32"), needs(student, 1750, "fp16")
    assert full.ram_bytes == activation_memory(to_onnx(student, 1750)).peak
    assert 2 * half.ram_bytes == full.ram_bytes
    assert (full.flash_bytes, half.flash_bytes) == (
        stored_bytes(student, "fp32"),
        stored_bytes(student, "fp16"),
    )
    assert full.macs == half.macs == count_macs(student, 1750)


@pytest.mark.parametrize(
    ("depth", "width", "length"),
    [(10, 1 / 16, 1750), (10, 1 / 16, 600), (10, 1 / 4, 3500), (18, 1 / 8, 900)],
)
def test_without_calibration_the_ram_is_the_quantised_graphs(depth, width, length):
    network = resnet1d(depth, 4, width, "small")
    inputs = np.random.default_rng(0).random((50, length))
    exact = needs(network, length, calibration=inputs)
    assert exact.ram_bytes == activation_memory(quantise(to_onnx(network, length), inputs)).peak
    assert needs(network, length).ram_bytes == pytest.approx(exact.ram_bytes, rel=0.02)


def test_all_devices_are_judged_with_one_export(student, monkeypatch):
    exports = []

    def counted(*arguments):
        exports.append(arguments)
        return to_onnx(*arguments)

    monkeypatch.setattr(module, "to_onnx", counted)
    table = verdicts(student, 3500).set_index("device")
    assert len(exports) == 1
    assert list(table.index) == [found.name for found in DEVICES]
    one = fits(student, device("rp2040"), 3500)
    assert table.loc["RP2040", "ram_needed"] == one.ram_needed == 17_500
    assert table.loc["RP2040", "estimate_ms"] == pytest.approx(one.estimate_ms)
    assert table.loc["RP2040", "ram_available"] == 264 * 1024
    assert bool(table.loc["RP2040", "fits"])
    linked = verdicts(student, 3500, linked=LINKED).set_index("device")
    assert linked["sizes"].value_counts().to_dict() == {"linked": 8, "estimated": 5}
    assert fits(student, "nRF52840", 3500, linked=LINKED).flash_needed == LINKED.flash_bytes
    wide = verdicts(resnet1d(10, 6, 1 / 2, "small"), 3500, "fp32").set_index("device")
    assert not wide.loc["STM32F103C8", "flash_fits"]
    assert not wide.loc["RP2040", "ram_fits"]
    assert wide.loc["RP2350", "ram_fits"]
    assert wide.loc["RP2350", "flash_fits"]
    assert wide.loc["RP2350", "fits"]
    assert wide["estimate_ms"].isna().all()


def test_impossible_precisions_are_refused(student):
    with pytest.raises(ArgumentError, match="precision is 'int4'; choose one of fp32, fp16, int8"):
        fits(student, "rp2040", 1750, "int4")
    inputs = np.zeros((50, 1750))
    with pytest.raises(ArgumentError, match="calibration is given, but precision is 'fp32'"):
        fits(student, "rp2040", 1750, "fp32", inputs)
