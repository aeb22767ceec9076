"""Small devices and what fits on them: flash for the weights, RAM for the activations, time.

What a network needs is estimated (:func:`needs`), or read from a program that was linked with it.

Sizes are bytes: data sheets' "Kbytes" and "Mbytes" of memory chips are powers of two, written KiB
and MiB here; the DCASE budget and a Jetson's storage are powers of ten, kB and GB.
"""

import difflib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import nn

from hfld_lite.edge.analysis import PRECISIONS, Length, count_macs, input_shape, stored_bytes
from hfld_lite.edge.export import quantise, to_onnx
from hfld_lite.edge.memory import activation_memory
from hfld_lite.errors import ArgumentError

KIB, MIB, GIB = 2**10, 2**20, 2**30
MHZ = 10**6


@dataclass(frozen=True)
class Device:
    """What a device, or a rule, offers; None where it sets no limit or the figure does not apply.

    Attributes:
        name: of the chip or board.
        flash_bytes: memory that keeps the weights.
        ram_bytes: memory for activations, in one piece: the largest block that a program can use
            as a whole.
        clock_hz: highest clock of one core.
        macs_per_cycle: multiply-accumulates of 8-bit values that one core's instructions do in a
            cycle at best, with nothing lost to loads, loops and memory; none for other precisions.
        source: documents that the figures are from, each figure named before its document.
        note: what to know about them.
        macs_limit: multiply-accumulates that an inference may take.
        core: that runs the program, such as ``"cortex-m4"``; empty for a rule.
    """

    name: str
    flash_bytes: int | None
    ram_bytes: int | None
    clock_hz: int | None
    macs_per_cycle: float | None
    source: str
    note: str = ""
    macs_limit: int | None = None
    core: str = ""

    @property
    def cortex_m(self) -> bool:
        """Whether a program linked for a Cortex-M tells what one for this device needs."""
        return self.core.startswith("cortex-m")

    @property
    def microcontroller(self) -> bool:
        """Whether the program runs from the chip's own memory, without an operating system."""
        return self.cortex_m or self.core.startswith("xtensa")


_M4 = "MACs per cycle: Arm Cortex-M4 TRM r0p1 (DDI 0439), SMLAD does two products in a cycle."
_M7 = (
    "MACs per cycle: Arm, The DSP capabilities of Cortex-M4 and Cortex-M7 processors (2016), "
    "SMLAD in a cycle."
)

