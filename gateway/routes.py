"""Management: keys, budgets, usage, prices. Validate, call, return."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from gateway import schemas
from gateway.management import Management
from shared.database import Page, decode_cursor, encode_cursor
from shared.idempotency import IdempotencyConflict, IdempotencyInProgress, IdempotencyKey
from shared.principal import ADMIN, CurrentPrincipal, Principal, requires
from shared.problems import BadRequest, Conflict, NotFound, Unprocessable, responses

router = APIRouter(prefix="/v1")

Admin = Annotated[Principal, Depends(requires(ADMIN))]
Limit = Annotated[int, Query(ge=1, le=200, description="entries per page")]
Cursor = Annotated[str | None, Query(max_length=200, description="`next` of the page before")]
ID = r"^[A-Za-z0-9_]+$"
PLAIN = r"^[^\x00-\x1f]*$"
KeyId = Annotated[str, Path(max_length=40, pattern=ID)]
BudgetId = Annotated[str, Path(max_length=40, pattern=ID)]
GroupBy = Literal["day", "key", "service", "model"]
_COLUMNS = {"day": "day", "key": "key_id", "service": "service", "model": "model"}
_ONCE = responses(IdempotencyConflict, IdempotencyInProgress)


def management(request: Request) -> Management:
    """The application's management service."""
    found: Management = request.app.state.management
    return found


Manager = Annotated[Management, Depends(management)]


