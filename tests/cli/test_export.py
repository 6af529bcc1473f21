"""``autoprune export``: what it prints, writes and refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.datasets import load_digits

import autoprune
from autoprune.api import Exported
from autoprune.cli import export
from tests.real_trials import RealStudy, run_study

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> RealStudy:
    """Three trials, of which the last is beaten by the second."""
    points = [{"macs_target": target} for target in (0.3, 0.5, 0.7)]
    network = 'architecture = "resnet_digits"'
    return run_study(tmp_path_factory.mktemp("front"), points, network=network, accuracies=(0.8, 0.9, 0.85))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> RealStudy:
    return run_study(tmp_path_factory.mktemp("study"), [{}], network='architecture = "resnet_digits"')


def test_a_network_is_written_and_its_images_explained(run: Any, study: RealStudy) -> None:
    answer = run("export", "tiny", 0, "--to", "net.pt2", "--storage", study.url)
    assert (answer.code, answer.err) == (0, "")
    wrote, images = answer.out.splitlines()
    assert wrote.startswith(f"wrote net.pt2 ({Path('net.pt2').stat().st_size:,} bytes, differs by ")
    assert images.startswith("images: uint8 / 255, minus mean [0.")


def test_a_task_s_inputs_are_ready(capsys: pytest.CaptureFixture[str]) -> None:
    none: list[float] = []
    written = Exported(Path("a.onnx"), 7, mean=none, std=none, difference=None, number=0, int8=None, card=Path("a.md"))
    export._print([written])
    assert capsys.readouterr().out == "wrote a.onnx (7 bytes)\ninputs: as the task's loaders give them\n"


def test_safetensors_come_with_their_record(run: Any, study: RealStudy) -> None:
    answer = run("export", "tiny", 0, "--to", "net.safetensors", "--storage", study.url)
    assert answer.out.splitlines()[0] == f"wrote net.safetensors ({Path('net.safetensors').stat().st_size:,} bytes)"
    assert sorted(path.name for path in Path().iterdir()) == ["net.json", "net.md", "net.safetensors"]
    with torch.no_grad():
        assert autoprune.load_model("net.safetensors")(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("tiny", "0", "--to", "net.pth"), "`--to` must end in .py, .safetensors, .pt2, .onnx, but got 'net.pth'"),
        (("tiny", "1", "--to", "net.onnx"), "must have finished to have a network, but it is RUNNING"),
        (("tiny", "7", "--to", "net.onnx"), "has no trial 7"),
        (("tiny", "-1", "--to", "net.onnx"), ""),
        (("tiny", "first", "--to", "net.onnx"), "must be a whole number of at least 0, but got 'first'"),
        (("other", "0", "--to", "net.onnx"), "other"),
        (("tiny", "0"), "--to"),
        (("tiny", "--to", "net.py"), "one of TRIAL, --best, --under and --front, but got none of them"),
        (("tiny", "0", "--best", "--to", "net.py"), "but got TRIAL and --best or --under"),
        (("tiny", "--best", "--front", "--to", "net.py"), "but got --best or --under and --front"),
        (("tiny", "0", "--format", "py", "--to", "net.py"), "`--format` goes with --front"),
        (("tiny", "--front", "--format", "pth", "--to", "out"), "'pth'"),
        (("tiny", "--under", "macs_ratio < 0", "--to", "net.py"), "must satisfy 'macs_ratio < 0', but none does"),
        (("tiny", "--under", "macs_ratio <", "--to", "net.py"), "can't be read as one"),
        (("tiny", "--front", "--int8", "--to", "out"), "`--int8` is for .onnx files, but got '.safetensors'"),
    ],
)
def test_refusals(refused: Callable[..., None], study: RealStudy, arguments: tuple[str, ...], told: str) -> None:
    refused("export", *arguments, "--storage", study.url, told=told)


def test_the_best_and_the_best_under_a_limit(run: Any, front: RealStudy) -> None:
    for choice, number in ((("--best",), 1), (("--under", "macs_ratio <= 0.4"), 0)):
        answer = run("export", "tiny", *choice, "--to", "net.safetensors", "--storage", front.url)
        assert answer.code == 0
        assert answer.out.splitlines()[0] == f"trial {number}"
        assert f"trial {number} of the autoprune study `tiny`" in Path("net.md").read_text()
        assert Path("net.safetensors").read_bytes() == Path(front.results[number].weights).read_bytes()


def test_the_whole_front_in_a_folder(run: Any, front: RealStudy) -> None:
    answer = run("export", "tiny", "--front", "--format", "py", "--to", "out", "--storage", front.url)
    assert (answer.code, answer.err) == (0, "")
    names = [f"trial-0000{number}{ending}" for number in (0, 1) for ending in (".md", ".pt", ".py")]
    assert sorted(path.name for path in Path("out").iterdir()) == ["index.md", *names]
    assert answer.out.splitlines()[-1] == f"wrote {Path('out/index.md')}"
    index = Path("out/index.md").read_text()
    assert [line.split(" | ")[:2] for line in index.splitlines() if line.startswith("| [")] == [
        ["| [0](trial-00000.md)", "0.8000"],
        ["| [1](trial-00001.md)", "0.9000"],
    ]


def test_eight_bits_with_what_they_score(run: Any, study: RealStudy) -> None:
    run("export", "tiny", 0, "--to", "whole.onnx", "--storage", study.url)
    answer = run("export", "tiny", 0, "--to", "net.onnx", "--int8", "--storage", study.url)
    assert (answer.code, answer.err) == (0, "")
    assert sorted(path.name for path in Path().iterdir()) == ["net.md", "net.onnx", "whole.md", "whole.onnx"]
    assert Path("net.onnx").stat().st_size < 0.5 * Path("whole.onnx").stat().st_size
    said = r"int8, calibrated on 512 training images: (0\.\d{4}) on the validation split; (0\.\d{4}) before"
    told = re.search(said, answer.out)
    assert told is not None
    assert told[2] == f"{study.results[0].score:.4f}"
    assert abs(float(told[1]) - float(told[2])) < 0.1
    card = Path("net.md").read_text()
    assert f"| validation | {told[1]} | this file, 8 bits, calibrated on 512 training images |" in card
    assert f"| validation | {told[2]} | the network before rounding |" in card
    # Like those that it was calibrated on: what lies far outside of their range is cut off.
    record = json.loads(Path(study.results[0].weights).with_suffix(".json").read_text())["normalisation"]
    images = ((load_digits().images[:200, None] / 16 - record["mean"][0]) / record["std"][0]).astype(np.float32)
    files = ("net.onnx", "whole.onnx")
    rounded, whole = (onnxruntime.InferenceSession(name).run(None, {"images": images})[0] for name in files)
    assert 0 < abs(rounded - whole).max() < 0.3 * abs(whole).max()


def test_a_card_says_what_is_known_and_nothing_else(run: Any, front: RealStudy) -> None:
    run("export", "tiny", 0, "--to", "net.py", "--storage", front.url)
    card, result = Path("net.md").read_text(), front.results[0]
    assert "| validation | 0.8000 | this network; trials were chosen by this score |" in card
    assert "The test split was not scored on" in card
    assert f"| MACs | {result.macs:,} | {result.macs_ratio:.4f} |" in card
    assert f"| FLOPs | {2 * result.macs:,} |" in card
    assert f"| parameters | {result.params:,} |" in card
    told = f"| {result.peak_activation_bytes:,} | {result.peak_activation_ratio:.4f} |"
    assert f"| peak activation memory, float32, one input (bytes) {told}" in card
    for group, width in result.widths.items():
        assert f"| `{group}` | {width} | " in card
    assert "- Images of 1 × 8 × 8" in card
    assert "autoprune export tiny 0 --to net.py" in card
    assert "None" not in card
    assert front.url not in card
    with torch.no_grad():  # The lines of the card run.
        code = card.partition("```python\n")[2].partition("```")[0]
        names: dict[str, Any] = {}
        exec(code, names)
        assert names["network"](torch.zeros(2, 1, 8, 8)).shape == (2, 10)
