"""Honest programs: the contract of `solve`, the outcomes, both forms, both runners."""

import asyncio
import time
from datetime import date, datetime
from decimal import Decimal
from typing import ClassVar

import pytest

from shared.sandbox import Form, Limits, Sandbox, Snapshot, Table, row_digest

ROWS_PROGRAM = """
def solve(db):
    # Step 1: load the people
    people = db.table("people")
    # Step 2: average age per first letter
    groups = group(people, "age")
    # Step 3: sort and project
    rows = [[key[0], sql_count([r["name"] for r in members])] for key, members in groups]
    rows = sorted(rows, key=lambda row: sort_key(row[0]))
    return {"columns": ["age", "n"], "rows": rows, "ordered": True}
"""
FRAMES_PROGRAM = """
import pandas as pd

def solve(db):
    # Step 1: load
    people = db.table("people")
    # Step 2: group
    counts = people.groupby("age", dropna=False)["name"].count().reset_index()
    # Step 3: sort
    counts = counts.sort_values("age", na_position="first")
    return {"columns": ["age", "n"], "rows": counts, "ordered": True}
"""
EXPECTED = ((None, 1), (36, 2), (41, 0))


def program(body: str) -> str:
    lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
    return f"def solve(db):\n{lines}\n"


def returning(rows: str, columns: str = "['a']") -> str:
    return program(f"return {{'columns': {columns}, 'rows': {rows}, 'ordered': False}}")


class TestForms:
    def test_rows_run_in_monty(self, sandbox: Sandbox, people: Snapshot) -> None:
        outcome = sandbox.run(ROWS_PROGRAM, people)
        assert (outcome.status, outcome.rows, outcome.runner) == ("ok", EXPECTED, "monty")
        assert outcome.columns == ("age", "n")
        assert outcome.ordered
        assert outcome.row_count == 3
        assert outcome.digest == row_digest(EXPECTED)
        assert outcome.peak_mib > 1
        assert outcome.wall_ms > 0

    def test_frames_run_in_the_child(self, sandbox: Sandbox, people: Snapshot) -> None:
        outcome = sandbox.run(FRAMES_PROGRAM, people, form="frames")
        assert (outcome.status, outcome.rows, outcome.runner) == ("ok", EXPECTED, "cpython")
        assert outcome.cpu_ms > 0
        assert outcome.digest == row_digest(EXPECTED)

    def test_what_monty_lacks_runs_in_the_child(self, sandbox: Sandbox, people: Snapshot) -> None:
        text = program(
            "def names():\n    for row in db.table('people'):\n        yield [row['name']]\n"
            "return {'columns': ['a'], 'rows': list(names()), 'ordered': False}"
        )
        outcome = sandbox.run(text, people)
        assert (outcome.status, outcome.row_count, outcome.runner) == ("ok", 4, "cpython")

    @pytest.mark.parametrize(
        "module", ["statistics", "operator", "string", "heapq", "fractions", "math", "re"]
    )
    def test_offered_modules(self, sandbox: Sandbox, people: Snapshot, module: str) -> None:
        assert sandbox.run(f"import {module}\n" + returning("[[1]]"), people).status == "ok"

    def test_other_modules_are_an_error_that_names_the_offered(
        self, sandbox: Sandbox, people: Snapshot
    ) -> None:
        outcome = sandbox.run("import requests_of_mine\n" + returning("[[1]]"), people)
        assert outcome.status == "error"
        assert outcome.error is not None
        assert "math" in outcome.error.message
        assert outcome.error.line == 1


