"""What widths cost: MACs and parameters of a network as plain data, to evaluate and to invert."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from autoprune.errors import ConfigError, InfeasibleError, unknown_name

__all__ = ["CONVENTION", "CostModel", "LayerCost", "LinearForm", "allowed_widths", "fit"]

CONVENTION = "macs-1"
"""Version of the counting rule that every record carries.

One MAC is one multiply-accumulate of a convolution or linear layer, for one input, in eval mode. Bias, batch
normalisation, activation and pooling count nothing. ``flops = 2 * macs``.
"""

Widths = Mapping[str, int] | NDArray[np.integer[Any]]

_CHUNK = 4096  # rows evaluated at once: the two products of a chunk then stay in the processor's cache
_TRIES = 100  # orders in which `fit` tries to fill the room that rounding down leaves
_EXACT = 2**53  # float64 holds every integer below it, so its fast matrix product is exact


@dataclass(frozen=True)
class LinearForm:
    """A count of channels: ``constant + sum(coefficient * width[group])``.

    Args:
        constant: Channels that are never removed, >= 0.
        terms: Pairs (index of the group, coefficient > 0), by rising index.
    """

    constant: int
    terms: tuple[tuple[int, int], ...] = ()

    def __call__(self, widths: Sequence[int]) -> int:
        """The count at ``widths``, shape (G,), in the order of the model's groups."""
        return self.constant + sum(coefficient * int(widths[group]) for group, coefficient in self.terms)


@dataclass(frozen=True)
class LayerCost:
    """One layer: ``macs * fan_in * fan_out`` MACs and ``weights * fan_in * fan_out + biases * fan_out`` parameters.

    Args:
        name: Qualified name of the module.
        macs: Kernel size times output positions; 0 for layers that the convention does not count.
        weights: Kernel size; 0 for layers whose parameters are one or two vectors.
        biases: Vectors of the output's length: 1 for a bias, 2 for batch normalisation.
        fan_in: Input channels that one output channel reads (of one conv group).
        fan_out: Output channels.
    """

    name: str
    macs: int
    weights: int
    biases: int
    fan_in: LinearForm
    fan_out: LinearForm


