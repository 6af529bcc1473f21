"""What is to be known of a study before its front is believed, in sentences."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autoprune.report.facts import StudyFacts, TrialFacts

__all__ = ["Finding", "findings", "rank_correlation"]

_FEWEST = 8
_CHOICE_AXES = frozenset({"macs_target"})


@dataclass(frozen=True)
class Finding:
    """One sentence.

    Args:
        level: ``good``, ``note`` or ``warning``.
        sentence: What is, and what to do about it.
    """

    level: str
    sentence: str


def findings(study: StudyFacts) -> list[Finding]:
    """What there is to say, warnings first."""
    checks: tuple[Callable[[StudyFacts], list[Finding]], ...] = (
        _enough, _beside_uniform, _bounds, _lowest_target, _predictable, _growth, _tested, _limits, _failures, _retries,
    )  # fmt: skip
    found = [finding for check in checks for finding in check(study)]
    return sorted(found, key=lambda finding: ("warning", "note", "good").index(finding.level))


def _enough(study: StudyFacts) -> list[Finding]:
    n = len(study.complete)
    if n >= _FEWEST:
        return []
    return [
        Finding(
            "warning", f"Only {_count(n, 'trial')} with a result: too few to say much. Run `autoprune resume` for more."
        )
    ]


def _beside_uniform(study: StudyFacts) -> list[Finding]:
    uniform = [study.trials[number] for number in study.uniform_front]
    if not uniform:
        if len(study.complete) < _FEWEST:
            return []
        return [
            Finding("note", "No trial has uniform widths, so there is no baseline: add `uniform` to `width_rules`.")
        ]
    gains, beaten = [], 0
    cheapest = min(trial.values[study.cost] for trial in uniform)
    searched = [t for t in study.members if t.searched.get("width_rule") != "uniform"]
    others = [t for t in searched if t.values[study.cost] >= cheapest]
    if searched and not others:
        return [Finding(
            "note",
            f"Every member with other than uniform widths costs less than the cheapest uniform network ({study.cost} "
            f"{cheapest:.3g}), so there is nothing to set them beside.",
        )]  # fmt: skip
    for trial in others:
        rivals = [u.values[study.metric] for u in uniform if u.values[study.cost] <= trial.values[study.cost]]
        best = max(rivals) if study.metric_is_maximised else min(rivals)
        gains.append(
            abs(trial.values[study.metric] - best) if study.is_better(trial.values[study.metric], best) else 0.0
        )
        beaten += gains[-1] > 0
    if not beaten:
        return [Finding(
            "warning",
            "Nothing on the front is better than uniform widths at the same cost: for this network the search over "
            "widths has not paid yet.",
        )]  # fmt: skip
    gain = sorted(each for each in gains if each > 0)[beaten // 2]
    how = f"by {gain:.2g}" if beaten == 1 else f"in the median by {gain:.2g}"
    return [Finding(
        "good" if beaten > len(others) / 2 else "note",
        f"{beaten} of {_count(len(others), 'member')} with other than uniform widths beat the best uniform network of "
        f"no more cost, {how} of {study.metric}.",
    )]  # fmt: skip


def _bounds(study: StudyFacts) -> list[Finding]:
    found = []
    for name, axis in study.axes.items():
        if name in _CHOICE_AXES or not axis.low < axis.high:
            continue
        values = [float(v) for t in study.members if isinstance(v := t.searched.get(name), float | int)]
        for end, word, advice in ((axis.low, "lower", "lower it"), (axis.high, "upper", "raise it")):
            at_end = sum(abs(value - end) <= 1e-6 * abs(axis.high - axis.low) for value in values)
            if len(values) >= 3 and at_end >= 0.5 * len(values):
                found.append(Finding(
                    "warning",
                    f"The space may be too tight: {at_end} of {_count(len(values), 'member')} have {name} at its "
                    f"{word} end, {end:g}. To find out, {advice} and resume.",
                ))  # fmt: skip
    return found


def _lowest_target(study: StudyFacts) -> list[Finding]:
    axis = study.axes.get("macs_target")
    if axis is None or not study.members or study.cost != "macs_ratio":
        return []
    cheapest = study.members[0]
    target = cheapest.searched.get("macs_target")
    if not isinstance(target, float | int) or target > axis.low * (1 + 1e-6):
        return []
    return [Finding(
        "note",
        f"The cheapest member has the lowest macs_target there is, {axis.low:g}: the front may go on below it.",
    )]  # fmt: skip


def _predictable(study: StudyFacts) -> list[Finding]:
    pairs = [(t.rungs[0], t.rungs[-1]) for t in study.complete if len(t.rungs) > 1]
    if len(pairs) < _FEWEST:
        return []
    rho = rank_correlation([first for first, _ in pairs], [last for _, last in pairs])
    said = f"(rank correlation {rho:.2f} over {len(pairs)} trials)"
    if rho >= 0.7:
        return [Finding("good", f"Rung 0 foretells the final {study.metric} {said}: stopping early is safe.")]
    if rho >= 0.4:
        return [Finding("note", f"Rung 0 foretells the final {study.metric} only roughly {said}.")]
    return [Finding(
        "warning",
        f"The {study.metric} can't be told from rung 0 {said}: early stopping would throw good networks away. Use "
        "later rungs, or `stopper = false`.",
    )]  # fmt: skip


def _growth(study: StudyFacts) -> list[Finding]:
    growth = study.growth
    if len(growth) < 2 * _FEWEST or not growth[-1].hypervolume:
        return []
    before = growth[int(0.7 * len(growth)) - 1].hypervolume
    gain = (growth[-1].hypervolume - before) / growth[-1].hypervolume
    n_late = len(growth) - int(0.7 * len(growth))
    if gain < 0.002:
        return [
            Finding(
                "note", f"The last {n_late} trials added {gain:.1%} to the hypervolume: more of them will bring little."
            )
        ]
    return [
        Finding("good", f"The last {n_late} trials still added {gain:.1%} to the hypervolume: more of them may pay.")
    ]


def _tested(study: StudyFacts) -> list[Finding]:
    if not study.front:
        return []
    tested = [trial.tested for trial in study.members if trial.tested]
    if not tested:
        return [Finding(
            "note",
            f"The front was chosen on the validation split and has not been scored on the test split: run "
            f"`autoprune evaluate {study.name} --seeds 3`.",
        )]  # fmt: skip
    alike = sum(each.like_next is True for each in tested)
    if alike:
        return [Finding(
            "note",
            f"{alike} of {_count(len(study.front), 'member')} can't be told apart from the next costlier one on the "
            "test split: of such, take the cheaper.",
        )]  # fmt: skip
    return []


def _limits(study: StudyFacts) -> list[Finding]:
    broken = sum(not trial.keeps_limits for trial in study.complete)
    if not broken:
        return []
    n = len(study.complete)
    level = "warning" if broken == n else "note"
    limits = ", ".join(f"{name} ≤ {value:g}" for name, value in study.limits.items())
    return [Finding(level, f"{broken} of {_count(n, 'trial')} with a result break a constraint ({limits}).")]


def _failures(study: StudyFacts) -> list[Finding]:
    again = {trial.retry_of for trial in study.trials.values()}  # Interrupted or lost: see `_retries`.
    failed = [trial for trial in study.trials.values() if trial.state == "FAIL" and trial.number not in again]
    by_reason = Counter(reason_of(trial) for trial in failed)
    if not failed:
        return [Finding("good", "No trial has failed.")] if study.trials else []
    share = len(failed) / len(study.trials)
    told = "; ".join(f"{n} × {reason}" for reason, n in by_reason.most_common(4))
    more = f"; and {_count(len(by_reason) - 4, 'other reason')}" if len(by_reason) > 4 else ""
    return [Finding("warning" if share > 0.1 else "note", f"{_count(len(failed), 'trial')} failed: {told}{more}.")]


def _retries(study: StudyFacts) -> list[Finding]:
    retried = sum(trial.retry_of is not None for trial in study.trials.values())
    if not retried:
        return []
    return [
        Finding(
            "note",
            f"{_count(retried, 'trial')} tried one again that was interrupted or lost its driver or worker.",
        )
    ]


def reason_of(trial: TrialFacts) -> str:
    """Why a trial failed, so short that trials of one reason meet: its first line, without numbers that differ."""
    first = ((trial.reason or "no reason was stored").strip().splitlines() or [""])[0]
    return re.sub(r"\b(0x[0-9a-f]+|\d{3,})\b", "…", first)[:140].rstrip(". ")


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's rank correlation, ties at their mean rank; 0 where one of them is constant.

    Example:
        >>> rank_correlation([1, 2, 3, 4], [10, 20, 40, 30])
        0.8
    """
    a, b = _ranks(one), _ranks(other)
    mean = (len(a) - 1) / 2
    both = sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True))
    each = sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b)
    return both / each**0.5 if each else 0.0


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=lambda i: values[i])
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        stop = start
        while stop < len(order) and values[order[stop]] == values[order[start]]:
            stop += 1
        for i in order[start:stop]:
            ranks[i] = (start + stop - 1) / 2
        start = stop
    return ranks
