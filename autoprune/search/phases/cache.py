"""The size cap of the phase cache: what was unused for the longest time goes first."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from autoprune.search.phases.ledger import PhasePlace, PhaseRows

__all__ = ["PhaseCache", "discard", "surplus"]

_log = logging.getLogger(__name__)


def surplus(
    results: Sequence[PhasePlace], *, folder: Path, in_use: Collection[str], limit_bytes: float
) -> list[PhasePlace]:
    """Choose the results that must go so that those of one folder fit its limit, as far as any may go.

    Args:
        results: Finished results, the one longest unused first.
        folder: Only files directly in it count, and only they are chosen.
        in_use: Keys of results that stay. Dense networks stay as well: each trial of their study starts from them.
        limit_bytes: What the folder may hold.
    """
    ours = [result for result in results if Path(result.place).parent == folder]
    excess, chosen = sum(result.size_bytes for result in ours) - limit_bytes, []
    for result in ours:
        if excess <= 0:
            break
        if result.kind != "dense" and result.key not in in_use:
            chosen.append(result)
            excess -= result.size_bytes
    return chosen


class PhaseCache:
    """A folder of phase results that is kept below a size.

    Args:
        rows: The ledger.
        folder: Where this study's results lie.
        limit_bytes: What it may hold.
    """

    def __init__(self, rows: PhaseRows, *, folder: Path, limit_bytes: float) -> None:
        self._rows, self._folder, self._limit_bytes = rows, folder, limit_bytes

    def shrink(self) -> None:
        """Delete what is too much."""
        results, in_use = self._rows.by_last_use(), self._rows.in_use()
        for result in surplus(results, folder=self._folder, in_use=in_use, limit_bytes=self._limit_bytes):
            try:
                discard(self._rows, result)
            except OSError as error:
                _log.warning("the phase cache is over its limit, but can't be made smaller: %s", error)


def discard(rows: PhaseRows, result: PhasePlace) -> None:
    """Delete a result: the record first, then the weights, then the row.

    Whatever a death in between leaves counts as absent to the worker that looks for it, and is computed anew.

    Raises:
        OSError: A file can't be deleted; the row stays.
    """
    weights = Path(result.place)
    weights.with_suffix(".json").unlink(missing_ok=True)
    weights.unlink(missing_ok=True)
    rows.forget(result.key)
