"""Small devices and what fits on them: flash for the weights, RAM for the activations, time.

Sizes are bytes: data sheets' "Kbytes" and "Mbytes" of memory chips are powers of two, written KiB
and MiB here; the DCASE budget and a Jetson's storage are powers of ten, kB and GB.
"""

import difflib
import math
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import nn

from hfld_lite.edge.analysis import Length, count_macs, input_shape, stored_bytes
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
        source: documents that the figures are from.
        note: what to know about them.
        macs_limit: multiply-accumulates that an inference may take.
    """

    name: str
    flash_bytes: int | None
    ram_bytes: int | None
    clock_hz: int | None
    macs_per_cycle: float | None
    source: str
    note: str = ""
    macs_limit: int | None = None


_M4 = "Arm Cortex-M4 TRM r0p1 (DDI 0439): SMLAD does two products in a cycle"
_M7 = "Arm, The DSP capabilities of Cortex-M4 and Cortex-M7 processors (2016): SMLAD in a cycle"

DEVICES = (
    Device(
        "STM32F103C8",
        64 * KIB,
        20 * KIB,
        72 * MHZ,
        0.5,
        "ST DS5319; Arm Cortex-M3 TRM r2p0 (DDI 0337): MLA takes two cycles",
    ),
    Device("STM32F411RE", 512 * KIB, 128 * KIB, 100 * MHZ, 2, f"ST DS10314; {_M4}"),
    Device(
        "STM32F746NG",
        1 * MIB,
        320 * KIB,
        216 * MHZ,
        2,
        f"ST DS10916; {_M7}",
        "SRAM with the data TCM (64 KiB); 16 KiB of instruction TCM are not counted.",
    ),
    Device(
        "STM32H743ZI",
        2 * MIB,
        512 * KIB,
        480 * MHZ,
        2,
        f"ST DS12110; {_M7}",
        "The AXI SRAM, the largest of several blocks that make 1 MiB.",
    ),
    Device(
        "ESP32-S3",
        8 * MIB,
        512 * KIB,
        240 * MHZ,
        16,
        "Espressif ESP32-S3 and ESP32-S3-WROOM-1 data sheets; ESP32-S3 Technical Reference Manual, "
        "chapter 1 (PIE): EE.VMULAS.S8 multiplies 16 pairs",
        "Module WROOM-1-N8R8: external flash of 8 MiB. SRAM on the chip, which caches and the "
        "system share; its slower external RAM of 8 MiB is not counted.",
    ),
    Device(
        "RP2040",
        2 * MIB,
        264 * KIB,
        133 * MHZ,
        0.5,
        "Raspberry Pi RP2040 and Pico data sheets: single-cycle multiplier, and an addition",
        "External flash, 2 MiB on the board Raspberry Pi Pico.",
    ),
    Device(
        "RP2350",
        4 * MIB,
        520 * KIB,
        150 * MHZ,
        2,
        "Raspberry Pi RP2350 and Pico 2 data sheets; Arm Cortex-M33 with DSP extension: SMLAD",
        "External flash, 4 MiB on the board Raspberry Pi Pico 2.",
    ),
    Device(
        "nRF52840",
        1 * MIB,
        256 * KIB,
        64 * MHZ,
        2,
        f"Nordic nRF52840 Product Specification v1.7; {_M4}",
        "Also the chip of the board Arduino Nano 33 BLE.",
    ),
    Device(
        "Raspberry Pi Zero 2 W",
        None,
        512 * MIB,
        1000 * MHZ,
        4,
        "Raspberry Pi Zero 2 W product brief; LLVM's scheduling model of the Cortex-A53: SMLAL "
        "multiplies 8 pairs, and operations of 128 bits take two cycles",
        "One of four cores; storage is a card of any size, and the system needs RAM too.",
    ),
    Device(
        "Raspberry Pi 4 B",
        None,
        1 * GIB,
        1500 * MHZ,
        8,
        "Raspberry Pi 4 Model B data sheet, release 1; Arm Cortex-A72 Software Optimization Guide "
        "(UAN 0016A): SMLAL, 8 pairs, once a cycle",
        "The smallest model, one of four cores; storage is a card of any size, and the system "
        "needs RAM too.",
    ),
    Device(
        "Jetson Nano",
        16 * 10**9,
        4 * GIB,
        1430 * MHZ,
        8,
        "NVIDIA Jetson Nano module data sheet; Arm Cortex-A57 Software Optimization Guide "
        "(UAN 0015B): SMLAL, 8 pairs, once a cycle",
        "The module's eMMC of 16 GB; one of four cores, without the GPU; the system needs RAM too.",
    ),
    Device(
        "DCASE",
        128_000,
        None,
        None,
        None,
        "DCASE challenge 2023 to 2025, task 1, low-complexity acoustic scene classification",
        "A rule, not a device: 128 kB of parameters and 30 million MACs an inference, which its "
        "organisers count with torchinfo (see compare_macs in edge).",
        macs_limit=30_000_000,
    ),
)
"""Devices in common use for such tasks, from the smallest, and the budget of DCASE."""


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
    """What a network needs on any device: bytes of flash and RAM, MACs of one inference."""

    precision: str
    flash_bytes: int
    ram_bytes: int
    macs: int


@dataclass(frozen=True)
class Verdict:
    """Whether a network fits on a device.

    ``..._needed`` and ``..._available`` are bytes, None where available means no limit;
    ``estimate_ms`` is MACs / (clock · MACs per cycle): an estimate, which leaves out loads,
    memory and everything else but multiplications, so that a device usually takes a few times as
    long. It is None where the device has no figure for the precision.
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


def judge(needed: Needs, on: Device) -> Verdict:
    """Compare what a network needs with what a device has."""
    pairs = (
        (needed.flash_bytes, on.flash_bytes),
        (needed.ram_bytes, on.ram_bytes),
        (needed.macs, on.macs_limit),
    )
    figures = [
        figure for need, limit in pairs for figure in (need, limit, limit is None or need <= limit)
    ]
    rate = None if on.clock_hz is None else on.clock_hz * on.macs_per_cycle
    known = rate is not None and needed.precision == "int8"
    estimate = 1e3 * needed.macs / rate if known else None
    return Verdict(on.name, needed.precision, *figures, estimate)


def fits(
    network: nn.Module,
    device: Device | str,
    length: Length,
    precision: str = "int8",
    calibration: np.ndarray | None = None,
) -> Verdict:
    """Whether a network fits on one device, by name or as a `Device` of your own.

    Args, but for the device, and what is counted: as in :func:`needs`.

    Raises:
        ArgumentError: if the device or the precision is unknown.
    """
    on = _resolve(device)
    return judge(needs(network, length, precision, calibration), on)


def _resolve(on: Device | str) -> Device:
    return on if isinstance(on, Device) else device(on)


def verdicts(
    network: nn.Module,
    length: Length,
    precision: str = "int8",
    calibration: np.ndarray | None = None,
) -> pd.DataFrame:
    """Whether a network fits on each of the `DEVICES`: a row each, memory computed once.

    Returns:
        The columns of :class:`Verdict`, and ``fits``.
    """
    needed = needs(network, length, precision, calibration)
    found = [judge(needed, on) for on in DEVICES]
    table = pd.DataFrame([{**asdict(verdict), "fits": verdict.fits} for verdict in found])
    limits = ["flash_available", "ram_available", "macs_limit"]
    return table.astype(dict.fromkeys(limits, "Int64"))  # whole numbers also beside a None
