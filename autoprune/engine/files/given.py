"""Weights that somebody brings: named as the network's own, or with what wrappers put before the names."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from torch import nn

from autoprune.engine.files.reading import read_tensors
from autoprune.engine.files.weights import load_into

__all__ = ["load_given"]

_log = logging.getLogger(__name__)

_COMPILED = "_orig_mod."  # torch.compile puts it before the names of what is in the module that it wraps.
_AVERAGED = "n_averaged"  # The counter of torch.optim.swa_utils.AveragedModel, which wraps in `module.`.


def load_given(model: nn.Module, path: Path) -> None:
    """Load a file of weights into a network, all of them and nothing else.

    A prefix that all names share (``module.`` of DataParallel, ``_orig_mod.`` of torch.compile, ``model.`` of a
    training script) is taken off, or put before them, where they are the network's names otherwise; a log line says so.

    Args:
        model: Changed in place.
        path: See `read_tensors`.

    Raises:
        WeightsError: The file can't be read, or does not fit.
    """
    given = read_tensors(path)
    own = [name for name in model.state_dict() if not _is_bookkeeping(name)]
    best = max(_namings(list(given), own), key=lambda names: len(set(own).intersection(names.values())))
    tensors = {best[name]: tensor for name, tensor in given.items() if name in best}
    renamed = [(name, other) for name, other in best.items() if name != other]
    if renamed:
        _log.warning("weights: of %s the tensor %r is read as %r, and all others likewise", path, *renamed[0])
    load_into(model, tensors, source=str(path))


def _is_bookkeeping(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _namings(names: list[str], own: list[str]) -> Iterator[Mapping[str, str]]:
    """Ways to read the names of a file, the plainest first; those that are not in it are left out."""
    as_is = {name: name for name in names}
    yield as_is
    plain = {name: name.replace(_COMPILED, "") for name in names}
    if len(set(plain.values())) == len(names):
        yield plain
    found = {name: other for name, other in plain.items() if name != _AVERAGED}
    while prefix := _shared(found.values()):
        found = {name: other.removeprefix(prefix) for name, other in found.items()}
        yield found
    if prefix := _shared(own):
        yield {name: f"{prefix}{name}" for name in names}


def _shared(names: Iterable[str]) -> str:
    """The first part of all names, with its point; empty where they do not share it."""
    firsts = {name.partition(".")[0] if "." in name else "" for name in names}
    return f"{first}." if len(firsts) == 1 and (first := firsts.pop()) else ""
