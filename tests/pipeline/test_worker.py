from __future__ import annotations

import platform
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries decide for themselves")
def test_freed_memory_goes_back_to_the_system():
    done = subprocess.run([sys.executable, "-c", GROW_AND_SHRINK], capture_output=True, text=True, check=True)
    by_itself, handed_back = map(float, done.stdout.split())
    assert handed_back > 200
    assert by_itself < 50
