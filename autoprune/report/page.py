"""The page: its parts in order, in one file that asks for nothing outside it."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import resources

from autoprune.config import duration_text
from autoprune.report import charts
from autoprune.report.comparison import comparison
from autoprune.report.data import data_script
from autoprune.report.facts import StudyFacts
from autoprune.report.figure import Column, table
from autoprune.report.health import findings, reason_of
from autoprune.report.markup import Markup, tag
from autoprune.report.scales import number_text

__all__ = ["page"]

_WORDS = {"good": "Good", "note": "Note", "warning": "Look"}


def page(studies: Sequence[StudyFacts], *, made: str, version: str | None = None) -> str:
    """One or two studies as a whole HTML document, without anything that has to be loaded.

    Args:
        studies: Two have the same objectives.
        made: When and by what it was made, for its foot.
        version: Given where a server knows it: the page then asks it for news, which is another version.
    """
    sections = _sections(studies)
    names = ["Front", *(["Side by side"] if len(studies) > 1 else []), "Health", *sections]
    style, script = _resource("style.css"), _resource("script.js")
    is_live = version is not None
    name = " and ".join(study.name for study in studies)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", attrs={"http-equiv": "Content-Security-Policy"}, content=_policy(script, is_live=is_live)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{name} · autoprune"),
        tag("link", rel="icon", href="data:,"),  # Else a browser asks for one.
        tag("style", Markup(style)),
    )
    body = tag(
        "body",
        tag("a", "Skip to the front", href="#front", class_="skip"),
        _header(studies, name, is_live=is_live),
        _contents(names),
        tag("main", _front(studies), sections.values()),
        tag("footer", tag("p", made)),
        tag("div", id="tip", hidden=True, aria_hidden="true"),
        data_script(studies),
        tag("script", Markup(script)),
        data_live=is_live,
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en', data_version=version)}\n"


def _resource(name: str) -> str:
    return resources.files("autoprune.report").joinpath(name).read_text(encoding="utf-8")


def _policy(script: str, *, is_live: bool) -> str:
    """Nothing is loaded, and only our own script runs, whatever else should have come into the page."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    asks = "; connect-src 'self'" if is_live else ""
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        f"form-action 'none'{asks}"
    )


def _header(studies: Sequence[StudyFacts], name: str, *, is_live: bool) -> Markup:
    live = tag("p", tag("output", "live", id="live-state"), " ",
               tag("label", tag("input", type="checkbox", id="follow", checked=True), " show news at once"),
               class_="live") if is_live else None  # fmt: skip
    return tag("header", tag("p", "autoprune report", class_="eyebrow"), tag("h1", name), live,
               [_tiles(study, is_named=len(studies) > 1) for study in studies])  # fmt: skip


def _tiles(study: StudyFacts, *, is_named: bool) -> Markup:
    counts = Counter(trial.state for trial in study.trials.values())
    n_ended = counts["COMPLETE"] + counts["PRUNED"]
    wanted = "" if study.n_wanted is None else f"of {number_text(study.n_wanted)}; "
    spent = study.growth[-1].device_s if study.growth else None
    tiles = [("trials", number_text(n_ended), f"{wanted}{_others(counts)}")]
    tiles.append(("on the front", str(len(study.front)), "networks"))
    if study.members:
        best = study.members[-1]
        for trial in study.members:
            if study.is_better(trial.values[study.metric], best.values[study.metric]):
                best = trial
        dense = "" if study.dense_score is None else f"dense {study.score_text(study.dense_score)}"
        tiles.append((f"best {study.metric}", study.score_text(best.values[study.metric]), dense))
        half = _half(study)
        if half is not None:
            cost = {"macs_ratio": "MACs", "params_ratio": "parameters"}[study.cost]
            tiles.append((f"with half of the {cost}", half, f"{study.metric}, or with fewer"))
    if study.growth:
        tiles.append(("hypervolume", f"{study.growth[-1].hypervolume:.4f}", "of the box to the reference point"))
    tiles.append(("device time", duration_text(spent), f"device: {study.devices}"))
    items = [
        tag("div", tag("dt", term), tag("dd", tag("strong", value), tag("span", more))) for term, value, more in tiles
    ]
    heading = tag("h2", study.name, class_="tiles-name") if is_named else None
    return Markup((heading or "") + tag("dl", items, class_="tiles"))


