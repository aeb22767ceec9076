"""An exported C folder on an emulated Cortex-M: linked, its memory counted, its answers read.

The program that is linked is the folder's library with a start-up and a test program of together
under 1 KB (``templates/c/chip/``), so its flash is nearly that of a user's firmware. QEMU executes
an instruction in one nanosecond of its own time. So instructions are counted, not cycles: those
depend on the core's pipeline and on the memory's wait states as well.
"""

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np

from hfld_lite.errors import ArgumentError, HfldError, nearest

COMPILER, EMULATOR = "arm-none-eabi-gcc", "qemu-system-arm"
PRECISIONS = ("float32", "int8")
OPTIMISED = "-O2"

KIB, MIB = 2**10, 2**20
KNOWN_LOOP = 1_000_000  # instructions; main.c
FAULT, STACK = 3, 5  # exit codes; chip.h


@dataclass(frozen=True)
class Machine:
    """An emulated board: its memories, and a timer that counts 32 bits.

    Attributes:
        name: QEMU's.
        flash, ram: first address and bytes.
        timer: how main.c reads it, and its address.
        hertz: of the timer; 10⁹ / hertz instructions are one tick.
        vectors: address that the core starts from, if it is not the flash's.
        stack_bytes: at most; more is a fault.
    """

    name: str
    flash: tuple[int, int]
    ram: tuple[int, int]
    timer: str
    hertz: int
    vectors: int | None = None
    stack_bytes: int = 16 * KIB


MICROBIT = Machine(
    "microbit",
    (0x0, 256 * KIB),
    (0x2000_0000, 16 * KIB),
    "TIMER_NRF51=0x40008000u",
    16_000_000,
    stack_bytes=2 * KIB,
)


def _mps2(name: str) -> Machine:
    flash, ram = (0x0, 4 * MIB), (0x2000_0000, 4 * MIB)
    return Machine(name, flash, ram, "TIMER_CMSDK=0x40000000u", 25_000_000)


AN385 = _mps2("mps2-an385")
# A Cortex-M33 and an M55 start in their secure state, so the addresses are the secure ones.
AN505 = Machine(
    "mps2-an505",
    (0x1000_0000, 4 * MIB),
    (0x3800_0000, 4 * MIB),
    "TIMER_CMSDK=0x50000000u",
    20_000_000,
)
AN547 = Machine(
    "mps3-an547",
    (0x6000_0000, 4 * MIB),
    (0x3000_0000, 512 * KIB),
    "TIMER_SSE300=0x58100000u",
    32_000_000,
    vectors=0x0,
)


@dataclass(frozen=True)
class Core:
    """A Cortex-M: how to compile for it, and the machines that run it, the first that fits."""

    name: str
    flags: tuple[str, ...]
    machines: tuple[Machine, ...]


_HARD = ("-mfloat-abi=hard",)
CORES = {
    core.name: core
    for core in (
        # ARMv6-M is the same on an M0 and an M0+. A Cortex-M3 executes it too.
        Core("cortex-m0", ("-mcpu=cortex-m0plus",), (MICROBIT, AN385)),
        Core("cortex-m3", ("-mcpu=cortex-m3",), (AN385,)),
        Core(
            "cortex-m4",
            ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", *_HARD),
            (_mps2("mps2-an386"),),
        ),
        Core(
            "cortex-m7",
            ("-mcpu=cortex-m7", "-mfpu=fpv5-sp-d16", *_HARD),
            (_mps2("mps2-an500"),),
        ),
        Core("cortex-m33", ("-mcpu=cortex-m33", "-mfpu=fpv5-sp-d16", *_HARD), (AN505,)),
        # Without the vector unit's floats, which become 0 where they are subnormal: the answers
        # would differ from the host's. Its integers are used.
        Core("cortex-m55", ("-mcpu=cortex-m55+nomve.fp", "-mfpu=auto", *_HARD), (AN547,)),
    )
}


@dataclass(frozen=True)
class Placed:
    """One function, table or variable in the linked program: where it lies, and its bytes."""

    name: str
    part: str
    section: str
    address: int
    size: int


