"""Several processes that train one network together, held against one process and against shares by hand."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from autoprune.config import DistillSpec, TrainSpec
from autoprune.engine.contracts import Hooks
from autoprune.engine.images import ImageSet, Preprocess
from autoprune.engine.training import ImageFeed, Runtime, SharedFeed, StoredTeacher, train
from autoprune.engine.training.teams import _TEAMS, shares_of, team_of
from autoprune.errors import NetworkError, TrialError

CPU = torch.device("cpu")
RUNTIME = Runtime(CPU, "float32", Preprocess((0.5,), (0.25,)))
SPEC = TrainSpec(epochs=2, batch=9, learning_rate=0.1, augmentation="crop_flip", label_smoothing=0.1)


@pytest.fixture(scope="module", autouse=True)
def _no_team_stays():
    """Members wait for more work as long as their process lives; other tests of it need none."""
    yield
    for team in list(_TEAMS.values()):
        team.close()
    _TEAMS.clear()


class Images(ImageSet):
    """Noise, three classes."""

    def __init__(self, n: int = 27) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)
        self.labels = torch.randint(0, 3, (n,), generator=generator)
        self.shape = (1, 8, 8)

    def read(self, index_batches: Iterator[Tensor]) -> Iterator[Tensor]:  # type: ignore[override]
        return (self.images[indices] for indices in index_batches)

    def subset(self, indices: Tensor) -> ImageSet:
        raise NotImplementedError


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3)]
    return nn.Sequential(*layers, nn.BatchNorm2d(4, momentum=None), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def trained(feed: ImageFeed | SharedFeed, spec: TrainSpec = SPEC, hooks: Hooks | None = None) -> nn.Sequential:
    model = network()
    train(model, feed, spec, runtime=RUNTIME, seed=3, hooks=hooks)
    return model


def shared(feed: ImageFeed, *, is_synchronised: bool = True) -> SharedFeed:
    return SharedFeed(feed, processes=2, is_synchronised=is_synchronised)


def apart(one: nn.Module, other: nn.Module) -> float:
    """Largest difference of weights and running statistics, over the largest of them."""
    pairs = list(zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    scale = max(float(a.abs().max()) for a, _ in pairs)
    return max(float((a - b).abs().max()) for a, b in pairs) / scale


def taught() -> ImageFeed:
    images = Images()
    logits = torch.randn(27, 3, generator=torch.Generator().manual_seed(1)).half()
    return ImageFeed(images, teacher=StoredTeacher(DistillSpec(weight=0.5, temperature=2.0), [logits], [None], first=0))


@pytest.mark.parametrize("make", [lambda: ImageFeed(Images()), taught], ids=["labels", "taught"])
def test_two_processes_equal_one_with_the_whole_batch(make) -> None:
    """Shares of 5 and 4 images; what a hook adds to the loss counts once."""

    def hooks(model: nn.Sequential) -> Hooks:
        return Hooks(extra_loss=lambda: 0.01 * model[0].weight.square().sum())

    one, two = network(), network()
    for model, feed in ((one, make()), (two, shared(make()))):
        train(model, feed, SPEC, runtime=RUNTIME, seed=3, hooks=hooks(model))
    assert apart(network(), one) > 0.05
    assert apart(one, two) < 2e-6


def test_norms_apart_go_by_each_share() -> None:
    """One step by hand: the mean of the gradients of two shares, each normalised by itself; statistics of the first."""
    spec = TrainSpec(epochs=0.3, batch=9, learning_rate=0.1, schedule="constant", momentum=0.0, weight_decay=0.0)
    found = trained(shared(ImageFeed(Images()), is_synchronised=False), spec)
    model, images = network(), Images()
    (indices,) = torch.randperm(27, generator=torch.Generator().manual_seed(3)).split(9)[:1]
    copies = [copy.deepcopy(model).train() for _ in range(2)]
    for each, share in zip(copies, indices.split([5, 4]), strict=True):
        logits = each(RUNTIME.inputs(images.images[share]))
        (nn.functional.cross_entropy(logits, images.labels[share]) * len(share) / 9).backward()
    with torch.no_grad():
        for mine, first, second in zip(copies[0].parameters(), *[c.parameters() for c in copies], strict=True):
            mine -= 0.1 * (first.grad + second.grad)
    assert apart(copies[0], found) < 1e-6
    assert apart(trained(ImageFeed(Images()), spec), found) > 1e-3


def test_a_team_is_kept_and_takes_up_other_networks() -> None:
    before = team_of(2, CPU)
    trained(shared(ImageFeed(Images())))
    assert team_of(2, CPU) is before
    assert apart(trained(shared(ImageFeed(Images()))), trained(ImageFeed(Images()))) < 2e-6


class Fails(nn.Module):
    """Fails in members alone."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.first = nn.Linear(64, 3), os.getpid()

    def forward(self, x: Tensor) -> Tensor:
        if os.getpid() != self.first:
            raise RuntimeError("out of memory here")
        answer: Tensor = self.head(x.flatten(1))
        return answer


def test_a_member_that_fails_fails_the_trial_and_the_next_has_a_new_team() -> None:
    with pytest.raises(TrialError, match=r"one of the 2 processes that train the network failed: .*out of memory"):
        train(Fails(), shared(ImageFeed(Images())), SPEC, runtime=RUNTIME, seed=0)
    assert apart(trained(shared(ImageFeed(Images()))), trained(ImageFeed(Images()))) < 2e-6


def test_an_error_between_steps_leaves_the_team_as_it_is() -> None:
    def stop(share: float) -> None:
        raise KeyError("stopped")

    before = team_of(2, CPU)
    with pytest.raises(KeyError):
        train(network(), shared(ImageFeed(Images())), SPEC, runtime=RUNTIME, seed=0, on_step=stop)
    assert team_of(2, CPU) is before
    assert apart(trained(shared(ImageFeed(Images()))), trained(ImageFeed(Images()))) < 2e-6


def test_a_network_that_can_not_be_sent_is_refused() -> None:
    model = network()
    model[0].register_forward_hook(lambda module, args, output: output)
    with pytest.raises(NetworkError, match="can't be pickled, but it can't be sent to them"):
        train(model, shared(ImageFeed(Images())), SPEC, runtime=RUNTIME, seed=0)


def test_members_leave_with_their_parent() -> None:
    code = "import os, signal, torch\nfrom autoprune.engine.training.teams import team_of\n"
    code += "team = team_of(2, torch.device('cpu'))\nprint(team._members[0][0].pid, flush=True)\n"
    code += "os.kill(os.getpid(), signal.SIGKILL)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    member, deadline = int(done.stdout), time.monotonic() + 20
    while time.monotonic() < deadline and _runs(member):
        time.sleep(0.1)
    assert not _runs(member)


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_shares_are_even() -> None:
    assert [shares_of(n, 4) for n in (8, 9, 11)] == [[2, 2, 2, 2], [3, 2, 2, 2], [3, 3, 3, 2]]
