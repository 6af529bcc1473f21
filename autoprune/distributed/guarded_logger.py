"""One experiment tracker, held so that no trial is ever lost to it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from autoprune.distributed.loggers import Destination, make_logger, raise_lost_runs

__all__ = ["GuardedLogger"]

_log = logging.getLogger(__name__)


class GuardedLogger:
    """One of Ray's loggers, which is told nothing more once it has failed: a server that is gone would cost minutes.

    Args:
        name: The logger's name.
        to: Where it writes.
        warn: Told once that it has failed, and why.
    """

    def __init__(self, name: str, to: Destination, *, warn: Callable[[str], None]) -> None:
        self._name, self._to, self._warn = name, to, warn
        self._logger: Any = None

    def setup(self) -> None:
        """Make it ready."""

        def make() -> None:
            self._logger = make_logger(self._name, self._to)

        self._try(make)

    def start(self, trial: Any) -> None:
        """A run begins."""

        def start(logger: Any) -> None:
            trial.init_local_path()
            logger.log_trial_start(trial)

        self._tell(start)

    def log(self, trial: Any, facts: dict[str, float]) -> None:
        """A step of a run."""
        self._tell(lambda logger: logger.log_trial_result(0, trial, facts))

    def end(self, trial: Any, *, failed: bool) -> None:
        """A run ends."""
        self._tell(lambda logger: logger.log_trial_end(trial, failed=failed))

    def close(self) -> None:
        """Wait for what is still being written."""

        def close(logger: Any) -> None:
            raise_lost_runs(logger, wait=True)
            logger.on_experiment_end([])

        self._tell(close)

    def _tell(self, call: Callable[[Any], None]) -> None:
        def tell() -> None:
            raise_lost_runs(self._logger)
            call(self._logger)

        if self._logger is not None:
            self._try(tell)

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # Whatever befalls it, the study goes on.
            self._logger = None
            why = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            told = (
                f"the logger {self._name!r}, which writes to {self._to.place(self._name)}, has failed and is told "
                f"nothing more: {why}. The study goes on, and its database knows everything."
            )
            _log.warning("%s", told)
            self._warn(told)
