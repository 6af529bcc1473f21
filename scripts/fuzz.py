"""Generated inputs of every kind that autoprune reads: each must end in success, or in exit code 2 with one sentence.

Never a traceback, never a changed database, never more memory than is stated. Each kind is read in a process of its
own, so that one that kills its reader is told and the others go on. An input is drawn from seed, kind and number:
`--only` makes it once more.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import re
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

LIMIT_MB = 1024
"""What reading one input may take beside what the process holds already."""
SLOW_S = 60.0
_SHOWN = 5_000  # Letters of a failure.
_LONGEST = 20_000  # Letters of a message: some list the columns of a table.


@dataclass
class Found:
    """What became of the inputs of one kind."""

    ends: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    most_mb: float = 0.0
    seconds: float = 0.0


def try_in_process(kind: str, numbers: range, *, seed: int, folder: Path) -> Iterator[dict[str, object]]:
    """Read inputs of one kind in this process; before each comes its number, after it how it ended.

    Args:
        kind: One of `fuzz_kinds.KINDS`.
        numbers: Which inputs.
        seed: Of all inputs.
        folder: The bed's.
    """
    import fuzz_kinds
    from fuzz_bed import Bed

    bed = Bed(folder)
    os.chdir(folder)
    with closing(sqlite3.connect(folder / "autoprune.db")) as watching:
        before = _version(watching)
        for number in numbers:
            yield {"begins": number}
            made = fuzz_kinds.KINDS[kind](Random(f"{seed}:{kind}:{number}"), bed)  # Its own faults end the reader.
            with made.laid_into(bed):
                start, held = time.process_time(), _reset_peak_mb()
                end = _call(made.read) if made.read is not None else _command(made.arguments)
                took, most = time.process_time() - start, _peak_mb() - held
            if (after := _version(watching)) != before:
                end, before = f"the database has changed: {made.arguments}", after
            if most > LIMIT_MB:
                end = f"took {most:.0f} MB: {end}"
            if took > SLOW_S:
                end = f"took {took:.0f} s: {end}"
            yield {"number": number, "end": end, "mb": most, "s": took}


def _call(read: object) -> str:
    from autoprune.errors import AutopruneError, in_one_line

    try:
        with _silence():
            read()  # type: ignore[operator]
    except AutopruneError as error:
        return "refused" if is_sentence(in_one_line(str(error))) else f"no sentence: {in_one_line(str(error))!r}"
    except BaseException:
        return traceback.format_exc()
    return "accepted"


def _command(arguments: tuple[str, ...]) -> str:
    from autoprune.cli.main import main

    with _silence() as said:
        try:
            code: object = main(list(arguments))
        except SystemExit as leave:
            code = leave.code or 0
        except BaseException:
            return traceback.format_exc()
    return _judged(code, said.getvalue())


def _judged(code: object, said: str) -> str:
    """How a command ended, by its code and what it wrote to standard error."""
    if code == 0:
        return "accepted" if "Traceback" not in said else said
    last = said.strip().splitlines()[-1] if said.strip() else ""
    is_told = last.startswith("autoprune: ") and is_sentence(last) and "Traceback" not in said
    return "refused" if code == 2 and is_told else f"exit code {code}: {said[-3000:]}"


def is_sentence(text: str) -> bool:
    """Whether a message is one line that a terminal can show and a person can read."""
    return 10 <= len(text) <= _LONGEST and text.isprintable()


@contextlib.contextmanager
def _silence() -> Iterator[io.StringIO]:
    """Keep what is printed; the errors are what counts."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield said


