"""How fast a worker trains in several precisions and layouts, at several widths, compiled; timed for a few seconds."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import logging
import statistics
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.config import LAYOUTS, PRECISIONS, Numerics, SettingSpec, TrainSpec
from autoprune.engine.surgery import cut
from autoprune.engine.tasks import Workload
from autoprune.engine.training import Feed, Reader, Runtime, Training
from autoprune.errors import first_line
from autoprune.pipeline.calibration import now
from autoprune.pipeline.workbench import Workbench, open_workbench

__all__ = ["numerics_here", "time_compiled", "time_multiples", "time_numerics"]

_log = logging.getLogger(__name__)

_STEP_S = 0.5  # What a step on images is to take at most; longer ones tell nothing more.
_TRIED_BATCH = 16
_WITHOUT_END = 10**9
_TIMED_S = 2.5  # For one network, after each was run once.
_MOST_ROUNDS = 8
_FAR_BEHIND = 1.5  # Times the fastest: timed once more, it would not come near it.
_MULTIPLES = (1, 4, 8, 16)
_KEPT = 0.6  # Of the channels, rounded to odd widths, as most pruned networks have them.

K = TypeVar("K", bound=Hashable)


def numerics_here(setting: SettingSpec) -> list[Numerics]:
    """What a study can be computed in on this worker's device, the usual first."""
    device = open_workbench(setting).runtime.device
    layouts = LAYOUTS if setting.layout is None else (setting.layout,)
    precisions = [each for each in PRECISIONS if each != "float16" or device.type != "cpu"]
    return [Numerics(precision, layout) for precision in precisions for layout in layouts]


def time_numerics(setting: SettingSpec, candidates: Iterable[Numerics]) -> dict[Numerics, float]:
    """Seconds of a trained example, the mean of the dense network and of one pruned to odd widths.

    What each costs for loading data is left out; it is the same for all.

    Args:
        setting: Of the study; its fine-tune recipe is timed, with smaller batches where a step would take long.
        candidates: What to compare; those that the network fails in are left out of the result.
    """
    workbench = open_workbench(setting)
    work, recipe, runtime = workbench.work, _recipe(workbench), workbench.runtime
    n_examples, found = work.examples_in(1, recipe), dict.fromkeys(candidates, 0.0)
    pruned, _ = _pruned(workbench, workbench.setting.network.width_multiple)
    for network in (workbench.network, pruned):
        steps = {each: _steps(network, work, recipe, runtime=runtime.computed_in(each)) for each in found}
        seconds = race(steps, clock=now)
        found = {each: found[each] + step_s / n_examples / 2 for each, step_s in seconds.items()}
    return found


def time_multiples(setting: SettingSpec) -> dict[int, float]:
    """Seconds of a trained example for each MAC of a network pruned to multiples of some widths, and to odd ones.

    Args:
        setting: Of the study, in the precision and layout that it keeps. Multiples that no group of its network has
            room for are left out.
    """
    workbench = open_workbench(setting)
    work, recipe = workbench.work, _recipe(workbench)
    widest = max(group.width for group in workbench.traced.groups)
    steps, macs = {}, {}
    for multiple in (each for each in _MULTIPLES if 2 * each <= widest):
        network, macs[multiple] = _pruned(workbench, multiple)
        steps[multiple] = _steps(network, work, recipe, runtime=workbench.runtime)
    n_examples = work.examples_in(1, recipe)
    seconds = race(steps, clock=now)
    return {multiple: step_s / n_examples / macs[multiple] for multiple, step_s in seconds.items()}


def time_compiled(setting: SettingSpec) -> dict[str, float]:
    """Seconds that it takes to compile a pruned network, and of a step without and with that.

    Returns:
        ``compiling``, ``plain`` and ``compiled``; empty where the device is a CPU, or the network can't be compiled.
    """
    workbench = open_workbench(setting)
    if workbench.runtime.device.type == "cpu":
        return {}
    network, _ = _pruned(workbench, setting.network.width_multiple)
    runtime, recipe = workbench.runtime, _recipe(workbench)
    ways = {"plain": None, "compiled": 0}
    steps = {
        way: _steps(network, workbench.work, recipe, runtime=dataclasses.replace(runtime, compiled_from=least))
        for way, least in ways.items()
    }
    start = now()
    next(steps["compiled"])
    compiling_s = now() - start
    return {"compiling": compiling_s, **race(steps, clock=now)}


