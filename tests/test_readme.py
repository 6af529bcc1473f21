from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
import torchvision

import autoprune
from autoprune import methods
from autoprune.cli import main
from autoprune.config import SAMPLERS, load_study, stock_spaces
from autoprune.engine.images.sources import DATA_SOURCES
from autoprune.methods import METHODS
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Lifecycle, Proposal
from autoprune.testing import check_penalty
from autoprune.widths import WIDTH_RULES
from scripts import reference

ROOT = Path(__file__).parents[1]
README, STUDIES, SPACES, TASKS, METHODS_PAGE = (
    "README.md",
    "studies/README.md",
    "search_spaces/README.md",
    "studies/tasks/README.md",
    "autoprune/methods/README.md",
)
PAGES = [path.relative_to(ROOT).as_posix() for path in sorted((*ROOT.glob("*.md"), *ROOT.glob("s*/**/*.md")))]


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", text_of(page), flags=re.DOTALL)


def block(page, language, holding):
    """The one block of a page that holds a text."""
    (found,) = [text for text in blocks(page, language) if holding in text]
    return found


def run_block(page, holding, names):
    """Run the one Python block of a page that holds a text, with names that its reader has."""
    exec(compile(block(page, "python", holding), page, "exec"), names)


def test_the_engine_alone_in_one_line(capsys):
    torch.manual_seed(0)
    names = {"autoprune": autoprune, "torch": torch, "model": torchvision.models.mobilenet_v3_small(num_classes=10)}
    run_block(README, "answer = small", names)
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
    run_block(TASKS, "LitModel()", names)
    assert isinstance(names["pruned"].network, LitModel)
    assert names["pruned"].kept["layers.0"] == sorted(names["pruned"].kept["layers.0"])
    assert len(names["pruned"].kept["layers.0"]) == 8


def test_a_model_of_hugging_face_is_asked_by_name():
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    names = {"autoprune": autoprune, "torch": torch}
    run_block(TASKS, "transformers", names)
    assert 0.3 < names["pruned"].macs_ratio <= 0.5
    with torch.no_grad():
        assert names["pruned"].network(names["batches"][0]["pixel_values"]).logits.shape == (8, 2)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder with the page's own network and task in it, little trained; what is run there, for what it prints."""
    monkeypatch.delenv("AUTOPRUNE_STORAGE", raising=False)
    code = (
        block(README, "python", "# mine.py\n").replace('time_limit="2m"', "n_trials=2").replace("epochs=5", "epochs=1")
    )
    (tmp_path / "mine.py").write_text(code)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def run(*command):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.mark.ray
def test_fifteen_lines_as_a_new_user_tries_them(mine):
    found = mine("mine.py")
    assert "rmse" in found
    assert "macs_ratio" in found


@pytest.mark.ray
@pytest.mark.slow
def test_fifteen_lines_as_a_file(mine, tmp_path):
    mine("-m", "autoprune", "init", "study.toml", "--network", "mine:network", "--task", "mine:task", "--time", "2m")
    file = tmp_path / "study.toml"
    file.write_text(file.read_text().replace("epochs = 30", "epochs = 1").replace("epochs = 3", "epochs = 1"))
    mine("-m", "autoprune", "launch", "study.toml", "--trials", "2")
    assert "rmse" in mine("-m", "autoprune", "pareto", "study")


