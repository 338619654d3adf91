"""Aliases: the names clients ask for, and where they lead. For administrators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query

from services.model import store
from services.model.engines.manager import Alias
from services.model.routes.engines import EngineNotFound, find
from services.model.schemas import ALIAS_NAME, AliasPut, AliasView
from services.model.service import ModelService, owner, service_of
from shared.database import Page
from shared.principal import Principal, requires
from shared.problems import NotFound, Unprocessable, responses

router = APIRouter(prefix="/v1/engines/aliases", tags=["engines"])

Service = Annotated[ModelService, Depends(service_of)]
Admin = Annotated[Principal, Depends(requires("admin"))]
Name = Annotated[str, Path(pattern=ALIAS_NAME, max_length=128, examples=["default"])]


class AliasNotFound(NotFound):
    code, title = "alias_not_found", "There is no such alias"


@router.get("", summary="List aliases")
async def list_aliases(service: Service, admin: Admin) -> Page[AliasView]:
    """Every alias the caller's tenant can use."""
    return Page(data=[view(alias) for alias in service.manager.aliases(admin.tenant)])


@router.put("/{name}", summary="Set an alias", responses=responses(EngineNotFound))
async def set_alias(name: Name, body: AliasPut, service: Service, admin: Admin) -> AliasView:
    """Let a name lead to an engine; the next request follows it."""
    managed = find(service, body.engine, admin)
    if body.model is not None and body.model not in managed.engine.models:
        raise Unprocessable(
            f"The engine '{body.engine}' has no model '{body.model}'; it has "
            f"{', '.join(managed.engine.models)}."
        )
    if body.shared and managed.tenant is not None:
        raise Unprocessable("An alias of the whole suite cannot lead to an engine of one tenant.")
    alias = Alias(name, body.engine, body.model, None if body.shared else admin.tenant)
    async with service.database.session() as session:
        await store.save_alias(session, name, owner(alias.tenant), body.engine, body.model)
    service.manager.set_alias(alias)
    return view(alias)


@router.delete("/{name}", status_code=204, summary="Remove an alias", responses=responses(AliasNotFound))
async def remove_alias(
    name: Name,
    service: Service,
    admin: Admin,
    shared: Annotated[bool, Query(description="the suite's alias, or the tenant's own")] = True,
) -> None:
    """Forget a name. One that is configured comes back at the next start of the service."""
    tenant = None if shared else admin.tenant
    if not service.manager.remove_alias(name, tenant):
        raise AliasNotFound(f"There is no alias '{name}'.")
    async with service.database.session() as session:
        await store.forget_alias(session, name, owner(tenant))


def view(alias: Alias) -> AliasView:
    """What the wire carries of an alias."""
    return AliasView(name=alias.name, engine=alias.engine_id, model=alias.model, shared=alias.tenant is None)
