"""Tasks of one's own as workloads: loaders, losses, scores, teachers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from autoprune.config import DistillSpec, TrainSpec
from autoprune.engine.tasks import Task, TaskTeacher, TaskWorkload
from autoprune.engine.tasks.structures import example_from, structure_of
from autoprune.engine.training import Runtime, Training, train
from autoprune.errors import ConfigError, DataError, NetworkError

torch.set_num_threads(1)

RUNTIME = Runtime(torch.device("cpu"), "float32", None)


def loader(n: int = 20, *, shuffle: bool = False, batch: int = 4) -> DataLoader[Any]:
    x = torch.arange(float(n))[:, None] / n
    return DataLoader(TensorDataset(x, 2 * x + 1), batch_size=batch, shuffle=shuffle)


def workload(**more: Any) -> TaskWorkload:
    given = {"kind": "regression", "train": loader(), "validation": loader(8), **more}
    return TaskWorkload(Task(**given), RUNTIME)


def test_it_says_what_it_is() -> None:
    work = workload()
    assert (work.n_examples, work.n_validation, work.described) == (20, 8, "inputs of 1")
    assert work.example.tolist() == [[0.0], [0.05], [0.1], [0.15]] or work.example.shape == (4, 1)
    assert work.record() == {
        "task": {"kind": "regression", "submodule": None, "has_forward": False},
        "example": {"shape": [1, 1], "dtype": "float32"},
    }
    assert workload(example_inputs=torch.zeros(1, 7)).described == "inputs of 7"


def test_what_tells_the_data_from_others() -> None:
    same, named = workload().about, workload(fingerprint="2026").about
    assert same == workload().about
    assert (same[0], named[0]) == ("not told", "2026")
    assert same[1] == named[1] != workload(train=loader(24)).about[1]


def test_a_phase_has_the_loaders_batches() -> None:
    work, spec = workload(train=loader(22)), TrainSpec(epochs=2.5, batch=999)  # 6 batches, the last one of two.
    assert (work.feed().steps_a_pass(spec), work.feed().n_steps(spec)) == (6, 15)
    assert work.examples_in(15, spec) == 55
    seen: list[Any] = []
    read = work.feed().open(spec, 15, generator=torch.Generator())
    seen += [batch[0].flatten().tolist() for batch in read(0, 7)]
    seen += [batch[0].flatten().tolist() for batch in read(7, None)]
    one_pass = [batch[0].flatten().tolist() for batch in loader(22)]
    assert seen == [*one_pass, *one_pass, *one_pass[:3]]
    assert [b[0].flatten().tolist() for b in work.feed().open(spec, 15, generator=torch.Generator())(13, None)] == seen[
        13:
    ]


class Drawn(Dataset[tuple[Tensor, Tensor]]):
    """Examples that are drawn when they are asked for, by the generators that people use."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        values = [float(np.random.rand()), random.gauss(0, 1), float(torch.rand(()))]  # noqa: NPY002
        return torch.tensor(values), torch.tensor([values[0] + index])


def drawn_by_all() -> list[float]:
    return [float(np.random.rand()), random.random(), float(torch.rand(()))]  # noqa: NPY002


def start_all(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)


def _ask(*_: Any, **__: Any) -> None:
    raise AssertionError("others were asked")


def test_scores_wait_for_no_other_process_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchmetrics asks all processes of a group for their share, where there is a group."""

    metric = torchmetrics.MeanSquaredError(squared=False, distributed_available_fn=lambda: True, dist_sync_fn=_ask)
    assert workload(metric=metric).score(model := nn.Linear(1, 1)) == workload().score(model)
    monkeypatch.setattr("torchmetrics.metric.jit_distributed_available", lambda: True)
    monkeypatch.setattr("torchmetrics.metric.gather_all_tensors", _ask)
    assert workload().score(model) > 0


def test_what_data_draw_comes_from_the_seed_alone() -> None:
    """By torch, NumPy or Python; the caller's generators go on as if nothing had been drawn."""

    def run() -> list[list[float]]:
        work = workload(train=DataLoader(Drawn(), batch_size=4, shuffle=True), validation=DataLoader(Drawn()))
        read = work.feed().open(TrainSpec(epochs=2), 6, generator=torch.Generator().manual_seed(1))
        seen = [batch[0].flatten().tolist() for batch in read(0, None)]
        seen += [inputs.flatten().tolist() for inputs, _ in work.samples(8, seed=3)]
        return [*seen, [work.score(model)]]

    model = nn.Linear(3, 1)
    found, expected = [], []
    for seed in (1, 2):
        start_all(seed)
        expected.append(drawn_by_all())
        start_all(seed)
        found.append(run())
        assert drawn_by_all() == expected[-1]
    assert found[0] == found[1]
    assert len({tuple(batch) for batch in found[0]}) == len(found[0])