DEVICES = (
    Device(
        "STM32F103C8",
        64 * KIB,
        20 * KIB,
        72 * MHZ,
        0.5,
        "Flash, RAM, clock: ST DS5319. MACs per cycle: Arm Cortex-M3 TRM r2p0 (DDI 0337), MLA "
        "takes two cycles.",
        core="cortex-m3",
    ),
    Device(
        "STM32F411RE",
        512 * KIB,
        128 * KIB,
        100 * MHZ,
        2,
        f"Flash, RAM, clock: ST DS10314. {_M4}",
        core="cortex-m4",
    ),
    Device(
        "STM32F746NG",
        1 * MIB,
        320 * KIB,
        216 * MHZ,
        2,
        f"Flash, RAM, clock: ST DS10916. {_M7}",
        "SRAM with the data TCM (64 KiB); 16 KiB of instruction TCM are not counted.",
        core="cortex-m7",
    ),
    Device(
        "STM32H743ZI",
        2 * MIB,
        512 * KIB,
        480 * MHZ,
        2,
        f"Flash, RAM, clock: ST DS12110. {_M7}",
        "The AXI SRAM, the largest of several blocks that make 1 MiB.",
        core="cortex-m7",
    ),
    Device(
        "ESP32-S3",
        8 * MIB,
        320 * KIB,
        240 * MHZ,
        16,
        "Flash: Espressif ESP32-S3-WROOM-1 data sheet. RAM: boards.txt of Espressif's Arduino core "
        "(esp32s3.upload.maximum_data_size). Clock: Espressif ESP32-S3 data sheet. MACs per cycle: "
        "ESP32-S3 Technical Reference Manual, chapter 1 (PIE), EE.VMULAS.S8 multiplies 16 pairs.",
        "Module WROOM-1-N8R8: external flash of 8 MiB, which Arduino's default partitions share "
        "out. The chip's SRAM of 512 KiB is split into 32, 416 and 64 KiB, which caches, code and "
        "the system share: Arduino grants 320 KiB of data (ESP-IDF's linker script 341,760 bytes). "
        "Slower external RAM of 8 MiB is not counted.",
        core="xtensa-lx7",
    ),
    Device(
        "RP2040",
        2 * MIB,
        264 * KIB,
        200 * MHZ,
        0.5,
        "Flash: Raspberry Pi Pico data sheet. RAM: RP2040 data sheet. Clock: release notes of "
        "pico-sdk 2.1.1 (February 2025). MACs per cycle: RP2040 data sheet, single-cycle "
        "multiplier, and an addition.",
        "External flash, 2 MiB on the board Raspberry Pi Pico. Certified for 200 MHz with a core "
        "voltage of at least 1.15 V, and for 133 MHz below that.",
        core="cortex-m0plus",
    ),
    Device(
        "RP2350",
        4 * MIB,
        520 * KIB,
        150 * MHZ,
        2,
        "Flash: Raspberry Pi Pico 2 data sheet. RAM, clock: RP2350 data sheet. MACs per cycle: "
        "RP2350 data sheet, Arm Cortex-M33 with DSP extension (SMLAD).",
        "External flash, 4 MiB on the board Raspberry Pi Pico 2.",
        core="cortex-m33",
    ),
    Device(
        "nRF52840",
        1 * MIB,
        256 * KIB,
        64 * MHZ,
        2,
        f"Flash, RAM, clock: Nordic nRF52840 Product Specification v1.7. {_M4}",
        core="cortex-m4",
    ),
    Device(
        "Arduino Nano 33 BLE",
        983_040,
        256 * KIB - 512,
        64 * MHZ,
        2,
        "Flash: boards.txt of Arduino's Mbed core (nano33ble.upload.maximum_size). RAM: linker "
        f"script of the same core. Clock: Nordic nRF52840 Product Specification v1.7. {_M4}",
        "An nRF52840 whose boot loader keeps 64 KiB of flash; interrupt vectors and crash data "
        "keep 512 bytes of RAM, and Mbed OS needs RAM too.",
        core="cortex-m4",
    ),
    Device(
        "Raspberry Pi Zero 2 W",
        None,
        512 * MIB,
        1000 * MHZ,
        4,
        "RAM, clock: Raspberry Pi Zero 2 W product brief. MACs per cycle: LLVM's scheduling model "
        "of the Cortex-A53, SMLAL multiplies 8 pairs, and operations of 128 bits take two cycles.",
        "One of four cores; storage is a card of any size, and the system needs RAM too.",
        core="cortex-a53",
    ),
    Device(
        "Raspberry Pi 4 B",
        None,
        1 * GIB,
        1800 * MHZ,
        8,
        "RAM: Raspberry Pi 4 Model B data sheet, release 1. Clock: Raspberry Pi documentation, "
        "config.txt, overclocking options (arm_boost). MACs per cycle: Arm Cortex-A72 Software "
        "Optimization Guide (UAN 0016A), SMLAL, 8 pairs, once a cycle.",
        "The smallest model, one of four cores. 1.8 GHz from board revision 1.4 (chip revision C0) "
        "with arm_boost=1, else 1.5 GHz. Storage is a card of any size, and the system needs RAM "
        "too.",
        core="cortex-a72",
    ),
    Device(
        "Jetson Nano",
        16 * 10**9,
        4 * GIB,
        1430 * MHZ,
        8,
        "Flash, RAM, clock: NVIDIA Jetson Nano module data sheet. MACs per cycle: Arm Cortex-A57 "
        "Software Optimization Guide (UAN 0015B), SMLAL, 8 pairs, once a cycle.",
        "The module's eMMC of 16 GB; one of four cores, without the GPU; the system needs RAM too.",
        core="cortex-a57",
    ),
    Device(
        "DCASE",
        128_000,
        None,
        None,
        None,
        "Flash, MACs: rules of the DCASE challenges 2023 to 2025, task 1, low-complexity acoustic "
        "scene classification.",
        "A rule, not a device: 128 kB of parameters and 30 million MACs an inference, which its "
        "organisers counted with torchinfo (see compare_macs in edge).",
        macs_limit=30_000_000,
    ),
)
"""Devices in common use for such tasks, from the smallest, and the budget that DCASE had."""


def device(name: str) -> Device:
    """The device of this name; capitals, spaces and punctuation do not matter.

    Raises:
        ArgumentError: if there is none, with the nearest names.
    """
    known = {_plain(found.name): found for found in DEVICES}
    if (plain := _plain(str(name))) in known:
        return known[plain]
    near = [known[match].name for match in difflib.get_close_matches(plain, known, 3, 0.5)]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ArgumentError(f"device {name!r} is unknown; {hint}`hfld edge RUN` lists them all.")


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


