"""Tensors from files of any kind that PyTorch's users write, and never by running what is in them."""

from __future__ import annotations

import io
import logging
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from autoprune.errors import WeightsError

__all__ = ["read_tensors"]

_log = logging.getLogger(__name__)

_WRAPPERS = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params",
    "model_ema", "state_dict_ema", "ema_state_dict", "ema",
)  # fmt: skip
"""Names under which training scripts keep the state_dict in a checkpoint; the first that is there is meant."""

_TENSORS_ONLY = ("collections.OrderedDict", "torch._utils.", "torch.storage.", "torch._tensor.")
_MOST_NAMED = 3


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, or a ``.pt`` or ``.pth`` file of plain tensors with ``weights_only=True``.

    Of a checkpoint, a table that holds the state_dict beside other things, the state_dict is read. A file of before
    PyTorch 1.6 is read as a newer one.

    Args:
        path: What is in the file says what it is, not its name.

    Raises:
        WeightsError: There is no such file, it is damaged, or it holds more than tensors.
    """
    if not path.is_file():
        raise WeightsError(f"weights: there is no file {path}. Check the path.")
    with path.open("rb") as file:
        start = file.read(9)
    # A safetensors file begins with the size of its header, whose lowest byte may be that which begins a pickle.
    is_pickle = start[:1] == pickle.PROTO and start[8:] != b"{"
    if zipfile.is_zipfile(path) or is_pickle:
        return _state_dict_in(_unpickled(path), path)
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    except SafetensorError as error:
        raise WeightsError(
            f"weights: {path} must be a safetensors file, or a .pt file of plain tensors, but it is neither ({error}). "
            "Save a state_dict with safetensors.torch.save_file."
        ) from error


def _unpickled(path: Path) -> Any:
    """What is in a file of PyTorch, as far as it is made of tensors and plain values."""
    try:
        if zipfile.is_zipfile(path):
            _check_archive(path)
        # Opened here: by its path, a file that is named `.safetensors` would be taken for one.
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns of its own older formats.
            return torch.load(file, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except pickle.UnpicklingError as error:
        raise WeightsError(_pickled_objects(path)) from error
    except Exception as error:  # `zipfile` and PyTorch raise whatever a damaged archive makes them stumble over.
        raise WeightsError(
            f"weights: {path} must be a whole .pt file, but can't be read ({type(error).__name__}). Copy it again."
        ) from error


def _check_archive(path: Path) -> None:
    """Refuse programs, which are archives of the same ending."""
    with zipfile.ZipFile(path) as archive:
        names = {name.partition("/")[2] or name for name in archive.namelist()}
    start = f"weights: {path} must hold plain tensors only, but is a program of"
    if "constants.pkl" in names:
        line = f"torch.save(torch.jit.load({str(path)!r}).state_dict(), {_beside(path)!r})"
        raise WeightsError(f"{start} TorchScript. Save its weights, if you trust it: {line}")
    if any("exported_program" in name or name.endswith("models/model.json") for name in names):
        line = f"torch.save(torch.export.load({str(path)!r}).state_dict, {_beside(path)!r})"
        raise WeightsError(f"{start} torch.export. Save its weights, if you trust it: {line}")


def _pickled_objects(path: Path) -> str:
    """What a pickle holds beside tensors, and how its tensors are got out of it."""
    found = _Mentions.of(path)
    strange = [name for name in found.objects if not name.startswith(_TENSORS_ONLY) and not name.endswith("Storage")]
    named = ", ".join(strange[:_MOST_NAMED]) + (", ..." if len(strange) > _MOST_NAMED else "")
    wrapper = next((name for name in _WRAPPERS if name in found.strings), None)
    has_networks = any(name.startswith("torch.nn.modules.") for name in strange)
    loaded = f"torch.load({str(path)!r}, weights_only=False)"
    if has_networks and not found.is_table:
        what, got = "a whole network", f"{loaded}.state_dict()"
    elif wrapper is not None and found.is_table:
        what, got = "a checkpoint with other objects", f"{loaded}[{wrapper!r}]" + ".state_dict()" * has_networks
    else:
        what, got = "a pickle of other objects", "network.state_dict()"
    return (
        f"weights: {path} must hold plain tensors only, but it is {what}{f' ({named})' if named else ''}, which can "
        f"run code when loaded. Save its tensors, if you trust it: torch.save({got}, {_beside(path)!r})"
    )


@dataclass
class _Mentions:
    """What a pickle names; nothing of it is run.

    Args:
        objects: Classes and functions, in order.
        strings: All of its strings, in order.
        is_table: Whether it is a dictionary of what follows.
    """

    objects: dict[str, None] = field(default_factory=dict)
    strings: list[str] = field(default_factory=list)
    is_table: bool = False
    _memo: dict[object, str | None] = field(default_factory=dict)
    _last: str = ""

    @classmethod
    def of(cls, path: Path) -> _Mentions:
        """Look through a file of PyTorch as far as it goes."""
        found = cls()
        try:
            for number, content in enumerate(_pickles(path)):
                operations = list(content)
                found._memo.clear()
                for operation in operations:
                    found._take(*operation)
                # The object itself is the only pickle of a file, or the fourth one of those of before PyTorch 1.6.
                if number in (0, 3):
                    first = next((name for name, _ in operations if name not in ("PROTO", "FRAME")), "")
                    found.is_table = first == "EMPTY_DICT" or next(iter(found.objects), "") == "collections.OrderedDict"
        except Exception as error:  # What is damaged is told as far as it was read.
            _log.debug("%s could not be looked through to its end: %s", path, error)
        return found

    def _take(self, name: str, argument: object) -> None:
        if name == "GLOBAL":
            self.objects[str(argument).replace(" ", ".", 1)] = None
        elif name == "STACK_GLOBAL":
            self.objects[".".join(self.strings[-2:])] = None
        elif "UNICODE" in name:
            self.strings.append(str(argument))
        elif name == "MEMOIZE" or name.endswith("PUT"):
            place = len(self._memo) if name == "MEMOIZE" else argument
            self._memo[place] = self.strings[-1] if "UNICODE" in self._last else None
        elif name.endswith("GET") and (said := self._memo.get(argument)) is not None:
            self.strings.append(said)  # Said before, and now again.
        self._last = name


def _pickles(path: Path) -> Iterator[Iterator[tuple[str, object]]]:
    """The operations of each pickle in a file, which is an archive or several pickles before its tensors."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith("data.pkl"):
                    yield _operations(io.BytesIO(archive.read(name)))
        return
    with path.open("rb") as file:
        while file.peek(1)[:1] == pickle.PROTO:
            yield _operations(file)


