"""Tasks that several processes do at once, for tests: a script, because forking is safe only before anything is open.

``python forks.py TASK URL ...`` prints one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import random
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import alembic.command  # noqa: F401  (Optuna imports it late; here once for all children)
import sqlalchemy as sa
from optuna.distributions import IntDistribution
from optuna.storages._rdb.storage import _VersionManager

from autoprune.errors import LeaseLostError
from autoprune.search.storage import Database, StudyHandle, schema
from autoprune.search.trials import Claim, Lifecycle, NotClaimed, Proposal, Room

fork = multiprocessing.get_context("fork")
GOALS = ["maximize", "minimize"]
SPACE = {"x": IntDistribution(0, 10**6)}


def proposal(x: int) -> Proposal:
    return Proposal(params={"x": x}, distributions=dict(SPACE), key=f"key {x}", attrs={"point": {"x": x}})


def at_once(n: int, work: Callable[[int], Any]) -> list[Any]:
    """Let ``n`` processes work from the same moment on; returns what each returned."""
    barrier, results = fork.Barrier(n), fork.Queue()

    def one(i: int) -> None:
        barrier.wait()
        try:
            results.put(work(i))
        except BaseException as error:
            results.put(repr(error))
            raise

    processes = [fork.Process(target=one, args=(i,)) for i in range(n)]
    for process in processes:
        process.start()
    found = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    return found


def upgrade_at_once(url: str, n: int) -> list[Any]:
    def work(_: int) -> list[int]:
        db = Database.open(url, create=False)
        with db.reading() as connection:
            query = sa.select(schema.schema.c.version).order_by(schema.schema.c.version)
            return list(connection.execute(query).scalars())

    return at_once(n, work)


def open_at_once(url: str, n: int) -> list[Any]:
    def work(_: int) -> list[Any]:
        db = Database.open(url, create=True)
        study = StudyHandle.create_or_join(db, name="digits", identity={}, config={}, directions=GOALS)
        study.db.close()
        return [study.study_id, study.name]

    return at_once(n, work)


def claim_at_once(url: str, n: int, n_trials: int, n_keys: int) -> dict[str, Any]:
    """Everyone claims from the same keys until the study is full; the claims of all, as (trial id, key)."""

    def work(i: int) -> list[tuple[int, int]]:
        study = StudyHandle.open(Database.open(url, create=False), "digits")
        lifecycle = Lifecycle(study, owner=f"driver {i}", n_trials=n_trials)
        keys, mine = list(range(n_keys)), []
        random.Random(i).shuffle(keys)
        for x in keys:
            claimed = lifecycle.claim_waiting() or lifecycle.claim(proposal(x))
            if isinstance(claimed, Claim):
                mine.append((claimed.trial_id, claimed.params["x"]))
                if claimed.attempt == 0 and len(mine) % 3 == 0:
                    lifecycle.failed(claimed.trial_id, "worker lost", retry=True)
                else:
                    lifecycle.complete(claimed.trial_id, [0.5, 0.5], {"by": i})
            elif claimed is NotClaimed.FULL and lifecycle.room() is Room.FINISHED:
                break
        study.db.close()
        return mine

    return {"claims": at_once(n, work)}


def drive(url: str, n_trials: int, grace_s: float, seed: int) -> None:
    """A driver with a fake trial that takes 10 to 40 ms; ends when the study is finished."""
    rng = random.Random(seed)
    study = StudyHandle.open(Database.open(url, create=False), "digits")
    lifecycle = Lifecycle(study, owner=uuid.uuid4().hex, n_trials=n_trials, grace_s=grace_s, max_retry=100)
    study.enter(lifecycle.owner)
    live: set[int] = set()
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(grace_s / 6):
            lifecycle.beat(list(live))

    beating = threading.Thread(target=beat)
    beating.start()
    while (room := lifecycle.room()) is not Room.FINISHED:
        claimed = lifecycle.claim_waiting()
        if claimed is None and room is Room.OPEN:
            new = lifecycle.claim(proposal(rng.randrange(10 * n_trials)))
            claimed = new if isinstance(new, Claim) else None
        if claimed is None:
            time.sleep(0.01)
            continue
        live.add(claimed.trial_id)
        time.sleep(rng.uniform(0.01, 0.04))
        with contextlib.suppress(LeaseLostError):
            if rng.random() < 0.2:
                lifecycle.stopped(claimed.trial_id, {"rung": 0})
            else:
                lifecycle.complete(claimed.trial_id, [rng.random(), rng.random()], {"x2": claimed.params["x"] ** 2})
        live.discard(claimed.trial_id)
    ended.set()
    beating.join()
    study.leave(lifecycle.owner)
    study.db.close()


def kill_and_restart(url: str, n_trials: int, n_kills: int, seed: int, grace_s: float) -> dict[str, Any]:
    """Keep two drivers at work, SIGKILL one of them at ``n_kills`` random moments, and let the last ones finish."""
    rng = random.Random(seed)
    # Optuna's look at its migration scripts is most of what a restart costs; here it is left out.
    _VersionManager.check_table_schema_compatibility = lambda self: None  # type: ignore[method-assign]

    def start(i: int) -> Any:
        process = fork.Process(target=drive, args=(url, n_trials, grace_s, 1000 * seed + i))
        process.start()
        return process

    drivers = [start(0), start(1)]
    kills = 0
    for i in range(n_kills):
        time.sleep(rng.uniform(0.02, 0.25))
        victim = rng.randrange(2)
        kills += drivers[victim].is_alive()
        drivers[victim].kill()
        drivers[victim].join()
        drivers[victim] = start(i + 2)
    for driver in drivers:
        driver.join(120)
    return {"kills": kills, "exit": [driver.exitcode for driver in drivers]}


if __name__ == "__main__":
    logging.disable()
    task, url, *numbers = sys.argv[1:]
    tasks: dict[str, Callable[..., Any]] = {
        "open": open_at_once,
        "upgrade": upgrade_at_once,
        "claim": claim_at_once,
        "kill": kill_and_restart,
    }
    print(json.dumps(tasks[task](url, *[float(n) if "." in n else int(n) for n in numbers])))