@pytest.mark.parametrize("form", ["rows", "frames"])
class TestOutcomes:
    def test_empty(self, sandbox: Sandbox, people: Snapshot, form: Form) -> None:
        outcome = sandbox.run(returning("[]"), people, form=form)
        assert (outcome.status, outcome.row_count, outcome.digest) == ("empty", 0, "0" * 32)

    def test_an_error_tells_type_message_line_and_step(
        self, sandbox: Sandbox, people: Snapshot, form: Form
    ) -> None:
        text = "def solve(db):\n    # Step 1: load\n    x = 1\n    # Step 2: divide\n    return x / 0\n"
        error = sandbox.run(text, people, form=form).error
        assert error is not None
        assert (error.type, error.message, error.line, error.step) == (
            "ZeroDivisionError",
            "division by zero",
            5,
            2,
        )

    def test_a_syntax_error_has_its_line(self, sandbox: Sandbox, people: Snapshot, form: Form) -> None:
        outcome = sandbox.run("x = 1\ndef solve(db:\n    pass", people, form=form)
        assert outcome.status == "error"
        assert outcome.error is not None
        assert (outcome.error.type, outcome.error.line) == ("SyntaxError", 2)

    def test_no_solve(self, sandbox: Sandbox, people: Snapshot, form: Form) -> None:
        assert sandbox.run("x = 1", people, form=form).status == "contract"

    def test_an_unknown_table_names_the_closest(self, sandbox: Sandbox, people: Snapshot, form: Form) -> None:
        error = sandbox.run(program("return db.table('peple')"), people, form=form).error
        assert error is not None
        assert "people" in error.message
        assert error.line == 2

    def test_a_table_that_is_too_large_to_carry(self, sandbox: Sandbox, form: Form) -> None:
        data = Snapshot({"big": Table(("a",), oversized=True)})
        assert sandbox.run(program("return db.table('big')"), data, form=form).status == "too_big"

    def test_a_table_over_the_row_cap_unless_narrowed(self, sandbox: Sandbox, form: Form) -> None:
        data = Snapshot({"t": Table(("a",), [(i,) for i in range(100)])})
        limits = Limits(table_rows=50)
        assert sandbox.run(program("return db.table('t')"), data, limits, form=form).status == "too_big"
        narrowed = program("return {'columns': ['n'], 'rows': [[len(db.table('t', where=[('a', '<', 9)]))]]}")
        assert sandbox.run(narrowed, data, limits, form=form).rows == ((9,),)

    def test_many_rows_are_cut_with_count_and_digest_of_all(
        self, sandbox: Sandbox, people: Snapshot, form: Form
    ) -> None:
        outcome = sandbox.run(
            returning("[[i] for i in range(2500)]"), people, Limits(result_rows=100), form=form
        )
        assert (outcome.status, len(outcome.rows), outcome.row_count) == ("ok", 100, 2_500)
        assert outcome.truncated
        assert outcome.digest == row_digest([(i,) for i in range(2_500)])

    def test_many_bytes_are_cut_too(self, sandbox: Sandbox, people: Snapshot, form: Form) -> None:
        outcome = sandbox.run(
            returning("[['x' * 1000]] * 100"), people, Limits(result_bytes=10_000), form=form
        )
        assert (outcome.status, len(outcome.rows), outcome.row_count) == ("ok", 9, 100)

    def test_cells_are_canonical(self, sandbox: Sandbox, people: Snapshot, form: Form) -> None:
        text = "from decimal import Decimal\nimport datetime\n" + returning(
            "[[None, True, 2, 2.5, 'x', float('nan'), Decimal('1.50'), datetime.date(2024, 2, 29),"
            " datetime.datetime(2024, 2, 29, 1, 2, 3), b'\\x00\\xff']]",
            "list('abcdefghij')",
        )
        row = (None, True, 2, 2.5, "x", None, 1.5, "2024-02-29", "2024-02-29 01:02:03", "00ff")
        assert sandbox.run(text, people, form=form).rows == (row,)

    def test_rows_may_be_dicts(self, sandbox: Sandbox, people: Snapshot, form: Form) -> None:
        text = returning("[{'b': 2, 'a': 1}]", "['a', 'b']")
        assert sandbox.run(text, people, form=form).rows == ((1, 2),)

    def test_ties_are_passed_on(self, sandbox: Sandbox, people: Snapshot, form: Form) -> None:
        text = program("return {'columns': ['a'], 'rows': [[1]], 'ordered': True, 'ties': [[1], [2]]}")
        assert sandbox.run(text, people, form=form).ties == ((1,), (2,))

    def test_today_is_the_snapshots(self, sandbox: Sandbox, people: Snapshot, form: Form) -> None:
        assert sandbox.run(returning("[[db.today]]"), people, form=form).rows == (("2024-02-29",),)

    @pytest.mark.parametrize("call", ["datetime.date.today()", "datetime.datetime.now()"])
    def test_there_is_no_clock(self, sandbox: Sandbox, people: Snapshot, form: Form, call: str) -> None:
        outcome = sandbox.run("import datetime\n" + returning(f"[[{call}]]"), people, form=form)
        assert outcome.status == "error"
        assert "db.today" in (outcome.error.message if outcome.error else "")

    def test_dates_can_be_read_and_compared(self, sandbox: Sandbox, people: Snapshot, form: Form) -> None:
        text = "from datetime import date, datetime, timedelta\n" + returning(
            "[[(date.fromisoformat(db.today) - timedelta(days=1)).isoformat(),"
            " datetime.strptime('2024-01-02 03:04', '%Y-%m-%d %H:%M').hour,"
            " date(2024, 1, 2) < date(2024, 1, 3),"
            " isinstance(datetime(2024, 1, 1).date(), date)]]",
            "list('abcd')",
        )
        assert sandbox.run(text, people, form=form).rows == (("2024-02-28", 3, True, True),)

    def test_printing_is_swallowed(self, sandbox: Sandbox, people: Snapshot, form: Form) -> None:
        assert sandbox.run("print('x' * 100000)\n" + returning("[[1]]"), people, form=form).status == "ok"

    def test_randomness_is_noticed_when_asked(self, sandbox: Sandbox, form: Form, people: Snapshot) -> None:
        source = "random.random()" if form == "rows" else "float(np.random.rand())"
        text = ("import random\n" if form == "rows" else "") + returning(f"[[{source}]]")
        assert sandbox.run(text, people, Limits(runs=2), form=form).status == "nondeterministic"
        assert sandbox.run(returning("[[1]]"), people, Limits(runs=2), form=form).status == "ok"

    def test_a_long_program_is_refused(self, sandbox: Sandbox, people: Snapshot, form: Form) -> None:
        assert sandbox.run("#" * 100_000, people, form=form).status == "contract"

    def test_lone_surrogates_do_no_harm(self, sandbox: Sandbox, people: Snapshot, form: Form) -> None:
        assert sandbox.run("# \ud800\n" + returning("[[1]]"), people, form=form).status == "ok"
        outcome = sandbox.run(returning("[[chr(0xd800)]]"), people, form=form)
        assert outcome.status in ("contract", "error", "ok")


