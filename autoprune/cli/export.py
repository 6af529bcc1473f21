"""``autoprune export``: a trial's network as a file that runs elsewhere."""

from __future__ import annotations

import argparse

from autoprune.cli.options import add_storage, natural

__all__ = ["DESCRIPTION", "EPILOG", "NAME", "SUMMARY", "add_arguments", "run"]

NAME = "export"
SUMMARY = "a trial's network as .safetensors, .pt2 or .onnx"
DESCRIPTION = """\
Write the pruned network of one trial to a file: .safetensors with its JSON
record for autoprune.load_model, or .pt2 (torch.export) or .onnx, which run
without autoprune. The written file is checked to answer as the network does.
Images must be normalised as the record says; the command prints it.
"""
EPILOG = """\
examples:
  autoprune export digits 17 --to digits.onnx
  autoprune export digits 17 --to digits.safetensors
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="the study's name")
    parser.add_argument("trial", type=natural, metavar="TRIAL", help="the trial's number")
    parser.add_argument("--to", required=True, metavar="FILE", help="ends in .safetensors, .pt2 or .onnx")
    add_storage(parser)


def run(args: argparse.Namespace) -> int:
    """Export."""
    from autoprune import api

    done = api.export_trial(args.name, args.trial, args.to, storage=args.storage)
    difference = f", differs by {done.difference:.1e} of the largest logit" if done.difference is not None else ""
    print(f"wrote {done.path} ({done.size_bytes:,} bytes{difference})")
    print(f"images: uint8 / 255, minus mean {done.mean}, divided by std {done.std}")
    return 0
