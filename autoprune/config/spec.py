"""What all trials of a study share, as plain data: network, data, recipes and how networks run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from autoprune.config.fields import check, option
from autoprune.config.numerics import AUTO, LAYOUTS, PRECISIONS, Numerics
from autoprune.config.recipes import TrainSpec, check_dense, check_undropped
from autoprune.config.tasks import TaskSpec
from autoprune.errors import ConfigError

__all__ = [
    "DATA_SOURCES",
    "DataSpec",
    "EngineSpec",
    "NetworkSpec",
    "Range",
    "SettingSpec",
    "digest",
    "seed_of",
]


_MOST_VALUES = 10_000  # A finer grid is a mistyped step, and it would be listed in memory.


def digest(*parts: Any) -> str:
    """Hash JSON-serialisable parts to 16 hexadecimal digits, the same in every process and on every machine."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def seed_of(*parts: Any) -> int:
    """Derive a seed in [0, 2**31) from JSON-serialisable parts."""
    return int(digest("seed", *parts)[:12], 16) % 2**31


@dataclass(frozen=True, kw_only=True)
class Range:
    """Values that a hyper-parameter may take: an interval, a grid on it, or a list.

    With ``points`` or ``step`` the values lie on a grid, so that trials share phases and a range can
    be narrowed or widened later without breaking the study's history.

    Args:
        low: Lower end.
        high: Upper end.
        scale: ``log`` spreads values evenly over orders of magnitude; it needs ``low`` > 0.
        points: So many values, evenly spread over the scale.
        step: Distance of values, on a linear scale.
        values: The values themselves, in the place of all else.
    """

    low: float | None = option(None)
    high: float | None = option(None)
    scale: str = option("linear", choices=("linear", "log"))
    points: int | None = option(None, low=2, high=_MOST_VALUES)
    step: float | None = option(None, above=0)
    values: tuple[float | str | bool, ...] | None = option(None)

    def __post_init__(self) -> None:
        check(self)
        if self.values is not None:
            others = (self.low, self.high, self.points, self.step)
            if any(other is not None for other in others) or not self.values:
                raise ConfigError("a range is either a non-empty list `values` or an interval `low` to `high`.")
            if any(isinstance(value, float) and not math.isfinite(value) for value in self.values):
                raise ConfigError(f"`values` must be finite, but got {list(self.values)}.")
            if len(set(self.values)) != len(self.values):
                raise ConfigError(f"`values` must name each value once, but got {list(self.values)}. Drop the repeats.")
            return
        if self.low is None or self.high is None:
            raise ConfigError("a range must have `low` and `high`, or a list `values`. Give both ends.")
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ConfigError(f"`low` and `high` must be finite, but got low={self.low}, high={self.high}.")
        if not self.low <= self.high:
            raise ConfigError(f"`low` must not exceed `high`, but got low={self.low}, high={self.high}. Swap them.")
        if self.scale == "log" and self.low <= 0:
            raise ConfigError(f"`low` must be > 0 on a log scale, but got low={self.low}. Raise it or use linear.")
        if self.points is not None and self.step is not None:
            raise ConfigError("a range takes `points` or `step`, not both. Drop one of them.")
        if self.step is not None and self.scale == "log":
            raise ConfigError("`step` needs a linear scale. Use `points` for a grid on a log scale.")
        if self.step is not None and (self.high - self.low) / self.step >= _MOST_VALUES:
            raise ConfigError(
                f"`step` must leave at most {_MOST_VALUES} values, but got step={self.step} from {self.low} "
                f"to {self.high}. Take a larger step, or none at all for a continuous range."
            )

    @property
    def grid(self) -> tuple[float | str | bool, ...] | None:
        """All values in order where they can be counted, else None."""
        if self.values is not None:
            return self.values
        assert self.low is not None
        assert self.high is not None
        if self.step is not None:
            n = math.floor((self.high - self.low) / self.step + 1e-9) + 1
            return self._within(float(f"{self.low + i * self.step:.12g}") for i in range(n))
        if self.points is None:
            return None
        share = [i / (self.points - 1) for i in range(self.points)]
        if self.scale == "log":
            log_low, log_high = math.log10(self.low), math.log10(self.high)
            return self._within(float(f"{10 ** (log_low + s * (log_high - log_low)):.6g}") for s in share)
        return self._within(float(f"{self.low + s * (self.high - self.low):.6g}") for s in share)

    def _within(self, rounded: Iterable[float]) -> tuple[float, ...]:
        """Short numbers for people may have left the interval by their rounding, or have met."""
        assert self.low is not None
        assert self.high is not None
        return tuple(dict.fromkeys(min(max(value, self.low), self.high) for value in rounded))


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """The network: a built-in architecture or a user's factory, with or without dense weights.

    Args:
        architecture: One of ``autoprune list architectures``, or ``"torchvision/NAME"``.
        factory: ``"package.module:function"``, a function without arguments that returns the network.
        weights: File of trained dense weights: ``.safetensors``, ``.pt`` or ``.pth``. Without it the network is
            trained once for the study.
        exclude: Names of layers, all of whose channels stay.
        min_width: Channels that every group keeps at least.
        multiple: Widths become multiples of it where the dense width is larger. With ``"auto"`` the launch that makes a
            study measures which multiples its device computes faster, and the study keeps that.
    """

    architecture: str | None = option(None)
    factory: str | None = option(None)
    weights: str | None = option(None)
    exclude: tuple[str, ...] = option(())
    min_width: int = option(1, low=1, advice="Every channel group keeps at least one channel.")
    multiple: int | str = option(1, low=1, choices=(AUTO,), advice="Widths become multiples of it.")

    def __post_init__(self) -> None:
        check(self)
        if (self.architecture is None) == (self.factory is None):
            raise ConfigError(
                "a network is named by `architecture` or by `factory`, "
                f"but got architecture={self.architecture!r}, factory={self.factory!r}. Give exactly one."
            )

    @property
    def width_multiple(self) -> int:
        """What widths become multiples of; any width as long as that is still to be measured."""
        return 1 if isinstance(self.multiple, str) else self.multiple


