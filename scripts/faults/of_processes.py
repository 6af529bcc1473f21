"""Processes that are killed, stopped and started twice."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time

from faults.arena import LEASE_S, Arena, Missed
from faults.cluster import processes
from faults.kinds import Kind

__all__ = ["KINDS"]

_OVER_S = 1.6  # Leases: longer than anyone waits for a sign of life.


def _is_shared(arena: Arena) -> bool:
    return arena.cluster is not None


def _is_alone(arena: Arena) -> bool:
    return arena.cluster is None


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        raise Missed(f"process {pid} has just ended") from None


def _driver_killed(arena: Arena) -> str:
    states, _ = arena.live()
    driver = arena.rng.choice(arena.drivers)
    arena.kill(driver)
    return f"driver {driver.pid}, {states['RUNNING']} trials running"


def _worker_killed(arena: Arena) -> str:
    states, worker = arena.live()
    _signal(worker, signal.SIGKILL)
    return f"worker {worker}, {states['RUNNING']} trials running"


def _raylet_killed(arena: Arena) -> str:
    """The manager of the second node goes; its workers notice and end."""
    states, _ = arena.live()
    assert arena.cluster is not None
    raylets = processes(arena.cluster.second.pid, "raylet/raylet")
    if not raylets:
        raise Missed("no raylet")
    os.kill(raylets[0], signal.SIGKILL)
    time.sleep(arena.rng.uniform(1, 3))
    arena.cluster.replace()
    return f"raylet {raylets[0]} of the second node, {states['RUNNING']} trials running"


def _node_killed(arena: Arena) -> str:
    """All processes of the second node go at once, as when its machine does."""
    states, _ = arena.live()
    assert arena.cluster is not None
    session = arena.cluster.second.pid
    workers = processes(session, "ray::ImplicitFunc")
    for pid in processes(session, ""):
        os.kill(pid, signal.SIGKILL)
    arena.cluster.replace()
    return f"node of session {session} with {len(workers)} trial workers, {states['RUNNING']} trials running"


def _own_raylet_killed(arena: Arena) -> str:
    """The driver's own cluster goes under it."""
    states, _ = arena.live()
    driver = arena.drivers[0]
    raylets = processes(driver.pid, "raylet/raylet")
    if not raylets:
        raise Missed("no raylet")
    os.kill(raylets[0], signal.SIGKILL)
    arena.wait_end(driver, within_s=120, told="after its raylet was killed")
    return f"raylet {raylets[0]} of driver {driver.pid}, {states['RUNNING']} trials running"


def _driver_stopped(arena: Arena) -> str:
    """One of two drivers stands still for longer than its leases, and comes back to trials that are another's."""
    states, _ = arena.live(n_drivers=2)
    driver = arena.rng.choice(arena.drivers)
    _signal(driver.pid, signal.SIGSTOP)
    time.sleep(LEASE_S * _OVER_S)
    _signal(driver.pid, signal.SIGCONT)
    return f"driver {driver.pid} for {LEASE_S * _OVER_S:.0f} s, {states['RUNNING']} trials running"


def _worker_stopped(arena: Arena) -> str:
    states, worker = arena.live()
    _signal(worker, signal.SIGSTOP)
    time.sleep(LEASE_S * _OVER_S)
    _signal(worker, signal.SIGCONT)
    return f"worker {worker} for {LEASE_S * _OVER_S:.0f} s, {states['RUNNING']} trials running"


def _raylet_stopped(arena: Arena) -> str:
    states, _ = arena.live()
    sessions = [arena.drivers[0].pid] if arena.cluster is None else arena.cluster.sessions
    raylets = [pid for session in sessions for pid in processes(session, "raylet/raylet")]
    if not raylets:
        raise Missed("no raylet")
    raylet = arena.rng.choice(raylets)
    _signal(raylet, signal.SIGSTOP)
    time.sleep(LEASE_S)
    _signal(raylet, signal.SIGCONT)
    return f"raylet {raylet} for {LEASE_S} s, {states['RUNNING']} trials running"


def _two_launches(arena: Arena) -> str:
    """Two more drivers at the same moment; one goes on, so that the study changes hands."""
    states, _ = arena.live()
    before = arena.drivers
    both = [arena.launch() for _ in range(2)]
    arena.until(lambda: all("study 'chaos'" in arena.output(each) or each.poll() is not None for each in both),
                what="two more drivers")  # fmt: skip
    for driver in (*before, both[0]):
        arena.end_driver(driver)
    return f"drivers {both[0].pid} and {both[1].pid} beside {len(before)}, {states['RUNNING']} trials running"


def _interrupted(arena: Arena) -> str:
    """Ctrl-C, or SIGTERM to the driver alone."""
    states, _ = arena.live()
    driver, number = arena.rng.choice(arena.drivers), arena.rng.choice((signal.SIGINT, signal.SIGTERM))
    driver.send_signal(number)
    arena.wait_end(driver, within_s=60, told=f"after {number.name}")
    if driver.returncode not in (130, 0):
        arena.blame(f"an interrupted driver ended with {driver.returncode}: {arena.output(driver)[-300:]}")
    return f"driver {driver.pid} by {number.name}, {states['RUNNING']} trials running"


def _clock_skewed(arena: Arena) -> str:
    """A second driver whose clock is an hour, or little more than a lease, ahead or behind."""
    states, _ = arena.live()
    apart_s = arena.rng.choice((-3600, -int(LEASE_S * _OVER_S), int(LEASE_S * _OVER_S), 3600))
    skewed = arena.launch(environment=_faked(apart_s))
    arena.until(lambda: "study 'chaos'" in arena.output(skewed) or skewed.poll() is not None, what="a skewed driver")
    time.sleep(LEASE_S * _OVER_S)
    arena.end_driver(skewed)
    return f"driver {skewed.pid} with its clock {apart_s:+d} s off, {states['RUNNING']} trials running"


_LIBRARIES = [f"/usr/lib/{machine}-linux-gnu/faketime/libfaketime.so.1" for machine in ("x86_64", "aarch64")]


def _faked(apart_s: int) -> dict[str, str]:
    library = next((path for path in _LIBRARIES if os.path.exists(path)), "")
    return {"LD_PRELOAD": library, "FAKETIME": f"{apart_s:+d}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


@functools.cache
def _can_fake_time() -> bool:
    """Whether libfaketime is there, and lets Python sleep: under some versions `time.sleep` fails with EINVAL."""
    environment = _faked(-60)
    asked = subprocess.run(
        [sys.executable, "-c", "import time; time.sleep(0.01)"], env={**os.environ, **environment}, capture_output=True
    )
    return bool(environment["LD_PRELOAD"]) and asked.returncode == 0


def _has_faketime(arena: Arena) -> bool:
    return _can_fake_time()


KINDS = (
    Kind("driver killed", _driver_killed),
    Kind("worker killed", _worker_killed),
    Kind("raylet killed", _raylet_killed, _is_shared),
    Kind("node killed", _node_killed, _is_shared),
    Kind("driver's own cluster killed", _own_raylet_killed, _is_alone),
    Kind("driver stopped past its leases", _driver_stopped),
    Kind("worker stopped past the lease", _worker_stopped),
    Kind("raylet stopped", _raylet_stopped),
    Kind("two launches at once", _two_launches),
    Kind("interrupted", _interrupted),
    Kind("clock skewed", _clock_skewed, _has_faketime),
)
