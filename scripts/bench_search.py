"""The best front per minute: autoprune and its peers on one task, one machine and the same wall-clock.

``search``: one row after another, each in a process of its own, alone on the machine; then the table and the picture.
Each result is a JSON file; what is there is not run again, and a row that failed is told and the next one goes on.

The peers are scripts outside of this repository: PEERS is their folder. Each is called as ``SCRIPT ... WALL_S
OUT.json`` and leaves the points of its front, scored on the test split after its clock has stopped.
``ladder_uniform_teacher`` is not a row: no peer cuts uniform widths and has a teacher.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import machine
import search_report
import torch
from safetensors.torch import save_file
from search_scores import LEVELS, best_at, hypervolume, mean

ROOT = Path(__file__).resolve().parents[1]
OURS = str(ROOT / "scripts" / "bench_search_ours.py")
ON_OTHER = str(ROOT / "scripts" / "bench_search_peer.py")
OWN, PEER, FASTNAS = "own", "peer", "fastnas"  # whose Python runs a row
RATE = "0.05"  # the peers' learning rate


@dataclass(frozen=True)
class Row:
    """One way to get a front.

    Args:
        script: In the peers' folder, or a full path.
        arguments: Before the wall-clock; ``{study}`` stands for the task's study file.
        environment: Beyond what all rows have.
        python: Whose Python runs it.
        needs: What that Python must be able to import.
    """

    script: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    python: str = PEER
    needs: tuple[str, ...] = ("torch_pruning", "pyarrow", "PIL")


@dataclass(frozen=True)
class Task:
    """A network and its data.

    Args:
        study: Its study file.
        dense: The dense checkpoint, in the peers' folder; one of ours is made by their script, beside the results.
        convert: The script that renames its tensors to autoprune's: ``convert IN OUT``; None: they have these names.
        network: ``"module:function"`` that makes a network which the peers don't have; None: it is their own.
        lacks: Rows that can't be run on it.
    """

    study: Path
    dense: str
    convert: Path | None = None
    network: str | None = None
    lacks: tuple[str, ...] = ()


_OURS_HAS = {"PYTHONPATH": str(ROOT)}  # What lies here is measured, wherever autoprune is installed from.
# The ladder with a teacher: every network cut from the dense one, at the ladder's levels and its learning rate.
_LADDER = {"INHERIT": "0", "RATE": RATE, "TARGETS": ",".join(map(str, LEVELS))}
_FASTNAS_NEEDS = ("modelopt.torch.prune", "torchprofile", "huggingface_hub", "pyarrow", "PIL")
ABLATED = ("untaught", "alone", "damage", "compensated")  # run where they are asked for
ROWS: Mapping[str, Row] = {
    "ours": Row(OURS, ("stock", "{study}"), _OURS_HAS, OWN, ("autoprune",)),
    "ours_recipe": Row(OURS, ("peers", "{study}"), _OURS_HAS, OWN, ("autoprune",)),
    **{f"ours_{name}": Row(OURS, (name, "{study}"), _OURS_HAS, OWN, ("autoprune",)) for name in ABLATED},
    "chain": Row("chain.py"),
    "ladder_uniform": Row("ladder.py", ("uniform",)),
    "ladder_global": Row("ladder.py", ("global",)),
    "ladder_global_teacher": Row("chain.py", environment=_LADDER),
    "fastnas": Row("fastnas.py", python=FASTNAS, needs=_FASTNAS_NEEDS),
    "diy": Row("diy.py", needs=("torch_pruning", "pyarrow", "PIL", "optuna")),
}
_STOCK_ROWS = [name for name in ROWS if name.removeprefix("ours_") not in ABLATED]
_STUDY = ROOT / "studies/bench_search/study.toml"
TASKS: Mapping[str, Task] = {
    "resnet20": Task(_STUDY, "dense_resnet20.pt", ROOT / "studies/cifar10_resnet20/convert.py"),
    "narrow_vgg": Task(  # `diy` names layers of ResNet-20, in processes that know of no other network.
        _STUDY, "dense_narrow_vgg.pt", network="studies.bench_search.narrow_vgg:narrow_vgg", lacks=("diy",)
    ),
}
# Of a network that the peers don't have, by their script.
_DENSE_EPOCHS, _DENSE_RATE = 24, "0.1"


class RowError(Exception):
    """A row that gave no result; the next one goes on."""


@dataclass(frozen=True)
class Run:
    """One row with one seed and wall-clock."""

    network: str
    row: str
    seed: int
    minutes: float

    def __str__(self) -> str:
        return f"{self.network}-{self.row}-{self.minutes:g}m-s{self.seed}"


@dataclass(frozen=True)
class Place:
    """Where things are on this machine.

    Args:
        peers: The folder of the peers' scripts.
        data: The folder of train.parquet and test.parquet.
        pythons: By whose it is.
        out: Where results and scratch folders go.
    """

    peers: Path
    data: Path
    pythons: Mapping[str, str]
    out: Path

    def result(self, run: Run) -> Path:
        """The file of a run's result."""
        return self.out / f"{run}.json"

    def dense(self, network: str) -> Path:
        """The dense checkpoint under the peers' names."""
        task = TASKS[network]
        return (self.peers if task.network is None else self.out) / task.dense

    def weights(self, network: str) -> Path:
        """The dense weights under autoprune's names."""
        return self.out / Path(TASKS[network].dense).with_suffix(".safetensors").name

    def script(self, network: str, name: str, *, python: str = PEER) -> list[str]:
        """A script of the peers, or a full path, on a network."""
        other = TASKS[network].network
        around = [] if other is None or python == OWN else [ON_OTHER, other]
        return [self.pythons[python], *around, str(self.peers / name)]

    def command(self, run: Run, out: Path) -> list[str]:
        """What to execute."""
        row = ROWS[run.row]
        arguments = [argument.format(study=TASKS[run.network].study) for argument in row.arguments]
        script = self.script(run.network, row.script, python=row.python)
        return [*script, *arguments, f"{60 * run.minutes:g}", str(out)]

    def environment(self, run: Run) -> dict[str, str]:
        """What each row is told, the same for all."""
        native, network = machine.has_bfloat16(), TASKS[run.network].network
        return {
            **({} if network is None else {"PYTHONPATH": str(ROOT)}),
            "NETWORK": network or "",
            "DATA": str(self.data),
            "DENSE": str(self.dense(run.network)),
            "WEIGHTS": str(self.weights(run.network)),
            "SEED": str(run.seed),
            "LR": RATE,
            "OMP_NUM_THREADS": "1",
            "BF16": "1" if native else "0",
            "PRECISION": "bfloat16" if native else "float32",
            **ROWS[run.row].environment,
        }


