"""Kinds of tasks: what is told apart in batches, losses and metrics, against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.config import TASKS, TrainSpec
from autoprune.engine.tasks import KINDS
from autoprune.errors import ConfigError, DataError, NetworkError

PLAIN = TrainSpec()
X, Y, T = torch.zeros(2, 3), torch.ones(2, 4), torch.tensor([1, 0])


def test_every_kind_has_its_metric() -> None:
    assert list(KINDS) == list(TASKS)
    assert {name: kind.name for name, kind in KINDS.items()} == {name: name for name in TASKS}


@pytest.mark.parametrize(
    ("batch", "inputs", "targets"),
    [
        ((X, T), X, T),
        ([X, T], X, T),
        ((X, Y, T), (X, Y), T),
        ([[X, Y], T], (X, Y), T),  # As torch's own collation makes it of ((x, y), t).
        ((X, {"t": T}), X, {"t": T}),
        ({"pixel_values": X, "labels": T}, {"pixel_values": X}, T),
        ({"x": X, "mask": T}, {"x": X}, T),
        (X, X, None),
        ({"x": X}, {"x": X}, None),
    ],
)
def test_inputs_and_targets(batch: Any, inputs: Any, targets: Any) -> None:
    found = KINDS["classification"].parts(batch)
    assert _plain(found) == _plain((inputs, targets))


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [type(value).__name__, *map(_plain, value)] if isinstance(value, tuple | list) else value


def test_classification() -> None:
    kind, logits = KINDS["classification"], torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])
    # -log(3/4) and -log(1/2).
    expected = (math.log(4 / 3) + math.log(2)) / 2
    assert float(kind.loss(logits, T, PLAIN)) == pytest.approx(expected)  # type: ignore[arg-type]
    with_aux = {"aux": logits.clone(), "logits": logits}
    assert float(kind.loss(with_aux, T, PLAIN)) == pytest.approx(1.3 * expected)  # type: ignore[arg-type]
    metric = kind.metric(logits)
    metric.update(kind.predictions(logits), T)
    metric.update(kind.predictions(logits[:1]), torch.tensor([0]))
    assert float(metric.compute()) == pytest.approx(2 / 3)


def test_segmentation_by_the_sets_of_each_class() -> None:
    kind = KINDS["segmentation"]
    said = torch.tensor([[0, 0, 1], [1, 2, 2]])[None]
    masks = torch.tensor([[0, 1, 1], [1, 2, 255]])[None]
    logits = nn.functional.one_hot(said, 3).permute(0, 3, 1, 2).float() * 100
    metric = kind.metric(logits)
    metric.update(kind.predictions(logits), masks)
    # Class 0: 1 of 2, class 1: 2 of 3, class 2: 1 of 1; the pixel of no class counts nowhere.
    assert float(metric.compute()) == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)
    assert float(kind.loss(logits, masks, PLAIN)) == pytest.approx(100 / 5, rel=1e-5)  # type: ignore[arg-type]


def test_regression() -> None:
    kind, said = KINDS["regression"], torch.tensor([[1.0], [3.0]])
    targets = torch.tensor([0.0, 1.0])
    assert float(kind.loss(said, targets, PLAIN)) == pytest.approx((1 + 4) / 2)  # type: ignore[arg-type]
    metric = kind.metric(said)
    kind.measure(metric, said, targets)
    kind.measure(metric, torch.tensor([0.0]), torch.tensor([4]))
    assert float(metric.compute()) == pytest.approx(math.sqrt((1 + 4 + 16) / 3))


def test_detection_counts_boxes_where_they_are() -> None:
    kind = KINDS["detection"]
    box, other = [0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]
    target = [{"boxes": torch.tensor([box, other]), "labels": torch.tensor([1, 1])}]
    output = [{"boxes": torch.tensor([box]), "labels": torch.tensor([1]), "scores": torch.tensor([0.9])}]
    metric = kind.metric(output)
    metric.update(kind.predictions(output), target)
    # One of two is found, without a wrong one: precision 1 up to a recall of 0.5, at 51 of COCO's 101 levels.
    assert metric.compute() == pytest.approx(51 / 101, abs=1e-3)
    metric.reset()
    metric.update([{**output[0], "labels": torch.tensor([2])}], [{"boxes": torch.zeros(0, 4), "labels": T[:0]}])
    assert metric.compute() == 0  # torchmetrics says -1 where there is nothing to be found.


def test_a_detector_is_run_up_to_its_heads() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = nn.Conv2d(3, 4, 1), nn.ModuleList([nn.Conv2d(4, 2, 1)])

        def forward(self, images: list[Tensor]) -> Any:
            raise AssertionError

    model = Detector()
    model.head.forward = lambda maps: {"classes": maps[0]}  # type: ignore[method-assign]
    found = KINDS["detection"].core(model, torch.zeros(1, 3, 8, 8))
    assert found["classes"].shape == (1, 4, 8, 8)
    with pytest.raises(ConfigError, match=r"a detector must have `backbone` and `head` .* but Linear has not\. Give"):
        KINDS["detection"].core(nn.Linear(1, 1), torch.zeros(1, 1))


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, math.log(2) - 0.5 * math.log(3)), (30.0, None)])
def test_what_is_learnt_of_classes(temperature: float, expected: float | None) -> None:
    # KL(1/2, 1/2 | 3/4, 1/4) = log 2 - ... : sum of 1/2 log(1/2 / p) = -log 2 - 1/2 log(3/16) = log 2 - 1/2 log 3.
    student, teacher = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    found = float(KINDS["classification"].distill(student, teacher, temperature=temperature))
    # Far above the logits it tends to their squared differences, centred, over twice the number of classes.
    limit = 2 * (math.log(3) / 2) ** 2 / 4
    assert found == pytest.approx(limit if expected is None else expected, rel=1e-2 if expected is None else 1e-6)


def test_what_is_learnt_of_pixels_and_numbers() -> None:
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    rows = [each.permute(0, 2, 3, 1).reshape(-1, 3) for each in (student, teacher)]
    by_rows = KINDS["classification"].distill(*rows, temperature=2.0)
    torch.testing.assert_close(KINDS["segmentation"].distill(student, teacher, temperature=2.0), by_rows)
    numbers = torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0], [4.0]])
    assert float(KINDS["regression"].distill(*numbers, temperature=4.0)) == (1 + 4) / 2


@pytest.mark.parametrize(
    ("call", "error", "told"),
    [
        (lambda: KINDS["classification"].loss(torch.zeros(2, 3), torch.zeros(2, 3), PLAIN), DataError,
         r"must have one class for each row of logits, whose shape is \(2, 3\), but its targets are of shape \(2, 3\)"),
        (lambda: KINDS["classification"].loss(torch.zeros(2, 3), None, PLAIN), DataError, "its targets are a NoneType"),
        (lambda: KINDS["segmentation"].loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 8, 8), PLAIN), DataError,
         r"one class for each pixel of the logits, whose shape is \(2, 3, 4, 4\), but its masks are \(2, 8, 8\)"),
        (lambda: KINDS["regression"].loss(torch.zeros(2, 2), torch.zeros(2), PLAIN), DataError,
         r"as many numbers as the network answers with, in the shape \(2, 2\), but its targets are \(2,\)"),
        (lambda: KINDS["regression"].distill(X, Y, temperature=1.0), DataError, "whose answers have one shape"),
        (lambda: KINDS["detection"].distill(X, X, temperature=1.0), ConfigError, "`distill` can't be used with a task"),
        (lambda: KINDS["detection"].loss(X, None, PLAIN), NetworkError, "losses by name in training mode, but gave"),
        (lambda: KINDS["detection"].predictions(X), DataError, "a list of boxes, labels and scores"),
        (lambda: KINDS["detection"].parts({"image": X}), DataError, r"a tuple \(images, targets\), but is a dict"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told(call: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        call()
