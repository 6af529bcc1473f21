"""``autoprune evaluate``: the front on the test split."""

from __future__ import annotations

import argparse
import sys

from autoprune.cli.options import add_cluster, add_storage, add_trust, positive

__all__ = ["DESCRIPTION", "EPILOG", "NAME", "SUMMARY", "add_arguments", "run"]

NAME = "evaluate"
SUMMARY = "score the front on the test split, each member with several seeds"
DESCRIPTION = """\
Score the Pareto front on the test split, which the search has never seen. Each
member's channels are cut from its parent again and fine-tuned anew with seeds
0 to K-1, by the study's own recipe; mean and standard deviation of the scores
are then shown by `autoprune pareto` and `autoprune show`, beside the scores of
the search. The dense network has nothing to be fine-tuned for: it is scored as
it is, and its deviation is 0.

Neighbours on the front whose means differ by at most two standard errors of the
difference, 2 * sqrt(sd1^2 / K + sd2^2 / K), can't be told apart and are marked.
With one seed nothing can be said.

--race spends seeds where they decide: all members get three, then neighbours whose
means do not differ by Welch's test at the 5 % level get one more each, until all
are told apart or have --seeds of them.

What is scored is stored at once: the same command goes on after Ctrl-C, and
with a larger K adds the seeds that are missing.
"""
EPILOG = """\
examples:
  autoprune evaluate digits
  autoprune evaluate digits --seeds 5 --where "macs_ratio <= 0.5"
  autoprune evaluate digits --race --seeds 8
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="the study's name")
    parser.add_argument(
        "--seeds", type=positive, metavar="K", help="fine-tunings of each member (default: 3; at most, in a race: 10)"
    )
    parser.add_argument("--race", action="store_true", help="more than three seeds only for near-ties of the front")
    parser.add_argument("--where", metavar="EXPR", help="only the front among trials that satisfy this")
    add_cluster(parser)
    add_trust(parser)
    add_storage(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the front."""
    from autoprune import api
    from autoprune.cli.tables import front_table, score_notes

    class Told(api.Progress):
        def note(self, text: str) -> None:
            print(text, flush=True)

        def interrupted(self) -> None:
            print("interrupted: what is scored is kept. Ctrl-C again leaves at once.", file=sys.stderr, flush=True)

    done = api.evaluate(
        args.name,
        seeds=args.seeds,
        race=args.race,
        where=args.where,
        concurrency=args.concurrency,
        address=args.address,
        storage=args.storage,
        progress=Told(),
    )
    front = done.study.front(where=args.where)
    print(front_table(front, done.study.metric))
    for line in score_notes(front, done.study.metric):
        print(line)
    for pair in done.race:
        how = "told apart" if pair.told_apart else "not told apart"
        print(f"race: trials {pair.cheaper} and {pair.costlier} {how} with {pair.n_seeds} seeds")
    if done.interrupted:
        print(f"{done.n_known + done.n_done} of {done.n_runs} runs are done; the same command goes on.")
        return 130
    return 0
