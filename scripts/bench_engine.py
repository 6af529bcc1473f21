"""Times of the engine beside Torch-Pruning used directly, and of the cost model; ratios within one run.

``engine``: from a dense state dict to a pruned network that has answered one batch. *First*: the network is built and
its channel groups are found. *Further*: the next widths of the same network, as a search tries them; Torch-Pruning
prunes in place, so it starts from a copy, and finds its groups again. Both take the same widths, those that
Torch-Pruning chooses for a pruning ratio of 0.5.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
from collections.abc import Callable

import machine
import numpy as np
import torch
import torch_pruning
from torch import Tensor, nn

from autoprune.architectures import build
from autoprune.engine.surgery import cut
from autoprune.engine.tracing import trace
from autoprune.widths import Kept

NETWORKS = ("resnet50", "densenet121", "vgg16_bn")


def dense(name: str) -> nn.Module:
    """The network with fresh weights."""
    return build(f"torchvision/{name}", n_classes=1000, in_channels=3).eval()


def prune_directly(model: nn.Module, x: Tensor) -> nn.Module:
    """Half of the channels of every layer but the classifier, by Torch-Pruning."""
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    pruner = torch_pruning.pruner.BasePruner(
        model,
        x,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[last],
    )
    pruner.step()
    return model


def timed(work: Callable[[], nn.Module]) -> tuple[float, nn.Module]:
    """Seconds, and what came of it."""
    start = time.perf_counter()
    made = work()
    return time.perf_counter() - start, made


def answered(model: nn.Module, x: Tensor) -> nn.Module:
    """The network, after one batch."""
    with torch.no_grad():
        assert model(x).shape == (1, 1000)
    return model


def kept_as(pruned: nn.Module, model: nn.Module, x: Tensor) -> Kept:
    """As many channels of every group as ``pruned`` has."""
    kept = {}
    for group in trace(model, x).groups:
        layer = pruned.get_submodule(group.name)
        width = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        kept[group.name] = np.arange(int(width))  # type: ignore[arg-type]
    return kept


def compare(name: str, *, rounds: int) -> None:
    """Print the ratios of one network."""
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    state = dense(name).state_dict()

    def loaded() -> nn.Module:
        model = dense(name)
        model.load_state_dict(state)
        return model

    skeleton = loaded()
    traced = trace(skeleton, x)
    theirs = prune_directly(loaded(), x)
    kept = kept_as(theirs, skeleton, x)

    def first() -> nn.Module:
        model = loaded()
        return answered(cut(model, trace(model, x).groups, kept), x)

    def reload() -> nn.Module:
        model = copy.deepcopy(skeleton)
        model.load_state_dict(state)
        return model

    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        for kind, work in {
            "first, directly": lambda: answered(prune_directly(loaded(), x), x),
            "first": first,
            "further, directly": lambda: answered(prune_directly(reload(), x), x),
            "further": lambda: answered(cut(skeleton, traced.groups, kept, tensors=state), x),
        }.items():
            seconds, made = timed(work)
            times.setdefault(kind, []).append(seconds)
            shapes = {key: tensor.shape for key, tensor in made.state_dict().items()}
            assert shapes == {key: tensor.shape for key, tensor in theirs.state_dict().items()}, kind
    for kind in ("first", "further"):
        ours, direct = times[kind], times[f"{kind}, directly"]
        ratios = [a / b for a, b in zip(ours, direct, strict=True)]
        print(
            f"{name:<12} {kind:<8} ours {statistics.median(ours):7.3f} s  directly {statistics.median(direct):7.3f} s  "
            f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})",
            flush=True,
        )


def price(*, n_widths: int, rounds: int) -> None:
    """Print how long many width vectors of ResNet-50 take beside building one pruned network."""
    x = torch.zeros(1, 3, 224, 224)
    model = dense("resnet50")
    traced = trace(model, x)
    cost, generator = traced.cost, np.random.default_rng(0)
    widths = np.stack([generator.integers(1, width + 1, size=n_widths) for width in cost.dense], axis=1)
    times: dict[str, list[float]] = {"price": [], "cut": []}
    for _ in range(rounds):
        start = time.perf_counter()
        cost.macs(widths)
        cost.params(widths)
        middle = time.perf_counter()
        cut(model, traced.groups, {g.name: np.arange(w) for g, w in zip(traced.groups, widths[0], strict=True)})
        times["price"].append(middle - start)
        times["cut"].append(time.perf_counter() - middle)
    ratio = statistics.median(a / b for a, b in zip(times["price"], times["cut"], strict=True))
    print(
        f"resnet50     MACs and parameters of {n_widths:,} width vectors of {len(cost.groups)} groups: "
        f"{statistics.median(times['price']):.3f} s, {ratio:.2f} of the time to cut one network"
    )


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("engine", "cost"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    print(
        f"{machine.described()}, {torch.get_num_threads()} thread(s), "
        f"torch {torch.__version__}, torch-pruning {torch_pruning.__version__}, medians of {args.rounds}"
    )
    if args.what == "cost":
        price(n_widths=100_000, rounds=args.rounds)
        return
    for name in args.networks:
        compare(name, rounds=args.rounds)


if __name__ == "__main__":
    main()
