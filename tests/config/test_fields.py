"""Typed fields with limits, and the reader that fills them."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.config import check, option, read
from autoprune.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = option(1, low=1, advice="One is the least.")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    whole: int = option(3, low=1, high=9)
    ratio: float = option(0.5, above=0, high=1, advice="Give a fraction, not a percentage.")
    half_open: float = option(0.0, low=0, below=1)
    rate: float = option(1.0, above=0)
    most: float = option(0.0, high=5)
    kind: str = option("sgd", choices=("sgd", "adam"))
    flag: bool = option(False)
    maybe: float | None = option(None, low=0)
    several: tuple[float, ...] = option((1.0,))
    mixed: tuple[float | str | bool, ...] | None = option(None)
    table: Mapping[str, float] = option({"a": 1.0})
    inner: Inner = Inner()
    inners: Mapping[str, Inner] = option({})

    def __post_init__(self) -> None:
        check(self)


def outer(**values: Any) -> Outer:
    return read(Outer, {"name": "x", **values}, where="study.toml: [outer]")


def refused(told: str, **values: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(told)}$"):
        outer(**values)


def test_defaults_fill_what_is_not_given() -> None:
    found = outer()
    assert (found.whole, found.ratio, found.kind, found.flag, found.maybe) == (3, 0.5, "sgd", False, None)
    assert found.several == (1.0,)
    assert found.inner == Inner(size=1)


def test_containers_of_a_default_are_copies() -> None:
    first, second = outer(), outer()
    assert first.table == second.table == {"a": 1.0}
    assert first.table is not second.table


def test_values_of_every_type_are_taken_over() -> None:
    found = outer(
        whole=9, ratio=1, flag=True, maybe=2, several=[1, 2.5], mixed=[1, "a", True], table={"b": 2},
        inner={"size": 4}, inners={"one": {"size": 2}},
    )  # fmt: skip
    assert (found.whole, found.ratio, found.flag, found.maybe) == (9, 1.0, True, 2.0)
    assert isinstance(found.ratio, float)
    assert found.several == (1.0, 2.5)
    assert found.mixed == (1.0, "a", True)
    assert found.mixed[2] is True
    assert found.table == {"b": 2.0}
    assert (found.inner, found.inners) == (Inner(size=4), {"one": Inner(size=2)})


def test_an_instance_is_taken_as_it_is() -> None:
    inner = Inner(size=7)
    assert outer(inner=inner).inner is inner


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"whole": 0}, "`whole` must be in [1, 9], but got whole=0."),
        ({"whole": 10}, "`whole` must be in [1, 9], but got whole=10."),
        ({"ratio": 0}, "`ratio` must be in (0, 1], but got ratio=0.0. Give a fraction, not a percentage."),
        ({"ratio": 1.4}, "`ratio` must be in (0, 1], but got ratio=1.4. Give a fraction, not a percentage."),
        ({"half_open": 1.0}, "`half_open` must be in [0, 1), but got half_open=1.0."),
        ({"half_open": -0.1}, "`half_open` must be in [0, 1), but got half_open=-0.1."),
        ({"rate": 0.0}, "`rate` must be greater than 0, but got rate=0.0."),
        ({"rate": float("inf")}, "`rate` must be greater than 0, but got rate=inf."),
        ({"rate": float("nan")}, "`rate` must be greater than 0, but got rate=nan."),
        ({"most": 6}, "`most` must be in (-inf, 5], but got most=6.0."),
        ({"maybe": -1}, "`maybe` must be at least 0, but got maybe=-1.0."),
        ({"whole": 10**400}, f"`whole` must be in [1, 9], but got whole={10**400}."),
        ({"kind": "adan"}, "`kind`: there is no choice 'adan'; did you mean 'adam'? Valid: adam, sgd."),
    ],
)
def test_values_out_of_range(values: dict[str, Any], told: str) -> None:
    refused(f"study.toml: [outer]: {told}", **values)


@pytest.mark.parametrize(
    "values",
    [{"whole": 1}, {"whole": 9}, {"ratio": 1.0}, {"half_open": 0.0}, {"most": 5.0}, {"maybe": 0.0}, {"ratio": 1e-300}],
)
def test_ends_of_a_range_belong_to_it_where_they_are_closed(values: dict[str, Any]) -> None:
    (key, value), = values.items()  # fmt: skip
    assert getattr(outer(**values), key) == value


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"whole": True}, "`whole` must be a whole number, but got True (true or false)."),
        ({"whole": 1.5}, "`whole` must be a whole number, but got 1.5 (a number)."),
        ({"whole": 2.0}, "`whole` must be a whole number, but got 2.0 (a number)."),
        ({"whole": "3"}, "`whole` must be a whole number, but got '3' (a text)."),
        ({"ratio": "half"}, "`ratio` must be a number, but got 'half' (a text)."),
        ({"ratio": True}, "`ratio` must be a number, but got True (true or false)."),
        ({"ratio": [0.5]}, "`ratio` must be a number, but got [0.5] (a list)."),
        ({"ratio": {"low": 1}}, "`ratio` must be a number, but got {'low': 1} (a table)."),
        ({"ratio": datetime.date(2020, 1, 2)}, "`ratio` must be a number, but got datetime.date(2020, 1, 2) (a date)."),
        ({"kind": 3}, "`kind` must be a text, but got 3 (a whole number)."),
        ({"ratio": 10**400}, f"`ratio` must be a number, but got 1{'0' * 59}... (a whole number)."),
        ({"flag": 1}, "`flag` must be true or false, but got 1 (a whole number)."),
        ({"flag": "yes"}, "`flag` must be true or false, but got 'yes' (a text)."),
        ({"maybe": "1"}, "`maybe` must be a number, but got '1' (a text)."),
        ({"several": 1.0}, "`several` must be a list, each entry a number, but got 1.0 (a number)."),
        ({"several": ["a"]}, "`several` must be a list, each entry a number, but got ['a'] (a list)."),
        ({"several": "abc"}, "`several` must be a list, each entry a number, but got 'abc' (a text)."),
        ({"table": 3}, "`table` must be a table, each entry a number, but got 3 (a whole number)."),
        ({"table": {"a": "b"}}, "`table` must be a table, each entry a number, but got {'a': 'b'} (a table)."),
        ({"inner": 3}, "`inner` must be a table, but got 3 (a whole number)."),
        ({"name": None}, "`name` must be a text, but got None (nothing)."),
        (
            {"mixed": [[]]},
            "`mixed` must be a list, each entry a number or a text or true or false, but got [[]] (a list).",
        ),
    ],
)
def test_values_of_another_type(values: dict[str, Any], told: str) -> None:
    refused(f"study.toml: [outer]: {told}", **values)


def test_a_long_value_is_shown_in_part() -> None:
    told = "study.toml: [outer]: `ratio` must be a number, but got '" + "a" * 59 + "... (a text)."
    refused(told, ratio="a" * 500)


def test_an_unknown_key_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"^study\.toml: \[outer\]: there is no key 'ratoi'; did you mean 'ratio'\? "):
        outer(ratoi=0.5)


def test_a_missing_key() -> None:
    with pytest.raises(
        ConfigError, match=r"^f\.toml: \[t\]: the key `name` must be given \(a text\), but is missing\.$"
    ):
        read(Outer, {}, where="f.toml: [t]")


def test_messages_name_the_inner_table() -> None:
    refused(
        "study.toml: [outer.inner]: `size` must be at least 1, but got size=0. One is the least.", inner={"size": 0}
    )
    refused(
        "study.toml: [outer.inners.one]: `size` must be a whole number, but got 'a' (a text).",
        inners={"one": {"size": "a"}},
    )
    with pytest.raises(ConfigError, match=r"^study\.toml \[inner\]: there is no key 'sise'; did you mean 'size'\?"):
        read(Outer, {"name": "x", "inner": {"sise": 1}}, where="study.toml")


def test_building_by_hand_checks_ranges_too() -> None:
    with pytest.raises(ConfigError, match=r"^`ratio` must be in \(0, 1\], but got ratio=1\.4\. Give a fraction"):
        Outer(name="x", ratio=1.4)


@given(
    whole=st.integers(1, 9),
    ratio=st.floats(0, 1, exclude_min=True),
    flag=st.booleans(),
    several=st.lists(st.floats(allow_nan=False)),
    table=st.dictionaries(st.text(), st.floats(allow_nan=False)),
)
def test_what_is_read_is_what_was_written(
    whole: int, ratio: float, flag: bool, several: list[float], table: dict[str, float]
) -> None:
    found = outer(whole=whole, ratio=ratio, flag=flag, several=several, table=table)
    assert (found.whole, found.ratio, found.flag) == (whole, ratio, flag)
    assert (list(found.several), found.table) == (several, table)


@given(value=st.one_of(st.none(), st.booleans(), st.text(), st.integers(), st.floats(), st.lists(st.integers())))
def test_any_value_is_taken_or_told_in_one_sentence(value: Any) -> None:
    for key in ("whole", "ratio", "flag", "kind", "several", "table", "inner", "mixed"):
        told = _told(key, value)
        assert told is None or told.startswith("study.toml: [outer]: ")
        assert told is None or f"`{key}`" in told


def _told(key: str, value: Any) -> str | None:
    try:
        outer(**{key: value})
    except ConfigError as error:
        return str(error)
    return None
