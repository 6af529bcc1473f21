"""One operator of an exported graph, its arguments by name, and how it is written in Python."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from autoprune.engine.watching import base_name, operator_name
from autoprune.errors import ConfigError

__all__ = ["Operator", "arguments_text", "call_text", "literal", "reference"]

_OPERATORS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_OF_NUMBERS: Mapping[Any, str] = {
    operator.add: "+", operator.sub: "-", operator.mul: "*", operator.floordiv: "//", operator.mod: "%",
    operator.truediv: "/",
}  # fmt: skip
# Their arguments are those of the operator, in the same order.
_METHODS = frozenset(
    {
        "abs", "amax", "chunk", "clamp", "clone", "contiguous", "exp", "expand", "flatten", "log", "mean", "narrow",
        "permute", "pow", "repeat", "reshape", "rsqrt", "select", "sigmoid", "split", "split_with_sizes", "sqrt",
        "log_softmax", "softmax", "squeeze", "sum", "t", "tanh", "transpose", "unflatten", "unsqueeze", "view",
    }
)  # fmt: skip
_FUNCTIONS = frozenset({"bmm", "cat", "einsum", "matmul", "roll", "stack"})
_FUNCTIONALS = frozenset(
    {
        "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
        "conv1d", "conv2d", "conv3d", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "linear",
        "max_pool1d", "max_pool2d", "max_pool3d", "mish", "pad", "pixel_shuffle", "pixel_unshuffle", "relu",
        "scaled_dot_product_attention", "selu", "silu", "softplus",
    }
)  # fmt: skip
_IN_PLACE = frozenset({"hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "mish", "relu", "selu", "silu"})
_RESIZED = {"upsample_nearest1d", "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d"}


@dataclass(frozen=True)
class Operator:
    """One operator with its arguments.

    Args:
        node: Where it stands in the graph.
    """

    node: Node

    @property
    def name(self) -> str:
        """Without namespace and overload, such as ``add_``."""
        return operator_name(self.node.target)

    @property
    def base(self) -> str:
        """The name of the form that is not in place."""
        return base_name(self.name)

    @property
    def is_in_place(self) -> bool:
        """Whether it changes its first argument."""
        return self.base != self.name

    @property
    def changes(self) -> bool:
        """Whether it writes into a tensor that is there."""
        return bool(getattr(getattr(self.node.target, "_schema", None), "is_mutable", False))

    @property
    def arguments(self) -> dict[str, Any]:
        """Every argument by its name, the defaults among them."""
        schema = self.node.target._schema  # type: ignore[union-attr]
        given = {one.name: value for one, value in zip(schema.arguments, self.node.args, strict=False)}
        defaults = {one.name: one.default_value for one in schema.arguments if one.has_default_value()}
        return {**defaults, **given, **self.node.kwargs}


def reference(node: Node) -> str:
    """What stands for a node's value until its variable is known; no Python text holds it."""
    return f"\0{node.name}\0"


def literal(value: Any) -> str:
    """An argument as Python text, with references in place of nodes."""
    match value:
        case Node():
            return reference(value)
        case list() | tuple():
            inner = ", ".join(map(literal, value))
            return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' * (len(value) == 1)})"
        case slice():
            return ":".join("" if part is None else literal(part) for part in (value.start, value.stop))
        case float() if not math.isfinite(value):
            return f'float("{value}")'
        case torch.device():
            return repr(str(value))
        case str():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case None | bool() | int() | float() | torch.dtype() | torch.layout() | torch.memory_format():
            return repr(value)
    raise ConfigError(f"source can hold numbers and tensors, but an operator takes {type(value).__name__}.")


def arguments_text(operator_: Operator, *, skip: int = 0) -> str:
    """What stands between the parentheses of a call, without defaults at the end.

    Args:
        operator_: What is called.
        skip: How many of the first arguments stand elsewhere.
    """
    node, schema = operator_.node, operator_.node.target._schema  # type: ignore[union-attr]
    given = list(node.args)
    while given and len(given) > skip:
        last = schema.arguments[len(given) - 1]
        if isinstance(given[-1], Node) or not last.has_default_value() or last.default_value != given[-1]:
            break
        given.pop()
    named = [f"{key}={literal(value)}" for key, value in node.kwargs.items() if value is not None]
    return ", ".join([*map(literal, given[skip:]), *named])


