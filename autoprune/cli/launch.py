"""``autoprune launch``: start a study."""

from __future__ import annotations

import argparse

from autoprune.cli.options import add_run_options, loggers_of, natural, run_options

__all__ = ["DESCRIPTION", "EPILOG", "NAME", "SUMMARY", "add_arguments", "run"]

NAME = "launch"
SUMMARY = "start a study, or join it where it already runs"
DESCRIPTION = """\
Start the study that a file describes. Trials run in parallel on this machine's
cores or GPUs, or on a Ray cluster. The database keeps everything: a study that
is stopped, killed or out of time goes on with `autoprune resume`. Launching the
same file from a second terminal or machine adds a second driver to the study;
together they finish exactly the number of trials asked for.

The first Ctrl-C starts no new trials and tells the running ones to stop; the
second leaves at once. Either way nothing that has finished is lost.
"""
EPILOG = """\
examples:
  autoprune launch study.toml
  autoprune launch study.toml --trials 100 --time-limit 2h
  autoprune launch study.toml --logger tensorboard
  autoprune launch study.toml --dry-run      check everything, show the first proposals
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("study_file", metavar="STUDY.toml", help="the study file")
    parser.add_argument("--name", metavar="NAME", help="the study's name (over the file)")
    parser.add_argument("--seed", type=natural, metavar="N", help="the study's seed (over the file)")
    add_run_options(parser)
    parser.add_argument("--dry-run", action="store_true", help="check everything and show what would be tried first")


def run(args: argparse.Namespace) -> int:
    """Launch, or show what launching would do."""
    if args.dry_run:
        return _dry_run(args)
    from autoprune import api
    from autoprune.cli.progress import finish, make_progress

    with make_progress() as progress:
        outcome = api.launch(args.study_file, name=args.name, seed=args.seed, progress=progress, **run_options(args))
    return finish(outcome, args.storage)


def _dry_run(args: argparse.Namespace) -> int:
    from autoprune import api

    plan = api.plan(
        args.study_file,
        name=args.name,
        seed=args.seed,
        n_trials=args.trials,
        time_limit_s=args.time_limit,
        concurrency=args.concurrency,
        loggers=loggers_of(args),
        storage=args.storage,
    )
    search, space = plan.config.study, plan.config.space
    print(f"study {search.name!r}: {search.length}, {search.sampler} sampler, seed {search.seed}")
    found = plan.inspection
    print(f"network {found.network}: {found.macs:,} MACs, {len(found.groups)} channel groups")
    print(f"space {space.name!r}: methods {', '.join(space.methods)}; width rules {', '.join(space.width_rules)}")
    print(f"computed in: {found.computed_in}")
    print(f"reachable: macs_ratio {found.least_macs_ratio:.4f} to 1")
    if plan.config.loggers.use:
        print(f"loggers: {', '.join(plan.config.loggers.use)}")
    print("first proposals:")
    for point in plan.opening:
        hyper = ", ".join(
            f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
            for key, value in point["hyper"].items()
        )
        print(
            f"  {point['method']:<12} {point['width_rule']:<8} macs_target {point['macs_target']:.3f}  {hyper}".rstrip()
        )
    if (there := plan.joins) is not None:
        news = f"changing {', '.join(there.changed)}" if there.changed else "changing nothing"
        print(f"joins the study in {there.url}: {there.n_finished} trials finished, revision {there.revision}; {news}")
    print("nothing was trained, and no database was changed.")
    return 0
