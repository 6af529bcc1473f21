"""The driver's desk: hands out claimed trials, hears their reports and writes how they ended; knows no ray."""

from __future__ import annotations

import enum
import json
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autoprune.errors import LeaseLostError, SpaceExhaustedError, StudyFailedError
from autoprune.search.claims import Claim, Claims, Counts, Refusal, Room
from autoprune.search.propose import Proposer
from autoprune.search.study import StudyRecord

__all__ = ["Dispatcher", "FailureCaps", "Live", "Nothing", "Stopping"]

_LOGGER = logging.getLogger(__name__)
_LOOK_AGAIN_S = 0.5  # Tune asks many times a second; the database is asked this often.


class Nothing(enum.Enum):
    """Why no trial is handed out."""

    NOW = "nothing to do now; ask again"
    EVER = "the study is finished or stopping"


class Stopping(enum.Enum):
    """Why a driver winds down before its study is finished."""

    TIME = "the time limit is reached"
    INTERRUPT = "interrupted"
    REQUEST = "stopped from another terminal"
    FAILURES = "too many trials failed"
    EXHAUSTED = "the space has nothing new"
    BROKEN = "the driver met an error"


@dataclass(frozen=True)
class FailureCaps:
    """How many failed trials end a study, counted from the launch.

    Args:
        in_a_row: Failures with no finished trial between them, >= 1.
        in_all: Failures in total, >= 1.
    """

    in_a_row: int
    in_all: int


@dataclass
class Live:
    """A trial that runs under this driver, as last heard.

    Args:
        claim: What was claimed.
        rungs: Accuracy by rung reached.
        macs_ratio: Pruned / dense MACs, once known.
        phase: The phase it is in.
        progress: Share of it done, in [0, 1].
    """

    claim: Claim
    rungs: dict[str, float] = field(default_factory=dict)
    macs_ratio: float | None = None
    phase: str = "starting"
    progress: float = 0.0
    lost: bool = False