class TestTables:
    WHERE: ClassVar[list[tuple[str, list[int]]]] = [
        ("('age', '=', 36)", [1, 4]),
        ("('age', '<>', 36)", [3]),
        ("('age', '>', 30), ('score', '<', 2)", [1, 4]),
        ("('name', 'like', 'a%')", [1, 4]),
        ("('name', 'not like', 'a%')", [2]),
        ("('name', 'in', ['Ada', 'Bob'])", [1, 2]),
        ("('age', 'is_null', None)", [2]),
        ("('age', 'is not null')", [1, 3, 4]),
        ("('age', '=', None)", []),
        ("('AGE', '=', '36')", [1, 4]),
    ]

    @pytest.mark.parametrize("form", ["rows", "frames"])
    @pytest.mark.parametrize(("where", "ids"), WHERE)
    def test_where(self, sandbox: Sandbox, people: Snapshot, form: Form, where: str, ids: list[int]) -> None:
        select = "r['id'] for r in t" if form == "rows" else "int(i) for i in t['id']"
        text = program(
            f"t = db.table('People', ['id'], [{where}])\n"
            f"return {{'columns': ['id'], 'rows': [[x] for x in [{select}]]}}"
        )
        outcome = sandbox.run(text, people, form=form)
        assert [row[0] for row in outcome.rows] == ids, outcome

    @pytest.mark.parametrize(
        "where",
        ["[('age', '~', 1)]", "'age = 1'", "[('age',)]", "[('age', 'in', 1)]", "[('age', '=', [1])]", "[5]"],
    )
    def test_a_condition_without_sense_is_an_error(
        self, sandbox: Sandbox, people: Snapshot, where: str
    ) -> None:
        outcome = sandbox.run(program(f"return db.table('people', None, {where})"), people)
        assert outcome.status == "error"
        assert outcome.error is not None
        assert outcome.error.type == "ValueError"

    def test_dtypes_of_frames_keep_integers_and_nulls(self, sandbox: Sandbox) -> None:
        rows = [(1, 1.5, True, "x", 2**60), (None, None, None, None, None), (3, 2, False, "y", 1)]
        data = Snapshot({"t": Table(("i", "f", "b", "s", "big"), rows)})
        text = program(
            "t = db.table('t')\nreturn {'columns': ['c', 'd'], 'rows': "
            "[[c, str(t[c].dtype)] for c in t.columns] + [[str(int(t['big'].max())), '']]}"
        )
        assert sandbox.run(text, data, form="frames").rows == (
            *(("i", "Int64"), ("f", "Float64"), ("b", "boolean"), ("s", "string"), ("big", "Int64")),
            (str(2**60), ""),
        )

    def test_values_of_the_database_become_plain(self, sandbox: Sandbox) -> None:
        row = (Decimal("4.00"), date(2024, 1, 2), datetime(2024, 1, 2, 3, 4, 5), b"\x01", float("nan"))
        data = Snapshot({"t": Table(("d", "day", "at", "raw", "nan"), [row])})
        text = program("r = db.table('t')[0]\nreturn {'columns': list(r), 'rows': [list(r.values())]}")
        assert sandbox.run(text, data).rows == ((4.0, "2024-01-02", "2024-01-02 03:04:05", "01", None),)

    def test_a_snapshot_is_checked(self, sandbox: Sandbox) -> None:
        with pytest.raises(TypeError, match="plain"):
            sandbox.run(returning("[[1]]"), Snapshot({"t": Table(("a",), [([1],)])}))
        with pytest.raises(ValueError, match="cells"):
            sandbox.run(returning("[[1]]"), Snapshot({"t": Table(("a",), [(1, 2)])}))
        with pytest.raises(ValueError, match="repeat"):
            Table(("a", "a"))


