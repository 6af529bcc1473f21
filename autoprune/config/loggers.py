"""The ``[loggers]`` table: the experiment trackers that are told of trials beside the database."""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.config.fields import check, option
from autoprune.errors import ConfigError, unknown_name

__all__ = ["LOGGERS", "LoggersConfig"]

LOGGERS = ("tensorboard", "mlflow", "wandb")


@dataclass(frozen=True, kw_only=True)
class LoggersConfig:
    """The ``[loggers]`` table: the experiment trackers that are told of trials, and where they write.

    None of it is part of the study's identity: a later launch or resume may name others.

    Args:
        use: Any of ``"tensorboard"``, ``"mlflow"`` and ``"wandb"``, each an extra of the package.
        folder: Where their files go; None: ``logs`` in the folder of the artifacts.
        mlflow_uri: MLflow's tracking server or database; None: ``MLFLOW_TRACKING_URI`` of the environment, else a
            database in the folder.
    """

    use: tuple[str, ...] = option(())
    folder: str | None = option(None)
    mlflow_uri: str | None = option(None)

    def __post_init__(self) -> None:
        check(self)
        for name in self.use:
            if name not in LOGGERS:
                raise ConfigError(f"`use`: {unknown_name('logger', name, LOGGERS)}")
        if len(set(self.use)) < len(self.use):
            raise ConfigError(f"`use` must name each logger once, but got {list(self.use)}. Drop the repeats.")