CODE, CONSTANTS, RUNTIME, TEST = "code", "constants", "runtime library", "start-up and test program"
ARENA, DATA, BUFFER = "arena", "static data", "recording buffer"


@dataclass(frozen=True)
class Linked:
    """A program for one core.

    Attributes:
        elf: the file.
        core: name in CORES.
        precision: float32 or int8.
        machine: the one that runs it.
        samples, classes: of a recording; of an answer.
        placed: the memory map, by address; what is initialised has its address in RAM.
        flash: bytes by part: ``code`` and ``constants`` (weights, tables) of the exported library,
            ``runtime library`` (libgcc, newlib), ``start-up and test program``.
        ram: bytes by part: ``arena``, ``static data`` of the exported library, ``runtime library``,
            ``recording buffer`` and ``start-up and test program``. The stack is measured instead.
    """

    elf: Path
    core: str
    precision: str
    machine: Machine
    samples: int
    classes: int
    placed: tuple[Placed, ...]
    flash: dict[str, int]
    ram: dict[str, int]

    @property
    def flash_bytes(self) -> int:
        """All parts together."""
        return sum(self.flash.values())

    def sizes_by_part(self) -> list[dict[str, object]]:
        """A row for each part of flash and RAM: ``memory``, ``part`` and ``bytes``."""
        return [
            {"memory": memory, "part": part, "bytes": size}
            for memory, sizes in (("flash", self.flash), ("RAM", self.ram))
            for part, size in sizes.items()
        ]


@dataclass(frozen=True)
class Emulated:
    """What the emulated core answered.

    Attributes:
        linked: the program.
        statuses: (n,) int32, 0 where there is an answer.
        probabilities: (n, classes) float32; NaN where there is no answer.
        answers: (n,) int32, the class's position, or −1 for *unsure* and where there is none.
        warnings: (n,) int32, bits, or a negative status.
        instructions: (n,) int64, of ``hfld_predict``, to one tick of the timer (20 to 63).
        view_instructions: (n,) int64, those of them before the network.
        stack_bytes: the most that a call of ``hfld_predict`` needed.
        machine: in words.
        seconds: that the emulator took.
    """

    linked: Linked
    statuses: np.ndarray
    probabilities: np.ndarray
    answers: np.ndarray
    warnings: np.ndarray
    instructions: np.ndarray
    view_instructions: np.ndarray
    stack_bytes: int
    machine: str
    seconds: float

    @classmethod
    def joined(cls, runs: Sequence["Emulated"]) -> "Emulated":
        """Several runs of one program as one."""
        arrays = ("statuses", "probabilities", "answers", "warnings")
        arrays += ("instructions", "view_instructions")
        return replace(
            runs[0],
            **{name: np.concatenate([getattr(run, name) for run in runs]) for name in arrays},
            stack_bytes=max(run.stack_bytes for run in runs),
            seconds=sum(run.seconds for run in runs),
        )

    @property
    def ram_bytes(self) -> int:
        """Arena, static data and stack; the recording buffer belongs to the caller."""
        ram = self.linked.ram
        return ram[ARENA] + ram[DATA] + ram[RUNTIME] + self.stack_bytes


def missing_tools() -> list[str]:
    """Debian's packages that compiling or emulating lacks here; empty if nothing is missing."""
    missing = []
    if shutil.which(COMPILER) is None:
        missing += ["gcc-arm-none-eabi", "libnewlib-arm-none-eabi"]
    else:
        found = _run([COMPILER, "-print-file-name=libc_nano.a"]).stdout.strip()
        if not Path(found).is_absolute():  # a file that is not there is given back by its bare name
            missing.append("libnewlib-arm-none-eabi")
    if shutil.which(EMULATOR) is None:
        missing.append("qemu-system-arm")
    return missing


def core_named(name: str) -> Core:
    """The core by its name, as in ``cortex-m4``, ``m4`` or ``M4``.

    Raises:
        ArgumentError: for one that is not in CORES.
    """
    full = "cortex-" + str(name).lower().removeprefix("cortex-").removesuffix("plus").rstrip("+")
    if full not in CORES:
        raise ArgumentError(f"The core {name!r} is unknown; choose from {', '.join(CORES)}.")
    return CORES[full]


