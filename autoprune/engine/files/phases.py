"""Results of the dense and sparsify phases, kept in a folder under the hash of what they depend on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
from torch import Tensor

from autoprune.config import digest
from autoprune.engine.files.reading import read_tensors
from autoprune.engine.files.weights import publish, sha256_of
from autoprune.errors import WeightsError

__all__ = ["PHASE_VERSIONS", "Phase", "PhaseStore", "phase_key", "with_state"]

_OWN = "method:"  # A name of a parameter can't begin so.

PHASE_VERSIONS = {"dense": 1, "sparsify": 1, "finetune": 1, "teacher": 1}
"""Raised by one whenever the code of a phase changes what it computes."""


@dataclass(frozen=True)
class Phase:
    """A phase's result.

    Args:
        key: Hash of what it depends on.
        tensors: The network's weights, and what the method trained beside them.
        record: Facts about it, JSON-serialisable.
        path: The file it lies in.
        size_bytes: Its size.
    """

    key: str
    tensors: dict[str, Tensor]
    record: dict[str, Any]
    path: Path
    size_bytes: int

    @property
    def weights(self) -> dict[str, Tensor]:
        """Of the tensors, the network's."""
        return {name: tensor for name, tensor in self.tensors.items() if not name.startswith(_OWN)}

    @property
    def state(self) -> dict[str, Tensor]:
        """Of the tensors, what the method trained beside the network."""
        return {name.removeprefix(_OWN): tensor for name, tensor in self.tensors.items() if name.startswith(_OWN)}

    @property
    def sha256(self) -> str:
        """Hash of the file."""
        return str(self.record["sha256"])

    @property
    def file(self) -> dict[str, Any]:
        """What the ledger of phases keeps of it, JSON-serialisable."""
        return {"key": self.key, "place": str(self.path), "sha256": self.sha256, "size_bytes": self.size_bytes}


def with_state(weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a phase: the network's weights, and what the method trained beside them, apart by its names."""
    return {**weights, **{f"{_OWN}{name}": tensor for name, tensor in state.items()}}


def phase_key(kind: str, *depends_on: Any) -> str:
    """Hash a phase's version and everything its result depends on."""
    return digest(kind, PHASE_VERSIONS[kind], *depends_on)


class PhaseStore:
    """A folder of immutable phase results, shared by all workers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, kind: str, key: str) -> Path:
        """Where the result of this phase lies or will lie."""
        return self.folder / f"{kind}-{key}.safetensors"

    def find(self, kind: str, key: str) -> Phase | None:
        """The result if it is there and whole; a damaged or half-written one counts as absent."""
        path = self.path(kind, key)
        try:
            record = json.loads(path.with_suffix(".json").read_text())
            if record["sha256"] != sha256_of(path):
                return None
            return Phase(key, read_tensors(path), record, path, path.stat().st_size)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, WeightsError):
            return None

    def get(self, kind: str, key: str, compute: Callable[[], tuple[dict[str, Tensor], dict[str, Any]]]) -> Phase:
        """Take the result from the folder, or compute and publish it.

        Two workers that compute the same phase at once waste one of the computations; nothing breaks: the first
        result to be published is the one that both return.
        """
        found = self.find(kind, key)
        if found is not None:
            return found
        tensors, record = compute()
        path = self.path(kind, key)
        self.folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_suffix(".lock")):  # A result is two files; two writers would mix theirs.
            found = self.find(kind, key)
            if found is not None:
                return found
            publish(path, tensors, {**record, "kind": kind, "key": key})
        again = self.find(kind, key)
        if again is None:
            raise WeightsError(f"phase {kind}-{key} could not be read back from {self.folder}. Check the disk.")
        return again