@dataclass(frozen=True)
class SourceKeys:
    """The keys of [data] that go with a data source.

    Args:
        needs: Those that must be given.
        takes: Those that may be given besides.
        holds_paths: Whether each part is a file or folder, so that ``validation`` may be one, too.
    """

    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    holds_paths: bool = False


DATA_SOURCES: Mapping[str, SourceKeys] = {
    "digits": SourceKeys(),
    "parquet": SourceKeys(("train",), ("test", "image_column", "label_column"), holds_paths=True),
    "image_folder": SourceKeys(("train", "image_size"), ("test",), holds_paths=True),
    "torchvision": SourceKeys(("name", "train"), ("test",)),
    "factory": SourceKeys(("factory",), ("test",)),
}
"""By name; how each is read stands in `engine.images`."""
_COMMON_DATA_KEYS = ("source", "validation", "mean", "std")


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Where the images come from, and which of the training images are held out for the search.

    Args:
        source: Where images come from.
        train: The training images: a file, a folder, or where torchvision keeps its download.
        test: The test images, which the search never looks at; ``evaluate`` does.
        name: Of a data set of torchvision, such as ``"CIFAR10"``.
        factory: ``"package.module:function"`` that returns ``{"train": (images, labels), "test": (images, labels)}``,
            images uint8 of shape (N, C, H, W).
        validation: What scores the search: ``"last:5000"``, ``"random:0.1"`` (a share) of the training images, or the
            path of a data file of the same kind.
        image_column: Of a Parquet file: encoded images, as ``bytes``.
        label_column: Of a Parquet file: whole numbers from 0.
        image_size: Side of the square that images are scaled and cropped to.
        mean: That is taken from every channel, in [0, 1]; by default that of the training images.
        std: That every channel is divided by; by default that of the training images.
    """

    source: str = option(choices=tuple(DATA_SOURCES))
    train: str | None = option(None)
    test: str | None = option(None)
    name: str | None = option(None)
    factory: str | None = option(None)
    validation: str = option("random:0.1")
    image_column: str = option("img")
    label_column: str = option("label")
    image_size: int | None = option(None, low=1, high=10_000)
    mean: tuple[float, ...] | None = option(None)
    std: tuple[float, ...] | None = option(None)

    def __post_init__(self) -> None:
        check(self)
        needs, takes = DATA_SOURCES[self.source].needs, DATA_SOURCES[self.source].takes
        for key in needs:
            if getattr(self, key) is None:
                raise ConfigError(f"`source` = {self.source!r} needs the key `{key}`, but it is missing. Add it.")
        for field in dataclasses.fields(self):
            if field.name not in (*needs, *takes, *_COMMON_DATA_KEYS) and getattr(self, field.name) != field.default:
                raise ConfigError(
                    f"`{field.name}` has no meaning for `source` = {self.source!r}, which takes "
                    f"{', '.join((*needs, *takes, *_COMMON_DATA_KEYS[1:]))}. Drop it, or choose another source."
                )
        if any(not math.isfinite(value) for value in self.mean or ()):
            raise ConfigError(f"`mean` must hold finite numbers, but got {list(self.mean or ())}.")
        if any(not 0 < value < math.inf for value in self.std or ()):
            raise ConfigError(
                f"`std` must hold numbers > 0, since images are divided by it, but got {list(self.std or ())}."
            )
        self._check_validation()
        if self.test is not None and self.train == self.test and self.holds_paths:
            raise ConfigError(
                f"`train` and `test` must be two data sets, but both are {self.train!r}. "
                "A test split that was trained on proves nothing."
            )
        if self.validation in (self.train, self.test):
            raise ConfigError(
                f"`validation` must not be the training or the test set itself, but is {self.validation!r}. "
                'Hold out a part, such as "last:5000" or "random:0.1".'
            )

    @property
    def holds_paths(self) -> bool:
        """Whether each part is a file or folder."""
        return DATA_SOURCES[self.source].holds_paths

    @property
    def n_held_out(self) -> int | None:
        """Images of the validation split, where that is said in so many words."""
        kind, _, amount = self.validation.partition(":")
        return int(amount) if kind == "last" else None

    def _check_validation(self) -> None:
        kind, colon, amount = self.validation.partition(":")
        try:
            if kind == "last" and colon:
                fits = int(amount) >= 1
            elif kind == "random" and colon:
                fits = 0 < float(amount) < 1
            else:
                fits = self.holds_paths  # There it may be a path.
        except ValueError:
            fits = False
        if not fits:
            raise ConfigError(
                f'`validation` must be "last:N", N images, or "random:S", a share in (0, 1), but got '
                f'{self.validation!r}. Write for example "last:5000" or "random:0.1".'
            )


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """The ``[engine]`` table: how trials run and measure.

    Args:
        precision: What networks compute in. With ``"auto"`` the launch that makes a study measures in which precision
            and layout its device trains fastest, and the study keeps these.
        compile: Whether networks that are trained are compiled by torch; a number: where the phase has so many steps.
            With ``"auto"`` the launch that makes a study measures on an accelerator from how many steps on that pays.
        layout: How images lie in memory; by default channels-last, or what ``"auto"`` measured.
        recalibration_images: That BatchNorm statistics are estimated anew from after a cut.
        rungs: Rising shares of the fine-tune phase at which the score is measured, for the stopper.
        artifacts: Folder of networks and cached phases; one that all machines share, where there are several.
        threads: CPU threads of one trial; by default its share of the machine's cores.
        processes: That train one trial's network together, each on a GPU of its own (or on CPUs), where `gpu` says more
            than one: as many as that by default. They share each batch.
        sync_batchnorm: Whether BatchNorm then takes its statistics over the whole batch, as one process does, rather
            than over each share.
        latency_batch: Images that every trial's network is timed with at rung 0, beside the dense one; by default it is
            not timed.
        compensate: Layers that read removed channels are refitted to what they said before, by least squares over 256
            images, before anything is trained.
        merge: The weights of layers that read removed channels move to channels that say almost the same, up to scale
            and shift, where there are such; by 256 images, before anything is trained.
    """

    precision: str = option(AUTO, choices=(AUTO, *PRECISIONS))
    compile: bool | int | str = option(False, choices=(AUTO,))
    layout: str | None = option(None, choices=LAYOUTS)
    recalibration_images: int = option(5_000, low=1, high=1_000_000_000)
    rungs: tuple[float, ...] = option((0.5,))
    artifacts: str = option("autoprune_artifacts")
    threads: int | None = option(None, low=1, high=4096)
    processes: int | None = option(None, low=1, high=64)
    sync_batchnorm: bool = False
    latency_batch: int | None = option(None, low=1)
    compensate: bool = False
    merge: bool = False

    def __post_init__(self) -> None:
        check(self)
        if self.merge and self.compensate:
            raise ConfigError("`merge` and `compensate` both refit the readers of removed channels. Drop one of them.")
        if any(not 0 < rung < 1 for rung in self.rungs) or list(self.rungs) != sorted(set(self.rungs)):
            raise ConfigError(
                f"`rungs` must be rising shares of the fine-tune phase, each in (0, 1), but got {list(self.rungs)}."
            )
        if self.compile is not True and isinstance(self.compile, int) and self.compile < 0:
            raise ConfigError(f"`compile` must be true, false or a number of steps, but got {self.compile}.")

    @property
    def n_processes(self) -> int:
        """Processes that train a network together."""
        return self.processes or 1

    @property
    def is_measured(self) -> bool:
        """Whether precision and layout are still to be measured."""
        return self.precision == AUTO

    @property
    def compiled_from(self) -> int | None:
        """Steps from which on a phase's network is compiled; None: never, and as long as it is still to be measured."""
        return None if self.compile is False or isinstance(self.compile, str) else int(self.compile)

    @property
    def numerics(self) -> Numerics:
        """Precision and layout; as long as they are not measured, those that everything else is compared with."""
        usual = Numerics()
        return Numerics(usual.precision if self.is_measured else self.precision, self.layout or usual.layout)

    def computed_in(self, numerics: Numerics) -> Self:
        """The same in a certain precision and layout."""
        return dataclasses.replace(self, precision=numerics.precision, layout=numerics.layout)


