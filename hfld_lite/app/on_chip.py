"""A run's network on an emulated microcontroller: exported, linked, run on its test recordings."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError

from hfld_lite.app.runs import Run
from hfld_lite.data.parts import average
from hfld_lite.data.recordings import Recordings
from hfld_lite.edge.chip import Emulated, Linked, build, core_named, emulate, require_tools
from hfld_lite.edge.devices import Needs
from hfld_lite.edge.firmware import Firmware, export_firmware
from hfld_lite.errors import ArgumentError, HfldError, RecipeError
from hfld_lite.evaluation.metrics import evaluate, paired_interval
from hfld_lite.storage.files import read_json, write_whole
from hfld_lite.storage.models import Checked, Index, explain
from hfld_lite.storage.progress import bar

STORED = "chip.json"
"""The file in a run's folder that keeps the sizes of linked programs, for verdicts on devices."""

RECORDINGS = 200
"""Recordings of the test part that are run by default."""

NAMES = {"float32": "fp32", "int8": "int8"}
"""The precisions as :mod:`hfld_lite.edge.devices` names them."""

SAMPLE = 2
"""Bytes of a sample in the caller's buffer, which verdicts on devices count too: 16 bits."""

AT_ONCE = 20
"""Recordings of one start of the emulator, so that a bar can move."""


@dataclass(frozen=True)
class OnChip:
    """What came out of one core.

    Attributes:
        firmware: what was exported.
        linked, emulated: by precision.
        table: a row a precision: ``precision``, ``flash_bytes``, ``ram_bytes`` (static memory and
            stack), ``arena_bytes``, ``stack_bytes``, ``instructions`` (median of an inference) and
            ``view_instructions`` (its part before the network), ``accuracy`` with its 95 % interval
            (``low``, ``high``), ``change`` from torch's accuracy with its paired interval
            (``change_low``, ``change_high``), ``from_torch`` and ``from_host`` (largest difference
            of a probability from torch's, and from the same operations computed here),
            ``warnings`` (share of recordings) and ``refused`` (recordings without an answer).
        recordings, of: how many recordings were run, of how many in the test part.
        machine: that ran it, in words.
    """

    firmware: Firmware
    linked: dict[str, Linked]
    emulated: dict[str, Emulated]
    table: pd.DataFrame
    recordings: int
    of: int
    machine: str


def run_on_chips(
    run: Run,
    cores: Sequence[str],
    role: str = "student",
    *,
    most: int = RECORDINGS,
    data: str | Path | None = None,
    out: str | Path | None = None,
    flags: Sequence[str] = (),
    progress: bool = True,
) -> dict[str, OnChip]:
    """Export a network as C, link it for each core, and run the test recordings in QEMU.

    The sizes are stored in the run's folder, where :func:`linked_sizes` finds them.

    Args:
        run: of `load_run`.
        cores: such as ``"cortex-m4"`` or ``"m4"``.
        role: of the network.
        most: recordings of the test part that are run, drawn at random; 0 for all.
        data: where the run's recordings are now, if they were moved.
        out: folder for the C files and the programs; by default a temporary one.
        flags: more options for the compiler, such as ``-O3``.
        progress: show a bar.

    Returns:
        What came out, by the core's full name.

    Raises:
        ArgumentError: if a core is unknown, or ``most`` is negative.
        HfldError: if a tool is missing (the packages are named), a program does not fit into the
            emulated memory or faults; and as :func:`export_firmware` says.
    """
    if most < 0:
        raise ArgumentError(f"most is {most}; give a number of recordings, or 0 for all.")
    names = list(dict.fromkeys(core_named(core).name for core in cores))
    require_tools()
    recordings = run.recordings(progress, data)
    part, of = _some(recordings.select(run.split.test), most)
    exact = run.detector.predict(part.signals, part.sample_rate, role)
    found = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(out or place)
        firmware = export_firmware(
            run.detector,
            folder,
            role=role,
            trust=run.trust.get(role),
            recordings=lambda: recordings,
            split=run.split,
        )
        here = {name: firmware.predict[name](part.signals) for name in firmware.precisions}
        total = len(part) * len(names) * len(here)
        with bar(total=total, desc="emulating", progress=progress, leave=False) as shown:
            for name in names:
                linked = {
                    each: build(folder, name, each, folder / f"{name}-{each}", flags=flags)
                    for each in here
                }
                emulated = {
                    each: _emulate(program, part.signals, shown) for each, program in linked.items()
                }
                rows = [_row(run, part, exact, here[each], emulated[each]) for each in here]
                found[name] = OnChip(
                    firmware,
                    linked,
                    emulated,
                    pd.DataFrame(rows),
                    len(average(part.labels, part.wholes)[1]),
                    of,
                    emulated["int8"].machine,
                )
                _store(run, role, emulated)
    return found


