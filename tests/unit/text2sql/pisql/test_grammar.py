"""Whatever the grammars allow must parse, name only what exists, run, and mean the same in both languages."""

from __future__ import annotations

import dataclasses
import sqlite3
from typing import Any

import pytest

from services.text2sql.pisql import parsing, rendering, sql_text
from services.text2sql.pisql.cues import meant, question_numbers, read_cues
from services.text2sql.pisql.grammar import choice, python_grammar, sql_grammar
from services.text2sql.pisql.objects import MatchKind, ProgramStyle, ValueHit
from services.text2sql.pisql.program_text import check_program
from services.text2sql.pisql.reach import best_reaches
from services.text2sql.pisql.readings import MOST_READINGS, STEADY, readings, within
from services.text2sql.pisql.results import bags_equal, canonical_rows
from shared.sandbox import helpers
from tests.unit.text2sql.pisql.doubles import SHOP, SHOP_SCRIPT
from tests.unit.text2sql.pisql.gbnf import Walker

ITALY = ValueHit("Italy", "customer", "country", "Italy", 1.0, MatchKind.EXACT)
QUOTED = ValueHit("O'Hara", "customer", "name", "O'Ha\"ra\\", 1.0, MatchKind.EXACT)
QUESTIONS = (
    ("How many customers are there?", ()),
    ("How many different countries do customers come from?", ()),
    ("List the names of customers from Italy", (ITALY,)),
    ("Which customers are not from Italy?", (ITALY,)),
    ("What is O'Hara's country?", (QUOTED,)),
    ("What is the average amount of orders over 5 from Italy?", (ITALY,)),
    ("Which customer has the highest amount?", ()),
    ("What are the top 3 countries with the most orders?", ()),
    ("For each country, how many customers are there?", ()),
    ("Countries with at least 2 customers for each name", ()),
    ("Show names sorted by country in descending order", ()),
    ("Which customers have no orders?", ()),
    ("Names of customers without any order from Italy", (ITALY,)),
    ("Which orders have an amount above average?", ()),
    ("What is the most common country?", ()),
    ("Names of customers with at least 2 orders", ()),
    ("Names of customers whose country contains 'ta'", ()),
    ("What is the average and maximum amount for each country?", ()),
    ("Which countries have both an order over 5 and an order under 15?", ()),
    ("Hello?", ()),
)


@pytest.mark.parametrize(("question", "hits"), QUESTIONS)
@pytest.mark.parametrize("seed", range(12))
def test_sql_always_runs(question: str, hits: tuple[ValueHit, ...], seed: int) -> None:
    text = Walker(sql_grammar(readings(SHOP, hits, question)), seed).walk()
    statement = parsing.sql_block(text)
    assert sql_text.unknown_names(sql_text.clean(statement, SHOP), SHOP) == [], statement
    with sqlite3.connect(":memory:") as connection:
        connection.executescript(SHOP_SCRIPT)
        connection.execute(statement).fetchall()
    connection.close()


@pytest.mark.parametrize(("question", "hits"), QUESTIONS)
@pytest.mark.parametrize("style", list(ProgramStyle))
@pytest.mark.parametrize("seed", range(6))
def test_programs_keep_the_contract(
    question: str, hits: tuple[ValueHit, ...], style: ProgramStyle, seed: int
) -> None:
    text = Walker(python_grammar(readings(SHOP, hits, question), style), seed).walk()
    program = rendering.closed(parsing.python_block(text))
    assert check_program(program, SHOP) == [], text
    assert rendering.closed(program) == program
    assert rendering.closed(rendering.opened(program)) == program


class ShopTables:
    """What a program sees of the shop, outside any sandbox: the programs here are our own."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def table(self, name: str) -> list[dict[str, Any]]:
        cursor = self._connection.execute(f'SELECT * FROM "{name}"')
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]


@pytest.mark.parametrize(("question", "hits"), QUESTIONS)
def test_sql_and_programs_of_a_reading_give_the_same_rows(question: str, hits: tuple[ValueHit, ...]) -> None:
    """Groups that tie at a cut are left out: which of them stays is the engine's business."""
    found = readings(SHOP, hits, question)
    assert 1 <= len(found) <= MOST_READINGS
    with sqlite3.connect(":memory:") as connection:
        connection.executescript(SHOP_SCRIPT)
        for reading in found:
            if reading.ranked is not None and reading.limit:
                continue
            rows = canonical_rows(connection.execute(rendering.sql(reading)).fetchall())
            for style in ProgramStyle:
                names = {name: getattr(helpers, name) for name in dir(helpers) if not name.startswith("__")}
                exec(rendering.closed(rendering.program(reading, style)), names)
                result = names["solve"](ShopTables(connection))
                assert bags_equal(canonical_rows(result["rows"]), rows), rendering.sql(reading)
    connection.close()


