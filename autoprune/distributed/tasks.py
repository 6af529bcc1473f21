"""Many single tasks on the cluster, as many at once as there are slots."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from autoprune.distributed.cluster import Slots

__all__ = ["run_each"]

_LOOK_EVERY_S = 1.0

T = TypeVar("T")


def run_each(
    jobs: Iterable[T],
    work: Callable[[T], dict[str, Any]],
    *,
    slots: Slots,
    go_on: Callable[[], bool],
    on_done: Callable[[T, dict[str, Any]], None],
    on_failed: Callable[[T, Exception], None],
) -> None:
    """Run ``work`` once for each job, in their order; what is under way is cancelled when this function is left.

    Args:
        jobs: What to work on; picklable.
        work: Picklable; returns plain data.
        slots: Tasks at once, and what each takes.
        go_on: Asked about once a second; False ends everything.
        on_done: Given a job and what ``work`` returned for it.
        on_failed: Given a job and what ``work`` raised, or Ray where the worker died twice.
    """
    import ray

    def call(job: T) -> dict[str, Any]:  # Ray takes plain functions only.
        return work(job)

    resources = {"num_cpus": slots.cpu, "num_gpus": slots.gpu, "memory": slots.memory_bytes or None}
    task = ray.remote(max_retries=1, **resources)(call)
    waiting: deque[T] = deque(jobs)
    running: dict[Any, T] = {}  # by the reference to its result
    try:
        while (waiting or running) and go_on():
            while waiting and len(running) < slots.concurrency:
                job = waiting.popleft()
                running[task.remote(job)] = job
            for reference in ray.wait(list(running), timeout=_LOOK_EVERY_S)[0]:
                job = running.pop(reference)
                try:
                    result = ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    on_failed(job, error.cause)
                except ray.exceptions.RayError as error:
                    on_failed(job, error)
                else:
                    on_done(job, result)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
