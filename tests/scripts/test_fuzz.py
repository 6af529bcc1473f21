"""A sample of `scripts/fuzz.py`, and that it would tell what must not be."""

from __future__ import annotations

import sqlite3
import sys
from collections import Counter
from contextlib import closing
from mmap import mmap
from pathlib import Path
from random import Random

import fuzz
import fuzz_kinds
import pytest
from fuzz_bed import Bed, Input, make_bed
from fuzz_mutations import harmed_bytes, harmed_table, to_toml

from autoprune.errors import ConfigError

EACH = 8

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads memory from /proc")


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Bed:
    return make_bed(tmp_path_factory.mktemp("bed"), n_trials=1)


@pytest.fixture
def unmoved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # And back, wherever the fuzzer goes.
    monkeypatch.delenv("AUTOPRUNE_STORAGE", raising=False)


@pytest.mark.usefixtures("unmoved")
@pytest.mark.parametrize("kind", [kind for kind in fuzz_kinds.KINDS if kind != "study files, tried"])
def test_a_sample(kind: str, bed: Bed) -> None:
    ends = Counter()
    for word in fuzz.try_in_process(kind, range(EACH), seed=1, folder=bed.folder):
        if "end" in word:
            assert word["end"] in ("accepted", "refused"), f"{kind}:{word['number']}: {word['end']}"
            ends[word["end"]] += 1
    assert ends.total() == EACH


def test_shares() -> None:
    assert fuzz_kinds.SHARES.keys() == fuzz_kinds.KINDS.keys()
    assert sum(fuzz_kinds.SHARES.values()) == pytest.approx(1)


def stubborn(end: object) -> object:
    def make(rng: Random, bed: Bed) -> Input:
        def read() -> None:
            if isinstance(end, BaseException):
                raise end
            if end == "memory":
                with mmap(-1, (fuzz.LIMIT_MB + 50) * 2**20) as fresh:  # `bytearray` may take what the process holds.
                    fresh.write(bytes(len(fresh)))
            if end == "database":
                with closing(sqlite3.connect(bed.folder / "autoprune.db")) as connection, connection:
                    connection.execute("UPDATE autoprune_drivers SET seen_at = seen_at + 1")

        return Input((), read=read)

    return make


@pytest.mark.usefixtures("unmoved")
@pytest.mark.parametrize(
    ("end", "told"),
    [
        (ValueError("a bug"), "Traceback"),
        (MemoryError(), "Traceback"),
        (ConfigError("short"), "no sentence: 'short'"),
        (ConfigError("this must be so, but is not."), "refused"),
        ("memory", "took 1"),
        ("database", "the database has changed"),
    ],
)
def test_what_must_not_be_is_told(end: object, told: str, bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "LIMIT_MB", 100)
    monkeypatch.setitem(fuzz_kinds.KINDS, "stubborn", stubborn(end))
    *_, last = fuzz.try_in_process("stubborn", range(1), seed=0, folder=bed.folder)
    assert str(last["end"]).startswith(told)


@pytest.mark.parametrize(
    ("code", "said", "judged"),
    [
        (0, "", "accepted"),
        (2, "autoprune: there is no study.\n", "refused"),
        (2, "", "exit code 2: "),
        (1, "autoprune: there is no study.\n", "exit code 1: autoprune: there is no study.\n"),
        (2, "Traceback (most recent call last)\nautoprune: there is no study.\n", "exit code 2: Traceback"),
        (0, "Traceback (most recent call last)\n", "Traceback"),
    ],
)
def test_how_a_command_is_judged(code: int, said: str, judged: str) -> None:
    assert fuzz._judged(code, said).startswith(judged)


def test_inputs_leave_the_bed_as_it_was(bed: Bed) -> None:
    place = str(bed.networks[0].with_suffix(".json").relative_to(bed.folder))
    whole = (bed.folder / place).read_bytes()
    with Input((), {place: b"harmed", "input.toml": b"new"}).laid_into(bed):
        assert (bed.folder / place).read_bytes() == b"harmed"
    assert (bed.folder / place).read_bytes() == whole
    assert not (bed.folder / "input.toml").exists()


def test_harm_is_drawn_from_its_seed() -> None:
    table = {"a": {"b": [1, 2.0, "c"]}, "d": True}
    for harm in (lambda rng: harmed_bytes(rng, b"x" * 99), lambda rng: repr(harmed_table(rng, table, keys=("a", "e")))):
        assert harm(Random("1")) == harm(Random("1"))
        assert len({harm(Random(str(seed))) for seed in range(20)}) > 10
    assert table == {"a": {"b": [1, 2.0, "c"]}, "d": True}


def test_tables_as_toml() -> None:
    import tomllib

    table = {"a": {"b c": [1, 2.5, 'd\n"e'], "f": {}}, "g": True, "h": float("inf")}
    assert tomllib.loads(to_toml(table)) == table
