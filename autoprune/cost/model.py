"""What widths cost: MACs, parameters and activation memory of a network as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from autoprune.cost.forms import LinearForm, form_from_list, form_to_list
from autoprune.cost.peaks import Peak
from autoprune.errors import ConfigError, unknown_name

__all__ = ["CONVENTION", "CostModel", "LayerCost", "Polynomial", "check_groups"]

CONVENTION = "macs-1"
"""Version of the counting rule that every record carries.

One MAC is one multiply-accumulate of a convolution or linear layer, for one input, in eval mode. Bias, batch
normalisation, activation and pooling count nothing. ``flops = 2 * macs``.
"""

Widths = Mapping[str, int] | NDArray[np.integer[Any]]

_CHUNK = 4096  # rows evaluated at once: the two products of a chunk then stay in the processor's cache
_EXACT = 2**53  # float64 holds every integer below it, so its fast matrix product is exact


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
    """MACs, parameters and peak activation memory of a network as exact functions of its group widths.

    A layer's MACs are a product of two linear forms of the widths, so a million width vectors are two matrix
    products. What lives at one step of a pass is one linear form, and the peak is the largest. Widths come as a mapping
    (an absent group has its dense width) or as an integer array (G,) or (T, G) in the order of ``groups``.

    Args:
        groups: Names of the G channel groups.
        dense: Their widths in the dense network.
        layers: The costs of the L layers, in module order.
        activations: Bytes of all that lives at a step of the pass, by step, without those that never matter; empty
            where nobody knows.

    Example:
        >>> conv = LayerCost("conv", 9 * 64, 9, 0, LinearForm(3), LinearForm(0, ((0, 1),)))
        >>> model = CostModel(("conv",), (16,), (conv,))
        >>> model.macs({"conv": 8}), model.macs_ratio({"conv": 8})
        (13824, 0.5)
    """

    groups: tuple[str, ...]
    dense: tuple[int, ...]
    layers: tuple[LayerCost, ...]
    activations: tuple[LinearForm, ...] = ()

    def __post_init__(self) -> None:
        if len(self.groups) != len(self.dense):
            raise ConfigError(
                f"a cost model needs one dense width for each group, but got {len(self.groups)} groups and "
                f"{len(self.dense)} widths."
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
            return int(self.macs_polynomial.evaluate(self.as_array(widths)))
        return self.macs_polynomial.evaluate(self._checked(widths))

    @overload
    def params(self, widths: Mapping[str, int]) -> int: ...
    @overload
    def params(self, widths: NDArray[np.integer[Any]]) -> NDArray[np.int64]: ...
    def params(self, widths: Widths) -> int | NDArray[np.int64]:
        """Trainable parameters at ``widths``; shapes as in `macs`."""
        if isinstance(widths, Mapping):
            return int(self.params_polynomial.evaluate(self.as_array(widths)))
        return self.params_polynomial.evaluate(self._checked(widths))

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
    def peak_activation_bytes(self, widths: Mapping[str, int]) -> int: ...
    @overload
    def peak_activation_bytes(self, widths: NDArray[np.integer[Any]]) -> NDArray[np.int64]: ...
    def peak_activation_bytes(self, widths: Widths) -> int | NDArray[np.int64]:
        """The most that tensors take at once in a pass of one input, all floats as float32; shapes as in `macs`.

        Operators run in the order in which the network calls them. A tensor takes room from the operator that writes
        it to the last one that reads it, the input and the answers among them: what a runtime needs that frees each as
        soon as it can. Views and what is changed in place take none of their own; weights, and scratch memory within
        an operator, are not counted.

        Raises:
            ConfigError: The model comes from a record that does not know it.
        """
        if isinstance(widths, Mapping):
            return int(self.activation_peak.evaluate(self.as_array(widths)))
        return self.activation_peak.evaluate(self._checked(widths))

    @cached_property
    def dense_peak_activation_bytes(self) -> int:
        """Peak activation memory of the dense network; see `peak_activation_bytes`."""
        return int(self.activation_peak.evaluate(np.array(self.dense, dtype=np.int64)))

    @overload
    def layer_macs(self, widths: Mapping[str, int]) -> dict[str, int]: ...
    @overload
    def layer_macs(self, widths: NDArray[np.integer[Any]]) -> NDArray[np.int64]: ...
    def layer_macs(self, widths: Widths) -> dict[str, int] | NDArray[np.int64]:
        """MACs of each counted layer: by name for a mapping, shape (..., L) in the order of `counted_layers`."""
        if isinstance(widths, Mapping):
            each = self.macs_polynomial.products(self.as_array(widths))
            return {name: int(count) for name, count in zip(self.counted_layers, each, strict=True)}
        return self.macs_polynomial.products(self._checked(widths))

    @property
    def counted_layers(self) -> tuple[str, ...]:
        """Names of the layers that have MACs (convolutions and linear layers), in module order."""
        return tuple(layer.name for layer in self.layers if layer.macs)

    @cached_property
    def stages(self) -> dict[str, tuple[str, ...]]:
        """Groups by stage of the network: those that are written at the same number of output positions.

        Stages are named ``stage1``, ``stage2``, ... from the most positions to the fewest. A group belongs where the
        first counted layer that writes it works; one that no counted layer writes belongs to the last stage.

        Example:
            >>> half = LayerCost("half", 9 * 16, 9, 0, LinearForm(0, ((0, 1),)), LinearForm(0, ((1, 1),)))
            >>> conv = LayerCost("conv", 9 * 64, 9, 0, LinearForm(3), LinearForm(0, ((0, 1),)))
            >>> CostModel(("conv", "half"), (16, 32), (conv, half)).stages
            {'stage1': ('conv',), 'stage2': ('half',)}
        """
        positions: dict[int, int] = {}
        for layer in self.layers:
            if layer.macs and layer.weights:
                for group, _ in layer.fan_out.terms:
                    positions.setdefault(group, layer.macs // layer.weights)
        least = min(positions.values(), default=0)
        by_positions: dict[int, list[str]] = {}
        for group, name in enumerate(self.groups):
            by_positions.setdefault(positions.get(group, least), []).append(name)
        ordered = sorted(by_positions.items(), reverse=True)
        return {f"stage{number}": tuple(names) for number, (_, names) in enumerate(ordered, start=1)}

    def as_array(self, mapping: Mapping[str, int]) -> NDArray[np.int64]:
        """Widths by name as an array (G,) in the order of ``groups``; an absent group has its dense width.

        Raises:
            ConfigError: A name is no group, or a width is outside ``1 .. dense``.
        """
        check_groups(self, mapping)
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
            # Always one, but hashed into the identity of every study that there is.
            "steps": [1] * len(self.groups),
            "layers": [
                [
                    layer.name,
                    layer.macs,
                    layer.weights,
                    layer.biases,
                    form_to_list(layer.fan_in),
                    form_to_list(layer.fan_out),
                ]
                for layer in self.layers
            ],
            "activations": [form_to_list(form) for form in self.activations],
        }

    @property
    def identity(self) -> dict[str, Any]:
        """What of `to_dict` tells networks apart: activations follow from the rest, and older studies have none."""
        return {key: value for key, value in self.to_dict().items() if key != "activations"}

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
            layers=tuple(
                LayerCost(name, macs, weights, biases, form_from_list(fan_in), form_from_list(fan_out))
                for name, macs, weights, biases, fan_in, fan_out in d["layers"]
            ),
            activations=tuple(map(form_from_list, d.get("activations", ()))),  # Older records have none.
        )

    @cached_property
    def macs_polynomial(self) -> Polynomial:
        """MACs as matrices."""
        rows = [(layer.macs, layer.fan_in, layer.fan_out) for layer in self.layers if layer.macs]
        return Polynomial.build(rows, len(self.groups), self.dense_macs)

    @cached_property
    def params_polynomial(self) -> Polynomial:
        """Parameters as matrices."""
        one = LinearForm(1)
        rows = [(layer.weights, layer.fan_in, layer.fan_out) for layer in self.layers if layer.weights]
        rows += [(layer.biases, one, layer.fan_out) for layer in self.layers if layer.biases]
        return Polynomial.build(rows, len(self.groups), self.dense_params)

    @cached_property
    def activation_peak(self) -> Peak:
        """Peak activation memory as a matrix.

        Raises:
            ConfigError: The model comes from a record that does not know it.
        """
        if not self.activations:
            raise ConfigError(
                "peak activation memory must be known to the cost model, but this record does not hold it; trace the "
                "network again to get a new one."
            )
        return Peak.build(self.activations, len(self.groups))

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
class Polynomial:
    """A sum of products of two linear forms, as matrices."""

    coefficients: NDArray[Any]  # (L,)
    left: NDArray[Any]  # (G, L)
    left_constant: NDArray[Any]  # (L,)
    right: NDArray[Any]  # (G, L)
    right_constant: NDArray[Any]  # (L,)

    @classmethod
    def build(cls, rows: Sequence[tuple[int, LinearForm, LinearForm]], n_groups: int, largest: int) -> Polynomial:
        """Gather rows (coefficient, form, form) over ``n_groups`` widths; no value is above ``largest``."""
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
        """Each row's product, shape (..., L), at integer widths (..., G)."""
        exact = widths.astype(self.coefficients.dtype, copy=False)
        fan_in = exact @ self.left + self.left_constant
        fan_out = exact @ self.right + self.right_constant
        product: NDArray[np.int64] = (fan_in * fan_out * self.coefficients).astype(np.int64)
        return product

    def evaluate(self, widths: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sum of the products, shape () or (T,), at integer widths (G,) or (T, G)."""
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


def check_groups(model: CostModel, names: Mapping[str, Any]) -> None:
    """Raise ConfigError where a name is no channel group of the model."""
    known = set(model.groups)
    for name in names:
        if name not in known:
            raise ConfigError(unknown_name("channel group", name, model.groups))
