"""Schedules, seeds, hooks, recalibration and scoring against the same written out."""

import contextlib
import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

from autoprune.config import TrainSpec
from autoprune.engine.contracts import Hooks
from autoprune.engine.files import publish, read_tensors
from autoprune.engine.images import ImageSet, Preprocess, augment
from autoprune.engine.training import (
    ImageFeed,
    Runtime,
    Samples,
    accuracy,
    default_device,
    learning_rate,
    n_steps_of,
    recalibrate,
    train,
)
from autoprune.engine.training.loop import Training
from autoprune.errors import ConfigError, NetworkError, TrialError

torch.set_num_threads(1)

PLAIN = TrainSpec(epochs=1, batch=8, learning_rate=0.1, schedule="constant", momentum=0.0, weight_decay=0.0)
RUNTIME = Runtime(torch.device("cpu"), "float32", Preprocess((0.5,), (0.25,)))


class Images(ImageSet):
    """Noise, two classes; remembers what was asked for."""

    def __init__(self, n=20, size=4, classes=2, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.randint(0, 256, (n, 1, size, size), generator=generator, dtype=torch.uint8)
        self.labels = torch.randint(0, classes, (n,), generator=generator)
        self.shape = (1, size, size)
        self.asked = []

    def read(self, index_batches):
        for indices in index_batches:
            self.asked.append(indices.tolist())
            yield self.images[indices]

    def subset(self, indices):
        raise NotImplementedError


def make(dropout=0.0, bias=True):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=bias), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 6, 3, bias=bias), nn.BatchNorm2d(6), nn.Flatten(), nn.Dropout(dropout), nn.Linear(24, 2),
    )  # fmt: skip


def trained(model=None, images=None, spec=PLAIN, seed=0, runtime=RUNTIME, **options):
    model = copy.deepcopy(model) if model is not None else make()
    train(model, ImageFeed(images or Images()), spec, runtime=runtime, seed=seed, **options)
    return model


def equal(one, other):
    return all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


# -- learning rate --------------------------------------------------------------------------------------------------


def rates(schedule, n_steps, warmup=0.15, peak=0.4):
    spec = TrainSpec(learning_rate=peak, schedule=schedule, warmup=warmup)
    return [learning_rate(spec, step, n_steps) for step in range(n_steps)]


def test_constant_rate():
    assert rates("constant", 5) == [0.4] * 5


def test_cosine_falls_from_the_peak_to_zero():
    got = rates("cosine", 8)
    assert got[0] == pytest.approx(0.4, rel=1e-15)
    assert got[4] == pytest.approx(0.2, rel=1e-15)
    assert got == pytest.approx([0.2 * (1 + math.cos(math.pi * step / 8)) for step in range(8)], rel=1e-14)
    assert learning_rate(TrainSpec(schedule="cosine"), 8, 8) == 0.0


def test_a_rise_goes_up_as_one_cycle_does_and_stays_there():
    got, cycle = rates("rise", 99, warmup=0.2), rates("one_cycle", 99, warmup=0.2)
    assert got[:20] == cycle[:20]
    assert set(got[19:]) == {0.4}
    assert rates("rise", 5, warmup=0.0) == [0.4] * 5


def test_one_cycle_end_points():
    got = rates("one_cycle", 99, warmup=0.2)  # 100 × 0.2 - 1: the peak is at step 19
    assert got[0] == pytest.approx(0.4 / 25, rel=1e-15)
    assert got[19] == 0.4
    assert got[:20] == sorted(got[:20])
    assert got[19:] == sorted(got[19:], reverse=True)
    assert 0.4 / 25e4 < got[-1] < 0.001
    assert learning_rate(TrainSpec(learning_rate=0.4, warmup=0.2), 99, 99) == pytest.approx(0.4 / 25e4, rel=1e-9)


