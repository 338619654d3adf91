"""The helpers against the engines whose rules they claim: SQLite, DuckDB and PostgreSQL."""

import math
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import psycopg
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from shared.sandbox import HELPER_NAMES, Sandbox, Snapshot
from shared.sandbox.tables import helper_namespace

INTEGERS = st.integers(min_value=-(10**9), max_value=10**9)
FLOATS = st.floats(min_value=-1e9, max_value=1e9, allow_nan=False).map(lambda x: round(x, 4))
TEXTS = st.text(alphabet="abcABC%_x1 é", max_size=6)
NUMBERS = INTEGERS | FLOATS
ZERO_ERRORS = (ZeroDivisionError, psycopg.errors.DivisionByZero, duckdb.InvalidInputException)


@dataclass(frozen=True)
class Engine:
    """A way to ask an engine, and the helpers of its dialect."""

    dialect: str
    ask: Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]
    types: dict[type, str]

    def value(self, expression: str, *values: Any, kind: type = int) -> Any:
        """One value; each `?` gets a typed column of its own, as in a table."""
        names = [f"v{i}" for i in range(len(values))]
        kinds = [type(value) for value in values if value is not None] or [kind]
        columns = ", ".join(
            f"CAST(NULL AS {self.types[kinds[0]]}) AS {name}"
            if value is None
            else f"CAST(? AS {self.types[type(value)]}) AS {name}"
            for name, value in zip(names, values, strict=True)
        )
        sql = f"SELECT {expression.format(*names)} FROM (SELECT {columns}) AS t"
        return self.ask(sql, [value for value in values if value is not None])[0][0]

    def column(self, expression: str, values: Sequence[Any], kind: type) -> list[Any]:
        """Rows of a query over a one-column table t(v) of the values."""
        if not values:
            table = f"(SELECT CAST(NULL AS {self.types[kind]}) AS v WHERE 1 = 0) AS t"
            return [row[0] for row in self.ask(expression.format(table), [])]
        rows = " UNION ALL ".join([f"SELECT CAST(? AS {self.types[kind]}) AS v"] * len(values))
        return [row[0] for row in self.ask(expression.format(f"({rows}) AS t"), list(values))]

    def helper(self, name: str) -> Any:
        return helper_namespace(self.dialect)[name]


@pytest.fixture(scope="module")
def sqlite_engine() -> Iterator[Engine]:
    connection = sqlite3.connect(":memory:")
    types = {int: "INTEGER", float: "REAL", str: "TEXT"}
    yield Engine("sqlite", lambda sql, values: connection.execute(sql, values).fetchall(), types)
    connection.close()


@pytest.fixture(scope="module")
def duckdb_engine() -> Iterator[Engine]:
    connection = duckdb.connect(":memory:")
    types = {int: "BIGINT", float: "DOUBLE", str: "VARCHAR"}
    yield Engine("duckdb", lambda sql, values: connection.execute(sql, list(values)).fetchall(), types)
    connection.close()