@dataclass(frozen=True)
class CostModel:
    """MACs and parameters of a network as exact functions of its group widths.

    A layer's MACs are a product of two linear forms of the widths, so a million width vectors are two matrix
    products. Widths come as a mapping (an absent group has its dense width) or as an integer array (G,) or (T, G)
    in the order of ``groups``.

    Args:
        groups: Names of the G channel groups.
        dense: Their widths in the dense network.
        steps: A width must be a multiple of its step.
        layers: The costs of the L layers, in module order.

    Example:
        >>> conv = LayerCost("conv", 9 * 64, 9, 0, LinearForm(3), LinearForm(0, ((0, 1),)))
        >>> model = CostModel(("conv",), (16,), (1,), (conv,))
        >>> model.macs({"conv": 8}), model.macs_ratio({"conv": 8})
        (13824, 0.5)
    """

    groups: tuple[str, ...]
    dense: tuple[int, ...]
    steps: tuple[int, ...]
    layers: tuple[LayerCost, ...]

    def __post_init__(self) -> None:
        if not len(self.groups) == len(self.dense) == len(self.steps):
            raise ConfigError(
                f"a cost model needs one dense width and one step for each group, but got {len(self.groups)} groups, "
                f"{len(self.dense)} widths and {len(self.steps)} steps."
            )

    @cached_property
    def dense_macs(self) -> int:
        """MACs of the dense network."""
        return sum(layer.macs * layer.fan_in(self.dense) * layer.fan_out(self.dense) for layer in self.layers)

    @cached_property
    def dense_params(self) -> int:
        """Parameters of the dense network."""
        return sum(
            (layer.weights * layer.fan_in(self.dense) + layer.biases) * layer.fan_out(self.dense)
            for layer in self.layers
        )

    @overload
    def macs(self, widths: Mapping[str, int]) -> int: ...
    @overload
    def macs(self, widths: NDArray[np.integer[Any]]) -> NDArray[np.int64]: ...
    def macs(self, widths: Widths) -> int | NDArray[np.int64]:
        """MACs at ``widths``: an int for a mapping, shape () for (G,), shape (T,) for (T, G)."""
        if isinstance(widths, Mapping):
            return int(self._macs.evaluate(self.as_array(widths)))
        return self._macs.evaluate(self._checked(widths))

    @overload
    def params(self, widths: Mapping[str, int]) -> int: ...
    @overload
    def params(self, widths: NDArray[np.integer[Any]]) -> NDArray[np.int64]: ...
    def params(self, widths: Widths) -> int | NDArray[np.int64]:
        """Trainable parameters at ``widths``; shapes as in `macs`."""
        if isinstance(widths, Mapping):
            return int(self._params.evaluate(self.as_array(widths)))
        return self._params.evaluate(self._checked(widths))

    @overload
    def macs_ratio(self, widths: Mapping[str, int]) -> float: ...
    @overload
    def macs_ratio(self, widths: NDArray[np.integer[Any]]) -> NDArray[np.float64]: ...
    def macs_ratio(self, widths: Widths) -> float | NDArray[np.float64]:
        """MACs at ``widths`` over the dense network's, in (0, 1]; shapes as in `macs`."""
        if isinstance(widths, Mapping):
            return self.macs(widths) / self.dense_macs
        return np.asarray(self.macs(widths) / self.dense_macs, dtype=np.float64)

    @overload
    def params_ratio(self, widths: Mapping[str, int]) -> float: ...
    @overload
    def params_ratio(self, widths: NDArray[np.integer[Any]]) -> NDArray[np.float64]: ...
    def params_ratio(self, widths: Widths) -> float | NDArray[np.float64]:
        """Parameters at ``widths`` over the dense network's, in (0, 1]; shapes as in `macs`."""
        if isinstance(widths, Mapping):
            return self.params(widths) / self.dense_params
        return np.asarray(self.params(widths) / self.dense_params, dtype=np.float64)

    @overload
    def layer_macs(self, widths: Mapping[str, int]) -> dict[str, int]: ...
    @overload
    def layer_macs(self, widths: NDArray[np.integer[Any]]) -> NDArray[np.int64]: ...
    def layer_macs(self, widths: Widths) -> dict[str, int] | NDArray[np.int64]:
        """MACs of each counted layer: by name for a mapping, shape (..., L) in the order of `counted_layers`."""
        if isinstance(widths, Mapping):
            each = self._macs.products(self.as_array(widths))
            return {name: int(count) for name, count in zip(self.counted_layers, each, strict=True)}
        return self._macs.products(self._checked(widths))

    @property
    def counted_layers(self) -> tuple[str, ...]:
        """Names of the layers that have MACs (convolutions and linear layers), in module order."""
        return tuple(layer.name for layer in self.layers if layer.macs)

    def as_array(self, mapping: Mapping[str, int]) -> NDArray[np.int64]:
        """Widths by name as an array (G,) in the order of ``groups``; an absent group has its dense width.

        Raises:
            ConfigError: A name is no group, or a width is outside ``1 .. dense``.
        """
        _check_names(self, mapping)
        return self._checked(
            np.array([mapping.get(name, width) for name, width in zip(self.groups, self.dense, strict=True)])
        )

    def as_mapping(self, array: NDArray[np.integer[Any]]) -> dict[str, int]:
        """The inverse of `as_array`: widths (G,) by name, as plain ints."""
        if np.shape(array) != (len(self.groups),):
            raise ConfigError(f"widths must have shape ({len(self.groups)},), but got {np.shape(array)}.")
        return {name: int(width) for name, width in zip(self.groups, array, strict=True)}

    def to_dict(self) -> dict[str, Any]:
        """The model as plain lists and numbers for JSON, with the convention."""
        return {
            "convention": CONVENTION,
            "groups": list(self.groups),
            "dense": list(self.dense),
            "steps": list(self.steps),
            "layers": [
                [
                    layer.name,
                    layer.macs,
                    layer.weights,
                    layer.biases,
                    _form_list(layer.fan_in),
                    _form_list(layer.fan_out),
                ]
                for layer in self.layers
            ],
        }

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> CostModel:
        """Read what `to_dict` wrote.

        Raises:
            ConfigError: The record counts by another convention.
        """
        if d.get("convention") != CONVENTION:
            raise ConfigError(
                f"costs must be counted by the convention {CONVENTION!r}, but this record uses "
                f"{d.get('convention')!r}; trace the network again to get a new one."
            )
        return cls(
            groups=tuple(d["groups"]),
            dense=tuple(int(width) for width in d["dense"]),
            steps=tuple(int(step) for step in d["steps"]),
            layers=tuple(
                LayerCost(name, macs, weights, biases, _list_form(fan_in), _list_form(fan_out))
                for name, macs, weights, biases, fan_in, fan_out in d["layers"]
            ),
        )

    @cached_property
    def _macs(self) -> _Polynomial:
        rows = [(layer.macs, layer.fan_in, layer.fan_out) for layer in self.layers if layer.macs]
        return _Polynomial.build(rows, len(self.groups), self.dense_macs)

    @cached_property
    def _params(self) -> _Polynomial:
        one = LinearForm(1)
        rows = [(layer.weights, layer.fan_in, layer.fan_out) for layer in self.layers if layer.weights]
        rows += [(layer.biases, one, layer.fan_out) for layer in self.layers if layer.biases]
        return _Polynomial.build(rows, len(self.groups), self.dense_params)

    def _checked(self, widths: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        array = np.asarray(widths)
        size = len(self.groups)
        if array.ndim not in (1, 2) or array.shape[-1] != size or (size and array.dtype.kind not in "iu"):
            raise ConfigError(
                f"widths must be a mapping or an integer array of shape ({size},) or (T, {size}), "
                f"but got {array.dtype} of shape {array.shape}."
            )
        array = array.astype(np.int64, copy=False)
        if size and array.size and ((array < 1) | (array > self._dense_array)).any():
            column = int(np.argwhere((array < 1) | (array > self._dense_array))[0, -1])
            wrong = array[..., column].ravel()
            raise ConfigError(
                f"the width of {self.groups[column]!r} must be in 1 .. {self.dense[column]}, "
                f"but got {int(wrong[(wrong < 1) | (wrong > self.dense[column])][0])}."
            )
        return array

    @cached_property
    def _dense_array(self) -> NDArray[np.int64]:
        return np.array(self.dense, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class _Polynomial:
    """A sum of products of two linear forms, as matrices."""

    coefficients: NDArray[Any]  # (L,)
    left: NDArray[Any]  # (G, L)
    left_constant: NDArray[Any]  # (L,)
    right: NDArray[Any]  # (G, L)
    right_constant: NDArray[Any]  # (L,)

    @classmethod
    def build(cls, rows: Sequence[tuple[int, LinearForm, LinearForm]], n_groups: int, largest: int) -> _Polynomial:
        # Every partial sum is at most the dense network's total, so its size decides which arithmetic is exact.
        dtype = np.float64 if largest < _EXACT else np.int64
        sides = []
        for side in (1, 2):
            matrix = np.zeros((n_groups, len(rows)), dtype=dtype)
            for column, row in enumerate(rows):
                form = row[side]
                assert isinstance(form, LinearForm)
                for group, coefficient in form.terms:
                    matrix[group, column] = coefficient
            forms = [row[side] for row in rows]
            sides += [matrix, np.array([f.constant for f in forms if isinstance(f, LinearForm)], dtype=dtype)]
        return cls(np.array([row[0] for row in rows], dtype=dtype), *sides)

    def products(self, widths: NDArray[np.int64]) -> NDArray[np.int64]:
        exact = widths.astype(self.coefficients.dtype, copy=False)
        fan_in = exact @ self.left + self.left_constant
        fan_out = exact @ self.right + self.right_constant
        product: NDArray[np.int64] = (fan_in * fan_out * self.coefficients).astype(np.int64)
        return product

    def evaluate(self, widths: NDArray[np.int64]) -> NDArray[np.int64]:
        exact = widths.astype(self.coefficients.dtype, copy=False)
        if widths.ndim == 1:
            return self._sum(exact).astype(np.int64)
        parts = [self._sum(exact[start : start + _CHUNK]) for start in range(0, len(exact), _CHUNK)]
        return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)

    def value(self, widths: NDArray[Any]) -> float:
        """The cost of one vector of widths (G,), which may be real-valued."""
        return float(self._sum(widths))

    def _sum(self, exact: NDArray[Any]) -> NDArray[Any]:
        fan_in = exact @ self.left + self.left_constant
        fan_in *= exact @ self.right + self.right_constant
        total: NDArray[Any] = np.asarray(fan_in @ self.coefficients)
        return total


def _form_list(form: LinearForm) -> list[Any]:
    return [form.constant, [list(term) for term in form.terms]]


def _list_form(data: Sequence[Any]) -> LinearForm:
    return LinearForm(int(data[0]), tuple((int(group), int(coefficient)) for group, coefficient in data[1]))


def _check_names(model: CostModel, names: Mapping[str, Any]) -> None:
    known = set(model.groups)
    for name in names:
        if name not in known:
            raise ConfigError(unknown_name("channel group", name, model.groups))


# -- the inverse ----------------------------------------------------------------------------------------------------


def fit(
    model: CostModel,
    *,
    macs: float | None = None,
    params: float | None = None,
    shape: Mapping[str, float] | None = None,
    min_widths: Mapping[str, int] | None = None,
    multiple: int = 1,
) -> dict[str, int]:
    """The widest widths of a given shape that cost no more than the limits.

    The proportional widths are ``scale * shape * dense``, clipped to ``[min, dense]``, at the scale where real-valued
    widths would meet the limits exactly. They are rounded down to allowed widths, and the room that is left goes to one
    more step of as many groups as fit, largest remainder first.

    What holds, where a step is the distance to the next allowed width:

    - the limits are met, and no group can grow by one step without breaking them;
    - every width is within one step of the proportional one, except where room is left that can't be filled so: if
      every order that was tried leaves room that only groups already rounded up can use, these grow further. No width
      is ever more than one step below.

    Args:
        model: Costs to invert.
        macs: Largest count of MACs (not a ratio); None for no limit.
        params: Largest count of parameters; at least one of the two limits must be given.
        shape: Relative keep ratios by group, > 0; an absent group has 1. Only their proportions matter.
        min_widths: Smallest widths by group, 1 if absent, rounded up to an allowed width.
        multiple: Allowed widths are multiples of it in groups whose dense width is larger, and the dense width itself.

    Returns:
        A width for every group.

    Raises:
        ConfigError: No limit, an unknown group, or a shape, minimum or multiple out of range.
        InfeasibleError: Even the smallest widths cost more; the message names the reachable minimum.
    """
    shape, min_widths = shape or {}, min_widths or {}
    _check_request(model, macs, params, shape, min_widths, multiple)
    ladders = [
        allowed_widths(dense, step, multiple, min_widths.get(name, 1))
        for name, dense, step in zip(model.groups, model.dense, model.steps, strict=True)
    ]
    limits = [(poly, limit) for poly, limit in ((model._macs, macs), (model._params, params)) if limit is not None]

    def meets(widths: NDArray[Any]) -> bool:
        return all(poly.value(widths) <= limit for poly, limit in limits)

    smallest = np.array([ladder[0] for ladder in ladders], dtype=np.float64)
    if not meets(smallest):
        raise InfeasibleError(_infeasible(model, macs, params, smallest))
    pace = np.array([shape.get(name, 1.0) * dense for name, dense in zip(model.groups, model.dense, strict=True)])
    proportional = _proportional(pace, smallest, np.array(model.dense, dtype=np.float64), meets)
    return model.as_mapping(_round(proportional, ladders, meets, lambda widths: limits[0][0].value(widths)))


def _proportional(
    pace: NDArray[np.float64],
    smallest: NDArray[np.float64],
    dense: NDArray[np.float64],
    meets: Callable[[NDArray[Any]], bool],
) -> NDArray[np.float64]:
    """The widest real-valued ``clip(scale * pace)`` that meets the limits, shape (G,)."""
    low, high = 0.0, float(np.max(dense / pace, initial=0.0))
    widths = np.clip(high * pace, smallest, dense)
    if meets(widths):
        return widths
    while low < (middle := (low + high) / 2) < high:  # until the two are neighbours in float64
        low, high = (middle, high) if meets(np.clip(middle * pace, smallest, dense)) else (low, middle)
    return np.clip(low * pace, smallest, dense)


def _round(
    proportional: NDArray[np.float64],
    ladders: Sequence[NDArray[np.int64]],
    meets: Callable[[NDArray[Any]], bool],
    cost: Callable[[NDArray[Any]], float],
) -> NDArray[np.int64]:
    """Allowed widths near the proportional ones that meet the limits and can't grow, shape (G,)."""
    n_groups = len(ladders)
    floors = np.array(
        [np.searchsorted(ladder, width, side="right") - 1 for ladder, width in zip(ladders, proportional, strict=True)],
        dtype=np.int64,
    )

    def widths_at(rungs: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.array([ladder[rung] for ladder, rung in zip(ladders, rungs, strict=True)], dtype=np.float64)

    def grows(rungs: NDArray[np.int64], group: int) -> bool:
        """Take one step with ``group`` if it fits."""
        if rungs[group] + 1 >= len(ladders[group]):
            return False
        rungs[group] += 1
        if meets(widths_at(rungs)):
            return True
        rungs[group] -= 1
        return False

    base = widths_at(floors)
    gaps = widths_at(np.minimum(floors + 1, [len(ladder) - 1 for ladder in ladders])) - base
    remainder = (proportional - base) / np.maximum(gaps, 1.0)
    step_cost = np.array([cost(base + gaps * (np.arange(n_groups) == group)) for group in range(n_groups)])
    generator = np.random.default_rng(0)  # the same tries every time, so equal requests get equal widths
    orders = [np.argsort(-remainder, kind="stable"), np.argsort(-step_cost, kind="stable")]
    exact = np.flatnonzero((remainder == 0) & (floors > 0))  # one step down is also within one step
    first: NDArray[np.int64] | None = None
    for attempt in range(_TRIES):
        rungs = floors.copy()
        order = orders[attempt] if attempt < len(orders) else generator.permutation(n_groups)
        if attempt >= len(orders):
            rungs[exact[generator.random(len(exact)) < generator.random()]] -= 1
        for group in order:
            while rungs[group] <= floors[group] and grows(rungs, int(group)):
                pass
        first = rungs.copy() if first is None else first
        if not any(grows(rungs, group) for group in range(n_groups)):
            return widths_at(rungs).astype(np.int64)
    assert first is not None
    # Costs only grow, so a group that does not fit now never will: one queue reaches the end.
    queue = [(float(ladders[g][first[g]] / proportional[g]), g) for g in range(n_groups)]
    heapq.heapify(queue)
    while queue:
        _, group = heapq.heappop(queue)
        if grows(first, group):
            heapq.heappush(queue, (float(ladders[group][first[group]] / proportional[group]), group))
    return widths_at(first).astype(np.int64)


def allowed_widths(dense: int, step: int, multiple: int, smallest: int) -> NDArray[np.int64]:
    """Allowed widths of one group, rising, ending with the dense one.

    Args:
        dense: The group's dense width.
        step: What every width must be a multiple of.
        multiple: Widths below the dense one are multiples of it, where the dense width is larger.
        smallest: None is smaller than this, in 1 .. ``dense``.

    Example:
        >>> allowed_widths(20, 1, 8, 3), allowed_widths(6, 2, 8, 1)
        (array([ 8, 16, 20]), array([2, 4, 6]))
    """
    stride = math.lcm(step, multiple) if dense > multiple else step
    widths = np.arange(stride, dense, stride, dtype=np.int64)
    return np.append(widths[widths >= smallest], dense)


def _check_request(
    model: CostModel,
    macs: float | None,
    params: float | None,
    shape: Mapping[str, float],
    min_widths: Mapping[str, int],
    multiple: int,
) -> None:
    if macs is None and params is None:
        raise ConfigError("`fit` needs a limit: give `macs`, `params` or both.")
    _check_names(model, shape)
    _check_names(model, min_widths)
    for name, value in shape.items():
        if not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"a shape must be a positive number, but got {value!r} for group {name!r}.")
    for name, smallest in min_widths.items():
        dense = model.dense[model.groups.index(name)]
        if not 1 <= smallest <= dense:
            raise ConfigError(f"the smallest width of {name!r} must be in 1 .. {dense}, but got {smallest}.")
    if multiple < 1:
        raise ConfigError(f"`multiple` must be at least 1, but got multiple={multiple}.")


def _infeasible(model: CostModel, macs: float | None, params: float | None, smallest: NDArray[np.float64]) -> str:
    missed = []
    for unit, limit, poly, dense in (
        ("MACs", macs, model._macs, model.dense_macs),
        ("parameters", params, model._params, model.dense_params),
    ):
        if limit is not None and (least := int(poly.value(smallest))) > limit:
            missed.append(f"at most {limit:,.0f} {unit}, but the least is {least:,} ({least / dense:.1%} of dense)")
    return (
        f"the widths must cost {' and '.join(missed)}. "
        "Raise the limit, lower the smallest widths, or exclude fewer layers."
    )