@pytest.mark.parametrize(("n_steps", "warmup"), [(10, 0.15), (57, 0.3), (400, 0.01), (3, 0.9), (1, 0.15)])
def test_one_cycle_is_that_of_torch(n_steps, warmup):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.4, total_steps=n_steps + 1, pct_start=warmup, cycle_momentum=False
    )
    expected = []
    for _ in range(n_steps):
        expected.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates("one_cycle", n_steps, warmup=warmup) == expected


@pytest.mark.parametrize(("n_steps", "warmup"), [(9, 0.1), (3, 0.25), (4, 0.2), (1, 0.5), (7, 0.0), (999, 0.001)])
def test_one_cycle_with_a_warmup_of_a_step_or_less_starts_at_the_peak(n_steps, warmup):
    """Where the warmup is exactly one step, torch's own divides by zero."""
    got = rates("one_cycle", n_steps, warmup=warmup)
    assert got == sorted(got, reverse=True)
    assert 0.4 * (1 - 2 / n_steps) < got[0] <= 0.4


def test_the_rate_reaches_the_optimizer():
    """Plain SGD on one batch: weights move by rate × gradient, whatever the schedule says for that step."""
    told = []
    for schedule in ("one_cycle", "cosine", "constant"):
        spec = TrainSpec(epochs=3, batch=20, learning_rate=0.1, schedule=schedule, momentum=0.0, weight_decay=0.0)
        gradients, before, model = [], [], make()
        weight = model[0].weight
        hooks = Hooks(
            transform_gradients=lambda w=weight, b=before, g=gradients: (
                b.append(w.detach().clone()), g.append(w.grad.clone())
            ),
            shrink=told.append,
        )  # fmt: skip
        train(model, ImageFeed(Images()), spec, runtime=RUNTIME, seed=0, hooks=hooks)
        before.append(weight.detach().clone())
        for step, gradient in enumerate(gradients):
            moved = before[step + 1] - before[step]
            torch.testing.assert_close(moved, -told[-3 + step] * gradient, rtol=1e-4, atol=1e-8)
        assert told[-3:] == [learning_rate(spec, step, 3) for step in range(3)]


# -- length and order -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "batch", "epochs", "n_steps"),
    [(20, 5, 1, 4), (20, 5, 0.5, 2), (20, 5, 2.25, 9), (20, 7, 1, 3), (20, 8, 2, 5), (20, 100, 3, 3), (20, 5, 0.1, 0)],
)
def test_number_of_steps(n, batch, epochs, n_steps):
    images, shares = Images(n), []
    spec = TrainSpec(epochs=epochs, batch=batch, learning_rate=1e-3)
    train(make(), ImageFeed(images), spec, runtime=RUNTIME, seed=0, on_step=shares.append)
    assert len(images.asked) == n_steps
    assert shares == [(step + 1) / n_steps for step in range(n_steps)]
    assert {len(indices) for indices in images.asked} <= {min(batch, n)}


def test_every_epoch_is_a_permutation():
    images = Images(20)
    train(make(), ImageFeed(images), TrainSpec(epochs=3, batch=5, learning_rate=1e-3), runtime=RUNTIME, seed=0)
    order = [index for batch in images.asked for index in batch]
    epochs = [order[start : start + 20] for start in (0, 20, 40)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(20))] * 3
    assert epochs[0] != epochs[1] != epochs[2]


def test_no_steps_leave_the_network_as_it_is():
    model = make()
    assert equal(trained(model, spec=TrainSpec(epochs=0)), model)


TEXTBOOK = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.8, nesterov=True, weight_decay=5e-4),
    "adam": lambda p: torch.optim.Adam(p, 0.05, betas=(0.8, 0.999), weight_decay=5e-4),
    "adamw": lambda p: torch.optim.AdamW(p, 0.05, betas=(0.8, 0.999), weight_decay=5e-4),
}