@pytest.fixture(scope="module")
def postgres_engine(postgres_server: str) -> Iterator[Engine]:
    with psycopg.connect(postgres_server, autocommit=True) as owner:
        owner.execute("CREATE DATABASE collated_c TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    with psycopg.connect(
        postgres_server.replace("/postgres?", "/collated_c?"), autocommit=True
    ) as connection:

        def ask(sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
            escaped = sql.replace("%", "%%").replace("?", "%s")
            return connection.execute(escaped, values).fetchall()

        # a float of a snapshot was a numeric column more often than a double: rounding needs numeric
        yield Engine("postgres", ask, {int: "bigint", float: "numeric", str: "text"})
    with psycopg.connect(postgres_server, autocommit=True) as owner:
        owner.execute("DROP DATABASE collated_c WITH (FORCE)")


@pytest.fixture(scope="module", params=["sqlite", "duckdb", "postgres"])
def engine(request: pytest.FixtureRequest) -> Engine:
    found: Engine = request.getfixturevalue(f"{request.param}_engine")
    return found


examples = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def same(helped: Any, engine_says: Any, tolerance: float = 1e-9) -> bool:
    """Equality as the verifier has it; an engine's infinity for x / 0.0 is the helper's error."""
    if helped is None or engine_says is None:
        return helped is engine_says
    if isinstance(helped, str) or isinstance(engine_says, str):
        return bool(helped == engine_says)
    return math.isclose(float(helped), float(engine_says), rel_tol=tolerance, abs_tol=1e-9)


def outcome(compute: Callable[[], Any]) -> Any:
    """The value, or "zero" where the engine or the helper refuses to divide by zero."""
    try:
        value = compute()
    except ZERO_ERRORS:
        return "zero"
    undefined = isinstance(value, float) and not math.isfinite(value)
    return "zero" if undefined else value


@examples
@given(a=st.none() | NUMBERS, b=st.none() | NUMBERS | st.just(0) | st.just(0.0))
def test_division(engine: Engine, a: Any, b: Any) -> None:
    helped = outcome(lambda: engine.helper("sql_div")(a, b))
    assert same(helped, outcome(lambda: engine.value("{} / {}", a, b)))


@examples
@given(a=st.none() | INTEGERS, b=st.none() | st.integers(min_value=-50, max_value=50))
def test_remainder_of_integers(engine: Engine, a: Any, b: Any) -> None:
    helped = outcome(lambda: engine.helper("sql_mod")(a, b))
    assert same(helped, outcome(lambda: engine.value("{} % {}", a, b)))


@examples
@given(
    a=FLOATS,
    b=st.integers(min_value=1, max_value=50)
    | st.floats(min_value=0.25, max_value=50).map(lambda x: round(x, 2)),
)
def test_remainder_of_fractions(engine: Engine, a: float, b: Any) -> None:
    helped = engine.helper("sql_mod")(a, b)
    said = engine.value("{} % {}", a, b)
    # at a multiple of b the last digit decides between 0 and b
    assert same(helped, said, 1e-6) or same(abs(float(helped) - float(said)), float(b), 1e-6)


@examples
@given(value=st.none() | NUMBERS, digits=st.integers(min_value=0, max_value=4))
def test_rounding(engine: Engine, value: Any, digits: int) -> None:
    assert same(engine.helper("sql_round")(value, digits), engine.value(f"ROUND({{}}, {digits})", value))


@pytest.mark.parametrize(
    ("value", "digits"),
    [(2.5, 0), (-2.5, 0), (0.125, 2), (2.675, 2), (1.005, 2), (0.5, 0), (1234.5, 0), (7, 2)],
)
def test_rounding_at_the_half(engine: Engine, value: Any, digits: int) -> None:
    assert same(engine.helper("sql_round")(value, digits), engine.value(f"ROUND({{}}, {digits})", value))


def test_the_documented_differences() -> None:
    """The values measured in Pi-SQL section 4."""
    help_ = helper_namespace("sqlite")
    assert (help_["sql_div"](1, 2), help_["sql_div"](-7, 2), help_["sql_mod"](-7, 3)) == (0, -3, -1)
    assert (help_["sql_round"](2.5), help_["sql_round"](0.125, 2)) == (3.0, 0.13)
    assert (help_["sql_sum"]([]), help_["sql_avg"]([None])) == (None, None)
    assert help_["sql_like"]("ABC", "a%")


@examples
@given(values=st.lists(st.none() | INTEGERS, max_size=8))
def test_aggregates_of_integers(engine: Engine, values: list[Any]) -> None:
    for helper, sql in (
        ("sql_sum", "SUM(v)"),
        ("sql_avg", "AVG(v)"),
        ("sql_count", "COUNT(v)"),
        ("sql_min", "MIN(v)"),
        ("sql_max", "MAX(v)"),
    ):
        assert same(
            engine.helper(helper)(values), engine.column(f"SELECT {sql} FROM {{}}", values, int)[0]
        ), sql
    distinct = engine.column("SELECT COUNT(DISTINCT v) FROM {}", values, int)[0]
    assert engine.helper("sql_count")(values, distinct=True) == distinct


@examples
@given(values=st.lists(st.none() | TEXTS, max_size=8))
def test_text_sorts_and_counts_as_in_the_engine(engine: Engine, values: list[Any]) -> None:
    key = engine.helper("sort_key")
    for direction in ("ASC", "DESC"):
        said = engine.column(f"SELECT v FROM {{}} ORDER BY v {direction}", values, str)
        assert sorted(values, key=lambda v: key(v, None, direction == "DESC")) == said
        sort_rows = engine.helper("sort_rows")
        assert [row["v"] for row in sort_rows([{"v": v} for v in values], ("v", direction.lower()))] == said
    assert engine.helper("sql_min")(values) == engine.column("SELECT MIN(v) FROM {}", values, str)[0]
    distinct = engine.column("SELECT DISTINCT v FROM {}", values, str)
    helped = engine.helper("distinct")([[v] for v in values])
    assert sorted(map(repr, distinct)) == sorted(repr(row[0]) for row in helped)


@examples
@given(values=st.lists(st.none() | INTEGERS, max_size=8), nulls=st.sampled_from(["first", "last"]))
def test_nulls_can_be_placed(engine: Engine, values: list[Any], nulls: str) -> None:
    key = engine.helper("sort_key")
    said = engine.column(f"SELECT v FROM {{}} ORDER BY v DESC NULLS {nulls.upper()}", values, int)
    assert sorted(values, key=lambda v: key(v, nulls, True)) == said


@examples
@given(value=st.none() | TEXTS, pattern=st.none() | st.text(alphabet="abcABC%_x1", max_size=5))
def test_like(engine: Engine, value: Any, pattern: Any) -> None:
    said = engine.value("{} LIKE {}", value, pattern, kind=str)
    assert engine.helper("sql_like")(value, pattern) is (None if said is None else bool(said))


PIECES = st.lists(st.sampled_from(["a", "b", "%", "_", "!%", "!_", "!!"]), max_size=5)


@examples
@given(value=TEXTS | st.text(alphabet="ab%_!", max_size=4), pieces=PIECES)
def test_like_with_escape(engine: Engine, value: str, pieces: list[str]) -> None:
    pattern = "".join(pieces)
    said = engine.value("{} LIKE {} ESCAPE '!'", value, pattern)
    assert engine.helper("sql_like")(value, pattern, "!") is bool(said)


@examples
@given(
    a=st.none() | INTEGERS | TEXTS,
    b=st.none() | INTEGERS | TEXTS,
    operator=st.sampled_from(["=", "<>", "<", ">="]),
)
def test_comparison_of_like_with_like(engine: Engine, a: Any, b: Any, operator: str) -> None:
    assume(a is None or b is None or type(a) is type(b))
    said = engine.value(f"{{}} {operator} {{}}", a, b)
    helped = engine.helper("sql_compare")(a, operator, b)
    assert helped is (None if said is None else bool(said))
    if operator == "=":
        assert engine.helper("sql_eq")(a, b) is helped


@examples
@given(number=NUMBERS, text=st.sampled_from(["1", "01", "2.5", "abc", "", "-3", "1e3", "12abc", " 7"]))
def test_sqlite_compares_columns_by_affinity(sqlite_engine: Engine, number: Any, text: str) -> None:
    """An INTEGER or REAL column against a TEXT column."""
    kind = "INTEGER" if isinstance(number, int) else "REAL"
    sqlite_engine.ask("DROP TABLE IF EXISTS mixed", [])
    sqlite_engine.ask(f"CREATE TABLE mixed (n {kind}, t TEXT)", [])
    sqlite_engine.ask("INSERT INTO mixed VALUES (?, ?)", [number, text])
    for operator in ("=", "<", ">="):
        said = sqlite_engine.ask(f"SELECT n {operator} t FROM mixed", [])[0][0]
        assert sqlite_engine.helper("sql_compare")(number, operator, text) is bool(said)


CONDITIONS = st.none() | st.booleans()


@examples
@given(a=CONDITIONS, b=CONDITIONS)
def test_three_valued_logic(engine: Engine, a: Any, b: Any) -> None:
    def literal(value: Any) -> str:
        return "NULL" if value is None else "(1 = 1)" if value else "(1 = 0)"

    for helper, sql, values in (
        ("sql_and", f"{literal(a)} AND {literal(b)}", (a, b)),
        ("sql_or", f"{literal(a)} OR {literal(b)}", (a, b)),
        ("sql_not", f"NOT {literal(a)}", (a,)),
    ):
        said = engine.ask(f"SELECT {sql}", [])[0][0]
        assert engine.helper(helper)(*values) is (None if said is None else bool(said)), sql


@examples
@given(value=st.none() | INTEGERS, values=st.lists(st.none() | INTEGERS, min_size=1, max_size=4))
def test_in(engine: Engine, value: Any, values: list[Any]) -> None:
    listed = ", ".join("NULL" if v is None else str(v) for v in values)
    said = engine.ask(f"SELECT {'NULL' if value is None else value} IN ({listed})", [])[0][0]
    assert engine.helper("sql_in")(value, values) is (None if said is None else bool(said))


KEYS = st.lists(st.none() | st.integers(min_value=0, max_value=3), max_size=6)
JOINS = {"inner": "JOIN", "left": "LEFT JOIN", "right": "RIGHT JOIN", "full": "FULL JOIN"}


@settings(examples, max_examples=25)
@given(left=KEYS, right=KEYS, kind=st.sampled_from(sorted(JOINS)))
def test_joins(engine: Engine, left: list[Any], right: list[Any], kind: str) -> None:
    if engine.dialect == "sqlite" and sqlite3.sqlite_version_info < (3, 39):
        assume(kind in ("inner", "left"))
    assume(left and right)  # an empty list of dicts has no columns to fill with nulls

    def table(values: list[Any], tag: str) -> str:
        rows = [
            f"SELECT CAST({'NULL' if k is None else k} AS {engine.types[int]}) AS k, {i} AS {tag}"
            for i, k in enumerate(values)
        ]
        return f"({' UNION ALL '.join(rows)}) AS {tag}_"

    said = engine.ask(
        f"SELECT a_.k, a, b_.k, b FROM {table(left, 'a')} {JOINS[kind]} {table(right, 'b')} ON a_.k = b_.k",
        [],
    )
    rows = engine.helper("join")(
        [{"x": k, "a": i} for i, k in enumerate(left)],
        [{"y": k, "b": i} for i, k in enumerate(right)],
        [("x", "y")],
        kind,
    )
    assert sorted(map(repr, said)) == sorted(repr((r["x"], r["a"], r["y"], r["b"])) for r in rows)


@settings(examples, max_examples=25)
@given(keys=KEYS)
def test_groups(engine: Engine, keys: list[Any]) -> None:
    said = engine.column("SELECT COUNT(*) FROM {} GROUP BY v", keys, int)
    groups = engine.helper("group")([{"k": k} for k in keys], "k")
    assert sorted(said) == sorted(len(members) for _, members in groups)
    assert len({key for key, _ in groups}) == len(groups)


def test_joins_by_name_semi_anti_and_cross() -> None:
    join = helper_namespace("sqlite")["join"]
    left = [{"k": 1, "v": "a"}, {"k": None, "v": "b"}, {"k": 2, "v": "c"}]
    right = [{"k": 1, "v": "x"}, {"k": None, "v": "y"}]
    assert join(left, right, "k") == [{"k": 1, "v": "a", "v_right": "x"}]
    assert join(left, right, "k", "semi") == left[:1]
    assert join(left, right, "k", "anti") == left[1:]
    assert len(join(left, right, kind="cross")) == 6
    assert join(left, right, "k", "full")[-1] == {"k": None, "v": None, "v_right": "y"}
    with pytest.raises(ValueError, match="kind"):
        join(left, right, "k", "sideways")


def test_a_cut_tells_its_ties() -> None:
    cut = helper_namespace("sqlite")["cut"]
    rows = [{"n": 3}, {"n": 2}, {"n": 2}, {"n": 1}]
    assert cut(rows, 2, ("n", "desc")) == (rows[:2], rows[1:3])
    assert cut(rows, 3, ("n", "desc")) == (rows[:3], [])


class TestMySQL:
    """MySQL's rules as its manual has them; no server is needed to hold the helpers to them."""

    def test_rules(self) -> None:
        help_ = helper_namespace("mysql")
        assert help_["sql_div"](1, 2) == 0.5
        assert help_["sql_div"](1, 0) is None
        assert help_["sql_mod"](-7, 3) == -1
        assert help_["sql_eq"]("Abc", "aBC") is True
        assert help_["sql_eq"]("12abc", 12) is True
        assert help_["sql_like"]("ABC", "a\\bc") is True
        assert help_["sql_like"]("100%", "100\\%") is True
        assert help_["sql_round"](-2.5) == -3
        assert sorted([None, "b", "A"], key=help_["sort_key"]) == [None, "A", "b"]
        assert [len(m) for _, m in help_["group"]([{"a": "x"}, {"a": "X"}], "a")] == [2]


CALLS = (
    "[sql_div(-7, 2), sql_div(7, 0.5), sql_mod(-7, 3), sql_mod(5.5, 2), sql_round(2.675, 2)]",
    "[sql_sum([1, None, 2.5]), sql_avg([1, 2]), sql_count([1, 1, None], True), sql_min(['b', 'a'])]",
    "[sql_like('Abc', 'a_C'), sql_like('a%', 'a!%', '!'), sql_eq('1', 1), sql_in(1, [2, None])]",
    "[str(sort_key('b', None, True)), str(sort_rows([{'a': None}, {'a': 1}], ('a', 'desc')))]",
    "[str(group([{'a': 1}, {'a': None}, {'a': None}], 'a')), str(distinct([[1, None], [1, None]]))]",
    "[str(join([{'a': 1, 'b': 2}, {'a': 3, 'b': 4}], [{'a': 1, 'b': 5}], 'a', 'left'))]",
    "[str(cut([{'a': 1}] * 3, 1, 'a')), sql_compare(1, '<', 2), sql_max([1, 3]), sql_round(-0.5)]",
    "[sql_and(True, None), sql_or(None, True), sql_not(None), sql_sum(['12abc', '3']), sql_div('7', 2)]",
)


@pytest.mark.parametrize("dialect", ["sqlite", "postgres", "mysql", "duckdb"])
def test_both_runners_give_the_same(sandbox: Sandbox, dialect: Any) -> None:
    """One source: the answers in Monty, in the child and in this process are equal."""
    for call in CALLS:
        names = "['c%d' % i for i in range(len(row))]"
        text = f"def solve(db):\n    row = {call}\n    return {{'columns': {names}, 'rows': [row]}}\n"
        in_monty = sandbox.run(text, Snapshot({}), dialect=dialect)
        in_child = sandbox.run(f"{text}\ndef only_cpython():\n    yield 1\n", Snapshot({}), dialect=dialect)
        assert (in_monty.status, in_monty.rows) == (in_child.status, in_child.rows), call
        if in_monty.status == "ok":
            assert (in_monty.runner, in_child.runner) == ("monty", "cpython")
            assert in_monty.rows[0] == tuple(eval(call, helper_namespace(dialect)))


def test_every_helper_is_there() -> None:
    for dialect in ("sqlite", "postgres", "mysql", "duckdb"):
        assert set(HELPER_NAMES) <= set(helper_namespace(dialect))


class TestFrames:
    """The helpers over frames give what the rows form gives."""

    @pytest.mark.parametrize("kind", ["inner", "left", "right", "full", "semi", "anti", "cross"])
    def test_joins(self, sandbox: Sandbox, kind: str) -> None:
        from shared.sandbox import Table

        data = Snapshot(
            {
                "a": Table(("k", "v"), [(1, "a"), (None, "b"), (2, "c"), (1, "d")]),
                "b": Table(("k", "w"), [(1, 1.5), (None, 2.5), (3, 3.5)]),
            }
        )
        on = "()" if kind == "cross" else "'k'"
        text = f"def solve(db):\n    j = join(db.table('a'), db.table('b'), {on}, {kind!r})\n"
        rows_end = (
            "    names = list(j[0])\n    return {'columns': names, 'rows': [list(r.values()) for r in j]}\n"
        )
        frames_end = "    return {'columns': list(j.columns), 'rows': j}\n"
        rows = sandbox.run(text + rows_end, data)
        frames = sandbox.run(text + frames_end, data, form="frames")
        assert rows.status == frames.status == "ok", (rows, frames)
        assert rows.columns == frames.columns
        assert rows.digest == frames.digest, (rows.rows, frames.rows)

    def test_groups_and_aggregates(self, sandbox: Sandbox, people: Snapshot) -> None:
        text = (
            "def solve(db):\n    out = []\n    for key, members in group(db.table('people'), 'age'):\n"
            "        out.append([key[0], sql_count(members['name']), sql_sum(members['score'])])\n"
            "    return {'columns': ['age', 'n', 'total'], 'rows': out, 'ordered': False}\n"
        )
        outcome = sandbox.run(text, people, form="frames")
        assert outcome.rows == ((36, 2, 1.0), (None, 1, 2.5), (41, 0, None))
