"""One description of the whole suite, merged from what every service says of itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from gateway.proxy.upstreams import UpstreamAway, UpstreamFailed, Upstreams, UpstreamSilent
from gateway.routing import find_route
from shared.principal import ADMIN, Principal, PrincipalSigner
from shared.problems import BudgetExceeded, responses
from shared.telemetry import logger
from shared.upstream import Request, UpstreamError

log = logger(__name__)

FRESH_SECONDS = 60.0
RETRY_SECONDS = 2.0
LIMIT = 8 << 20
ASK_SECONDS = 5.0
_METHODS = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})
_OWN = "gateway"
_IN_PLACE = responses(BudgetExceeded, UpstreamFailed, UpstreamAway, UpstreamSilent)
"""What the gateway itself may answer in place of a service."""


class MergedOpenApi:
    """The merged document as JSON bytes, kept for a minute, a little while if a service was silent."""

    def __init__(
        self, upstreams: Upstreams, signer: PrincipalSigner, own: Callable[[], dict[str, Any]]
    ) -> None:
        self._upstreams = upstreams
        self._signer = signer
        self._own = own
        self._document = b""
        self._until = 0.0
        self._lock = asyncio.Lock()
        self._known: dict[str, dict[str, Any]] = {}

    async def get(self) -> bytes:
        """The document; services that do not answer are described as they last were."""
        if time.monotonic() < self._until:
            return self._document
        async with self._lock:
            if time.monotonic() >= self._until:
                names = list(self._upstreams.probes)
                found = await asyncio.gather(*(self._ask(name) for name in names))
                self._known |= {
                    name: document
                    for name, document in zip(names, found, strict=True)
                    if document is not None
                }
                self._document = orjson.dumps(merge(self._own(), self._known))
                wait = RETRY_SECONDS if None in found else FRESH_SECONDS
                self._until = time.monotonic() + wait
        return self._document

    async def _ask(self, service: str) -> dict[str, Any] | None:
        principal = Principal("gateway", "system", frozenset({ADMIN}))
        token = self._signer.sign(principal, audience=service)
        deadline = asyncio.get_running_loop().time() + ASK_SECONDS
        request = Request(
            "GET",
            "/openapi.json",
            [(b"authorization", b"Bearer " + token.encode())],
            replayable=True,
            deadline=deadline,
        )
        try:
            response = await self._upstreams.probes[service].open(request)
            body = await response.read_all(LIMIT)
            document = orjson.loads(body) if response.status == 200 else None
        except (UpstreamError, orjson.JSONDecodeError) as error:
            log.warning("a service did not describe itself", service=service, error=str(error))
            return None
        return document if isinstance(document, dict) else None


def merge(own: Mapping[str, Any], services: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One OpenAPI 3.1 document.

    Paths appear only where the gateway really leads to that service. A component that two documents
    define differently is renamed to `<Service><Name>` in the later one. Operation ids are made
    unique in the same way.
    """
    merged: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Latticework",
            "version": "1",
            "description": "Every room of the suite behind one address and one key.",
        },
        "paths": {},
        "components": {
            "schemas": {},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "A key `lw_...`"}},
        },
        "security": [{"key": []}],
        "tags": [],
    }
    operations: set[str] = set()
    for service, document in [(_OWN, own), *sorted(services.items())]:
        _add(merged, service, document, operations)
    return merged


def _add(merged: dict[str, Any], service: str, document: Mapping[str, Any], operations: set[str]) -> None:
    schemas: dict[str, Any] = merged["components"]["schemas"]
    prefix = "".join(word.capitalize() for word in service.split("_"))
    offered = document.get("components", {}).get("schemas", {})
    renamed = {
        f"#/components/schemas/{name}": f"#/components/schemas/{prefix}{name}"
        for name, schema in offered.items()
        if name in schemas and schemas[name] != schema
    }
    for name, schema in offered.items():
        target = renamed.get(f"#/components/schemas/{name}", f"#/components/schemas/{name}")
        schemas.setdefault(target.rpartition("/")[2], _redirect(schema, renamed))
    for path, item in document.get("paths", {}).items():
        if not _leads_to(path, service) or path in merged["paths"]:
            continue
        redirected = _redirect(item, renamed)
        for method, operation in redirected.items():
            if method in _METHODS:
                _own_operation(operation, service, prefix, operations)
                if path in ("/healthz", "/readyz"):
                    operation["security"] = []
        merged["paths"][path] = redirected
    known = {tag["name"] for tag in merged["tags"]}
    merged["tags"] += [tag for tag in document.get("tags", []) if tag["name"] not in known]


def _leads_to(path: str, service: str) -> bool:
    concrete = path.replace("{", "").replace("}", "")
    route = find_route(concrete)
    return service == _OWN if route is None else route.service == service


def _own_operation(operation: dict[str, Any], service: str, prefix: str, operations: set[str]) -> None:
    operation.setdefault("tags", [service])
    operation["x-latticework-service"] = service
    if service != _OWN:
        answers = operation.setdefault("responses", {})
        for status, answer in _IN_PLACE.items():
            answers.setdefault(str(status), answer)
    name = operation.get("operationId")
    if name is not None:
        if name in operations:
            name = operation["operationId"] = f"{prefix}_{name}"
        operations.add(name)


def _redirect(value: Any, renamed: Mapping[str, str]) -> Any:
    """A copy of `value` in which references follow the renaming."""
    if isinstance(value, dict):
        return {
            key: renamed.get(inner, inner)
            if key == "$ref" and isinstance(inner, str)
            else _redirect(inner, renamed)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_redirect(inner, renamed) for inner in value]
    if isinstance(value, str):
        return renamed.get(value, value)  # The mapping of a discriminator.
    return value
