from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from autoprune import methods
from autoprune.config import load_study
from autoprune.methods import METHODS
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Lifecycle, Proposal
from autoprune.testing import check_penalty

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def table_under(heading):
    part = README.split(heading, 1)[1].lstrip()
    rows = [line for line in part.splitlines()[: part.splitlines().index("")] if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def test_the_method_table_names_every_method_and_no_other():
    header, _, *rows = table_under("Methods:\n")
    assert header == ["method", "what it penalises", "formula", "when to use it", "when not", "paper"]
    assert [row[0].strip("`") for row in rows] == sorted(METHODS)
    for name, *cells in rows:
        assert all(cells), f"a cell of {name} is empty"


def test_each_method_cites_the_paper_of_its_row():
    for name, *_, paper in table_under("Methods:\n")[2:]:
        number = re.search(r"\d{4}\.\d{4,5}", paper)
        assert number is not None
        assert any(number[0] in (made_of.__doc__ or "") for made_of in METHODS[name.strip("`")].classes)


def test_the_study_file_is_a_valid_one(tmp_path):
    (text,) = blocks("toml")
    path = tmp_path / "study.toml"
    path.write_text(text)
    config = load_study(path, methods.ranges())
    assert config.study.name == "my_resnet"
    assert config.resources.gpu == 0.5


def test_the_python_block_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AUTOPRUNE_STORAGE", raising=False)
    (text,) = blocks("toml")
    (tmp_path / "study.toml").write_text(text)
    config = load_study(tmp_path / "study.toml", methods.ranges())
    db = Database.open("sqlite:///autoprune.db", create=True)
    study = StudyHandle.create_or_join(
        db, name="my_resnet", identity={}, config={"config": config.to_dict()},
        directions=config.study.directions, objectives=config.study.objectives,
    )  # fmt: skip
    lifecycle = Lifecycle(study, owner="x", n_trials=2)
    for i, (accuracy, ratio) in enumerate([(0.8, 0.25), (0.9, 0.75)]):
        claim = lifecycle.claim(Proposal(params={}, distributions={}, key=str(i), attrs={"method": "magnitude"}))
        lifecycle.complete(claim.trial_id, [accuracy, ratio], {})
    db.close()
    code, _ = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    told = capsys.readouterr().out
    assert "0.25  magnitude" in told
    assert "0.75  magnitude" not in told
    # (0.8, 0.25) and (0.9, 0.75) up to (0, 1): 0.8 * 0.75 + 0.1 * 0.25.
    assert "hypervolume 0.6250" in told


def test_the_penalty_of_ones_own_keeps_its_contract(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(blocks("python")[1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    built = methods.build("mine:Square", {"strength": 0.25})
    check_penalty(built.penalty)
    assert built.penalty.strength == 0.25


@pytest.mark.parametrize("line", [line for block in blocks("console") for line in block.splitlines()])
def test_every_command_shown_exists(line):
    words = line.split("#")[0].split()
    if words[0].startswith("scripts/"):
        assert (ROOT / words[0]).exists()
        return
    assert words[0] == "autoprune"
    done = subprocess.run(
        [sys.executable, "-m", "autoprune", words[1], "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for flag in [word for word in words if word.startswith("--")]:
        assert flag in done.stdout


def test_every_study_named_is_there():
    for folder in re.findall(r"\]\((studies/\w+)\)", README):
        assert (ROOT / folder / "study.toml").exists()
