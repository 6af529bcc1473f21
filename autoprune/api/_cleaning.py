"""What may be deleted of a study's files, while it runs and afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.api._reading import Study
from autoprune.config import StudyConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["retain"]


def _network_folders(study: Study, configs: Mapping[int, StudyConfig]) -> list[Path]:
    # A revision may have moved the artifacts.
    artifacts = dict.fromkeys(config.setting.artifacts for config in configs.values())
    return [Path(folder) / "trials" / study.name for folder in artifacts]


def retain(study: Study) -> list[Path]:
    """Delete the networks that the study's ``[retention]`` lets go; to be called after each finished trial.

    Several drivers may call it at any time. Trials that have ended are read once per study record, so that a call costs
    little also among thousands of trials.

    Args:
        study: Opened on the driver's own study record.

    Returns:
        The weights files that were deleted.
    """
    from autoprune.search.retention import holdings, prune_networks

    # The trials first: what completes under a revision that we don't know yet must not be among them.
    trials = study.record.trials()
    configs = study.configs()
    newest = configs[max(configs)]
    if newest.retention.networks == "all":
        return []
    held = holdings(trials, study.record.objectives, newest.constraints.limits)
    return prune_networks(study.record, held, _network_folders(study, configs))
