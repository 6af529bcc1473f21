"""Follows every channel through one forward pass, by carrying labels beside the activations.

Each position of each prunable axis (the inputs and outputs of a convolution or linear layer, the vectors of a batch
normalisation) is an *atom*. Beside every activation runs a tensor of the same shape that holds, at each place, the
atom that wrote it. Data movement (view, concatenate, shuffle, flatten) is applied to the labels as it is to the
activations, so index maps come out exact for any of it. Where two atoms meet at one place they belong to the same
channel: an *edge*. Where channels meet something that can't shrink with them, they are *pinned*, with the reason.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from autoprune.errors import AutopruneError, NetworkError

__all__ = ["Axis", "LabelRecord", "Pin", "follow_labels", "is_per_conv_group", "kind_of"]

FIXED = -1  # the label of a value that no prunable channel wrote: the image, a constant, a pinned channel

Kind = Literal["conv", "linear", "norm", "prelu"]

_FORWARDS: dict[Any, Kind] = {
    nn.Conv1d.forward: "conv",
    nn.Conv2d.forward: "conv",
    nn.Conv3d.forward: "conv",
    nn.Linear.forward: "linear",
    nn.BatchNorm2d.forward: "norm",  # one function serves 1, 2 and 3 dimensions
    nn.SyncBatchNorm.forward: "norm",
    nn.PReLU.forward: "prelu",
}

# Elementwise operators that PyTorch has not tagged as such, and those whose result has the size of their argument.
_POINTWISE = {
    "hardswish", "hardtanh", "hardsigmoid", "leaky_relu", "relu6", "elu", "celu", "selu", "mish", "silu", "softplus",
    "_prelu_kernel", "log_sigmoid_forward", "rrelu", "threshold", "dropout", "native_dropout", "zeros_like",
    "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "clamp", "where", "bernoulli",
}  # fmt: skip
_SAME = {"clone", "detach", "alias", "_to_copy", "lift_fresh", "contiguous", "to", "copy"}
_MOVES = {
    "view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "expand", "slice", "select",
    "split", "split_with_sizes", "unsafe_split", "unsafe_chunk", "chunk", "unbind", "cat", "stack", "squeeze",
    "unsqueeze", "flip", "roll", "index_select", "narrow", "repeat", "channel_shuffle", "native_channel_shuffle",
    "pixel_shuffle", "pixel_unshuffle", "movedim", "swapaxes", "diagonal", "index", "split_copy", "rot90",
}  # fmt: skip
_VIEWS = {"view", "_unsafe_view", "reshape", "_reshape_alias"}
_PER_CHANNEL = re.compile(r"^_?(adaptive_)?(max|avg)_pool|^_?upsample_|^reflection_pad|^replication_pad")
_REDUCTIONS = {
    "mean", "sum", "amax", "amin", "aminmax", "max", "min", "var", "std", "var_mean", "std_mean", "prod", "logsumexp",
    "linalg_vector_norm", "norm", "argmax", "argmin", "median", "any", "all",
}  # fmt: skip
_ALONG = {"_softmax", "_log_softmax", "cumsum", "cumprod", "sort", "topk"}
_TO_PYTHON = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "item", "unique_consecutive"}


@dataclass(frozen=True)
class Axis:
    """One prunable axis of a module; its atoms are ``start .. start + size - 1``."""

    module: str
    axis: Literal["out", "in"]
    start: int
    size: int

    @property
    def atoms(self) -> NDArray[np.int64]:
        """The axis' atoms in order of position."""
        return np.arange(self.start, self.start + self.size)


@dataclass(frozen=True)
class Pin:
    """Atoms that can't be removed; without a reason it goes without saying (the image, the logits)."""

    atoms: NDArray[np.int64]
    reason: str | None = None
    advice: str = ""


@dataclass
class LabelRecord:
    """What one pass has shown.

    Args:
        axes: Axes of the modules that ran, in module order.
        n_atoms: Atoms in all.
        edges: Pairs of atoms of one channel, shape (E, 2).
        pins: Atoms that can't be removed.
        positions: Output positions (H times W, tokens) of each convolution and linear layer that ran, over all calls.
        idle: Convolutions and linear layers that did not run.
    """

    axes: list[Axis]
    n_atoms: int
    edges: NDArray[np.int64]
    pins: list[Pin]
    positions: Counter[str]
    idle: list[str] = field(default_factory=list)


