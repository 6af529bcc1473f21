"""Which networks can be pruned how far: every torchvision classifier, some of timm's of every family, both layouts.

Each network is traced in a process of its own, with random weights; nothing is downloaded. What is done is kept in
``raw/`` of the study's folder and not done again; ``results.md`` is written from it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STUDY = ROOT / "studies" / "networks"
AIM = 0.1  # Floor of the MACs ratio.
TIMM = (
    "efficientnet_lite0", "tf_efficientnet_lite0", "mobilenetv2_100", "mobilenetv3_small_050",
    "mobilenetv4_conv_small", "regnetx_002", "regnety_002", "cspresnet50", "cspdarknet53", "densenet121", "vovnet39a",
    "ese_vovnet19b_dw", "mobileone_s0", "hardcorenas_a", "mixnet_s", "skresnet18", "repvgg_a0", "resnet18",
    "resnet50d", "resnext50_32x4d", "seresnet50", "ecaresnet26t", "res2net50_26w_4s", "resnest14d", "resnetv2_50",
    "resnetv2_50x1_bit", "nf_resnet50", "dla34", "dpn68", "ghostnet_100", "ghostnetv2_100", "fbnetc_100", "fbnetv3_b",
    "mnasnet_100", "spnasnet_100", "tinynet_e", "lcnet_050", "semnasnet_075", "rexnet_100", "gernet_s", "hgnet_tiny",
    "hgnetv2_b0", "selecsls42", "xception41", "inception_v4", "nasnetalarge", "hrnet_w18_small", "vgg11_bn",
    "darknet53", "fasternet_t0", "starnet_s1", "convnext_atto", "convnextv2_atto", "inception_next_atto",
    "poolformer_s12", "caformer_s18", "convmixer_768_32", "mixer_s32_224", "resmlp_12_224", "gmixer_24_224",
    "vit_tiny_patch16_224", "deit_tiny_patch16_224", "deit3_small_patch16_224", "cait_xxs24_224",
    "xcit_nano_12_p16_224", "mobilevit_xxs", "mobilevitv2_050", "efficientformer_l1", "efficientvit_b0",
    "efficientvit_m0", "edgenext_xx_small", "levit_128s", "pvt_v2_b0", "swin_tiny_patch4_window7_224",
    "coat_lite_tiny", "twins_svt_small", "maxvit_tiny_rw_224", "crossvit_tiny_240", "tiny_vit_5m_224", "repvit_m1",
    "fastvit_t8", "mambaout_femto", "davit_tiny", "focalnet_tiny_srf",
)  # fmt: skip


def names() -> list[str]:
    """All networks of the table."""
    from torchvision import models

    return [f"torchvision/{name}" for name in models.list_models(module=models)] + [f"timm/{name}" for name in TIMM]


def build(name: str) -> tuple[Any, int]:
    """A network with random weights, and the size of its images."""
    import torch

    torch.manual_seed(0)
    library, _, short = name.partition("/")
    if library == "timm":
        import timm

        model = timm.create_model(short, pretrained=False)
        return model, int(model.pretrained_cfg["input_size"][-1])
    from torchvision import models

    kwargs = {"init_weights": False} if short in ("inception_v3", "googlenet") else {}
    # Which channels go together does not hang on the size of the maps; where any will do, small ones are quicker.
    size = 224 if short.startswith(("vit", "swin", "maxvit")) else 128
    return models.get_model(short, weights=None, **kwargs), size


def examine(name: str) -> dict[str, Any]:
    """What tracing a network finds, in both layouts, and whether surgery and cost are right at random widths."""
    import numpy as np
    import torch

    sys.path.insert(0, str(ROOT))
    from autoprune.engine.tracing import trace
    from tests.engine.tracing.counting import count_macs

    model, size = build(name)
    model.eval()
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    started = time.monotonic()
    traced = trace(model, x)
    seconds = time.monotonic() - started
    turned = trace(model, x.contiguous(memory_format=torch.channels_last))
    least = {group.name: 1 for group in traced.groups}
    facts: dict[str, Any] = {
        "groups": len(traced.groups), "refused": [str(each) for each in traced.refused],
        "floor": traced.cost.macs_ratio(least) if least else 1.0,
        "floor_channels_last": turned.cost.macs_ratio({g.name: 1 for g in turned.groups}) if turned.groups else 1.0,
        "dense_macs": traced.cost.dense_macs, "seconds": seconds,
        "counted": count_macs(model, x) == traced.cost.dense_macs,
    }  # fmt: skip
    generator = np.random.default_rng(0)
    kept = {
        g.name: np.sort(generator.choice(g.width, size=int(generator.integers(1, g.width + 1)), replace=False))
        for g in traced.groups
    }
    return {**facts, **_proved(model, x, traced, kept)}


def _proved(model: Any, x: Any, traced: Any, kept: Any) -> dict[str, Any]:
    """The largest difference between the masked and the cut network, and whether the cost is what operators count."""
    import torch

    from autoprune.engine.surgery import cut, masked
    from tests.engine.tracing.counting import count_macs

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point() and tensor.dim() == 1:
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
    model, x = model.double(), x.double()
    small = cut(model, traced.groups, kept)
    with torch.no_grad():
        expected, got = masked(model, traced.groups, kept)(x), small(x)
    widths = {name: len(indices) for name, indices in kept.items()}
    expected, got = (one[0] if isinstance(one, tuple) else one for one in (expected, got))
    return {
        "difference": float((expected - got).abs().max() / expected.abs().max()),
        "cost_is_exact": traced.cost.macs(widths) == count_macs(small, x),
    }


def by_torch_pruning(name: str) -> dict[str, Any]:
    """The floor that Torch-Pruning reaches: as many channels as it takes, in one step, the classifier's output kept."""
    import torch
    import torch_pruning as tp

    sys.path.insert(0, str(ROOT))
    from tests.engine.tracing.counting import count_macs

    model, size = build(name)
    model.eval()
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    dense = count_macs(model, x)
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    pruner = tp.pruner.BasePruner(
        model, x, importance=tp.importance.MagnitudeImportance(), pruning_ratio=0.99, max_pruning_ratio=0.99,
        ignored_layers=layers[-1:],
    )  # fmt: skip
    pruner.step()
    with torch.no_grad():
        model(x)
    return {"floor": count_macs(model, x) / dense}


