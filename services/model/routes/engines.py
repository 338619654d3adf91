"""Engines: load, look at, swap, unload. For administrators."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Response

from services.model import store
from services.model.engines.manager import EngineBusy, ManagedEngine
from services.model.schemas import EngineCapabilities, EngineCreate, EngineSwap, EngineView
from services.model.service import ModelService, owner, service_of
from shared.database import Page, decode_cursor, encode_cursor, new_id
from shared.idempotency import IdempotencyConflict, IdempotencyKey
from shared.principal import Principal, requires
from shared.problems import NotFound, responses

router = APIRouter(prefix="/v1/engines", tags=["engines"])

Service = Annotated[ModelService, Depends(service_of)]
Admin = Annotated[Principal, Depends(requires("admin"))]
EngineId = Annotated[str, Path(max_length=64, examples=["engine_default"])]


class EngineNotFound(NotFound):
    code, title = "engine_not_found", "There is no such engine"


@router.get("", summary="List engines")
async def list_engines(
    service: Service,
    admin: Admin,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Page[EngineView]:
    """Engines of the suite and of the caller's tenant, newest id first."""
    found = service.manager.visible(admin.tenant)
    if cursor is not None:
        last = decode_cursor(cursor)
        found = [managed for managed in found if managed.id < last]
    page = [view(managed) for managed in found[:limit]]
    return Page(data=page, next=encode_cursor(page[-1].id) if len(found) > limit else None)


@router.post(
    "",
    status_code=202,
    summary="Load an engine",
    responses=responses(IdempotencyConflict),
)
async def load_engine(
    body: EngineCreate, service: Service, admin: Admin, response: Response, key: IdempotencyKey = None
) -> EngineView:
    """Start an engine; it takes requests once its state is `ready`."""
    tenant = None if body.shared else admin.tenant

    async def create() -> dict[str, Any]:
        engine_id = new_id("engine")
        async with service.database.session() as session:
            await store.save_engine(session, engine_id, owner(tenant), body.spec.model_dump(mode="json"))
        return view(service.manager.add(engine_id, body.spec, tenant=tenant)).model_dump(mode="json")

    request = {"route": "engines", "body": body.model_dump(mode="json")}
    answer = EngineView.model_validate(await service.idempotency.once(admin, key, request, create))
    response.headers["Location"] = f"/v1/engines/{answer.id}"
    return answer


@router.get("/{engine_id}", summary="Get an engine", responses=responses(EngineNotFound))
async def get_engine(engine_id: EngineId, service: Service, admin: Admin) -> EngineView:
    """An engine as it is now."""
    return view(find(service, engine_id, admin))


@router.post(
    "/{engine_id}/swap",
    status_code=202,
    summary="Swap an engine",
    responses=responses(EngineNotFound, EngineBusy),
)
async def swap_engine(engine_id: EngineId, body: EngineSwap, service: Service, admin: Admin) -> EngineView:
    """Replace what runs behind an id: the new engine starts, takes over, and the old one drains.

    Both are in memory for a while. When the new one does not start, the old one stays, and `reason`
    says why.
    """
    managed = find(service, engine_id, admin)

    async def remember() -> None:
        async with service.database.session() as session:
            spec = body.spec.model_dump(mode="json")
            await store.save_engine(session, engine_id, owner(managed.tenant), spec)

    return view(service.manager.swap(engine_id, body.spec, remember))


@router.delete(
    "/{engine_id}", status_code=204, summary="Unload an engine", responses=responses(EngineNotFound)
)
async def unload_engine(engine_id: EngineId, service: Service, admin: Admin) -> None:
    """Take an engine and its aliases away; running requests finish first.

    An engine that is configured comes back at the next start of the service.
    """
    managed = find(service, engine_id, admin)
    async with service.database.session() as session:
        await store.forget_engine(session, engine_id, owner(managed.tenant))
    service.manager.remove(engine_id)


def find(service: ModelService, engine_id: str, admin: Principal) -> ManagedEngine:
    """The engine, if the administrator's tenant may see it."""
    managed = service.manager.get(engine_id, admin.tenant)
    if managed is None:
        raise EngineNotFound(f"There is no engine '{engine_id[:64]}'.")
    return managed


def view(managed: ManagedEngine) -> EngineView:
    """What the wire carries of an engine."""
    engine = managed.engine
    can = engine.capabilities
    return EngineView(
        id=managed.id,
        state=engine.state,
        reason=engine.reason or managed.problem,
        shared=managed.tenant is None,
        spec=managed.spec,
        models=list(engine.models),
        capabilities=EngineCapabilities(
            chat=can.chat,
            completions=can.completions,
            embeddings=can.embeddings,
            classification=can.classification,
            context_length=can.context_length,
            dimensions=can.dimensions,
        ),
        generation=managed.generation,
        swapping=managed.swapping,
        restarts=engine.restarts,
        requests=engine.in_flight,
        created_at=managed.created_at,
    )