def _first(operator_: Operator) -> str:
    return literal(operator_.node.args[0])


def _dropout(one: Operator) -> str | None:
    if one.arguments["train"]:
        return None
    in_place = ", inplace=True" if one.is_in_place else ""
    return f"F.dropout({_first(one)}, {literal(one.node.args[1])}, training=self.training{in_place})"


def _hardtanh(one: Operator) -> str | None:
    if (one.arguments["min_val"], one.arguments["max_val"]) != (0, 6):
        return None
    return f"F.relu6({_first(one)}{', inplace=True' if one.is_in_place else ''})"


def _resized(one: Operator) -> str | None:
    given = one.arguments
    if "scale_factors" not in given:
        return None
    mode = one.base.removeprefix("upsample_").rstrip("123d")
    how = [f'mode="{mode}"', *(["align_corners=True"] if given.get("align_corners") else [])]
    size, factors = given["output_size"], given["scale_factors"]
    told = f"size={literal(list(size))}" if size is not None else f"scale_factor={literal(list(factors))}"
    return f"F.interpolate({_first(one)}, {told}, {', '.join(how)})"


def _sliced(one: Operator) -> str | None:
    given = one.arguments
    if given["step"] != 1 or given["dim"] < 0:
        return None
    end = None if isinstance(given["end"], int) and given["end"] >= 2**62 else given["end"]
    start = None if given["start"] in (0, None) else given["start"]
    return f"{_first(one)}[{':, ' * given['dim']}{literal(slice(start, end)) or ':'}]"


_SPECIAL: dict[str, Callable[[Operator], str | None]] = {
    "dropout": _dropout,
    "hardtanh": _hardtanh,
    "slice": _sliced,
    **dict.fromkeys(_RESIZED, _resized),
}


def _arithmetic(one: Operator) -> str | None:
    if one.is_in_place or one.node.kwargs or len(one.node.args) != 2:
        return None
    left, right = one.node.args
    return f"{literal(left)} {_OPERATORS[one.base]} {literal(right)}"


def call_text(node: Node) -> str:
    """A node of a graph as a Python expression.

    Raises:
        ConfigError: It is no operator of torch's own.
    """
    target = node.target
    if target is operator.getitem:
        return f"{literal(node.args[0])}[{literal(node.args[1])}]"
    if target in _OF_NUMBERS:
        return f"{literal(node.args[0])} {_OF_NUMBERS[target]} {literal(node.args[1])}"
    schema = getattr(target, "_schema", None)
    if schema is None or not schema.name.startswith("aten::"):
        called = schema.name if schema is not None else getattr(target, "__name__", str(target))
        raise ConfigError(
            f"source is made of torch's own operators, but the network runs {called}, which is control flow or comes "
            "from elsewhere. Export .pt2 or .safetensors."
        )
    one = Operator(node)
    if one.name == "sym_size":
        return f"{_first(one)}.shape[{literal(node.args[1])}]"
    special = _SPECIAL[one.base](one) if one.base in _SPECIAL else None
    if special is None and one.base in _OPERATORS:
        special = _arithmetic(one)
    if special is not None:
        return special
    if one.base in _FUNCTIONALS and one.is_in_place <= (one.base in _IN_PLACE):
        return f"F.{one.base}({arguments_text(one)}{', inplace=True' if one.is_in_place else ''})"
    if one.base in _METHODS or (one.is_in_place and hasattr(torch.Tensor, one.name)):
        return f"{_first(one)}.{one.name}({arguments_text(one, skip=1)})"
    if one.base in _FUNCTIONS:
        return f"torch.{one.base}({arguments_text(one)})"
    return f"torch.ops.{target!s}({arguments_text(one)})"
