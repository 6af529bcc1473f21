"""Model cards: what is known of an exported network, as a Markdown page beside it."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from autoprune.api._reading import Study
from autoprune.config import Metric

__all__ = ["Exported", "Int8", "card_of", "index_of"]

_COUNTED = (
    "One MAC is one multiply-accumulate of a convolution or linear layer for one input in evaluation mode; bias, "
    "normalisation, activation and pooling count nothing, and FLOPs = 2 · MACs"
)


@dataclass(frozen=True)
class Int8:
    """What rounding a network to 8 bits did.

    Args:
        score: The study's metric on the validation split, of the file.
        n_calibration: Training images that the ranges of activations were taken from.
        float_score: The same of the network before rounding.
    """

    score: float
    n_calibration: int
    float_score: float


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Args:
        path: Where it is.
        size_bytes: Its size; that of its weights with it, where these lie in a file of their own.
        mean: Per image channel, to be subtracted from ``uint8 / 255``; empty where a task of one's own has its inputs
            ready.
        std: Per image channel, to divide by afterwards; empty likewise.
        difference: Largest difference from the network's logits as a share of the largest, where it was run; one of
            8 bits differs as it may, so its score is told instead.
        number: The trial.
        int8: How it scores, where its numbers have 8 bits.
        card: The Markdown page beside it.
    """

    path: Path
    size_bytes: int
    mean: list[float]
    std: list[float]
    difference: float | None
    number: int
    int8: Int8 | None
    card: Path


@dataclass(frozen=True, kw_only=True)
class _Page:
    """What a card is written from: the study, what it knows of the trial, the record beside its network, the file."""

    study: Study
    facts: Mapping[str, Any]
    record: Mapping[str, Any]
    done: Exported

    @property
    def network(self) -> str:
        return str(self.record.get("architecture") or self.record.get("factory"))

    @property
    def metric(self) -> Metric:
        return self.study.metric


def card_of(study: Study, facts: Mapping[str, Any], record: Mapping[str, Any], *, done: Exported) -> str:
    """The card of one exported network; it says nothing that is not known.

    Args:
        study: That it comes from.
        facts: What the study knows of the trial.
        record: Beside the trial's network.
        done: The file.
    """
    page = _Page(study=study, facts=facts, record=record, done=done)
    sections = {
        "Scores": _scores(page),
        "Costs": _costs(page),
        "Widths": _widths(page),
        "Inputs and data": _data(page),
        "Where it comes from": _lineage(page),
        "Use": _use(page),
        "Commands": _commands(page),
    }
    told = [f"## {title}\n\n{text}\n" for title, text in sections.items() if text]
    title = f"# {done.path.name}\n\n{_summary(page)}\n"
    versions = f"autoprune {version('autoprune')}, torch {torch.__version__}, Python {platform.python_version()}"
    return "\n".join([title, *told, f"Exported with {versions}.\n"])


def index_of(study: Study, cards: Sequence[tuple[Mapping[str, Any], Exported]]) -> str:
    """The page over the cards of a front, cheapest first: what is known of each trial, and its file."""
    metric, rows = study.metric, []
    for facts, done in cards:
        test = facts.get(f"test_{metric.name}")
        rows.append(
            [
                f"[{done.number}]({done.card.name})", metric.text(facts[metric.name]),
                "" if test is None else _with_sd(metric, test, facts.get("test_sd")),
                f"{facts['macs_ratio']:.4f}", f"{facts['params_ratio']:.4f}", f"[{done.path.name}]({done.path.name})",
                f"{done.size_bytes:,}",
            ]
        )  # fmt: skip
    head = ["trial", f"{metric.name} (validation)", f"{metric.name} (test)", "MACs ratio", "parameters ratio", "file"]
    table = _table([*head, "bytes"], rows)
    return f"# The front of study {study.name}\n\n{table}\n\n{_COUNTED}. Ratios are to the dense network.\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _with_sd(metric: Metric, mean: float, sd: float | None) -> str:
    return metric.text(mean) + ("" if sd is None else f" ± {metric.text(sd)}")


def _summary(page: _Page) -> str:
    facts, record = page.facts, page.record
    return (
        f"`{page.network}` with its channels cut to {facts['macs_ratio']:.1%} of its MACs and "
        f"{facts['params_ratio']:.1%} of its parameters: trial {page.done.number} of the autoprune study "
        f"`{page.study.name}` (method `{record['method']}`, width rule `{record['width_rule']}`)."
    )


def _scores(page: _Page) -> str:
    metric, facts, int8 = page.metric, page.facts, page.done.int8
    rows = [["validation", metric.text(facts[metric.name]), "this network; trials were chosen by this score"]]
    if int8 is not None:
        how = f"this file, 8 bits, calibrated on {int8.n_calibration} training images"
        rows = [["validation", metric.text(int8.score), how]]
        rows.append(["validation", metric.text(int8.float_score), "the network before rounding"])
    mean = facts.get(f"test_{metric.name}")
    if mean is not None:
        n = facts["test_seeds"]
        again = f"{n} fine-tuning{'s' * (n > 1)} with other seeds{', mean ± standard deviation' * (n > 1)}"
        again += ", before rounding" if int8 is not None else ""
        rows.append(["test", _with_sd(metric, mean, facts.get("test_sd")), again])
    text = _table(["split", metric.name, "of"], rows)
    return text if mean is not None else f"{text}\n\nThe test split was not scored on (`autoprune evaluate`)."


