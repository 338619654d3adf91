"""GBNF grammars that let a small model choose among the readings of a question (llama.cpp's format).

The texts of all readings become one prefix tree: where they agree the model has no choice, where they part
it chooses. SQL and programs are written from the same readings, so what one can say the other can.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.text2sql.pisql import rendering
from services.text2sql.pisql.objects import ProgramStyle, SchemaView, ValueHit
from services.text2sql.pisql.readings import FREE, readings


def literal(text: str) -> str:
    """A GBNF string literal."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _common_prefix(texts: Sequence[str]) -> str:
    """What all texts begin with; the least and the greatest of them differ first."""
    least, greatest = min(texts), max(texts)
    size = next((n for n, (a, b) in enumerate(zip(least, greatest, strict=False)) if a != b), len(least))
    return least[:size]


def choice(texts: Iterable[str]) -> str:
    """A GBNF expression for any of the texts, common beginnings written once."""
    branches: dict[str, list[str]] = {}
    for text in dict.fromkeys(texts):
        branches.setdefault(text[:1], []).append(text)
    may_end = branches.pop("", None) is not None
    options = []
    for members in branches.values():
        prefix = _common_prefix(members)
        rest = [text[len(prefix) :] for text in members]
        options.append(literal(prefix) + (f" {choice(rest)}" if any(rest) else ""))
    return f"({' | '.join(options)}){'?' if may_end else ''}"


def sql_grammar(schema: SchemaView, hits: Sequence[ValueHit], question: str, spread: float = FREE) -> str:
    """A grammar for one fenced SELECT that is a reading of the question within `spread`."""
    statements = choice(rendering.sql(reading) for reading in readings(schema, hits, question, spread))
    return f'root ::= "```sql\\n" {statements} "\\n```"\n'


def python_grammar(
    schema: SchemaView,
    hits: Sequence[ValueHit],
    question: str,
    style: ProgramStyle = ProgramStyle.CODE,
    spread: float = FREE,
) -> str:
    """A grammar for one fenced program of the contract that is a reading of the question within `spread`."""
    found = readings(schema, hits, question, spread)
    programs = choice(rendering.program(reading, style) for reading in found)
    return f'root ::= "```python\\n" {programs} "\\n```"\n'
