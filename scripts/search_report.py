"""What `bench_search` found, as a table and a picture beside the folder of its results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search_scores import LEVELS, REFERENCE, mean, reached

Result = Mapping[str, Any]
_TOGETHER = ("network", "minutes", "cpu", "cores", "precision")  # Only what shares these is compared.
_HEAD = f"""\
Written by `scripts/bench search`. Scores are on the test split, after the clock has stopped: hypervolume of (test
error, MACs ratio) up to {REFERENCE}, as a share of that box; best test accuracy at or under each MACs ratio, and their
mean. Rows are means over their seeds, the best first. Wall: of a peer as it says, ours from launch to exit. In use
before: share of the cores' time that something else took as a row began. Compare rows of one table only.
"""


def is_ours(row: str) -> bool:
    """Whether a row is autoprune's."""
    return row.startswith("ours")


def groups_of(results: Sequence[Result]) -> dict[tuple[Any, ...], dict[str, list[Result]]]:
    """Results that may be compared, by row; the row with the largest mean hypervolume comes first."""
    groups: dict[tuple[Any, ...], dict[str, list[Result]]] = {}
    for result in results:
        rows = groups.setdefault(tuple(result[key] for key in _TOGETHER), {})
        rows.setdefault(result["row"], []).append(result)
    return {key: dict(sorted(rows.items(), key=lambda item: -_volume(item[1]))) for key, rows in groups.items()}


def _volume(results: Sequence[Result]) -> float:
    return float(sum(result["hypervolume"] for result in results) / len(results))


def _figure(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    ruler = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ruler, *lines)) + "\n"


def _scores(rows: Mapping[str, Sequence[Result]]) -> str:
    lines = []
    for row, results in rows.items():
        volumes = [_figure(result["hypervolume"]) for result in results]
        at_levels = [_figure(mean(column)) for column in zip(*(result["best_at"] for result in results), strict=True)]
        lines.append(
            [
                f"`{row}`",
                ", ".join(str(result["seed"]) for result in results),
                f"**{_figure(_volume(results))}**" + (f" ({', '.join(volumes)})" if len(volumes) > 1 else ""),
                _figure(mean(result["mean"] for result in results)),
                *at_levels,
                ", ".join(str(len(result["front"])) for result in results),
                ", ".join(dict.fromkeys(result["commit"] for result in results)) if is_ours(row) else "",
                ", ".join(_figure(result["found"].get("wall_s"), 0) for result in results),
                f"{max(result['busy_before'] for result in results):.0%}",
            ]
        )
    levels = [f"{level:.2f}" for level in LEVELS]
    header = ["row", "seeds", "hypervolume", "mean", *levels, "networks", "commit", "wall, s", "in use before"]
    return _table(header, lines)


def _search(rows: Mapping[str, Sequence[Result]]) -> str:
    """How the searches of ours went, and when they had come to where the best peer ended."""
    peers = {row: _volume(results) for row, results in rows.items() if not is_ours(row)}
    best = max(peers, key=lambda row: peers[row], default=None)
    lines = []
    for row, results in rows.items():
        for result in results if is_ours(row) else ():
            found = result["found"]
            after = None if best is None else reached(found["history"], peers[best])
            states = ", ".join(f"{n} {state.lower()}" for state, n in sorted(found["trials"].items()))
            volume, share = _figure(found["validation_hypervolume"]), f"{found['busy_share']:.0%}"
            seconds = [_figure(value, 0) for value in (found["first_s"], found["wall_s"], after)]
            lines.append([f"`{row}`", str(result["seed"]), states, *seconds[:2], share, volume, seconds[2]])
    if not lines:
        return ""
    peer = "a peer's" if best is None else f"that of `{best}` ({_figure(peers[best])})"
    header = ["row", "seed", "trials", "first trial, s", "exit, s", "training and scoring", "hypervolume", "reached, s"]
    return (
        "\nSeconds since the launch. *Training and scoring*: share of the workers' time, launch to exit, in complete "
        "trials. *Hypervolume*: on the validation split, as the search sees it; *reached*: when it first came to "
        f"{peer} on the test split.\n\n{_table(header, lines)}"
    )


def markdown(results: Sequence[Result], *, missing: Mapping[str, str]) -> str:
    """The whole page.

    Args:
        results: As `bench_search` keeps them.
        missing: Runs that gave none, and why.
    """
    parts = ["# The best front per minute\n", _HEAD]
    for key, rows in groups_of(results).items():
        network, minutes, cpu, cores, precision = key
        parts.append(
            f"## {network}, {minutes:g} minutes\n\n{cpu}, {cores} cores, {precision}.\n\n{_scores(rows)}{_search(rows)}"
        )
    if missing:
        parts.append("## No result\n\n" + "\n".join(f"- `{run}`: {why}" for run, why in missing.items()) + "\n")
    return "\n".join(parts)


def draw(results: Sequence[Result], path: Path) -> None:
    """The fronts, and the hypervolume of each row with a dot for each seed."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "autoprune"  # The same file for the same results.
    groups = groups_of(results)
    figure = Figure(figsize=(11, 4.5 * len(groups)), layout="constrained")
    grid = figure.subplots(len(groups), 2, squeeze=False)
    names = dict.fromkeys(result["row"] for result in sorted(results, key=lambda result: str(result["row"])))
    colours = {row: f"C{i}" for i, row in enumerate(names)}
    for (fronts, volumes), (key, rows) in zip(grid, groups.items(), strict=True):
        for row, of_row in rows.items():
            for i, result in enumerate(of_row):
                ratios, errors = [ratio for _, ratio in result["front"]], [error for error, _ in result["front"]]
                order = sorted(range(len(ratios)), key=lambda at: ratios[at])
                fronts.plot(
                    [ratios[at] for at in order], [1 - errors[at] for at in order], marker="o", markersize=3,
                    linewidth=1.6 if is_ours(row) else 0.9, color=colours[row], label=row if i == 0 else None,
                )  # fmt: skip
        fronts.set(
            xlabel="MACs, pruned / dense", ylabel="test accuracy", title=f"{key[0]}, {key[1]:g} minutes, {key[4]}",
            xlim=(0, REFERENCE[1]), ylim=(1 - REFERENCE[0], None),
        )  # fmt: skip
        fronts.legend(loc="lower right", fontsize=8)
        upward = list(rows)[::-1]
        volumes.barh(upward, [_volume(rows[row]) for row in upward], color=[colours[row] for row in upward], alpha=0.6)
        for row in upward:
            for result in rows[row]:
                volumes.scatter(result["hypervolume"], row, s=16, color="black", zorder=3)
        volumes.set(xlabel="hypervolume on the test split; a dot a seed", title=f"{key[2]}, {key[3]} cores")
        for axes in (fronts, volumes):
            axes.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})


def write(folder: Path, *, missing: Mapping[str, str]) -> None:
    """Read all results of a folder, and write ``results.md`` and ``results.svg`` beside it.

    Args:
        folder: Of the results.
        missing: Runs that gave none, and why.
    """
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not results:
        print("no results yet, so no table")
        return
    table, picture = folder.parent / "results.md", folder.parent / "results.svg"
    draw(results, picture)
    table.write_text(markdown(results, missing=missing) + f"\n![The fronts]({picture.name})\n")
    print(f"written: {table} and {picture}")
