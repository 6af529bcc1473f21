"""What only an accelerator can show of training: `scripts/bench gpu` runs these tests where there is one."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from autoprune.architectures import build
from autoprune.config import TrainSpec
from autoprune.engine.images import ImageSet, Preprocess, augment
from autoprune.engine.surgery import cut, masked
from autoprune.engine.tracing import trace
from autoprune.engine.training import ImageFeed, Runtime, SharedFeed, Training, accuracy, default_device, train

HAS_ONE = torch.accelerator.is_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not HAS_ONE, reason="needs an accelerator")]

SPEC = TrainSpec(epochs=2, batch=64, learning_rate=0.02, augmentation="crop_flip")
PREPROCESS = Preprocess((0.5,), (0.25,))


class Squares(ImageSet):
    """A bright square, left or right of the middle, in noise: two classes."""

    def __init__(self, n: int = 512) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 80, (n, 1, 16, 16), generator=generator, dtype=torch.uint8)
        self.labels = torch.arange(n) % 2
        for side in (0, 1):
            self.images[side::2, :, 5:11, 3 * (1 + 2 * side) : 3 * (2 + 2 * side)] = 255
        self.shape = (1, 16, 16)

    def read(self, index_batches: Iterator[Tensor]) -> Iterator[Tensor]:  # type: ignore[override]
        return (self.images[indices] for indices in index_batches)

    def subset(self, indices: Tensor) -> ImageSet:
        raise NotImplementedError


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build("resnet_digits", n_classes=2, in_channels=1)


def runtime(precision: str = "float32", device: torch.device | None = None) -> Runtime:
    return Runtime(device or default_device(), precision, PREPROCESS)


def test_images_are_augmented_there_as_on_the_cpu() -> None:
    images = Squares().images
    here, there = (
        augment(each, "crop_flip", torch.Generator().manual_seed(4)) for each in (images, images.to(default_device()))
    )
    assert there.device.type == default_device().type
    assert torch.equal(here, there.cpu())


def test_a_step_is_the_cpu_s_to_rounding() -> None:
    spec = TrainSpec(epochs=1, batch=64, learning_rate=0.02, schedule="constant", augmentation="crop_flip")
    moved = []
    for place in (torch.device("cpu"), default_device()):
        model = network()
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            Training(model, ImageFeed(Squares()), spec, runtime=runtime(device=place), seed=1).run(until=1)
        moved.append([parameter.detach().cpu() for parameter in model.parameters()])
    for one, other in zip(*moved, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_it_learns_in_every_precision(precision: str) -> None:
    model = network()
    train(model, ImageFeed(Squares()), SPEC, runtime=runtime(precision), seed=0)
    assert accuracy(model, Squares(), runtime=runtime(precision)) > 0.9


def test_a_run_goes_on_where_another_was_saved() -> None:
    whole, halves = (Training(network(), ImageFeed(Squares()), SPEC, runtime=runtime(), seed=0) for _ in range(2))
    whole.run(until=6)
    halves.run(until=3)
    again = Training(network(), ImageFeed(Squares()), SPEC, runtime=runtime(), seed=0)
    again.load_state_dict(halves.state_dict())
    again.run(until=6)
    for name, tensor in whole.state_dict().items():
        if name.startswith("model:"):
            torch.testing.assert_close(again.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


def test_a_cut_network_answers_as_the_masked_one() -> None:
    model = network().eval()
    traced = trace(model, torch.zeros(1, 1, 16, 16))
    model = model.to(default_device())
    kept = {group.name: torch.arange(max(1, group.width // 2)).numpy() for group in traced.groups}
    inputs = torch.randn(8, 1, 16, 16, device=default_device())
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        small, silent = cut(model, traced.groups, kept)(inputs), masked(model, traced.groups, kept)(inputs)
    torch.testing.assert_close(small, silent, rtol=1e-3, atol=1e-4)


def test_a_compiled_network_trains_as_it_is() -> None:
    moved = []
    for compiled_from in (None, 0):
        model = network()
        training = Training(
            model, ImageFeed(Squares()), SPEC, seed=0,
            runtime=Runtime(default_device(), "float32", PREPROCESS, compiled_from=compiled_from),
        )  # fmt: skip
        training.run(until=2)
        moved.append(copy.deepcopy(model.cpu().state_dict()))
    for name, tensor in moved[0].items():
        torch.testing.assert_close(moved[1][name], tensor, rtol=1e-2, atol=1e-3)


@pytest.mark.skipif(not HAS_ONE or torch.accelerator.device_count() < 2, reason="needs two accelerators")
def test_two_devices_equal_one() -> None:
    moved = []
    for feed in (ImageFeed(Squares()), SharedFeed(ImageFeed(Squares()), processes=2, is_synchronised=True)):
        model = network()
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            Training(model, feed, SPEC, runtime=runtime(), seed=0).run(until=2)
        moved.append([parameter.detach().cpu() for parameter in model.parameters()])
    for one, other in zip(*moved, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)
