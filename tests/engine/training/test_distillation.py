"""The loss by hand, and training with a teacher step by step."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from autoprune.config import DistillSpec, TrainSpec
from autoprune.engine.images import fixed_view
from autoprune.engine.training import ImageFeed, OnlineTeacher, StoredTeacher, Training
from autoprune.engine.training.distillation import distillation_loss
from tests.engine.training.test_loop import RUNTIME, Images, make

torch.set_num_threads(1)

RECIPE = TrainSpec(epochs=2, batch=8, learning_rate=0.05, augmentation="crop_flip")


def test_the_loss_of_two_classes_by_hand() -> None:
    # softmax((ln 9, 0) / 2) = (3/4, 1/4); the student says (1/2, 1/2): KL = 3/4 ln 3/2 + 1/4 ln 1/2. CE = ln 2.
    student, teacher = torch.zeros(1, 2), torch.tensor([[math.log(9), 0.0]])
    found = distillation_loss(student, teacher, torch.tensor([1]), spec=DistillSpec(weight=0.25, temperature=2.0))
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(found) == pytest.approx(0.75 * math.log(2) + 0.25 * 4 * kl, rel=1e-6)


def test_a_student_that_says_the_same_loses_nothing_to_its_teacher() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(5)
    found = distillation_loss(logits, logits, labels, spec=DistillSpec(weight=1.0, temperature=3.0))
    assert float(found) == pytest.approx(0.0, abs=1e-6)


def test_at_a_high_temperature_the_gradient_is_the_difference_of_centred_logits() -> None:
    """w (s - mean s - t + mean t) / (K N): independent of T, which is what the factor T^2 is for."""
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(4, 3, generator=generator, dtype=torch.float64).requires_grad_()
    teacher = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    spec = DistillSpec(weight=1.0, temperature=100.0)
    distillation_loss(student, teacher, torch.zeros(4, dtype=torch.long), spec=spec).backward()
    with torch.no_grad():
        centred = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    assert student.grad is not None
    assert torch.allclose(student.grad, centred / 3 / 4, atol=0.02 * float(centred.abs().max()))


def test_a_view_is_the_same_for_whoever_asks_and_another_for_another_number() -> None:
    images = Images(20, size=8)
    one, again = (fixed_view("crop_flip", 0, n=20, height=8) for _ in range(2))
    other = fixed_view("crop_flip", 1, n=20, height=8)
    assert one is not None
    assert again is not None
    assert other is not None
    assert torch.equal(one.of(images.images), again.of(images.images))
    assert not torch.equal(one.of(images.images), other.of(images.images))
    # Image by image it is what it is for all at once.
    picked = torch.tensor([7, 3, 11])
    assert torch.equal(one.of(images.images[picked], picked), one.of(images.images)[picked])
    assert fixed_view("none", 3, n=20, height=8) is None


def stored(network: nn.Module, images: Images, n_views: int, spec: DistillSpec, *, first: int = 0) -> StoredTeacher:
    views = [fixed_view("crop_flip", k, n=len(images), height=4) for k in range(n_views)]
    with torch.no_grad():
        logits = [
            network(RUNTIME.preprocess(view.of(images.images), RUNTIME.device)).half()
            for view in views
            if view is not None
        ]
    return StoredTeacher(spec, logits, views, first=first)


def test_each_pass_sees_the_next_view_and_the_logits_of_it() -> None:
    images, spec = Images(20), DistillSpec(views=3)
    network = make().eval()
    teacher = stored(network, images, 3, spec, first=2)
    picked = torch.tensor([4, 0, 9])
    for turn in range(7):
        view = fixed_view("crop_flip", (2 + turn) % 3, n=20, height=4)
        assert view is not None
        seen = teacher.show(images.images[picked], picked, turn=turn)
        assert seen is not None
        assert torch.equal(seen, view.of(images.images[picked], picked))
        inputs = RUNTIME.preprocess(seen, RUNTIME.device)
        online = OnlineTeacher(spec, network, runtime=RUNTIME).logits(inputs, picked, turn=turn)
        assert torch.allclose(teacher.logits(inputs, picked, turn=turn), online, atol=2e-3)


def test_the_passes_of_a_training_are_told_apart() -> None:
    images = Images(20)  # Two batches of eight a pass; four images are left out.
    turns = []

    class Listening(StoredTeacher):
        def show(self, pixels, indices, *, turn):  # type: ignore[no-untyped-def]
            turns.append(turn)
            return super().show(pixels, indices, turn=turn)

    views = [fixed_view("crop_flip", k, n=20, height=4) for k in range(2)]
    teacher = Listening(DistillSpec(), [torch.zeros(20, 2).half()] * 2, views, first=0)
    Training(make(), ImageFeed(images, teacher=teacher), RECIPE, runtime=RUNTIME, seed=0).run()
    assert turns == [0, 0, 1, 1, 2]  # 2 epochs of 20 images are 5 steps of 8.


def test_with_a_teacher_training_can_be_taken_up_in_the_middle() -> None:
    images, spec = Images(20), DistillSpec()
    network = make().eval()

    def training(model: nn.Module) -> Training:
        return Training(
            model, ImageFeed(images, teacher=stored(network, images, 2, spec)), RECIPE, runtime=RUNTIME, seed=3
        )

    whole, first, second = make(), make(), make()
    training(whole).run()
    begun = training(first)
    begun.run(until=3)
    resumed = training(second)
    resumed.load_state_dict(begun.state_dict())
    resumed.run()
    state = second.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in whole.state_dict().items())


def test_a_student_follows_its_teacher_where_labels_are_noise() -> None:
    images = Images(64, size=4, seed=1)
    torch.manual_seed(5)
    wise = make().eval()
    with torch.no_grad():
        wise[-1].weight.mul_(8)
    teacher = OnlineTeacher(DistillSpec(weight=1.0, temperature=2.0), wise, runtime=RUNTIME)
    student = make(bias=True)
    with torch.no_grad():
        student[-1].weight.zero_()
    recipe = TrainSpec(epochs=60, batch=32, learning_rate=0.05)
    Training(student, ImageFeed(images, teacher=teacher), recipe, runtime=RUNTIME, seed=0).run()
    inputs = RUNTIME.preprocess(images.images, RUNTIME.device)
    with torch.no_grad():
        agree = (student.eval()(inputs).argmax(1) == wise(inputs).argmax(1)).float().mean()
    assert float(agree) > 0.85