def _operations(file: IO[bytes]) -> Iterator[tuple[str, object]]:
    return ((opcode.name, argument) for opcode, argument, _ in pickletools.genops(file))


def _beside(path: Path) -> str:
    return str(path.with_name(f"{path.stem}_weights.pt"))


def _state_dict_in(state: object, path: Path) -> dict[str, Tensor]:
    """The tensors of a state_dict, or of the one in a checkpoint."""
    if not isinstance(state, Mapping):
        what = type(state).__name__
        raise WeightsError(
            f"weights: {path} must hold a state_dict, but holds a {what}. Save the network's `state_dict()`."
        )
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    if state and len(tensors) == len(state):
        return tensors
    wrappers = [name for name in _WRAPPERS if isinstance(state.get(name), Mapping)]
    if wrappers:
        left = [repr(str(name)) for name in state if name != wrappers[0]]
        _log.warning("weights: of %s the entry %r is read, and not %s", path, wrappers[0], ", ".join(left) or "more")
        return _state_dict_in(state[wrappers[0]], path)
    if {"state", "param_groups"} <= set(state):
        raise WeightsError(
            f"weights: {path} must hold a network's state_dict, but holds an optimizer's (`state`, `param_groups`). "
            "Give the file that the network was saved to."
        )
    if not state:
        raise WeightsError(f"weights: {path} must hold a state_dict, but holds nothing. Save the network's.")
    name = next(name for name in state if not isinstance(state[name], Tensor))
    value, advice = state[name], "Save the state_dict alone."
    if isinstance(value, Mapping) and any(isinstance(entry, Tensor) for entry in value.values()):
        advice = f"If those are the weights: torch.save(torch.load({str(path)!r})[{name!r}], {_beside(path)!r})"
    raise WeightsError(
        f"weights: {path} must hold a flat state_dict, but its entry {name!r} is a {type(value).__name__}. {advice}"
    )
