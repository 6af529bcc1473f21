"""The parts of `scripts/bench gpu`, each run by itself: ``PART --seconds S --found FILE``.

A part adds each figure to FILE as soon as it has it, a JSON object a line, so that one that is ended has not been for
nothing. On a machine without an accelerator they run on its processor.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
N_TRIALS, GPU_SHARE = 40, 0.125
_SPARE_S = 15.0  # Of a part, for what comes after a launch.
_SHORT_S = 20.0
_COMPARED = 1e-3  # Of the largest logit; GPUs round convolutions of other sizes otherwise.


@dataclasses.dataclass(frozen=True)
class Told:
    """Where a part's figures go, and what it may take.

    Args:
        file: To which a line is added for each figure.
        end: When the part has to have ended, by the monotonic clock.
        short: Whether this is the short form.
        data: Folder with CIFAR-10, or None.
        weights: Dense ResNet-20, or None.
    """

    file: Path
    end: float
    short: bool
    data: Path | None
    weights: Path | None

    @property
    def left_s(self) -> float:
        """Seconds that the part may still take."""
        return self.end - time.monotonic()

    def add(self, what: str, figure: str, **numbers: Any) -> None:
        """One more figure: what was measured, it for people, and the numbers."""
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"what": what, "figure": figure, **numbers}) + "\n")

    @contextmanager
    def peak_memory(self) -> Iterator[None]:
        """Tell the most memory that this process took within."""
        has_device = torch.accelerator.is_available()
        if has_device:
            torch.accelerator.reset_peak_memory_stats()
        yield
        host_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        device_mb = torch.accelerator.max_memory_reserved() / 1e6 if has_device else 0.0
        figure = f"{device_mb:,.0f} MB on the device, {host_mb:,.0f} MB beside it"
        self.add("peak memory", figure, device_mb=device_mb, host_mb=host_mb)


def device(told: Told) -> None:
    """What there is."""
    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    name = torch.cuda.get_device_name() if kind is not None and kind.type == "cuda" else str(kind or "none")
    told.add("accelerator", name, name=name)
    told.add("machine", machine.described())
    told.add("torch", f"{torch.__version__}, Python {sys.version.split()[0]}", torch=torch.__version__)
    if kind is not None:
        n, dtype = 8192, torch.bfloat16
        a, b = (torch.randn(n, n, device=kind, dtype=dtype) for _ in range(2))
        for _ in range(3):
            a @ b
        start = machine.now_s()
        for _ in range(10):
            a @ b
        tera = 20 * n**3 / (machine.now_s() - start) / 1e12
        told.add("bfloat16 products of 8192 x 8192", f"{tera:,.0f} TFLOP/s", tflops=tera)


def tests(told: Told) -> None:
    """The tests that need an accelerator, and what of them failed."""
    import pytest

    class Counting:
        outcomes: dict[str, str] = {}  # noqa: RUF012  # One run, one class.

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.when == "call" or report.outcome != "passed":
                self.outcomes[report.nodeid] = report.outcome

    files = [str(path) for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text()]
    options = ["-q", "-m", "gpu", "-p", "no:cacheprovider", f"--rootdir={ROOT}", "-c", str(ROOT / "pyproject.toml")]
    code = pytest.main([*options, "--override-ini=filterwarnings=", *files], plugins=[Counting()])
    counts = {kind: list(Counting.outcomes.values()).count(kind) for kind in ("passed", "failed", "skipped")}
    told.add("tests", ", ".join(f"{n} {kind}" for kind, n in counts.items()), **counts)
    for name, outcome in Counting.outcomes.items():
        if outcome == "failed":
            told.add("failed", name)
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise SystemExit(f"{counts['failed']} tests failed (pytest says {code})")


def networks(told: Told) -> None:
    """Every built-in network, traced, cut and trained for a step in each precision."""
    from autoprune.architectures import ARCHITECTURES

    failed = []
    with told.peak_memory():
        for name in ("resnet_digits", "resnet20") if told.short else ARCHITECTURES:
            try:
                _network(told, name)
            except Exception as error:  # The next one may do.
                failed.append(name)
                told.add(name, f"**failed**: {type(error).__name__}: {error}")
    if failed:
        raise SystemExit(f"{', '.join(failed)} failed")


def _network(told: Told, name: str) -> None:
    from bench_training import Bytes, Case

    from autoprune.architectures import build
    from autoprune.config import PRECISIONS, Numerics
    from autoprune.engine.surgery import cut, masked
    from autoprune.engine.tracing import trace
    from autoprune.engine.training import default_device
    from autoprune.pipeline.answers import answers_of, assert_same

    start, case, place = time.perf_counter(), Case(name, batch=64, n_images=256), default_device()
    dense = build(name, n_classes=10, in_channels=3).eval()
    traced = trace(dense, torch.zeros(1, *Bytes(case).shape))
    dense = dense.to(place)
    kept = {group.name: np.arange(max(1, round(0.6 * group.width))) for group in traced.groups}
    small, inputs = cut(dense, traced.groups, kept), torch.randn(4, 3, case.side, case.side, device=place)
    before, after = (answers_of(each, inputs) for each in (masked(dense, traced.groups, kept), small))
    difference = assert_same(before, after, tolerance=_COMPARED, what=f"cutting {name}")
    ready_s, steps = time.perf_counter() - start, []
    for precision in PRECISIONS:
        if precision == "float16" and place.type == "cpu":
            continue
        steps.append(f"{precision} {1e3 * _step_s(copy.deepcopy(small), case, Numerics(precision)):.0f} ms")
    told.add(name, f"cut in {ready_s:.1f} s, {difference:.0e} apart; a step of {case.batch}: {', '.join(steps)}")


def _step_s(model: torch.nn.Module, case: Any, numerics: Any) -> float:
    """Seconds of the second turn of our loop, whose losses are finite, or it raises."""
    from bench_training import A_TURN, ours, turn_s

    turns = ours(case, model, numerics)
    turn_s(turns)
    taken = turn_s(turns) / A_TURN
    if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
        raise ValueError(f"weights are no longer finite in {numerics}")
    return taken


def training(told: Told) -> None:
    """Our loop beside a plain one, and beside one with all images on the device, in the precision that fits."""
    from bench_training import CASES, compare, on_device, plainly

    from autoprune.config import Numerics

    precision = "bfloat16" if torch.accelerator.is_available() else "float32"
    rounds, beside = (2, [("resnet20", plainly)]) if told.short else (25, [(name, plainly) for name in CASES])
    with told.peak_memory():
        for name, other in [*beside, ("resnet20" if told.short else "airbench", on_device)]:
            found = compare(CASES[name], Numerics(precision), rounds=rounds, beside=other)
            speeds = ", ".join(f"{kind} {speed:,.0f} images/s" for kind, speed in found.speeds.items())
            figure = f"{found.ratio[1]:.2f} times the seconds ({speeds})"
            told.add(f"{name}, {found.numerics}", figure, ratio=found.ratio, speeds=found.speeds)


def widths(told: Told) -> None:
    """Seconds per MAC at some widths, over those at a multiple of 16."""
    from bench_widths import WIDTHS, beside_multiples, measure

    from autoprune.config import Numerics

    precision = "bfloat16" if torch.accelerator.is_available() else "float32"
    chosen, rounds, batch = ((15, 16, 17), 2, 16) if told.short else (WIDTHS, 20, 512)
    found = beside_multiples(measure(chosen, Numerics(precision), rounds=rounds, batch=batch))
    for at, kind in ((1, "training"), (2, "scoring")):
        told.add(
            f"{kind}, seconds per MAC by width, {precision}",
            ", ".join(f"{row[0]}: {row[at]:.2f}" for row in found), **{str(row[0]): row[at] for row in found},
        )  # fmt: skip


_TABLES = """
[study]
name = "{name}"
seed = 0
{study}

