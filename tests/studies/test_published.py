"""Study files of published set-ups: what `launch --dry-run` says of them, on data of the same shape and names."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from autoprune import architectures
from autoprune.cli.main import main
from studies.published import cifar

FOLDER = Path(__file__).parents[2] / "studies" / "published"
FILES = sorted(FOLDER.glob("*.toml"))
QUICK = ("resnet56_cifar10",)  # The deep and the large ones take up to a minute.
# MACs of the dense networks as papers and torchvision give them, in millions.
MACS = {
    "resnet56": (125, 126), "resnet110": (252, 254), "resnet164": (240, 260), "vgg16": (313, 314), "vgg19": (398, 399),
    "densenet40": (280, 290), "resnet50": (4_080, 4_100), "mobilenet_v2": (295, 305), "convnext_tiny": (4_440, 4_470),
    "deit_base": (17_400, 17_700),
}  # fmt: skip


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The folder, with data of the right names and shapes, and two classes."""
    folder = tmp_path_factory.mktemp("published")
    for file in FILES:
        shutil.copy(file, folder)
    draw = np.random.default_rng(0)
    small = [(Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)), i % 2) for i in range(300)]
    for data in ("cifar10", "cifar100"):
        cifar.write(small, folder / f"raw/{data}/train.parquet")
        cifar.write(small[:10][::-1], folder / f"raw/{data}/test.parquet")
    for part, n in (("train", 40), ("val", 4)):
        for i in range(n):
            path = folder / f"raw/imagenet/{part}/class{i % 2}/{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return folder


def give_weights(file):
    """Dense weights where the study names them, drawn at random."""
    named = dict(re.findall(r'^(architecture|factory|weights) = "([^"]+)"', file.read_text(), flags=re.MULTILINE))
    if "architecture" in named:
        network = architectures.build(named["architecture"], n_classes=2, in_channels=3)
    else:
        timm = pytest.importorskip("timm")
        network = timm.create_model(named["factory"].rpartition(":")[2])
    torch.save(network.state_dict(), file.parent / named["weights"])


def marked(file):
    return pytest.param(file.name, id=file.stem, marks=[] if file.stem in QUICK else pytest.mark.slow)


@pytest.mark.parametrize("name", [marked(file) for file in FILES])
def test_a_dry_run_accepts_it(published, name, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AUTOPRUNE_STORAGE", raising=False)
    if name.endswith("_imagenet.toml"):
        give_weights(published / name)
    assert main(["launch", str(published / name), "--dry-run"]) == 0
    told = capsys.readouterr().out
    stem, _, _ = name.rpartition("_")
    assert f"study 'published_{name.removesuffix('.toml')}'" in told
    assert "magnitude" in told
    low, high = MACS[stem]
    assert low * 10**6 <= int(re.search(r"([\d,]+) MACs", told)[1].replace(",", "")) <= high * 10**6
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "autoprune_artifacts"])


def test_the_page_names_every_file_and_no_other():
    assert sorted(set(re.findall(r"\]\((\w+\.toml)\)", (FOLDER / "README.md").read_text()))) == [f.name for f in FILES]


def test_cifar_is_written_as_it_is_read(tmp_path):
    pixels = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
    cifar.write([(Image.fromarray(pixels), 7)], tmp_path / "there/train.parquet")
    (row,) = pq.read_table(tmp_path / "there/train.parquet").to_pylist()
    assert row["label"] == 7
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(row["img"]["bytes"]))), pixels)