class Needs(NamedTuple):
    """What a network needs on a device: bytes of flash and RAM, MACs of one inference.

    ``core`` is empty for an estimate, of :func:`needs`. Bytes that were read from a linked program
    name the Cortex-M that it is for, such as ``"cortex-m4"``: then flash is all that the program
    stores, code included, and RAM all that it takes at run time, stack included.
    """

    precision: str
    flash_bytes: int
    ram_bytes: int
    macs: int
    core: str = ""


@dataclass(frozen=True)
class Verdict:
    """Whether a network fits on a device.

    ``..._needed`` and ``..._available`` are bytes, None where available means no limit;
    ``estimate_ms`` is MACs / (clock · MACs per cycle): an estimate, which leaves out loads,
    memory and everything else but multiplications, so that a device usually takes a few times as
    long. It is None where the device has no figure for the precision.

    ``sizes`` says where the bytes needed are from: ``"estimated"`` or ``"linked"``. ``core`` is
    the device's, ``linked_for`` the linked program's, empty for an estimate.
    """

    device: str
    precision: str
    flash_needed: int
    flash_available: int | None
    flash_fits: bool
    ram_needed: int
    ram_available: int | None
    ram_fits: bool
    macs: int
    macs_limit: int | None
    macs_fit: bool
    estimate_ms: float | None
    sizes: str = "estimated"
    core: str = ""
    linked_for: str = ""

    @property
    def fits(self) -> bool:
        """Whether all that is limited is within its limit."""
        return self.flash_fits and self.ram_fits and self.macs_fit


def needs(
    network: nn.Module,
    length: Length,
    precision: str = "int8",
    calibration: np.ndarray | None = None,
) -> Needs:
    """What a network needs on any device.

    Flash: the weights, see :func:`hfld_lite.edge.analysis.stored_bytes`; code and runtime come on
    top. RAM: the peak of the activations, see :func:`hfld_lite.edge.memory.activation_memory`;
    stack and buffers of kernels come on top. In int8 the RAM is that of the quantised graph when
    there are calibration inputs to quantise with; without them it is taken from the FP32 graph
    at one byte a value, and at least the input as float32 with its quantised copy; the two agree
    within 2 %. In fp16 it is the FP32 graph's half.

    Args:
        network: of convolutions, linear layers and batch norm; see `stored_bytes`.
        length: values of one input, or its shape.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``.
        calibration: what the network reads of training recordings, ``(n, *shape)``; for int8.

    Raises:
        ArgumentError: if the precision is unknown, or calibration is given for another than int8.
    """
    flash = stored_bytes(network, precision)
    if calibration is not None and precision != "int8":
        raise ArgumentError(
            f"calibration is given, but precision is {precision!r}; leave it out, or choose 'int8'."
        )
    model = to_onnx(network, length)
    if calibration is not None:
        ram = activation_memory(quantise(model, calibration)).peak
    else:
        values, read = activation_memory(model).peak // 4, math.prod(input_shape(length))
        ram = {"fp32": 4 * values, "fp16": 2 * values, "int8": max(values, 5 * read)}[precision]
    return Needs(precision, flash, ram, count_macs(network, length))


def judge(needed: Needs, on: Device, linked: Needs | Sequence[Needs] = ()) -> Verdict:
    """Compare what a network needs with what a device has.

    Args:
        needed: the estimate.
        on: the device.
        linked: of programs with the same network, each linked for a Cortex-M. On a device with a
            Cortex-M the bytes of one in the estimate's precision replace the estimate: that for
            the device's own core, else the nearest. Everywhere else the estimate is used.

    Raises:
        ArgumentError: if linked sizes name no Cortex-M or an unknown precision.
    """
    programs = [linked] if isinstance(linked, Needs) else list(linked)
    for program in programs:
        if program.precision not in PRECISIONS:
            raise ArgumentError(
                f"linked sizes are in {program.precision!r}; choose one of {', '.join(PRECISIONS)}."
            )
        if not program.core.startswith("cortex-m"):
            raise ArgumentError(
                f"linked sizes name the core {program.core!r}; give a Cortex-M, such as "
                "'cortex-m4'."
            )
    usable = [p for p in programs if on.cortex_m and p.precision == needed.precision]
    sizes = min(usable, key=lambda p: (_distance(p.core, on.core), p.core), default=needed)
    pairs = (
        (sizes.flash_bytes, on.flash_bytes),
        (sizes.ram_bytes, on.ram_bytes),
        (needed.macs, on.macs_limit),
    )
    figures = [
        figure for need, limit in pairs for figure in (need, limit, limit is None or need <= limit)
    ]
    rate = None if on.clock_hz is None else on.clock_hz * on.macs_per_cycle
    rated = rate is not None and needed.precision == "int8"
    estimate = 1e3 * needed.macs / rate if rated else None
    return Verdict(
        on.name,
        needed.precision,
        *figures,
        estimate,
        sizes="linked" if sizes.core else "estimated",
        core=on.core,
        linked_for=sizes.core,
    )