@pytest.mark.parametrize(
    ("question", "hits", "sql"),
    [
        ("How many customers are there?", (), "SELECT count(*) FROM customer"),
        (
            "List the names of customers from Italy",
            (ITALY,),
            "SELECT name FROM customer WHERE country = 'Italy'",
        ),
        (
            "Names of customers whose country contains 'ta'",
            (),
            "SELECT name FROM customer WHERE country LIKE '%ta%'",
        ),
        (
            "Which customers have no orders?",
            (),
            "SELECT name FROM customer WHERE id NOT IN (SELECT customer_id FROM orders)",
        ),
        (
            "Names of customers with at least 2 orders",
            (),
            "SELECT T2.name FROM orders AS T1 JOIN customer AS T2 ON T1.customer_id = T2.id "
            "GROUP BY T2.id HAVING count(*) >= 2",
        ),
        (
            "What is the most common country?",
            (),
            "SELECT country FROM customer GROUP BY country ORDER BY count(*) DESC LIMIT 1",
        ),
        (
            "For each country, how many customers are there?",
            (),
            "SELECT country, count(*) FROM customer GROUP BY country",
        ),
        (
            "What are the maximum and average amount of orders?",
            (),
            "SELECT max(amount), avg(amount) FROM orders",
        ),
    ],
)
def test_the_first_reading(question: str, hits: tuple[ValueHit, ...], sql: str) -> None:
    assert rendering.sql(readings(SHOP, hits, question)[0]) == sql


def test_sensitive_columns_are_never_read() -> None:
    secret = dataclasses.replace(SHOP.tables[0].columns[2], sensitive=True)
    customer = dataclasses.replace(SHOP.tables[0], columns=(*SHOP.tables[0].columns[:2], secret))
    view = dataclasses.replace(SHOP, tables=(customer, SHOP.tables[1]))
    for question, hits in QUESTIONS:
        assert not any("country" in rendering.sql(item) for item in readings(view, hits, question))


def test_a_choice_is_any_of_its_texts() -> None:
    texts = ["select a", "select ab", "select b", 'x "y"\n']
    grammar = f"root ::= {choice(texts)}"
    assert {Walker(grammar, seed).walk() for seed in range(60)} == set(texts)


def test_names_of_the_schema_are_no_values() -> None:
    stored = ValueHit("country", "customer", "name", "Country", 0.9, MatchKind.EDIT)
    assert meant("Which country?", SHOP, (stored, ITALY)) == (ITALY,)
    assert meant("Which 'country'?", SHOP, (stored,)) == (stored,)


def test_a_named_value_must_be_used() -> None:
    grammar = sql_grammar(readings(SHOP, (ITALY,), "names of customers from Italy"))
    assert all("'Italy'" in Walker(grammar, seed).walk() for seed in range(20))


def test_a_count_is_a_count() -> None:
    grammar = sql_grammar(within(readings(SHOP, (), "How many customers are there?"), STEADY))
    assert all("SELECT count(*) FROM" in Walker(grammar, seed).walk() for seed in range(20))


def test_cues_pick_the_tables() -> None:
    def first(question: str, *hits: ValueHit) -> list[str]:
        reach, _ = best_reaches(SHOP, read_cues(question, SHOP, hits), 1)[0]
        return sorted(table.name for table in reach.tables)

    assert first("How many orders are there?") == ["orders"]
    assert first("How many customers are there?") == ["customer"]
    assert first("How many orders are there for each country?") == ["customer", "orders"]
    assert first("Total amount for Italy", ITALY) == ["customer", "orders"]


@pytest.mark.parametrize(
    ("question", "operator"),
    [
        ("older than 3", ">"),
        ("at least 2", ">="),
        ("2 or more", ">="),
        ("at most 2", "<="),
        ("not higher than 2", "<="),
        ("fewer than 9", "<"),
        ("in 2014", "="),
        ("more than once", ">"),
    ],
)
def test_operators(question: str, operator: str) -> None:
    (number,) = read_cues(question, SHOP, ()).numbers
    assert number.operator == operator


def test_numbers_in_words_and_digits() -> None:
    assert question_numbers("top three of 2014, at least 2.5, id x9") == ("3", "2014", "2.5")
