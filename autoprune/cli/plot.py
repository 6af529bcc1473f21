"""The front as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from autoprune.api import Study

__all__ = ["plot_front"]

_ENDINGS = (".png", ".svg", ".pdf")
_AXES = {"macs_ratio": "MACs", "params_ratio": "parameters"}


def plot_front(study: Study, front: pd.DataFrame, file: str) -> None:
    """Draw all finished trials and the front over them.

    Raises:
        ConfigError: The file's ending is none that can be drawn, or matplotlib is not installed.
    """
    path = Path(file)
    if path.suffix not in _ENDINGS:
        raise ConfigError(f"`--plot` must end in {', '.join(_ENDINGS)}, but got {file!r}.")
    if not path.resolve().parent.is_dir():
        raise ConfigError(f"`--plot` must lead to a folder that exists, but got {file!r}. Make the folder first.")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(
            "`--plot` needs matplotlib, but it is not installed. Run: pip install autoprune[plot]"
        ) from None
    trials, cost, metric = study.trials(), study.cost, study.metric
    done = trials[trials["state"] == "COMPLETE"]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(done[cost], done[metric.name], s=14, color="0.7", label=f"{len(done)} trials")
    ordered = front.sort_values(cost)
    axes.step(ordered[cost], ordered[metric.name], where="post", color="C0", linewidth=1)
    axes.scatter(ordered[cost], ordered[metric.name], s=24, color="C0", label=f"front, {len(ordered)} points")
    axes.set(
        xlabel=f"{_AXES.get(cost, cost)}, pruned / dense",
        ylabel=f"validation {metric.name}",
        title=f"study {study.name}",
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right" if metric.is_maximised else "upper right")
    try:
        figure.savefig(path)
    except OSError as error:
        raise ConfigError(f"`--plot` must be a file that can be written, but {file!r}: {error.strerror}.") from error