async def test_programs_run_side_by_side_without_blocking_the_loop(
    sandbox: Sandbox, people: Snapshot
) -> None:
    """Two workers: four half-second loops take two rounds, and the loop goes on meanwhile."""
    loop = program("while True:\n    pass")
    limits = Limits(cpu_seconds=0.5, wall_seconds=5)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.02)
            ticks += 1

    ticker = asyncio.create_task(tick())
    started = time.monotonic()
    outcomes = await asyncio.gather(*(sandbox.run_async(loop, people, limits) for _ in range(4)))
    ticker.cancel()
    assert [outcome.status for outcome in outcomes] == ["timeout"] * 4
    assert time.monotonic() - started > 0.9
    assert ticks > 10


def test_digest_ignores_order_and_tiny_differences() -> None:
    rows = [(1, "a", None), (2.0000001, "b", True)]
    assert row_digest(rows) == row_digest([(2, "b", 1), (1.0, "a", None)])
    assert row_digest(rows) != row_digest(rows[:1])
    assert row_digest([("1",)]) != row_digest([(1,)])
    assert row_digest([(None,)]) != row_digest([("",)])
    assert row_digest([(0,)]) == row_digest([(-0.0,)])
    assert row_digest([(10**400,)]) != row_digest([(10**401,)])
    assert row_digest([(1,), (1,)]) != row_digest([(1,)])


def test_the_pipeline_digests_rows_as_the_sandbox_does() -> None:
    """A program's result that was cut is compared with SQL rows by digest, made in two packages."""
    from services.text2sql.pisql.results import rows_digest

    rows = [(1, "a", None, 2.5), (0, "", None, -0.0), (10**30, "ü\ud83d", 1, 1e-9), (-7, "x y", 0, 123456.75)]
    assert rows_digest(rows) == row_digest(rows)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_programs_leave_memory_flat(people: Snapshot) -> None:
    """Resident memory of this process and its helpers after 200 and after 1,200 programs."""
    import psutil

    def resident() -> float:
        me = psutil.Process()
        return sum(p.memory_info().rss for p in (me, *me.children(recursive=True)) if p.is_running()) / 2**20

    bad = "def solve(db):\n    return [0] * 10 ** 6 + 1"
    with Sandbox() as sandbox:

        def run(number: int) -> None:
            text, form = ((ROWS_PROGRAM, "rows"), (FRAMES_PROGRAM, "frames"), (bad, "rows"))[number % 3]
            sandbox.run(text, Snapshot(people.tables), form=form)  # type: ignore[arg-type]

        for number in range(200):
            run(number)
        time.sleep(1)
        before = resident()
        for number in range(1_000):
            run(number)
        time.sleep(1)
        after = resident()
    assert after < before + 30, f"{before:.0f} MiB, then {after:.0f} MiB"
