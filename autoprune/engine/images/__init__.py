"""Labelled images: where they come from, how they are split, held and augmented."""

from autoprune.engine.images.augmentation import View, augment, fixed_view
from autoprune.engine.images.finding import find_data
from autoprune.engine.images.image_set import ImageSet
from autoprune.engine.images.splits import Preprocess, Splits, load_splits, load_test

__all__ = ["ImageSet", "Preprocess", "Splits", "View", "augment", "find_data", "fixed_view", "load_splits", "load_test"]