def kind_of(module: nn.Module) -> Kind | None:
    """What kind of prunable layer ``module`` is; None if surgery can't cut it."""
    kind = _FORWARDS.get(type(module).forward)
    if kind in ("conv", "linear") and not isinstance(module._parameters.get("weight"), nn.Parameter):
        return None  # the weight is computed (weight norm, a parametrisation): slicing it would not last
    if kind == "prelu" and isinstance(module, nn.PReLU) and module.num_parameters == 1:
        return None
    return kind


def is_per_conv_group(conv: nn.Module) -> bool:
    """Whether channels of a grouped convolution leave by whole conv groups (depthwise), not by the same offset in each."""
    assert isinstance(conv.groups, int) and isinstance(conv.in_channels, int) and isinstance(conv.out_channels, int)
    return conv.groups > 1 and conv.groups in (conv.in_channels, conv.out_channels)


def axis_sizes(module: nn.Module, kind: Kind) -> dict[Literal["out", "in"], int]:
    """Sizes of the prunable axes of a module."""
    match module:
        case nn.Linear():
            return {"in": module.in_features, "out": module.out_features}
        case nn.PReLU():
            return {"out": module.num_parameters}
        case _ if kind == "norm":
            return {"out": int(module.num_features)}  # type: ignore[arg-type]
        case _:
            return {"in": int(module.in_channels), "out": int(module.out_channels)}  # type: ignore[arg-type]


def follow_labels(model: nn.Module, example: Tensor) -> LabelRecord:
    """Run ``model`` once on the first of ``example`` and record which channels belong together.

    Args:
        model: Left as it is: a copy runs, in eval mode.
        example: Input, shape (N, ...).

    Raises:
        NetworkError: The network fails on the example, decides by values that it computed, or returns nothing
            that depends on its input.
    """
    model = copy.deepcopy(model).eval()
    follower = _Follower(model)
    x = example[:1].detach().clone()
    try:
        with torch.no_grad(), follower.hooked(), follower:
            follower.track(x, torch.full((1,) * x.dim(), FIXED).expand(x.shape))
            output = model(x)
    except AutopruneError:
        raise
    except Exception as error:
        raise NetworkError(
            f"the network must run on one input of shape {tuple(x.shape)}, but it failed: {_first_line(error)}. "
            "Check the input shape of the data and the number of input channels."
        ) from error
    follower.finish(output)
    return follower.record()