def _run(name: str, what: str, *, timeout_s: float) -> dict[str, Any]:
    """One examination in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--one", name, "--what", what]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"not done in {timeout_s:.0f} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        return {"error": last[:200]}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def run(chosen: Sequence[str], *, timeout_s: float) -> None:
    """Examine all networks that are not done, then write the table."""
    raw = STUDY / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        path = raw / f"{name.replace('/', '-')}.json"
        if path.exists():
            continue
        found = {
            "ours": _run(name, "ours", timeout_s=timeout_s),
            "theirs": _run(name, "theirs", timeout_s=timeout_s / 4),
        }
        path.write_text(json.dumps(found))
        ours = found["ours"]
        print(name, ours.get("error") or f"{ours['groups']} groups, floor {ours['floor']:.4f}", flush=True)
    table = STUDY / "results.md"
    table.write_text(report(table.read_text() if table.exists() else "", raw))


def report(before: str, raw: Path) -> str:
    """The table of what is done, with a summary.

    Args:
        before: The table as it is; rows of networks that are not in ``raw`` stay.
        raw: Where what was found lies.
    """
    rows, floors = [], []
    known = {line.split(" | ")[0].removeprefix("| "): line for line in before.splitlines() if "/" in line[:20]}
    for name in names():
        path = raw / f"{name.replace('/', '-')}.json"
        if not path.exists():
            if name in known:
                rows.append(known[name])
                floors.append(float(known[name].split("|")[3].strip() or 1))
            continue
        found = json.loads(path.read_text())
        ours, theirs = found["ours"], found["theirs"]
        their = f"{theirs['floor']:.4f}" if "floor" in theirs else "fails"
        if "error" in ours:
            floors.append(1.0)
            rows.append(f"| {name} | {ours['error']} | | | | | {their} |")
            continue
        floors.append(ours["floor"])
        refused = "; ".join(dict.fromkeys(text.partition(": ")[2].partition(";")[0] for text in ours["refused"]))
        exact = "yes" if ours["counted"] and ours["cost_is_exact"] else "**no**"
        rows.append(
            f"| {name} | {ours['groups']} | {ours['floor']:.4f} | {ours['floor_channels_last']:.4f} | "
            f"{ours['difference']:.0e}, {exact} | {refused} | {their} |"
        )
    low = sum(floor <= AIM for floor in floors)
    head = [
        "# Which networks can be pruned how far",
        "",
        "Written by `scripts/bench networks`. *Floor*: MACs ratio with one channel in every group, for an example in",
        "each memory format. *Exact*: largest difference of the answers of the masked and the cut network at random",
        "widths in float64, over the largest answer, and whether MACs are what an independent count of operators says,",
        "dense and cut. *Torch-Pruning*: the MACs ratio that it leaves when 99 % of all channels may go, where its",
        "network still runs.",
        "",
        f"{low} of {len(floors)} networks have a floor of {AIM} or less.",
        "",
        "| network | groups | floor | channels-last | exact | refused | Torch-Pruning |",
        "|---|---:|---:|---:|---|---|---:|",
    ]
    return "\n".join([*head, *rows]) + "\n"


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", nargs="?", choices=["networks"])
    parser.add_argument("--only", nargs="+", metavar="NETWORK", help="such as timm/repvgg_a0")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="S", help="for one network")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--what", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        try:
            print(json.dumps(examine(args.one) if args.what == "ours" else by_torch_pruning(args.one)))
        except Exception as error:
            traceback.print_exc()
            sys.exit(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        return
    run(args.only or names(), timeout_s=args.timeout)


if __name__ == "__main__":
    main()
