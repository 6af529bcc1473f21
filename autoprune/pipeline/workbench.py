"""What every trial of a study starts from: data, network, its channel groups and the dense weights."""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoprune import architectures, methods
from autoprune.config import DataSpec, NetworkSpec, SettingSpec, TaskSpec, digest, seed_of
from autoprune.cost import CONVENTION, Limits
from autoprune.engine.asking import Forward, ask, first_input
from autoprune.engine.attention import narrow_attention
from autoprune.engine.channels import Traced
from autoprune.engine.contracts import PhasePlan
from autoprune.engine.files import Phase, PhaseStore, load_given, phase_key, sha256_of
from autoprune.engine.images import Splits, load_splits, load_test
from autoprune.engine.plain import plain_weights
from autoprune.engine.tasks import ImageWorkload, Task, TaskWorkload, Workload
from autoprune.engine.training import Checkpoint, Feed, ImageFeed, Runtime, SharedFeed, Training, default_device, seeded
from autoprune.errors import ConfigError, DataError, WeightsError, unknown_name
from autoprune.importing import call_factory, told
from autoprune.pipeline.heads import trace_for_training
from autoprune.pipeline.probing import Probe, run_in_training, settle
from autoprune.pipeline.task_probing import TaskProbe

__all__ = ["Workbench", "open_workbench"]


