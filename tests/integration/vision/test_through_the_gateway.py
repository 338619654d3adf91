"""`/ask` as a caller has it: key, gateway, vision service, gateway again, model; every token metered."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx

from services.vision.app import create_app
from shared.app import free_port
from tests.integration.gateway.live import gateway
from tests.integration.vision.conftest import vision_settings
from tests.integration.vision.servers import ScriptedVisionModel, serving
from tests.integration.vision.test_ask import events_of, images_of
from tests.unit.vision.images import picture, save

JPEG = save(picture(1600, 1200), "JPEG")


async def ask(url: str, key: str, **options: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
        return await client.post(
            f"{url}/v1/vision/ask",
            headers=headers,
            files={"image": ("photo.jpg", JPEG)},
            data={"options": json.dumps({"question": "What does the sign say?", **options})},
        )


async def test_a_look_goes_through_the_gateway_twice_and_is_paid_for(redis_url: str, tmp_path: Path) -> None:
    model, port = ScriptedVisionModel(), free_port()
    model.script = lambda messages: "At (2,5). [[(2,5)]]"
    with serving(model.app) as model_url:
        upstreams = {"vision": f"http://127.0.0.1:{port}", "model": model_url}
        async with gateway(redis_url, tmp_path, upstreams) as live:
            settings = vision_settings(vision_model="eyes", vision_workers=1, gateway_url=live.url)
            service = serving(create_app(settings), port)
            await asyncio.to_thread(service.__enter__)
            try:
                both = await live.new_key(scopes=("vision", "model"))
                answer = (await ask(live.url, both)).json()
                assert (answer["answer"], answer["usage"]["calls"]) == ("(2,5)", 2)
                assert [len(images_of(body["messages"])) for body in model.requests] == [2, 3]
                assert {body["model"] for body in model.requests} == {"eyes"}
                usage = await live.usage(service="model")
                assert (usage["requests"], usage["prompt_tokens"], usage["completion_tokens"]) == (2, 200, 20)

                streamed = await ask(live.url, both, stream=True)
                assert streamed.headers["content-type"].startswith("text/event-stream")
                assert [name for name, _ in events_of(streamed.text)] == ["phase"] * 4 + ["answer"]

                without = await live.new_key(scopes=("vision",))
                refused = await ask(live.url, without)
                assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
                poor = await live.new_key(scopes=("vision", "model"), budget={"tokens": 50})
                assert (await ask(live.url, poor)).status_code == 402
                assert len(model.requests) == 4
            finally:
                await asyncio.to_thread(service.__exit__, None, None, None)