def table_under(page, heading):
    part = text_of(page).split(heading, 1)[1].lstrip()
    rows = [line for line in part.splitlines()[: part.splitlines().index("")] if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def test_the_method_table_names_every_method_and_no_other():
    header, _, *rows = table_under(METHODS_PAGE, "## Which one\n")
    assert header == ["method", "what it penalises", "formula", "when to use it", "when not", "paper"]
    assert [row[0].strip("`") for row in rows] == sorted(METHODS)
    for name, *cells in rows:
        assert all(cells), f"a cell of {name} is empty"


def test_each_method_cites_the_paper_of_its_row():
    for name, *_, paper in table_under(METHODS_PAGE, "## Which one\n")[2:]:
        number = re.search(r"\d{4}\.\d{4,5}", paper)
        assert number is not None
        assert any(number[0] in (made_of.__doc__ or "") for made_of in METHODS[name.strip("`")].classes)


def test_the_study_file_is_a_valid_one(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(block(STUDIES, "toml", "my_resnet"))
    config = load_study(path, methods.catalogue())
    assert config.study.name == "my_resnet"
    assert config.resources.gpu == 0.5
    path.write_text(block(TASKS, "toml", "[task]"))
    assert load_study(path, methods.catalogue()).study.objectives == ("rmse", "macs_ratio")


def test_the_python_block_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AUTOPRUNE_STORAGE", raising=False)
    (tmp_path / "study.toml").write_text(block(STUDIES, "toml", "my_resnet"))
    config = load_study(tmp_path / "study.toml", methods.catalogue())
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
    run_block(STUDIES, "with autoprune.open_study", {})
    told = capsys.readouterr().out
    assert "0.25  magnitude" in told
    assert "0.75  magnitude" not in told
    # (0.8, 0.25) and (0.9, 0.75) up to (0, 1): 0.8 * 0.75 + 0.1 * 0.25.
    assert "hypervolume 0.6250" in told


def test_the_penalty_of_ones_own_keeps_its_contract(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(block(SPACES, "python", "class Square"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    built = methods.build("mine:Square", {"strength": 0.25})
    check_penalty(built.penalty)
    assert built.penalty.strength == 0.25


def commands_of(page):
    """The command lines that a page shows, without what is said of them."""
    return [line.split("#")[0].split() for text in blocks(page, "console") for line in text.splitlines()]


@cache
def told_by(command):
    done = subprocess.run(
        [sys.executable, "-m", "autoprune", command, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)])
def test_every_command_shown_exists(page):
    for words in filter(None, commands_of(page)):
        if words[0].startswith("scripts/"):
            assert (ROOT / words[0]).exists(), words
        if "autoprune" in words:  # After `cd` or a variable, too.
            command, *rest = words[words.index("autoprune") + 1 :]
            assert [flag for flag in rest if flag.startswith("--") and flag not in told_by(command)] == [], words


def test_the_readme_names_every_command():
    shown = {words[1] for words in commands_of(README) if words[0] == "autoprune"}
    assert shown == {command.NAME for command in main._COMMANDS}


def test_the_readme_is_read_in_five_minutes():
    assert len(text_of(README).split()) <= 900


@pytest.mark.parametrize("page", [*PAGES, METHODS_PAGE, "autoprune/README.md"])
def test_every_link_of_a_page_leads_somewhere(page):
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)]*))?\)", text_of(page)):
        there = (ROOT / page).parent / path if path else ROOT / page
        assert there.exists(), path
        if anchor:
            there = there / "README.md" if there.is_dir() else there
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings], anchor


def test_every_study_has_its_row():
    named = set(re.findall(r"^\| \[`\w+`\]\((\w+)\) \|", text_of(STUDIES), flags=re.MULTILINE))
    assert named == {path.parent.name for path in (ROOT / "studies").glob("*/README.md")}


def test_the_tables_name_every_rule_and_every_stock_space():
    rules = [row[0].strip("`") for row in table_under(SPACES, "says how the target becomes\nwidths:")[2:]]
    assert sorted(rules) == sorted(WIDTH_RULES)
    spaces = [row[0].strip("`") for row in table_under(SPACES, "to edit\n```")[2:]]
    assert spaces == list(stock_spaces())


def test_the_search_names_every_sampler_and_the_data_every_source():
    text = text_of(STUDIES)
    search, data = (text.split(f"## {part}\n", 1)[1].split("\n## ")[0] for part in ("The search", "Data"))
    assert [name for name in SAMPLERS if f'"{name}"' not in search] == []
    assert [name for name in DATA_SOURCES if f"`{name}`" not in data] == []


def test_the_readme_gives_the_figures_of_the_card():
    card = text_of("studies/bench_search/results.md") + text_of("studies/bench_search/README.md")
    known = [float(figure) for figure in re.findall(r"(?<![\d.])0?\.\d{3,4}\b", card)]
    rows = table_under(README, "scored on the test split:")[2:]
    given = [float(figure.strip("*")) for row in rows for figure in row[1:]]
    assert len(given) == 24
    assert [figure for figure in given if all(abs(figure - each) > 0.0005 + 1e-9 for each in known)] == []


def test_every_key_is_told_as_it_is_now():
    """A page that is stale is written anew by `python scripts/reference.py`."""
    assert [page for page in reference.TABLES if reference.written(page, text_of(page)) != text_of(page)] == []