@router.post("/keys", status_code=201, tags=["keys"], summary="Make a key", responses=_ONCE)
async def create_key(
    body: schemas.KeyCreate,
    principal: Admin,
    manager: Manager,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> schemas.KeyCreated:
    """The secret is in this answer and nowhere else; keep it."""
    if body.budget is not None and body.budget_id is not None:
        raise Unprocessable("Give 'budget' or 'budget_id', not both.")
    created = await manager.create_key(principal, body, idempotency_key)
    response.headers["Location"] = f"/v1/keys/{created.id}"
    return created


@router.get("/keys", tags=["keys"], summary="List keys")
async def list_keys(
    principal: Admin, manager: Manager, limit: Limit = 50, cursor: Cursor = None
) -> Page[schemas.Key]:
    rows, following = await manager.store.rows(principal.tenant, cursor=cursor, limit=limit)
    return Page(data=[manager.show_key(row) for row in rows], next=following)


@router.get("/keys/{key_id}", tags=["keys"], summary="Show a key", responses=responses(NotFound))
async def get_key(key_id: KeyId, principal: CurrentPrincipal, manager: Manager) -> schemas.Key:
    """Every caller may look at its own key; others need the scope `admin`."""
    if key_id != principal.key_id and not principal.allows(ADMIN):
        raise NotFound(f"There is no key {key_id}.")
    return manager.show_key(await manager.store.row(principal.tenant, key_id))


@router.post(
    "/keys/{key_id}/rotate",
    tags=["keys"],
    summary="Give a key a new secret",
    responses=responses(NotFound, Conflict, IdempotencyConflict, IdempotencyInProgress),
)
async def rotate_key(
    key_id: KeyId,
    principal: Admin,
    manager: Manager,
    body: schemas.KeyRotate | None = None,
    idempotency_key: IdempotencyKey = None,
) -> schemas.KeyCreated:
    """The key keeps its id, budget and usage; the old secret ends at once or after the overlap."""
    overlap = body.overlap_seconds if body is not None else 0
    return await manager.rotate_key(principal, key_id, overlap, idempotency_key)


@router.delete("/keys/{key_id}", tags=["keys"], summary="Revoke a key", responses=responses(NotFound))
async def revoke_key(key_id: KeyId, principal: Admin, manager: Manager) -> schemas.Key:
    """It stops working everywhere within a second; its usage stays."""
    return await manager.revoke_key(principal, key_id)


@router.post("/budgets", status_code=201, tags=["budgets"], summary="Make a budget", responses=_ONCE)
async def create_budget(
    body: schemas.BudgetCreate,
    principal: Admin,
    manager: Manager,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> schemas.Budget:
    created = await manager.create_budget(principal, body, idempotency_key)
    response.headers["Location"] = f"/v1/budgets/{created.id}"
    return created


@router.get("/budgets", tags=["budgets"], summary="List budgets")
async def list_budgets(
    principal: Admin, manager: Manager, limit: Limit = 50, cursor: Cursor = None
) -> Page[schemas.Budget]:
    rows, following = await manager.store.budgets(principal.tenant, cursor=cursor, limit=limit)
    return Page(data=[await manager.show_budget(row) for row in rows], next=following)


@router.get("/budgets/{budget_id}", tags=["budgets"], summary="Show a budget", responses=responses(NotFound))
async def get_budget(budget_id: BudgetId, principal: CurrentPrincipal, manager: Manager) -> schemas.Budget:
    """Every caller may look at the budget it spends from; others need the scope `admin`."""
    if budget_id != principal.budget_id and not principal.allows(ADMIN):
        raise NotFound(f"There is no budget {budget_id}.")
    return await manager.show_budget(await manager.store.budget(principal.tenant, budget_id))


@router.patch(
    "/budgets/{budget_id}", tags=["budgets"], summary="Change a budget", responses=responses(NotFound)
)
async def change_budget(
    budget_id: BudgetId, body: schemas.BudgetChange, principal: Admin, manager: Manager
) -> schemas.Budget:
    """New limits hold for the next call."""
    return await manager.change_budget(principal, budget_id, body)


@router.get("/usage", tags=["usage"], summary="What was used", responses=responses(BadRequest))
async def usage(
    principal: CurrentPrincipal,
    manager: Manager,
    group_by: Annotated[
        list[GroupBy], Query(max_length=4, description="dimensions of the sums, in order")
    ] = ["day", "key", "service", "model"],  # noqa: B006
    first: Annotated[date | None, Query(description="first day, UTC; default 30 days ago")] = None,
    last: Annotated[date | None, Query(description="last day, UTC; default today")] = None,
    key_id: Annotated[str | None, Query(max_length=40, pattern=ID)] = None,
    service: Annotated[str | None, Query(max_length=32, pattern=ID)] = None,
    model: Annotated[str | None, Query(max_length=200, pattern=PLAIN)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[schemas.Usage]:
    """Sums up to about a second ago. Callers without the scope `admin` see their own key's."""
    today = datetime.now(UTC).date()
    last = last or today
    first = first or max(date.min + timedelta(days=30), last) - timedelta(days=30)
    filters = {"key_id": key_id, "service": service, "model": model}
    if not principal.allows(ADMIN):
        filters["key_id"] = principal.key_id
    columns = list(dict.fromkeys(_COLUMNS[name] for name in group_by))
    offset = _offset(cursor)
    rows = await manager.usage.report(
        principal.tenant,
        group_by=columns,
        first=first,
        last=last,
        filters={name: value for name, value in filters.items() if value is not None},
        offset=offset,
        limit=limit + 1,
    )
    following = encode_cursor(f"offset:{offset + limit}") if len(rows) > limit else None
    return Page(data=[manager.show_usage(row) for row in rows[:limit]], next=following)


def _offset(cursor: str | None) -> int:
    """Sums have no id to continue from, so their cursor counts rows."""
    if cursor is None:
        return 0
    kind, _, number = decode_cursor(cursor).partition(":")
    if kind != "offset" or not (number.isascii() and number.isdigit()) or len(number) > 9:
        raise BadRequest("The cursor is not one this list gave out.", code="invalid_cursor")
    return int(number)


@router.get("/prices", tags=["usage"], summary="What models cost")
async def prices(principal: CurrentPrincipal, manager: Manager) -> schemas.Prices:
    """US dollars per million tokens; models that are not named cost what `null` costs."""
    return manager.show_prices()
