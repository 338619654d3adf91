"""The tree a JSON schema is read into: what a document may be, with nothing left to look up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Json = Any


class SchemaNotSupported(ValueError):
    """The schema is not valid, cannot be enforced, or accepts nothing. `path` is a JSON pointer."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"In {path or 'the schema'}: {message}")
        self.path = path


@dataclass(frozen=True, slots=True)
class Never:
    """Accepts nothing."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some JSON values."""

    values: tuple[Json, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """A string; lengths in characters."""

    least: int = 0
    most: int | None = None
    pattern: str | None = None
    format: str | None = None


@dataclass(frozen=True, slots=True)
class Numeric:
    """A number between bounds."""

    integer: bool
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    multiple: float | None = None


@dataclass(frozen=True, slots=True)
class Array:
    """`prefix` by position, then `items`."""

    prefix: tuple[Node, ...]
    items: Node
    least: int = 0
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Object:
    """Members in order; those not `required` may be absent."""

    members: tuple[tuple[str, Node, bool], ...]


@dataclass(frozen=True, slots=True)
class Map:
    """An object with free names that match `names`."""

    value: Node
    names: str | None = None
    least: int = 0
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Union:
    """Any of several."""

    options: tuple[Node, ...]


Node = Never | Choice | Text | Numeric | Array | Object | Map | Union


def union(options: Iterable[Node]) -> Node:
    """The union of nodes, without those that accept nothing."""
    possible: list[Node] = []
    for option in options:
        if isinstance(option, Union):
            possible += option.options
        elif not isinstance(option, Never):
            possible.append(option)
    if not possible:
        return Never()
    return possible[0] if len(possible) == 1 else Union(tuple(possible))


def scalars() -> Union:
    """Any value that is not made of others."""
    return Union((Text(), Numeric(integer=False), Choice((True, False, None))))


def anything() -> Node:
    """Any JSON value, two levels deep."""
    return Union((*scalars().options, Array((), scalars()), Map(scalars())))
