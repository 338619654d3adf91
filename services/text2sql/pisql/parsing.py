"""Reading model replies: the last fenced block of a language, JSON, a departing step number.

Prose around a block is tolerated. A reply that keeps no contract raises `BadOutputError` whose
message is the only thing a retry quotes.
"""

from __future__ import annotations

import json
import re
from typing import Any

from services.text2sql.pisql.errors import BadOutputError

_FENCE = re.compile(r"```[ \t]*([A-Za-z0-9_+-]*)[^\n]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
_STATEMENT = re.compile(r"\b(?:WITH|SELECT)\b.*", re.IGNORECASE | re.DOTALL)
_STEP = re.compile(r"\bstep[^\d\n]{0,12}(\d{1,3})", re.IGNORECASE)


def _blocks(text: str, languages: tuple[str, ...]) -> list[str]:
    found = [(match[1].lower(), match[2].strip("\n")) for match in _FENCE.finditer(text)]
    named = [body for language, body in found if language in languages and body.strip()]
    return named or [body for language, body in found if not language and body.strip()]


def python_block(text: str) -> str:
    """The last Python block, or the whole reply when it is bare code."""
    blocks = _blocks(text, ("python", "py", "python3"))
    if blocks:
        return blocks[-1]
    if re.search(r"^def solve\(", text, re.MULTILINE) and "```" not in text:
        return text[text.index("def solve(") :].strip("\n")
    raise BadOutputError("answer with one ```python block that defines solve(db)")


def sql_block(text: str) -> str:
    """The last SQL block, or the statement when the reply is bare SQL."""
    blocks = _blocks(text, ("sql", "sqlite", "postgres", "postgresql", "mysql", "duckdb"))
    if blocks:
        return blocks[-1].strip()
    if "```" not in text:
        statement = _STATEMENT.search(text)
        if statement:
            return statement[0].strip()
    raise BadOutputError("answer with one ```sql block that holds one SELECT statement")


def json_value(text: str) -> Any:
    """The last JSON object or array of a reply, fenced or bare."""
    for body in reversed([*_blocks(text, ("json",)), text] if "```" in text else [text]):
        try:
            return json.loads(body)
        except json.JSONDecodeError:
            found = _last_json(body)
            if found is not None:
                return found
    raise BadOutputError("answer with one JSON value and nothing else")


def _last_json(text: str) -> Any:
    decoder = json.JSONDecoder()
    found: Any = None
    position = 0
    while position < len(text):
        if text[position] in "{[":
            try:
                found, position = decoder.raw_decode(text, position)
                continue
            except json.JSONDecodeError:
                pass
        position += 1
    return found


def departing_step(text: str) -> int:
    """The step number a mismatch fixer names before its block, 0 when it names none."""
    match = _STEP.search(text.split("```", 1)[0])
    return int(match[1]) if match else 0
