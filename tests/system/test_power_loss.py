"""What the kernel is asked while a trial is claimed, saved and told: flushed before anybody is told of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace tells what the kernel is asked")

TRIAL = """
import os, sys
from pathlib import Path
import torch
from autoprune.engine.files import publish
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Lifecycle, Proposal

def mark(word):
    os.path.exists(f"/mark/{word}")  # For strace to see.

folder = Path(sys.argv[1])
db = Database.open(f"sqlite:///{folder}/a.db", create=True)
study = StudyHandle.create_or_join(db, name="s", identity={}, config={}, directions=["maximize", "minimize"])
lifecycle = Lifecycle(study, owner="me", n_trials=9)
mark("begin")
claim = lifecycle.claim(Proposal(params={}, distributions={}, key="a", attrs={}))
mark("claimed")
path = folder / "trials" / "0.safetensors"
sha256 = publish(path, {"x": torch.ones(1000)}, {})
mark("saved")
lifecycle.complete(claim.trial_id, (0.9, 0.5), {"weights": str(path), "sha256": sha256})
mark("told")
"""
_CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)$")


def calls(tmp_path: Path) -> dict[str, list[str]]:
    """By mark, the writes, flushes and renames that came before it, each as its name and the file's."""
    trace = tmp_path / "trace.txt"
    watched = "pwrite64,write,fsync,fdatasync,rename,renameat,renameat2,stat,newfstatat,statx"
    done = subprocess.run(
        ["strace", "-f", "-y", "-e", f"trace={watched}", "-o", str(trace), sys.executable, "-c", TRIAL, str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if "ptrace" in done.stderr.lower():
        pytest.skip("strace may not look into processes here")
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = {}
    seen: list[str] = []
    for line in trace.read_text().splitlines():
        match = _CALL.match(line)
        if match is None:
            continue
        name, rest = match.groups()
        if "/mark/" in rest:
            word = rest.split("/mark/")[1].split('"')[0]
            found.setdefault(word, seen)
            seen = []
        elif str(tmp_path) in rest and "stat" not in name:
            file = re.findall(re.escape(str(tmp_path)) + r"(?:/([\w./-]*))?", rest)[-1]
            kind = {"fdatasync": "flush", "fsync": "flush", "pwrite64": "write"}.get(name, name)
            seen.append(f"{kind} {re.sub('[0-9a-f]{32}', '', file)}".strip())
    return found


def test_what_is_told_is_on_the_disk(tmp_path: Path) -> None:
    found = calls(tmp_path)
    flush, write = "flush a.db-wal", "write a.db-wal"
    after = {step: calls[len(calls) - calls[::-1].index(flush) :] for step, calls in found.items() if flush in calls}
    # Once a claim has been flushed it is over; of a tell there is still its lease, which the next driver drops as well.
    assert write not in after["claimed"]
    assert write in found["told"][: len(found["told"]) - len(after["told"])]
    saved = [call for call in found["saved"] if "trials" in call]
    order = [
        "flush trials/0.safetensors..tmp",
        "flush trials/0.json..tmp",
        "rename trials/0.safetensors",
        "rename trials/0.json",
        "flush trials",
    ]
    assert [call for call in saved if not call.startswith("write")] == order
    assert not [call for call in found["told"] if "trials" in call]
