"""The dense network as a teacher: its logits, computed once for a study by all of its workers in turn."""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path
from typing import Any

import filelock
import torch
from torch import Tensor

from autoprune.config import Progressed, TrainSpec, seed_of
from autoprune.engine.files import Phase, PhaseStore, phase_key, read_tensors
from autoprune.engine.images import ImageSet, View, fixed_view
from autoprune.engine.tasks import ImageWorkload, TaskTeacher, TaskWorkload
from autoprune.engine.training import OnlineTeacher, StoredTeacher, Teacher
from autoprune.errors import TrialError
from autoprune.pipeline.progress import Pulse, Reporter
from autoprune.pipeline.workbench import Workbench

__all__ = ["teacher_of"]

_BATCH = 500
_PART = 5_000  # Images of a view whose logits one worker computes at a time.
_LOOK_AGAIN_S = 0.2
_MOST_BYTES = 4 * 10**9  # Of stored logits in each worker; above it the teacher runs online.


def teacher_of(
    recipe: TrainSpec, dense: Phase, *, workbench: Workbench, phases: PhaseStore, report: Reporter, seed: int
) -> Teacher | TaskTeacher | None:
    """The teacher of a phase of training, or None where its recipe wants none.

    The logits of some thousand images of a view are a phase of their own, so that what one worker has computed is there
    for all, and for ever. Workers that need them at the same time share these parts out among themselves.

    Args:
        recipe: Of the phase.
        dense: The dense phase.
        workbench: Of the trial's setting.
        phases: Where logits are looked for, and kept once they are computed.
        report: Given the progress.
        seed: Of the phase; with it changes which view comes first.

    Raises:
        TrialError: The teacher's logits are not finite, or too large for half precision.
    """
    spec = recipe.distill
    if spec is None:
        return None
    work = workbench.work
    if isinstance(work, TaskWorkload):
        return TaskTeacher(spec, workbench.with_weights(dense.tensors))
    assert isinstance(work, ImageWorkload)
    images, n_views = work.splits.train, 1 if recipe.augmentation == "none" else spec.views
    if n_views == 0 or spec.views == 0 or 2 * n_views * len(images) * work.splits.n_classes > _MOST_BYTES:
        return OnlineTeacher(spec, workbench.with_weights(dense.tensors), runtime=workbench.runtime)
    height = images.shape[1]
    views = [fixed_view(recipe.augmentation, k, n=len(images), height=height) for k in range(n_views)]
    shares = torch.arange(len(images)).split(_PART)
    about = [dense.sha256, workbench.data, workbench.setting.precision, recipe.augmentation]
    parts = {
        phase_key("teacher", *about, k, [int(share[0]), len(share)]): (view, share)
        for k, view in enumerate(views)
        for share in shares
    }
    _compute(parts, dense, images, workbench=workbench, phases=phases, report=report)
    paths = [phases.path("teacher", key) for key in parts]
    logits = [_read(tuple(paths[i : i + len(shares)])) for i in range(0, len(paths), len(shares))]
    return StoredTeacher(spec, logits, views, first=seed_of("first view", seed) % n_views)


@functools.lru_cache(maxsize=16)
def _read(paths: tuple[Path, ...]) -> Tensor:
    """The logits of one view."""
    return torch.cat([read_tensors(path)["logits"] for path in paths])


def _compute(
    parts: dict[str, tuple[View | None, Tensor]],
    dense: Phase,
    images: ImageSet,
    *,
    workbench: Workbench,
    phases: PhaseStore,
    report: Reporter,
) -> None:
    """Have the logits of all parts in the store; several workers at once compute each of them once."""
    missing = [key for key in parts if phases.find("teacher", key) is None]
    start = os.getpid() % max(1, len(missing))  # Any other place than the next worker's.
    missing = missing[start:] + missing[:start]
    while missing:
        for key in list(missing):
            path = phases.path("teacher", key)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with filelock.FileLock(path.with_suffix(".computing"), blocking=False):
                    compute = functools.partial(_logits, *parts[key], dense, images, workbench=workbench, report=report)
                    phases.get("teacher", key, compute)
            except filelock.Timeout:
                continue  # Another worker is at it; should it die, the lock is free again.
            missing.remove(key)
        if missing:
            report(Progressed(phase="teacher", progress=1 - len(missing) / len(parts)))
            time.sleep(_LOOK_AGAIN_S)
            missing = [key for key in missing if phases.find("teacher", key) is None]


def _logits(
    view: View | None, share: Tensor, dense: Phase, images: ImageSet, *, workbench: Workbench, report: Reporter
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    runtime, network = workbench.runtime, workbench.with_weights(dense.tensors)
    runtime.place(network)
    batches, found, tell = share.split(_BATCH), [], Pulse(report, "teacher")
    for indices, pixels in zip(batches, images.read(batches), strict=True):
        seen = pixels if view is None else view.of(pixels, indices)
        with torch.inference_mode(), runtime.autocast():
            found.append(network(runtime.inputs(seen)).cpu().half())
        tell((int(indices[-1]) + 1 - int(share[0])) / len(share))
    logits = torch.cat(found).clone()
    if not logits.isfinite().all():
        raise TrialError(
            "the dense network's logits must be finite numbers of half precision to be learnt from, but some are not. "
            "Set `views` = 0 in `distill`, or check the dense weights."
        )
    return {"logits": logits}, {"n_images": len(share)}
