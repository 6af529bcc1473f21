"""A user's Task as a workload."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from autoprune.config import DistillSpec, TrainSpec, digest
from autoprune.engine.asking import answers, first_input, moved, tensors_of
from autoprune.engine.contracts import Batches
from autoprune.engine.tasks.kinds import KINDS, Losses, Metric
from autoprune.engine.tasks.loaders import Passes, opened
from autoprune.engine.tasks.running import core_of, whole_of
from autoprune.engine.tasks.structures import check_alike, structure_of
from autoprune.engine.tasks.task import Task
from autoprune.engine.tasks.workload import TestData, Workload
from autoprune.engine.training import Feed, Randomness, Reader, Runtime, recalibrate, seeded
from autoprune.errors import AutopruneError, ConfigError, DataError, first_line

__all__ = ["TaskTeacher", "TaskWorkload", "total"]


class TaskTeacher:
    """The dense network, asked about every batch.

    Args:
        spec: Weight and temperature.
        network: On the runtime's device, in evaluation mode.
    """

    def __init__(self, spec: DistillSpec, network: nn.Module) -> None:
        self.spec, self.network = spec, network


def _alone() -> bool:
    """Whether torchmetrics is to ask other processes: one scores all, and would wait for others that train."""
    return False


class TaskWorkload(Workload):
    """Batches of a user's loaders.

    Args:
        task: The user's.
        runtime: Where and how networks run; it normalises nothing.

    Raises:
        DataError: A loader is empty, can be gone through only once, or gives no tensors.
    """

    def __init__(self, task: Task, runtime: Runtime) -> None:
        self.task, self.kind, self.runtime = task, KINDS[task.kind], runtime
        self.train = opened(task.train, "train", kind=self.kind)
        self.validation = opened(task.validation, "validation", kind=self.kind)
        self.n_examples, self.n_validation = self.train.n_examples, self.validation.n_examples
        self.forward = core_of(self.kind, task.forward, task.submodule)
        self.whole = whole_of(self.kind, task.forward)

    def run_by(self, runtime: Runtime) -> Self:
        """The same task; its loaders are not looked at again."""
        other = copy.copy(self)
        other.runtime = runtime
        return other

    # -- what it says of itself -------------------------------------------------------------------------------------

    @property
    def about(self) -> list[Any]:
        """What the task says of its data, and a hash of its kind and of how many batches and examples there are."""
        sizes = [(each.n_batches, each.n_examples) for each in (self.train, self.validation)]
        return [self.task.fingerprint or "not told", digest(self.task.kind, sizes)]

    @property
    def example(self) -> Any:
        """The user's, or the inputs of the first training batch."""
        given = self.task.example_inputs
        return moved(self.kind.parts(self.train.first)[0] if given is None else given, torch.device("cpu"))

    @property
    def described(self) -> str:
        """Shapes of all inputs."""
        one = first_input(self.example)
        shapes = [tensor.shape if isinstance(one, list) else tensor.shape[1:] for tensor in tensors_of(one)]
        return f"inputs of {' and '.join(' x '.join(map(str, shape)) or 'one number' for shape in shapes)}"

    def record(self) -> dict[str, Any]:
        """The kind, the part to prune, and the structure of the inputs."""
        return {
            "task": {
                "kind": self.task.kind,
                "submodule": self.task.submodule,
                "has_forward": self.task.forward is not None,
            },
            "example": structure_of(first_input(self.example)),
        }

    # -- running networks -------------------------------------------------------------------------------------------

    def bring(self, batch: Any) -> tuple[Any, Any]:
        """Inputs and targets of a batch, on the device."""
        return self.kind.parts(self.runtime.bring(batch))

    def loss_of(self, model: nn.Module, batch: Any, spec: TrainSpec, *, teacher: TaskTeacher | None = None) -> Tensor:
        """The loss of a network in training mode on a batch that is on the device."""
        task, (inputs, targets) = self.task, self.kind.parts(batch)
        with self.runtime.autocast():
            output = None
            if task.loss is not None:
                loss = total(task.loss(model, batch))
            else:
                output = self._trained(model, inputs, targets)
                loss = total(self.kind.loss(output, targets, spec))
            if teacher is None:
                return loss
            output = self.whole(model, inputs) if output is None else output
            with torch.no_grad():
                said = self.whole(teacher.network, inputs)
            apart = self.apart(output, said, teacher.spec)
        return (1 - teacher.spec.weight) * loss + teacher.spec.weight * apart

    def train_once(self, model: nn.Module, *, teacher: TaskTeacher | None = None) -> Tensor:
        """The loss of a network in training mode, which is placed, on the first training batch."""
        self.runtime.place(model)
        return self.loss_of(model, self.runtime.bring(self.train.first), TrainSpec(), teacher=teacher)

    def apart(self, student: Any, teacher: Any, spec: DistillSpec) -> Tensor:
        """How far a student's answer is from the teacher's.

        Raises:
            DataError: They can't be compared, or what is said of them is no scalar.
        """
        shapes = [[tuple(tensor.shape) for tensor in answers(each)] for each in (student, teacher)]
        try:
            if self.task.distill is not None:
                return total(self.task.distill(student, teacher))
            return self.kind.distill(student, teacher, temperature=spec.temperature)
        except AutopruneError:
            raise
        except Exception as error:
            raise DataError(
                f"`distill` must compare the answers of student and teacher, of shapes {shapes[0]} and {shapes[1]}, "
                f"but failed: {type(error).__name__}: {first_line(error)}. Give the Task `distill`, a function of "
                "both, or drop `distill` from the recipe."
            ) from error

    def _trained(self, model: nn.Module, inputs: Any, targets: Any) -> Any:
        if self.task.forward is not None:
            return self.task.forward(model, inputs)
        return self.kind.trained(model, inputs, targets)

    # -- the contract -----------------------------------------------------------------------------------------------

    def comparison(self) -> Any:
        """Inputs of the first validation batch."""
        return self.bring(self.validation.first)[0]

    def feed(self, teacher: Any = None) -> Feed:
        """The training batches."""
        return _LoaderFeed(self, teacher)

    def samples(self, n_examples: int, *, seed: int) -> Batches:
        """The first training batches; which these are is the loader's to say, but it draws from the same seed."""
        return _LoaderSamples(self, n_examples, seed)

    def recalibrate(self, model: nn.Module, *, n_examples: int, seed: int) -> None:
        """On the first training batches, by the whole network."""
        samples = self.samples(n_examples, seed=seed)
        recalibrate(model, samples, runtime=self.runtime, forward=self.whole)

    def score(self, model: nn.Module) -> float:
        """The metric on the validation batches."""
        return self.score_on(model, self.validation)

    def score_on(self, model: nn.Module, passes: Passes) -> float:
        """The metric on all batches of a loader.

        Raises:
            DataError: It gives no number.
        """
        self.runtime.place(model).eval()
        with seeded(0), torch.no_grad():  # For loaders that draw.
            if self.task.evaluate is not None:
                with self.runtime.autocast():
                    found = self.task.evaluate(model, passes.loader)
                return self._number(found, "`evaluate`")
            return self._number(self._measured(model, passes), "`metric`")

    def _measured(self, model: nn.Module, passes: Passes) -> Any:
        metric: Metric | None = None
        for batch in passes.once():
            inputs, targets = self.bring(batch)
            with self.runtime.autocast():
                output = self.whole(model, inputs)
            metric = self._fresh_metric(output) if metric is None else metric
            if self.task.metric is None:
                self.kind.measure(metric, output, targets)
            else:
                metric.update(output, targets)
        assert metric is not None
        return metric.compute()

    def _fresh_metric(self, output: Any) -> Metric:
        """The metric without any batch; the task's own one, or what makes one, stands before the kind's."""
        given: Any = self.task.metric
        makes_one = isinstance(given, type) or not hasattr(given, "update")
        metric: Metric = self.kind.metric(output) if given is None else given() if makes_one else given
        metric.reset()
        if isinstance(metric, nn.Module):
            metric.to(self.runtime.device)
        if hasattr(metric, "distributed_available_fn"):
            metric.distributed_available_fn = _alone
        return metric

    def _number(self, found: Any, what: str) -> float:
        name = self.task.score_name
        if isinstance(found, Mapping):
            found = found.get(name)
        value = found.item() if isinstance(found, Tensor) and found.numel() == 1 else found
        if isinstance(value, bool) or not isinstance(value, int | float) or not torch.isfinite(torch.tensor(value)):
            raise DataError(
                f"Task: {what} must give a finite number, {name}, but gave {value!r}. Let it return a number, or a "
                f"mapping that holds {name!r}."
            )
        return float(value)

    def test(self) -> TestData:
        """The test batches."""
        if self.task.test is None:
            raise ConfigError(
                "the Task must have `test`, batches to be scored on, but has none. Add it; the study goes on with it."
            )
        passes = opened(self.task.test, "test", kind=self.kind)
        if any(self.task.test is other for other in (self.task.train, self.task.validation)):
            raise DataError("Task: `test` must be data of its own, but is the loader that was trained or chosen on.")
        check_alike(self.kind.parts(passes.first)[0], self.example, name="test")
        print_ = digest(self.about[0], passes.n_batches, passes.n_examples)
        return TestData(print_, passes.n_examples, lambda model: self.score_on(model, passes))

    def examples_in(self, n_steps: int, recipe: TrainSpec) -> int:
        """By the mean size of a batch."""
        return round(n_steps * self.n_examples / self.train.n_batches)


