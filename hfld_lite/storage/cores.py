"""The processor's cores: how many this process may use, and how many of them others use now."""

import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

SAMPLED = 0.2
"""Seconds in which the use of the cores is measured."""

STARTING = 5.0
"""Seconds for which a training that was announced counts as one that uses a core."""

ANNOUNCED = "hfld_lite-starting-"

BUSY = ("user", "nice", "system", "irq", "softirq", "steal")
"""Kinds of time in which a core is not free. What runs at a low priority has its core for half of
the time while threads wait for each other, so that it counts as any other."""


def allowed() -> list[int]:
    """Numbers of the logical processors that this process may run on."""
    affinity = getattr(psutil.Process(), "cpu_affinity", None)  # macOS has none
    return affinity() if affinity else list(range(psutil.cpu_count() or 1))


def physical_cores() -> int:
    """Cores that this process may run on."""
    return max(1, min(psutil.cpu_count(logical=False) or 1, len(allowed())))


def quotas(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> dict[Path, float]:
    """Cores that the control groups of this process may use, by the group's folder.

    Empty if there is no limit, or no control group, as on other systems than Linux.

    Args:
        root: where control groups of version 1 or 2 are shown.
        own: the file that names those of this process.
    """
    found = {}
    with suppress(OSError, ValueError):
        for line in own.read_text().splitlines():
            _, kind, name = line.split(":", 2)
            # A container shows its own group as the root, whatever the host calls it.
            for group in (Path(name), *Path(name).parents):
                folder = root / kind / group.relative_to("/")
                if (limit := _quota(folder)) is not None:
                    found[folder] = limit
    return found


def _quota(folder: Path) -> float | None:
    """The limit of a control group, in cores; None if there is none."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = " ".join((folder / name).read_text() for name in names).split()
            if int(quota) > 0:  # "max" and -1 are none
                return int(quota) / int(period)
    return None


def usable_cores() -> tuple[int, int]:
    """Cores that this process may use (≥ 1), and those of them that nothing else uses now (≥ 0).

    Takes SAMPLED seconds if there is more than one. What others use is measured, or said by
    trainings that are starting.
    """
    limits = quotas()
    most = max(1, int(min([physical_cores(), *limits.values()])))
    if most == 1:
        return 1, 1
    try:
        used = used_by_others([*limits])
        left = zip((physical_cores(), *limits.values()), used, strict=True)
        free = min(int(limit - round(busy)) for limit, busy in left)
        return most, max(0, min(most, free, most - starting()))
    except Exception:  # no training fails because a system does not say what runs on it
        return most, most


def used_by_others(groups: Sequence[Path] = ()) -> list[float]:
    """Cores that others use now: of those that this process may use, and within each group."""
    (began, own, *busy), _ = _seconds(groups), time.sleep(SAMPLED)
    now, still, *later = _seconds(groups)
    return [(b - a - (still - own)) / (now - began) for a, b in zip(busy, later, strict=True)]


def _seconds(groups: Sequence[Path]) -> list[float]:
    """The time, and the processor time used until now: by this process, by all, by each group."""
    times, own = psutil.cpu_times(percpu=True), psutil.Process().cpu_times()
    busy = sum(getattr(times[i], kind, 0) for i in allowed() for kind in BUSY)
    return [time.perf_counter(), own.user + own.system, busy, *map(_group_seconds, groups)]


def _group_seconds(folder: Path) -> float:
    with suppress(OSError, ValueError):
        words = (folder / "cpu.stat").read_text().split()
        return int(words[words.index("usage_usec") + 1]) / 1e6
    with suppress(OSError, ValueError):
        return int((folder / "cpuacct.usage").read_text()) / 1e9
    return 0.0


def announce() -> Any:
    """Tell the others that a training starts here; what is returned is to be kept while it does.

    The file is empty, and ends with the process; :func:`starting` removes it after a kill.
    """
    with suppress(OSError):  # a full disk: it only helps the others
        return tempfile.NamedTemporaryFile(prefix=f"{ANNOUNCED}{os.getpid()}-")


def starting() -> int:
    """Other processes whose training was announced within STARTING seconds, and may not show yet.

    Two that announce themselves before they measure see each other, even if both were waiting.
    """
    found, now = set(), time.time()
    for file in Path(tempfile.gettempdir()).glob(f"{ANNOUNCED}*"):
        with suppress(OSError, ValueError):
            process = int(file.name.removeprefix(ANNOUNCED).split("-")[0])
            if not psutil.pid_exists(process):
                file.unlink()  # another user's stays, and does not count
            elif now - file.stat().st_mtime < STARTING:
                found.add(process)
    return len(found - {os.getpid()})
