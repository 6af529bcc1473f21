from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys

import pytest

GROW_AND_SHRINK = """
import os
from pathlib import Path
from autoprune.pipeline.worker import hand_back

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

blocks = [bytearray(60_000) for _ in range(5_000)]  # 286 MB in pieces that glibc keeps
kept = blocks[::100]
before = resident_mb()
del blocks
freed = resident_mb()
hand_back()
print(before - freed, freed - resident_mb())
"""

STEP_BY_STEP = """
import resource
import sys
import threading
from autoprune.pipeline.worker import hand_back, hold_freed

def pages_of_steps():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        blocks = [bytearray(40 * 2**20), bytearray(3 * 2**20)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def main():
    by_itself = pages_of_steps()
    hold_freed()
    pages_of_steps()
    held = pages_of_steps()
    hand_back()
    print(by_itself, held, pages_of_steps())

if sys.argv[1] == "thread":  # As Ray runs trials.
    threading.Thread(target=main).start()
else:
    main()
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries decide for themselves")


def step_by_step(where: str, **environment: str) -> list[int]:
    plain = {key: value for key, value in os.environ.items() if "MALLOC" not in key and key != "GLIBC_TUNABLES"}
    call = [sys.executable, "-c", STEP_BY_STEP, where]
    done = subprocess.run(call, capture_output=True, text=True, check=True, env=plain | environment)
    return [int(n_pages) for n_pages in done.stdout.split()]


@glibc
@pytest.mark.parametrize("where", ["main", "thread"])
def test_what_a_step_frees_the_next_one_finds(where: str):
    by_itself, held, after_handing_back = step_by_step(where, GLIBC_TUNABLES="glibc.malloc.arena_max=1")
    a_step = 43 * 2**20 // resource.getpagesize()
    assert by_itself > 5 * a_step
    assert held < a_step / 10
    assert a_step / 2 < after_handing_back < 2 * a_step


@glibc
@pytest.mark.parametrize(
    "environment",
    [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"}],
)
def test_what_the_user_says_of_memory_holds(environment: dict[str, str]):
    by_itself, held, _ = step_by_step("main", **environment)
    assert held > by_itself / 2


@glibc
def test_freed_memory_goes_back_to_the_system():
    done = subprocess.run([sys.executable, "-c", GROW_AND_SHRINK], capture_output=True, text=True, check=True)
    by_itself, handed_back = map(float, done.stdout.split())
    assert handed_back > 200
    assert by_itself < 50