class _Follower(TorchDispatchMode):
    """Sees every operator of the pass and moves the labels along."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.names = {module: name for name, module in model.named_modules()}
        self.kinds = {module: kind for module in self.names if (kind := kind_of(module))}
        self.axes: dict[tuple[nn.Module, str], Axis] = {}
        self.n_atoms = 0
        for module, kind in self.kinds.items():
            for axis, size in axis_sizes(module, kind).items():
                self.axes[module, axis] = Axis(self.names[module], axis, self.n_atoms, size)
                self.n_atoms += size
        self.labels = WeakTensorKeyDictionary()
        self.edges: list[NDArray[np.int64]] = []
        self.pins: list[Pin] = []
        self.positions: Counter[str] = Counter()
        self.ran: set[nn.Module] = set()
        self.stack: list[nn.Module] = []
        self.inside = 0  # depth within prunable layers, whose operators say nothing that the layer does not
        self.paused = False

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
        kind = self.kinds.get(module)
        if kind is None:
            return
        self.inside -= 1
        if self.inside:
            return
        self.paused = True
        try:
            self._layer(module, kind, args[0] if args else kwargs["input"], output)
        finally:
            self.paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if not self.inside and not self.paused:
            self._operator(func, args, kwargs or {}, output)
        return output

    def track(self, tensor: Tensor, labels: Tensor) -> None:
        """Remember the labels of an activation."""
        self.labels[tensor] = labels

    def finish(self, output: Any) -> None:
        """Pin the logits."""
        leaves = [leaf for leaf in tree_leaves(_plain(output)) if isinstance(leaf, Tensor)]
        tracked = [self.labels[leaf] for leaf in leaves if leaf in self.labels]
        if not tracked:
            raise NetworkError(
                "the network must return a tensor computed from its input by torch operators, but the output of this "
                "one could not be followed; check that `forward` does not leave torch (numpy, `.data`)."
            )
        for labels in tracked:
            self._pin(labels)

    def record(self) -> LabelRecord:
        """Everything seen, with the ties within layers."""
        edges = list(self.edges)
        for module in self.ran:
            if self.kinds[module] == "conv":
                edges += _conv_ties(module, self.axes[module, "in"], self.axes[module, "out"])
        self._pin_shared_weights()
        return LabelRecord(
            axes=[axis for (module, _), axis in self.axes.items() if module in self.ran],
            n_atoms=self.n_atoms,
            edges=np.concatenate([np.zeros((0, 2), dtype=np.int64), *edges]),
            pins=self.pins,
            positions=self.positions,
            idle=[
                self.names[module]
                for module, kind in self.kinds.items()
                if module not in self.ran and kind in ("conv", "linear")
            ],
        )

    # -- layers -----------------------------------------------------------------------------------------------------

    def _layer(self, module: nn.Module, kind: Kind, x: Tensor, output: Tensor) -> None:
        self.ran.add(module)
        labels = self.labels.get(x)
        if labels is None:
            labels = torch.full((1,) * x.dim(), FIXED).expand(x.shape)
        channel_dim = labels.dim() - 1 if kind == "linear" else 1
        axis = self.axes[module, "in" if kind in ("conv", "linear") else "out"]
        if labels.dim() <= channel_dim or labels.shape[channel_dim] != axis.size:
            raise NetworkError(
                f"layer {axis.module!r} must get a batch of inputs with {axis.size} channels, but got an input of "
                f"shape {tuple(x.shape)}."
            )
        seen = _collapse(labels, keep=channel_dim).movedim(channel_dim, 0).reshape(axis.size, -1).numpy()
        atoms = np.broadcast_to(axis.atoms[:, None], seen.shape)
        self._tie(atoms, seen)
        if kind in ("norm", "prelu"):
            self.track(output, labels)
            return
        out = self.axes[module, "out"]
        self.positions[axis.module] += output.numel() // out.size
        out_dim = output.dim() - 1 if kind == "linear" else 1
        shape = [1] * output.dim()
        shape[out_dim] = out.size
        self.track(output, torch.from_numpy(out.atoms).view(shape).expand(output.shape))

    def _tie(self, atoms: NDArray[np.int64], seen: NDArray[np.int64]) -> None:
        """The axis positions ``atoms`` read ``seen``, both (C, k)."""
        fixed = seen == FIXED
        pairs = np.stack([atoms[~fixed], seen[~fixed]], axis=1)
        self.edges.append(np.unique(pairs, axis=0))
        if fixed.any():
            self.pins.append(Pin(np.unique(atoms[fixed])))

    def _pin(self, labels: Tensor | NDArray[np.int64], reason: str | None = None, advice: str = "") -> None:
        atoms = np.unique(_collapse(labels).numpy() if isinstance(labels, Tensor) else labels)
        atoms = atoms[atoms != FIXED]
        if len(atoms):
            self.pins.append(Pin(atoms, reason, advice))

    def _pin_shared_weights(self) -> None:
        owners: dict[nn.Parameter, str] = {}
        for module in self.kinds:
            for parameter in module.parameters(recurse=False):
                first = owners.setdefault(parameter, self.names[module])
                if first != self.names[module]:
                    for owner in (self.model.get_submodule(first), module):
                        atoms = [axis.atoms for (one, _), axis in self.axes.items() if one is owner]
                        self._pin(
                            np.concatenate(atoms),
                            f"layers {first!r} and {self.names[module]!r} share a weight",
                            "give each layer a weight of its own",
                        )

    # -- operators --------------------------------------------------------------------------------------------------

    def _operator(self, func: Any, args: Any, kwargs: Any, output: Any) -> None:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        tracked = [tensor for tensor in tensors if tensor in self.labels]
        if not tracked:
            return
        name: str = func._schema.name.partition("::")[2]
        if name in _TO_PYTHON:
            raise NetworkError(
                f"the network must do the same for every input, but {self._where()} decides by computed values "
                f"({name.strip('_')}); replace the decision by tensor operators such as `torch.where`."
            )
        base = name if name.startswith("_") or not name.endswith("_") else name[:-1]
        rule = self._rule(func, base)
        named = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)} | kwargs
        labels = rule(func, named, args, kwargs, tensors, output) if rule else None
        if labels is None:
            for tensor in tracked:
                self._pin(self.labels[tensor], *self._unknown(name))
        outputs = tree_leaves(output)
        each = tree_leaves(labels) if labels is not None else []
        for index, tensor in enumerate(outputs):
            if isinstance(tensor, Tensor):
                fits = each[min(index, len(each) - 1)] if each else None
                if fits is None or fits.shape != tensor.shape:
                    fits = torch.full((1,) * tensor.dim(), FIXED).expand(tensor.shape)
                self.track(tensor, fits)

    def _rule(self, func: Any, base: str) -> Callable[..., Any] | None:
        if base in _SAME:
            # copying into a tensor that exists may write to a part of another one, which labels can't follow
            return None if base == "copy" else self._same
        if torch.Tag.pointwise in func.tags or base in _POINTWISE:
            return self._pointwise
        if base in _MOVES:
            return self._move
        if base == "constant_pad_nd":
            return self._pad
        if _PER_CHANNEL.match(base):
            return self._per_channel
        if base in _REDUCTIONS:
            return self._reduce
        if base in _ALONG:
            return self._along
        return None

    def _same(self, func: Any, named: Any, args: Any, kwargs: Any, tensors: Any, output: Any) -> Any:
        return self.labels[tensors[0]]

    def _pointwise(
        self, func: Any, named: Any, args: Any, kwargs: Any, tensors: Sequence[Tensor], output: Any
    ) -> Tensor | None:
        shape = next(leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)).shape
        total: Tensor | None = None
        sizes: tuple[int, ...] = ()
        # first what has labels, so that the result keeps them
        for tensor in sorted(tensors, key=lambda one: one not in self.labels):
            labels = self.labels.get(tensor)
            own = (1,) * (len(shape) - tensor.dim()) + tuple(tensor.shape)
            if labels is None:
                if tensor.numel() == 1:
                    continue
                labels = torch.full((1,) * len(shape), FIXED).expand(own)
            labels = labels.reshape(own) if labels.dim() != len(own) else labels
            if total is None:
                total, sizes = labels, own
            else:
                total = self._meet(total, sizes, labels, own)
                sizes = tuple(total.shape)
        return None if total is None else total.expand(shape)

    def _meet(self, a: Tensor, a_size: Sequence[int], b: Tensor, b_size: Sequence[int]) -> Tensor:
        """Labels of an elementwise result; what meets at one place belongs to one channel."""
        size = torch.broadcast_shapes(tuple(a_size), tuple(b_size))
        small_a, small_b = _collapse(a), _collapse(b)
        dims = range(len(size))
        a_shared = any(a_size[d] == 1 and small_b.shape[d] > 1 for d in dims)
        b_shared = any(b_size[d] == 1 and small_a.shape[d] > 1 for d in dims)
        reason = "one of its channels is broadcast over the channels of another layer"
        if a_shared and b_shared:
            self._pin(a, reason)
            self._pin(b, reason)
            return torch.full((1,) * len(size), FIXED).expand(size)
        if a_shared or b_shared:
            self._pin(a if a_shared else b, reason)
            return (b if a_shared else a).expand(size)
        pair_a, pair_b = (t.numpy().ravel() for t in torch.broadcast_tensors(small_a, small_b))
        both = (pair_a != FIXED) & (pair_b != FIXED)
        self.edges.append(np.unique(np.stack([pair_a[both], pair_b[both]], axis=1), axis=0))
        for mine, other, other_size in ((pair_a, pair_b, b_size), (pair_b, pair_a, a_size)):
            if int(np.prod(other_size)) > 1:
                self._pin(
                    mine[other == FIXED],
                    f"{self._where()} combines its channels with values of a fixed number of channels "
                    "(the input, a constant, zero padding or a channel that is never removed)",
                    "a projection (1×1 convolution) in place of the fixed values makes them prunable",
                )
        if (small_a == FIXED).any():
            return torch.where(a.expand(size) == FIXED, b.expand(size), a.expand(size))
        return a.expand(size)

    def _move(self, func: Any, named: Any, args: Any, kwargs: Any, tensors: Any, output: Any) -> Any:
        base = func._schema.name.partition("::")[2]
        if base == "index" and any(index in self.labels for index in tensors[1:]):
            return None

        def labels_of(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if value in self.labels:
                return self.labels[value]
            if base in ("cat", "stack"):
                return torch.full((1,) * value.dim(), FIXED).expand(value.shape)
            return value.cpu()

        if base in _VIEWS:
            return self.labels[tensors[0]].reshape(output.shape)
        moved_args, moved_kwargs = tree_map(labels_of, (list(args), kwargs))
        return func(*moved_args, **moved_kwargs)

    def _pad(self, func: Any, named: Any, args: Any, kwargs: Any, tensors: Any, output: Tensor) -> Tensor:
        labels = self.labels[tensors[0]]
        pad = list(named["pad"])
        for place in range(0, len(pad), 2):
            dim = labels.dim() - 1 - place // 2
            shape = list(output.shape[dim:])
            narrowed = _collapse(labels, only=dim)
            if narrowed.shape[dim] == 1 and labels.shape[dim] > 1:  # along space the margin belongs to the channel
                labels = narrowed.expand(*labels.shape[:dim], *shape)
                continue
            for before, count in ((True, pad[place]), (False, pad[place + 1])):
                size = labels.shape[dim]
                if count < 0:
                    labels = labels.narrow(dim, -count if before else 0, size + count)
                elif count:
                    margin = torch.full((1,) * labels.dim(), FIXED).expand(*labels.shape[:dim], count, *shape[1:])
                    labels = torch.cat([margin, labels] if before else [labels, margin], dim=dim)
        return labels

    def _per_channel(self, func: Any, named: Any, args: Any, kwargs: Any, tensors: Any, output: Any) -> Any:
        labels = self.labels[tensors[0]]
        found = re.search(r"([123])d", func._schema.name)
        space = int(found.group(1)) if found else labels.dim() - 2
        for dim in range(labels.dim() - space, labels.dim()):
            labels = _collapse(labels, only=dim)
            if labels.shape[dim] != 1:
                return None
        return [labels.expand(leaf.shape) for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]

    def _reduce(self, func: Any, named: Any, args: Any, kwargs: Any, tensors: Any, output: Any) -> Any:
        labels = self.labels[tensors[0]]
        dims = named.get("dim")
        if dims is None or dims == []:
            dims = list(range(labels.dim()))
        dims = [dim % labels.dim() for dim in ([dims] if isinstance(dims, int) else dims)]
        for dim in dims:
            labels = _collapse(labels, only=dim)
            if labels.shape[dim] != 1:
                return None
        if not named.get("keepdim", False):
            for dim in sorted(dims, reverse=True):
                labels = labels.squeeze(dim)
        return [labels.expand(leaf.shape) for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]

    def _along(self, func: Any, named: Any, args: Any, kwargs: Any, tensors: Any, output: Any) -> Any:
        labels = self.labels[tensors[0]]
        dim = int(named.get("dim", -1)) % labels.dim()
        constant = _collapse(labels, only=dim)
        if constant.shape[dim] != 1:
            return None
        return [constant.expand(leaf.shape) for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]

    def _where(self) -> str:
        name = self.names[self.stack[-1]] if self.stack else ""
        return f"{type(self.stack[-1]).__name__} {name!r}" if name else "the network's own `forward`"

    def _unknown(self, operator: str) -> tuple[str, str]:
        return (
            f"its channels pass through {self._where()} (operator {operator}), which works across channels or fixes "
            "their number",
            f"to prune them, replace {self._where()} by layers that treat each channel alone, such as batch "
            "normalisation",
        )


def _conv_ties(conv: nn.Module, fan_in: Axis, fan_out: Axis) -> list[NDArray[np.int64]]:
    """Edges between positions of a grouped convolution that must go together."""
    groups = conv.groups
    assert isinstance(groups, int)
    if groups == 1:
        return []
    inputs, outputs = fan_in.atoms.reshape(groups, -1), fan_out.atoms.reshape(groups, -1)
    if is_per_conv_group(conv):
        every = np.concatenate([inputs, outputs], axis=1)  # (conv groups, channels of one)
        return [np.stack([np.repeat(every[:, :1], every.shape[1] - 1, axis=1), every[:, 1:]], axis=-1).reshape(-1, 2)]
    return [
        np.stack([np.repeat(side[:1], groups - 1, axis=0), side[1:]], axis=-1).reshape(-1, 2)
        for side in (inputs, outputs)
    ]


def _collapse(labels: Tensor, *, keep: int | None = None, only: int | None = None) -> Tensor:
    """Narrow to one the dimensions along which labels do not change: all, all but ``keep``, or ``only`` this one."""
    dims: Iterable[int] = range(labels.dim()) if only is None else (only,)
    for dim in dims:
        if dim != keep and labels.shape[dim] > 1:
            first = labels.narrow(dim, 0, 1)
            if labels.stride(dim) == 0 or bool((labels == first).all()):
                labels = first
    return labels


def _plain(output: Any) -> Any:
    """Outputs of dataclass kind as a dictionary, so that their tensors are found."""
    return vars(output) if hasattr(output, "__dataclass_fields__") else output


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
