"""The runners read, and behind the gate each engine's own read-only mode holds alone."""

import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.text2sql.gate import AdmittedStatement, admit
from services.text2sql.runner import DatabaseTarget, QueryError, connect, load_table, run
from tests.integration.text2sql.runner.conftest import CANARY, SECRET, Engine
from tests.unit.text2sql.gate.corpus import hostile

ENDLESS = {
    "sqlite": "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT COUNT(*) FROM r",
    "postgres": "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT COUNT(*) FROM r",
    "mysql": "SELECT COUNT(*) FROM people " + " ".join(f"CROSS JOIN people AS p{i}" for i in range(26)),
    "duckdb": "SELECT COUNT(*) FROM range(100000000) a, range(100000000) b WHERE a.range + b.range = -1",
}


def bypass(sql: str, dialect: str) -> AdmittedStatement:
    """A statement the gate never saw."""
    return AdmittedStatement(sql, sql, dialect, row_cap=100, tables=frozenset({"people"}))


def test_reads(engine: Engine) -> None:
    admitted = admit(
        "SELECT id, name FROM people WHERE city IS NOT NULL ORDER BY id", engine.dialect, ["people"]
    )
    result = run(admitted, engine.target)
    assert result.columns == ("id", "name")
    assert result.rows == [(1, "Ada"), (2, "Bob")]
    assert not result.truncated
    assert 0 < result.seconds < 5


def test_tells_a_cut(engine: Engine) -> None:
    with connect(engine.target) as connection:
        cut = connection.run(
            admit("SELECT id FROM people ORDER BY id", engine.dialect, ["people"], row_cap=2)
        )
        whole = connection.run(
            admit("SELECT id FROM people ORDER BY id", engine.dialect, ["people"], row_cap=3)
        )
    assert (cut.rows, cut.truncated) == ([(1,), (2,)], True)
    assert (len(whole.rows), whole.truncated) == (3, False)


def test_a_connection_survives_errors(engine: Engine) -> None:
    good = admit("SELECT COUNT(*) FROM people", engine.dialect, ["people"])
    bad = admit("SELECT nothing FROM people", engine.dialect, ["people"])
    with connect(engine.target) as connection:
        for _ in range(3):
            assert connection.run(good).rows == [(3,)]
            with pytest.raises(QueryError) as error:
                connection.run(bad)
            assert error.value.code == "sql_error"
            assert "nothing" in error.value.message


def test_an_endless_query_ends_at_the_deadline(engine: Engine) -> None:
    admitted = admit(ENDLESS[engine.dialect], engine.dialect, ["people"])
    with connect(engine.target) as connection:
        start = time.monotonic()
        with pytest.raises(QueryError) as error:
            connection.run(admitted, timeout_s=0.5)
        assert error.value.code == "sql_timeout"
        assert 0.4 < time.monotonic() - start < 15
        assert connection.run(admit("SELECT 1", engine.dialect)).rows == [(1,)]


def test_a_heavy_result_is_refused(engine: Engine) -> None:
    wide = "x" * 9_000
    cross = " CROSS JOIN ".join(f"people AS p{i}" for i in range(9))
    admitted = admit(f"SELECT CONCAT('{wide}', p0.name) FROM {cross}", engine.dialect, row_cap=20_000)
    if engine.dialect == "sqlite":
        admitted = admit(f"SELECT '{wide}' || p0.name FROM {cross}", "sqlite", row_cap=20_000)
    with connect(engine.target) as connection, pytest.raises(QueryError) as error:
        connection.run(admitted)
    assert error.value.code == "result_too_large"


def test_the_plan_has_a_cost_on_servers(engine: Engine) -> None:
    with connect(engine.target) as connection:
        cost = connection.plan_cost(admit("SELECT * FROM people", engine.dialect))
    assert cost is None or cost > 0
    if engine.dialect != "mysql":  # MySQL tells one, MariaDB before 11 does not
        assert (cost is not None) == (engine.dialect == "postgres")


def test_loads_tables_for_a_snapshot(engine: Engine) -> None:
    whole = load_table(engine.target, "people")
    assert (whole.columns, len(whole.rows)) == (("id", "name", "city"), 3)
    where = [("id", ">=", 2), ("name", "like", "%o%"), ("city", "is_null", None)]
    assert load_table(engine.target, "people", ["name"], where).rows == [("Cleo",)]
    assert load_table(engine.target, "people", ["id"], [("name", "in", ["Ada", "O'Hara"])]).rows == [(1,)]
    too_long = load_table(engine.target, "people", max_rows=2)
    too_wide = load_table(engine.target, "people", max_bytes=10)
    assert too_long.oversized
    assert too_wide.oversized
    assert not too_long.rows


def test_the_password_never_shows(engine: Engine) -> None:
    target = DatabaseTarget(engine.dialect, engine.target.url + "#hunter2")
    assert "hunter2" not in repr(target)
    other = admit("SELECT 1", "sqlite" if engine.dialect != "sqlite" else "duckdb")
    with pytest.raises(ValueError, match="cannot run"):
        run(other, engine.target)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\x00"), max_size=30))
