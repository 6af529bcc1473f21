"""One trial as a page: what it is, where it comes from, what it cost, how it scored, what is left of its network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autoprune.cli.pages import Row, Section
from autoprune.cli.wording import bar, command, percent
from autoprune.config import duration_text

if TYPE_CHECKING:
    from autoprune.config import Metric

__all__ = ["heading", "sections"]

Facts = Mapping[str, Any]

_STATES = {
    "COMPLETE": "complete", "PRUNED": "stopped early", "FAIL": "failed", "RUNNING": "running",
    "WAITING": "waiting for another try",
}  # fmt: skip
_COMPARED = {"surgery": "the masked dense network", "fold": "the network before folding"}
_BAR, _SHORT_BAR = 30, 8
_ROOM = 80 - len("    ") - len("  of ")  # For a group's name, its bar and its two numbers.


def heading(facts: Facts, study: str) -> str:
    """The first line of the page."""
    state = "interrupted or lost, and tried again" if "tried again as" in facts else _STATES[facts["state"]]
    return f"trial {facts['trial']} of study {study!r}: {state}"


def sections(facts: Facts, *, study: str, metric: Metric, storage: str | None) -> list[Section]:
    """The page below its heading; a section about which nothing is known has no rows.

    Args:
        facts: What `api.Study.trial` tells.
        study: The study's name.
        metric: What its trials are scored by.
        storage: The database, where one was named.
    """
    return [
        Section("why it failed" if _has_failed(facts) else "how it ended", _ending(facts)),
        Section("what it is", _nature(facts)),
        Section("where it comes from", _origin(facts)),
        Section("how it scored", _scores(facts, metric)),
        Section("its network", _costs(facts)),
        Section("channels kept", _widths(facts)),
        Section("what it took", _effort(facts)),
        Section("its file", _file(facts, study=study, storage=storage)),
    ]


def _has_failed(facts: Facts) -> bool:
    return facts["state"] == "FAIL" and "tried again as" not in facts


def _ending(facts: Facts) -> list[Row]:
    rows = [Row("", str(facts[key])) for key in ("reason", "stop_reason") if facts.get(key)]
    if "tried again as" in facts:
        rows.append(Row("", f"It was tried again as {_trials(facts['tried again as'])}."))
    elif facts["state"] == "FAIL":
        rows.append(Row("", "It was not tried again."))
    return rows


def _trials(numbers: list[int]) -> str:
    return f"trial{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _nature(facts: Facts) -> list[Row]:
    point = facts.get("point")
    if point is None:  # Another tool has made it.
        return [Row("", "It was not proposed by autoprune.")]
    recipe = point.get("recipe") or {}
    if point.get("epochs") is not None:
        recipe = {"epochs": point["epochs"], **recipe}
    texts = {
        "method": _named(point["method"], point.get("hyper")),
        "width rule": _named(point["width_rule"], point.get("shape")),
        "MACs target": f"at most {percent(point['macs_target'])} of the dense network's",
        "fine-tuning": _values(recipe),
        "why": facts.get("why"),
    }
    return [Row(label, text) for label, text in texts.items() if text]


def _named(name: str, values: Mapping[str, Any] | None) -> str:
    return f"{name} with {_values(values)}" if values else name


def _values(values: Mapping[str, Any]) -> str:
    texts = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in values.items()}
    return ", ".join(f"{name}={text}" for name, text in texts.items())


def _origin(facts: Facts) -> list[Row]:
    rows = []
    if "lineage" in facts:
        rows.append(Row("lineage", facts["lineage"]))
    elif facts.get("parent") is not None:
        rows.append(Row("starts from", f"the network of trial {facts['parent']}"))
    elif "point" in facts:
        rows.append(Row("starts from", "the dense network"))
    started = facts.get("started_from")
    if "parent" in facts and facts["state"] == "COMPLETE" and started != facts["parent"]:
        other = "the dense network" if started is None else f"that of trial {started}"
        rows.append(Row("but", f"the network of trial {facts['parent']} was gone; it started from {other}"))
    if facts.get("retry_of") is not None:
        rows.append(Row("another try of", f"trial {facts['retry_of']}"))
    if facts.get("taken_over_from") is not None:
        rows.append(Row("result", f"that of trial {facts['taken_over_from']}, which had come to the same network"))
    return rows


def _scores(facts: Facts, metric: Metric) -> list[Row]:
    rows = []
    if facts.get(metric.name) is not None:
        rows.append(Row("validation", f"{metric.name} {metric.text(facts[metric.name])}"))
    elif facts.get(f"partial_{metric.name}") is not None:
        rows.append(Row("validation", f"{metric.name} {metric.text(facts[f'partial_{metric.name}'])} when it ended"))
    rungs = {int(rung): score for rung, score in (facts.get("rungs") or {}).items() if score is not None}
    if rungs:
        rows.append(Row("at rungs", ", ".join(f"{i}: {metric.text(rungs[i])}" for i in sorted(rungs))))
    if f"test_{metric.name}" in facts:
        n, sd = facts["test_seeds"], facts["test_sd"]
        mean = metric.text(facts[f"test_{metric.name}"])
        spread = "" if sd is None else f" ± {metric.text(sd)}"
        rows.append(Row("test", f"{metric.name} {mean}{spread} ({n} fine-tuning{'s' if n > 1 else ''})"))
    return rows


def _costs(facts: Facts) -> list[Row]:
    rows = []
    for label, key in (("MACs", "macs"), ("parameters", "params")):
        if key in facts:
            dense = facts.get(f"dense_{key}")
            of = f" of {dense:,}, {percent(facts[key] / dense)}" if dense else ""
            rows.append(Row(label, f"{facts[key]:,}{of}"))
    if "macs" not in facts and facts.get("partial_macs_ratio") is not None:
        rows.append(Row("MACs", f"{percent(facts['partial_macs_ratio'])} of the dense network's"))
    if facts.get("latency_ms") is not None:
        ratio = facts.get("latency_ratio")
        of = "" if ratio is None else f", {percent(ratio)} of the dense network's"
        rows.append(Row("latency", f"{facts['latency_ms']:.3g} ms for a batch{of}"))
    moved = {step: share for step, share in (facts.get("differences") or {}).items() if share is not None}
    if moved:
        told = [f"those of {_COMPARED.get(step, step)} {_agreement(share)}" for step, share in moved.items()]
        rows.append(Row("checked", f"its outputs equal {', and '.join(told)}"))
    return rows


def _agreement(share: float) -> str:
    """How far two networks' outputs agree, by their largest difference over the largest output."""
    return f"to {share:.1g} of the largest" if share else "exactly"