class _LoaderFeed(Feed):
    def __init__(self, work: TaskWorkload, teacher: TaskTeacher | None) -> None:
        self._work, self._teacher = work, teacher

    def steps_a_pass(self, spec: TrainSpec) -> int:
        """Batches of the loader, whatever the recipe says of their size."""
        return self._work.train.n_batches

    def n_steps(self, spec: TrainSpec) -> int:
        """Batches of as many passes."""
        return round(spec.epochs * self._work.train.n_batches)

    def open(self, spec: TrainSpec, n_steps: int, *, generator: torch.Generator) -> Reader:
        """The loader draws its order itself, by global generators that nothing else draws from while it does."""
        passes = self._work.train
        seed = int(torch.randint(2**62, (), generator=generator))

        def begun() -> tuple[Randomness, Iterator[Any]]:
            return Randomness(torch.device("cpu"), seed), passes.again()

        drawn, batches, place = *begun(), 0

        def read(start: int, stop: int | None) -> Iterator[Any]:
            nonlocal drawn, batches, place
            if start < place:
                drawn, batches, place = *begun(), 0
            end = n_steps if stop is None else min(stop, n_steps)
            while place < end:
                with drawn.in_use():
                    batch = next(batches)
                place += 1
                if place > start:  # Taken up elsewhere: what was trained on already is passed over.
                    yield batch

        return read

    def loss(
        self, model: nn.Module, batch: Any, spec: TrainSpec, *, runtime: Runtime, turn: int, generator: torch.Generator
    ) -> Tensor:
        """The task's, with the teacher's share."""
        return self._work.loss_of(model, runtime.bring(batch), spec, teacher=self._teacher).float()


