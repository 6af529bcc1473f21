"""The front of one study, or of several together, asked of a live database.

What choosing needs is read of every trial: states, objectives, limited facts and the columns that are named. All the
rest is read of the trials that are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from optuna.trial import TrialState

from autoprune.config import SearchConfig
from autoprune.errors import ConfigError, unknown_name
from autoprune.search.front.choosing import knee, spread
from autoprune.search.front.lineages import lineage_images
from autoprune.search.front.noise import with_marks
from autoprune.search.front.query import corner_of, feasible, front, hypervolume_of, losses_of, thinned
from autoprune.search.front.ranks import with_ranks
from autoprune.search.front.table import column_names, trials_frame
from autoprune.search.front.test_scores import EvaluationRows, with_test_scores
from autoprune.search.front.where import columns_of, rows_where
from autoprune.search.storage import StudyHandle

if TYPE_CHECKING:
    import pandas as pd  # half a second to load, so the functions import it

__all__ = ["Candidates", "Front", "Source"]

_SOURCE = "autoprune:source"  # the column that says which of the studies a row is of
_RANKS = ("is_pareto", "rank", "crowding", "hv_contribution")


@dataclass(frozen=True)
class Source:
    """A study whose trials are asked for.

    Args:
        handle: Opened in its database.
        limits: Largest value allowed, by column.
        n_validation: Examples that its score is a share of; None where it is no share, or nobody knows.
    """

    handle: StudyHandle
    limits: Mapping[str, float]
    n_validation: int | None = None


class Candidates:
    """The trials among which a front is looked for, read once; every question is answered from that one reading.

    Args:
        sources: One study, or several of the same objectives.
        search: Objectives, their directions, the metric and the reference point.
        where: Conditions on the columns, each of which must hold (`where.rows_where`).
        columns: What else is going to be asked for by name, by the argument that names it; None is passed over.

    Raises:
        ConfigError: A condition can't be understood, or no study has a column.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        search: SearchConfig,
        *,
        where: Sequence[str] = (),
        columns: Mapping[str, str | None] | None = None,
    ) -> None:
        self._sources, self._search = sources, search
        asked = {name: argument for argument, name in (columns or {}).items() if name is not None}
        named = {*asked}.union(*(columns_of(condition) for condition in where))
        frames = [
            trials_frame(source.handle.db, source.handle, columns={*source.limits, *named}).assign(**{_SOURCE: at})
            for at, source in enumerate(sources)
        ]
        kept = np.concatenate([feasible(each, source.limits) for each, source in zip(frames, sources, strict=True)])
        frame = _stacked(frames)
        if len(frames) > 1:
            frame["study"] = [sources[at].handle.name for at in frame[_SOURCE]]
        complete = (frame["state"].to_numpy() == TrialState.COMPLETE.name) & kept
        for name, argument in asked.items():
            if name not in frame.columns:
                raise ConfigError(f"in `{argument}`, {unknown_name('column', name, self._names())}")
        chosen = np.logical_and.reduce([complete, *(self._rows_where(frame, condition) for condition in where)])
        self._complete, self._chosen = frame[complete], frame[chosen]

    def _rows_where(self, frame: pd.DataFrame, condition: str) -> npt.NDArray[np.bool_]:
        try:
            return rows_where(frame, condition)
        except ConfigError:
            import pandas as pd

            rows_where(pd.DataFrame(columns=self._names()), condition)  # says the same and names all the columns
            raise

    def _names(self) -> list[str]:
        names = [name for source in self._sources for name in column_names(source.handle.db, source.handle)]
        return list(dict.fromkeys([*names, *(["study"] if len(self._sources) > 1 else [])]))

    def hypervolume(self) -> float:
        """What all that keeps its limits dominates up to the reference point, as a share of the box.

        Raises:
            ConfigError: There are more than three objectives.
        """
        search = self._search
        goals = search.objectives, search.directions
        return hypervolume_of(self._complete, *goals, reference_point=search.reference_point)

    def front(self, *, dominated: bool = False) -> Front:
        """The members of the front, or with ``dominated`` all that it was looked for among."""
        search = self._search
        known = self._chosen.dropna(subset=list(search.objectives))
        rows = known if dominated else front(known, search.objectives, search.directions)
        ranked = with_ranks(rows, search, among=np.ones(len(rows), dtype=np.bool_))
        return Front(ranked, self._sources, search).sorted(None)