def execute(command: Sequence[str], *, folder: Path, log: Path, environment: Mapping[str, str], limit_s: float) -> None:
    """Run a command with all that it starts; what it says goes to ``log``.

    Raises:
        RowError: It failed, or took longer than ``limit_s``.
    """
    with (
        log.open("w") as told,
        subprocess.Popen(
            command, cwd=folder, env={**os.environ, **environment},
            stdout=told, stderr=subprocess.STDOUT, start_new_session=True,
        ) as child,
    ):  # fmt: skip
        try:
            code = child.wait(limit_s)
        except BaseException as error:  # Ctrl-C as well: nothing may go on beside the next row.
            os.killpg(child.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise RowError(f"it was not over after {limit_s:.0f} s, see {log}") from None
            raise
    if code:
        last = (log.read_text().strip().splitlines() or ["without a word"])[-1]
        raise RowError(f"it ended with {code}: {last} (see {log})")


def measure(run: Run, place: Place) -> dict[str, Any]:
    """Run one row now; its result as plain data.

    Raises:
        RowError: There is none, and why.
    """
    row, folder = ROWS[run.row], place.out / str(run)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log, found, environment = folder / "row.log", folder / "found.json", place.environment(run)

    def step(command: Sequence[str], *, limit_s: float = 600.0, **more: str) -> None:
        execute(command, folder=folder, log=log, environment={**environment, **more}, limit_s=limit_s)

    step([place.pythons[row.python], "-c", "; ".join(f"import {name}" for name in row.needs)])
    task, dense, weights = TASKS[run.network], place.dense(run.network), place.weights(run.network)
    if task.network is not None and not dense.exists():
        half = dense.with_suffix(".part")
        step([*place.script(run.network, "dense.py"), str(_DENSE_EPOCHS), str(half)], limit_s=3 * 3600, LR=_DENSE_RATE)
        half.replace(dense)
    if row.python == OWN and not weights.exists():
        if task.convert is None:
            save_file({name: t.contiguous() for name, t in torch.load(dense, weights_only=True).items()}, weights)
        else:
            step([sys.executable, str(task.convert), str(dense), str(weights)])
    facts: dict[str, Any] = {"cpu": machine.cpu(), "cores": os.cpu_count(), "precision": environment["PRECISION"]}
    facts |= {"commit": machine.commit(), "busy_before": round(machine.busy(), 3)}
    start = time.monotonic()
    step(place.command(run, found), limit_s=2 * 60 * run.minutes + 1800)  # Reading data and scoring are off the clock.
    facts["process_s"] = round(time.monotonic() - start, 1)
    shutil.rmtree(folder / "autoprune_artifacts" / "data", ignore_errors=True)  # Decoded images, large.
    return result_of(run, facts, json.loads(found.read_text()))


def result_of(run: Run, facts: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a run: every row scored by the same functions.

    Args:
        run: The run.
        facts: Of machine and moment.
        found: What its script left: ``front``, pairs of test error and MACs ratio, and facts of its own.

    Raises:
        RowError: Its front is empty: its processes failed, and it did not say so.
    """
    front = sorted((float(error), float(ratio)) for error, ratio in found["front"])
    if not front:
        raise RowError("its front is empty")
    best = best_at(front)
    scores = {"hypervolume": hypervolume(front), "mean": mean(best.values()), "best_at": list(best.values())}
    own = {key: value for key, value in found.items() if key != "front"}
    return {**vars(run), **scores, "front": front, **facts, "found": own}


def run_all(
    runs: Sequence[Run], place: Place, *, measured: Callable[[Run, Place], dict[str, Any]] = measure
) -> dict[Run, str]:
    """Run what has no result yet, one after the other.

    Args:
        runs: In this order.
        place: Where they run.
        measured: Runs one.

    Returns:
        Those that gave no result, and why.
    """
    missing = {}
    for run in runs:
        target = place.result(run)
        if target.exists():
            print(f"{run}: there already", flush=True)
            continue
        print(f"{run}: running ...", flush=True)
        try:
            result = measured(run, place)
        except (RowError, subprocess.SubprocessError, OSError, ValueError, KeyError) as error:
            missing[run] = str(error)
            print(f"{run}: no result: {error}", flush=True)
            continue
        half = target.with_suffix(".part")
        half.write_text(json.dumps(result, indent=1))
        half.replace(target)
        print(f"{run}: hypervolume {result['hypervolume']:.4f}", flush=True)
    return missing


def arguments() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder, env = ROOT / "studies/bench_search/raw", os.environ
    peers = Path(env.get("PEERS", ROOT.parent / "shared" / "bench"))
    python = env.get("PEER_PYTHON", sys.executable)
    parser.add_argument("what", choices=("search",))
    parser.add_argument("--minutes", type=float, default=15.0, help="wall-clock of one row (default: %(default)g)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=_STOCK_ROWS, metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--network", choices=TASKS, default="resnet20")
    parser.add_argument("--out", type=Path, default=folder, help="results; table and picture go beside this folder")
    parser.add_argument("--peers", type=Path, default=peers, help="default: $PEERS, else %(default)s")
    parser.add_argument("--data", type=Path, help="default: $DATA, else data/cifar10 beside the peers' folder")
    parser.add_argument("--peer-python", default=python, help="default: $PEER_PYTHON, else this one")
    parser.add_argument(
        "--fastnas-python", default=env.get("FASTNAS_PYTHON"), help="default: $FASTNAS_PYTHON, else the peers'"
    )
    args = parser.parse_args()
    needed = args.peers / ("common.py" if TASKS[args.network].network else TASKS[args.network].dense)
    if not needed.is_file():
        parser.error(f"`--peers` must be the peers' folder, but there is no {needed}. Name it.")
    return args


def main() -> None:
    """Run the rows, then write table and picture."""
    args = arguments()
    peers, out = args.peers.resolve(), args.out.resolve()
    data = args.data or Path(os.environ.get("DATA", peers.parent / "data" / "cifar10"))
    given = {OWN: sys.executable, PEER: args.peer_python, FASTNAS: args.fastnas_python or args.peer_python}
    # Rows run in folders of their own. Not resolved: a link to Python is what makes a virtual environment.
    pythons = {whose: os.path.abspath(shutil.which(python) or python) for whose, python in given.items()}
    out.mkdir(parents=True, exist_ok=True)
    rows = [row for row in args.rows if row not in TASKS[args.network].lacks]
    runs = [Run(args.network, row, seed, args.minutes) for seed in args.seeds for row in rows]
    missing = run_all(runs, Place(peers, data.resolve(), pythons, out))
    search_report.write(out, missing={str(run): why for run, why in missing.items()})
    raise SystemExit(1 if missing else 0)


if __name__ == "__main__":
    main()
