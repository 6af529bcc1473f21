"""Trains, recalibrates and scores networks."""

from autoprune.engine.training.distillation import OnlineTeacher, StoredTeacher, Teacher
from autoprune.engine.training.loop import Training, train
from autoprune.engine.training.pacer import Pacer
from autoprune.engine.training.precision import wide
from autoprune.engine.training.runtime import Runtime, default_device
from autoprune.engine.training.samples import Samples
from autoprune.engine.training.schedule import learning_rate, n_steps_of
from autoprune.engine.training.scoring import accuracy, recalibrate

__all__ = [
    "OnlineTeacher",
    "Pacer",
    "Runtime",
    "Samples",
    "StoredTeacher",
    "Teacher",
    "Training",
    "accuracy",
    "default_device",
    "learning_rate",
    "n_steps_of",
    "recalibrate",
    "train",
    "wide",
]