def _some(part: Recordings, most: int) -> tuple[Recordings, int]:
    """At most so many recordings of a part, with all of their windows; how many it has."""
    wholes = np.arange(len(part)) if part.wholes is None else part.wholes
    names = np.unique(wholes)
    if not len(names):
        raise HfldError("The run has no test part, so there is nothing to run on the chip.")
    if not most or most >= len(names):
        return part, len(names)
    chosen = np.random.default_rng(0).permutation(names)[:most]
    return part.select(np.flatnonzero(np.isin(wholes, chosen))), len(names)


def _emulate(program: Linked, signals: np.ndarray, shown: Any) -> Emulated:
    parts = []
    for start in range(0, len(signals), AT_ONCE):
        parts.append(emulate(program, signals[start : start + AT_ONCE]))
        shown.update(len(parts[-1].statuses))
    return Emulated.joined(parts)


def _row(
    run: Run, part: Recordings, torch_says: np.ndarray, host_says: np.ndarray, found: Emulated
) -> dict[str, Any]:
    answered = found.statuses == 0
    chip_says = np.where(answered[:, None], found.probabilities, 0)
    mean, rows = average(chip_says, part.wholes)
    exact, _ = average(torch_says, part.wholes)
    labels, groups = part.labels[rows], part.groups[rows]
    names = (run.detector.class_names, run.detector.normal_classes)
    figures = evaluate(mean.argmax(1), labels, groups, *names)
    right = mean.argmax(1) == labels, exact.argmax(1) == labels, groups
    change, low, high = paired_interval([right], np.random.default_rng(0))[:3]
    linked = found.linked
    return {
        "precision": linked.precision,
        "flash_bytes": linked.flash_bytes,
        "ram_bytes": found.ram_bytes,
        "arena_bytes": linked.ram["arena"],
        "stack_bytes": found.stack_bytes,
        "instructions": int(np.median(found.instructions[answered])),
        "view_instructions": int(np.median(found.view_instructions[answered])),
        "accuracy": figures.accuracy,
        "low": figures.low,
        "high": figures.high,
        "change": change,
        "change_low": low,
        "change_high": high,
        "from_torch": float(np.abs(chip_says - torch_says)[answered].max()),
        "from_host": float(np.abs(chip_says - host_says)[answered].max()),
        "warnings": float(np.mean(found.warnings > 0)),
        "refused": int((~answered).sum()),
    }


class _Size(Checked):
    """One linked program's sizes, as they are stored."""

    role: str
    precision: Literal["float32", "int8"]
    core: str
    flash_bytes: Index
    ram_bytes: Index


_SIZES = TypeAdapter(list[_Size])


def _store(run: Run, role: str, emulated: dict[str, Emulated]) -> None:
    """Add to what is known of a run; an earlier program of the same core is replaced."""
    new = [
        _Size(
            role=role,
            precision=precision,
            core=found.linked.core,
            flash_bytes=found.linked.flash_bytes,
            ram_bytes=found.ram_bytes + SAMPLE * found.linked.samples,
        )
        for precision, found in emulated.items()
    ]
    keys = {(size.role, size.precision, size.core) for size in new}
    old = [s for s in _stored(run.folder) if (s.role, s.precision, s.core) not in keys]
    path = run.folder / STORED
    try:
        write_whole(path, _SIZES.dump_json([*old, *new], indent=1).decode() + "\n")
    except OSError as error:
        raise RecipeError(
            f"{path} cannot be written ({error.strerror}); make the folder writable."
        ) from error


def _stored(folder: Path) -> list[_Size]:
    path = folder / STORED
    if not path.exists():
        return []
    try:
        return _SIZES.validate_python(read_json(path))
    except (OSError, ValidationError, ValueError) as error:
        said = explain(error) if isinstance(error, ValidationError) else error
        raise RecipeError(
            f"{path} cannot be read ({said}); delete it, and run `hfld edge {folder} --on …` again."
        ) from error


def linked_sizes(run: Run, role: str) -> list[Needs]:
    """What the programs of `run_on_chips` need for a role, with a buffer of 16-bit samples.

    Raises:
        RecipeError: if the stored sizes cannot be read.
    """
    found = [size for size in _stored(run.folder) if size.role == role]
    return [
        Needs(NAMES[size.precision], size.flash_bytes, size.ram_bytes, 0, size.core)
        for size in found
    ]
