"""Follows every channel through one forward pass, by carrying labels beside the activations.

Each position of each prunable axis (the inputs and outputs of a convolution or linear layer, the vectors of a batch
normalisation) is an *atom*. Beside every activation runs a tensor of the same shape that holds, at each place, the
atom that wrote it. Data movement (view, concatenate, shuffle, flatten) is applied to the labels as it is to the
activations, so index maps come out exact for any of it. Where two atoms meet at one place they belong to the same
channel: an *edge*. Where channels meet something that can't shrink with them, they are *pinned*, with the reason.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from autoprune.engine.channels import AxisName, axis_sizes, conv_ties, counted_macs, kind_of
from autoprune.engine.tracing.operators import FIXED, TO_PYTHON, Call, all_fixed, collapse, find_rule
from autoprune.errors import AutopruneError, NetworkError

__all__ = ["Axis", "LabelRecord", "Pin", "first_line", "follow_labels"]


@dataclass(frozen=True)
class Axis:
    """One prunable axis of a module; its atoms are ``start .. start + size - 1``."""

    module: str
    axis: AxisName
    start: int
    size: int

    @property
    def atoms(self) -> NDArray[np.int64]:
        """The axis' atoms in order of position."""
        return np.arange(self.start, self.start + self.size)


@dataclass(frozen=True, eq=False)
class Pin:
    """Atoms that can't be removed; without a reason it goes without saying (the image, the logits)."""

    atoms: NDArray[np.int64]
    reason: str = ""
    advice: str = ""


@dataclass(frozen=True, eq=False)
class LabelRecord:
    """What one pass has shown.

    Args:
        axes: Axes of the prunable layers that ran, in module order.
        n_atoms: Atoms in all.
        edges: Pairs of atoms of one channel, shape (E, 2).
        pins: Atoms that can't be removed.
        positions: Output positions (H times W, tokens) of each convolution and linear layer that ran, over all calls.
        other_macs: MACs of convolutions and linear layers that surgery can't cut.
        idle: Convolutions and linear layers that did not run.
    """

    axes: list[Axis]
    n_atoms: int
    edges: NDArray[np.int64]
    pins: list[Pin]
    positions: Counter[str]
    other_macs: Counter[str]
    idle: list[str]


def follow_labels(model: nn.Module, example: Tensor) -> LabelRecord:
    """Run ``model`` once on the first of ``example`` and record which channels belong together.

    Args:
        model: Left as it is: a copy runs, in eval mode.
        example: Input, shape (N, ...).

    Raises:
        NetworkError: The network fails on the example, decides by values that it computed, or returns nothing
            that depends on its input.
    """
    try:
        model = copy.deepcopy(model).eval()
    except Exception as error:
        raise NetworkError(
            f"the network must be copyable, but copying it failed: {first_line(error)}. Keep no computed tensors in it."
        ) from error
    follower = _Follower(model)
    x = example[:1].detach().clone()
    try:
        with torch.no_grad(), follower.hooked(), follower:
            follower.labels[x] = all_fixed(x.shape)
            output = model(x)
    except AutopruneError:
        raise
    except Exception as error:
        raise NetworkError(
            f"the network must run on one input of shape {tuple(x.shape)}, but it failed: {first_line(error)}. "
            "Check the input shape of the data and the number of input channels."
        ) from error
    follower.pin_output(output)
    return follower.record()


