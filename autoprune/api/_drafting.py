"""A search-space file for a user's own network, drafted from what tracing found."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from autoprune import methods
from autoprune.api._planning import inspection_of, unfit_methods
from autoprune.config import SHAPE, Range, load_setting
from autoprune.cost import CostModel
from autoprune.errors import ConfigError, NetworkError
from autoprune.pipeline import Workbench, open_workbench
from autoprune.widths import WIDTH_RULES

__all__ = ["write_space"]

_MOST_MULTIPLIERS = 16  # A study of some hundred trials can't tell more multipliers apart.
_STEP = 0.05
_HIGHEST_TARGET = 0.9


def write_space(study_file: Path | str, to: Path | str) -> str:
    """Write a commented search space for the network of a study file; an existing file is never overwritten.

    Args:
        study_file: Its network and data are read; its search space is not looked at, and may be missing.
        to: The file to write, ``.toml``.

    Returns:
        What ``space`` in the study file has to be to mean it: its path from the study file's folder.

    Raises:
        ConfigError: ``to`` is there already, can't be written, or is no ``.toml`` file.
        NetworkError: Nothing of the network can be pruned.
    """
    file = Path(to)
    if file.suffix != ".toml":
        raise ConfigError(f"a search space must be a .toml file, but got {str(to)!r}. Name it for example space.toml.")
    if file.exists():
        raise ConfigError(f"{file} must not be there yet, but is. Choose another name, or move it away.")
    name = os.path.relpath(file.resolve(), Path(study_file).resolve().parent)
    text = _draft(open_workbench(load_setting(Path(study_file))), name)
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except OSError as error:
        raise ConfigError(f"{file} can't be written: {error.strerror}.") from None
    return name


def _draft(workbench: Workbench, name: str) -> str:
    """The text of a search space for a traced network.

    Args:
        workbench: The network.
        name: What the study file will call the space.

    Raises:
        NetworkError: Nothing of the network can be pruned.
    """
    found = inspection_of(workbench, workbench.setting)
    if not found.groups:
        raise NetworkError(
            "a search space needs a network of which something can be pruned, but there is no channel group. "
            "`autoprune inspect` lists what is refused and why."
        )
    stages = workbench.traced.cost.stages
    methods, ranges = _methods(workbench)
    head = f"# Search space of {found.network} on {found.inputs}: {len(found.groups)} channel groups"
    return "\n".join(
        [
            f"{head}, {found.macs:,} MACs.",
            "# Edit it as you like, and name it in [study] of the study file:",
            f"#     space = {json.dumps(name)}",
            "",
            "[space]",
            '# What a trial trains and ranks channels by; ["*"] takes the short list that most studies need.',
            "methods = [",
            *methods,
            "]",
            "# How the widths follow from a MACs target.",
            "width_rules = [",
            *_width_rules(workbench.traced.cost),
            "]",
            f"# Pruned / dense MACs; the minimum widths reach {found.least_macs_ratio:.4f}.",
            f"macs_target = {_targets(found.least_macs_ratio)}",
            "# What per_stage and per_group multiply a keep ratio by.",
            f"shape = {_in_words(SHAPE)}",
            "",
            "# The stages of the network and their groups, each with its dense width:",
            *_stages(stages, {group.name: group.width for group in found.groups}),
            *ranges,
            "",
        ]
    )


def _methods(workbench: Workbench) -> tuple[list[str], list[str]]:
    """The lines of the list of methods, with those left out of it as comments, and the tables of the others."""
    ranges = methods.ranges()
    unfit = unfit_methods(ranges, workbench)
    fit = [name for name in methods.METHODS if name not in unfit]
    stock = methods.stock(fit, n_steps=workbench.sparsify_plan().n_steps)
    listed, tables, others = [], [], []
    for name in fit:
        line = f"{json.dumps(name)},  # {methods.METHODS[name].summary}"
        if name not in stock:
            others.append(f"    # {line}")
            continue
        listed.append(f"    {line}")
        if ranges[name]:
            tables += ["", f"[method.{name}]", *(f"{key} = {_in_words(r)}" for key, r in ranges[name].items())]
    if others:
        listed += ["    # For larger studies, or longer sparsify phases:", *others]
    for reason in dict.fromkeys(unfit.values()):
        names = ", ".join(json.dumps(name) for name in unfit if unfit[name] == reason)
        listed += [f"    # Not {names}:", f"    # {' '.join(reason.split())}"]
    return listed, tables


def _width_rules(cost: CostModel) -> list[str]:
    """The lines of the list of width rules: those without multipliers, then the others, the fewest of them first."""
    rules = [rule for rule in WIDTH_RULES.values() if rule.is_default]
    lines = [f'    "{rule.name}",  # {rule.summary}' for rule in rules if not rule.sampled(cost)]
    sampling = sorted((rule for rule in reversed(rules) if rule.sampled(cost)), key=lambda r: len(r.sampled(cost)))
    units: dict[frozenset[tuple[str, ...]], str] = {}  # what one multiplier is for, by the groups that share one
    for rule in sampling:
        shared, n = frozenset(rule.sampled(cost).values()), len(rule.sampled(cost))
        each = f"a multiplier for each of the {n} {rule.unit}s"
        if n > _MOST_MULTIPLIERS:
            lines.append(f'    # "{rule.name}": {each} is more than a study of some hundred trials can tell apart')
        elif shared in units:
            lines.append(f'    # "{rule.name}": each {units[shared]} is one {rule.unit}')
        elif n == 1:
            lines.append(f'    # "{rule.name}": there is only one {rule.unit}')
        else:
            lines.append(f'    "{rule.name}",  # {each}')
        units[shared] = rule.unit
    return lines


def _targets(least: float) -> str:
    low = max(1, math.ceil(round(least / _STEP, 6))) * _STEP
    if low < _HIGHEST_TARGET:
        return _in_words(Range(low=round(low, 2), high=_HIGHEST_TARGET, step=_STEP))
    low = math.ceil(1e4 * least) / 1e4
    return _in_words(Range(low=min(low, 1.0), high=1.0, points=5))


def _stages(stages: Mapping[str, tuple[str, ...]], widths: Mapping[str, int]) -> list[str]:
    return [
        f"#     {stage}: {', '.join(f'{group} ({widths[group]})' for group in groups)}"
        for stage, groups in stages.items()
    ]


def _in_words(values: Range) -> str:
    """A range as TOML."""
    if values.values is not None and values.scale == "linear":
        return json.dumps(values.values)
    parts = {key: value for key, value in vars(values).items() if value is not None and value != "linear"}
    return f"{{ {', '.join(f'{key} = {json.dumps(value)}' for key, value in parts.items())} }}"
