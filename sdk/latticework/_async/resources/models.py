"""Models that can be asked for, the engines behind them, and the names that lead there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from latticework._async._paging import AsyncPages
from latticework._async.resources._resource import AsyncResource
from latticework._calls import Call, create, get, given, path_of, post
from latticework.models import AliasView, EngineView, ModelList, ModelObject

EngineSpec = Mapping[str, Any]
"""One of `LlamaCppSpec`, `VllmSpec`, `UpstreamSpec`, `EncoderSpec` as JSON data, told apart by `kind`."""


class AsyncModels(AsyncResource):
    """`client.models`: what `model` may name in a call."""

    async def list(self) -> list[ModelObject]:
        """All of them."""
        return (await self._client.fetch(get("/v1/models"), ModelList)).data

    async def get(self, model: str) -> ModelObject:
        """One of them."""
        return await self._client.fetch(get(path_of("/v1/models/{}", model)), ModelObject)


class AsyncAliases(AsyncResource):
    """`client.engines.aliases`: names that lead to engines."""

    def list(self) -> AsyncPages[AliasView]:
        """Every alias the caller's tenant can use."""
        return AsyncPages(self._client, get("/v1/engines/aliases"), AliasView)

    async def set(
        self, name: str, engine: str, *, model: str | None = None, shared: bool | None = None
    ) -> AliasView:
        """Let `name` lead to an engine, or to one of its models; the next request follows it."""
        body = given({"engine": engine, "model": model, "shared": shared})
        call = Call("PUT", path_of("/v1/engines/aliases/{}", name), body=body)
        return await self._client.fetch(call, AliasView)

    async def remove(self, name: str, *, shared: bool | None = None) -> None:
        """Forget a name."""
        path = path_of("/v1/engines/aliases/{}", name)
        await self._client.send(Call("DELETE", path, {"shared": shared}))


class AsyncEngines(AsyncResource):
    """`client.engines`, for administrators."""

    @property
    def aliases(self) -> AsyncAliases:
        """The names that lead to engines."""
        return AsyncAliases(self._client)

    def list(self, *, page_size: int | None = None) -> AsyncPages[EngineView]:
        """Engines of the suite and of the caller's tenant, newest first."""
        return AsyncPages(self._client, get("/v1/engines", limit=page_size), EngineView)

    async def load(
        self, spec: EngineSpec, *, shared: bool | None = None, idempotency_key: str | None = None
    ) -> EngineView:
        """Start an engine; it takes requests once its state is `ready`."""
        call = create("/v1/engines", {"spec": dict(spec), "shared": shared}, idempotency_key)
        return await self._client.fetch(call, EngineView)

    async def get(self, engine_id: str) -> EngineView:
        """An engine as it is now."""
        return await self._client.fetch(get(path_of("/v1/engines/{}", engine_id)), EngineView)

    async def swap(self, engine_id: str, spec: EngineSpec) -> EngineView:
        """Replace what runs behind an id, without a failed request in between."""
        call = post(path_of("/v1/engines/{}/swap", engine_id), {"spec": dict(spec)})
        return await self._client.fetch(call, EngineView)

    async def unload(self, engine_id: str) -> None:
        """Take an engine and its aliases away; running requests finish first."""
        await self._client.send(Call("DELETE", path_of("/v1/engines/{}", engine_id)))
