"""Images that the networks of some trials have been fine-tuned on, those of their lineages included."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from autoprune.search.storage import StudyHandle, schema
from autoprune.search.trials import Attr

__all__ = ["lineage_images"]

_TRIALS, _ATTRIBUTES = schema.optuna_trials, schema.optuna_trial_attributes
_KEYS = (Attr.IMAGES, Attr.STARTED_FROM, Attr.TAKEN_OVER_FROM)
_MOST_IN_QUERY = 10_000


def lineage_images(study: StudyHandle, numbers: Collection[int]) -> dict[int, int]:
    """By trial, the sum over its lineage (`trials.lineage_of`); only lineages are read, one generation at a time.

    Args:
        study: An opened study.
        numbers: Of trials with a result.
    """
    facts: dict[int, dict[str, Any]] = {}
    asked = set(numbers)
    while asked:
        facts |= _facts(study, asked)
        named = {facts[number].get(key) for number in asked for key in (Attr.STARTED_FROM, Attr.TAKEN_OVER_FROM)}
        asked = {int(number) for number in named if number is not None} - facts.keys()
    return {number: _sum(number, facts) for number in numbers}


def _sum(number: int | None, facts: dict[int, dict[str, Any]]) -> int:
    images = 0
    while number is not None:
        source = facts[number].get(Attr.TAKEN_OVER_FROM)
        own = facts[number if source is None else source]
        images, number = images + int(own.get(Attr.IMAGES) or 0), own.get(Attr.STARTED_FROM)
    return images


def _facts(study: StudyHandle, numbers: Collection[int]) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {number: {} for number in numbers}
    query = sa.select(_TRIALS.c.number, _ATTRIBUTES.c.key, _ATTRIBUTES.c.value_json)
    query = query.select_from(_TRIALS.join(_ATTRIBUTES, _ATTRIBUTES.c.trial_id == _TRIALS.c.trial_id))
    ordered = sorted(numbers)
    with study.db.reading() as connection:
        for start in range(0, len(ordered), _MOST_IN_QUERY):
            some = _TRIALS.c.number.in_(ordered[start : start + _MOST_IN_QUERY])
            where = sa.and_(_TRIALS.c.study_id == study.study_id, some, _ATTRIBUTES.c.key.in_(_KEYS))
            for number, key, text in connection.execute(query.where(where)):
                found[number][key] = json.loads(text)
    return found
