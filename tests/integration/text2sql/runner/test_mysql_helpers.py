"""The sandbox's helpers against a real MariaDB, where one is installed."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from services.text2sql.gate import AdmittedStatement
from services.text2sql.runner import ReadOnlyConnection, connect
from shared.sandbox.tables import helper_namespace
from tests.integration.text2sql.runner.conftest import Engine

INTEGERS = st.integers(min_value=-10_000, max_value=10_000)
TEXTS = st.text(alphabet="abcABC%_1", max_size=5)
HELP = helper_namespace("mysql")

examples = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def connection(mysql_engine: Engine) -> Iterator[ReadOnlyConnection]:
    with connect(mysql_engine.target) as opened:
        yield opened


def ask(connection: ReadOnlyConnection, expression: str) -> Any:
    sql = f"SELECT {expression}"
    return connection.run(AdmittedStatement(sql, sql, "mysql", 10)).rows[0][0]


def literal(value: Any) -> str:
    if value is None:
        return "NULL"
    return f"'{value}'" if isinstance(value, str) else str(value)


@examples
@given(a=st.none() | INTEGERS, b=st.none() | st.integers(min_value=-9, max_value=9))
def test_arithmetic(connection: ReadOnlyConnection, a: Any, b: Any) -> None:
    for helper, operator in (("sql_div", "/"), ("sql_mod", "%")):
        helped, said = HELP[helper](a, b), ask(connection, f"{literal(a)} {operator} {literal(b)}")
        # a quotient of integers is a decimal with four digits
        assert helped is None if said is None else math.isclose(helped, said, abs_tol=5e-5)


@examples
@given(
    value=st.decimals(min_value=-999, max_value=999, places=3), digits=st.integers(min_value=0, max_value=2)
)
def test_rounding(connection: ReadOnlyConnection, value: Any, digits: int) -> None:
    assert HELP["sql_round"](float(value), digits) == float(ask(connection, f"ROUND({value}, {digits})"))


@examples
@given(a=st.none() | TEXTS, b=st.none() | TEXTS)
@example(a="A", b="_")
@example(a="_", b="a")
def test_text(connection: ReadOnlyConnection, a: Any, b: Any) -> None:
    for operator, helped in (
        ("LIKE", HELP["sql_like"](a, b)),
        ("=", HELP["sql_eq"](a, b)),
        ("<", HELP["sql_compare"](a, "<", b)),
    ):
        said = ask(connection, f"{literal(a)} {operator} {literal(b)}")
        assert helped is (None if said is None else bool(said)), operator


@examples
@given(a=st.sampled_from(["1", "01", "2.5", "abc", "", "-3", "12abc", " 7"]), b=INTEGERS)
def test_text_meets_number(connection: ReadOnlyConnection, a: str, b: int) -> None:
    assert HELP["sql_eq"](a, b) is bool(ask(connection, f"{literal(a)} = {b}"))
    assert HELP["sql_compare"](a, "<", b) is bool(ask(connection, f"{literal(a)} < {b}"))
