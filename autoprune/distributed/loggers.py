"""Experiment trackers, by Ray Tune's own callbacks: which there are, and what each is made with."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.config import LoggersConfig
from autoprune.errors import ConfigError

__all__ = ["Destination", "make_logger", "raise_lost_runs", "require_loggers"]

_PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
_MLFLOW_URI = "MLFLOW_TRACKING_URI"
_UPLOAD_S = 60  # How long the end of a launch waits for W&B to finish what it writes.
_GROUP_LENGTH = 128
# A driver waits while a server is asked, so not for long; and nobody counts the users of autoprune.
_MLFLOW_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass(frozen=True)
class Destination:
    """Where the loggers of a study write.

    Args:
        config: Which loggers, and what the study says of their places.
        study: Its name: MLflow's experiment, W&B's group, TensorBoard's folder.
        metric: Name of what its trials are scored by.
        artifacts: Folder of its artifacts, in which files go where it names no other.
    """

    config: LoggersConfig
    study: str
    metric: str
    artifacts: str

    @property
    def folder(self) -> Path:
        """Where what lies in files goes."""
        return Path(self.config.folder or Path(self.artifacts) / "logs")

    @property
    def mlflow_uri(self) -> str:
        """What MLflow writes to."""
        named = self.config.mlflow_uri or os.environ.get(_MLFLOW_URI)
        return named or f"sqlite:///{self.folder / 'mlflow.db'}"

    def place(self, name: str) -> str:
        """Where a logger writes, for people: without a password."""
        return re.sub("//[^/@]+@", "//***@", self.mlflow_uri) if name == "mlflow" else str(self.folder / name)

    def trial_folder(self, number: int) -> Path:
        """The folder of one trial, for TensorBoard; the others need none of their own."""
        folder = self.folder / "tensorboard" / self.study / f"trial-{number:05d}"
        return folder if "tensorboard" in self.config.use else self.folder


def require_loggers(config: LoggersConfig) -> None:
    """Check that the loggers can be used here.

    Raises:
        ConfigError: The package of one is not installed.
    """
    for name in config.use:
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            raise ConfigError(
                f"the logger {name!r} needs the package {_PACKAGES[name]}, which is not installed. "
                f"`pip install 'autoprune[{name}]'` brings it."
            )


def make_logger(name: str, to: Destination) -> Any:
    """Ray's callback for a logger, ready to be told; whatever keeps it from that is raised."""
    before = os.environ.get(_MLFLOW_URI)
    try:
        logger = _MAKERS[name](to)
        logger.setup()
    finally:
        # MLflow leaves there where it writes to, which would then stand for the next study of this process, too.
        if before is None:
            os.environ.pop(_MLFLOW_URI, None)
        else:
            os.environ[_MLFLOW_URI] = before
    return logger


def _tensorboard(to: Destination) -> Any:
    from ray.tune.logger import TBXLoggerCallback

    return TBXLoggerCallback()


def _mlflow(to: Destination) -> Any:
    os.environ.update({key: value for key, value in _MLFLOW_ENVIRONMENT.items() if key not in os.environ})
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # It tells of each table that it makes.
    to.folder.mkdir(parents=True, exist_ok=True)
    return MLflowLoggerCallback(tracking_uri=to.mlflow_uri, experiment_name=to.study)


def _wandb(to: Destination) -> Any:
    # Online it is for those who ask for it; what was written offline goes up with `wandb sync`.
    mode = os.environ.setdefault("WANDB_MODE", "offline")
    from ray.air.integrations.wandb import WandbLoggerCallback

    to.folder.mkdir(parents=True, exist_ok=True)
    return WandbLoggerCallback(
        project=os.environ.get("WANDB_PROJECT", "autoprune"),
        group=to.study[:_GROUP_LENGTH],
        dir=str(to.folder),  # W&B makes a folder of its own name in it.
        mode=mode,
        upload_timeout=_UPLOAD_S,
    )


def raise_lost_runs(logger: Any, *, wait: bool = False) -> None:
    """Raise what ended a run of W&B early: each writes in a process of its own, of whose errors Ray tells nobody.

    Args:
        logger: Any of the loggers.
        wait: Whether to wait for the runs that are still being written, for as long as the end of a launch may take.
    """
    import ray

    runs = list(getattr(logger, "_trial_logging_futures", {}).values())
    if runs:
        ended, _ = ray.wait(runs, num_returns=len(runs), timeout=_UPLOAD_S if wait else 0)
        ray.get(ended)


_MAKERS: Mapping[str, Callable[[Destination], Any]] = {"tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb}