[space]
methods = ["magnitude"]
macs_target = {{ low = 0.1, high = 0.9 }}

[network]
architecture = "{architecture}"
{network}

[data]
{data}

[train.dense]
{dense}

[train.finetune]
{finetune}

[engine]
{engine}

[resources]
{resources}
"""


def study(told: Told) -> None:
    """A study of the digits with an eighth of a GPU a trial, and how long a launch takes to its first trial."""
    n_trials = 4 if told.short else N_TRIALS
    gpu = GPU_SHARE if torch.cuda.is_available() else 0.0
    tables = {
        "name": "shares", "study": f"n_trials = {n_trials}", "architecture": "resnet_digits", "network": "",
        "data": 'source = "digits"\nvalidation = "random:0.25"', "dense": "epochs = 5", "finetune": "epochs = 2",
        "engine": "", "resources": f"gpu = {gpu}\ncpu = {max(0.5, (os.cpu_count() or 1) * GPU_SHARE)}",
    }  # fmt: skip
    found = _launched(told, tables, time_limit_s=None)
    done = found["complete"]
    told.add("complete trials", f"{done} of {n_trials} in {found['wall_s']:.0f} s", n=done, seconds=found["wall_s"])
    if done < n_trials:
        raise SystemExit(f"{n_trials - done} trials are not complete: {found['why']}")


def front(told: Told) -> None:
    """A front of CIFAR-10 by the time that is left; of the digits where CIFAR-10 is not at hand."""
    if told.data is None or told.short:
        name, source = "resnet_digits", 'source = "digits"\nvalidation = "random:0.25"'
        told.add("data", "the digits: the short form" if told.short else "the digits, since `--data` names no CIFAR-10")
    else:
        name, parts = "resnet20", {part: told.data / f"{part}.parquet" for part in ("train", "test")}
        source = 'source = "parquet"\nvalidation = "last:5000"\n' + "\n".join(
            f'{part} = "{path}"' for part, path in parts.items()
        )
        source += "\nmean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]"  # Those of the shared dense weights.
    given = told.weights is not None and name == "resnet20"
    recipe = 'batch = 128\nlearning_rate = 0.05\naugmentation = "crop_flip"\ndistill = {}'
    gpu = 0.25 if torch.cuda.is_available() else 0.0
    tables = {
        "name": "front", "study": "", "architecture": name, "network": f'weights = "{told.weights}"' if given else "",
        "data": source, "dense": f"epochs = {1 if told.short else 10}", "finetune": f"epochs = 10\n{recipe}",
        "engine": "", "resources": f"gpu = {gpu}",
    }  # fmt: skip
    found = _launched(told, tables, time_limit_s=_SHORT_S if told.short else max(5.0, told.left_s - _SPARE_S))
    told.add("complete trials", f"{found['complete']} in {found['wall_s']:.0f} s", n=found["complete"])
    told.add("hypervolume", f"{found['hypervolume']:.4f}", hypervolume=found["hypervolume"])
    told.add("front, MACs ratio: accuracy", ", ".join(f"{m:.3f}: {a:.4f}" for m, a in found["front"]))
    if not found["front"]:
        raise SystemExit("there is no front")


def _launched(told: Told, tables: Mapping[str, str], *, time_limit_s: float | None) -> dict[str, Any]:
    """Launch a study in a folder of its own, tell what every launch tells, and give what it found."""
    import autoprune

    class Notes(autoprune.Progress):
        def note(self, text: str) -> None:
            if text.startswith("computed in"):
                told.add("precision", text)

    with tempfile.TemporaryDirectory(prefix="bench-gpu-study-") as name, _most_in_use(told):
        folder = Path(name)
        file, storage = folder / "study.toml", f"sqlite:///{folder / 'study.db'}"
        lines = {**tables, "engine": f'artifacts = "{folder / "artifacts"}"\n{tables["engine"]}'}
        file.write_text(_TABLES.format(**lines), encoding="utf-8")
        start = time.time()
        outcome = autoprune.launch(file, storage=storage, time_limit_s=time_limit_s, progress=Notes())
        wall_s = time.time() - start
        with outcome.study as found:
            trials, rows = found.trials(), found.front()
            began = [trial.datetime_start.timestamp() for trial in found.handle.trials() if trial.datetime_start]
            if began:
                told.add("launch to the first trial", f"{min(began) - start:.1f} s", seconds=min(began) - start)
            metric, cost = found.metric.name, found.cost
            return {
                "wall_s": wall_s,
                "complete": int((trials["state"] == "COMPLETE").sum()),
                "why": outcome.why or ", ".join(trials["state"].unique()),
                "hypervolume": found.hypervolume(),
                "front": sorted(zip(rows[cost], rows[metric], strict=True)),
            }


@contextmanager
def _most_in_use(told: Told) -> Iterator[None]:
    """Tell the most of the device's memory that was in use within, by whomever."""
    if not torch.cuda.is_available():
        yield
        return
    most, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            free, there = torch.cuda.mem_get_info()
            most[0] = max(most[0], there - free)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        done.set()
        watching.join()
        told.add("most of the device's memory in use", f"{most[0] / 1e9:.1f} GB", bytes=most[0])


PARTS: Mapping[str, Callable[[Told], None]] = {
    part.__name__: part for part in (device, tests, networks, training, widths, study, front)
}


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--found", type=Path, required=True)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    PARTS[options.part](Told(options.found, end, options.short, options.data, options.weights))


if __name__ == "__main__":
    main()