def _stacked(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    frames = [each for each in frames if len(each)] or frames[:1]
    return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)


class Front:
    """Some of the candidates with what is known of their ranks; `filled` reads the rest of them.

    Args:
        rows: What choosing needs of each.
        sources: The studies that they are of.
        search: Objectives, directions and metric.
    """

    def __init__(self, rows: pd.DataFrame, sources: Sequence[Source], search: SearchConfig) -> None:
        self._rows, self._sources, self._search = rows, sources, search
        ways = zip(search.objectives, search.directions, strict=True)
        self._maximised = {name for name, way in ways if way == "maximize"}
        self._cost = search.cost

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def narrow(self) -> pd.DataFrame:
        """What choosing needs of the members: number, objectives, ranks."""
        return self._rows

    def _part(self, rows: pd.DataFrame) -> Front:
        return Front(rows.reset_index(drop=True), self._sources, self._search)

    def sorted(self, column: str | None) -> Front:
        """By a column, best first: a maximised objective descends, all else ascends; None: by the first cost."""
        by = self._cost if column is None else column
        ways = [by not in self._maximised, True, True]
        return self._part(self._rows.sort_values([by, _SOURCE, "number"], ascending=ways))

    def spaced(self, gap: float) -> Front:
        """Members of which no two are nearer than ``gap`` in the first cost, both ends kept.

        Raises:
            ConfigError: Trials off the front are among them.
        """
        if not self._rows["is_pareto"].all():
            raise ConfigError("`spacing` leaves out points of a front, but `dominated` shows others too. Drop one.")
        return self._part(thinned(self._rows, self._cost, self._search.score_metric, gap=gap))

    def best(self, column: str) -> Front:
        """The one member that is best by a column, of equal ones the best by the metric and then by the first cost."""
        known = self._rows[self._rows[column].notna()]
        keys = list(dict.fromkeys([column, self._search.metric, self._cost, _SOURCE, "number"]))
        ways = [key not in self._maximised for key in keys]
        return self._part(known.sort_values(keys, ascending=ways).head(1))

    def knee(self) -> Front:
        """The one member at the knee (`choosing.knee`), or none where there is no knee."""
        found = knee(losses_of(self._rows, self._search.objectives, self._search.directions))
        return self._part(self._rows.iloc[[] if found is None else [found]])

    def top(self, n: int) -> Front:
        """At most ``n`` members that together keep most of the hypervolume (`choosing.spread`)."""
        goals = self._search.objectives, self._search.directions
        corner = corner_of(*goals, reference_point=self._search.reference_point)
        return self._part(self._rows.iloc[spread(losses_of(self._rows, *goals), corner, n)])

    def filled(self) -> pd.DataFrame:
        """Everything that is known of the members, in their order."""
        found = _stacked([self._filled(at, source) for at, source in enumerate(self._sources)])
        place = {key: i for i, key in enumerate(zip(found[_SOURCE], found["number"], strict=True))}
        order = [place[key] for key in zip(self._rows[_SOURCE], self._rows["number"], strict=True)]
        found = found.iloc[order].reset_index(drop=True).drop(columns=_SOURCE)
        if "test_seeds" in found.columns:
            found["test_seeds"] = found["test_seeds"].fillna(0).astype(np.int64)
        if len(self._sources) > 1:
            found.insert(0, "study", [self._sources[at].handle.name for at in self._rows[_SOURCE]])
        sizes = np.array([self._sources[at].n_validation for at in self._rows[_SOURCE]], dtype=np.float64)
        for name in _RANKS:
            found[name] = self._rows[name].to_numpy()
        found["rank"] = found["rank"].astype(np.int64)
        return with_marks(found, metric=self._search.metric, cost=self._cost, n_validation=sizes)

    def _filled(self, at: int, source: Source) -> pd.DataFrame:
        handle, numbers = source.handle, self._rows.loc[self._rows[_SOURCE] == at, "number"].tolist()
        found = trials_frame(handle.db, handle, numbers=set(numbers))
        if "images" in found.columns:
            images = lineage_images(handle, numbers)
            found["lineage_images"] = [images[number] for number in found["number"]]
        scores = EvaluationRows(handle.db, handle.study_id).read()
        return with_test_scores(found, scores, metric=self._search.metric, cost=self._cost).assign(**{_SOURCE: at})
