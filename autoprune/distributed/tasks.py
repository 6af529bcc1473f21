"""Single tasks on the cluster, alone or as many at once as there are slots."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from autoprune.distributed.cluster import Slots
from autoprune.errors import WorkerDiedError, first_line

__all__ = ["run_each", "run_once"]

_LOOK_EVERY_S = 1.0

T = TypeVar("T")


def run_once(work: Callable[[], dict[str, Any]], *, slots: Slots, go_on: Callable[[], bool]) -> dict[str, Any] | None:
    """Run ``work`` as a single Ray task.

    Args:
        work: Picklable; returns plain data.
        slots: The resources that it takes, those of one trial.
        go_on: Asked about once a second; False cancels the task.

    Returns:
        What ``work`` returned, or None when it was cancelled; what it raised is raised here.

    Raises:
        WorkerDiedError: Its worker died, and the next one, too.
    """
    import ray

    reference = _task(work, slots).remote()
    try:
        while not ray.wait([reference], timeout=_LOOK_EVERY_S)[0]:
            if not go_on():
                ray.cancel(reference, force=True)
                return None
        result: dict[str, Any] = ray.get(reference)
    except ray.exceptions.RayError as error:
        raise _told(error) from None
    return result


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
        on_failed: Given a job and what ``work`` raised, or a `WorkerDiedError`.
    """
    import ray

    def call(job: T) -> dict[str, Any]:  # Ray takes plain functions only.
        return work(job)

    task = _task(call, slots)
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
                except ray.exceptions.RayError as error:
                    on_failed(job, _told(error))
                else:
                    on_done(job, result)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _task(work: Callable[..., dict[str, Any]], slots: Slots) -> Any:
    import ray

    resources = {"num_cpus": slots.cpu, "num_gpus": slots.gpu, "memory": slots.memory_bytes or None}
    return ray.remote(max_retries=1, **resources)(work)


def _told(error: Exception) -> Exception:
    """What a task raised, or that its worker died."""
    import ray

    if isinstance(error, ray.exceptions.RayTaskError):
        cause: Exception = error.cause
        return cause
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return WorkerDiedError(
            "a worker needs memory, but its machine ran out of it twice, and Ray ended the worker. Lower "
            "`--concurrency` or `batch_size`, or end what else is running there; the same command goes on."
        )
    lost = ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.ObjectLostError
    what = "it died twice: killed, out of memory, or its machine was lost" if isinstance(error, lost) else "Ray lost it"
    return WorkerDiedError(
        f"a worker must live until its task is done, but {what} ({first_line(error)}). The same command goes on."
    )
