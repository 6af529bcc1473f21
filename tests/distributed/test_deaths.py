"""A worker that Ray ends because its machine ran out of memory, and what else Ray calls the loss of one."""

from __future__ import annotations

import pytest

from autoprune.distributed.deaths import deaths_of_workers_alone

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]  # Ray warns of itself.


def test_every_loss_of_a_worker_is_its_death_and_only_that() -> None:
    from ray import exceptions
    from ray.air.execution._internal.actor_manager import RayActorManager

    before, heard = RayActorManager._actor_task_failed, list[Exception]()
    mine = exceptions.RayTaskError("train", "its traceback", ValueError("of the trial"))
    dead = exceptions.RayActorError(error_msg="it died")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RayActorManager, "_actor_task_failed", lambda self, task, error: heard.append(error))
        with deaths_of_workers_alone():
            lost = [exceptions.OutOfMemoryError("no memory"), exceptions.NodeDiedError("no node")]
            for error in (mine, dead, *lost, OSError("a bug")):
                RayActorManager._actor_task_failed(None, tracked_actor_task=None, exception=error)
    assert RayActorManager._actor_task_failed is before
    assert heard[:2] == [mine, dead]
    assert all(isinstance(error, exceptions.RayActorError) for error in heard[2:4])
    assert [str(error) for error in heard[2:4]] == [str(error) for error in lost]
    assert isinstance(heard[4], OSError)