@pytest.mark.parametrize("pause", [1, 3, 5])
def test_a_phase_that_is_taken_up_goes_on_as_if_it_had_not_been_left(pause: int) -> None:
    """In the middle of a pass, with a network that draws as well."""

    def begin() -> tuple[nn.Module, Training]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        work = workload(train=DataLoader(Drawn(), batch_size=4, shuffle=True))
        return model, Training(model, work.feed(), TrainSpec(epochs=2), runtime=RUNTIME, seed=5)

    whole, training = begin()
    training.run()
    _, first = begin()
    first.run(until=pause)
    saved = first.state_dict()
    rest, second = begin()
    second.load_state_dict(saved)
    start_all(9)
    second.run()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), rest.parameters(), strict=True))


def test_a_state_of_an_earlier_version_is_taken_up() -> None:
    """It holds torch's generators alone."""
    model = nn.Linear(1, 1)
    training = Training(model, workload().feed(), TrainSpec(epochs=2), runtime=RUNTIME, seed=5)
    training.run(until=2)
    saved = {
        name: each for name, each in training.state_dict().items() if name not in ("random:numpy", "random:python")
    }
    training.load_state_dict(saved)
    training.run()
    assert training.step == training.n_steps


def test_a_line_is_learnt() -> None:
    torch.manual_seed(0)
    model, work = nn.Linear(1, 1), workload(train=loader(64, shuffle=True, batch=8))
    before = work.score(model)
    spec = TrainSpec(epochs=60, learning_rate=0.1, weight_decay=0.0)
    train(model, work.feed(), spec, runtime=RUNTIME, seed=0)
    assert before > 0.5 > 0.02 > work.score(model)
    assert [model.weight.item(), model.bias.item()] == pytest.approx([2, 1], abs=0.05)


def test_the_order_of_a_loader_follows_from_the_seed() -> None:
    def trained(seed: int) -> float:
        torch.manual_seed(7)
        model = nn.Linear(1, 1)
        work = workload(train=loader(64, shuffle=True))
        train(model, work.feed(), TrainSpec(epochs=1, learning_rate=0.05), runtime=RUNTIME, seed=seed)
        return model.weight.item()

    state = torch.get_rng_state()
    assert trained(0) == trained(0) != trained(1)
    torch.set_rng_state(state)
    samples = workload(train=loader(64, shuffle=True)).samples(8, seed=3)
    first, again = ([inputs.tolist() for inputs, _ in samples] for _ in range(2))
    assert first == again
    assert len(first) == 2
    assert torch.equal(torch.get_rng_state(), state)  # Nobody else's random numbers are used up.


def test_a_paused_phase_passes_over_what_was_seen() -> None:
    def phase(model: nn.Module) -> Training:
        return Training(model, workload().feed(), TrainSpec(epochs=2, learning_rate=0.05), runtime=RUNTIME, seed=0)

    torch.manual_seed(0)
    whole = nn.Linear(1, 1)
    begun, resumed = (nn.Linear(1, 1) for _ in range(2))
    begun.load_state_dict(whole.state_dict())
    phase(whole).run()
    first = phase(begun)
    first.run(until=4)
    second = phase(resumed)
    second.load_state_dict(first.state_dict())
    second.run()
    assert torch.equal(whole.weight, resumed.weight)


def test_own_loss_metric_and_evaluation() -> None:
    def loss(model: nn.Module, batch: Any) -> dict[str, Tensor]:
        x, y = batch
        return {"apart": (model(x) - y).abs().mean(), "size": model.weight.square().sum(), "n": torch.tensor([1.0])}

    class Worst:
        def __init__(self) -> None:
            self.reset()

        def update(self, preds: Tensor, target: Tensor) -> None:
            self.worst = max(self.worst, float((preds - target).abs().max()))

        def compute(self) -> dict[str, float]:
            return {"worst": self.worst, "other": 7.0}

        def reset(self) -> None:
            self.worst = 0.0

    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, 2.0)
    nn.init.constant_(model.bias, 0.0)
    named = {"metric_name": "worst", "direction": "minimize"}
    for metric in (Worst, Worst(), lambda: Worst()):
        work = workload(loss=loss, metric=metric, **named)
        assert work.score(model) == work.score(model) == pytest.approx(1.0)
        assert work.train_once(model).item() == pytest.approx(1.0 + 4.0 + 1.0)
    work = workload(evaluate=lambda model, batches: float(model.bias) + sum(1 for _ in batches), **named)
    assert work.score(model) == 2.0


def test_the_teachers_share() -> None:
    student, teacher = nn.Linear(1, 1), nn.Linear(1, 1)
    for layer, weight, bias in ((student, 2.0, 0.0), (teacher, 2.0, 3.0)):
        nn.init.constant_(layer.weight, weight)
        nn.init.constant_(layer.bias, bias)
    work = workload()
    told = TaskTeacher(DistillSpec(weight=0.25), teacher)
    # Off by 1 from the targets, by 3 from the teacher, squared.
    assert work.train_once(student, teacher=told).item() == pytest.approx(0.75 * 1 + 0.25 * 9)
    own = workload(distill=lambda mine, theirs: (mine - theirs).abs().mean())
    assert own.train_once(student, teacher=told).item() == pytest.approx(0.75 * 1 + 0.25 * 3)


