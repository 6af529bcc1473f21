"""A short form of `scripts/chaos`: faults in live studies, which end as if nothing had been."""

from __future__ import annotations

import contextlib
import sqlite3
from random import Random

import pytest
from chaos_run import strike
from faults.arena import arena
from faults.checking import finish, violations_in
from faults.cluster import cluster
from faults.every import KINDS
from faults.server import server

pytestmark = pytest.mark.ray
NAMED = {kind.name: kind for kind in KINDS}


@pytest.mark.slow
def test_a_struck_study_ends_whole_and_the_check_sees_what_is_not(tmp_path):
    with arena(tmp_path / "study", Random(0), cluster=None, server=None) as made:
        for name in ("trial: fork and die", "bit of a phase flipped", "worker killed"):
            told = strike(made, NAMED[name])
            assert told["hit"], told
            assert told["states"]["RUNNING"] >= 1
        finish(made)
        assert made.violations == []
        front = [number for number, values in made.seen.items() if dominated_by_none(values, made.seen.values())]
        asked = {"n_trials": made.wanted, "front": front}
        assert violations_in(made.direct_url, **asked) == []
        assert "the front is" in violations_in(made.direct_url, n_trials=made.wanted, front=front[1:])[0]
        assert "finished instead of" in violations_in(made.direct_url, n_trials=made.wanted + 1, front=front)[0]
        with contextlib.closing(sqlite3.connect(made.folder / "db" / "autoprune.db")) as connection, connection:
            connection.execute("UPDATE trial_values SET value = 0.999 WHERE objective = 0 AND trial_id = 1")
        assert any("scores" in found for found in violations_in(made.direct_url, **asked))
        made.look()
        assert "the result" in made.violations[0]


def dominated_by_none(values, others):
    score, cost = values
    return not any(s >= score and c <= cost and (s, c) != (score, cost) for s, c in others)


@pytest.mark.slow
@pytest.mark.parametrize("database", ["SQLite", "PostgreSQL"])
def test_more_faults_in_studies_of_two_drivers_on_two_nodes(tmp_path, database):
    names = {
        "SQLite": ["driver stopped past its leases", "SQLite full", "node killed", "trial: hang", "data changed"],
        "PostgreSQL": ["PostgreSQL restarted", "PostgreSQL full", "driver killed", "artifacts full", "clock skewed"],
    }
    with cluster() as on, server() as beside:
        if beside is None:
            pytest.skip("no PostgreSQL")
        behind = beside if database == "PostgreSQL" else None
        with arena(tmp_path / "study", Random(1), cluster=on, server=behind) as made:
            for kind in (NAMED[name] for name in names[database]):
                if kind.fits(made):
                    assert strike(made, kind)["hit"]
            finish(made)
            assert made.violations == []
