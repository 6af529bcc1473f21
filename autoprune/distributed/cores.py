"""Which of this machine's cores are free for a launch: not pinned away, within the container's quota, not in use."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Cores", "CoresWatch", "cpu_quota"]

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
_LEAST_WATCH_S = 0.2


@dataclass(frozen=True)
class Cores:
    """The cores of this machine as a launch finds them.

    Args:
        there: All of them.
        allowed: Those that this process may use, by its affinity and the quota of its container.
        busy: How many of these others kept busy, on average over the time that was watched.
    """

    there: int
    allowed: int
    busy: float = 0.0

    @property
    def free(self) -> int:
        """How many threads find a core of their own, at least one: a team of them waits for its slowest."""
        return max(1, self.allowed - math.floor(self.busy + 0.5))

    def __str__(self) -> str:
        limit = f", of which {self.allowed} may be used (affinity, quota)" if self.allowed < self.there else ""
        load = f"; others keep {self.busy:.1f} busy" if self.free < self.allowed else ""
        return f"{self.free} of {self.there} cores are free{limit}{load}"


class CoresWatch:
    """Watches from its making on how busy others keep the cores that this process may use.

    Args:
        proc: Where the kernel tells of processes.
        cgroups: Where the control groups are mounted.
    """

    def __init__(self, *, proc: Path = _PROC, cgroups: Path = _CGROUPS) -> None:
        self._proc, self._cgroups = proc, cgroups
        self._cores = _affinity()
        self._before = self._now()

    def look(self) -> Cores:
        """The cores now; `busy` counts neither this process nor what is nicer than it, which makes room for it."""
        time.sleep(max(0.0, self._before[0] + _LEAST_WATCH_S - time.monotonic()))
        after = self._now()
        elapsed, worked, own = (now - then for now, then in zip(after, self._before, strict=True))
        quota = cpu_quota(proc=self._proc, cgroups=self._cgroups)
        allowed = max(1, math.floor(min(len(self._cores), quota)))
        others = max(0.0, (worked - own) / elapsed)
        # Of a quota all cores of the machine can give what is asked, so only what does not fit besides others is lost.
        busy = max(0.0, others - (len(self._cores) - allowed))
        return Cores(os.cpu_count() or allowed, allowed, busy)

    def _now(self) -> tuple[float, float, float]:
        """Seconds that passed, that the cores have worked, and that this process has."""
        own = os.times()
        used = own.user + own.system + own.children_user + own.children_system
        return time.monotonic(), self._worked_s(), used

    def _worked_s(self) -> float:
        try:
            lines = (self._proc / "stat").read_text().splitlines()
        except OSError:
            return 0.0  # Not Linux: then nobody is seen.
        ticks, wanted = 0, {f"cpu{core}" for core in self._cores}
        for line in lines:
            name, *fields = line.split()
            if name in wanted:
                user, nice, system, _, _, interrupts, soft, stolen, *_ = map(int, fields)
                ticks += user + system + interrupts + soft + stolen + (nice if _niceness() > 0 else 0)
        return ticks / os.sysconf("SC_CLK_TCK")


def cpu_quota(*, proc: Path = _PROC, cgroups: Path = _CGROUPS) -> float:
    """Cores that the control groups of this process may use, versions 1 and 2; infinite where nothing limits them."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return math.inf
    quotas = [math.inf]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            quotas += [_quota_v2(folder) for folder in _upwards(cgroups, path)]
        elif "cpu" in controllers.split(","):
            for mount in dict.fromkeys((controllers, "cpu")):
                quotas += [_quota_v1(folder) for folder in _upwards(cgroups / mount, path)]
    return min(quotas)


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """A group's folder and those above it; in a container only the mount itself may be seen, which is the group's."""
    folder = mount / path.strip("/")
    yield folder
    yield from (each for each in folder.parents if each.is_relative_to(mount))


def _quota_v2(folder: Path) -> float:
    quota, period = _numbers(folder / "cpu.max", 2)
    return quota / period


def _quota_v1(folder: Path) -> float:
    (quota,), (period,) = _numbers(folder / "cpu.cfs_quota_us", 1), _numbers(folder / "cpu.cfs_period_us", 1)
    return quota / period if quota > 0 and math.isfinite(period) else math.inf


def _numbers(file: Path, n: int) -> list[float]:
    """So many numbers of a file, the first infinite where there is none or it says ``max``."""
    try:
        words = file.read_text().split()
        return [math.inf if word == "max" else float(word) for word in words[:n]] if len(words) >= n else _none(n)
    except (OSError, ValueError):
        return _none(n)


def _none(n: int) -> list[float]:
    return [math.inf, *[1.0] * (n - 1)]


def _affinity() -> frozenset[int]:
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0) if hasattr(os, "getpriority") else 0