def _widths(facts: Facts) -> list[Row]:
    widths, dense = facts.get("widths") or {}, facts.get("dense_widths") or {}
    digits = max((len(f"{width}") for width in dense.values()), default=1)
    length = min(_BAR, max(_SHORT_BAR, _ROOM - max(map(len, widths), default=0) - 2 * digits))
    rows = []
    for group, width in widths.items():
        whole = dense.get(group)
        text = f"{width}" if not whole else f"{bar(width / whole, length=length)} {width:>{digits}} of {whole}"
        rows.append(Row(group, text, is_whole=True))
    return rows


def _effort(facts: Facts) -> list[Row]:
    rows = []
    if "started" in facts:
        end, seconds = facts.get("ended"), facts.get("duration_s")
        same_day = end is not None and end[:10] == facts["started"][:10]
        until = " until now" if end is None else f" to {end[11:] if same_day else end}"
        rows.append(Row("when", f"{facts['started']}{until}{'' if seconds is None else f', {duration_text(seconds)}'}"))
    if facts.get("host"):
        rows.append(Row("where", facts["host"]))
    phases = {phase: seconds for phase, seconds in (facts.get("wall_s") or {}).items() if seconds >= 0.05}
    if phases:
        rows.append(Row("phases", ", ".join(f"{phase} {duration_text(seconds)}" for phase, seconds in phases.items())))
    if facts.get("images"):
        line = facts.get("lineage_images")
        along = "" if line is None else f"; with those that it comes from {line:,}"
        rows.append(Row("images", f"{facts['images']:,}{along}"))
    if "device_hours" in facts:
        rows.append(Row("device", f"{facts['device_hours']:.2g} {facts['device']} hours"))
    return rows


def _file(facts: Facts, *, study: str, storage: str | None) -> list[Row]:
    if not facts.get("weights"):
        return []
    rows = [Row("", facts["weights"], is_whole=True)]
    if not facts.get("has_network"):
        kept = '[retention] networks = "all" keeps those of trials that others beat.'
        return [*rows, Row("", f"It is not there (any more, or on this machine): {kept}")]
    to = f"{study}-{facts['trial']}.safetensors"
    return [*rows, Row("", command("export", study, facts["trial"], "--to", to, storage=storage), is_whole=True)]
