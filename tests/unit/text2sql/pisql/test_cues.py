"""What a question's words speak of: abbreviations are said by their longer forms, within limits."""

from __future__ import annotations

import pytest

from services.text2sql.pisql.cues import read_cues
from services.text2sql.pisql.objects import Column, SchemaView, Table

SCHEMA = SchemaView(
    database_id="flights",
    dialect="sqlite",
    tables=(
        Table("airports", (Column("faa", "TEXT"), Column("lon", "REAL")), ("faa",)),
        Table(
            "flights",
            (Column("origin", "TEXT"), Column("air_time", "INTEGER"), Column("dep_delay", "INTEGER")),
        ),
        Table("student", (Column("StuID", "INTEGER"), Column("name", "TEXT")), ("StuID",)),
    ),
)


@pytest.mark.parametrize(
    ("question", "table", "column", "weight"),
    [
        ("What is the average departure delay?", "flights", "dep_delay", 1.0),
        ("How many airports are there?", "flights", "air_time", 0.0),
        ("What is the longest air time?", "flights", "air_time", 1.0),
        ("Which flight has the longest delay?", "airports", "lon", 0.0),
        ("At which longitude is each?", "airports", "lon", 1.0),
        # The student's own key may well be spoken of so.
        ("List the students", "student", "StuID", 0.5),
    ],
)
def test_what_a_longer_word_says(question: str, table: str, column: str, weight: float) -> None:
    found = SCHEMA.table(table)
    assert found is not None
    assert read_cues(question, SCHEMA, ()).weight(found, found.column(column)) == weight