class _LoaderSamples:
    """A few training batches; those of a loader that shuffles are the same for the same seed."""

    def __init__(self, work: TaskWorkload, n_examples: int, seed: int) -> None:
        self._work, self._seed = work, seed
        self._n_batches = max(1, round(n_examples * work.train.n_batches / work.n_examples))

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Inputs and the whole batch, of which the loss is told."""
        with seeded(self._seed):
            batches = list(itertools.islice(self._work.train.once(), self._n_batches))
        for batch in batches:
            brought = self._work.runtime.bring(batch)
            yield self._work.kind.parts(brought)[0], brought

    def loss(self, model: nn.Module, inputs: Any, targets: Any) -> Tensor:
        """The task's loss on a batch."""
        return self._work.loss_of(model, targets, TrainSpec())


def total(losses: Losses | Any) -> Tensor:
    """The loss itself, or the sum of those by name.

    Raises:
        DataError: It is no scalar tensor.
    """
    if isinstance(losses, Mapping):
        parts = [loss for loss in losses.values() if isinstance(loss, Tensor)]
        losses = torch.stack([part.float().reshape(()) for part in parts if part.numel() == 1]).sum() if parts else None
    if not isinstance(losses, Tensor) or losses.numel() != 1:
        told = f"a tensor of shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else f"{type(losses).__name__}"
        raise DataError(
            f"Task: the loss must be a scalar tensor, or scalars by name, but is {told}. Take the mean over the batch."
        )
    return losses.reshape(())
