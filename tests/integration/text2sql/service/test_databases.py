"""Databases over HTTP: upload, register, describe, grant, refuse, forget."""

from __future__ import annotations

import io
import sqlite3
import subprocess
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as parquet

from services.text2sql.settings import Text2SqlSettings
from tests.integration.text2sql.service.conftest import make_shop, upload, wait_until_ready


class TestUpload:
    def test_a_sqlite_file_is_read_and_profiled(self, owner: httpx.Client, shop: str) -> None:
        view = owner.get(f"/databases/{shop}").json()
        assert view["tables"] == ["customer", "orders"]
        assert view["source"] == "upload"
        assert view["fingerprint"]
        schema = owner.get(f"/databases/{shop}/schema").json()
        customer = schema["tables"][0]
        country = next(column for column in customer["columns"] if column["name"] == "country")
        assert country["samples"] == ["Italy", "Norway"]
        assert country["distinct_count"] == 2
        assert customer["row_count"] == 3
        assert schema["foreign_keys"][0]["referred_table"] == "customer"

    def test_csv_and_parquet_become_tables(self, owner: httpx.Client, worker: None) -> None:
        sink = io.BytesIO()
        parquet.write_table(pa.table({"city": ["Rome", "Oslo"], "people": [2_800_000, 700_000]}), sink)
        files = {
            "visits.csv": b"city,day,n\nRome,2024-01-02,3\nOslo,2024-01-03,\n",
            "towns.parquet": sink.getvalue(),
        }
        answer = upload(owner, "travel", files)
        assert answer.status_code == 201, answer.text
        view = wait_until_ready(owner, "travel")
        assert view["tables"] == ["towns", "visits"]
        schema = owner.get("/databases/travel/schema").json()
        types = {column["name"]: column["type"] for column in schema["tables"][1]["columns"]}
        assert types == {"city": "TEXT", "day": "TEXT", "n": "INTEGER"}

    def test_bad_files_are_named(self, owner: httpx.Client) -> None:
        assert upload(owner, "x1", {"a.exe": b"MZ"}).status_code == 415
        broken = upload(owner, "x2", {"a.sqlite": b"not a database at all"})
        assert (broken.status_code, broken.json()["code"]) == (422, "file_unreadable")
        header_only = upload(owner, "x3", {"a.sqlite": b"SQLite format 3\x00" + b"\x00" * 200})
        assert header_only.status_code == 422
        no_columns = upload(owner, "x4", {"a.parquet": b"PAR1"})
        assert no_columns.status_code == 422

    def test_a_name_is_taken_once(self, owner: httpx.Client, shop: str, tmp_path: Path) -> None:
        content = make_shop(tmp_path / "again.sqlite").read_bytes()
        answer = upload(owner, shop, {"again.sqlite": content})
        assert (answer.status_code, answer.json()["code"]) == (409, "name_taken")


class TestRegister:
    def test_only_administrators_name_server_files(
        self, owner: httpx.Client, admin: httpx.Client, worker: None, tmp_path: Path
    ) -> None:
        url = f"sqlite:///{make_shop(tmp_path / 'local.sqlite')}"
        refused = owner.post("/databases", json={"name": "local", "url": url})
        assert refused.status_code == 403
        hosted = owner.post("/databases", json={"name": "h", "url": "postgresql://u:p@10.0.0.1/db"})
        assert hosted.status_code == 403
        made = admin.post("/databases", json={"name": "local", "url": url})
        assert made.status_code == 201
        assert made.headers["location"].endswith(made.json()["id"])
        assert wait_until_ready(admin, "local")["tables"] == ["customer", "orders"]

    def test_credentials_are_encrypted_and_never_shown(
        self, admin: httpx.Client, settings: Text2SqlSettings
    ) -> None:
        url = "postgresql://reader:very-secret-word@127.0.0.1:9/none"
        made = admin.post("/databases", json={"name": "remote", "url": url})
        assert made.status_code == 201
        assert "very-secret-word" not in made.text
        # In a process of its own: closing a file that SQLite has open here would drop SQLite's locks.
        files = [str(path) for path in settings.home.glob("text2sql.db*")]
        found = subprocess.run(["grep", "-c", "very-secret-word", *files], capture_output=True, check=False)
        assert found.returncode == 1

    def test_a_url_that_is_none(self, admin: httpx.Client) -> None:
        answer = admin.post("/databases", json={"name": "u", "url": "no url"})
        assert (answer.status_code, answer.json()["errors"][0]["location"]) == (422, "body.url")
        other = admin.post("/databases", json={"name": "u", "url": "oracle://a/b"})
        assert other.status_code == 422

    def test_repeating_with_a_key_gives_the_same_database(
        self, admin: httpx.Client, worker: None, tmp_path: Path
    ) -> None:
        body = {"name": "again", "url": f"sqlite:///{make_shop(tmp_path / 'again.sqlite')}"}
        headers = {"Idempotency-Key": "once-1"}
        first = admin.post("/databases", json=body, headers=headers)
        second = admin.post("/databases", json=body, headers=headers)
        assert first.status_code == second.status_code == 201
        assert first.json()["id"] == second.json()["id"]
        changed = admin.post("/databases", json={**body, "name": "other"}, headers=headers)
        assert changed.status_code == 409


