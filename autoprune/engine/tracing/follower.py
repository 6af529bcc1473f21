"""Sees every operator of a pass, and moves labels along."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from autoprune.engine.asking import tensors_of
from autoprune.engine.channels import conv_ties, norm_ties, reads
from autoprune.engine.tracing.calls import FIXED, Call, all_fixed, collapse
from autoprune.engine.tracing.ledger import Layer, Ledger
from autoprune.engine.tracing.liveness import Liveness
from autoprune.engine.tracing.operators import (
    TO_PYTHON,
    convolution_macs,
    find_rule,
    is_convolution,
    is_shape_only,
    operator_kinds,
)
from autoprune.engine.tracing.products import Found, attend, is_attention, is_product, multiply, operands
from autoprune.engine.tracing.record import Activation, LabelRecord, Product
from autoprune.engine.watching import OperatorMode
from autoprune.errors import NetworkError

__all__ = ["Follower"]


class Follower(OperatorMode):
    """Sees every operator of the pass and moves the labels along.

    An atomic layer is seen as one, by hooks. Of every other one it is seen which operators use its parameters: a
    convolution with the weight of a layer is that layer, whoever calls it, and what else happens there are operators.

    Args:
        model: The network that will run.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.ledger, self.liveness = model, Ledger(model), Liveness(model)
        self.inside = 0  # depth within atomic layers, whose operators say nothing that the layer does not
        self.paused = False
        self._random = ""
        self._weights = WeakTensorKeyDictionary()  # what a layer is known by, and its transposed: the layer
        for module in self.ledger.kinds:
            for name in ("weight", "running_mean"):
                tensor = getattr(module, name, None)
                if tensor is not None and tensor not in self._weights:
                    self._weights[tensor] = self.ledger.layer(module)

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Put hooks on the copied network for the time of the pass."""
        handles = []
        for module in self.ledger.names:
            handles.append(module.register_forward_pre_hook(self._enter))
            handles.append(module.register_forward_hook(self._leave, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, args: Any) -> None:
        self.ledger.stack.append(module)
        self.inside += self.ledger.is_atomic(module)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self.ledger.stack.pop()
        if not self.ledger.is_atomic(module):
            return
        self.inside -= 1
        if not self.inside:
            x = args[0] if args else next(iter(kwargs.values()), None)
            assert isinstance(x, Tensor)
            self.paused = True
            self._layer(self.ledger.layer(module), x, output)
            self.liveness.step([x], [output], self.ledger.labels)
            self.paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if not self.inside and not self.paused:
            self._operator(func, args, kwargs or {}, output)
            self.liveness.step(_tensors((args, kwargs)), _tensors(output), self.ledger.labels)
        return output

    def _operator(self, func: Any, args: Any, kwargs: Any, output: Any) -> None:
        tensors = _tensors((args, kwargs))
        call = Call(func, args, kwargs, tensors, output, self.ledger)
        if torch.Tag.nondeterministic_seeded in func.tags and not self._random:
            self._random = f"{self.ledger.where()} (operator {call.name})"
        if not tensors:
            return
        layer, x = self._called_layer(call)
        if layer is not None and x is not None:
            self._layer(layer, x, next(leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)))
            self._tie_bias(call, layer)
            return
        live = [tensor for tensor in tensors if tensor in self.ledger.labels and tensor not in self.ledger.from_own]
        if is_product(call) or is_convolution(call):
            self._product(call, live)
            return
        if is_shape_only(call):
            self.ledger.label_own(tensors)
        tracked = [tensor for tensor in tensors if tensor in self.ledger.labels]
        if not tracked:
            return
        if live and call.name in TO_PYTHON:
            raise NetworkError(
                f"the network must do the same for every input, but {self.ledger.where()} decides by computed values "
                f"({call.name.strip('_')}); replace the decision by tensor operators such as `torch.where`."
            )
        rule = find_rule(call)
        found = rule(call) if rule else None
        if found is None:
            self._pin_lost(call, tracked)
        self._label_outputs(call, found, is_own=not live)

    def _pin_lost(self, call: Call, tracked: Sequence[Tensor]) -> None:
        where = self.ledger.where()
        for tensor in tracked:
            self.ledger.pin(
                self.ledger.labels[tensor],
                f"its channels pass through {where} (operator {call.name}), which works across channels or fixes their "
                "number",
                f"they stay dense; layers that treat each channel alone in place of {where} would make them prunable",
            )

    def _label_outputs(self, call: Call, found: Any, *, is_own: bool = False) -> None:
        each = list(tree_leaves(found)) if found is not None else []
        for index, tensor in enumerate(tree_leaves(call.output)):
            if isinstance(tensor, Tensor):
                labels = each[min(index, len(each) - 1)] if each else None
                fits = labels is not None and labels.shape == tensor.shape
                self.ledger.labels[tensor] = labels if fits else all_fixed(tensor.shape)
                if is_own:
                    self.ledger.from_own[tensor] = True

    def _called_layer(self, call: Call) -> tuple[Layer | None, Tensor | None]:
        """The layer whose parameters an operator works with, and what it is given."""
        if call.base in ("t", "transpose") and call.tensors:
            matrix = call.tensors[0]
            layer = self._weights[matrix] if matrix in self._weights else self.ledger.bare_layer(matrix, "linear")
            if layer is not None and layer.kind == "linear" and matrix.dim() == 2:
                self._weights[call.output] = layer
            return None, None
        kinds = operator_kinds(call)
        if not kinds:
            return None, None
        x, weight = operands(call) if is_product(call) else (call.args[0], call.argument("weight"))
        keys = [key for key in (weight, call.argument("running_mean")) if isinstance(key, Tensor)]
        layer = next((self._weights[key] for key in keys if key in self._weights), None)
        if layer is None and is_convolution(call):
            layer = self._convolves(call, weight)
        if layer is None or layer.kind not in kinds or not isinstance(x, Tensor) or x not in self.ledger.labels:
            return None, None
        return layer, x

    def _convolves(self, call: Call, weight: Tensor) -> Layer | None:
        """The convolution whose weight is a bare parameter, or a change of a layer's own, such as a standardisation."""
        if call.argument("groups") == 1 and not call.argument("transposed"):
            bare = self.ledger.bare_layer(weight, "conv")
            if bare is not None:
                return bare
        module = self.ledger.stack[-1] if self.ledger.stack else None
        if module not in self.ledger.kinds or not isinstance(module, _ConvNd) or module.weight.shape != weight.shape:
            return None
        return self.ledger.layer(module)

    def _tie_bias(self, call: Call, layer: Layer) -> None:
        """The bias of a bare matrix goes with what it writes."""
        bias = call.args[0] if call.base == "addmm" else call.argument("bias")
        if layer.module not in self.ledger.kinds and isinstance(bias, Tensor):
            self.ledger.label_own([bias])
            if bias in self.ledger.labels:
                written = self.ledger.axes[layer.module, layer.written]
                self.ledger.tie(written.atoms, self.ledger.labels[bias].numpy().ravel())

    def _product(self, call: Call, live: Sequence[Tensor]) -> None:
        """A convolution or product of matrices that is no layer's."""
        name = self.ledger.module
        if is_convolution(call):
            found: Sequence[Found] = [Found(None, convolution_macs(call))]
            labels = None
        elif is_attention(call):
            labels, found = attend(call)
        else:
            found = [multiply(call)]
            labels = found[0].labels
        for each in found:
            if each.channels is None or (each.channels == FIXED).all():
                self.ledger.other_macs[name] += each.macs * (1 if each.channels is None else each.channels.size)
            else:
                self.ledger.products.append(Product(name, each.macs, each.channels))
            if each.units is not None:
                self.ledger.count_heads(each.units)
        if labels is None:
            for tensor in live:
                self.ledger.pin(
                    self.ledger.labels[tensor],
                    f"its channels are read by a product in {self.ledger.where()} (operator {call.name}), which is no "
                    "layer's own",
                    "they stay dense; a layer (nn.Linear, nn.Conv2d) in its place would make them prunable",
                )
        shape = call.output[0].shape if isinstance(call.output, tuple | list) else call.output.shape
        moved = None if labels is None else torch.from_numpy(np.broadcast_to(labels, tuple(shape)).copy())
        if live:
            self._label_outputs(call, None if moved is None else [moved])

    def _layer(self, layer: Layer, x: Tensor, output: Tensor) -> None:
        ledger, kind = self.ledger, layer.kind
        ledger.ran.add(layer.module)
        labels = ledger.labels[x] if x in ledger.labels else all_fixed(x.shape)
        read, written = (ledger.axes[layer.module, axis] for axis in (layer.read, layer.written))
        dim = labels.dim() - 1 if kind in ("linear", "layer_norm") else 1
        if labels.dim() <= dim or labels.shape[dim] != read.size:
            raise NetworkError(
                f"layer {layer.name!r} must get a batch of inputs with {read.size} channels, but got an input of "
                f"shape {tuple(x.shape)}."
            )
        if kind == "linear" and self._mixes_places(layer, labels, output):
            return
        seen = collapse(labels, keep=dim).movedim(dim, 0).reshape(read.size, -1).numpy()
        if kind != "linear" and self._slides_over_channels(seen):
            self._pin_lost_layer(layer, labels, output)
            return
        atoms = np.broadcast_to(read.atoms[:, None], seen.shape)
        ledger.tie(atoms.ravel(), seen.ravel())
        ledger.pin(atoms[seen == FIXED])
        if not reads(kind):
            ledger.labels[output] = labels
            return
        counted, size = (x, read.size) if kind == "conv_transpose" else (output, written.size)
        ledger.positions[layer.name] += counted.numel() // size
        shape = [1] * output.dim()
        shape[output.dim() - 1 if kind == "linear" else 1] = written.size
        ledger.labels[output] = torch.from_numpy(written.atoms).view(shape).expand(output.shape)

    def _slides_over_channels(self, seen: NDArray[np.int64]) -> bool:
        """Whether different channels of one layer lie beside each other where a layer expects space.

        Where each channel that is read has some of its own there, they were folded into space and go together.
        """
        if seen.shape[1] == 1 or (len(seen) > 1 and not np.isin(seen[0][seen[0] != FIXED], seen[1]).any()):
            return False
        starts = np.array(sorted(axis.start for axis in self.ledger.axes.values()))
        row = np.unique(seen[0][seen[0] != FIXED])
        return len(np.unique(np.searchsorted(starts, row, side="right"))) < len(row)

    def _pin_lost_layer(self, layer: Layer, labels: Tensor, output: Tensor) -> None:
        name, ledger = f"{type(layer.module).__name__} {layer.name!r}", self.ledger
        ledger.pin(
            labels,
            f"its channels pass through {name}, which slides over them as over space",
            f"they stay dense; a layer that combines all channels in place of {name} would make them prunable",
        )
        for axis in {layer.read, layer.written}:
            ledger.pin(ledger.axes[layer.module, axis].atoms)
        if reads(layer.kind):
            ledger.positions[layer.name] += output.numel() // ledger.axes[layer.module, layer.written].size
        ledger.labels[output] = all_fixed(output.shape)

    def _mixes_places(self, layer: Layer, labels: Tensor, output: Tensor) -> bool:
        """Whether a linear layer mixes places (tokens) of channels that lie along another dimension."""
        narrow = collapse(labels, only=labels.dim() - 1)
        if narrow.shape[-1] != 1 or labels.shape[-1] == 1 or bool((collapse(narrow) == FIXED).all()):
            return False
        read, written = (self.ledger.axes[layer.module, axis] for axis in (layer.read, layer.written))
        for axis in (read, written):
            self.ledger.pin(axis.atoms, f"{type(layer.module).__name__} {layer.name!r} mixes places, not channels")
        self.ledger.products.append(Product(layer.name, read.size * written.size, narrow.numpy()))
        self.ledger.labels[output] = narrow.expand(output.shape)
        return True

    # -- the end ----------------------------------------------------------------------------------------------------

    def begin(self, inputs: Any) -> None:
        """The inputs have no channels that could be removed."""
        for tensor in tensors_of(inputs):
            self.ledger.labels[tensor] = all_fixed(tensor.shape)
        self.liveness.begin(tensors_of(inputs))

    def end(self, output: Any) -> LabelRecord:
        """Pin the logits; everything seen."""
        self._pin_output(output)
        return self._record(self.liveness.end(tensors_of(output)))

    def _pin_output(self, output: Any) -> None:
        leaves = [tensor for tensor in tensors_of(output) if tensor in self.ledger.labels]
        if not leaves:
            raise NetworkError(
                "the network must return a tensor that torch operators compute from its input, but the output of this "
                "one could not be followed; check that `forward` does not leave torch (numpy, `.data`)."
            )
        for leaf in leaves:
            self.ledger.pin(self.ledger.labels[leaf])

    def _record(self, activations: list[Activation]) -> LabelRecord:
        """Everything seen, with the ties within layers."""
        ledger = self.ledger
        for module in ledger.ran & ledger.kinds.keys():
            written = ledger.axes[module, "out"].atoms
            if isinstance(module, _ConvNd):
                ledger.edges.append(conv_ties(module, ledger.axes[module, "in"].atoms, written))
            elif isinstance(module, nn.GroupNorm):
                ledger.edges.append(norm_ties(module, written))
        self._pin_shared_weights()
        ledger.settle_numbers()
        waiting = [module for module, kind in ledger.kinds.items() if module not in ledger.ran and reads(kind)]
        return LabelRecord(
            axes=[axis for (module, _), axis in ledger.axes.items() if module in ledger.ran],
            n_atoms=ledger.n_atoms,
            edges=np.concatenate(ledger.edges),
            pins=ledger.pins,
            positions=ledger.positions,
            other_macs=ledger.other_macs,
            products=ledger.products,
            heads=ledger.heads_that_fill(),
            idle=[ledger.names[module] for module in waiting],
            random=self._random,
            activations=activations,
        )

    def _pin_shared_weights(self) -> None:
        owners: dict[nn.Parameter, nn.Module] = {}
        for module in self.ledger.kinds:
            for parameter in module.parameters(recurse=False):
                first = owners.setdefault(parameter, module)
                if first is not module:
                    self.ledger.pin(
                        np.concatenate(
                            [axis.atoms for (owner, _), axis in self.ledger.axes.items() if owner in (first, module)]
                        ),
                        f"layers {self.ledger.names[first]!r} and {self.ledger.names[module]!r} share a parameter",
                        "give each layer parameters of its own",
                    )


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