def sizes_in_words(verdict: Verdict) -> str:
    """Where a verdict's bytes are from: "estimated", or the core that a program was linked for."""
    if verdict.sizes == "estimated":
        return "estimated"
    said = f"linked for {_core_in_words(verdict.linked_for)}"
    if _same_core(verdict.linked_for, verdict.core):
        return said
    return f"{said}, not its {_core_in_words(verdict.core)}"


def _core_in_words(core: str) -> str:
    return core.replace("plus", "+").title()


CORES = ("cortex-m0", "cortex-m3", "cortex-m4", "cortex-m33", "cortex-m7", "cortex-m55")
"""From the fewest instructions to the most."""


def _distance(one: str, other: str) -> int:
    """How many steps of CORES are between two cores; the M0+ is an M0."""
    places = [CORES.index(core.removesuffix("plus")) for core in (one, other)]
    return abs(places[0] - places[1])


def _same_core(one: str, other: str) -> bool:
    """Whether they run the same programs: the Cortex-M0+ has the instructions of the Cortex-M0."""
    return one.removesuffix("plus") == other.removesuffix("plus")


def too_large(needed: Needs, role: str = "student") -> str | None:
    """A sentence if no microcontroller in `DEVICES` has the flash and the RAM, else None.

    Args:
        needed: estimated or linked.
        role: of the network, for the sentence.
    """
    fitting = [
        on
        for on in DEVICES
        if on.core
        and (on.flash_bytes is None or needed.flash_bytes <= on.flash_bytes)
        and (on.ram_bytes is None or needed.ram_bytes <= on.ram_bytes)
    ]
    if any(on.microcontroller for on in fitting):
        return None
    said = (
        f"The {role.replace('_', ' ')} needs {needed.flash_bytes:,} bytes of flash and "
        f"{needed.ram_bytes:,} of RAM; none of the listed"
    )
    if not fitting:
        most = max(DEVICES, key=lambda on: on.ram_bytes or 0)
        return f"{said} devices has both: the most RAM is {most.ram_bytes:,} bytes ({most.name})."
    small = [on for on in DEVICES if on.microcontroller]
    flash, ram = (max(small, key=lambda on: getattr(on, k)) for k in ("flash_bytes", "ram_bytes"))
    return (
        f"{said} microcontrollers has both: the most flash is {flash.flash_bytes:,} bytes "
        f"({flash.name}), the most RAM {ram.ram_bytes:,} ({ram.name}); it fits on "
        f"{' or '.join(on.name for on in fitting)}."
    )


def fits(
    network: nn.Module,
    device: Device | str,
    length: Length,
    precision: str = "int8",
    calibration: np.ndarray | None = None,
    linked: Needs | Sequence[Needs] = (),
) -> Verdict:
    """Whether a network fits on one device, by name or as a `Device` of your own.

    Args, but for the device, and what is counted: as in :func:`needs`; ``linked``: as in
    :func:`judge`.

    Raises:
        ArgumentError: if the device or the precision is unknown, or as :func:`judge` does.
    """
    on = _resolve(device)
    return judge(needs(network, length, precision, calibration), on, linked)


def _resolve(on: Device | str) -> Device:
    return on if isinstance(on, Device) else device(on)


def verdicts(
    network: nn.Module,
    length: Length,
    precision: str = "int8",
    calibration: np.ndarray | None = None,
    linked: Needs | Sequence[Needs] = (),
) -> pd.DataFrame:
    """Whether a network fits on each of the `DEVICES`: a row each, memory computed once.

    Args: as in :func:`fits`.

    Returns:
        The columns of :class:`Verdict`, and ``fits``.
    """
    needed = needs(network, length, precision, calibration)
    found = [judge(needed, on, linked) for on in DEVICES]
    table = pd.DataFrame([{**asdict(verdict), "fits": verdict.fits} for verdict in found])
    limits = ["flash_available", "ram_available", "macs_limit"]
    return table.astype(dict.fromkeys(limits, "Int64"))  # whole numbers also beside a None
