"""The log of events: whole lines, whoever writes, and no study that ends because of it."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from autoprune.errors import ConfigError
from autoprune.search.events import EventLog


def test_lines_of_threads_and_drivers_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    logs = [EventLog(path) for _ in range(2)]
    for number, log in enumerate(logs):
        log.share(owner=f"driver {number}")

    def write(log: EventLog) -> None:
        for number in range(200):
            log("report", trial=number, text="x" * 300)

    threads = [threading.Thread(target=write, args=(log,)) for log in logs for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 1200
    for owner in ("driver 0", "driver 1"):
        told = [line["trial"] for line in lines if line["owner"] == owner]
        assert sorted(told) == sorted([*range(200)] * 3)
    for log in logs:
        log.close()


def test_an_event(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.share(study="digits")
    log("tell", trial=3, values=[0.5, float("inf")], path=Path("x"))
    log.close()
    line = json.loads((tmp_path / "events.jsonl").read_text())
    assert line.pop("at").endswith("Z")
    assert line == {"event": "tell", "study": "digits", "trial": 3, "values": [0.5, float("inf")], "path": "x"}


def test_a_full_disk_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    log = EventLog(Path("/dev/full"))
    log("launch")
    log("end")
    log.close()
    assert [record.getMessage() for record in caplog.records] == [
        f"events can't be written to /dev/full any longer: {os.strerror(28)}"
    ]


@pytest.mark.parametrize("name", ["no/folder/x", ".", "a\0b"])
def test_a_file_that_cannot_be_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`--log` must be a file that can be written"):
        EventLog(tmp_path / name)
