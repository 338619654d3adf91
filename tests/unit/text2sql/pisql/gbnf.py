"""Random walks through a GBNF grammar: what a model held to it might write."""

from __future__ import annotations

import random
import re

_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|[A-Za-z_][A-Za-z0-9_]*|\{\d+,\d+\}|[|()?]')
_ESCAPES = {"n": "\n", '"': '"', "\\": "\\"}


class Walker:
    """Derives texts from a grammar of rules `name ::= expression`, seeded."""

    def __init__(self, grammar: str, seed: int) -> None:
        self._rules = {}
        for line in grammar.splitlines():
            name, _, body = line.partition(" ::= ")
            self._rules[name] = _TOKEN.findall(body)
        self._random = random.Random(seed)

    def walk(self, name: str = "root") -> str:
        """One text derived from a rule."""
        tokens = self._rules[name]
        text, end = self._choice(tokens, 0)
        assert end == len(tokens), f"{name}: {tokens[end:]}"
        return text

    def _choice(self, tokens: list[str], start: int) -> tuple[str, int]:
        options: list[tuple[int, int]] = []
        begin = position = start
        depth = 0
        while position < len(tokens) and not (depth == 0 and tokens[position] == ")"):
            depth += {"(": 1, ")": -1}.get(tokens[position], 0)
            if depth == 0 and tokens[position] == "|":
                options.append((begin, position))
                begin = position + 1
            position += 1
        options.append((begin, position))
        first, last = self._random.choice(options)
        return self._sequence(tokens, first, last), position

    def _sequence(self, tokens: list[str], start: int, end: int) -> str:
        text = ""
        while start < end:
            begin, start = start, self._skip(tokens, start)
            suffix = tokens[start] if start < end else ""
            times = 1
            if suffix == "?":
                times = self._random.randint(0, 1)
            elif suffix.startswith("{"):
                low, high = map(int, suffix[1:-1].split(","))
                times = self._random.randint(low, high)
            else:
                suffix = ""
            text += "".join(self._item(tokens, begin) for _ in range(times))
            start += bool(suffix)
        return text

    @staticmethod
    def _skip(tokens: list[str], start: int) -> int:
        """The position after the item that starts here."""
        depth = 0
        while True:
            depth += {"(": 1, ")": -1}.get(tokens[start], 0)
            start += 1
            if depth == 0:
                return start

    def _item(self, tokens: list[str], start: int) -> str:
        token = tokens[start]
        if token == "(":
            return self._choice(tokens, start + 1)[0]
        if token.startswith('"'):
            return re.sub(r"\\(.)", lambda match: _ESCAPES[match[1]], token[1:-1])
        return self.walk(token)
