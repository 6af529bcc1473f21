"""How fast a trial's network is on this machine, beside the dense one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoprune.api._exporting import factory_of, task_of, weights_of
from autoprune.api._reading import open_study
from autoprune.engine.measuring import Latency, find_device, measure, warning
from autoprune.errors import ConfigError
from autoprune.pipeline import example_of, forward_of, layout_of, load_beside_dense, read_record

__all__ = ["MeasuredBatch", "measure_latency"]


@dataclass(frozen=True)
class MeasuredBatch:
    """Dense and pruned network, timed in turn at one batch size.

    Args:
        dense: Of the network that the trial started from.
        pruned: Of the trial's network.
        macs_ratio: Pruned / dense MACs.
        warning: A sentence where MACs fell but the latency did not, else None.
    """

    dense: Latency
    pruned: Latency
    macs_ratio: float
    warning: str | None

    @property
    def ratio(self) -> float:
        """Pruned / dense median; ``macs_ratio`` would be ideal."""
        return self.pruned.median_ms / self.dense.median_ms


def measure_latency(
    name: str, number: int, *, batches: Sequence[int] = (1, 64), device: str = "cpu", storage: str | None = None
) -> list[MeasuredBatch]:
    """Time a trial's network beside the dense one, in float32, with torch's own number of threads.

    Args:
        name: The study.
        number: The trial.
        batches: Images at once, each >= 1.
        device: Where to measure, such as ``"cpu"`` or ``"cuda"``; nothing else should run there.
        storage: Database URL; see `storage_url`.

    Returns:
        One measurement for each batch size.

    Raises:
        ConfigError: A device that is not there, a batch size below 1, or a trial without a network.
        WeightsError: The network's file is missing or damaged.
    """
    if any(batch < 1 for batch in batches):
        raise ConfigError(f"`batches` must each be at least 1, but got {list(batches)}.")
    found = find_device(device)
    study = open_study(name, storage)
    path = weights_of(study, number)
    record = read_record(path)
    # Time does not depend on the weights, so the dense network's need not be found.
    task = task_of(study)
    dense, pruned = load_beside_dense(path, factory_of(study), task)
    measured = []
    for batch in batches:
        networks = {"dense": dense, "pruned": pruned}
        times = measure(
            networks, example_of(record), batch=batch, device=found, memory_format=layout_of(record),
            forward=forward_of(record, task),
        )  # fmt: skip
        doubt = warning(times["dense"], times["pruned"], macs_ratio=record["macs_ratio"])
        measured.append(MeasuredBatch(times["dense"], times["pruned"], record["macs_ratio"], doubt))
    return measured
