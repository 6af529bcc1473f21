"""Layers of an exported graph: operators that work with the tensors of one module become a module again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.fx import Node

from autoprune.engine.source.operators import Operator, literal

__all__ = ["Layer", "layer_of"]

_LEAVES = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Layer:
    """A module of torch's own that does what an operator does.

    Args:
        path: Qualified name of the module that the tensors belong to.
        construction: How it is built, such as ``nn.Conv2d(3, 11, 3)``.
        tensors: The nodes of its tensors, by their names in the module.
        asked: What it is called on.
    """

    path: str
    construction: str
    tensors: Mapping[str, Node]
    asked: Node


@dataclass(frozen=True)
class _Call:
    """An operator's arguments by name, and the tensors of the network among them."""

    operator: Operator
    arguments: Mapping[str, Any]
    weights: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]


def layer_of(node: Node, names: Mapping[Node, str], tensors: Mapping[Node, Tensor]) -> Layer | None:
    """The layer that an operator is, or None where it is none or works with tensors of several modules.

    Args:
        node: Of the graph.
        names: Qualified names of the network's parameters and buffers.
        tensors: Their values.
    """
    if getattr(node.target, "_schema", None) is None:
        return None
    one = Operator(node)
    build = _BUILDERS.get(one.name)
    if build is None:
        return None
    given = one.arguments
    own = {leaf: given[leaf] for leaf in _LEAVES if isinstance(given.get(leaf), Node) and given[leaf] in names}
    paths = {names[each].rpartition(".")[0] for each in own.values()}
    if len(paths) != 1 or any(names[each].rpartition(".")[2] != leaf for leaf, each in own.items()):
        return None
    construction = build(_Call(one, given, {leaf: tensors[each] for leaf, each in own.items()}))
    asked = next(given[key] for key in ("input", "self", "indices") if key in given)
    if construction is None or set(node.all_input_nodes) != {asked, *own.values()}:
        return None
    return Layer(paths.pop(), construction, own, asked)


def _built(kind: str, operands: Sequence[Any], options: Mapping[str, tuple[Any, Any]]) -> str:
    """The construction of a module, without the options (value, default) that have their default."""
    told = [f"{name}={literal(value)}" for name, (value, default) in options.items() if value != default]
    return f"nn.{kind}({', '.join([*map(literal, operands), *told])})"


def _even(sizes: Any) -> Any:
    """One number for sizes that are all alike."""
    if isinstance(sizes, str | int):
        return sizes
    return int(sizes[0]) if len(set(sizes)) == 1 else tuple(int(size) for size in sizes)


def _convolution(call: _Call) -> str | None:
    if "weight" not in call.weights:
        return None
    weight, groups = call.weights["weight"], call["groups"]
    is_transposed = "transpose" in call.operator.name
    read, written = (0, 1) if is_transposed else (1, 0)
    channels = {read: weight.shape[read], written: weight.shape[written]}
    channels[1] *= groups  # The second dimension counts those of one conv group.
    kind = f"Conv{'Transpose' * is_transposed}{weight.dim() - 2}d"
    options = {
        "stride": (_even(call["stride"]), 1),
        "padding": (_even(call["padding"]), 0),
        **({"output_padding": (_even(call["output_padding"]), 0)} if is_transposed else {}),
        "dilation": (_even(call["dilation"]), 1),
        "groups": (groups, 1),
        "bias": ("bias" in call.weights, True),
    }
    return _built(kind, [channels[read], channels[written], _even(weight.shape[2:])], options)


def _linear(call: _Call) -> str | None:
    if "weight" not in call.weights:
        return None
    n_out, n_in = call.weights["weight"].shape
    return _built("Linear", [n_in, n_out], {"bias": ("bias" in call.weights, True)})


def _batch_norm(call: _Call) -> str | None:
    if call["training"] or "running_mean" not in call.weights or ("weight" in call.weights) != ("bias" in call.weights):
        return None
    n_dims = max(call["input"].meta["val"].dim() - 2, 1)
    options = {
        "eps": (call["eps"], 1e-5),
        "momentum": (call["momentum"], 0.1),
        "affine": ("weight" in call.weights, True),
    }
    return _built(f"BatchNorm{n_dims}d", [len(call.weights["running_mean"])], options)


def _layer_norm(call: _Call) -> str | None:
    if "weight" not in call.weights:
        return None
    options = {"eps": (call["eps"], 1e-5), "bias": ("bias" in call.weights, True)}
    return _built("LayerNorm", [_even(call["normalized_shape"])], options)


def _group_norm(call: _Call) -> str | None:
    if not {"weight", "bias"} <= call.weights.keys():
        return None
    return _built("GroupNorm", [call["num_groups"], len(call.weights["weight"])], {"eps": (call["eps"], 1e-5)})


def _embedding(call: _Call) -> str | None:
    if "weight" not in call.weights or call["scale_grad_by_freq"] or call["sparse"]:
        return None
    padding = call["padding_idx"]
    return _built("Embedding", call.weights["weight"].shape, {"padding_idx": (padding if padding >= 0 else None, None)})


def _prelu(call: _Call) -> str | None:
    return None if "weight" not in call.weights else _built("PReLU", [call.weights["weight"].numel()], {})


_BUILDERS: dict[str, Callable[[_Call], str | None]] = {
    **{f"conv{n}d": _convolution for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _convolution for n in (1, 2, 3)},
    "linear": _linear,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "embedding": _embedding,
    "prelu": _prelu,
}