@pytest.mark.parametrize("name", sorted(TEXTBOOK))
def test_steps_are_the_textbook_steps(name):
    """Loss with label smoothing, momentum and weight decay, by torch's own optimizer."""
    spec = TrainSpec(
        epochs=3, batch=20, learning_rate=0.05, schedule="constant", label_smoothing=0.1, momentum=0.8, optimizer=name
    )
    images, model = Images(), make(bias=False)  # The gradient of a normalised bias is rounding, which Adam blows up.
    expected = copy.deepcopy(model).train()
    optimizer = TEXTBOOK[name](expected.parameters())
    got = trained(model, images, spec)
    for indices in images.asked:
        pixels = images.images[indices].float().div(255).sub(0.5).div(0.25)
        loss = nn.functional.cross_entropy(expected(pixels), images.labels[indices], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(got.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
    assert got.training


# -- seeds and the caller's randomness ------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_repeats_itself_bit_for_bit(optimizer, precision):
    spec = TrainSpec(epochs=2, batch=8, learning_rate=0.01, optimizer=optimizer, augmentation="crop_flip")
    runtime = Runtime(torch.device("cpu"), precision, RUNTIME.preprocess)
    model = make()
    one, same, other = (trained(model, spec=spec, seed=seed, runtime=runtime) for seed in (1, 1, 2))
    assert equal(one, same)
    assert not equal(one, other)


def test_dropout_follows_the_seed_too():
    model = make(dropout=0.5)
    torch.manual_seed(1)
    one = trained(model)
    torch.manual_seed(2)
    same = trained(model)
    assert equal(one, same)
    assert not equal(one, trained(model, seed=1))


def test_the_random_state_of_the_caller_is_left_alone():
    model, images = make(dropout=0.5), Images()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(model, ImageFeed(images), TrainSpec(epochs=1, batch=8, augmentation="shift"), runtime=RUNTIME, seed=3)
    recalibrate(model, Samples(images, RUNTIME, 10, seed=3), runtime=RUNTIME)
    accuracy(model, images, runtime=RUNTIME)

    def stop(share):
        raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        train(model, ImageFeed(images), PLAIN, runtime=RUNTIME, seed=3, on_step=stop)
    assert torch.equal(torch.rand(3), expected)


# -- hooks ----------------------------------------------------------------------------------------------------------


def test_hooks_run_in_the_documented_order():
    calls, model = [], make()

    def extra_loss():
        calls.append(("extra_loss", model[0].weight.grad is None))
        return 0.5 * model[1].weight.sum()

    hooks = Hooks(
        extra_loss=extra_loss,
        transform_gradients=lambda: calls.append(("transform_gradients", model[1].weight.grad.clone())),
        shrink=lambda rate: calls.append(("shrink", rate)),
        after_step=lambda: calls.append(("after_step", model.training)),
    )
    train(
        model, ImageFeed(Images(16)), PLAIN, runtime=RUNTIME, seed=0, hooks=hooks,
        on_step=lambda share: calls.append(("on_step", share)),
    )  # fmt: skip
    order = ["extra_loss", "transform_gradients", "shrink", "after_step", "on_step"]
    assert [name for name, _ in calls] == order * 2
    assert calls[0][1] is True
    assert calls[2][1] == 0.1
    assert [calls[4][1], calls[9][1]] == [0.5, 1.0]


def test_extra_loss_adds_its_gradient():
    """With rate 0.1, a loss of 0.5 × Σγ takes 0.05 more off every γ."""
    model = make()
    plain, more = copy.deepcopy(model), copy.deepcopy(model)
    spec = TrainSpec(epochs=1, batch=20, learning_rate=0.1, schedule="constant", momentum=0.0, weight_decay=0.0)
    train(plain, ImageFeed(Images()), spec, runtime=RUNTIME, seed=0)
    train(
        more,
        ImageFeed(Images()),
        spec,
        runtime=RUNTIME,
        seed=0,
        hooks=Hooks(extra_loss=lambda: 0.5 * more[1].weight.sum()),
    )
    torch.testing.assert_close(plain[1].weight - more[1].weight, torch.full((4,), 0.05), rtol=0, atol=1e-6)
    assert torch.equal(plain[3].weight, more[3].weight)


def test_shrink_sees_the_updated_weights_and_lasts():
    model = make()

    def shrink(rate):
        with torch.no_grad():
            model[1].weight.clamp_(max=0.25)

    train(model, ImageFeed(Images()), PLAIN, runtime=RUNTIME, seed=0, hooks=Hooks(shrink=shrink))
    assert model[1].weight.max().item() == 0.25


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_momentum_by_name(optimizer):
    """One layer with other momentum, trained beside the rest, moves as if the whole phase had it."""

    def moved(momentum, hooks):
        model, images = make(), Images(40)
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name == "7.bias"  # Alone, so that nothing else can tell.
        spec = TrainSpec(
            epochs=2, batch=20, learning_rate=0.1, schedule="constant", momentum=momentum, optimizer=optimizer
        )
        train(model, ImageFeed(images), spec, runtime=RUNTIME, seed=0, hooks=hooks)
        return model[7].bias.detach().clone()

    assert torch.equal(moved(0.5, Hooks(momentum={"7.bias": 0.9})), moved(0.9, None))
    assert not torch.equal(moved(0.5, None), moved(0.9, None))
    assert torch.equal(moved(0.5, Hooks(momentum={"0.weight": 0.9})), moved(0.5, None))


def test_steps_of_a_phase():
    assert n_steps_of(TrainSpec(epochs=3.3333, batch=128), 45_000) == 1172  # 150,016 images
    assert n_steps_of(TrainSpec(epochs=2, batch=128), 100) == 2
    assert n_steps_of(TrainSpec(epochs=0), 100) == 0


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weight_decay_by_name(optimizer):
    """No gradient flows, so decay alone moves weights: by 1 - rate × decay."""
    model = make()
    nn.init.zeros_(model[7].weight)
    nn.init.zeros_(model[7].bias)
    images = Images()
    before = copy.deepcopy(model)
    spec = TrainSpec(
        epochs=1, batch=20, learning_rate=0.1, schedule="constant", momentum=0.0, weight_decay=0.5, optimizer=optimizer
    )
    hooks = Hooks(weight_decay={"1.weight": 0.0, "4.weight": 2.0})
    train(model, ImageFeed(images), spec, runtime=RUNTIME, seed=0, hooks=hooks)
    for name, factor in {"0.weight": 0.95, "3.weight": 0.95, "1.weight": 1.0, "4.weight": 0.8}.items():
        torch.testing.assert_close(model.get_parameter(name), before.get_parameter(name) * factor, rtol=1e-5, atol=1e-8)


def test_frozen_parameters_stay():
    model = make()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    after = trained(model, spec=TrainSpec(epochs=1, batch=8, weight_decay=0.5))
    assert torch.equal(after[0].weight, before)
    assert not torch.equal(after[3].weight, model[3].weight)


def test_a_network_in_which_all_is_frozen_is_not_trained():
    model = make().requires_grad_(False)
    told = (
        r"^a network must have a parameter that trains, but all of its 10 are frozen \(`requires_grad` is False\)\. "
        r"Let some of them train, those of the classifier at least\.$"
    )
    with pytest.raises(NetworkError, match=told):
        trained(model)
    assert equal(trained(model, spec=TrainSpec(epochs=0)), model)  # A phase without a step asks for nothing.


def test_answers_that_depend_on_nothing_that_trains_are_told():
    model = make()
    model.requires_grad_(False)
    model.register_parameter("idle", nn.Parameter(torch.zeros(1)))
    told = "^the network's answers must depend on a parameter that trains, but depend on none. Let a layer train"
    with pytest.raises(NetworkError, match=told):
        trained(model)


def test_on_step_may_score_the_network():
    images = Images()
    seen = []
    model = make()

    def score(share):
        seen.append(accuracy(model, images, runtime=RUNTIME))
        assert not model.training

    train(model, ImageFeed(images), PLAIN, runtime=RUNTIME, seed=0, on_step=score)
    assert model.training
    assert len(seen) == 2
    assert equal(model, trained())


def test_a_recipe_of_the_method_goes_over_the_study_s():
    """As many steps on the same batches, but another optimizer, rate and decay."""
    images, others = Images(), Images()
    own = TrainSpec(
        epochs=7, batch=3, optimizer="adamw", learning_rate=0.02, schedule="constant", momentum=0.5, weight_decay=0.25
    )
    got = trained(images=images, hooks=Hooks(recipe=own))
    expected = trained(images=others, spec=dataclasses.replace(own, epochs=1, batch=8))
    assert images.asked == others.asked
    assert equal(got, expected)
    assert not equal(got, trained())


# -- pausing --------------------------------------------------------------------------------------------------------


class Counter:
    """A method's own state, which every step depends on."""

    def __init__(self, model):
        self.model, self.total = model, torch.zeros(())

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state):
        self.total.copy_(state["total"])

    def count(self):
        self.total += self.model[1].weight.detach().sum()
        self.model[1].weight.data *= 1 + 0.01 * self.total.sin()


def training(spec, runtime=RUNTIME):
    model = make(dropout=0.3)
    counter = Counter(model)
    return model, Training(
        model,
        ImageFeed(Images(40)),
        spec,
        runtime=runtime,
        seed=3,
        hooks=Hooks(after_step=counter.count, state=counter),
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("pauses", [(4,), (0, 1, 9), (10,)])
def test_pausing_changes_no_bit(optimizer, precision, pauses, tmp_path, monkeypatch):
    monkeypatch.setattr(Runtime, "autocast", lambda self: contextlib.nullcontext())
    runtime = Runtime(torch.device("cpu"), precision, RUNTIME.preprocess)
    spec = TrainSpec(epochs=2, batch=8, learning_rate=0.02, optimizer=optimizer, augmentation="crop_flip")
    expected, whole = training(spec, runtime)
    whole.run()
    assert whole.step == whole.n_steps == 10
    model, part = training(spec, runtime)
    for number, pause in enumerate(pauses):
        torch.manual_seed(number)
        part.run(until=pause)
        torch.rand(5)  # the caller draws, too
        assert part.step == pause
        publish(tmp_path / f"{number}.safetensors", part.state_dict(), {})
        model, part = training(spec, runtime)
        part.load_state_dict(read_tensors(tmp_path / f"{number}.safetensors"))
    part.run()
    assert equal(model, expected)
    assert {name: tensor.tolist() for name, tensor in part.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in whole.state_dict().items()
    }


def test_a_state_can_be_taken_at_any_step_and_after_an_interruption():
    spec = TrainSpec(epochs=2, batch=8, learning_rate=0.02, augmentation="shift")
    expected, whole = training(spec)
    states = []
    whole.run(lambda share: states.append(whole.state_dict()))
    assert [int(state["step"]) for state in states] == list(range(1, 11))

    def interrupt(share):
        if share == 0.5:
            raise InterruptedError("enough")

    _, stopped = training(spec)
    with pytest.raises(InterruptedError, match="enough"):
        stopped.run(interrupt)
    for state in (states[4], stopped.state_dict()):
        model, rest = training(spec)
        rest.load_state_dict(state)
        rest.run()
        assert equal(model, expected)


def test_what_is_left_is_trained_and_reported():
    spec = TrainSpec(epochs=2, batch=8, learning_rate=0.02)
    _, part = training(spec)
    shares = []
    part.run(shares.append, until=3)
    part.run(shares.append)
    part.run(shares.append)
    assert shares == [(step + 1) / 10 for step in range(10)]


# -- divergence -----------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_ends_the_trial():
    hooks = Hooks(extra_loss=lambda: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(TrialError, match=r"^the loss must stay finite, but is nan at step 0\. Lower the learning rate"):
        trained(hooks=hooks)


def test_a_loss_that_diverges_between_the_checks_is_met_at_the_last_step():
    calls = []

    def extra_loss():
        calls.append(1)
        return torch.tensor(float("inf") if len(calls) > 3 else 0.0, requires_grad=True)

    with pytest.raises(TrialError, match="is inf at step 4"):
        trained(spec=TrainSpec(epochs=5, batch=20), hooks=Hooks(extra_loss=extra_loss))


def test_a_step_that_overflowed_in_float16_is_left_out(monkeypatch):
    """The loss scaler skips such a step; proximal steps and schedules of the method must skip it too."""
    monkeypatch.setattr(Runtime, "autocast", lambda self: contextlib.nullcontext())
    runtime = Runtime(torch.device("cpu"), "float16", RUNTIME.preprocess)
    calls, weights, model = [], [], make()

    def extra_loss():
        calls.append("loss")
        weights.append(model[0].weight.detach().clone())
        return model[0].weight.sum() * (float("inf") if len(calls) == 4 else 0.0)  # the second step's

    hooks = Hooks(
        extra_loss=extra_loss,
        shrink=lambda rate: calls.append("shrink"),
        after_step=lambda: calls.append("after_step"),
    )
    train(model, ImageFeed(Images(24)), PLAIN, runtime=runtime, seed=0, hooks=hooks)
    assert calls == ["loss", "shrink", "after_step", "loss", "loss", "shrink", "after_step"]
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[1], weights[2])


# -- recalibration --------------------------------------------------------------------------------------------------


def test_recalibration_is_the_average_over_batches():
    model, images = make(), Images(200)
    before = copy.deepcopy(model.state_dict())
    momenta = [0.03, None]
    for norm, momentum in zip((model[1], model[4]), momenta, strict=True):
        norm.momentum = momentum
    recalibrate(model, Samples(images, RUNTIME, 192, seed=4), runtime=RUNTIME)
    assert [len(indices) for indices in images.asked] == [64, 64, 64]
    assert len({index for batch in images.asked for index in batch}) == 192

    sums = {1: [0.0, 0.0], 4: [0.0, 0.0]}
    exact = copy.deepcopy(model).double()
    exact.load_state_dict(before)
    exact.eval()
    for indices in images.asked:
        x = (images.images[indices].double() / 255 - 0.5) / 0.25
        for place, module in enumerate(exact):
            if place in sums:
                sums[place][0] += x.mean((0, 2, 3)) / 3
                sums[place][1] += x.var((0, 2, 3)) / 3
                module.train()  # the next layer sees a batch that is normalised by itself
            x = module(x)
    for place, (mean, var) in sums.items():
        torch.testing.assert_close(model[place].running_mean.double(), mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model[place].running_var.double(), var, rtol=1e-4, atol=1e-5)
        assert model[place].num_batches_tracked.item() == 3
    assert [model[1].momentum, model[4].momentum] == momenta
    assert not any(module.training for module in model.modules())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_samples_are_the_same_each_time_and_follow_their_seed():
    images = Images(200)
    samples = Samples(images, RUNTIME, 128, seed=1)
    first, again = list(samples), list(samples)
    assert [len(labels) for _, labels in first] == [64, 64]
    assert images.asked[:2] == images.asked[2:]
    for (inputs, labels), (same, _), indices in zip(first, again, images.asked, strict=False):
        assert torch.equal(inputs, same)
        torch.testing.assert_close(inputs, (images.images[indices].float() / 255 - 0.5) / 0.25)
        assert torch.equal(labels, images.labels[indices])
    list(Samples(images, RUNTIME, 128, seed=2))
    assert images.asked[4:] != images.asked[:2]


def test_recalibration_forgets_the_old_statistics_and_follows_its_seed():
    one, other, third = make(), make(), make()
    with torch.no_grad():
        other[1].running_mean.fill_(1e6)
        other[4].running_var.fill_(1e6)
        other[4].num_batches_tracked.fill_(100)
    for model, seed in ((one, 0), (other, 0), (third, 1)):
        recalibrate(model, Samples(Images(200), RUNTIME, 64, seed=seed), runtime=RUNTIME)
    assert equal(one, other)
    assert not equal(one, third)


@pytest.mark.parametrize(("n", "n_images", "sizes"), [(10, 1, [10]), (10, 25, [10] * 2), (100, 5000, [64] * 78)])
def test_recalibration_of_few_images(n, n_images, sizes):
    images = Images(n)
    recalibrate(make(), Samples(images, RUNTIME, n_images, seed=0), runtime=RUNTIME)
    assert [len(indices) for indices in images.asked] == sizes


def test_normalisations_without_statistics_and_dropout_are_left_in_peace():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.InstanceNorm2d(4), nn.Flatten(),
        nn.Dropout(0.9), nn.BatchNorm1d(16), nn.Linear(16, 2),
    )  # fmt: skip
    torch.manual_seed(0)
    recalibrate(model, Samples(Images(64), RUNTIME, 64, seed=0), runtime=RUNTIME)
    recalibrated = model[5].running_mean.clone()
    torch.manual_seed(1)
    recalibrate(model, Samples(Images(64), RUNTIME, 64, seed=0), runtime=RUNTIME)
    assert torch.equal(model[5].running_mean, recalibrated)


# -- accuracy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 7, 500])
def test_accuracy_is_the_share_of_right_answers(batch):
    model, images = make(), Images(30)
    with torch.no_grad():
        right = 0
        for image, label in zip(images.images, images.labels, strict=True):
            logits = model.eval()((image[None].float() / 255 - 0.5) / 0.25)
            right += int(logits.argmax()) == int(label)
    assert 0 < right < 30
    assert accuracy(model.train(), images, runtime=RUNTIME, batch=batch) == right / 30
    assert not model.training


def test_scoring_first_does_not_stop_training_later():
    model = make()
    accuracy(model, Images(), runtime=RUNTIME)
    assert not any(tensor.is_inference() for tensor in model.state_dict().values())
    assert equal(trained(model), trained())


def test_scoring_changes_nothing():
    model = make()
    before = copy.deepcopy(model)
    accuracy(model, Images(), runtime=RUNTIME)
    assert equal(model, before)


# -- runtime ----------------------------------------------------------------------------------------------------------


def test_precision():
    layer, x = nn.Linear(4, 4), torch.ones(1, 4)
    with RUNTIME.autocast():
        assert layer(x).dtype == torch.float32
    with Runtime(torch.device("cpu"), "bfloat16", RUNTIME.preprocess).autocast():
        assert layer(x).dtype == torch.bfloat16
    with pytest.raises(ConfigError, match=r"'float16' needs an accelerator, but there is none\. Use 'bfloat16'"):
        Runtime(torch.device("cpu"), "float16", RUNTIME.preprocess).autocast()


def test_weights_stay_float32_in_mixed_precision():
    runtime = Runtime(torch.device("cpu"), "bfloat16", RUNTIME.preprocess)
    model = trained(runtime=runtime)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32, torch.int64}
    assert not equal(model, trained())


def test_default_device_runs():
    assert torch.zeros(2, device=default_device()).sum().item() == 0.0


def test_augmentation_is_used():
    """An all-white image is white without augmentation; shifted in, the border is black."""
    images = Images(8)
    images.images.fill_(255)
    seen = []
    model = make()
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0].min().item()))
    for kind in ("none", "shift"):
        train(model, ImageFeed(images), TrainSpec(epochs=1, batch=8, augmentation=kind), runtime=RUNTIME, seed=0)
    assert seen == [2.0, -2.0]
    assert augment(images.images, "none", torch.Generator()) is images.images