class _Follower(TorchDispatchMode):
    """Sees every operator of the pass and moves the labels along."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model = model
        self.names = {module: name for name, module in model.named_modules()}
        self.kinds = {module: kind for module in self.names if (kind := kind_of(module))}
        self.axes: dict[tuple[nn.Module, AxisName], Axis] = {}
        self.n_atoms = 0
        for module in self.kinds:
            for axis, size in axis_sizes(module).items():
                self.axes[module, axis] = Axis(self.names[module], axis, self.n_atoms, size)
                self.n_atoms += size
        self.labels = WeakTensorKeyDictionary()
        self.edges: list[NDArray[np.int64]] = [np.zeros((0, 2), dtype=np.int64)]
        self.pins: list[Pin] = []
        self.positions: Counter[str] = Counter()
        self.other_macs: Counter[str] = Counter()
        self.ran: set[nn.Module] = set()
        self.stack: list[nn.Module] = []
        self.inside = 0  # depth within prunable layers, whose operators say nothing that the layer does not
        self.paused = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, two seconds, to keep it away from a pass that never meets it

    # -- what operators call ----------------------------------------------------------------------------------------

    def tie(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
        """Atoms ``a[i]`` and ``b[i]`` belong to one channel; FIXED among them is passed over."""
        both = (a != FIXED) & (b != FIXED)
        self.edges.append(np.unique(np.stack([a[both], b[both]], axis=1), axis=0))

    def pin(self, labels: Tensor | NDArray[np.int64], reason: str = "", advice: str = "") -> None:
        """Atoms among ``labels`` can't be removed."""
        atoms = np.unique(collapse(labels).numpy() if isinstance(labels, Tensor) else labels)
        atoms = atoms[atoms != FIXED]
        if len(atoms):
            self.pins.append(Pin(atoms, reason, advice))

    def where(self) -> str:
        """The innermost module that runs, for messages."""
        name = self.names[self.stack[-1]] if self.stack else ""
        return f"{type(self.stack[-1]).__name__} {name!r}" if name else "the network's own `forward`"

    # -- the pass ---------------------------------------------------------------------------------------------------

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Put hooks on the copied network for the time of the pass."""
        handles = []
        for module in self.names:
            handles.append(module.register_forward_pre_hook(self._enter))
            handles.append(module.register_forward_hook(self._leave, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, args: Any) -> None:
        self.stack.append(module)
        self.inside += module in self.kinds

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self.stack.pop()
        x = args[0] if args else next(iter(kwargs.values()), None)
        if module in self.kinds:
            self.inside -= 1
            if not self.inside:
                assert isinstance(x, Tensor)
                self.paused = True
                self._layer(module, x, output)
                self.paused = False
        elif isinstance(x, Tensor) and isinstance(output, Tensor):
            self.other_macs[self.names[module]] += counted_macs(module, x.numel(), output.numel())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if not self.inside and not self.paused:
            self._operator(func, args, kwargs or {}, output)
        return output

    def _operator(self, func: Any, args: Any, kwargs: Any, output: Any) -> None:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        tracked = [tensor for tensor in tensors if tensor in self.labels]
        if not tracked:
            return
        call = Call(func, args, kwargs, tensors, output, self)
        if call.name in TO_PYTHON:
            raise NetworkError(
                f"the network must do the same for every input, but {self.where()} decides by computed values "
                f"({call.name.strip('_')}); replace the decision by tensor operators such as `torch.where`."
            )
        rule = find_rule(call)
        found = rule(call) if rule else None
        if found is None:
            for tensor in tracked:
                self.pin(
                    self.labels[tensor],
                    f"its channels pass through {self.where()} (operator {call.name}), which works across channels or "
                    "fixes their number",
                    f"they stay dense; layers that treat each channel alone in place of {self.where()} would make them "
                    "prunable",
                )
        each = list(tree_leaves(found)) if found is not None else []
        for index, tensor in enumerate(tree_leaves(output)):
            if isinstance(tensor, Tensor):
                labels = each[min(index, len(each) - 1)] if each else None
                fits = labels is not None and labels.shape == tensor.shape
                self.labels[tensor] = labels if fits else all_fixed(tensor.shape)

    def _layer(self, module: nn.Module, x: Tensor, output: Tensor) -> None:
        self.ran.add(module)
        labels = self.labels[x] if x in self.labels else all_fixed(x.shape)
        kind = self.kinds[module]
        read = self.axes[module, "in" if kind in ("conv", "linear") else "out"]
        dim = labels.dim() - 1 if kind == "linear" else 1
        if labels.dim() <= dim or labels.shape[dim] != read.size:
            raise NetworkError(
                f"layer {read.module!r} must get a batch of inputs with {read.size} channels, but got an input of "
                f"shape {tuple(x.shape)}."
            )
        seen = collapse(labels, keep=dim).movedim(dim, 0).reshape(read.size, -1).numpy()
        atoms = np.broadcast_to(read.atoms[:, None], seen.shape)
        self.tie(atoms.ravel(), seen.ravel())
        self.pin(atoms[seen == FIXED])
        if kind in ("norm", "prelu"):
            self.labels[output] = labels
            return
        written = self.axes[module, "out"]
        self.positions[written.module] += output.numel() // written.size
        shape = [1] * output.dim()
        shape[output.dim() - 1 if kind == "linear" else 1] = written.size
        self.labels[output] = torch.from_numpy(written.atoms).view(shape).expand(output.shape)

    # -- the end ----------------------------------------------------------------------------------------------------

    def pin_output(self, output: Any) -> None:
        """Pin the logits."""
        plain = vars(output) if hasattr(output, "__dataclass_fields__") else output
        leaves = [leaf for leaf in tree_leaves(plain) if isinstance(leaf, Tensor) and leaf in self.labels]
        if not leaves:
            raise NetworkError(
                "the network must return a tensor that torch operators compute from its input, but the output of this "
                "one could not be followed; check that `forward` does not leave torch (numpy, `.data`)."
            )
        for leaf in leaves:
            self.pin(self.labels[leaf])

    def record(self) -> LabelRecord:
        """Everything seen, with the ties within layers."""
        for module in self.ran:
            if isinstance(module, _ConvNd):
                self.edges.append(conv_ties(module, self.axes[module, "in"].atoms, self.axes[module, "out"].atoms))
        self._pin_shared_weights()
        idle = [name for module, name in self.names.items() if module in self.kinds and module not in self.ran]
        return LabelRecord(
            axes=[axis for (module, _), axis in self.axes.items() if module in self.ran],
            n_atoms=self.n_atoms,
            edges=np.concatenate(self.edges),
            pins=self.pins,
            positions=self.positions,
            other_macs=self.other_macs,
            idle=[name for name in idle if kind_of(self.model.get_submodule(name)) in ("conv", "linear")],
        )

    def _pin_shared_weights(self) -> None:
        owners: dict[nn.Parameter, nn.Module] = {}
        for module in self.kinds:
            for parameter in module.parameters(recurse=False):
                first = owners.setdefault(parameter, module)
                if first is not module:
                    self.pin(
                        np.concatenate(
                            [axis.atoms for (owner, _), axis in self.axes.items() if owner in (first, module)]
                        ),
                        f"layers {self.names[first]!r} and {self.names[module]!r} share a parameter",
                        "give each layer parameters of its own",
                    )


def first_line(error: BaseException) -> str:
    """An error's message, short enough to stand in a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
