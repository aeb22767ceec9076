"""The view and the warnings of one run in C: macros and tables for ``templates/c/hfld_view.c``.

A Fourier transform of n points needs cos and sin of 2π k / n. They are computed here, in float64,
and the chip multiplies two of them for each k, one for k's high bits and one for its low bits, so
that the tables have about 2 √(n / 2) entries in place of n / 2.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from hfld_lite.data.views import BANDS
from hfld_lite.edge.front import doubts, front
from hfld_lite.evaluation import trust as trusts
from hfld_lite.evaluation.detector import Detector
from hfld_lite.evaluation.trust import Trust


def view_config(detector: Detector, trust: Trust | None) -> str:
    """The part of ``hfld_config.h`` that ``hfld_view.c`` and the answer *unsure* need.

    Args:
        detector: whose recipe, samples and sample rate say what the view is.
        trust: the limits of *unsure* and of the warnings; None for none.

    Returns:
        C: HFLD_LENGTH (values of the view), HFLD_VIEW_WORK and HFLD_DOUBT_WORK (floats that
        ``hfld_view`` and ``hfld_doubt`` need besides), HFLD_LIMIT (the least doubt that is
        *unsure*; an own one may be defined before), HFLD_NORMALS (how many classes are normal), and
        ``hfld_normal`` and ``hfld_doubtable``: of each class, whether it is normal, and whether
        *unsure* may replace it. The other macros are for ``hfld_view.c`` only.
    """
    facts, limits = front(detector), doubts(trust, detector)
    view, waves = _view(detector, facts)
    lines = ["/* the view */", *view]
    lines += ["", "/* the warnings */", *_warnings(detector, limits if trust else None)]
    doubted = [detector.samples] if trust else []
    seen = _radices(facts["points"] or 1)
    checked = _radices(*doubted)
    for name in ("2", "4", "ODD"):
        used = f"({name in seen:d} || ({name in checked:d} && HFLD_DOUBTS))"
        lines += _macros({f"RADIX_{name}": used})
    for points in dict.fromkeys(waves + doubted):
        lines += _wave(points)
    normal = [int(label in limits["normal"]) for label in range(len(detector.class_names))]
    lines += [
        "",
        "/* the answer */",
        "#ifndef HFLD_LIMIT",
        *_macros({"LIMIT": _float(limits["limit"])}),
        "#endif",
        *_macros({"NORMALS": sum(normal)}),
        _table("uint8_t", "normal", normal),
        _table("uint8_t", "doubtable", map(int, limits["doubtable"])),
    ]
    return "\n".join(lines) + "\n"


def factors(points: int) -> list[int]:
    """The factors by which a Fourier transform is done: odd primes, 2 at most once, then 4s."""
    odd, fours, prime = [], [], 3
    while points % 4 == 0:
        points, fours = points // 4, [*fours, 4]
    twos = [2] * (points % 2 == 0)
    points //= 2 ** len(twos)
    while points > 1:
        if prime * prime > points:
            prime = points
        while points % prime == 0:
            points, odd = points // prime, [*odd, prime]
        prime += 2
    return odd + twos + fours


def _radices(*lengths: int) -> set[str]:
    """Which of the passes of ``hfld_view.c`` transforms of these lengths need."""
    return {"ODD" if r % 2 else str(r) for points in lengths for r in factors(points)}


def work(points: int) -> int:
    """Floats that a Fourier transform needs: the values, and four times the largest odd factor."""
    return points + 4 * max((r for r in factors(points) if r % 2), default=0)


def circle(points: int) -> dict[str, Any]:
    """What the members of C's ``hfld_wave`` are for a circle of ``points`` steps."""
    shift = min(range(points.bit_length()), key=lambda bits: (1 << bits) + (points // 2 >> bits))
    step = 2 * np.pi / points
    fine = np.arange(1 << shift) * step
    coarse = np.arange(0, points // 2 + 1, 1 << shift) * step
    # cos x − 1, without the digits that a difference of neighbours loses
    less = -2 * np.sin(fine / 2) ** 2 + 0.0
    return {
        "points": points,
        "shift": shift,
        "coarse": np.stack([np.cos(coarse), np.sin(coarse)], 1).astype(np.float32).ravel(),
        "fine": np.stack([less, np.sin(fine)], 1).astype(np.float32).ravel(),
        "strides": np.int32([*(points // np.cumprod(factors(points), dtype=int)), 0]),
    }


def _view(detector: Detector, facts: dict[str, Any]) -> tuple[list[str], list[int]]:
    """Macros and tables of the view, and the lengths of the circles that it needs."""
    # Any recording that is not constant has a view of the right length.
    some = np.arange(detector.samples, dtype=np.float32) % 7
    length = detector.inputs(some[None]).shape[1]
    points, size, unit = facts["points"] or 0, facts["size"] or 0, facts["unit"]
    samples = detector.recipe.samples or detector.samples
    macros = {
        "LENGTH": length,
        "VIEW_SAMPLES": samples if points else length,
        "VIEW_WORK": work(points) if points else 1,
        "POINTS": points,
        "WINDOW": size,
        "CENTRED": int(facts["centred"]),
        "DECIBELS": int(facts["depth"] is not None),
    }
    lines, waves = [], []
    if points:
        kept = min(facts["kept"], length * facts["averaged"])
        macros |= {"TAKEN": size or samples, "WINDOWS": 1, "KEPT": kept}
        macros |= {"AVERAGED": facts["averaged"], "VIEW_WAVE": _named(points)}
        waves.append(points)
    if facts["depth"] is not None:
        base = 1 / unit if facts["level"] == "kept" else 0.0
        macros |= {"LEAST": _float(10 ** -facts["depth"]), "BASE": _float(base)}
        macros["SCALE"] = _float(1 / (math.log(10) * facts["depth"]))
    if size:
        frames = (samples - size) // (size // 2) + 1
        macros |= {"WINDOWS": frames, "FRAME": facts["frames"], "BANDS": BANDS}
        macros |= {"FRAMES": -(-frames // facts["frames"]), "WINDOW_WAVE": _named(size)}
        waves.append(size)
        edges = np.array(facts["edges"]) * points / detector.sample_rate  # in bins
        lines += [
            "/* where the triangles begin, peak and end, in bins; how they rise in between */",
            _table("float", "edges", map(_float, edges)),
            _table("float", "slopes", map(_float, 1 / np.diff(edges))),
        ]
    return _macros(macros) + lines, waves


def _warnings(detector: Detector, limits: dict[str, Any] | None) -> list[str]:
    macros = {"DOUBTS": "0", "DOUBT_WORK": 1}
    lines = ["#ifndef HFLD_WARNINGS", *_macros({"WARNINGS": 1}), "#endif"]
    if not limits:
        return lines + _macros(macros)
    bins = detector.samples // 2 + 1
    edges = np.linspace(0, bins, trusts.BANDS + 1).astype(int)  # as `band_levels` has them
    deviations = np.unique(limits["deviations"], axis=0)
    if len(deviations) > 1:  # usually all classes have the same
        deviations = np.array(limits["deviations"])
    macros = {"DOUBTS": "HFLD_WARNINGS", "DOUBT_WORK": work(detector.samples)}
    macros |= {"DOUBT_WAVE": _named(detector.samples), "NOVELTY": _float(limits["novelty"])}
    macros |= {"RUN": limits["run"], "LEVELS": trusts.BANDS}
    macros |= {"LEVEL_MEANS": len(limits["means"]), "LEVEL_SCALES": len(deviations)}
    return [
        *lines,
        *_macros(macros),
        _table("int32_t", "level_edges", edges),
        _tables("level_means", np.array(limits["means"])),
        _tables("level_scales", 1 / deviations),
    ]


def _wave(points: int) -> list[str]:
    tables = circle(points)
    return [
        *(
            _table("float", f"{name}_{points}", map(_float, tables[name]))
            for name in ("coarse", "fine")
        ),
        _table("int32_t", f"strides_{points}", tables["strides"]),
    ]


def _named(points: int) -> str:
    """What initialises the ``hfld_wave`` of so many points."""
    tables = ", ".join(f"hfld_{name}_{points}" for name in ("coarse", "fine", "strides"))
    return f"{points}, {circle(points)['shift']}, {tables}"


def _macros(values: dict[str, Any]) -> list[str]:
    return [f"#define HFLD_{name} {value}" for name, value in values.items()]


def _table(kind: str, name: str, values: Iterable[Any]) -> str:
    values = [str(value) for value in values]
    return f"static const {kind} hfld_{name}[{len(values)}] = {{{', '.join(values)}}};"


def _tables(name: str, rows: np.ndarray) -> str:
    inner = ",\n    ".join(f"{{{', '.join(map(_float, row))}}}" for row in rows)
    return f"static const float hfld_{name}[{len(rows)}][{rows.shape[1]}] = {{\n    {inner}}};"


def _float(value: float) -> str:
    """A float32 in C, with all its digits."""
    text = str(np.float32(value))
    return f"{text}f" if any(sign in text for sign in ".e") else f"{text}.0f"