@dataclass(frozen=True)
class Workbench:
    """The torch side of a study's setting, opened once per process.

    Args:
        setting: The study's setting.
        work: What networks are trained and scored on.
        network: The dense network, untrained or with the given weights; never trained in place.
        traced: Its channel groups and cost model.
        runtime: Device, precision, normalisation.
        weights_sha256: Hash of the given dense weights, or None when the study trains its own.
    """

    setting: SettingSpec
    work: Workload
    network: nn.Module
    traced: Traced
    runtime: Runtime
    weights_sha256: str | None

    @property
    def dense_key(self) -> str:
        """Hash of everything the dense weights and their score depend on."""
        network = {"architecture": self.setting.network.architecture, "factory": told(self.setting.network.factory)}
        content, split, *seen = self.work.about
        data = [content, split, [list(each) for each in seen], self.setting.precision, *self.norms_apart]
        if self.weights_sha256 is not None:
            return phase_key("dense", network, data, self.weights_sha256)
        return phase_key("dense", network, data, self.setting.dense.to_dict(), self.setting.seed)

    @property
    def norms_apart(self) -> list[str]:
        """What tells training in which BatchNorm sees shares of a batch; nothing where it sees all of it."""
        n, setting = self.setting.n_processes, self.setting
        return [f"BatchNorm over {n} shares"] if n > 1 and not setting.sync_batchnorm else []

    def feed(self, teacher: Any = None) -> Feed:
        """What the study's phases train on, shared out where several processes train.

        Args:
            teacher: Whom the network learns from.
        """
        feed, n = self.work.feed(teacher), self.setting.n_processes
        if n == 1:
            return feed
        assert isinstance(feed, ImageFeed)  # A setting of other tasks has one process.
        return SharedFeed(feed, processes=n, is_synchronised=self.setting.sync_batchnorm)

    def sparsify_plan(
        self, *, macs_target: float = 1.0, params: int | None = None, activation_bytes: int | None = None
    ) -> PhasePlan:
        """What the methods of the study's trials are told of their sparsify phase.

        Args:
            macs_target: Of the trial.
            params: Most parameters that its network may have.
            activation_bytes: Its largest peak activation memory.
        """
        recipe = self.setting.sparsify
        limits = self.limits(macs_target=macs_target, params=params, activation_bytes=activation_bytes)
        return PhasePlan(recipe, self.work.feed().n_steps(recipe), limits)

    def limits(
        self,
        *,
        macs_target: float | None = None,
        params: int | None = None,
        activation_bytes: int | None = None,
        latency_ms: float | None = None,
    ) -> Limits:
        """What a trial's widths must keep: its own limits, and what the setting says of all widths.

        Args:
            macs_target: Upper bound of pruned / dense MACs, in (0, 1].
            params: Most parameters.
            activation_bytes: Largest peak activation memory.
            latency_ms: Longest median time of one batch.
        """
        network, cost = self.setting.network, self.traced.cost
        # A group that is narrower than the least width keeps all of its channels.
        least = {name: min(dense, network.min_width) for name, dense in zip(cost.groups, cost.dense, strict=True)}
        return Limits(
            macs=None if macs_target is None else macs_target * cost.dense_macs,
            params=params,
            peak_activation_bytes=activation_bytes,
            latency_ms=latency_ms,
            min_widths=Limits(min_widths=least, multiple=network.width_multiple).smallest(cost),
            multiple=network.width_multiple,
        )

    def sparsify_key(
        self,
        method: str,
        hyper: Mapping[str, Any],
        *,
        macs_target: float,
        params: int | None = None,
        activation_bytes: int | None = None,
    ) -> str | None:
        """Hash of everything that the weights after a method's sparsify phase depend on, or None where it has none.

        Args:
            method: Name of the method.
            hyper: Its hyper-parameters; those left out have their defaults.
            macs_target: Of the trial; it counts where the method aims at its limits.
            params: The trial's limit of parameters, likewise.
            activation_bytes: Its limit of peak activation memory, likewise.

        Raises:
            ConfigError: There is no such method, or it does not take these hyper-parameters.
        """
        named = methods.method_named(method)
        recipe = named.build(hyper)
        if not recipe.trains:
            return None
        setting = self.setting
        every = named.hyper_of(recipe)  # With those left out: a default that changes is another phase.
        every = {key: value for key, value in every.items() if key not in recipe.ranking}
        training = [setting.sparsify.to_dict(), setting.precision, self.sparsify_seed, *self.norms_apart]
        excluded = sorted(setting.network.exclude)  # What is not prunable is not penalised, so it changes the phase.
        least = sorted(self.limits().min_widths.items())
        bounds = [macs_target, least, setting.network.width_multiple, *([] if params is None else [params])]
        if activation_bytes is not None:
            bounds.append({"peak_activation_bytes": activation_bytes})
        aim = [bounds] if recipe.aims else []
        return phase_key("sparsify", self.dense_key, self.data, method, every, *training, excluded, *aim)

    @property
    def data(self) -> list[Any]:
        """What tells the data and how they are seen, JSON-serialisable; weights that were given say nothing of it."""
        return self.work.about

    @property
    def data_digest(self) -> str:
        """Tells the data and their split from others, without what is measured on them."""
        content, split, *_ = self.work.about
        return digest("data", content, split)

    @property
    def sparsify_seed(self) -> int:
        """Seed of every sparsify phase of the study."""
        return seed_of("sparsify", self.setting.seed)

    @property
    def identity(self) -> dict[str, Any]:
        """What may never change within a study, JSON-serialisable."""
        network, (content, split, *seen) = self.setting.network, self.work.about
        return {
            "network": network.architecture or told(network.factory),
            "cost": digest(self.traced.cost.identity),
            "excluded layers": sorted(network.exclude),
            "dense weights": self.dense_key,
            "data": content,
            "split": split,
            "normalisation": [list(each) for each in seen],
            "cost convention": CONVENTION,
            "precision": self.setting.precision,
        }

    def dense(self, phases: PhaseStore, on_step: Callable[[float], None] = lambda share: None) -> Phase:
        """The dense network's weights: given, found in ``phases``, or trained now.

        Args:
            phases: Where results are kept.
            on_step: Told the share of training done.
        """
        checkpoint = self.checkpoint("dense", self.dense_key)

        def compute() -> tuple[dict[str, Tensor], dict[str, Any]]:
            model = copy.deepcopy(self.network)
            if self.weights_sha256 is None:
                seed, recipe = seed_of("dense", self.setting.seed), self.setting.dense
                training = Training(model, self.feed(), recipe, runtime=self.runtime, seed=seed)
                checkpoint.restore(training)
                checkpoint.run(training, on_step)
            record = {
                self.setting.task.metric_name: self.work.score(model),
                "macs": self.traced.cost.dense_macs,
                "params": self.traced.cost.dense_params,
                "convention": CONVENTION,
            }
            return dict(model.state_dict()), record

        phase = phases.get("dense", self.dense_key, compute)
        checkpoint.drop()
        return phase

    def checkpoint(self, kind: str, key: str) -> Checkpoint:
        """Where a training of this study is kept while it is under way.

        Args:
            kind: Of its phase.
            key: Hash of all that it depends on.
        """
        return Checkpoint(Path(self.setting.artifacts) / "checkpoints" / f"{kind}-{key}.checkpoint")

    def with_weights(self, tensors: dict[str, Tensor]) -> nn.Module:
        """A copy of the dense network that holds ``tensors``, on the runtime's device, in evaluation mode."""
        model = copy.deepcopy(self.network)
        model.load_state_dict(tensors)
        return model.to(self.runtime.device).eval()


