"""The text2sql service on a real port, its worker, a scripted gateway, and callers of two tenants."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.redis_server import RedisServer
from services.text2sql.app import create_app
from services.text2sql.settings import Text2SqlSettings
from shared.principal import Principal, PrincipalSigner
from shared.settings import load_settings
from tests.conftest import SECRET
from tests.integration.text2sql.service.scripted_gateway import Script, ScriptedGateway
from tests.integration.vision.servers import serving

OWNER = Principal(key_id="key_owner", tenant="tenant_a", scopes=frozenset({"sql", "model"}))
OTHER = Principal(key_id="key_other", tenant="tenant_b", scopes=frozenset({"sql", "model"}))
ADMIN = Principal(key_id="key_admin", tenant="tenant_a", scopes=frozenset({"admin"}))
READY_SECONDS = 60.0

TOTALS_PROGRAM = """\
def solve(db):
    # Step 1: join orders and customers
    rows = join(db.table("orders"), db.table("customer"), [("customer_id", "id")])
    # Step 2: total amount per country
    out = []
    for (country,), members in group(rows, ["country"]):
        out.append([country, sql_sum([r["amount"] for r in members])])
    return {"columns": ["country", "total"], "rows": out, "ordered": False}"""

SCRIPTS = {
    "total amount per country": Script(
        TOTALS_PROGRAM,
        "SELECT c.country, SUM(o.amount) AS total FROM orders AS o JOIN customer AS c "
        "ON o.customer_id = c.id GROUP BY c.country",
    ),
    "all orders": Script(
        'def solve(db):\n    # Step 1: load\n    rows = db.table("orders")\n    # Step 2: project\n'
        '    return {"columns": ["id"], "rows": [[r["id"]] for r in rows], "ordered": False}',
        "SELECT id FROM orders",
    ),
    "remove the customers": Script(
        'def solve(db):\n    # Step 1: load\n    rows = db.table("customer")\n    # Step 2: count\n'
        '    return {"columns": ["n"], "rows": [[len(rows)]], "ordered": False}',
        "DELETE FROM customer",
    ),
}


@pytest.fixture(scope="session")
def gateway() -> ScriptedGateway:
    return ScriptedGateway(SCRIPTS)


@pytest.fixture(scope="session")
def settings(
    gateway: ScriptedGateway, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Text2SqlSettings]:
    home = tmp_path_factory.mktemp("text2sql-home")
    with serving(gateway.app) as gateway_url:
        yield load_settings(
            Text2SqlSettings,
            home=home,
            redis_url=redis_server.url,
            gateway_url=gateway_url,
            principal_secret=SECRET,
            credentials_secret=SECRET,
            jobs_namespace="t2s",
            text2sql_demo=False,
            text2sql_model_profile="full",
            log_level="error",
        )


@pytest.fixture(scope="session")
def worker(settings: Text2SqlSettings) -> Iterator[None]:
    """A real worker process of the pool text2sql."""
    assert settings.redis_url is not None
    environment = {
        **os.environ,
        "LATTICEWORK_HOME": str(settings.home),
        "LATTICEWORK_REDIS_URL": settings.redis_url.get_secret_value(),
        "LATTICEWORK_GATEWAY_URL": settings.gateway_url,
        "LATTICEWORK_PRINCIPAL_SECRET": SECRET,
        "LATTICEWORK_CREDENTIALS_SECRET": SECRET,
        "LATTICEWORK_JOBS_NAMESPACE": "t2s",
        "LATTICEWORK_JOBS_MODULES": '["services.text2sql.jobs"]',
        "LATTICEWORK_TEXT2SQL_MODEL_PROFILE": "full",
        "LATTICEWORK_LOG_LEVEL": "error",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "shared.jobs.worker", "--pool", "text2sql"], env=environment
    )
    yield
    process.terminate()
    process.wait(30)


@pytest.fixture(scope="session")
def service_url(settings: Text2SqlSettings) -> Iterator[str]:
    with serving(create_app(settings)) as url:
        yield url


def caller(url: str, principal: Principal) -> httpx.Client:
    """A client with the principal's token."""
    token = PrincipalSigner(SECRET).sign(principal, audience="text2sql", lifetime=3_600)
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.Client(base_url=f"{url}/v1/sql", headers=headers, timeout=60, trust_env=False)


@pytest.fixture(scope="session")
def owner(service_url: str) -> Iterator[httpx.Client]:
    with caller(service_url, OWNER) as client:
        yield client


@pytest.fixture(scope="session")
def other(service_url: str) -> Iterator[httpx.Client]:
    with caller(service_url, OTHER) as client:
        yield client


@pytest.fixture(scope="session")
def admin(service_url: str) -> Iterator[httpx.Client]:
    with caller(service_url, ADMIN) as client:
        yield client


def make_shop(path: Path) -> Path:
    """A little shop: 3 customers, 120 orders."""
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT, country TEXT, email TEXT);"
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customer (id), "
        "amount REAL, note TEXT);"
        "INSERT INTO customer VALUES (1, 'Ada', 'Italy', 'ada@x'), (2, 'Bo', 'Norway', 'bo@x'), "
        "(3, 'Cy', 'Italy', NULL);"
    )
    connection.executemany(
        "INSERT INTO orders VALUES (?, ?, ?, ?)",
        [(number, number % 3 + 1, number * 1.5, None) for number in range(1, 121)],
    )
    connection.commit()
    connection.close()
    return path


def wait_until_ready(client: httpx.Client, name: str) -> dict[str, Any]:
    """The database once its reading has ended well."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        view: dict[str, Any] = client.get(f"/databases/{name}").json()
        if view["state"] == "ready":
            return view
        assert view["state"] != "failed", view
        time.sleep(0.1)
    raise AssertionError(f"{name} did not become ready")


def upload(client: httpx.Client, name: str, files: dict[str, bytes]) -> httpx.Response:
    """Post files as a database."""
    parts = [("files", (file, content, "application/octet-stream")) for file, content in files.items()]
    return client.post("/databases/upload", data={"name": name}, files=parts)


@pytest.fixture(scope="session")
def shop(owner: httpx.Client, worker: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An uploaded database `shop` of tenant_a, ready to be asked."""
    path = make_shop(tmp_path_factory.mktemp("shop") / "shop.sqlite")
    answer = upload(owner, "shop", {"shop.sqlite": path.read_bytes()})
    assert answer.status_code == 201, answer.text
    wait_until_ready(owner, "shop")
    return "shop"
