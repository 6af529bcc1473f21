"""Seconds of the digits' dense training while somebody else's nice-10 processes take 0, 1, 2, ... cores.

Each is trained twice beside the same neighbours: with a thread for each core that is free, as a launch does, and with
one for each core that exists. A team of threads waits for its slowest, so the second can take many times as long.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import machine
import torch

from autoprune.api import load_study
from autoprune.config import SettingSpec
from autoprune.distributed import CoresWatch
from autoprune.engine.files import PhaseStore
from autoprune.pipeline import open_workbench

_STUDY = Path(__file__).parents[1] / "studies" / "digits" / "study.toml"
_BUSY = "import os\nos.nice(10)\nwhile True: pass"
_WATCH_S = 3.0


@contextlib.contextmanager
def neighbours(n: int) -> Iterator[None]:
    """So many processes that compute without an end, at nice 10."""
    started = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(n)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def free_cores() -> int:
    """Cores that a launch would find free, watched for a few seconds."""
    watch = CoresWatch()
    time.sleep(_WATCH_S)
    return watch.look().free


def seconds_of_training(setting: SettingSpec, threads: int) -> float:
    """How long the dense network takes to train."""
    torch.set_num_threads(threads)
    workbench = open_workbench(setting)
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        workbench.dense(PhaseStore(Path(folder)))
        return time.monotonic() - started


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["neighbours"])
    parser.add_argument("--taken", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, help="of the dense network; by default those of the digits study")
    args = parser.parse_args()
    setting = load_study(_STUDY).setting
    if args.epochs is not None:
        setting = dataclasses.replace(setting, dense=dataclasses.replace(setting.dense, epochs=args.epochs))
    print(machine.described())
    print("| cores taken | free | seconds | with a thread for each core |\n|---|---|---|---|")
    for n in args.taken:
        with neighbours(n):
            free = free_cores()
            seconds = seconds_of_training(setting, free)
            all_s = seconds_of_training(setting, os.cpu_count() or 1)
            print(f"| {n} | {free} | {seconds:.1f} | {all_s:.1f} |", flush=True)


if __name__ == "__main__":
    main()
