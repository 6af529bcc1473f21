"""Tries a network on a user's Task before anything is computed: its answers, its loss, its score, its teacher."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.config import DistillSpec
from autoprune.engine.tasks import Passes, TaskTeacher, TaskWorkload, check_alike
from autoprune.engine.training import Randomness, Runtime
from autoprune.errors import AutopruneError, DataError, NetworkError, first_line
from autoprune.pipeline.answers import answers_of
from autoprune.pipeline.probing import copied, take_gradients
from autoprune.pipeline.witness import failing

__all__ = ["TaskProbe"]

_log = logging.getLogger(__name__)

_AGAIN = 1e-6  # Of the largest number: what answers to the same inputs may move by.


class TaskProbe:
    """Shows a network the first batches of a task, in copies of it.

    Args:
        network: With its weights; left as it is.
        work: The task.
        learns: Whether pruned networks are to learn from the dense one.
    """

    def __init__(self, network: nn.Module, work: TaskWorkload, *, learns: bool) -> None:
        self._network, self._work, self._learns = network, work, learns

    def settled(self) -> TaskWorkload:
        """The task, run in its runtime's layout, or in contiguous where the network fails on that.

        Raises:
            DataError: Batches, loss, metric or teacher are not what they must be.
            NetworkError: The network can't be run or trained.
        """
        work = self._work
        for passes in (work.train, work.validation):
            check_alike(work.kind.parts(passes.first)[0], work.example, name=passes.name)
        contiguous = dataclasses.replace(work.runtime, memory_format=torch.contiguous_format)
        plain = work.run_by(contiguous)
        with Randomness(plain.runtime.device, 0).in_use():
            self._evaluate(plain)
            self._train(plain)
            if self._learns:
                self._learn(plain)
            if work.runtime == contiguous:
                return plain
            try:
                model = self._copy(work.runtime)
                work.score_on(model, _first_of(work.validation))
                work.train_once(model.train())
            except Exception as error:  # Whatever `forward` raises: the same has just worked on contiguous maps.
                _log.warning(
                    "the network runs on contiguous maps, since it fails on channels-last ones, which are faster: %s. "
                    "Write `reshape` or `flatten` in place of `view` to have it run on these",
                    first_line(error),
                )
                return plain
        return work

    def _copy(self, runtime: Runtime) -> nn.Module:
        return runtime.place(copied(self._network))

    def _evaluate(self, work: TaskWorkload) -> None:
        model, inputs = self._copy(work.runtime).eval(), work.bring(work.validation.first)[0]
        found = self._run(model, work, inputs)
        if not found:
            raise NetworkError(
                "the network must answer with a tensor of floats, or with tensors in a tuple or mapping, but gave "
                "none. Give the Task `forward`, which returns them."
            )
        if not all(bool(answer.isfinite().all()) for answer in found):
            raise NetworkError(
                "the network must answer with finite numbers, but does not on the first validation batch. Its weights "
                "are damaged, or the data are not scaled."
            )
        again = self._run(model, work, inputs)
        largest = max(float(answer.abs().max()) for answer in found if answer.numel())
        apart = max(float((one - other).abs().max()) for one, other in zip(found, again, strict=True) if one.numel())
        if apart > _AGAIN * max(largest, 1e-12):
            raise NetworkError(
                f"the network must answer the same inputs alike each time in evaluation mode, but moves by "
                f"{apart:.1e}. Draw at random in training mode only."
            )
        try:
            work.score_on(model, _first_of(work.validation))
        except AutopruneError:
            raise
        except Exception as error:
            raise DataError(
                f"Task: {work.task.score_name} must be a number for the first validation batch, but its metric raised "
                f"{type(error).__name__}: {first_line(error)}. Give a `metric` that fits what the network answers, or "
                "`evaluate`."
            ) from error

    def _run(self, model: nn.Module, work: TaskWorkload, inputs: Any) -> list[Tensor]:
        try:
            return answers_of(model, inputs, work.forward)
        except AutopruneError:
            raise
        except Exception as error:  # The network is a user's.
            where = failing(model, lambda: work.forward(model, inputs))
            raise DataError(
                f"the network must accept the inputs of the first validation batch, {work.described}, but failed on "
                f"them: {first_line(error)} ({where}). Give the Task `forward`, or batches of its own form."
            ) from error

    def _train(self, work: TaskWorkload) -> None:
        model = self._copy(work.runtime).train()
        try:
            loss = work.train_once(model)
        except AutopruneError:
            raise
        except Exception as error:
            where = failing(model, lambda: work.train_once(model))
            raise DataError(
                f"Task: the loss must be computed on the first training batch, but that fails: {type(error).__name__}: "
                f"{first_line(error)} ({where}). Give the Task `loss`, a function of network and batch, or batches "
                f"that fit a task of the kind {work.task.kind!r}."
            ) from error
        if not bool(loss.isfinite()):
            raise DataError(
                f"Task: the loss must be a finite number, but is {loss.item()} on the first training batch. Scale the "
                "data, or correct the loss."
            )
        if not any(parameter.requires_grad for parameter in model.parameters()):
            return  # Whether something has to train depends on the recipe; who trains it says so.
        if not loss.requires_grad:
            raise DataError(
                "Task: the loss must be differentiable, but depends on no weight of the network in a way that torch "
                "follows. Do not `detach` or leave torch (`.item()`, numpy) in `loss`."
            )
        take_gradients(loss)

    def _learn(self, work: TaskWorkload) -> None:
        model = self._copy(work.runtime).train()
        with torch.no_grad():
            work.train_once(model, teacher=TaskTeacher(DistillSpec(), self._copy(work.runtime).eval()))


def _first_of(passes: Passes) -> Passes:
    """A loader of the first batch alone."""
    return Passes([passes.first], passes.name, 1, 1, passes.first)
