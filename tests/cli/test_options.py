"""Readers of flags."""

from __future__ import annotations

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.cli.options import add_run_options, address, duration, natural, one_of, positive, run_options


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90), ("45s", 45), ("20m", 1200), ("1h", 3600), ("1h30m", 5400), ("1h30m15s", 5415), ("1h15s", 3615),
        ("1.5h", 5400), ("0.5", 0.5), ("2m30s", 150), (" 20m ", 1200), ("0h5m", 300), ("90m", 5400), ("0.1s", 0.1),
    ],
)  # fmt: skip
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    ["", " ", "0", "0s", "0h0m0s", "-5", "-5m", "5x", "20min", "20 m", "1m1h", "1h30", "m", "h30m", "1e3", "nan", "inf",
     "1,5h", "٣m", "1:30", "9" * 400],
)  # fmt: skip
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(
        argparse.ArgumentTypeError, match=r"^must be a length of time such as 45s, 20m or 1h30m, but got "
    ):
        duration(text)


@given(hours=st.integers(0, 99), minutes=st.integers(0, 99), seconds=st.integers(1, 99))
def test_any_length_of_time(hours: int, minutes: int, seconds: int) -> None:
    assert duration(f"{hours}h{minutes}m{seconds}s") == 3600 * hours + 60 * minutes + seconds


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("007", 7), (" 12 ", 12), ("1000000", 1_000_000)])
def test_positive(text: str, value: int) -> None:
    assert positive(text) == value


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "1e3", "", "many", "1_000", "٣", "9" * 30, "True"])
def test_what_is_not_positive(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"^must be a whole number of at least 1, but got "):
        positive(text)


def test_trial_numbers_start_at_zero() -> None:
    assert natural("0") == 0
    with pytest.raises(argparse.ArgumentTypeError, match=r"^must be a whole number of at least 0, but got '-1'$"):
        natural("-1")


@pytest.mark.parametrize("text", ["auto", "localhost:6379", "10.0.0.1:6379", "[::1]:6379"])
def test_addresses(text: str) -> None:
    assert address(text) == text


@pytest.mark.parametrize("text", ["", "ray://host:10001", "host", "host:", ":", "a b:1", "host:port"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(
        argparse.ArgumentTypeError, match=r"^must be auto or HOST:PORT of a running Ray cluster, but got "
    ):
        address(text)


def test_one_of() -> None:
    read = one_of("format", ("csv", "table"))
    assert read("csv") == "csv"
    with pytest.raises(
        argparse.ArgumentTypeError, match=r"^there is no format 'cvs'; did you mean 'csv'\? Valid: csv, "
    ):
        read("cvs")


@pytest.mark.parametrize(
    ("flags", "loggers"),
    [
        ([], None),
        (["--logger", "none"], ()),
        (["--logger", "mlflow", "--logger", "tensorboard", "--logger", "mlflow"], ("mlflow", "tensorboard")),
    ],
)
def test_loggers(flags: list[str], loggers: tuple[str, ...] | None) -> None:
    parser = argparse.ArgumentParser()
    add_run_options(parser)
    assert run_options(parser.parse_args(flags))["loggers"] == loggers
