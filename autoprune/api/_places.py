"""Where a study's networks may lie: what a database says of paths is believed as far as the study's own folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autoprune.api._reading import Study
from autoprune.errors import StorageError

__all__ = ["network_folders", "network_path", "network_paths"]


def network_folders(study: Study) -> tuple[Path, ...]:
    """The folders in which trials of the study have left their networks; a revision may have moved them."""
    artifacts = dict.fromkeys(config.setting.artifacts for config in study.configs().values())
    return tuple(Path(folder) / "trials" / study.name for folder in artifacts)


def network_path(study: Study, weights: str) -> Path:
    """The file of a network, as the database names it; see `network_paths`."""
    return network_paths(study, [weights])[0]


def network_paths(study: Study, weights: Sequence[str]) -> list[Path]:
    """The files of networks, as the database names them.

    Whoever can write to a database could name any file of this machine, to be read, copied or exported.

    Raises:
        StorageError: One does not lie in one of the study's folders, links followed.
    """
    usual = (Path(study.config.setting.artifacts) / "trials" / study.name).resolve()
    paths = [Path(text) for text in weights]
    others = [path for path in paths if path.resolve().parent != usual]
    if others:
        folders = network_folders(study)
        known = {folder.resolve() for folder in folders}
        strange = next((path for path in others if path.resolve().parent not in known), None)
        if strange is not None:
            raise StorageError(
                f"the networks of study {study.name!r} must lie in {' or '.join(map(str, folders))}, but the database "
                f"names {strange}. Somebody has changed it: `autoprune doctor {study.name}` tells more."
            )
    return paths
