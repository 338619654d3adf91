"""GBNF grammars that let a small model choose among the readings of a question (llama.cpp's format).

The texts of all readings become one prefix tree: where they agree the model has no choice, where they part
it chooses. SQL and programs are written from the same readings, so what one can say the other can.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.text2sql.pisql import rendering
from services.text2sql.pisql.objects import ProgramStyle
from services.text2sql.pisql.readings import Reading


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


def sql_grammar(found: Sequence[Reading]) -> str:
    """A grammar for one fenced SELECT that is one of the readings."""
    return f'root ::= "```sql\\n" {choice(map(rendering.sql, found))} "\\n```"\n'


def python_grammar(found: Sequence[Reading], style: ProgramStyle = ProgramStyle.CODE) -> str:
    """A grammar for one fenced program of the contract that is one of the readings."""
    programs = choice(rendering.program(reading, style) for reading in found)
    return f'root ::= "```python\\n" {programs} "\\n```"\n'
