"""``autoprune export``: a network, or the whole front, as files that run elsewhere."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoprune.cli.options import add_storage, add_trust, natural, one_of
from autoprune.errors import ConfigError

if TYPE_CHECKING:
    from autoprune.api import Exported

__all__ = ["DESCRIPTION", "EPILOG", "NAME", "SUMMARY", "add_arguments", "run"]

NAME = "export"
_FORMATS = ("safetensors", "pt2", "onnx", "py")
SUMMARY = "networks as .safetensors, .pt2, .onnx or Python source, each with its model card"
DESCRIPTION = """\
Write the pruned network of one trial to a file, with a model card (.md) beside it:

  .py           Python source of the narrower network, its weights in a .pt file;
                needs torch alone
  .pt2          torch.export; needs torch alone
  .onnx         ONNX, any batch size; with --int8 rounded to 8 bits
  .safetensors  weights and a JSON record, for autoprune.load_model

What is written is checked to answer as the network does. Images must be
normalised as the card says; the command prints it.

TRIAL is a number of `autoprune pareto`; --best takes the best score of the study,
--under the best among trials that satisfy a condition, and --front writes the
whole front into a folder, with an index.
"""
EPILOG = """\
examples:
  autoprune export digits 17 --to digits.onnx
  autoprune export digits --best --to digits.py
  autoprune export digits --under "macs_ratio <= 0.5" --to half.pt2
  autoprune export digits --under "macs_ratio <= 0.5" --to half.onnx --int8
  autoprune export digits --front --format py --to front/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="the study's name")
    parser.add_argument("trial", type=natural, metavar="TRIAL", nargs="?", help="the trial's number")
    parser.add_argument("--best", action="store_true", help="the trial with the best score, in place of TRIAL")
    parser.add_argument("--under", metavar="EXPR", help="the best among trials that satisfy this: 'macs_ratio <= 0.5'")
    parser.add_argument("--front", action="store_true", help="all networks of the front, into the folder of --to")
    parser.add_argument(
        "--format", type=one_of("format", _FORMATS), metavar="F",
        help="with --front: safetensors (default), pt2, onnx or py",
    )  # fmt: skip
    parser.add_argument("--to", required=True, metavar="FILE", help="ends in .py, .pt2, .onnx or .safetensors")
    parser.add_argument("--int8", action="store_true", help="round to 8 bits (.onnx), scored on the validation split")
    add_trust(parser)
    add_storage(parser)


def run(args: argparse.Namespace) -> int:
    """Export."""
    from autoprune import api

    _check(args)
    if args.front:
        ending = f".{args.format or _FORMATS[0]}"
        written = api.export_front(args.name, args.to, ending=ending, int8=args.int8, storage=args.storage)
        _print(written)
        print(f"wrote {written[0].path.with_name('index.md')}")
        return 0
    number = args.trial
    if number is None:
        number = api.best_trial(args.name, under=args.under, storage=args.storage)
    done = api.export_trial(args.name, number, args.to, int8=args.int8, storage=args.storage)
    if args.trial is None:
        print(f"trial {number}")
    _print([done])
    return 0


def _check(args: argparse.Namespace) -> None:
    chosen = {"TRIAL": args.trial is not None, "--best or --under": args.best or args.under, "--front": args.front}
    given = [name for name, is_given in chosen.items() if is_given]
    if len(given) != 1:
        raise ConfigError(
            f"export takes one of TRIAL, --best, --under and --front, but got {' and '.join(given) or 'none of them'}. "
            "Name the trial, or let it be chosen."
        )
    if args.format and not args.front:
        raise ConfigError("`--format` goes with --front; the format of one file is the ending of --to. Leave it out.")


def _print(written: Sequence[Exported]) -> None:
    for done in written:
        difference = f", differs by {done.difference:.1e} of the largest logit" if done.difference is not None else ""
        print(f"wrote {done.path} ({done.size_bytes:,} bytes{difference})")
        if done.int8 is not None:
            told = f"{done.int8.score:.4f} on the validation split; {done.int8.float_score:.4f} before"
            print(f"int8, calibrated on {done.int8.n_calibration} training images: {told}")
    mean, std = written[0].mean, written[0].std
    print(
        f"images: uint8 / 255, minus mean {mean}, divided by std {std}"
        if mean
        else "inputs: as the task's loaders give them"
    )
