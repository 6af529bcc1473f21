"""The harness of `scripts/bench search` with rows that a line of Python stands for; no dataset, nothing trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import bench_search
import bench_search_ours
import pytest
import search_report
import torch
from bench_search import OWN, PEER, Place, Row, RowError, Run, Task, execute, measure, run_all
from search_scores import hypervolume

from autoprune.engine.tracing import trace
from studies.bench_search.narrow_vgg import narrow_vgg

# A peer: leaves the front in its own environment's words, as the peers' `finish` does.
_PEER = """
import json, os, sys
kind, wall_s, out = sys.argv[1:]
error = 0.15 if os.environ["SEED"] == "0" else 0.225
own = {"hv": 9, "wall_s": float(wall_s), "lr": os.environ["LR"], "kind": kind}
json.dump({"front": [[error, 0.5]], **own}, open(out, "w"))
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    peers, out = tmp_path / "peers", tmp_path / "raw"
    for folder in (peers, out):
        folder.mkdir()
    (peers / "peer.py").write_text(_PEER)
    (peers / "broken.py").write_text("raise SystemExit('no front today')")
    rows = {
        "fine": Row("peer.py", ("global",), needs=("json",)),
        "broken": Row("broken.py", needs=("json",)),
        "lacking": Row("peer.py", needs=("no_such_package",)),
    }
    monkeypatch.setattr(bench_search, "ROWS", rows)
    monkeypatch.setattr(bench_search, "TASKS", {"net": Task(tmp_path / "study.toml", "dense.pt", tmp_path)})
    monkeypatch.setattr(bench_search.machine, "busy", lambda: 0.0)
    return Place(peers, tmp_path, {OWN: sys.executable, PEER: sys.executable}, out)


def test_a_row_is_measured_scored_by_our_functions_and_kept(place: Place) -> None:
    run = Run("net", "fine", 0, 0.5)
    assert run_all([run], place) == {}
    kept = json.loads(place.result(run).read_text())
    assert place.result(run).name == "net-fine-0.5m-s0.json"
    assert (kept["row"], kept["seed"], kept["minutes"]) == ("fine", 0, 0.5)
    assert kept["hypervolume"] == pytest.approx(0.25)  # 0.15 x 0.5 of 0.30; not what the peer says of itself
    assert kept["best_at"] == [pytest.approx(0.85), pytest.approx(0.85), None, None, None]
    assert kept["mean"] is None
    assert kept["found"] == {"hv": 9, "wall_s": 30.0, "lr": "0.05", "kind": "global"}


def test_what_is_there_is_not_run_again_and_what_failed_is(place: Place) -> None:
    runs = [Run("net", row, seed, 1) for seed in (0, 1) for row in ("fine", "broken")]
    asked: list[Run] = []

    def measured(run: Run, at: Place) -> dict[str, Any]:
        asked.append(run)
        if run.row == "broken":
            raise RowError("no front today")
        return {"hypervolume": 0.1 * run.seed}

    assert run_all(runs, place, measured=measured) == {runs[1]: "no front today", runs[3]: "no front today"}
    assert asked == runs
    asked.clear()
    run_all(runs, place, measured=measured)
    assert asked == [runs[1], runs[3]]
    assert sorted(path.name for path in place.out.iterdir()) == ["net-fine-1m-s0.json", "net-fine-1m-s1.json"]