def _others(counts: Counter[str]) -> str:
    words = {"PRUNED": "stopped early", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}
    return ", ".join(f"{counts[state]} {word}" for state, word in words.items() if counts[state]) or "all complete"


def _half(study: StudyFacts) -> str | None:
    """The best score at half of the cost or less."""
    if not study.cost.endswith("_ratio"):
        return None
    scores = [t.values[study.metric] for t in study.members if t.values[study.cost] <= 0.5]
    return study.score_text(max(scores) if study.metric_is_maximised else min(scores)) if scores else None


def _contents(names: Sequence[str]) -> Markup:
    """Links to the sections that there are."""
    ids = {"Side by side": "comparison"}
    items = [tag("li", tag("a", name, href=f"#{ids.get(name, name.lower())}")) for name in names]
    return tag("nav", tag("ul", items), aria_label="Contents")


def _front(studies: Sequence[StudyFacts]) -> Markup:
    """What is looked at first, and beside it the trial that is picked."""
    hint = "Pick a point of the front to see its widths, where it comes from, and how to take it away."
    picked = tag(
        "aside", tag("h2", "Picked"), tag("p", hint, class_="quiet"), id="picked", aria_label="Picked trial"
    )  # fmt: skip
    compared = comparison(*studies) if len(studies) > 1 else None
    said = tag("div", id="said", class_="unseen", role="status", aria_live="polite")
    return tag(
        "div", tag("div", charts.front_chart(studies), compared, _health(studies)), picked, said, class_="front-part"
    )


def _sections(studies: Sequence[StudyFacts]) -> dict[str, Markup]:
    """The other parts of the page by their headings, those in which there is something to be seen."""

    def each(*make: Callable[[StudyFacts, int], Markup | None]) -> list[Markup]:
        drawn: list[Markup] = []
        for index, study in enumerate(studies):
            figures = [figure for chart in make if (figure := chart(study, index)) is not None]
            if len(studies) > 1 and figures:
                drawn.append(tag("h3", study.name, class_="of-study"))
            drawn += figures
        return drawn

    growth = charts.hypervolume_chart(studies)
    parts = {
        "Networks": each(charts.widths_chart, charts.lineage_chart, charts.latency_chart),
        "Search": [
            *([growth] if growth else []),
            *each(charts.parallel_chart, charts.trials_table, charts.importance_chart),
        ],
        "Work": each(charts.rungs_chart, charts.timeline_chart, _failures),
        "About": each(_about),
    }
    return {name: tag("section", tag("h2", name), drawn, id=name.lower()) for name, drawn in parts.items() if drawn}


def _health(studies: Sequence[StudyFacts]) -> Markup:
    parts: list[Markup] = []
    for study in studies:
        items = [
            tag("li", tag("b", _WORDS[found.level]), " ", tag("span", found.sentence), class_=found.level)
            for found in findings(study)
        ]
        if len(studies) > 1:
            parts.append(tag("h3", study.name, class_="of-study"))
        parts.append(tag("ul", items, class_="findings") if items else tag("p", "Nothing to say yet.", class_="quiet"))
    return tag("section", tag("h2", "Health"), parts, id="health")


def _failures(study: StudyFacts, index: int) -> Markup | None:
    failed = [trial for trial in study.trials.values() if trial.state == "FAIL"]
    if not failed:
        return None
    by_reason: dict[str, list[int]] = {}
    for trial in failed:
        by_reason.setdefault(reason_of(trial), []).append(trial.number)
    rows = []
    for reason, numbers in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        links = [Markup(charts.trial_link(index, number) + " ") for number in numbers[:10]]
        rows.append([str(len(numbers)), reason, Markup("".join(links) + ("…" if len(numbers) > 10 else ""))])
    columns = [Column("trials"), Column("reason", is_number=False), Column("which", is_number=False)]
    return tag("figure", tag("figcaption", tag("h3", "Failures")), table(columns, rows, caption="Failures by reason"))


def _about(study: StudyFacts, index: int) -> Markup:
    del index
    return tag("dl", [tag("div", tag("dt", term), tag("dd", words)) for term, words in study.about], class_="about")