def _build(spec: NetworkSpec, *, n_classes: int | None, in_channels: int | None, seed: int) -> nn.Module:
    with seeded(seed_of("network", seed)):
        if spec.architecture is not None:
            if n_classes is None or in_channels is None:
                raise ConfigError(
                    "[network] `architecture` is for the images of [data], whose classes and channels are known; with "
                    "a task of your own give `factory`, a function that builds the network."
                )
            try:
                return architectures.build(spec.architecture, n_classes=n_classes, in_channels=in_channels)
            except ConfigError as error:
                raise ConfigError(f"[network] `architecture`: {error}") from None
        model = call_factory(str(spec.factory), key="network.factory")
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"`network.factory` = {spec.factory!r} must return a torch.nn.Module, but returned {type(model).__name__}."
        )
    return model


def _check_labels(splits: Splits) -> None:
    n_images = len(splits.train) + len(splits.validation)
    if not 2 <= splits.n_classes <= n_images:
        raise DataError(
            f"[data] labels must number two classes or more from 0 without large gaps, but among {n_images} training "
            f"images the largest label is {splits.n_classes - 1}. Check which column or folder holds the labels."
        )


def _check_names(setting: SettingSpec) -> None:
    """Refuse, before minutes are spent on reading the data, what can be told at once."""
    network, folder = setting.network, Path(setting.artifacts)
    known = architectures.ARCHITECTURES
    name = network.architecture
    if name is not None and name not in known and "/" not in name:
        valid = [*known, "torchvision/<name>"]
        raise ConfigError(f"[network] `architecture`: {unknown_name('architecture', name, valid)}")
    if network.weights is not None and not Path(network.weights).is_file():
        raise WeightsError(f"[network] `weights`: there is no file {network.weights}. Check the path.")
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ConfigError(
            f"[engine] `artifacts` must be a folder that can be written, but {there} is "
            f"{'a folder that cannot' if there.is_dir() else 'a file'}. Name another folder."
        )


