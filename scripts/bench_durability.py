"""What it costs a trial that neither its claim, nor its network, nor its result is lost with the power.

Each figure is paired: the same calls as they are, and with nothing flushed to the disk, turn and turn about in one run.
The disk counts, so give a folder on the one that studies are kept on: a memory disk flushes for nothing.

    python scripts/bench_durability.py [--folder FOLDER] [--trials N] [--megabytes M]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch

from autoprune.engine.files import publish
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Claim, Lifecycle, Proposal


@contextlib.contextmanager
def unflushed() -> Iterator[None]:
    """As before: SQLite flushes at checkpoints alone, files when the kernel gets to it."""
    nothing = contextlib.nullcontext
    with (
        mock.patch.object(Database, "durably", lambda self: nothing()),
        mock.patch("os.fsync", lambda descriptor: None),
    ):
        yield


def one_trial(lifecycle: Lifecycle, folder: Path, number: int, tensors: dict[str, torch.Tensor]) -> dict[str, float]:
    """Seconds of each step of a trial that trains nothing."""
    seconds = {}

    def timed(step: str, call: Callable[[], object]) -> object:
        start = time.perf_counter()
        found = call()
        seconds[step] = time.perf_counter() - start
        return found

    claim = timed("claim", lambda: lifecycle.claim(Proposal({}, {}, key=str(number), attrs={"point": {"x": number}})))
    assert isinstance(claim, Claim)
    path = folder / "trials" / f"{number:05d}.safetensors"
    sha256 = timed("network", lambda: publish(path, tensors, {"trial": number}))
    attrs = {"weights": str(path), "sha256": sha256, "macs": 1, "params": 1, "rungs": {"0": 0.5}}
    timed("tell", lambda: lifecycle.complete(claim.trial_id, (0.9, 0.5), attrs))
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="on the disk to measure; default: this one")
    parser.add_argument("--trials", type=int, default=40, help="of each kind")
    parser.add_argument("--megabytes", type=float, default=1.0, help="of a network")
    args = parser.parse_args()
    tensors = {"x": torch.zeros(int(args.megabytes * 2**20 / 4))}
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="bench-") as name:
        folder = Path(name)
        db = Database.open(f"sqlite:///{folder}/a.db", create=True)
        study = StudyHandle.create_or_join(db, name="s", identity={}, config={}, directions=["maximize", "minimize"])
        lifecycle = Lifecycle(study, owner=f"bench {os.getpid()}", n_trials=10**6)
        found: dict[bool, list[dict[str, float]]] = {True: [], False: []}
        for number in range(2 * args.trials + 2):
            is_flushed = number % 2 == 0
            with contextlib.nullcontext() if is_flushed else unflushed():
                seconds = one_trial(lifecycle, folder, number, tensors)
            if number >= 2:  # The first of each warms up.
                found[is_flushed].append(seconds)
        db.close()
    print(f"{'step':<10}{'flushed ms':>12}{'unflushed ms':>14}{'more ms':>10}")
    sums = [0.0, 0.0]
    for step in ("claim", "network", "tell"):
        with_, without = (1000 * statistics.median(each[step] for each in found[kind]) for kind in (True, False))
        sums = [sums[0] + with_, sums[1] + without]
        print(f"{step:<10}{with_:>12.2f}{without:>14.2f}{with_ - without:>10.2f}")
    print(f"{'trial':<10}{sums[0]:>12.2f}{sums[1]:>14.2f}{sums[0] - sums[1]:>10.2f}")


if __name__ == "__main__":
    main()
