"""What Ray Tune asks for trials and tells of their ends: a thin face of the dispatcher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ray.tune.search import Searcher

from autoprune.distributed.reports import unpack
from autoprune.errors import OutageError
from autoprune.search.dispatch import Dispatcher, Nothing, Verdict
from autoprune.search.trials import Claim

__all__ = ["StudySearcher"]

T = TypeVar("T")


class StudySearcher(Searcher):  # type: ignore[misc]  # ray is untyped
    """Hands Tune one claimed trial after another, for as long as the study has room.

    Args:
        dispatcher: Claims trials and writes their ends.
        make_config: The worker's configuration for a claim, JSON-serialisable.
        on_ended: Told of each end that was written: the trial's id in Tune, and what became of it.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        make_config: Callable[[Claim], dict[str, Any]],
        *,
        on_ended: Callable[[str, Verdict], None] = lambda trial_id, verdict: None,
    ) -> None:
        super().__init__(metric=None, mode=None)
        self._dispatcher, self._make_config, self._on_ended = dispatcher, make_config, on_ended

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """A configuration, None for "ask again", or `Searcher.FINISHED`."""
        claim = self._safely(self._dispatcher.next, trial_id)
        if claim is Nothing.NOW:
            return None
        if not isinstance(claim, Claim):
            return str(Searcher.FINISHED)
        try:
            return self._make_config(claim)
        except OutageError:
            self._dispatcher.put_back(trial_id)
            return None
        except Exception as error:
            self._dispatcher.broke(error)
            return str(Searcher.FINISHED)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A report of a running trial."""
        report = unpack(result)
        if report is not None:
            self._safely(self._dispatcher.heard, trial_id, report)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The end of a trial, of whatever kind."""
        verdict = self._safely(lambda: self._dispatcher.ended(trial_id, unpack(result), crashed=error))
        if verdict is not None:
            self._on_ended(trial_id, verdict)

    def _safely(self, call: Callable[..., T], *args: Any) -> T | None:
        # Tune takes an error raised in here for one of the trial, logs it and goes on claiming.
        try:
            return call(*args)
        except Exception as error:
            self._dispatcher.broke(error)
            return None

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the database is the only truth, and resume is a relaunch."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles the searcher beside its own state; locks, threads and connections must not be in it.
        return {}
