"""Help texts, and the list of all arguments."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator

import pytest

from autoprune.cli.main import build_parser

# A new flag is a promise for years: whoever adds one writes it down here.
ARGUMENTS = {
    "init": [
        "STUDY.toml", "--network NET", "--data PATH", "--task TASK", "--weights FILE", "--time T", "--name NAME",
    ],
    "inspect": ["STUDY.toml", "--write-space FILE", "--no-factories"],
    "launch": [
        "STUDY.toml", "--name NAME", "--seed N", "--trials N",
        "--time-limit T", "--concurrency K", "--address ADDR", "--logger L", "--log FILE", "--verbose",
        "--no-factories", "--storage URL", "--dry-run",
    ],
    "resume": [
        "NAME", "--trials N", "--time-limit T", "--concurrency K", "--address ADDR", "--logger L", "--log FILE",
        "--verbose", "--no-factories", "--storage URL",
    ],
    "status": ["NAME", "--format F", "--storage URL"],
    "stop": ["NAME", "--storage URL"],
    "pareto": [
        "NAME", "--where EXPR", "--sort COLUMN", "--spacing GAP", "--under EXPR", "--best COLUMN", "--knee",
        "--top K", "--dominated", "--format F", "--to FILE", "--plot FILE", "--storage URL",
    ],
    "diff": ["A", "B", "--format F", "--storage URL"],
    "report": ["NAME", "OTHER", "--to FILE", "--storage URL"],
    "dashboard": ["NAME", "OTHER", "--port P", "--optuna", "--storage URL"],
    "show": ["NAME", "TRIAL", "--format F", "--storage URL"],
    "evaluate": [
        "NAME", "--seeds K", "--race", "--where EXPR", "--concurrency K", "--address ADDR", "--no-factories",
        "--storage URL",
    ],
    "export": [
        "NAME", "TRIAL", "--best", "--under EXPR", "--front", "--format F", "--to FILE", "--int8", "--no-factories",
        "--storage URL",
    ],
    "latency": ["NAME", "TRIAL", "--batch N", "--device D", "--no-factories", "--storage URL"],
    "clean": ["NAME", "--phases", "--dry-run", "--storage URL"],
    "doctor": ["NAME", "--yes", "--format F", "--storage URL"],
    "list": ["WHAT", "--storage URL"],
}  # fmt: skip


def commands() -> dict[str, argparse.ArgumentParser]:
    parser = build_parser()
    return next(dict(a.choices) for a in parser._actions if isinstance(a, argparse._SubParsersAction))


def arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction):
            yield " ".join(filter(None, [*action.option_strings, str(action.metavar or "")]))


def test_the_list_of_all_arguments() -> None:
    assert {name: list(arguments(parser)) for name, parser in commands().items()} == ARGUMENTS


@pytest.mark.parametrize("name", ["", *ARGUMENTS])
def test_help_of_a_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    parser = commands()[name] if name else build_parser()
    text = parser.format_help()
    assert max(len(line) for line in text.splitlines()) <= 100
    description = str(parser.description)
    assert description in text
    assert len(description.split()) >= 10
    assert description.strip().endswith(".")
    assert "example" in text or "a first run:" in text
    assert f"  autoprune {name}".rstrip() in str(parser.epilog)
    for action in parser._actions:
        if action.option_strings:
            assert action.help, action.option_strings  # a flag without a word on it


def test_examples_of_the_help_can_be_parsed() -> None:
    lines = [line.split("     ")[0].strip() for p in commands().values() for line in str(p.epilog).splitlines()]
    examples = [line for line in lines if line.startswith("autoprune ")]
    assert len(examples) >= len(ARGUMENTS)
    for example in examples:
        parsed = build_parser().parse_args(shlex.split(example)[1:])
        assert parsed.command in ARGUMENTS


def test_help_is_answered_with_success(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ARGUMENTS:
        with pytest.raises(SystemExit, match=r"^0$"):
            build_parser().parse_args([name, "--help"])
        assert capsys.readouterr().out.startswith(f"usage: autoprune {name} ")
