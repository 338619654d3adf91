"""Evaluations over HTTP, run by a real worker."""

from __future__ import annotations

import time
from typing import Any

import httpx


def test_an_evaluation_reports(owner: httpx.Client, other: httpx.Client, shop: str) -> None:
    items = [
        {
            "database": shop,
            "question": "What is the total amount per country?",
            "gold": [
                "SELECT country, SUM(amount) FROM orders "
                "JOIN customer ON customer.id = customer_id GROUP BY 1"
            ],
        },
        {"database": shop, "question": "Who painted the Mona Lisa?"},
    ]
    body = {"name": "shop-check", "items": items, "configurations": ["direct", "fast"]}
    started = owner.post("/evaluations", json=body)
    assert started.status_code == 202, started.text
    path = started.headers["location"].removeprefix("/v1/sql")
    view: dict[str, Any] = {}
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        view = owner.get(path).json()
        if view["state"] not in ("queued", "running"):
            break
        time.sleep(0.2)
    assert view["state"] == "succeeded", view
    fast = view["report"]["configurations"]["fast"]["summary"]
    assert (fast["ex_set"], fast["verified_rate"]) == (100.0, 100.0)
    assert (fast["refusal_precision"], fast["refusal_recall"]) == (100.0, 100.0)
    whole = owner.get(f"{path}/report").json()
    assert len(whole["configurations"]["direct"]["records"]) == 2
    markdown = owner.get(f"{path}/report", params={"format": "markdown"})
    assert "| fast | 1.0 | 100.0 |" in markdown.text
    plot = owner.get(f"{path}/report", params={"format": "png"})
    assert plot.content.startswith(b"\x89PNG")
    assert other.get(path).status_code == 404
    assert other.get(f"{path}/report").status_code == 404
    assert [item["id"] for item in owner.get("/evaluations").json()["data"]] == [view["id"]]


def test_databases_must_be_reachable(other: httpx.Client, shop: str) -> None:
    body = {"items": [{"database": shop, "question": "x", "gold": ["SELECT 1"]}]}
    assert other.post("/evaluations", json=body).status_code == 404