def test_a_row_that_fails_or_lacks_packages_is_told_and_the_next_goes_on(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [Run("net", row, 1, 1) for row in ("broken", "lacking", "fine")]
    missing = run_all(runs, place)
    assert list(missing) == runs[:2]
    assert "no front today" in missing[runs[0]]
    assert "No module named 'no_such_package'" in missing[runs[1]]
    assert "net-fine-1m-s1: hypervolume 0.1250" in capsys.readouterr().out


def test_what_a_row_has_started_is_gone_when_its_time_is_over(place: Place) -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    log, start = place.out / "row.log", time.monotonic()
    with pytest.raises(RowError, match="was not over after 1 s"):
        execute([sys.executable, "-c", child], folder=place.out, log=log, environment={}, limit_s=1)
    while any(_leads_to(path, place.out) for path in Path("/proc").glob("[0-9]*/cwd")):  # Where Linux tells.
        assert time.monotonic() - start < 30
        time.sleep(0.05)


def _leads_to(link: Path, folder: Path) -> bool:
    try:
        return Path(os.readlink(link)) == folder
    except OSError:
        return False


def test_every_row_is_told_the_same_but_for_its_own(tmp_path: Path) -> None:
    place = Place(tmp_path, tmp_path, {OWN: "a", PEER: "b", bench_search.FASTNAS: "c"}, tmp_path)
    own = {name: place.environment(Run("resnet20", name, 1, 15)) for name in bench_search.ROWS}
    for name, row in bench_search.ROWS.items():
        rest = {key: value for key, value in own[name].items() if key not in row.environment}
        assert rest.items() <= own["chain"].items()
        assert (own[name]["SEED"], own[name]["LR"], own[name]["OMP_NUM_THREADS"]) == ("1", "0.05", "1")
        assert (own[name]["BF16"] == "1") == (own[name]["PRECISION"] == "bfloat16")
    assert own["ladder_global_teacher"]["TARGETS"] == "0.7,0.5,0.35,0.25,0.15"
    out = tmp_path / "out.json"
    command = place.command(Run("resnet20", "ladder_uniform", 1, 15), out)
    assert command == ["b", str(tmp_path / "ladder.py"), "uniform", "900", str(out)]
    command = place.command(Run("resnet20", "ours_recipe", 1, 2), out)
    study = bench_search.TASKS["resnet20"].study
    assert command == ["a", bench_search.OURS, "peers", str(study), "120", str(out)]
    assert study.exists()
    assert bench_search.TASKS["resnet20"].convert.exists()


def test_the_page_puts_the_best_row_first_and_machines_apart(place: Place) -> None:
    runs = [Run("net", "fine", seed, 1) for seed in (0, 1)]
    results = [measure(run, place) for run in runs]
    found = {
        "trials": {"COMPLETE": 3, "FAIL": 1}, "first_s": 12.0, "wall_s": 71.0, "busy_share": 0.8,
        "history": [[20.0, 0.1], [40.0, 0.19], [60.0, 0.3]], "validation_hypervolume": 0.3,
    }  # fmt: skip
    ours = {**results[0], "row": "ours", "hypervolume": 0.5, "found": found}
    elsewhere = {**results[0], "cpu": "another"}
    page = search_report.markdown([*results, ours, elsewhere], missing={"net-diy-1m-s0": "no module"})
    assert page.count("## net, 1 minutes") == 2
    assert page.index("| `ours` | 0 | **0.5000** |") < page.index("| `fine` | 0, 1 | **0.1875** (0.2500, 0.1250) |")
    # The best peer ended at (0.25 + 0.125) / 2, which the search had after 40 s.
    assert "| `ours` | 0 | 3 complete, 1 fail | 12 | 71 | 80% | 0.3000 | 40 |" in page
    assert "that of `fine` (0.1875)" in page
    assert "- `net-diy-1m-s0`: no module" in page
    assert hypervolume(results[1]["front"]) == pytest.approx(0.125)


def test_table_and_picture_lie_beside_the_results(place: Place) -> None:
    search_report.write(place.out, missing={})
    assert not (place.out.parent / "results.md").exists()
    run_all([Run("net", "fine", 0, 1)], place)
    search_report.write(place.out, missing={})
    assert "`fine`" in (place.out.parent / "results.md").read_text()
    first = (place.out.parent / "results.svg").read_bytes()
    search_report.write(place.out, missing={})
    assert b"<svg" in first
    assert (place.out.parent / "results.svg").read_bytes() == first


def test_a_row_whose_processes_failed_without_a_word_is_no_result() -> None:
    with pytest.raises(RowError, match="its front is empty"):
        bench_search.result_of(Run("net", "fine", 0, 1), {}, {"front": []})


def test_the_peers_run_on_another_network_by_the_same_scripts(tmp_path: Path) -> None:
    network = "studies.bench_search.narrow_vgg:narrow_vgg"
    peers, out = tmp_path / "peers", tmp_path / "raw"
    place = Place(peers, tmp_path, {OWN: "a", PEER: "b", bench_search.FASTNAS: "c"}, out)
    run = Run("narrow_vgg", "ladder_uniform", 1, 15)
    command = place.command(run, tmp_path / "out.json")
    assert command[:4] == ["b", bench_search.ON_OTHER, network, str(peers / "ladder.py")]
    assert place.environment(run)["DENSE"] == str(out / "dense_narrow_vgg.pt")
    own = Run("narrow_vgg", "ours", 1, 15)
    assert place.command(own, tmp_path / "out.json")[:2] == ["a", bench_search.OURS]
    told = bench_search_ours.filled_in(
        {"network": {"architecture": "resnet20"}}, place.environment(own), variant="stock"
    )
    assert told["network"] == {"factory": network, "weights": str(out / "dense_narrow_vgg.safetensors")}


def test_a_peer_s_script_takes_the_network_that_is_put_in_the_place_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "common.py").write_text("class ResNet20: pass\n\ndef dense_net(): return ResNet20()\n")
    (tmp_path / "peer.py").write_text(
        "import sys\nfrom common import *\nprint(type(dense_net()).__name__, sys.argv[1:])\n"
    )
    command = [sys.executable, bench_search.ON_OTHER, "collections:OrderedDict", str(tmp_path / "peer.py"), "900"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "OrderedDict ['900']\n"


def test_the_second_network_costs_what_its_page_says() -> None:
    # Convolutions by stage, then the linear layer, from the formula: in * out * 9 * pixels.
    widths, pixels = ((16, 2), (32, 2), (64, 3), (128, 3), (128, 3)), (1024, 256, 64, 16, 4)
    macs, inputs = 1280, 3
    for (width, depth), n in zip(widths, pixels, strict=True):
        for _ in range(depth):
            macs, inputs = macs + inputs * width * 9 * n, width
    assert trace(narrow_vgg(), torch.zeros(1, 3, 32, 32)).cost.dense_macs == macs == 19_907_840
