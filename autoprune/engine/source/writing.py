"""A network as the source of a module of its own, with its weights by the names that they have there."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Node
from torch.utils._pytree import tree_unflatten

from autoprune.engine.source.layers import Layer, layer_of
from autoprune.engine.source.operators import Operator, call_text, literal, reference
from autoprune.engine.source.statements import statements, with_variables
from autoprune.errors import ConfigError

__all__ = ["Source", "source_of"]

_FILE = '''"""{about}

Written by autoprune; it needs nothing but torch. ``load()`` gives the network with the weights of the ``.pt`` file
beside this one.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


class Network(nn.Module):
    def __init__(self):
        super().__init__()
{init}

    def forward(self, {inputs}):
{forward}


def load(path=Path(__file__).with_suffix(".pt")):
    network = Network()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval()
'''


@dataclass(frozen=True, eq=False)
class Source:
    """A network as a Python file.

    Args:
        text: The file.
        weights: What its ``Network`` loads, by the names there.
    """

    text: str
    weights: Mapping[str, Tensor]


def source_of(program: ExportedProgram, *, about: str) -> Source:
    """Write an exported network as a class of plain layers and operators of torch.

    Convolutions, linear layers, normalisations and embeddings are modules of the widths that they have; other weights
    are parameters and buffers. Everything else is a call in ``forward``, in the order in which it ran.

    Args:
        program: Of a network in evaluation mode.
        about: First sentence of the file.

    Raises:
        ConfigError: It runs what is no operator of torch's, such as control flow, or answers in a structure of its own.
    """
    writer = _Writer(program)
    lines = statements(writer.expressions(), writer.answer())
    forward, before = [], ""
    for block, line in with_variables(lines, writer.inputs):
        if block != before and block:
            forward.append(f"# {block}")
        forward.append(line)
        before = block
    indent = "\n        ".join
    text = _FILE.format(
        about=about,
        init=f"        {indent(writer.constructions)}" if writer.constructions else "        pass",
        inputs=", ".join(writer.inputs),
        forward=f"        {indent(forward)}",
    )
    return Source(text, writer.weights)


class _Writer:
    """Names the weights and layers of a program on the way through its graph."""

    def __init__(self, program: ExportedProgram) -> None:
        self._program, self._graph = program, program.graph
        self.constructions: list[str] = []
        self.weights: dict[str, Tensor] = {}
        self.inputs: list[str] = []
        self._attributes: dict[Node, str] = {}  # of what belongs to no layer
        self._modules: dict[str, str] = {}  # the attributes of layers, by their paths
        self._taken: set[str] = set()
        self._names: dict[Node, str] = {}
        self._tensors: dict[Node, Tensor] = {}
        self._parameters: set[Node] = set()
        self._read_inputs()
        self._layers = self._find_layers()

    def _read_inputs(self) -> None:
        nodes = {node.name: node for node in self._graph.nodes if node.op == "placeholder"}
        state, constants = self._program.state_dict, self._program.constants
        for spec in self._program.graph_signature.input_specs:
            node, target = nodes[spec.arg.name], spec.target
            if spec.kind == InputKind.USER_INPUT:
                if isinstance(node.meta.get("val"), Tensor):
                    self.inputs.append(node.name)
            elif target is not None and isinstance(found := {**constants, **state}.get(target), Tensor):
                self._names[node], self._tensors[node] = target, found
                if spec.kind == InputKind.PARAMETER:
                    self._parameters.add(node)
            else:
                raise ConfigError(
                    f"source can hold tensors, but the network has a constant of another kind, {spec.arg.name}."
                )

    def _find_layers(self) -> dict[Node, Layer]:
        """The layers, by the node that calls them; tensors that are also used otherwise make none."""
        found = {}
        for node in self._graph.nodes:
            layer = layer_of(node, self._names, self._tensors) if node.op == "call_function" else None
            if layer is not None:
                found[node] = layer
        by_path: dict[str, dict[Node, Layer]] = defaultdict(dict)
        for node, layer in found.items():
            by_path[layer.path][node] = layer
        kept: dict[Node, Layer] = {}
        for calls in by_path.values():
            kinds = {(layer.construction, tuple(layer.tensors.items())) for layer in calls.values()}
            readers = {user for layer in calls.values() for tensor in layer.tensors.values() for user in tensor.users}
            if len(kinds) == 1 and readers == calls.keys():
                kept |= calls
        return kept

    def expressions(self) -> Iterable[tuple[Node, str]]:
        """Every operator that counts, in order, with its expression."""
        for node in self._graph.nodes:
            if node.op in ("placeholder", "output"):
                continue
            if node.op != "call_function":
                raise ConfigError(
                    "source is made of torch's own operators, but the network holds a part that torch keeps apart "
                    f"({node.target}), such as control flow. Export .pt2 or .safetensors."
                )
            if _is_check(node) or not (node.users or Operator(node).changes):
                continue
            layer = self._layers.get(node)
            text = call_text(node) if layer is None else f"self.{self._module(layer)}({literal(layer.asked)})"
            yield node, self._own(text, node)

    def answer(self) -> str:
        """What the network answers, in its structure."""
        specs = self._program.graph_signature.output_specs
        if any(spec.kind != OutputKind.USER_OUTPUT for spec in specs):
            raise ConfigError("source is for networks that change nothing when they answer, but this one does.")
        (output,) = (node for node in self._graph.nodes if node.op == "output")
        whole = tree_unflatten([_Leaf(one) for one in output.args[0]], self._program.call_spec.out_spec)
        return self._own(_structure(whole), output)

    def _own(self, text: str, node: Node) -> str:
        """References to the network's own tensors become attributes."""
        for each in node.all_input_nodes:
            if each in self._names and reference(each) in text:
                text = text.replace(reference(each), f"self.{self._attribute(each)}")
        return text

    def _attribute(self, node: Node) -> str:
        """The attribute that holds a tensor that belongs to no layer."""
        if node not in self._attributes:
            self._attributes[node] = name = self._free(self._names[node])
            tensor = self._tensors[node]
            dtype = "" if tensor.is_floating_point() else f", dtype={tensor.dtype}"
            empty = f"torch.empty({literal(list(tensor.shape))}{dtype})"
            is_parameter = node in self._parameters
            self.constructions.append(
                f"self.{name} = nn.Parameter({empty})" if is_parameter else f'self.register_buffer("{name}", {empty})'
            )
            self.weights[name] = tensor.detach().clone()
        return self._attributes[node]

    def _module(self, layer: Layer) -> str:
        """The attribute that holds a layer."""
        if layer.path not in self._modules:
            self._modules[layer.path] = name = self._free(layer.path or "layer")
            self.constructions.append(f"self.{name} = {layer.construction}")
            for leaf, node in layer.tensors.items():
                self.weights[f"{name}.{leaf}"] = self._tensors[node].detach().clone()
            if "running_mean" in layer.tensors:  # No operator reads how many batches these were made of.
                counted = self._program.state_dict.get(f"{layer.path}.num_batches_tracked".lstrip("."))
                n_batches = int(counted) if isinstance(counted, Tensor) else 0
                self.weights[f"{name}.num_batches_tracked"] = torch.tensor(n_batches)
        return self._modules[layer.path]

    def _free(self, path: str) -> str:
        name = re.sub(r"\W", "_", path)
        name = name if name.isidentifier() else f"_{name}"
        while name in self._taken or hasattr(nn.Module(), name):
            name += "_"
        self._taken.add(name)
        return name


@dataclass(frozen=True)
class _Leaf:
    """One value of an answer."""

    value: Any


def _structure(whole: Any) -> str:
    match whole:
        case _Leaf():
            return literal(whole.value)
        case tuple() | list():
            inner = ", ".join(map(_structure, whole))
            return f"[{inner}]" if isinstance(whole, list) else f"({inner}{',' * (len(whole) == 1)})"
        case Mapping():
            return "{" + ", ".join(f"{literal(key)}: {_structure(value)}" for key, value in whole.items()) + "}"
    raise ConfigError(
        "source can answer with tensors, tuples, lists and mappings, but the network answers with "
        f"{type(whole).__name__}. Export .pt2 or .safetensors."
    )


def _is_check(node: Node) -> bool:
    """Whether an operator only asserts something of sizes."""
    name = str(getattr(node.target, "_schema", None) and node.target._schema.name)  # type: ignore[union-attr]
    return name.startswith(("aten::_assert", "aten::sym_constrain"))
