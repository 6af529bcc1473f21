"""The driver's desk: hands out claimed trials, hears their reports and writes how they ended; knows no ray."""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from autoprune.errors import LeaseLostError, SpaceExhaustedError, StudyFailedError
from autoprune.search._dispatch_types import FailureCaps, Live, Nothing, Stopping
from autoprune.search.claims import Claim, Claims, Counts, Proposal, Refusal, Room
from autoprune.search.phase_leases import PhaseLeases
from autoprune.search.phase_rows import PHASE_ATTR, PhaseRows
from autoprune.search.propose import Proposer
from autoprune.search.study import StudyRecord

__all__ = ["Dispatcher", "FailureCaps", "Live", "Nothing", "Stopping"]

_LOGGER = logging.getLogger(__name__)
_LOOK_AGAIN_S = 0.5  # Tune asks many times a second; the database is asked this often.
_OF_THE_RUN = ("wall_s", "host", "node")  # What an earlier trial of the same result can't tell of a later one.


def _no_phase(point: Mapping[str, Any]) -> str | None:
    return None


def _do_nothing() -> None:
    return None


class Dispatcher:
    """Claims trials for this driver's workers and tells the database how each one ended.

    A trial whose shared phase is being computed for another one is *parked*: claimed and kept alive, but handed out
    only when the phase is ready, or free because its owner is gone. Meanwhile others are handed out; only when as many
    are parked as may run at once does a worker wait.

    A background thread keeps the leases of all trials and phases and looks for stop requests. All other
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
        limits: Upper limits of facts that a result holds; each becomes a constraint.
        phase_of: Key of the shared phase that a point's trial starts from, or None where it has none.
        on_published: Called when the cache has gained a phase.
        on_complete: Called when the study has gained a COMPLETE trial.
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
        limits: Mapping[str, float] = MappingProxyType({}),
        phase_of: Callable[[Mapping[str, Any]], str | None] = _no_phase,
        on_published: Callable[[], None] = _do_nothing,
        on_complete: Callable[[], object] = _do_nothing,
    ) -> None:
        self._study, self._claims, self._proposer = study, claims, proposer
        self._concurrency, self._caps, self._objectives = concurrency, caps, objectives
        self._limits, self._phase_of = dict(limits), phase_of
        self._on_published, self._on_complete = on_published, on_complete
        self.phases = PhaseLeases(PhaseRows(study.db), owner=claims.owner, grace_s=lease_s)
        self._since = claims.newest_trial_id()
        self._entered_at = study.db.now()
        self._deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
        self._look_at = 0.0
        self._finished = False
        self._stopping: Stopping | None = None
        self._error: Exception | None = None
        self._exhausted: SpaceExhaustedError | None = None
        self._mutex = threading.Lock()
        self.live: dict[str, Live] = {}
        self.parked: dict[int, Claim] = {}  # by trial id, the one parked longest first
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
    def owner(self) -> str:
        """Name of this driver."""
        return self._claims.owner

    @property
    def stopping(self) -> Stopping | None:
        """Why the driver winds down, or None while it does not."""
        if self._stopping is None and self._deadline is not None and time.monotonic() >= self._deadline:
            self._stopping = Stopping.TIME
        return self._stopping

    @property
    def finished(self) -> bool:
        """Whether ``n_trials`` trials have finished."""
        if not self._finished and not self.live and not self.parked:
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
            self._release_parked()
            return Nothing.EVER
        if len(self.live) >= self._concurrency or time.monotonic() < self._look_at:
            return Nothing.NOW
        claim = self._unpark() or self._claim_or_park()
        if claim is None:
            self._look_at = time.monotonic() + _LOOK_AGAIN_S
            return Nothing.EVER if self._finished or self._stopping is not None else Nothing.NOW
        with self._mutex:
            self.parked.pop(claim.trial_id, None)
            self.live[handle] = Live(claim)
        return claim

    def _unpark(self) -> Claim | None:
        return next((claim for claim in list(self.parked.values()) if self._may_run(claim)), None)

    def _claim_or_park(self) -> Claim | None:
        while len(self.parked) < self._concurrency:
            claim = self._claims.claim_waiting() or self._claim_new()
            if claim is None or self._may_run(claim):
                return claim
            with self._mutex:
                self.parked[claim.trial_id] = claim
        return None

    def _may_run(self, claim: Claim) -> bool:
        """Whether the trial's phase is ready, or its own to compute."""
        key = self._phase_of(claim.attrs["point"])
        return key is None or self.phases.take(key, "sparsify", holder=claim.trial_id) != "busy"

    def _release_parked(self) -> None:
        why = self._stopping or Stopping.INTERRUPT
        for trial_id in list(self.parked):
            with self._mutex:
                self.parked.pop(trial_id, None)
            self._release(trial_id, why)

    def _release(self, trial_id: int, why: Stopping) -> None:
        try:
            self._claims.release(trial_id, why.value)
        except LeaseLostError as error:
            _LOGGER.warning("%s", error)

    def _claim_new(self) -> Claim | None:
        room = self._claims.room()
        self._finished = room is Room.FINISHED
        if room is not Room.OPEN:
            return None
        proposal = self._propose()
        if proposal is None:
            return None
        phase = self._phase_of(proposal.attrs["point"])
        if phase is not None:
            # For the phase cache, which spares what trials that run or wait start from.
            proposal = dataclasses.replace(proposal, attrs={**proposal.attrs, PHASE_ATTR: phase})
        claimed = self._claims.claim(proposal)
        # Another driver was quicker with the same point or the last place: the next call sees its trial.
        return None if isinstance(claimed, Refusal) else claimed

    def _propose(self) -> Proposal | None:
        if self._exhausted is None:
            try:
                return self._proposer.propose(self._study.trials())
            except SpaceExhaustedError as error:
                self._exhausted = error
        if not self.live and not self.parked:  # What is under way may still finish the study.
            self._stopping, self._error = Stopping.EXHAUSTED, self._exhausted
        return None

    def should_stop(self, handle: str, report: Mapping[str, Any] = MappingProxyType({})) -> bool:
        """Whether the trial under ``handle`` must end now.

        Args:
            handle: Its name.
            report: What it has just said and waits to go on after: a result that an earlier trial has found is taken
                over instead of being computed again.
        """
        live = self.live.get(handle)
        if self.stopping is not None or live is None or live.lost:
            return True
        if report.get("result_key") is not None:
            live.earlier = self._claims.result_of(str(report["result_key"]))
        return live.earlier is not None

    def heard(self, handle: str, report: Mapping[str, Any]) -> None:
        """Take in what a running trial reports (`spec.RungReport` as a mapping)."""
        live = self.live.get(handle)
        if live is None:
            return
        live.runs_on.update({name: str(report[name]) for name in ("host", "node") if name in report})
        if "phase" not in report:
            return
        live.phase, live.progress = str(report["phase"]), float(report["progress"])
        if report.get("macs_ratio") is not None:
            live.macs_ratio = float(report["macs_ratio"])
        if report.get("rung") is not None:
            live.rungs[str(report["rung"])] = float(report["accuracy"])
        if report.get("result_key") is not None:
            live.result_key = str(report["result_key"])
        if report.get("phase_file") is not None and self.phases.publish(
            "sparsify", holder=live.claim.trial_id, file=report["phase_file"]
        ):
            self._look_at = 0.0
            self._on_published()

    def ended(self, handle: str, last: Mapping[str, Any] | None, *, crashed: bool = False) -> None:
        """Write how a trial ended.

        Args:
            handle: Its name.
            last: Its last report; ``outcome`` says whether it completed, failed or ended early by itself, and is absent
                when it was stopped or said nothing.
            crashed: Its worker died.
        """
        self.heard(handle, last or {})  # The report that a trial is stopped at comes only here.
        with self._mutex:
            live = self.live.pop(handle, None)
        if live is None:
            return
        self.phases.give_up(live.claim.trial_id)
        self._look_at = 0.0
        if live.lost:
            return
        try:
            self._tell(live, dict(last or {}), crashed=crashed)
        except LeaseLostError as error:
            _LOGGER.warning("%s", error)
        self._check_failures()

    def _tell(self, live: Live, last: dict[str, Any], *, crashed: bool) -> None:
        trial_id, outcome = live.claim.trial_id, last.get("outcome")
        if live.earlier is not None:
            attrs = {name: value for name, value in live.earlier.attrs.items() if name not in _OF_THE_RUN}
            self._complete(live, {**attrs, "taken_over_from": live.earlier.number})
        elif outcome == "complete":
            self._complete(live, last["result"])
        elif outcome == "stopped":
            self._stop(live, str(last["reason"]), last["found"])
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
            self._stop(live, self._stopping.value, {})
        else:
            assert self._stopping is not None
            self._claims.release(trial_id, self._stopping.value)

    def _complete(self, live: Live, attrs: Mapping[str, Any]) -> None:
        values = [attrs.get(objective) for objective in self._objectives]
        constraints = {name: _excess(attrs.get(name), limit) for name, limit in self._limits.items()}
        known = {} if live.result_key is None else {"result_key": live.result_key}
        self._claims.complete(live.claim.trial_id, values, {**attrs, **known, **live.runs_on}, constraints=constraints)
        self._on_complete()

    def _stop(self, live: Live, reason: str, found: Mapping[str, Any]) -> None:
        """Tell a trial that ended early; ``found`` is what it knows beyond its rungs."""
        facts = {"macs_ratio": live.macs_ratio, **found}
        known = {name: limit for name, limit in self._limits.items() if facts.get(name) is not None}
        constraints = {name: _excess(facts[name], limit) for name, limit in known.items()}
        attrs = {
            "rungs": live.rungs,
            "partial_accuracy": max(live.rungs.values(), default=None),
            "partial_macs_ratio": live.macs_ratio,
            "stop_reason": reason,
        }
        self._claims.stopped(live.claim.trial_id, {**attrs, **found, **live.runs_on}, constraints=constraints)

    def abandon(self) -> None:
        """Let every trial go, so that it is retried at once rather than when its lease expires."""
        why = self.stopping or Stopping.INTERRUPT
        for handle in list(self.live):
            with self._mutex:
                live = self.live.pop(handle)
            self.phases.give_up(live.claim.trial_id)
            self._release(live.claim.trial_id, why)
        self._release_parked()

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
                    trial_ids = {live.claim.trial_id for live in self.live.values()} | self.parked.keys()
                lost = self._claims.beat(trial_ids)
                with self._mutex:
                    for live in self.live.values():
                        live.lost = live.lost or live.claim.trial_id in lost
                    for trial_id in lost:
                        self.parked.pop(trial_id, None)
                self.phases.beat()
                if self._stopping is None and self._study.stop_requested_since(self._entered_at):
                    self._stopping = Stopping.REQUEST
            except Exception as error:  # A lease outlives a few missed beats; the next one may get through.
                _LOGGER.warning("the leases could not be renewed: %s", error)


def _excess(value: Any, limit: float) -> float:
    return float(value) - limit if isinstance(value, int | float) else math.nan