def race(steps: Mapping[K, Iterator[None]], *, clock: Callable[[], float], timed_s: float = _TIMED_S) -> dict[K, float]:
    """Median seconds of a step of each, taken in turn so that a busy moment of the machine meets all.

    Args:
        steps: Infinite; each is run once before it is timed. One that raises is left out.
        clock: Seconds, rising, read when all that was asked for is computed.
        timed_s: Seconds after which no further round begins. One round is always timed.
    """
    running, seconds = dict(steps), {each: list[float]() for each in steps}
    deadline = 0.0
    for turn in range(_MOST_ROUNDS + 1):
        if turn > 1 and clock() >= deadline:
            break
        for each in list(running):
            start = clock()
            try:
                next(running[each])
            except Exception as error:  # Torch raises anything for what a device or an operator does not do.
                _log.info("the network does not train in %s: %s", each, first_line(error))
                del running[each], seconds[each]
                continue
            if turn:
                seconds[each].append(clock() - start)
        if turn == 0:
            deadline = clock() + timed_s
        elif turn == 1 and running:
            least = min(seconds[each][0] for each in running)
            running = {each: step for each, step in running.items() if seconds[each][0] <= _FAR_BEHIND * least}
    return {each: statistics.median(taken) for each, taken in seconds.items()}


def _pruned(workbench: Workbench, multiple: int) -> tuple[nn.Module, int]:
    """The network pruned to multiples, or to odd widths for 1, and its MACs."""
    kept = {}
    for group in workbench.traced.groups:
        width = round(_KEPT * group.width)
        width = width | 1 if multiple == 1 else width // multiple * multiple
        kept[group.name] = np.arange(min(max(width, 1), group.width))
    macs = workbench.traced.cost.macs({name: len(channels) for name, channels in kept.items()})
    return cut(workbench.network, workbench.traced.groups, kept), int(macs)


def _recipe(workbench: Workbench) -> TrainSpec:
    """The fine-tune recipe, with smaller batches of images where a step would take long."""
    # Slow enough that the untrained network stays finite.
    recipe = dataclasses.replace(workbench.setting.finetune, learning_rate=1e-6, schedule="constant")
    small = dataclasses.replace(recipe, batch=min(recipe.batch, _TRIED_BATCH))
    steps = _steps(workbench.network, workbench.work, small, runtime=workbench.runtime)
    next(steps)
    start = now()
    next(steps)
    fitting = int(small.batch * _STEP_S / max(now() - start, 1e-9))
    return dataclasses.replace(recipe, batch=min(recipe.batch, max(fitting, small.batch)))


def _steps(network: nn.Module, work: Workload, recipe: TrainSpec, *, runtime: Runtime) -> Iterator[None]:
    """Train a copy by one step after another."""
    feed = _OneBatch(work.run_by(runtime).feed(), recipe)
    training = Training(copy.deepcopy(network), feed, recipe, runtime=runtime, seed=0)
    while True:
        training.run(until=training.step + 1)
        yield


class _OneBatch(Feed):
    """The first batch of another feed again and again, so that nothing is timed but what is computed on it."""

    def __init__(self, feed: Feed, recipe: TrainSpec) -> None:
        self._feed = feed
        self._batch = next(iter(feed.open(recipe, 1, generator=torch.Generator().manual_seed(0))(0, 1)))

    def steps_a_pass(self, spec: TrainSpec) -> int:
        """Without an end."""
        return _WITHOUT_END

    def n_steps(self, spec: TrainSpec) -> int:
        """Without an end."""
        return _WITHOUT_END

    def open(self, spec: TrainSpec, n_steps: int, *, generator: torch.Generator) -> Reader:
        """The same batch for each step."""
        return lambda start, stop: itertools.repeat(self._batch, (n_steps if stop is None else stop) - start)

    def loss(
        self, model: nn.Module, batch: Any, spec: TrainSpec, *, runtime: Runtime, turn: int, generator: torch.Generator
    ) -> Tensor:
        """The other feed's."""
        return self._feed.loss(model, batch, spec, runtime=runtime, turn=turn, generator=generator)
