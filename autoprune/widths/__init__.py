"""Width rules, one file each: from scores and limits to the channels that stay."""

import inspect
from collections.abc import Mapping
from functools import cache

from autoprune.errors import ConfigError, unknown_name
from autoprune.importing import import_named, is_own
from autoprune.widths._aofp import AOFP
from autoprune.widths._contract import Damages, Evidence, Kept, Scores, WidthRule
from autoprune.widths._damages import joint_damages, largest_damage
from autoprune.widths._global import Global
from autoprune.widths._learned import Learned
from autoprune.widths._per_group import PerGroup
from autoprune.widths._per_mac import PerMAC
from autoprune.widths._per_stage import PerStage
from autoprune.widths._ranking import keep_best, remove_least
from autoprune.widths._uniform import Uniform

__all__ = [
    "WIDTH_RULES",
    "Damages",
    "Evidence",
    "Kept",
    "Scores",
    "WidthRule",
    "joint_damages",
    "keep_best",
    "largest_damage",
    "remove_least",
    "rule_named",
]

WIDTH_RULES: Mapping[str, WidthRule] = {
    rule.name: rule for rule in (Uniform(), Global(), PerGroup(), PerStage(), AOFP(), Learned(), PerMAC())
}
"""By name."""


def rule_named(name: str) -> WidthRule:
    """The width rule ``name``, or one of somebody's own class ``package.module:Class``.

    Raises:
        ConfigError: There is none of this name, or the class is no width rule.
    """
    if is_own(name):
        return _own_rule(name)
    if name not in WIDTH_RULES:
        raise ConfigError(unknown_name("width rule", name, WIDTH_RULES))
    return WIDTH_RULES[name]


@cache
def _own_rule(name: str) -> WidthRule:
    kind = import_named(name, key="width_rules", what="class")
    if not (isinstance(kind, type) and issubclass(kind, WidthRule)) or inspect.isabstract(kind):
        raise ConfigError(f"`width_rules`: {name!r} must be a class of a width rule, with all that it asks for.")
    rule: WidthRule = kind()
    return rule
