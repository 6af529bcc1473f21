"""Networks of finished trials that a trial starts from: found again on disk, or made once more in memory."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from autoprune.config import Ancestor
from autoprune.engine.channels import Traced
from autoprune.engine.files import load_into, read_tensors
from autoprune.engine.surgery import cut, narrowed
from autoprune.errors import AutopruneError, WeightsError
from autoprune.pipeline.saved import read_record
from autoprune.pipeline.workbench import Workbench
from autoprune.widths import Kept

__all__ = ["Inherited", "as_kept", "inherit", "inherited"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Inherited:
    """A network that has been cut and trained already.

    Args:
        number: The trial that made it.
        sha256: What tells it from others: the hash of its file.
        network: On the runtime's device; never trained in place.
        traced: The groups of the dense network, as wide as they are here.
        kept: Its channels by group, counted in the dense network.
    """

    number: int
    sha256: str
    network: nn.Module
    traced: Traced
    kept: Kept

    def within(self, kept: Kept) -> Kept:
        """Channels of the dense network as channels of this one.

        Raises:
            WeightsError: One of them is not here.
        """
        found = {}
        for name, indices in kept.items():
            places = np.searchsorted(self.kept[name], indices)
            if places.max() >= len(self.kept[name]) or (self.kept[name][places] != indices).any():
                raise WeightsError(
                    f"a trial's channels must be among those of its parent, but of group {name!r} trial {self.number} "
                    "lacks some. The records of the study's networks are damaged; put its artifacts folder back."
                )
            found[name] = places
        return found

    def in_dense(self, kept: Kept) -> Kept:
        """Channels of this network as channels of the dense one."""
        return {name: self.kept[name][indices] for name, indices in kept.items()}


def as_kept(channels: Mapping[str, Sequence[int]]) -> Kept:
    """Plain lists of channels as arrays."""
    return {name: np.asarray(indices, dtype=np.int64) for name, indices in channels.items()}


def inherited(network: nn.Module, kept: Kept, *, number: int, sha256: str, workbench: Workbench) -> Inherited:
    """A pruned network as one to start from.

    Args:
        network: On the runtime's device.
        kept: Its channels, counted in the dense network.
        number: The trial that made it.
        sha256: Hash of its file.
        workbench: Of the trial's setting.
    """
    whole = {group.name: np.arange(group.width) for group in workbench.traced.groups}
    kept = {**whole, **kept}
    return Inherited(number, sha256, network, narrowed(workbench.network, workbench.traced, kept), kept)


def inherit(ancestors: Sequence[Ancestor], *, workbench: Workbench) -> Inherited | None:
    """The network of the first ancestor whose file is there and whole; None where that holds for none of them.

    Args:
        ancestors: The parent first.
        workbench: Of the trial's setting.
    """
    for ancestor in ancestors:
        try:
            return _load(ancestor, workbench)
        except (AutopruneError, OSError, ValueError) as error:
            _log.warning("trial %d can't be started from: %s", ancestor.number, error)
    return None


def _load(ancestor: Ancestor, workbench: Workbench) -> Inherited:
    path = Path(ancestor.weights)
    record = read_record(path)
    if record["sha256"] != ancestor.sha256:
        raise WeightsError(f"{path} must be the network of trial {ancestor.number}, but is that of another one.")
    kept = as_kept(record["kept"])
    network = cut(workbench.network, workbench.traced.groups, kept)
    load_into(network, read_tensors(path), source=str(path))
    network.to(workbench.runtime.device).eval()
    return inherited(network, kept, number=ancestor.number, sha256=ancestor.sha256, workbench=workbench)