@dataclass(frozen=True, kw_only=True)
class SettingSpec(EngineSpec):
    """All that the trials of one study share."""

    network: NetworkSpec
    data: DataSpec | None = None
    task: TaskSpec = TaskSpec()
    dense: TrainSpec
    sparsify: TrainSpec
    finetune: TrainSpec
    seed: int = option(0, low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_dense(self.dense)
        check_undropped(self.dense, "dense")
        check_undropped(self.finetune, "finetune")
        if (self.data is None) == (self.task.factory is None):
            given = "both" if self.data is not None else "neither"
            raise ConfigError(
                "a study has either [data], labelled images, or a task of its own with its loaders, [task] `factory`, "
                f"but got {given}. Give one of the two."
            )
        if self.n_processes > 1:
            self._check_shares()

    @property
    def is_open(self) -> bool:
        """Whether something of it is still to be measured, by the launch that makes the study."""
        return AUTO in (self.precision, self.compile, self.network.multiple)

    def with_multiple(self, multiple: int) -> Self:
        """The same with widths that are multiples."""
        return dataclasses.replace(self, network=dataclasses.replace(self.network, multiple=multiple))

    def _check_shares(self) -> None:
        n = self.n_processes
        if self.data is None:
            raise ConfigError(
                f"several processes share the images of [data] alone, but there are {n} for a task of its own, whose "
                "batches only its `loss` knows how to split. Use `gpu` = 1 in [resources], or processes = 1."
            )
        for name in ("dense", "sparsify", "finetune"):
            batch = getattr(self, name).batch
            if batch < 2 * n:
                raise ConfigError(
                    f"`batch` of [train.{name}] must give each of {n} processes two images at least, but is {batch}. "
                    "Raise it, or lower `processes`."
                )