def build(
    folder: Path | str,
    core: str,
    precision: str,
    out: Path | str,
    *,
    flags: Sequence[str] = (),
) -> Linked:
    """Compile and link an exported C folder for a core.

    Args:
        folder: as ``hfld export --format c`` writes it.
        core: ``cortex-m4``, ``m4``, …
        precision: ``float32`` or ``int8``.
        out: folder for the objects, ``program.elf`` and ``program.map``; made if need be.
        flags: further flags of the compiler, such as ``-Os`` in place of OPTIMISED, or
            ``-DHFLD_WARNINGS=0``, which leaves out ``hfld_warnings`` and its memory.

    Raises:
        ArgumentError: for an unknown core or precision, or a folder without that precision.
        HfldError: if a tool is missing, the compiler finds an error, or the program is larger than
            the emulated memory.
    """
    found, folder, out = core_named(core), Path(folder), Path(out)
    if precision not in PRECISIONS:
        raise ArgumentError(
            f"The precision {precision!r} is unknown; {nearest(precision, PRECISIONS)}."
        )
    for name in ("hfld.h", "hfld.c", f"hfld_{precision}.c"):
        if not (folder / name).is_file():
            raise ArgumentError(
                f"{folder} has no {name}; give a folder that `hfld export --format c` wrote."
            )
    require_tools()
    out.mkdir(parents=True, exist_ok=True)
    left_out = {"main.c", *(f"hfld_{other}.c" for other in PRECISIONS if other != precision)}
    library = [path for path in sorted(folder.glob("*.c")) if path.name not in left_out]
    with resources.as_file(resources.files("hfld_lite.edge") / "templates/c/chip") as test:
        compiling = [
            *(COMPILER, *found.flags, "-mthumb", "-std=c99", OPTIMISED, *flags),
            # sqrtf as one instruction where there is one, which does not set errno.
            *("-fno-math-errno", "-ffunction-sections", "-fdata-sections"),
            *(["-DHFLD_FLOAT32"] if precision == "float32" else []),
            *("-DHFLD_TRACE", "-Wall", "-Wextra", "-Wconversion", f"-I{folder}", f"-I{test}", "-c"),
        ]
        objects = [_compile(compiling, path, out / f"{path.stem}.o") for path in library]
        for machine in found.machines:
            more = [*compiling, f"-D{machine.timer}", "-fno-tree-loop-distribute-patterns"]
            tests = [
                _compile(more, test / name, out / f"test_{name[:-2]}.o")
                for name in ("startup.c", "main.c")
            ]
            script = out / "link.ld"
            script.write_text(_memory(machine, (test / "link.ld").read_text()))
            linking = [
                *(COMPILER, *found.flags, "-mthumb", "--specs=nano.specs", "-nostartfiles"),
                *(f"-T{script}", "-Wl,--gc-sections", f"-Wl,-Map={out / 'program.map'}"),
                *(*map(str, objects + tests), "-lm", "-o", str(out / "program.elf")),
            ]
            done = _run(linking)
            over = re.findall(r"region `(\w+)' overflowed by (\d+)", done.stderr)
            if not over:
                break
    if over:
        raise HfldError(_too_large(folder, precision, machine, over))
    if done.returncode:
        raise HfldError(f"{folder} could not be linked for {found.name}: {_first(done.stderr)}.")
    placed = _placed((out / "program.map").read_text(), {path.name for path in objects})
    header = (folder / "hfld.h").read_text()
    return Linked(
        out / "program.elf",
        found.name,
        precision,
        machine,
        _number(header, "HFLD_SAMPLES", folder),
        _number(header, "HFLD_CLASSES", folder),
        placed,
        *_parts(placed),
    )


