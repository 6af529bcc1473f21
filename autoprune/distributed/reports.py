"""Reports on their way from a worker to the driver: one text, since Tune flattens tables and the names in them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from autoprune.config import Completed, Failed, Progressed, Report, Stopped

__all__ = ["pack", "unpack"]

_KEY = "report"
_KINDS = {kind.__name__: kind for kind in (Progressed, Completed, Stopped, Failed)}


def pack(report: Report) -> dict[str, str]:
    """What to give to ``tune.report``."""
    return {_KEY: json.dumps({"kind": type(report).__name__, **dataclasses.asdict(report)})}


def unpack(result: Mapping[str, Any] | None) -> Report | None:
    """The report in what Tune hands on; None where the trial has said nothing."""
    text = (result or {}).get(_KEY)
    if text is None:
        return None
    facts = json.loads(text)
    return _KINDS[facts.pop("kind")](**facts)