def test_a_submodule_is_run_with_all_that_lies_before_it() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part, self.after = nn.Linear(1, 3), nn.Linear(3, 1)

        def forward(self, x: Tensor) -> Tensor:
            answer: Tensor = self.after(self.part(x + 1))
            return answer

    model, x = Whole(), torch.ones(2, 1)
    assert torch.equal(workload(submodule="part").forward(model, x), model.part(x + 1))
    assert len(model.part._forward_hooks) == 0
    with pytest.raises(NetworkError, match=r"it has none of the name 'prat'\. Its parts are part, after"):
        workload(submodule="prat").forward(model, x)
    with pytest.raises(NetworkError, match="must run when the network runs, but did not"):
        workload(submodule="part", forward=lambda model, x: x).forward(model, x)


def test_test_data() -> None:
    with pytest.raises(ConfigError, match="the Task must have `test`"):
        workload().test()
    work = workload(test=loader(12))
    test = work.test()
    assert (test.n_examples, test.fingerprint) == (12, work.test().fingerprint)
    assert test.fingerprint != workload(test=loader(16)).test().fingerprint
    same = loader()
    with pytest.raises(DataError, match="`test` must be data of its own"):
        workload(train=same, test=same).test()


@pytest.mark.parametrize(
    "inputs",
    [
        torch.zeros(1, 3, 4), (torch.zeros(1, 2), torch.zeros(1, 3, dtype=torch.int64)),
        {"a": torch.zeros(1, 2), "n": 3}, [torch.zeros(3, 4, 5)],
        (torch.zeros(1, 2), {"b": [torch.zeros(2)], "c": None}),
    ],
)  # fmt: skip
def test_the_structure_of_inputs_is_told_and_read_back(inputs: Any) -> None:
    import json

    again = example_from(json.loads(json.dumps(structure_of(inputs))))
    assert structure_of(again) == structure_of(inputs)
    assert type(again) is type(inputs)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([(torch.tensor([float(i)]), torch.tensor([float(i)])) for i in range(6)])


def test_streams_are_counted_once() -> None:
    stream: DataLoader[Any] = DataLoader(Stream(), batch_size=2)
    work = workload(train=stream)
    assert (work.train.n_batches, work.n_examples) == (3, 6)


def once() -> Iterator[Any]:
    yield torch.zeros(2, 1), torch.zeros(2, 1)


class Broken:
    def __iter__(self) -> Iterator[Any]:
        yield torch.zeros(2, 1), torch.zeros(2, 1)
        raise OSError("disk gone\nsee log")


@pytest.mark.parametrize(
    ("more", "error", "told"),
    [
        ({"train": []}, DataError, "Task: `train` must give at least one batch, but is empty"),
        ({"train": once()}, DataError, "`train` must give its batches again .*, but is a generator, which is exh"),
        ({"validation": 3}, DataError, "`validation` must be something to go through, batch by batch, but is a int"),
        ({"validation": [("a", "b")]}, DataError, "`validation` must give batches that hold tensors, but gave a tuple"),
        ({"train": Broken()}, DataError, "`train` must give batches, but failed at batch 1: OSError: disk gone. Mend"),
        ({"kind": "regresion"}, ConfigError, "there is no kind of task 'regresion'; did you mean 'regression'"),
        ({"metric": 1, "evaluate": 2}, ConfigError, "`metric` and `evaluate` both score networks"),
        ({"metric_name": "mae"}, ConfigError, "`metric_name` = 'mae' needs `direction`"),
        ({"direction": "down"}, ConfigError, '`direction` must be "maximize" or "minimize", but got \'down\''),
    ],
)  # fmt: skip
def test_a_wrong_task_is_told_at_once(more: dict[str, Any], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        workload(**more)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (None, "gave None"),
        ("good", "gave 'good'"),
        (float("nan"), "gave nan"),
        ({"rsme": 1.0}, "gave None"),
        (True, "True"),
    ],
)
def test_a_score_must_be_a_number(found: Any, told: str) -> None:
    with pytest.raises(DataError, match=f"`evaluate` must give a finite number, rmse, but {told}|but gave {told}"):
        workload(evaluate=lambda model, batches: found).score(nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (lambda model, batch: model(batch[0]), r"must be a scalar tensor, .* but is a tensor of shape \(4, 1\)"),
        (lambda model, batch: 3.0, "but is float"),
        (lambda model, batch: {}, "but is NoneType"),
    ],
)
def test_a_loss_must_be_a_scalar(loss: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        workload(loss=loss).train_once(nn.Linear(1, 1))
