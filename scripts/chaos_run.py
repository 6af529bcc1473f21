"""Faults drawn by seed over real studies; what was struck and what was lost goes to a JSON Lines file.

    scripts/chaos                          200 faults over 20 studies, an hour or two; stop it when you like
    scripts/chaos --studies 2 --faults 3   a short one
    scripts/chaos --table                  the table of what has been run, in Markdown

A study that is in the file already is not run again, so that the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from chaos_table import table_of
from faults.arena import Arena, Missed, arena
from faults.checking import finish
from faults.cluster import Cluster, cluster
from faults.every import KINDS
from faults.kinds import Kind
from faults.server import Server, server

_ALONE_EVERY = 4  # Of so many studies one has drivers that start clusters of their own.
_TRIES = 3
_LOG = Path("studies/reliability/raw/chaos.jsonl")


def deck(seed: int) -> Iterator[Kind]:
    """All kinds in a random order, again and again: each comes up about equally often."""
    rng = Random(f"deck {seed}")
    while True:
        yield from rng.sample(KINDS, len(KINDS))


def drawn(seed: int, number: int, n_faults: int, *, where: Arena, only: str | None = None) -> list[Kind]:
    """The faults of one study, in order: those of its part of the deck that fit, filled up by chance.

    Args:
        seed: Of the whole run.
        number: Of the study.
        n_faults: How many.
        where: The study.
        only: A part of the names to draw from.
    """
    cards = deck(seed)
    dealt = [next(cards) for _ in range((number + 1) * n_faults)][-n_faults:]
    kinds = [kind for kind in KINDS if kind.fits(where) and (only or "") in kind.name]
    rng = Random(f"{seed} {number}")
    return [kind if kind in kinds else rng.choice(kinds) for kind in dealt]


def strike(made: Arena, kind: Kind) -> dict[str, Any]:
    """One fault, tried again where it found nothing to hit; what happened, as a line of the log."""
    before, started, told, missed = len(made.violations), time.time(), None, []
    for _ in range(_TRIES):
        try:
            made.live()
            time.sleep(made.rng.uniform(0, 1))
            told = kind.strike(made)
            break
        except Missed as reason:
            missed.append(str(reason))
    made.judge()
    states = made.look()
    made.settle()
    return {
        "fault": kind.name, "hit": told is not None, "told": told or "; ".join(missed), "states": states,
        "wall_s": round(time.time() - started, 1), "violations": made.violations[before:],
    }  # fmt: skip


def study(options: argparse.Namespace, number: int, *, on: Cluster, beside: Server | None, log: Path) -> None:
    """One study: started, struck, resumed to its end, checked."""
    rng, started = Random(f"study {options.seed} {number}"), time.time()
    is_alone = number % _ALONE_EVERY == _ALONE_EVERY - 1
    behind = beside if number % 2 else None
    where = {"study": number, "seed": options.seed, "database": "SQLite" if behind is None else "PostgreSQL"}
    with (
        tempfile.TemporaryDirectory(prefix="autoprune-chaos-", ignore_cleanup_errors=True) as folder,
        arena(Path(folder) / "study", rng, cluster=None if is_alone else on, server=behind) as made,
    ):
        for kind in drawn(options.seed, number, options.faults, where=made, only=options.only):
            note(log, {**where, **strike(made, kind)})
        before = len(made.violations)
        finish(made)
        states = made.look()
        note(log, {
                **where, "end": states, "wanted": made.wanted, "endings": dict(made.endings),
                "violations": made.violations[before:], "wall_s": round(time.time() - started, 1),
            })  # fmt: skip
        if made.violations:
            said = [made.output(process) for process in made.running]
            log.with_suffix(f".{number}.txt").write_text("\n=====\n".join(said))


def note(log: Path, line: dict[str, Any]) -> None:
    """Append to the log, and tell."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        file.write(json.dumps(line) + "\n")
    what = line.get("fault") or f"end {line['end']}"
    print(f"study {line['study']} {line['database']}: {what}: {line.get('told', '')}", flush=True)
    for violation in line["violations"]:
        print(f"  VIOLATION: {violation}", flush=True)


def read(log: Path) -> list[dict[str, Any]]:
    """The lines of a log; none where there is none yet."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing; 1 where something was violated."""
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--faults", type=int, default=10, help="of each study")
    parser.add_argument("--only", metavar="PART", help="kinds with this in their name")
    parser.add_argument("--log", type=Path, default=_LOG, help="where its lines go: %(default)s")
    parser.add_argument("--table", action="store_true", help="print the table of the log, run nothing")
    options = parser.parse_args(arguments)
    # Leaves by way of all that has to be ended and unmounted; and drivers must not inherit that a shell in whose
    # background we run ignores Ctrl-C.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(130))
    if options.table:
        print(table_of(read(options.log)))
        return 0
    done = {(line["seed"], line["study"]) for line in read(options.log) if "end" in line}
    left = [number for number in range(options.studies) if (options.seed, number) not in done]
    if left:
        with cluster() as on, server() as beside:
            for number in left:
                study(options, number, on=on, beside=beside, log=options.log)
    return int(any(line["violations"] for line in read(options.log)))


if __name__ == "__main__":
    sys.exit(main())
