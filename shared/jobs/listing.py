"""One page of jobs, as quick among a hundred thousand as among ten.

A filter over several values is asked value by value: each is a range of an index, newest first, and
ends after one page. Asked in one piece, the database would walk from the newest job on through
everything that does not match, such as a long queue of work the caller may not see.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, ColumnElement, Select, and_, false, or_, select, union_all

from shared.identity import ADMIN, Principal
from shared.jobs.schemas import JobState
from shared.jobs.store import jobs

MAX_PIECES = 200
"""Pieces of one statement; what would need more is asked in one piece."""


@dataclass(frozen=True, slots=True)
class Visible:
    """Which jobs a caller may see: its tenant's, of its scopes, and (at a service) of some kinds."""

    principal: Principal
    kinds: frozenset[str] | None = None

    @property
    def scopes(self) -> list[str] | None:
        """The scopes of what it may see; None for every scope."""
        scopes = self.principal.scopes
        return None if ADMIN in scopes else sorted(scopes)

    def where(self) -> list[ColumnElement[bool]]:
        """The conditions every query carries."""
        conditions: list[ColumnElement[bool]] = [jobs.c.tenant == self.principal.tenant]
        if self.scopes is not None:
            conditions.append(jobs.c.scope.in_(self.scopes))
        if self.kinds is not None:
            conditions.append(jobs.c.kind.in_(sorted(self.kinds)))
        return conditions


def newest(
    visible: Visible,
    columns: Iterable[Column[Any]],
    *,
    states: Sequence[JobState],
    kinds: Sequence[str],
    before: str | None,
    limit: int,
) -> Select[Any]:
    """Selects `columns` of the first `limit` matching jobs, newest first, older than the id `before`."""
    filters: list[ColumnElement[bool]] = [jobs.c.tenant == visible.principal.tenant]
    if before is not None:
        filters.append(jobs.c.id < before)
    wanted = [set(each) for each in (visible.kinds, kinds or None) if each is not None]
    if wanted and visible.scopes is not None:
        filters.append(jobs.c.scope.in_(visible.scopes))
    newest_first = jobs.c.id.desc()
    page = select(*columns).where(*filters).order_by(newest_first).limit(limit)
    pieces = list(_pieces(set.intersection(*wanted) if wanted else None, visible.scopes, states))
    if len(pieces) == 1:
        return page.where(*pieces[0])
    if not pieces or len(pieces) > MAX_PIECES:
        return page.where(or_(false(), *(and_(*piece) for piece in pieces)))
    # Only ids in the pieces: with every column it takes longer to build the statement than to run it, and the
    # objects it leaves make every twentieth list or so wait for a full garbage collection. The limit is on
    # the ids: with one on the rows PostgreSQL would read all jobs, newest first, to find those few.
    piece_page = select(jobs.c.id).where(*filters).order_by(newest_first).limit(limit)
    union = union_all(*(select(piece_page.where(*piece).subquery()) for piece in pieces)).subquery()
    found = select(union).order_by(union.c.id.desc()).limit(limit).subquery()
    return select(*columns).join(found, found.c.id == jobs.c.id).order_by(found.c.id.desc())


def _pieces(
    kinds: set[str] | None, scopes: Sequence[str] | None, states: Sequence[JobState]
) -> Iterable[tuple[ColumnElement[bool], ...]]:
    """Equalities that, after the tenant, begin an index: kind and state, scope and state, state, or none."""
    by_state = [(jobs.c.state == state.value) for state in states]
    if kinds is None and scopes is None:
        return [(each,) for each in by_state] or [()]
    if kinds is not None:
        first = [jobs.c.kind == kind for kind in sorted(kinds)]
    else:
        first = [jobs.c.scope == scope for scope in scopes or ()]
    every_state = [(jobs.c.state == state.value) for state in JobState]
    return itertools.product(first, by_state or every_state)