def _stamps(setting: SettingSpec) -> tuple[tuple[str, int, int], ...]:
    """Tells whether a file that the setting names was changed since it was opened, as it may be in a notebook."""
    data = setting.data
    parts = () if data is None else (data.train, data.test, data.validation)
    names = [name for name in (setting.network.weights, *parts) if name is not None]
    paths = [Path(name) for name in names if "/" in name and Path(name).exists()]
    return tuple((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in paths)


@functools.lru_cache(maxsize=2)
def _open(setting: SettingSpec, stamps: tuple[tuple[str, int, int], ...]) -> Workbench:
    return _open_images(setting, setting.data) if setting.data is not None else _open_task(setting)


def _open_images(setting: SettingSpec, data: DataSpec) -> Workbench:
    folder = Path(setting.artifacts) / "data"
    splits = load_splits(data, folder=folder)
    _check_labels(splits)
    channels = splits.train.shape[0]
    network = _build(setting.network, n_classes=splits.n_classes, in_channels=channels, seed=setting.seed)
    runtime = Runtime(default_device(), setting.precision, splits.preprocess)
    runtime = runtime.computed_in(setting.numerics, compiled_from=_compiled_from(setting))
    runtime.autocast()
    batch = _least_batch(setting, len(splits.train))
    images = next(splits.train.read([torch.arange(max(2, batch)) % len(splits.train)]))
    weights_sha256 = _ready(network, splits.preprocess(images[:1], torch.device("cpu")), setting)
    probe = Probe(network.eval(), images, runtime=runtime, n_classes=splits.n_classes, batch=batch)
    runtime = probe.runtime()
    work = ImageWorkload(splits, runtime, load_test=lambda: load_test(data, splits, folder=folder))
    example = dataclasses.replace(runtime, device=torch.device("cpu")).inputs(probe.batch[:1])

    def train_once(model: nn.Module) -> object:
        return run_in_training(runtime.place(model), runtime, probe.batch)

    traced = trace_for_training(network, example, train_once, exclude=setting.network.exclude, forward=work.forward)
    return Workbench(setting, work, network.to(runtime.device), traced, runtime, weights_sha256)


def _open_task(setting: SettingSpec) -> Workbench:
    task = _task(setting.task)
    network = _build(setting.network, n_classes=None, in_channels=None, seed=setting.seed)
    runtime = Runtime(default_device(), setting.precision, None)
    runtime = runtime.computed_in(setting.numerics, compiled_from=_compiled_from(setting))
    runtime.autocast()
    work = TaskWorkload(task, runtime)
    weights_sha256 = _ready(network, first_input(work.example), setting, forward=work.whole)
    learns = any(recipe.distill is not None for recipe in (setting.sparsify, setting.finetune))
    work = TaskProbe(network.eval(), work, learns=learns).settled()
    traced = trace_for_training(
        network, work.example, work.train_once, exclude=setting.network.exclude, forward=work.forward
    )
    return Workbench(setting, work, network.to(work.runtime.device), traced, work.runtime, weights_sha256)


def _task(spec: TaskSpec) -> Task:
    """The user's Task, which must be what the study file says.

    Raises:
        ConfigError: The factory gives something else.
    """
    with seeded(seed_of("task")):  # So that data which are drawn are the same in every process.
        task = call_factory(str(spec.factory), key="task.factory")
    if not isinstance(task, Task):
        raise ConfigError(
            f"`task.factory` = {spec.factory!r} must return an autoprune.Task, but returned {type(task).__name__}."
        )
    said = (spec.kind, spec.metric_name, spec.metric_direction)
    found = (task.kind, task.score_name, task.score_direction)
    if said != found:
        raise ConfigError(
            f"[task] must say what its Task is, kind = {found[0]!r}, metric = {found[1]!r}, direction = {found[2]!r}, "
            f"but says {', '.join(map(repr, said))}. Bring the two together."
        )
    return task


def _ready(network: nn.Module, example: Any, setting: SettingSpec, *, forward: Forward = ask) -> str | None:
    """Have a network that was just built take its sizes and its given weights; their hash, or None without any."""
    narrow_attention(network)  # So that all of its layers are called, and can be heard, in the dense network as well.
    settle(network, example, seed=seed_of("network", setting.seed), forward=forward)
    weights_sha256 = None
    if setting.network.weights is not None:
        path = Path(setting.network.weights)
        load_given(network, path)
        weights_sha256 = sha256_of(path)
    plain_weights(network)  # After the given ones are there, which have the names that they were trained by.
    return weights_sha256


def _compiled_from(setting: SettingSpec) -> int | None:
    return setting.compiled_from if setting.n_processes == 1 else None  # A compiled network can't be sent to others.


def _least_batch(setting: SettingSpec, n_images: int) -> int:
    """Images of the smallest batch that a phase of the study trains on."""
    phases = [setting.sparsify, setting.finetune]
    if setting.network.weights is None:
        phases.append(setting.dense)
    return min(n_images, *(phase.batch for phase in phases))


def open_workbench(setting: SettingSpec) -> Workbench:
    """Load data and network and trace its channel groups; a process does this once per setting and state of its files.

    Raises:
        ConfigError: An unknown architecture or layer name, a factory that fails.
        DataError: Data that is missing, unreadable or does not fit the network.
        WeightsError: Dense weights that don't fit, or a pickle.
        NetworkError: A network that can't be traced, scored or trained; see `Probe`.
    """
    if setting.is_measured:  # Whoever launches measures first; all others look at the network, or compare with this.
        setting = setting.computed_in(setting.numerics)
    _check_names(setting)
    return _open(setting, _stamps(setting))
