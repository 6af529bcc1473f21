"""Whatever Ray says of a lost worker is that worker's death, and no fault of the whole run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["deaths_of_workers_alone"]


@contextmanager
def deaths_of_workers_alone() -> Iterator[None]:
    """Have Ray Tune end a trial, and not itself, whose worker was lost in any of Ray's ways.

    Of errors of actors it knows their death and what their methods raise. Any other one it takes for a bug of its own
    and raises, among them that an actor was killed since its machine ran out of memory.
    """
    from ray.air.execution._internal.actor_manager import RayActorManager
    from ray.exceptions import RayActorError, RayError, RayTaskError

    failed = RayActorManager._actor_task_failed

    def told(self: Any, tracked_actor_task: Any, exception: Exception) -> None:  # By these names.
        if isinstance(exception, RayError) and not isinstance(exception, RayActorError | RayTaskError):
            exception = RayActorError(error_msg=str(exception))
        failed(self, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = told
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = failed