def emulate(linked: Linked, recordings: np.ndarray, *, timeout: float = 600.0) -> Emulated:
    """Run a linked program on recordings.

    Args:
        linked: what `build` gave.
        recordings: (n, samples) float32.
        timeout: seconds that the emulator may take.

    Raises:
        ArgumentError: if the recordings have another shape.
        HfldError: if QEMU is missing, takes longer, the program faults, or the timer's count of a
            known number of instructions is off by more than 1 %.
    """
    recordings = np.ascontiguousarray(recordings, "<f4")
    if recordings.ndim != 2 or recordings.shape[1] != linked.samples or not len(recordings):
        raise ArgumentError(
            f"recordings has the shape {recordings.shape}; the program reads (n, {linked.samples})."
        )
    require_tools()
    record = np.dtype(
        [
            *((name, "<i4") for name in ("status", "answer", "warnings")),
            *((name, "<u4") for name in ("ticks", "view_ticks", "stack_bytes")),
            ("probabilities", "<f4", (linked.classes,)),
        ]
    )
    machine = linked.machine
    command = [EMULATOR, "-M", machine.name, "-display", "none", "-monitor", "none"]
    command += ["-serial", "none", "-icount", "shift=0", "-kernel", str(linked.elf.resolve())]
    command += ["-semihosting-config", "enable=on,target=native"]
    with tempfile.TemporaryDirectory() as place:
        answered = Path(place, "out")
        recordings.tofile(Path(place, "in"))
        began = time.monotonic()
        try:
            done = _run(command, cwd=place, timeout=timeout)
        except subprocess.TimeoutExpired:
            size = answered.stat().st_size if answered.exists() else 0
            raise HfldError(
                f"{machine.name} ran {max(0, size - 4) // record.itemsize} of {len(recordings)} "
                f"recordings in {timeout:g} s; give fewer recordings or a longer timeout."
            ) from None
        seconds = time.monotonic() - began
        if done.returncode in (FAULT, STACK):
            at = 0 if done.returncode == STACK else int(np.fromfile(Path(place, "fault"), "<u4")[0])
            raise HfldError(_fault(linked, at))
        if done.returncode:
            said = _first(done.stderr) or f"exit code {done.returncode}"
            raise HfldError(f"{EMULATOR} -M {machine.name} failed: {said}.")
        found = answered.read_bytes()
    ticks, rows = int(np.frombuffer(found, "<u4", 1)[0]), np.frombuffer(found, record, offset=4)
    a_tick = 1e9 / machine.hertz
    if abs(ticks * a_tick / KNOWN_LOOP - 1) > 0.01:
        raise HfldError(
            f"{machine.name} counted {ticks * a_tick:,.0f} instructions in a loop of "
            f"{KNOWN_LOOP:,}, so its counts are wrong; use QEMU 7.2, which was tested."
        )
    if len(rows) != len(recordings):
        raise HfldError(f"{machine.name} answered {len(rows)} of {len(recordings)} recordings.")
    return Emulated(
        linked,
        rows["status"].copy(),
        np.where(rows["status"][:, None] == 0, rows["probabilities"], np.float32(np.nan)),
        rows["answer"].copy(),
        rows["warnings"].copy(),
        np.rint(rows["ticks"] * a_tick).astype(np.int64),
        np.rint(rows["view_ticks"] * a_tick).astype(np.int64),
        int(rows["stack_bytes"].max()),
        _in_words(linked),
        seconds,
    )


def _run(command: Sequence[str], **options: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, **options
    )


def require_tools() -> None:
    """Refuse to continue without the compiler and the emulator.

    Raises:
        HfldError: one is missing; the packages are named.
    """
    if missing := missing_tools():
        raise HfldError(
            f"Emulating a chip needs programs that are not installed here; on Debian or Ubuntu: "
            f"apt install {' '.join(missing)}."
        )


def _first(said: str) -> str:
    """The first error that a program printed, else its first line."""
    lines = said.strip().splitlines() or [""]
    return next((line for line in lines if "error:" in line), lines[0]).rstrip(".")


def _compile(compiling: list[str], source: Path, to: Path) -> Path:
    done = _run([*compiling, str(source), "-o", str(to)])
    if done.returncode:
        raise HfldError(f"{source.name} could not be compiled: {_first(done.stderr)}.")
    return to


