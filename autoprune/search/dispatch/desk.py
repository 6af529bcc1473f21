"""The desk that hands out claimed trials, hears their reports and writes how they ended."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState

from autoprune.config import Progressed, Report
from autoprune.errors import LeaseLostError, OutageError, SpaceExhaustedError, StorageError
from autoprune.search.dispatch.lease_keeper import LeaseKeeper
from autoprune.search.dispatch.outage import Outage, Untold
from autoprune.search.dispatch.patience import Patience
from autoprune.search.dispatch.records import Live, Nothing, Snapshot, Stopping
from autoprune.search.dispatch.stopper import Reached, Stopper, reached
from autoprune.search.dispatch.verdicts import Complete, Fail, Goals, Release, StopEarly, Verdict, verdict_on
from autoprune.search.dispatch.wind_down import WindDown
from autoprune.search.events import Events, silent
from autoprune.search.phases import PhaseLeases, PhaseRows
from autoprune.search.proposals import Proposer, TimeLeft
from autoprune.search.storage import Counts
from autoprune.search.trials import Attr, Claim, Lifecycle, NotClaimed, Point, Proposal, Room

__all__ = ["Dispatcher", "SharedPhases"]

_log = logging.getLogger(__name__)
_WORDS: Mapping[type[Verdict], str] = {
    Complete: "complete",
    StopEarly: "stopped",
    Fail: "failed",
    Release: "released",
}
_LOOK_AGAIN_S = 0.5  # Tune asks many times a second; the database is asked this often.


@dataclass(frozen=True)
class SharedPhases:
    """The phases that trials of a study share; without arguments it has none.

    Args:
        key_of: Key of the shared phase that a point's trial starts from, or None where it has none.
        on_published: Called when the cache has gained a phase.
    """

    key_of: Callable[[Point], str | None] = lambda point: None
    on_published: Callable[[], None] = lambda: None


class Dispatcher:
    """Claims trials for this driver's workers and tells the database how each one ended.

    A trial whose shared phase is being computed for another one is *parked*: claimed and kept alive, but handed out
    only when the phase is ready, or free because its owner is gone. Meanwhile others are handed out; only when as many
    are parked as may run at once does a worker wait.

    While the database's server is away, trials go on: nothing new is handed out, and what is to be told waits.

    While it is entered, a background thread beats: it keeps the leases of all trials and phases and looks for stop
    requests. All other methods belong to one thread.

    Args:
        lifecycle: This driver's view of the trial state machine.
        proposer: Where new trials come from.
        wind_down: What ends the driver early.
        goals: What the study wants of its trials.
        concurrency: Trials at once.
        shared: The phases that trials share.
        on_complete: Called when the study has gained a COMPLETE trial.
        patience: Ends the study when its hypervolume has stalled; None: it goes on to its last trial.
        stopper: Ends trials early that others of their cost have left behind; None: all go on to their end.
        events: Told what this driver does.
        outage: How long the database's server may be away.
        trial_limit_s: Seconds that a trial may take, or None; see `overdue`.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        proposer: Proposer,
        *,
        wind_down: WindDown,
        goals: Goals,
        concurrency: int,
        shared: SharedPhases | None = None,
        on_complete: Callable[[], object] = lambda: None,
        patience: Patience | None = None,
        stopper: Stopper | None = None,
        events: Events = silent,
        outage: Outage | None = None,
        trial_limit_s: float | None = None,
    ) -> None:
        self._lifecycle, self._proposer = lifecycle, proposer
        self._wind_down, self._goals, self._concurrency = wind_down, goals, concurrency
        self._shared, self._on_complete = shared or SharedPhases(), on_complete
        self._patience, self._stopper, self._events, self._trial_limit_s = patience, stopper, events, trial_limit_s
        self.outage = outage or Outage()
        self._untold = Untold[Verdict](self.outage)
        self.phases = PhaseLeases(
            PhaseRows(lifecycle.study.db), owner=lifecycle.owner, grace_s=lifecycle.grace_s, events=events
        )
        self._trials = LeaseKeeper(lifecycle, self.phases, on_beat=wind_down.look_for_request, events=events)
        self._look_at = 0.0
        self._finished = False
        self._exhausted: SpaceExhaustedError | None = None

    def __enter__(self) -> Dispatcher:
        self._trials.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._trials.__exit__()

    def beat(self) -> None:
        """What the thread does now and then; for who enters none."""
        self._trials.beat()
        self._wind_down.look_for_request()

    @property
    def owner(self) -> str:
        """Name of this driver."""
        return self._lifecycle.owner

    @property
    def live(self) -> dict[str, Live]:
        """The trials that run, by handle."""
        return self._trials.live

    @property
    def parked(self) -> dict[int, Claim]:
        """The trials that wait for a phase, by trial id, the one parked longest first."""
        return self._trials.parked

    @property
    def stopping(self) -> Stopping | None:
        """Why the driver winds down, or None while it does not."""
        return self._wind_down.why

    @property
    def finished(self) -> bool:
        """Whether ``n_trials`` trials have finished."""
        if not self._finished and self._trials.is_empty:
            self._finished = self._lifecycle.room() is Room.FINISHED
        return self._finished

    def interrupt(self) -> None:
        """Hand out nothing new and let the live trials go."""
        self._events("signal")
        self._wind_down.begin(Stopping.INTERRUPT)

    def broke(self, error: Exception) -> None:
        """Wind down because of an error of the driver itself, to be raised by `raise_if_failed`."""
        self._wind_down.broke(error)

    def raise_if_failed(self) -> None:
        """Raise the error that ended the study early, if one did.

        Raises:
            StudyFailedError: Too many trials failed; the first error is told.
            SpaceExhaustedError: The space has nothing new.
        """
        self._wind_down.raise_if_failed()

    def counts(self) -> Counts:
        """Trials by state."""
        return self._lifecycle.counts()

    @property
    def seconds_left(self) -> float | None:
        """Until the time limit, or None without one."""
        return self._wind_down.seconds_left

    def snapshot(self) -> Snapshot:
        """This driver at this moment."""
        return Snapshot(tuple(live.underway for live in list(self.live.values())), self._wind_down.seconds_left)

    # Handing out

    def next(self, handle: str) -> Claim | Nothing:
        """Hand out a trial to be run under ``handle``, the name that the caller knows it by."""
        if self.stopping is not None or self._finished:
            self._release_parked()
            return Nothing.EVER
        if not self.outage.may_ask:
            return Nothing.NOW
        try:
            if self.outage.is_on:
                self._come_back()
            return self._hand_out(handle)
        except OutageError as error:
            self.outage.met(error)
            return Nothing.NOW

    def _come_back(self) -> None:
        """The server may answer again: first of all our leases, which have run out meanwhile like everybody's."""
        self._trials.beat()
        self._lifecycle.spare_orphans()
        self._untold.tell_all()
        self.outage.over()

    def _hand_out(self, handle: str) -> Claim | Nothing:
        if len(self.live) >= self._concurrency or self._wind_down.clock() < self._look_at:
            return Nothing.NOW
        claim = self._free_again() or self._claim_or_park()
        if claim is None:
            self._look_at = self._wind_down.clock() + _LOOK_AGAIN_S
            return Nothing.EVER if self._finished or self.stopping is not None else Nothing.NOW
        self._trials.run(handle, claim)
        self._events("start", trial=claim.number, trial_id=claim.trial_id, handle=handle)
        return claim

    def _free_again(self) -> Claim | None:
        return next((claim for claim in list(self.parked.values()) if self._may_run(claim)), None)

    def _claim_or_park(self) -> Claim | None:
        while len(self.parked) < self._concurrency:
            claim = self._claim_waiting() or self._claim_new()
            if claim is None:
                return None
            self._trials.park(claim)  # Before its phase is asked for, so that it is held should the server go away.
            if self._may_run(claim):
                return claim
        return None

    def put_back(self, handle: str) -> None:
        """Take back a trial that was handed out and has not begun; it is handed out again."""
        live = self._trials.end(handle)
        if live is not None:
            self._trials.park(live.claim)
            self._trials.told(live.claim.trial_id)

    def _may_run(self, claim: Claim) -> bool:
        """Whether the trial's phase is ready, or its own to compute."""
        key = self._shared.key_of(claim.point)
        return key is None or self.phases.take(key, "sparsify", holder=claim.trial_id) != "busy"

    def _claim_waiting(self) -> Claim | None:
        claim = self._lifecycle.claim_waiting()
        if claim is not None:
            self._events("claim", trial=claim.number, trial_id=claim.trial_id, attempt=claim.attempt)
        return claim

    def _claim_new(self) -> Claim | None:
        room = self._lifecycle.room()
        self._finished = room is Room.FINISHED
        if room is not Room.OPEN:
            return None
        proposal = self._propose()
        if proposal is None:
            return None
        phase = self._shared.key_of(proposal.point)
        if phase is not None:
            # For the phase cache, which spares what trials that run or wait start from.
            proposal = dataclasses.replace(proposal, attrs={**proposal.attrs, Attr.PHASE: phase})
        self._events("proposal", key=proposal.key, point=proposal.attrs.get(Attr.POINT))
        claimed = self._lifecycle.claim(proposal)
        if isinstance(claimed, NotClaimed):
            # Another driver was quicker with the same point or the last place: the next call sees its trial.
            self._events("claim", key=proposal.key, refused=claimed.name.lower())
            return None
        ids = {"trial": claimed.number, "trial_id": claimed.trial_id}
        self._events("claim", **ids, key=proposal.key, attempt=claimed.attempt, parent=proposal.parent)
        return claimed

    def _propose(self) -> Proposal | None:
        history = self._lifecycle.study.history()
        if self._patience is not None and self._patience.is_over(history):
            if self._trials.is_empty:  # What is under way may still add something.
                self._wind_down.begin(Stopping.STALLED)
            return None
        if self._exhausted is None:
            try:
                proposal = self._proposer.propose(history, self._time_left)
            except SpaceExhaustedError as error:
                self._exhausted = error
            else:
                if proposal is None and self._trials.is_empty:
                    self._wind_down.begin(Stopping.TIME)  # What is left of it is too short for a trial.
                return proposal
        if self._trials.is_empty:  # What is under way may still finish the study.
            self._wind_down.begin(Stopping.EXHAUSTED, self._exhausted)
        return None

    @property
    def _time_left(self) -> TimeLeft | None:
        seconds, of = self._wind_down.seconds_left, self._wind_down.time_limit_s
        return None if seconds is None or of is None else TimeLeft(seconds, of, self._concurrency)

    # Hearing

    def should_stop(self, handle: str, report: Report | None = None) -> bool:
        """Whether the trial under ``handle`` must end now.

        Args:
            handle: Its name.
            report: What it has just said and waits to go on after: a result that an earlier trial has found is taken
                over instead of being computed again.
        """
        live = self.live.get(handle)
        if self.stopping is not None or live is None or live.lost:
            return True
        if not isinstance(report, Progressed):
            return False
        try:
            if report.result_key is not None:
                live.earlier = self._lifecycle.result_of(report.result_key)
            if self._stopper is not None and report.rung is not None:
                live.behind = self._left_behind(live.claim, report, self._stopper)
        except OutageError as error:  # Then it goes on: nobody knows better.
            self.outage.met(error)
        return live.earlier is not None or live.behind is not None

    def begun(self, handle: str) -> None:
        """A worker has begun the trial; until then it has waited for one to start."""
        live = self.live.get(handle)
        if live is not None:
            live.since = self._wind_down.clock()

    def overdue(self) -> list[str]:
        """Handles of the trials that have just taken longer than a trial may: their workers are to be ended.

        Each is named once. A trial that hangs can't be asked to stop, since it stops at its reports.
        """
        if self._trial_limit_s is None:
            return []
        latest = self._wind_down.clock() - self._trial_limit_s
        found = {
            handle: live
            for handle, live in self.live.items()
            if live.since is not None and live.since < latest and live.overdue is None
        }
        for live in found.values():
            live.overdue = (
                f"the trial took longer than `trial_time_limit`, {self._trial_limit_s:g} s, and was last heard of at "
                f"{live.phase} {live.progress:.0%}"
            )
        return list(found)

    def _left_behind(self, claim: Claim, report: Progressed, stopper: Stopper) -> str | None:
        """Why a trial that has come to a rung ends there, or None where it goes on."""
        rung, score, macs_ratio = report.rung, report.score, report.macs_ratio
        if rung is None or score is None or macs_ratio is None or not stopper.is_watching(claim.point, rung):
            return None
        others = reached(rung, self._lifecycle.study.history())
        for live in list(self.live.values()):
            found = live.rungs.get(str(rung))
            if live.claim.trial_id != claim.trial_id and found is not None and live.macs_ratio is not None:
                others.append(Reached(live.macs_ratio, found))
        is_behind = stopper.is_behind(Reached(macs_ratio, score), others)
        return f"behind others of its cost at rung {rung}" if is_behind else None

    def heard(self, handle: str, report: Report) -> None:
        """Take in what a running trial says."""
        live = self.live.get(handle)
        if live is None:
            return
        self._take_in(live, report)
        self._note_report(live.claim, report)
        if isinstance(report, Progressed) and report.rung is not None:
            try:
                self._lifecycle.reached(live.claim.trial_id, live.rungs)
            except StorageError as error:  # It is for people who look only, and its end brings it again.
                _log.warning("how far a trial is could not be stored: %s", error)

    def _note_report(self, claim: Claim, report: Report) -> None:
        if isinstance(report, Progressed):
            told = ("phase", "progress", "rung", "score", "macs_ratio", "result_key", "host")
            facts = {name: value for name in told if (value := getattr(report, name)) is not None}
            self._events("report", trial=claim.number, trial_id=claim.trial_id, **facts)

    def _take_in(self, live: Live, report: Report) -> None:
        live.hear(report)
        file = report.phase_file if isinstance(report, Progressed) else None
        if file is not None:
            self._untold.tell(functools.partial(self._publish, live.claim.trial_id, file))

    def _publish(self, holder: int, file: Mapping[str, Any]) -> None:
        if self.phases.publish("sparsify", holder=holder, file=file):
            self._look_at = 0.0
            self._shared.on_published()

    # Writing how it ended

    def ended(self, handle: str, last: Report | None, *, crashed: bool = False) -> Verdict | None:
        """Write how a trial ended.

        Args:
            handle: Its name.
            last: Its last report, which says whether it completed, failed or ended early by itself, or that it went on
                when it was stopped; None where it said nothing.
            crashed: Its worker died.

        Returns:
            What became of it; None where it was not, or is no longer, ours.
        """
        running = self.live.get(handle)
        if running is not None and last is not None:
            self._take_in(running, last)  # The report that a trial is stopped at comes only here.
        live = self._trials.end(handle)
        if live is None:
            return None
        verdict = verdict_on(live, last, goals=self._goals, crashed=crashed, stopping=self.stopping)
        return self._untold.tell(functools.partial(self._finish, live, verdict), meanwhile=verdict)

    def _finish(self, live: Live, verdict: Verdict) -> Verdict | None:
        """Have the database know how a trial has ended."""
        trial_id = live.claim.trial_id
        self.phases.give_up(trial_id)
        self._look_at = 0.0
        stored = None
        if not live.lost:  # Else the beat that found it lost has said so.
            stored = self._store(live.claim, verdict)
            self._wind_down.count_failures()
        self._trials.told(trial_id)
        return stored

    def _store(self, claim: Claim, verdict: Verdict) -> Verdict | None:
        """Write what became of a trial; returns it as it was written, or None where the trial is no longer ours."""
        ids: dict[str, Any] = {"trial": claim.number, "trial_id": claim.trial_id}
        try:
            stored = self._written(claim.trial_id, verdict)
        except LeaseLostError as error:
            _log.warning("%s", error)
            self._events("lost lease", **ids)
            return None
        facts: dict[str, Any] = {"values": stored.values} if isinstance(stored, Complete) else {}
        if isinstance(stored, Fail | Release):
            facts = {"reason": stored.reason}
        self._events("tell", **ids, verdict=_WORDS[type(stored)], **facts)
        return stored

    def _written(self, trial_id: int, verdict: Verdict) -> Verdict:
        """Write it, and return it as it was written."""
        match verdict:
            case Complete(values, attrs, constraints):
                state = self._lifecycle.complete(trial_id, values, attrs, constraints=constraints)
                with contextlib.suppress(OutageError):  # The next one does it, too.
                    self._on_complete()
                if state is not TrialState.COMPLETE:
                    return Fail("its result can't be stored")
            case StopEarly():
                self._lifecycle.stopped(trial_id, verdict.attrs, constraints=verdict.constraints)
            case Fail():
                self._lifecycle.failed(trial_id, verdict.reason, retry=verdict.retry)
            case Release():
                self._lifecycle.release(trial_id, verdict.reason)
        return verdict

    def abandon(self) -> None:
        """Let every trial go, so that it is retried at once rather than when its lease expires.

        Where the server is away, it is waited for, but not by a driver that was interrupted: what has not been told by
        then is tried again.
        """
        for handle in list(self.live):
            live = self._trials.end(handle)
            if live is not None:
                self._untold.tell(functools.partial(self._finish, live, self._given_back))
        self._release_parked()
        if self._untold:
            self._tell_at_last()

    def _release_parked(self) -> None:
        for trial_id, claim in list(self.parked.items()):
            self._trials.unpark(trial_id)
            self._untold.tell(functools.partial(self._store, claim, self._given_back))

    @property
    def _given_back(self) -> Release:
        return Release((self.stopping or Stopping.INTERRUPT).value)

    def _tell_at_last(self) -> None:
        try:
            self.outage.ridden_out(self._come_back, go_on=lambda: self.stopping is not Stopping.INTERRUPT)
        except OutageError as error:
            _log.error("%d ends of trials were not told, and these are tried again: %s", len(self._untold), error)
