"""Trains, recalibrates and scores networks."""

from autoprune.engine.training.answers import AUXILIARY_WEIGHT, Answer, answer_of, described
from autoprune.engine.training.checkpoint import Checkpoint
from autoprune.engine.training.distillation import OnlineTeacher, StoredTeacher, Teacher, divergence
from autoprune.engine.training.feeds import Feed, ImageFeed, Reader
from autoprune.engine.training.loop import Training, require_trained, train
from autoprune.engine.training.pacer import Pacer
from autoprune.engine.training.precision import wide
from autoprune.engine.training.randomness import Randomness, apart, seeded
from autoprune.engine.training.runtime import Runtime, default_device
from autoprune.engine.training.samples import Samples
from autoprune.engine.training.schedule import learning_rate, n_steps_of
from autoprune.engine.training.scoring import accuracy, recalibrate

__all__ = [
    "AUXILIARY_WEIGHT",
    "Answer",
    "Checkpoint",
    "Feed",
    "ImageFeed",
    "OnlineTeacher",
    "Pacer",
    "Randomness",
    "Reader",
    "Runtime",
    "Samples",
    "StoredTeacher",
    "Teacher",
    "Training",
    "accuracy",
    "answer_of",
    "apart",
    "default_device",
    "described",
    "divergence",
    "learning_rate",
    "n_steps_of",
    "recalibrate",
    "require_trained",
    "seeded",
    "train",
    "wide",
]
