"""`lattice keys ...`, `lattice budgets ...` and `lattice usage`."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Literal

import typer

from latticework.cli._command import command, group
from latticework.cli._session import CommandError, ExitCode, Session
from latticework.models import Budget, KeyCreated, Usage

UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
COLUMNS = {"day": "day", "key": "key_id", "service": "service", "model": "model"}

KeyId = Annotated[str, typer.Argument(help="Id of a key, key_...")]
Usd = Annotated[str | None, typer.Option("--usd", help="Hard limit in US dollars, such as 2.50.")]
Tokens = Annotated[int | None, typer.Option("--tokens", min=0, help="Hard limit in tokens.")]


class Dimension(StrEnum):
    """What usage can be summed over."""

    day = "day"
    key = "key"
    service = "service"
    model = "model"


Period = Annotated[
    Literal["total", "day", "month"] | None, typer.Option(help="When the limits start again (UTC).")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    keys = group(app, "keys", "Keys: create, list, rotate, revoke.")
    command(keys, "create")(create)
    command(keys, "list")(list_keys)
    command(keys, "rotate")(rotate)
    command(keys, "revoke")(revoke)
    budgets = group(app, "budgets", "Budgets that keys may share: create, list.")
    command(budgets, "create")(create_budget)
    command(budgets, "list")(list_budgets)
    command(app, "usage")(usage)


def create(
    session: Session,
    name: Annotated[str, typer.Argument(help="What it is for.")],
    scope: Annotated[list[str], typer.Option("--scope", "-s", help="A room it may enter; may be repeated.")],
    expires: Annotated[
        str | None, typer.Option(help="Life from now on (30m, 12h, 90d) or the last day (2027-01-31).")
    ] = None,
    usd: Usd = None,
    tokens: Tokens = None,
    period: Period = None,
    budget: Annotated[str | None, typer.Option(help="Share this budget instead.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
) -> None:
    """Make a key. Its secret is shown this once."""
    made = session.client.keys.create(
        name,
        scope,
        expires_at=end_of(expires, datetime.now(UTC)),
        usd=usd,
        tokens=tokens,
        period=period,
        budget_id=budget,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
    )
    _show_secret(session, made)


def list_keys(
    session: Session, limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 50
) -> None:
    """List keys, newest first."""
    found = session.client.keys.list(page_size=min(limit, 200)).take(limit)
    if session.as_json:
        session.emit(found)
        return
    now = datetime.now(UTC)
    rows = []
    for key in found:
        gone = key.expires_at is not None and key.expires_at <= now
        state = "revoked" if key.revoked_at else "expired" if gone else "active"
        until = f"{key.expires_at:%Y-%m-%d}" if key.expires_at else "never"
        rows.append((key.id, key.name, f"{key.shown}...", " ".join(key.scopes), state, until, key.budget_id))
    session.table("keys", ("id", "name", "begins", "scopes", "state", "expires", "budget"), rows)


def rotate(
    session: Session,
    key_id: KeyId,
    overlap: Annotated[int, typer.Option(min=0, help="Seconds the old secret still works.")] = 0,
) -> None:
    """Give a key a new secret, shown this once."""
    _show_secret(session, session.client.keys.rotate(key_id, overlap_seconds=overlap))


def revoke(session: Session, key_id: KeyId) -> None:
    """End a key, everywhere within a second."""
    key = session.client.keys.revoke(key_id)
    if session.as_json:
        session.emit(key)
    else:
        session.out.print(f"{key.id} ({key.name}) is revoked.", markup=False)


def create_budget(
    session: Session,
    name: Annotated[str, typer.Argument(help="What it is for.")],
    usd: Usd = None,
    tokens: Tokens = None,
    period: Period = None,
) -> None:
    """Make a budget that keys may share."""
    made = session.client.budgets.create(name, usd=usd, tokens=tokens, period=period)
    if session.as_json:
        session.emit(made)
    else:
        session.out.print(made.id)


def list_budgets(session: Session) -> None:
    """List budgets and what is used of them."""
    found = list(session.client.budgets.list())
    if session.as_json:
        session.emit(found)
        return
    rows = [(one.id, one.name, one.period, _of(one, "usd"), _of(one, "tokens")) for one in found]
    session.table("budgets", ("id", "name", "period", "USD", "tokens"), rows)


def usage(
    session: Session,
    by: Annotated[
        list[Dimension] | None,
        typer.Option("--by", "-b", help="Sum over this; may be repeated."),
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=3660, help="How many days back.")] = 30,
    key_id: Annotated[str | None, typer.Option("--key-id", help="Only this key.")] = None,
) -> None:
    """Show what was used and what it cost."""
    dimensions = by or [Dimension.service, Dimension.model]
    today = datetime.now(UTC).date()
    rows = list(
        session.client.usage.list(
            group_by=[dimension.value for dimension in dimensions],
            first=today - timedelta(days=days - 1),
            last=today,
            key_id=key_id,
            page_size=200,
        )
    )
    if session.as_json:
        session.emit(rows)
        return
    figures = ("requests", "failures", "prompt", "completion", "USD")
    session.table("usage", (*dimensions, *figures), [_usage_row(row, dimensions) for row in rows])


def end_of(text: str | None, now: datetime) -> datetime | None:
    """When a key ends: a life such as `90d`, or the end of a day (UTC)."""
    if text is None:
        return None
    life = re.fullmatch(r"([1-9][0-9]{0,5})([mhd])", text)
    if life:
        return now + int(life[1]) * UNITS[life[2]]
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise CommandError(
            f"--expires takes 30m, 12h, 90d or a day such as 2027-01-31; got {text!r}.", ExitCode.USAGE
        ) from None
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)


def _show_secret(session: Session, made: KeyCreated) -> None:
    if session.as_json:
        session.emit(made)
        return
    session.note(f"{made.id} ({made.name}); keep this, it is not shown again:")
    session.out.print(made.key, markup=False, soft_wrap=True)


def _of(budget: Budget, unit: Literal["usd", "tokens"]) -> str:
    used = budget.used_usd if unit == "usd" else budget.used_tokens
    limit = budget.usd if unit == "usd" else budget.tokens
    return f"{used} of {limit}" if limit is not None else f"{used}"


def _usage_row(row: Usage, dimensions: list[Dimension]) -> list[object]:
    groups = [getattr(row, COLUMNS[dimension]) for dimension in dimensions]
    return [*groups, row.requests, row.failures, row.prompt_tokens, row.completion_tokens, row.cost_usd]