class Dispatcher:
    """Claims trials for this driver's workers and tells the database how each one ended.

    A background thread keeps the leases of all live trials and looks for stop requests. All other
    methods belong to one thread.

    Args:
        study: The open study.
        claims: This driver's view of the trial state machine.
        proposer: Where new trials come from.
        concurrency: Trials at once.
        caps: Failures that end the study.
        objectives: The names under which a result holds the values to tell.
        lease_s: How long a lease lasts without a beat.
        time_limit_s: Seconds after which the driver winds down, or None.
    """

    def __init__(
        self,
        study: StudyRecord,
        claims: Claims,
        proposer: Proposer,
        *,
        concurrency: int,
        caps: FailureCaps,
        objectives: tuple[str, ...],
        lease_s: float,
        time_limit_s: float | None = None,
    ) -> None:
        self._study, self._claims, self._proposer = study, claims, proposer
        self._concurrency, self._caps, self._objectives = concurrency, caps, objectives
        self._since = claims.newest_trial_id()
        self._entered_at = study.db.now()
        self._deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
        self._look_at = 0.0
        self._finished = False
        self._stopping: Stopping | None = None
        self._error: Exception | None = None
        self._mutex = threading.Lock()
        self.live: dict[str, Live] = {}
        self._beat_s = lease_s / 5
        self._quit = threading.Event()
        self._keeper = threading.Thread(target=self._keep_leases, name="autoprune-leases", daemon=True)

    def __enter__(self) -> Dispatcher:
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._quit.set()
        self._keeper.join(timeout=10)

    @property
    def stopping(self) -> Stopping | None:
        """Why the driver winds down, or None while it does not."""
        if self._stopping is None and self._deadline is not None and time.monotonic() >= self._deadline:
            self._stopping = Stopping.TIME
        return self._stopping

    @property
    def finished(self) -> bool:
        """Whether ``n_trials`` trials have finished."""
        if not self._finished and not self.live:
            self._finished = self._claims.room() is Room.FINISHED
        return self._finished

    @property
    def seconds_left(self) -> float | None:
        """Until the time limit, or None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def interrupt(self) -> None:
        """Hand out nothing new and let the live trials go."""
        if self._stopping is None:
            self._stopping = Stopping.INTERRUPT

    def counts(self) -> Counts:
        """Trials by state."""
        return self._claims.counts()

    def broke(self, error: Exception) -> None:
        """Wind down because of an error of the driver itself, to be raised by `raise_if_failed`."""
        self._stopping, self._error = Stopping.BROKEN, error

    def raise_if_failed(self) -> None:
        """Raise the error that ended the study early, if one did.

        Raises:
            StudyFailedError: Too many trials failed; the first error is told.
            SpaceExhaustedError: The space has nothing new.
        """
        if self._error is not None:
            raise self._error

    def next(self, handle: str) -> Claim | Nothing:
        """Hand out a trial to be run under ``handle``, the name that the caller knows it by."""
        if self.stopping is not None or self._finished:
            return Nothing.EVER
        if len(self.live) >= self._concurrency or time.monotonic() < self._look_at:
            return Nothing.NOW
        claim = self._claims.claim_waiting() or self._claim_new()
        if claim is None:
            self._look_at = time.monotonic() + _LOOK_AGAIN_S
            return Nothing.EVER if self._finished or self._stopping is not None else Nothing.NOW
        with self._mutex:
            self.live[handle] = Live(claim)
        return claim

    def _claim_new(self) -> Claim | None:
        room = self._claims.room()
        self._finished = room is Room.FINISHED
        if room is not Room.OPEN:
            return None
        try:
            proposal = self._proposer.propose(self._study.trials())
        except SpaceExhaustedError as error:
            self._stopping, self._error = Stopping.EXHAUSTED, error
            return None
        claimed = self._claims.claim(proposal)
        # Another driver was quicker with the same point or the last place: the next call sees its trial.
        return None if isinstance(claimed, Refusal) else claimed

    def should_stop(self, handle: str) -> bool:
        """Whether the trial under ``handle`` must end now."""
        live = self.live.get(handle)
        return self.stopping is not None or live is None or live.lost

    def heard(self, handle: str, report: Mapping[str, Any]) -> None:
        """Take in what a running trial reports (`spec.RungReport` as a mapping)."""
        live = self.live.get(handle)
        if live is None or "phase" not in report:
            return
        live.phase, live.progress = str(report["phase"]), float(report["progress"])
        if report.get("macs_ratio") is not None:
            live.macs_ratio = float(report["macs_ratio"])
        if report.get("rung") is not None:
            live.rungs[str(report["rung"])] = float(report["accuracy"])

    def ended(self, handle: str, last: Mapping[str, Any] | None, *, crashed: bool = False) -> None:
        """Write how a trial ended.

        Args:
            handle: Its name.
            last: Its last report; ``outcome`` says whether it completed or failed, and is absent when
                it was stopped or said nothing.
            crashed: Its worker died.
        """
        self.heard(handle, last or {})  # The report that a trial is stopped at comes only here.
        with self._mutex:
            live = self.live.pop(handle, None)
        if live is None or live.lost:
            return
        try:
            self._tell(live, dict(last or {}), crashed=crashed)
        except LeaseLostError as error:
            _LOGGER.warning("%s", error)
        self._look_at = 0.0
        self._check_failures()

    def _tell(self, live: Live, last: dict[str, Any], *, crashed: bool) -> None:
        trial_id, outcome = live.claim.trial_id, last.get("outcome")
        if outcome == "complete":
            attrs = json.loads(last["result"])
            values = [attrs.get(objective) for objective in self._objectives]
            self._claims.complete(trial_id, values, attrs)
        elif outcome == "failed":
            self._claims.failed(trial_id, str(last["reason"]))
        elif crashed:
            reason = "the worker died: out of memory, killed, or its machine was lost"
            if (stopping := self.stopping) is None:
                self._claims.failed(trial_id, reason, retry=True)
            else:
                self._claims.release(trial_id, f"{stopping.value}; {reason}")
        elif self.stopping is None:
            self._claims.failed(trial_id, "the trial ended without reporting a result")
        elif self._stopping is Stopping.TIME and live.rungs:
            best = max(live.rungs.values())
            attrs = {"rungs": live.rungs, "partial_accuracy": best, "partial_macs_ratio": live.macs_ratio}
            self._claims.stopped(trial_id, {**attrs, "stop_reason": self._stopping.value})
        else:
            assert self._stopping is not None
            self._claims.release(trial_id, self._stopping.value)

    def abandon(self) -> None:
        """Let every live trial go, so that it is retried at once rather than when its lease expires."""
        for handle in list(self.live):
            with self._mutex:
                live = self.live.pop(handle)
            try:
                self._claims.release(live.claim.trial_id, (self.stopping or Stopping.INTERRUPT).value)
            except LeaseLostError as error:
                _LOGGER.warning("%s", error)

    def _check_failures(self) -> None:
        failures = self._claims.failures(self._since)
        if self._stopping is not None:
            return
        if failures.consecutive >= self._caps.in_a_row or failures.total >= self._caps.in_all:
            self._stopping = Stopping.FAILURES
            self._error = StudyFailedError(
                f"{failures.total} trials failed, {failures.consecutive} of them in a row, so the study was ended. "
                f"The first error, of trial {failures.first_number}: {failures.first_reason}"
            )

    def _keep_leases(self) -> None:
        while not self._quit.wait(self._beat_s):
            try:
                with self._mutex:
                    trial_ids = {live.claim.trial_id for live in self.live.values()}
                lost = self._claims.beat(trial_ids)
                for live in list(self.live.values()):
                    live.lost = live.lost or live.claim.trial_id in lost
                if self._stopping is None and self._study.stop_requested_since(self._entered_at):
                    self._stopping = Stopping.REQUEST
            except Exception as error:  # A lease outlives a few missed beats; the next one may get through.
                _LOGGER.warning("the leases could not be renewed: %s", error)
