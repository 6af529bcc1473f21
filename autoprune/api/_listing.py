"""Names to choose from: methods, architectures, search spaces, studies."""

from __future__ import annotations

from autoprune.api._reading import storage_url
from autoprune.architectures import ARCHITECTURES
from autoprune.config import stock_spaces
from autoprune.errors import ConfigError, unknown_name
from autoprune.methods import METHODS
from autoprune.search.storage import Database, StudyHandle, list_studies
from autoprune.search.trials import counted

__all__ = ["list_names"]

_KINDS = ("methods", "architectures", "spaces", "studies")


def list_names(kind: str, storage: str | None = None) -> list[tuple[str, str]]:
    """Names with a word on each.

    Args:
        kind: ``"methods"``, ``"architectures"``, ``"spaces"`` or ``"studies"``.
        storage: The database, for studies.

    Raises:
        ConfigError: There is no such kind.
        StorageError: The database is not there.
    """
    if kind not in _KINDS:
        raise ConfigError(unknown_name("list", kind, _KINDS))
    if kind == "methods":
        return [(name, METHODS[name].summary) for name in sorted(METHODS)]
    if kind == "architectures":
        own = [(name, (build.__doc__ or "").splitlines()[0]) for name, build in sorted(ARCHITECTURES.items())]
        return [*own, ("torchvision/NAME", "Any classification network of torchvision, untrained.")]
    if kind == "spaces":
        return [(name, path.read_text().splitlines()[0].lstrip("# ")) for name, path in stock_spaces().items()]
    db = Database.open_readonly(storage_url(storage))
    counts = {row.name: counted(StudyHandle.open(db, row.name)) for row in list_studies(db)}
    return [
        (name, f"{of.finished} finished, {of.running} running, {of.failed_for_good} failed")
        for name, of in counts.items()
    ]