def _memory(machine: Machine, script: str) -> str:
    """The linker script of a machine. The vectors begin the flash where the core starts there."""
    at, size = machine.flash
    taken = 64 if machine.vectors is None else 0
    return Template(script).substitute(
        vectors_at=at if machine.vectors is None else machine.vectors,
        flash_at=at + taken,
        flash_bytes=size - taken,
        ram_at=machine.ram[0],
        ram_bytes=machine.ram[1],
        stack_bytes=machine.stack_bytes,
    )


def _too_large(folder: Path, precision: str, machine: Machine, over: list) -> str:
    sizes = {"FLASH": machine.flash[1], "RAM": machine.ram[1]}
    needed = " and ".join(
        f"{(sizes[name] + int(more)) / KIB:,.0f} KiB of {'flash' if name == 'FLASH' else name}"
        f" where {machine.name} has {sizes[name] / KIB:,.0f}"
        for name, more in over
    )
    return f"{folder} in {precision} needs {needed}; export a narrower student or int8."


def _number(header: str, name: str, folder: Path) -> int:
    found = re.search(rf"^#define\s+{name}\s+(\d+)", header, re.M)
    if found is None:
        raise HfldError(f"{folder / 'hfld.h'} does not define {name} as a number; export it again.")
    return int(found[1])


def _placed(map_text: str, library: set[str]) -> tuple[Placed, ...]:
    """The memory map from the linker's: a line an input section, which holds one symbol.

    What fills a gap counts with what stands before it.
    """
    lines = re.compile(r"^( ?)(\.\w\S*|COMMON)\s+0x(\w+)\s+0x(\w+)(?: (\S.*))?$", re.M)
    rows, output, end = [], "", 0
    for line in lines.finditer(map_text.partition("Linker script and memory map")[2]):
        inner, name, file = line[1], line[2], Path(line[5] or "")
        address, size = int(line[3], 16), int(line[4], 16)
        if not inner:
            output, end = name, address + size
        elif size and output in (".vectors", ".text", ".rodata", ".data", ".bss"):
            if rows and rows[-1].section == output:
                rows[-1] = replace(rows[-1], size=address - rows[-1].address)
            # An archive's file, as in libgcc.a(_divsi3.o), has one function and names it.
            member = re.search(r"\.a\((?:lib_a-)?(.+)\.o\)$", file.name)
            # .text.hfld_predict, .text.startup.main, .vectors
            name = member[1] if member else name.removeprefix(output).removeprefix(".startup")
            name = name.strip(".") or output.strip(".")
            part = _part(name, output, file.name, library)
            rows.append(Placed(name, part, output, address, end - address))
    return tuple(sorted(rows, key=lambda row: row.address))


def _part(name: str, section: str, file: str, library: set[str]) -> str:
    if file in library:
        if section in (".data", ".bss"):
            return ARENA if "arena" in name else DATA
        return CODE if section == ".text" else CONSTANTS
    if file.startswith("test_"):
        return BUFFER if name == "recording" else TEST
    return RUNTIME


def _parts(placed: Sequence[Placed]) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes by part in flash and in RAM. Initial values lie in flash too, as constants."""
    flash = dict.fromkeys((CODE, CONSTANTS, RUNTIME, TEST), 0)
    ram = dict.fromkeys((ARENA, DATA, RUNTIME, BUFFER, TEST), 0)
    for row in placed:
        if row.section in (".data", ".bss"):
            ram[row.part] += row.size
        if row.section != ".bss":
            flash[row.part if row.part in flash else CONSTANTS] += row.size
    return flash, ram


def _fault(linked: Linked, address: int) -> str:
    """A sentence about a fault at an address; 0 says that the stack ran over."""
    machine = linked.machine
    if not address:
        return (
            f"The program's stack ran over the {machine.stack_bytes:,} bytes that it has on "
            f"{machine.name}."
        )
    where = next(
        (row.name for row in linked.placed if row.address <= address < row.address + row.size),
        "no function",
    )
    return f"The program stopped with a HardFault on {machine.name}, in {where} at {address:#x}."


def _in_words(linked: Linked) -> str:
    words = f"QEMU's {linked.machine.name}"
    if linked.core == "cortex-m0" and linked.machine is AN385:
        words += (
            ", whose Cortex-M3 executes the same ARMv6-M program, as it does not fit the microbit"
        )
    return words