class TestSemantics:
    def test_sensitive_columns_lose_their_samples(self, owner: httpx.Client, shop: str) -> None:
        body = {
            "descriptions": {"orders": "what was bought", "customer.country": "where the customer lives"},
            "synonyms": {"customer": ["client"]},
            "sensitive": ["customer.email"],
            "metrics": [{"name": "revenue", "definition": "sum of orders.amount"}],
        }
        assert owner.put(f"/databases/{shop}/semantics", json=body).status_code == 200
        assert owner.get(f"/databases/{shop}/semantics").json()["sensitive"] == ["customer.email"]
        schema = owner.get(f"/databases/{shop}/schema").json()
        email = schema["tables"][0]["columns"][3]
        assert (email["sensitive"], email["samples"]) == (True, [])
        assert schema["tables"][0]["synonyms"] == ["client"]
        assert schema["metrics"][0]["name"] == "revenue"
        refreshed = owner.post(f"/databases/{shop}/refresh")
        assert refreshed.status_code == 202

    def test_unknown_fields_are_refused(self, owner: httpx.Client, shop: str) -> None:
        assert owner.put(f"/databases/{shop}/semantics", json={"secret": []}).status_code == 422


class TestGrants:
    def test_other_tenants_see_nothing_until_granted(
        self, owner: httpx.Client, other: httpx.Client, shop: str
    ) -> None:
        database_id = owner.get(f"/databases/{shop}").json()["id"]
        for name in (shop, database_id):
            assert other.get(f"/databases/{name}").status_code == 404
            assert other.get(f"/databases/{name}/schema").status_code == 404
            assert other.delete(f"/databases/{name}").status_code == 404
            assert other.put(f"/databases/{name}/grants", json={"tenant": "tenant_b"}).status_code == 404
            assert other.put(f"/databases/{name}/semantics", json={}).status_code == 404
        granted = owner.put(f"/databases/{shop}/grants", json={"tenant": "tenant_b", "tables": ["orders"]})
        assert granted.json() == [{"tenant": "tenant_b", "tables": ["orders"]}]
        view = other.get(f"/databases/{shop}").json()
        assert (view["tables"], view["owned"]) == (["orders"], False)
        schema = other.get(f"/databases/{shop}/schema").json()
        assert [table["name"] for table in schema["tables"]] == ["orders"]
        assert schema["foreign_keys"] == []
        assert other.get(f"/databases/{shop}/grants").status_code == 404
        refused = other.post("/examples", json=_example("SELECT name FROM customer"))
        assert refused.status_code == 422
        assert other.post("/examples", json=_example("SELECT id FROM orders")).status_code == 201
        assert owner.delete(f"/databases/{shop}/grants/tenant_b").status_code == 204
        assert other.get(f"/databases/{shop}").status_code == 404

    def test_sharing_with_everyone_is_for_administrators(self, owner: httpx.Client, shop: str) -> None:
        assert owner.put(f"/databases/{shop}/grants", json={"tenant": "*"}).status_code == 403


def _example(sql: str) -> dict[str, object]:
    return {"examples": [{"database": "shop", "question": "which?", "sql": sql}]}


def test_a_removed_database_is_gone(owner: httpx.Client, worker: None, tmp_path: Path) -> None:
    content = make_shop(tmp_path / "gone.sqlite").read_bytes()
    assert upload(owner, "gone", {"gone.sqlite": content}).status_code == 201
    assert owner.delete("/databases/gone").status_code == 204
    assert owner.get("/databases/gone").status_code == 404


def test_uploads_in_wal_mode_are_converted(owner: httpx.Client, worker: None, tmp_path: Path) -> None:
    path = make_shop(tmp_path / "wal.sqlite")
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.close()
    assert upload(owner, "wal", {"wal.sqlite": path.read_bytes()}).status_code == 201
    assert wait_until_ready(owner, "wal")["tables"] == ["customer", "orders"]


def test_jobs_that_the_service_ends_are_counted(admin: httpx.Client) -> None:
    """Its upkeep fails lost and late jobs, too; the counter is there before the first one."""
    shown = admin.get(admin.base_url.join("/metrics")).text
    assert "# TYPE latticework_job_failures_total counter" in shown
