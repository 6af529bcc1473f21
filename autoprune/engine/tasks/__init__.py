"""What networks are trained and scored on: the built-in images, or a task of the user's own."""

from autoprune.engine.tasks._images import ImageWorkload
from autoprune.engine.tasks._own import TaskTeacher, TaskWorkload
from autoprune.engine.tasks.kinds import KINDS
from autoprune.engine.tasks.loaders import Passes
from autoprune.engine.tasks.running import core_of, whole_of
from autoprune.engine.tasks.structures import check_alike, example_from
from autoprune.engine.tasks.task import Task
from autoprune.engine.tasks.workload import TestData, Workload

__all__ = [
    "KINDS",
    "ImageWorkload",
    "Passes",
    "Task",
    "TaskTeacher",
    "TaskWorkload",
    "TestData",
    "Workload",
    "check_alike",
    "core_of",
    "example_from",
    "whole_of",
]
