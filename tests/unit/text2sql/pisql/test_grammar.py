"""Whatever the grammars allow must parse, name only what exists, and run."""

from __future__ import annotations

import sqlite3

import pytest

from services.text2sql.pisql import parsing, sql_text
from services.text2sql.pisql.cues import best_reaches, read_cues
from services.text2sql.pisql.grammar import python_grammar, question_numbers, sql_grammar
from services.text2sql.pisql.objects import MatchKind, ValueHit
from services.text2sql.pisql.program_text import check_program
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
    ("Hello?", ()),
)


@pytest.mark.parametrize(("question", "hits"), QUESTIONS)
@pytest.mark.parametrize("seed", range(12))
def test_sql_always_runs(question: str, hits: tuple[ValueHit, ...], seed: int) -> None:
    text = Walker(sql_grammar(SHOP, hits, question), seed).walk()
    statement = parsing.sql_block(text)
    assert sql_text.unknown_names(sql_text.clean(statement, SHOP), SHOP) == [], statement
    with sqlite3.connect(":memory:") as connection:
        connection.executescript(SHOP_SCRIPT)
        connection.execute(statement).fetchall()
    connection.close()


@pytest.mark.parametrize(("question", "hits"), QUESTIONS)
@pytest.mark.parametrize("seed", range(12))
def test_programs_keep_the_contract(question: str, hits: tuple[ValueHit, ...], seed: int) -> None:
    text = Walker(python_grammar(SHOP, hits, question), seed).walk()
    assert check_program(parsing.python_block(text), SHOP) == [], text


def test_a_named_value_must_be_used() -> None:
    grammar = sql_grammar(SHOP, (ITALY,), "names of customers from Italy")
    assert all("'Italy'" in Walker(grammar, seed).walk() for seed in range(20))


def test_a_count_is_a_count() -> None:
    grammar = sql_grammar(SHOP, (), "How many customers are there?")
    assert all("SELECT count(*) FROM" in Walker(grammar, seed).walk() for seed in range(20))


def test_cues_pick_the_tables() -> None:
    def first(question: str, *hits: ValueHit) -> list[str]:
        reach = best_reaches(SHOP, read_cues(question, SHOP, hits), 1)[0]
        return sorted(table.name for table in reach.tables)

    assert first("How many orders are there?") == ["orders"]
    assert first("How many customers are there?") == ["customer"]
    assert first("How many orders are there for each country?") == ["customer", "orders"]
    assert first("Total amount for Italy", ITALY) == ["customer", "orders"]


@pytest.mark.parametrize(
    ("question", "operators"),
    [
        ("older than 3", (">",)),
        ("at least 2", (">=",)),
        ("at most 2", ("<=",)),
        ("fewer than 9", ("<",)),
        ("in 2014", ("=",)),
    ],
)
def test_operators(question: str, operators: tuple[str, ...]) -> None:
    assert read_cues(question, SHOP, ()).operators == operators


def test_numbers_in_words_and_digits() -> None:
    assert question_numbers("top three of 2014, at least 2.5, id x9") == ("2014", "2.5", "3")
