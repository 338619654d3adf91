"""A question from catalogue to verified answer, on every dialect: nothing of it is SQLite's alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from services.text2sql.adapters import Database, GatedEngine, SandboxedPrograms
from services.text2sql.introspection import catalogue, open_trusted, value_index
from services.text2sql.pisql.chat import ChatReply, ChatRequest
from services.text2sql.pisql.configuration import Configuration, DataForm, Limits, Profile, Role
from services.text2sql.pisql.objects import ProgramStatus, Question, SchemaView, Verdict
from services.text2sql.pisql.pipeline import Knowledge, answer
from services.text2sql.pisql.ports import Event, Ports
from services.text2sql.pisql.stages.s1_catalogue import restrict
from shared.sandbox import Sandbox
from tests.integration.text2sql.runner.conftest import Engine

READ_ONLY = r"(?i)read.?only|permission denied|command denied"
PROGRAM = """```python
def solve(db):
    # Step 1: load people with a city
    rows = db.table("people", where=[("city", "is not null")])
    # Step 2: name and city by name
    rows = sort_rows(rows, "name")
    return {"columns": ["name", "city"], "rows": [[r["name"], r["city"]] for r in rows], "ordered": True}
```"""
SQL = "```sql\nSELECT name, city FROM people WHERE city IS NOT NULL ORDER BY name\n```"


class ScriptedWriter:
    """Writes the same program and the same SQL whatever it is asked."""

    async def complete(self, request: ChatRequest) -> ChatReply:
        return ChatReply(PROGRAM if request.role is Role.PROGRAMMER else SQL)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(forms=("rows",)) as made:
        yield made


@pytest.fixture(scope="module")
def schema(engine: Engine) -> SchemaView:
    return catalogue("people", engine.target.url)


def test_the_catalogue_holds_what_the_role_may_read(engine: Engine, schema: SchemaView) -> None:
    people = schema.table("people")
    assert people is not None
    assert [column.name for column in people.columns] == ["id", "name", "city"]
    assert (people.primary_key, people.row_count) == (("id",), 3)
    city = people.column("city")
    assert city is not None
    assert (set(city.samples), city.distinct_count) == ({"London", "Paris"}, 2)
    assert city.null_share == pytest.approx(1 / 3)
    # Where the engine keeps roles, what this one may not read is not in the catalogue.
    assert (schema.table("secret") is None) == (engine.dialect in ("postgres", "mysql"))


def test_reading_the_catalogue_cannot_write(engine: Engine) -> None:
    before = engine.state()
    with open_trusted(engine.target.url) as trusted, pytest.raises(Exception, match=READ_ONLY):
        trusted.query("INSERT INTO people VALUES (9, 'Mal', 'Nowhere')")
    assert engine.state() == before
    if engine.dialect == "postgres":
        with open_trusted(engine.target.url) as trusted:
            assert trusted.query("SHOW transaction_read_only") == [("on",)]


async def test_a_question_is_verified(engine: Engine, schema: SchemaView, sandbox: Sandbox) -> None:
    view = restrict(schema, ["people"])
    index = value_index(engine.target.url, view)
    events: list[Event] = []
    with Database(engine.target, ["people"], known=["people"]) as database:
        ports = Ports(
            chat=ScriptedWriter(),
            programs=SandboxedPrograms(sandbox, database),
            engine=GatedEngine(database),
            emit=events.append,
        )
        found = await answer(
            Question("q", "people", "Which people live in London or another city?"),
            Knowledge(view, index),
            Configuration.for_profile(Profile.FAST),
            ports,
        )
    assert (found.verdict, found.dialect) == (Verdict.VERIFIED, engine.dialect)
    assert found.result is not None
    assert found.result.rows == (("Ada", "London"), ("Bob", "Paris"))
    hits: Any = next(event.data["hits"] for event in events if event.stage == "values")
    assert [hit["value"] for hit in hits] == ["London"]


async def test_a_large_table_is_read_as_far_as_the_program_narrows_it(
    engine: Engine, sandbox: Sandbox
) -> None:
    """Over the cap of rows a program only guides, unless its own conditions bring the table under it."""
    limits = Limits(table_rows=2)
    whole = (
        PROGRAM.split("```python\n")[1].removesuffix("\n```").replace(', where=[("city", "is not null")]', "")
    )
    narrow = whole.replace('"people"', '"people", where=[("id", "<=", 2), ("city", "is not null")]')
    with Database(engine.target, ["people"], known=["people"]) as database:
        programs = SandboxedPrograms(sandbox, database)

        async def status(source: str) -> ProgramStatus:
            run = await programs.run(
                source, tables=["people"], form=DataForm.ROWS, today="2025-01-01", runs=1, limits=limits
            )
            return run.status

        assert await status(whole) is ProgramStatus.TOO_BIG
        assert await status(narrow) is ProgramStatus.OK
        assert await status(narrow.replace('"<="', '"is?"')) is ProgramStatus.TOO_BIG
        assert await status(whole) is ProgramStatus.TOO_BIG
