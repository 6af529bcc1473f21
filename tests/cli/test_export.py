"""``autoprune export``: what it prints, writes and refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import autoprune
from tests.real_trials import RealStudy, run_study

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> RealStudy:
    return run_study(tmp_path_factory.mktemp("study"), [{}], network='architecture = "resnet_digits"')


def test_a_network_is_written_and_its_images_explained(run: Any, study: RealStudy) -> None:
    answer = run("export", "tiny", 0, "--to", "net.pt2", "--storage", study.url)
    assert (answer.code, answer.err) == (0, "")
    wrote, images = answer.out.splitlines()
    assert wrote.startswith(f"wrote net.pt2 ({Path('net.pt2').stat().st_size:,} bytes, differs by ")
    assert images.startswith("images: uint8 / 255, minus mean [0.")


def test_safetensors_come_with_their_record(run: Any, study: RealStudy) -> None:
    answer = run("export", "tiny", 0, "--to", "net.safetensors", "--storage", study.url)
    assert answer.out.splitlines()[0] == f"wrote net.safetensors ({Path('net.safetensors').stat().st_size:,} bytes)"
    assert sorted(path.name for path in Path().iterdir()) == ["net.json", "net.safetensors"]
    with torch.no_grad():
        assert autoprune.load_model("net.safetensors")(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("tiny", "0", "--to", "net.pth"), "`--to` must end in .safetensors, .pt2, .onnx, but got 'net.pth'"),
        (("tiny", "1", "--to", "net.onnx"), "must have finished to have a network, but it is RUNNING"),
        (("tiny", "7", "--to", "net.onnx"), "has no trial 7"),
        (("tiny", "-1", "--to", "net.onnx"), ""),
        (("tiny", "first", "--to", "net.onnx"), "must be a whole number of at least 0, but got 'first'"),
        (("other", "0", "--to", "net.onnx"), "other"),
        (("tiny", "0"), "--to"),
    ],
)
def test_refusals(refused: Callable[..., None], study: RealStudy, arguments: tuple[str, ...], told: str) -> None:
    refused("export", *arguments, "--storage", study.url, told=told)
