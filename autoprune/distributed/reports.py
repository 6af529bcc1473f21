"""Reports on their way from a worker to the driver: one text, since Tune flattens tables and the names in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["pack", "unpack"]

_KEY = "report"


def pack(report: Mapping[str, Any]) -> dict[str, str]:
    """What to give to ``tune.report``."""
    return {_KEY: json.dumps(report)}


def unpack(result: Mapping[str, Any] | None) -> dict[str, Any]:
    """The report in what Tune hands on; empty where the trial has said nothing."""
    report: dict[str, Any] = json.loads((result or {}).get(_KEY, "{}"))
    return report