def contents_of(database: Path) -> str:
    """Hash of all rows of a database."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return hashlib.sha256("\n".join(connection.iterdump()).encode()).hexdigest()


def _version(connection: sqlite3.Connection) -> int:
    """A number that changes whenever another connection has written to the database."""
    (version,) = connection.execute("PRAGMA data_version").fetchone()
    return int(version)


def _reset_peak_mb() -> float:
    Path("/proc/self/clear_refs").write_text("5")
    return _status_mb("VmRSS")


def _peak_mb() -> float:
    return _status_mb("VmHWM")


def _status_mb(name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 2**10


def _guard() -> None:
    """Let a reader that asks for far too much fail by itself, rather than the machine."""
    resource.setrlimit(resource.RLIMIT_DATA, (24 * 2**30, 24 * 2**30))


def fuzz(kind: str, n: int, *, seed: int, folder: Path) -> Found:
    """Read inputs 0 to n - 1 of a kind in a process of its own, and in another one where that dies; seconds of CPU."""
    found, begin = Found(), 0
    while begin < n:
        command = [sys.executable, __file__, "--reader", kind, str(begin), str(n), str(seed), str(folder)]
        reader = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, preexec_fn=_guard
        )
        assert reader.stdout is not None
        for line in reader.stdout:
            word = json.loads(line)
            if "begins" in word:
                begin = word["begins"]
                continue
            begin = word["number"] + 1
            _count(found, kind, word["number"], word["end"])
            found.most_mb = max(found.most_mb, word["mb"])
            found.seconds += word["s"]
        if (code := reader.wait()) != 0:
            _count(found, kind, begin, f"its reader died with exit code {code}")
            begin += 1
    return found


def _count(found: Found, kind: str, number: int, end: str) -> None:
    name = end if end in ("accepted", "refused") else "failed"
    found.ends[name] += 1
    if name == "failed":
        found.failures.append(f"{kind}:{number}\n{end}")
        print(f"{kind}:{number} failed: {end.strip().splitlines()[-1][:200]}", file=sys.stderr, flush=True)


def fuzz_processes(n: int, *, seed: int, folder: Path) -> Found:
    """The same through real processes, the kinds in turn."""
    import fuzz_kinds
    from fuzz_bed import Bed

    found, start, bed = Found(), time.monotonic(), Bed(folder)
    before = contents_of(folder / "autoprune.db")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "AUTOPRUNE_STORAGE": bed.url}
    for index in range(n):
        kind = list(fuzz_kinds.KINDS)[index % len(fuzz_kinds.KINDS)]
        number = 10**6 + index // len(fuzz_kinds.KINDS)  # Others than those that were read in process.
        made = fuzz_kinds.KINDS[kind](Random(f"{seed}:{kind}:{number}"), bed)
        with made.laid_into(bed):
            command = [sys.executable, "-m", "autoprune.cli.main", *made.arguments]
            try:
                done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=SLOW_S * 2)
                end = _judged(done.returncode, done.stderr.decode(errors="replace"))
            except subprocess.TimeoutExpired:
                end = f"took more than {SLOW_S * 2:.0f} s"
        if (after := contents_of(folder / "autoprune.db")) != before:
            end, before = f"the database has changed: {made.arguments}", after
        _count(found, kind, number, end)
    found.most_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
    found.seconds = time.monotonic() - start
    return found


def _table(rows: dict[str, Found]) -> str:
    lines = [
        "| inputs | n | accepted | refused in a sentence | failed | most MB | s |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, found in rows.items():
        ends = found.ends
        numbers = f"{ends.total():,} | {ends['accepted']:,} | {ends['refused']:,} | {ends['failed']:,}"
        lines.append(f"| {name} | {numbers} | {found.most_mb:.0f} | {found.seconds:.0f} |")
    return "\n".join(lines)


def main() -> int:
    """Fuzz, and print the table."""
    import fuzz_bed
    import fuzz_kinds

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000, help="in process")
    parser.add_argument("--processes", type=int, default=200, help="through processes of their own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--kind", action="append", choices=fuzz_kinds.KINDS, help="only this one; again for another one"
    )
    parser.add_argument("--only", metavar="KIND:NUMBER", help="read one input here, with what it raises")
    parser.add_argument("--bed", type=Path, help="keep what inputs are tried on here, or take it from there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.bed or Path(temporary) / "bed").resolve()
        if not folder.exists():
            folder.mkdir(parents=True)
            fuzz_bed.make_bed(folder)
        if args.only:
            kind, _, number = args.only.rpartition(":")
            for word in try_in_process(kind, range(int(number), int(number) + 1), seed=args.seed, folder=folder):
                print(word.get("end", ""))
            return 0
        rows = {}
        shares = {kind: fuzz_kinds.SHARES[kind] for kind in args.kind or fuzz_kinds.KINDS}
        for kind, share in shares.items():
            n = round(args.inputs * share / sum(shares.values()))
            rows[kind] = fuzz(kind, n, seed=args.seed, folder=folder)
            print(f"{kind}: {dict(rows[kind].ends)} in {rows[kind].seconds:.0f} s", file=sys.stderr, flush=True)
        if args.processes:
            rows["all of these, each through a process"] = fuzz_processes(args.processes, seed=args.seed, folder=folder)
    for found in rows.values():
        for failure in found.failures:
            print(f"\n{failure[:_SHOWN]}", file=sys.stderr)
    print(_table(rows))
    return 1 if any(found.failures for found in rows.values()) else 0


def _read_here(kind: str, begin: str, end: str, seed: str, folder: str) -> None:
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    for word in try_in_process(kind, range(int(begin), int(end)), seed=int(seed), folder=Path(folder)):
        print(json.dumps(word), file=out)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--reader"]:
        _read_here(*sys.argv[2:])
        sys.exit(0)
    sys.exit(main())
