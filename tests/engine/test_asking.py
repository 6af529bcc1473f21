"""How networks are asked, and what becomes of their inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.engine.asking import (
    answers,
    ask,
    drawn_like,
    first_input,
    joined,
    laid,
    moved,
    repeated,
    size_of,
    tensors_of,
)
from autoprune.errors import DataError


class Sum(nn.Module):
    def forward(self, image: Tensor, vector: Tensor | None = None) -> Tensor:
        return image if vector is None else image + vector


@dataclass
class Output:
    logits: Tensor
    hidden: tuple[Tensor, ...]


A, B = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[10.0, 20.0], [30.0, 40.0]])


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [(A, A), ((A,), A), ((A, B), A + B), ({"image": A, "vector": B}, A + B), ({"vector": B, "image": A}, A + B)],
)
def test_a_tensor_a_tuple_and_a_mapping_are_arguments(inputs: Any, expected: Tensor) -> None:
    assert torch.equal(ask(Sum(), inputs), expected)


def test_a_list_is_one_argument() -> None:
    assert ask(nn.Identity(), [A, B]) == [A, B]


def test_only_floats_are_answers() -> None:
    whole = torch.tensor([1, 2])
    for output in ((A, [whole, B]), {"a": A, "b": (whole, B)}, Output(A, (whole, B))):
        assert [tensor.tolist() for tensor in answers(output)] == [A.tolist(), B.tolist()]
    assert len(tensors_of((A, [whole, "text", None, B]))) == 3


def test_the_first_example_is_a_batch_of_one() -> None:
    assert torch.equal(first_input(A), A[:1])
    first = first_input({"image": A, "scale": torch.tensor(2.0), "table": torch.zeros(5, 2)})
    assert [tuple(tensor.shape) for tensor in first.values()] == [(1, 2), (), (5, 2)]
    assert len(first_input([A, B])) == 1


def test_repeated_is_a_batch_again() -> None:
    assert repeated((A, B), 3)[1].tolist() == [[10.0, 20.0]] * 3
    assert len(repeated([A], 3)) == 3


def test_joined_is_along_the_batch() -> None:
    both = joined([{"a": A, "b": B}, {"a": B, "b": A}])
    assert both["a"].tolist() == [*A.tolist(), *B.tolist()]
    assert both["b"].tolist() == [*B.tolist(), *A.tolist()]
    assert joined([[A], [B, A]]) == [A, B, A]


def test_noise_stands_for_numbers_and_tokens_stay() -> None:
    tokens = torch.tensor([[3, 1]])
    noise = drawn_like((torch.zeros(1, 2, dtype=torch.float64), tokens), torch.Generator().manual_seed(0))
    assert torch.equal(noise[0], torch.randn(1, 2, generator=torch.Generator().manual_seed(0)))
    assert noise[1] is tokens


def test_moved_changes_the_type_of_floats_alone() -> None:
    found = moved([A, torch.tensor([1])], torch.device("cpu"), dtype=torch.float64)
    assert [tensor.dtype for tensor in found] == [torch.float64, torch.int64]


def test_only_maps_of_floats_have_a_layout() -> None:
    maps = torch.zeros(2, 3, 4, 4)
    found = laid((maps, A), torch.channels_last)
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    assert not found[0].is_contiguous()
    assert found[1] is A or torch.equal(found[1], A)


def test_the_size_of_a_batch() -> None:
    assert [size_of(each) for each in (A, (torch.tensor(1.0), B), [A, B, A])] == [2, 2, 3]
    with pytest.raises(DataError, match="a batch must hold tensors whose first axis counts examples, but got dict"):
        size_of({"name": "a"})
