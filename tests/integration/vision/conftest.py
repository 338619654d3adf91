"""The vision service on a real port, a scripted model behind it, and callers with tokens."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from pydantic import SecretStr

from services.vision.app import create_app
from services.vision.settings import VisionSettings
from shared.principal import Principal, PrincipalSigner
from tests.conftest import SECRET
from tests.integration.vision.servers import ScriptedVisionModel, serving

CALLER = Principal(key_id="key_1", tenant="tenant_1", scopes=frozenset({"vision", "model"}))


def token(principal: Principal = CALLER) -> str:
    """A principal token for the vision service, for longer than any test takes."""
    return PrincipalSigner(SECRET).sign(principal, audience="vision", lifetime=7200)


def vision_settings(**changes: object) -> VisionSettings:
    """Settings of a service under test."""
    values: dict[str, object] = {"principal_secret": SecretStr(SECRET), "log_level": "error", **changes}
    return VisionSettings.model_validate(values)


@pytest.fixture(scope="session")
def scripted_model() -> ScriptedVisionModel:
    return ScriptedVisionModel()


@pytest.fixture(scope="session")
def model_url(scripted_model: ScriptedVisionModel) -> Iterator[str]:
    with serving(scripted_model.app) as url:
        yield url


@pytest.fixture(scope="session")
def vision_url(model_url: str) -> Iterator[str]:
    """The service with a configured model."""
    settings = vision_settings(vision_model="scripted-vision", gateway_url=model_url)
    with serving(create_app(settings)) as url:
        yield url


@pytest.fixture
def client(vision_url: str, scripted_model: ScriptedVisionModel) -> Iterator[httpx.Client]:
    """A caller with the scope `vision`."""
    scripted_model.reset()
    headers = {"Authorization": f"Bearer {token()}"}
    with httpx.Client(
        base_url=f"{vision_url}/v1/vision", headers=headers, timeout=60, trust_env=False
    ) as caller:
        yield caller
