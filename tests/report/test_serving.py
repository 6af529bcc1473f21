"""The live page: as a user starts it, asked over HTTP and looked at in a browser."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from autoprune.cli import dashboard
from autoprune.cli.main import main
from autoprune.errors import ConfigError, StorageError
from autoprune.report import serve
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Lifecycle
from tests.chromium import Browser


def get(address: str, path: str = "/", *, host: str | None = None) -> tuple[int, str]:
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 0, timeout=30)
    connection.request("GET", path, headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


@contextmanager
def started(*arguments: str) -> Iterator[str]:
    """A dashboard as a process of its own, which Ctrl-C must end well."""
    command = [sys.executable, "-m", "autoprune", "dashboard", *arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # A shell lets its background jobs ignore it.
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), (line, process.stderr and process.stderr.read())
        yield line.split()[0]
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=120)
        assert process.returncode == 0, told
        assert "Traceback" not in told
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def complete_one(finished: Any) -> None:
    db = Database.open(finished.url, create=False)
    study = StudyHandle.open(db, "digits")
    lifecycle = Lifecycle(study, owner="here:1:abc", n_trials=10)
    lifecycle.complete(study.trials()[6]._trial_id, (0.99, 0.9), {"accuracy": 0.99, "macs_ratio": 0.9})
    db.close()


def test_a_dashboard_shows_news_and_ends_well(finished: Any, browser: Browser) -> None:
    with started("digits", "--port", "0", "--storage", finished.url) as address:
        status, text = get(address)
        assert status == 200
        assert f'data-version="{get(address, "/version")[1]}"' in text
        browser.show(address)
        best = "document.querySelectorAll('.tiles strong')[2]?.textContent"  # none while it is reloaded
        assert browser.run(best) == "0.9800"
        complete_one(finished)
        browser.until(f"{best} === '0.9900'")
        assert browser.console == []
        assert {urlsplit(url).netloc for url in browser.requests} == {urlsplit(address).netloc}


@pytest.fixture
def served() -> Iterator[tuple[str, list[str], Callable[[], None]]]:
    versions, made = ["a"], []

    def render(version: str) -> str:
        if version == "gone":
            raise StorageError("the database <b> is gone")
        made.append(version)
        return f"page {version}"

    with serve(lambda: versions[-1], render, port=0) as address:
        yield address, made, lambda: versions.append("b" if versions[-1] == "a" else "gone")


def test_a_page_is_made_anew_only_where_something_has_changed(served: Any) -> None:
    address, made, change = served
    assert [get(address)[1] for _ in range(3)] == ["page a"] * 3
    assert made == ["a"]
    change()
    assert [get(address)[1] for _ in range(2)] == ["page b"] * 2
    assert made == ["a", "b"]


def test_what_goes_wrong_is_told_in_the_page(served: Any) -> None:
    address, _, change = served
    change()
    change()
    status, text = get(address)
    assert status == 503
    assert "the database &lt;b&gt; is gone" in text


def test_nothing_else_is_served_and_no_other_site_is_let_in(served: Any) -> None:
    address, made, _ = served
    port = urlsplit(address).port
    assert get(address, "/../etc/passwd")[0] == 404
    assert get(address, host="evil.example")[0] == 421
    assert get(address, host=f"evil.example:{port}")[0] == 421
    assert get(address, "/?a=1", host=f"localhost:{port}")[0] == 200
    assert made == ["a"]


def test_a_port_that_is_taken_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"`--port` must be a port that is free here, but {port} is not"):
            serve(str, str, port=port).__enter__()
    with pytest.raises(ConfigError, match="70000 is not"):
        serve(str, str, port=70_000).__enter__()


def test_optuna_s_dashboard(finished: Any) -> None:
    pytest.importorskip("optuna_dashboard")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with started("digits", "--optuna", "--port", port, "--storage", finished.url) as address:
        for _ in range(900):
            try:
                status, text = get(address, "/api/studies")
                break
            except ConnectionError:
                time.sleep(0.1)
        assert status == 200
        assert "digits" in text


def test_without_optuna_s_dashboard_one_sentence_says_so(
    finished: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dashboard.importlib.util, "find_spec", lambda name: None)
    assert main(["dashboard", "digits", "--optuna", "--storage", finished.url]) == 2
    assert capsys.readouterr().err == (
        "autoprune: `--optuna` needs Optuna's dashboard, but it is not installed. Run: pip install optuna-dashboard\n"
    )


def test_a_report_is_written(finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "page.html"
    assert main(["report", "digits", "--to", str(file), "--storage", finished.url]) == 0
    assert capsys.readouterr().out.startswith(f"wrote {file}, ")
    text = file.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert f"--storage {finished.url}" in text  # of the commands, which work as they stand
    assert len(text.encode()) < 100_000


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["digits", "--to", "page.txt"], "`--to` must end in .html, but got 'page.txt'"),
        (["digits", "--to", "none/page.html"], "`--to` must lead to a folder that exists"),
        (["digit", "--to", "page.html"], "there is no study 'digit'; did you mean 'digits'"),
        (["digits", "digits", "--to", "page.html"], "two studies must be compared"),
    ],
)
def test_reports_that_can_t_be_written(
    arguments: list[str], told: str, finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments, "--storage", finished.url]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("*.html"))
