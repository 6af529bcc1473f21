from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision

import autoprune
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


def block(language, holding):
    """The one block that holds a text."""
    (found,) = [text for text in blocks(language) if holding in text]
    return found


def test_the_engine_alone_in_one_line(capsys):
    torch.manual_seed(0)
    names = {"autoprune": autoprune, "torch": torch, "model": torchvision.models.mobilenet_v3_small(num_classes=10)}
    exec(compile(block("python", "answer = small"), "README.md", "exec"), names)
    assert names["answer"].shape == (8, 10)
    assert 0.4 < names["small"].macs_ratio <= 0.5
    assert "features.0.0: " in capsys.readouterr().out


def test_a_lightning_module_brings_its_loss_along():
    lightning = pytest.importorskip("lightning")

    class LitModel(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))

        def forward(self, x):
            return self.layers(x)

        def training_step(self, batch, batch_idx):
            x, y = batch
            return torch.nn.functional.l1_loss(self(x), y)

    class LitData(lightning.LightningDataModule):
        def setup(self, stage):
            x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
            self.data = torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True))

        def train_dataloader(self):
            return torch.utils.data.DataLoader(self.data, batch_size=16)

        val_dataloader = train_dataloader

    names = {"autoprune": autoprune, "LitModel": LitModel, "LitData": LitData}
    exec(compile(block("python", "LitModel()"), "README.md", "exec"), names)
    assert isinstance(names["pruned"].network, LitModel)
    assert names["pruned"].kept["layers.0"] == sorted(names["pruned"].kept["layers.0"])
    assert len(names["pruned"].kept["layers.0"]) == 8


def test_a_model_of_hugging_face_is_asked_by_name():
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    names = {"autoprune": autoprune, "torch": torch}
    exec(compile(block("python", "transformers"), "README.md", "exec"), names)
    assert 0.3 < names["pruned"].macs_ratio <= 0.5
    with torch.no_grad():
        assert names["pruned"].network(names["batches"][0]["pixel_values"]).logits.shape == (8, 2)


@pytest.mark.ray
def test_fifteen_lines_as_a_new_user_tries_them(tmp_path, monkeypatch):
    monkeypatch.delenv("AUTOPRUNE_STORAGE", raising=False)
    code = block("python", "# mine.py\n").replace('time_limit="2m"', "n_trials=2")
    (tmp_path / "mine.py").write_text(code)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def run(*command):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    found = run("mine.py")
    assert "rmse" in found
    assert "macs_ratio" in found
    run("-m", "autoprune", "init", "study.toml", "--network", "mine:network", "--task", "mine:task", "--time", "2m")
    file = tmp_path / "study.toml"
    file.write_text(file.read_text().replace("epochs = 30", "epochs = 2").replace("epochs = 3", "epochs = 1"))
    run("-m", "autoprune", "launch", "study.toml", "--trials", "2")
    assert "rmse" in run("-m", "autoprune", "pareto", "study")


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
    path = tmp_path / "study.toml"
    path.write_text(block("toml", "my_resnet"))
    config = load_study(path, methods.ranges())
    assert config.study.name == "my_resnet"
    assert config.resources.gpu == 0.5
    path.write_text(block("toml", "[task]"))
    assert load_study(path, methods.ranges()).study.objectives == ("rmse", "macs_ratio")


def test_the_python_block_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AUTOPRUNE_STORAGE", raising=False)
    (tmp_path / "study.toml").write_text(block("toml", "my_resnet"))
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
    exec(compile(block("python", "with autoprune.open_study"), "README.md", "exec"), {})
    told = capsys.readouterr().out
    assert "0.25  magnitude" in told
    assert "0.75  magnitude" not in told
    # (0.8, 0.25) and (0.9, 0.75) up to (0, 1): 0.8 * 0.75 + 0.1 * 0.25.
    assert "hypervolume 0.6250" in told


def test_the_penalty_of_ones_own_keeps_its_contract(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(block("python", "class Square"))
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