def _costs(page: _Page) -> str:
    facts, done = page.facts, page.done
    rows = [
        ["MACs", f"{facts['macs']:,}", f"{facts['macs_ratio']:.4f}"],
        ["FLOPs", f"{2 * facts['macs']:,}", f"{facts['macs_ratio']:.4f}"],
        ["parameters", f"{facts['params']:,}", f"{facts['params_ratio']:.4f}"],
    ]
    if "peak_activation_bytes" in facts:
        what = "peak activation memory, float32, one input (bytes)"
        rows.append([what, f"{facts['peak_activation_bytes']:,}", f"{facts['peak_activation_ratio']:.4f}"])
    batch = page.study.config.setting.latency_batch
    if "latency_ms" in facts and batch is not None:
        on = f" on {facts['host']}" if "host" in facts else ""
        what = f"median time of a batch of {batch}{on}, {page.study.config.setting.precision} (ms)"
        rows.append([what, f"{facts['latency_ms']:.4g}", f"{facts['latency_ratio']:.4f}"])
    rows.append([f"`{done.path.name}` (bytes)", f"{done.size_bytes:,}", ""])
    convention = page.record.get("convention")
    return f"{_table(['', 'this network', 'over dense'], rows)}\n\n{_COUNTED} (convention `{convention}`)."


def _widths(page: _Page) -> str:
    cost = page.study.handle.config.get("cost", {})
    dense = dict(zip(cost.get("groups", ()), cost.get("dense", ()), strict=True))
    rows = []
    for name, width in page.record["widths"].items():
        share = f"{width / dense[name]:.3f}" if name in dense else ""
        rows.append([f"`{name}`", str(width), str(dense.get(name, "")), share])
    return _table(["channel group", "width", "dense", "kept"], rows) if rows else "Nothing was cut."


def _data(page: _Page) -> str:
    setting, record = page.study.config.setting, page.record
    lines = []
    if "image_shape" in record:
        lines.append(f"Images of {' × '.join(map(str, record['image_shape']))} (channels, height, width)")
    if record.get("n_classes") is not None:
        lines.append(f"{record['n_classes']} classes")
    if page.done.mean:
        lines.append(f"Scale: `uint8 / 255`, minus mean `{page.done.mean}`, divided by std `{page.done.std}`")
    if setting.data is not None:
        data = setting.data
        # Of a path its last part: the rest is this machine's.
        train = Path(str(data.train)).name if data.train is not None else None
        lines.append(f"Data: source `{data.source}`{f', `{train}`' if train else ''}, validation `{data.validation}`")
    else:
        lines.append(f"Data: those of the task `{setting.task.factory}` ({setting.task.kind})")
    return "\n".join(f"- {line}" for line in lines)


def _lineage(page: _Page) -> str:
    facts, record, search = page.facts, page.record, page.study.config.study
    hyper = ", ".join(f"`{key}` = {value}" for key, value in record["hyper"].items()) or "none"
    objectives = ", ".join(f"`{one}`" for one in search.objectives)
    lines = [
        f"- Method `{record['method']}` (hyper-parameters: {hyper})",
        f"- Width rule `{record['width_rule']}`, MACs target {record['macs_target']:g}",
        f"- Fine-tuned on {facts['images']:,} images" if facts.get("images") else "- Not fine-tuned",
        f"- Study: sampler `{search.sampler}`, seed {search.seed}, {search.length}, objectives {objectives}",
    ]
    text = "\n".join(lines)
    return f"{text}\n\n```text\n{facts['lineage']}\n```" if "lineage" in facts else text


def _use(page: _Page) -> str:
    name, is_of_factory = page.done.path.name, page.record.get("architecture") is None
    stem = page.done.path.stem
    how = {
        ".safetensors": f'import autoprune\n\nnetwork = autoprune.load_model("{name}"'
        f"{', factory=...' if is_of_factory else ''})  # {stem}.json must lie beside it",
        ".pt2": f'import torch\n\nnetwork = torch.export.load("{name}").module()',
        ".onnx": f'import onnxruntime\n\nsession = onnxruntime.InferenceSession("{name}")',
        ".py": f'import runpy\n\nnetwork = runpy.run_path("{name}")["load"]()  # {stem}.pt must lie beside it',
    }
    return f"```python\n{how[page.done.path.suffix]}\n```"


def _commands(page: _Page) -> str:
    name, number, done = page.study.name, page.done.number, page.done
    name = f"'{name}'" if " " in name else name
    int8 = " --int8" if done.int8 is not None else ""
    return (
        f"```sh\nautoprune export {name} {number} --to {done.path.name}{int8}\n"
        f"autoprune show {name} {number}      # everything known of the trial\n"
        f"autoprune evaluate {name}     # scores the front on the test split\n```"
    )