def test_a_string_arrives_as_it_was_written(engine: Engine, text: str) -> None:
    """Nothing breaks out of a literal: quotes, backslashes and comment marks are only text."""
    literal = text.replace("'", "''")
    if engine.dialect == "mysql":
        literal = literal.replace("\\", "\\\\")
    result = run(admit(f"SELECT '{literal}' AS a", engine.dialect), engine.target)
    assert result.rows == [(text,)]


def test_the_corpus_does_nothing_even_without_the_gate(engine: Engine, tmp_path: Path) -> None:
    """Every hostile statement goes to the engine itself; nothing changes, nothing leaks out."""
    tmp_path.chmod(0o777)
    canary = tmp_path / "canary"
    canary.write_text(f"a,b,c\n1,{CANARY},2\n")
    canary.chmod(0o644)
    before = engine.state()
    told, refused = [], 0
    with connect(engine.target) as connection:
        for case in hostile(str(tmp_path), str(canary)):
            if case.dialect != engine.dialect:
                continue
            if engine.dialect == "duckdb" and case.reason == "a gigabyte in a cell":
                continue  # DuckDB looks at its deadline between vectors; only the gate stops these
            try:
                result = connection.run(bypass(case.sql, engine.dialect), timeout_s=0.5)
            except QueryError:
                refused += 1
                continue
            shown = repr(result.rows)
            if CANARY in shown or (SECRET in shown and engine.hides_secret):
                told.append(case.sql)
        assert connection.run(admit("SELECT COUNT(*) FROM people", engine.dialect)).rows == [(3,)]
    assert not told
    assert refused > 60
    assert engine.state() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["canary"]


def test_two_statements_never_run_as_one(engine: Engine) -> None:
    before = engine.state()
    with connect(engine.target) as connection:
        for sql in (
            "SELECT 1; DELETE FROM people",
            "COMMIT; DELETE FROM people",
            "ROLLBACK; DROP TABLE people",
        ):
            with pytest.raises(QueryError):
                connection.run(bypass(sql, engine.dialect))
    assert engine.state() == before


def test_readers_do_not_disturb_each_other(engine: Engine) -> None:
    admitted = admit("SELECT COUNT(*) FROM people", engine.dialect, ["people"])
    found: list[object] = []

    def work() -> None:
        with connect(engine.target) as connection:
            found.extend(connection.run(admitted).rows for _ in range(10))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[(3,)]] * 40


class TestRefusedTargets:
    def test_a_superuser_of_postgres(self, postgres_server: str) -> None:
        with pytest.raises(QueryError, match="superuser"):
            connect(DatabaseTarget.from_url(postgres_server))

    def test_a_powerful_user_of_mysql(self, mysql_engine: Engine) -> None:
        socket = mysql_engine.target.url.partition("unix_socket=")[2]
        with pytest.raises(QueryError, match="ALL, FILE or SUPER"):
            connect(DatabaseTarget.from_url(f"mysql://root@localhost/runner?unix_socket={socket}"))

    def test_a_missing_file(self, tmp_path: Path) -> None:
        for scheme in ("sqlite", "duckdb"):
            with pytest.raises(QueryError) as error:
                connect(DatabaseTarget.from_url(f"{scheme}:///{tmp_path}/none.db"))
            assert error.value.code == "database_unavailable"
        assert not list(tmp_path.iterdir()), "a read-only connection makes no file"

    def test_memory(self) -> None:
        with pytest.raises(QueryError, match="in memory"):
            connect(DatabaseTarget.from_url("sqlite://"))

    def test_an_unknown_scheme(self) -> None:
        with pytest.raises(ValueError, match="no runner"):
            DatabaseTarget.from_url("oracle://x/y")


def test_sqlite_counts_common_table_expressions_and_admitted_tables_only(sqlite_engine: Engine) -> None:
    with connect(sqlite_engine.target) as connection:
        for sql in (
            "WITH x AS (SELECT id FROM people) SELECT COUNT(*) FROM x",
            "SELECT COUNT(*) FROM people",
        ):
            assert connection.run(admit(sql, "sqlite", ["people"])).rows == [(3,)]
        for sql in (
            "SELECT COUNT(*) FROM secret",
            "WITH people AS (SELECT * FROM secret) SELECT 1 FROM people",
        ):
            with pytest.raises(QueryError):
                connection.run(bypass(sql, "sqlite"))


def test_a_sqlite_view_is_read_but_not_what_is_behind_it(tmp_path: Path) -> None:
    import sqlite3

    file = tmp_path / "views.db"
    with sqlite3.connect(file) as owner:
        owner.executescript(
            "CREATE TABLE hidden (a); INSERT INTO hidden VALUES (1);"
            "CREATE VIEW shown AS SELECT a FROM hidden; CREATE VIEW over AS SELECT a FROM shown"
        )
    owner.close()
    target = DatabaseTarget.from_url(f"sqlite:///{file}")
    with connect(target) as connection:
        assert connection.run(admit("SELECT a FROM over", "sqlite", ["over"])).rows == [(1,)]
        for sql in ("SELECT a FROM hidden", "SELECT a FROM shown"):
            with pytest.raises(QueryError, match="prohibited"):
                connection.run(AdmittedStatement(sql, sql, "sqlite", 10, frozenset({"over"})))
