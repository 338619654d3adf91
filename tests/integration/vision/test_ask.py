"""Asking a model through the real HTTP path, with a scripted one at the other end."""

from __future__ import annotations

import base64
import io
import json
import random
import re
from collections.abc import Callable
from typing import Any

import httpx
import jwt
import pytest
from PIL import Image

from benchmarks.vision.harness import MODES, Score, evaluate, is_correct, wilson_interval
from benchmarks.vision.scenes import KINDS, Scene, make_scene
from services.vision.app import create_app
from services.vision.scaffold import Matrix, nearest_dot
from tests.conftest import SECRET
from tests.integration.vision.conftest import token, vision_settings
from tests.integration.vision.servers import ScriptedVisionModel, serving
from tests.unit.vision.images import oriented_jpeg, picture, save

JPEG = save(picture(960, 720), "JPEG")


def ask(client: httpx.Client, image: bytes = JPEG, **options: Any) -> httpx.Response:
    options.setdefault("question", "Which colour is the mug?")
    return client.post("/ask", files={"image": ("x", image)}, data={"options": json.dumps(options)})


def images_of(messages: list[dict[str, Any]]) -> list[Image.Image]:
    """The pictures a model was sent, decoded."""
    urls = [part["image_url"]["url"] for part in messages[1]["content"] if part["type"] == "image_url"]
    assert all(url.startswith("data:image/jpeg;base64,") for url in urls)
    return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = re.findall(r"event: (\w+)\ndata: (.*)\n\n", text)
    return [(name, json.loads(data)) for name, data in found]


def test_one_call_with_the_published_settings(
    client: httpx.Client, scripted_model: ScriptedVisionModel
) -> None:
    scripted_model.script = lambda messages: "The mug at (2,5) is red. [[red]]"
    answer = ask(client, strategy="answer").json()
    assert answer["answer"] == "red"
    (body,) = scripted_model.requests
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("scripted-vision", 0, 4096)
    first, second = images_of(body["messages"])
    assert first.size == second.size == (960, 720)
    assert body["messages"][1]["content"][0]["image_url"]["detail"] == "high"
    assert answer["usage"] == {"calls": 1, "prompt_tokens": 100, "completion_tokens": 10}


def test_the_principal_is_delegated_to_the_gateway(
    client: httpx.Client, scripted_model: ScriptedVisionModel
) -> None:
    ask(client, strategy="answer")
    (header,) = scripted_model.authorizations
    claims = jwt.decode(
        header.removeprefix("Bearer "), SECRET, algorithms=["HS256"], audience="gateway", issuer="latticework"
    )
    assert (claims["sub"], claims["tenant"]) == ("key_1", "tenant_1")


@pytest.mark.parametrize(
    ("mode", "images"),
    [("direct", 1), ("cot", 1), ("scaffold", 2), ("scaffold_cot", 2), ("scaffold_single", 1)],
)
def test_modes_send_the_images_they_name(
    client: httpx.Client, scripted_model: ScriptedVisionModel, mode: str, images: int
) -> None:
    assert ask(client, mode=mode, strategy="answer").status_code == 200
    (body,) = scripted_model.requests
    assert len(images_of(body["messages"])) == images
    system = body["messages"][0]["content"]
    assert ("dot" in system) == mode.startswith("scaffold")


def test_active_perception_zooms_where_the_model_points(
    client: httpx.Client, scripted_model: ScriptedVisionModel
) -> None:
    replies = iter(["Look at (2,5). [[(2,5)]]", "[[K7]]"])
    scripted_model.script = lambda messages: next(replies)
    large = save(picture(3000, 1500), "JPEG")
    answer = ask(client, large, strategy="active_perception", crop_radius=1.0, model_side=768).json()
    assert answer["answer"] == "K7"
    assert answer["path"] == [{"row": 2, "col": 5}]
    located, zoomed = scripted_model.requests
    assert [image.size for image in images_of(located["messages"])] == [(768, 384)] * 2
    *_, crop = images_of(zoomed["messages"])
    assert max(crop.size) == 768
    phases = [(phase["phase"], phase["status"]) for phase in answer["phases"]]
    assert phases == [
        ("locate", "started"),
        ("locate", "finished"),
        ("zoom", "started"),
        ("zoom", "finished"),
    ]
    assert answer["phases"][2]["crop"] == [1714, 214, 2572, 643]


def test_coarse_to_fine_points_at_stored_pixels(
    client: httpx.Client, scripted_model: ScriptedVisionModel
) -> None:
    """A phone picture lying on its side: the point comes back on the file's own pixels."""
    replies = iter(["[[(4,6)]]", "[[(3,3)]]"])
    scripted_model.script = lambda messages: next(replies)
    data = oriented_jpeg(6, 1200, 800)
    answer = ask(client, data, strategy="coarse_to_fine", question="the screw").json()
    left, top, right, bottom = answer["box"]  # on the upright image of 800 x 1200
    x, y = answer["point"]["x"], answer["point"]["y"]
    upright_x, upright_y = 799 - y, x  # orientation 6 is a quarter turn
    assert left - 1 <= upright_x <= right + 1
    assert top - 1 <= upright_y <= bottom + 1
    assert abs(upright_x - 6 * 800 / 13) < 800 / 26 + 2
    assert abs(upright_y - 4 * 1200 / 9) < 1200 / 18 + 2


def test_phases_stream_as_they_run(client: httpx.Client, scripted_model: ScriptedVisionModel) -> None:
    scripted_model.script = lambda messages: "[[(2,3)]]"
    for options, headers in (({"stream": True}, {}), ({}, {"Accept": "text/event-stream"})):
        response = client.post(
            "/ask",
            files={"image": JPEG},
            data={"options": json.dumps({"question": "?", **options})},
            headers=headers,
        )
        assert response.headers["content-type"].startswith("text/event-stream")
        events = events_of(response.text)
        assert [name for name, _ in events] == ["phase"] * 4 + ["answer"]
        assert events[-1][1]["answer"] == "(2,3)"
        assert events[1][1]["target"] == {"row": 2, "col": 3}


def test_a_failure_within_a_stream_is_an_error_event(
    client: httpx.Client, scripted_model: ScriptedVisionModel
) -> None:
    scripted_model.failure = (402, {"error": {"message": "no money", "code": "insufficient_quota"}})
    (phase, error) = events_of(ask(client, stream=True).text)
    assert phase[0] == "phase"
    assert error[0] == "error"
    assert (error[1]["status"], error[1]["code"]) == (402, "insufficient_quota")


def test_errors_of_the_image_keep_their_status_even_when_streaming(client: httpx.Client) -> None:
    response = ask(client, save(picture(), "PNG")[:-1], stream=True)
    assert (response.status_code, response.json()["code"]) == (422, "image_malformed")


def test_budgets_end_the_look(client: httpx.Client, scripted_model: ScriptedVisionModel) -> None:
    scripted_model.script = lambda messages: "[[(2,3)]]"
    response = ask(client, strategy="active_perception", max_calls=1)
    assert (response.status_code, response.json()["code"]) == (402, "budget_exhausted")
    assert len(scripted_model.requests) == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [(402, "insufficient_quota"), (403, "permission_error"), (400, "context_length_exceeded")],
)
def test_what_the_gateway_refuses_reaches_the_caller(
    client: httpx.Client, scripted_model: ScriptedVisionModel, status: int, code: str
) -> None:
    scripted_model.failure = (status, {"error": {"message": "refused", "code": code}})
    response = ask(client)
    assert (response.status_code, response.json()["code"]) == (status, code)


def test_a_configured_model_that_is_gone_is_not_configured(
    client: httpx.Client, scripted_model: ScriptedVisionModel
) -> None:
    scripted_model.failure = (404, {"error": {"message": "no such model", "code": "model_not_found"}})
    response = ask(client)
    assert (response.status_code, response.json()["code"]) == (503, "model_not_configured")
    named = ask(client, model="other")
    assert (named.status_code, named.json()["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    "options",
    [{"question": ""}, {"mode": "sequence"}, {"rows": 26, "cols": 26}, {"max_crops": 0}, {"levels": []}],
)
def test_options_are_checked(client: httpx.Client, options: dict[str, Any]) -> None:
    response = ask(client, **options)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_options")


def test_without_a_model_everything_else_works() -> None:
    headers = {"Authorization": f"Bearer {token()}"}
    with serving(create_app(vision_settings(vision_workers=1))) as url:
        with httpx.Client(
            base_url=f"{url}/v1/vision", headers=headers, timeout=60, trust_env=False
        ) as client:
            refused = ask(client)
            assert (refused.status_code, refused.json()["code"]) == (503, "model_not_configured")
            assert "LATTICEWORK_VISION_MODEL" in refused.json()["detail"]
            assert client.get("/capabilities").json()["ask"] is False
            assert client.post("/scaffold", files={"image": JPEG}).status_code == 200
            assert client.post("/prompt", json={"question": "?"}).status_code == 200


class TestScenes:
    """The evaluation harness, end to end, on scenes with exact ground truth."""

    @staticmethod
    def scripted(scenes: list[Scene], error: float, seed: int = 0) -> Callable[[list[dict[str, Any]]], str]:
        """A model that localises with a bounded error and follows the guidelines' format: it knows
        the scene by its question, the matrix by the prompt, and is right where it was told to use
        dots; without them it guesses among the choices."""
        generator = random.Random(seed)
        known = {scene.question: scene for scene in scenes}

        def script(messages: list[dict[str, Any]]) -> str:
            system = messages[0]["content"]
            text = next(part["text"] for part in messages[1]["content"] if part["type"] == "text")
            scene = next(scene for question, scene in known.items() if question in text)
            found = re.search(r"form (\d+) rows and (\d+) columns", system)
            if found is None:
                return f"[[{generator.choice(scene.choices)}]]"
            matrix = Matrix(int(found[1]), int(found[2]))
            size = scene.image.size
            x = scene.target[0] + generator.uniform(-error, error)
            y = scene.target[1] + generator.uniform(-error, error)
            dot = nearest_dot(matrix, size, x, y)
            label = f"({dot.row},{dot.col})"
            if "Do not answer yet" in text:
                return f"It is near {label}. [[{label}]]"
            return f"Near {label} I see it. [[{scene.answer}]]"

        return script

    def test_modes_are_scored_with_their_intervals(
        self, vision_url: str, client: httpx.Client, scripted_model: ScriptedVisionModel
    ) -> None:
        by_question = {scene.question: scene for scene in map(make_scene, range(16))}
        scenes = list(by_question.values())[:12]
        assert {scene.kind for scene in scenes} == set(KINDS)
        scripted_model.script = self.scripted(scenes, error=30.0)
        with httpx.Client(base_url=vision_url, headers=client.headers, timeout=60, trust_env=False) as caller:
            scores = {score.mode: score for score in evaluate(caller, scenes)}
            zoomed = evaluate(caller, scenes, ["scaffold"], strategy="active_perception")[0]
        assert list(scores) == list(MODES)
        assert scores["scaffold"].hits == scores["scaffold_single"].hits == 12
        assert scores["direct"].hits < 12
        assert scores["cot"].hits < 12
        assert (zoomed.hits, zoomed.calls) == (12, 24)
        assert scores["scaffold"].row()["wilson_95"] == [0.7575, 1.0]

    def test_crops_contain_what_was_asked_for(
        self, vision_url: str, client: httpx.Client, scripted_model: ScriptedVisionModel
    ) -> None:
        """With an error of up to a third of a cell the crop of radius 2 still shows the target."""
        scenes = [make_scene(seed) for seed in range(8)]
        scripted_model.script = self.scripted(scenes, error=40.0, seed=1)
        for scene in scenes:
            sink = io.BytesIO()
            scene.image.save(sink, "JPEG")
            answer = ask(client, sink.getvalue(), question=scene.question).json()
            left, top, right, bottom = answer["phases"][2]["crop"]
            assert left <= scene.target[0] < right
            assert top <= scene.target[1] < bottom

    def test_scoring_wants_one_choice_and_the_right_one(self) -> None:
        scene = next(scene for scene in map(make_scene, range(20)) if scene.kind == "relation")
        other = "no" if scene.answer == "yes" else "yes"
        assert is_correct(f"{scene.answer}.", scene)
        assert is_correct(f"The answer is {scene.answer.upper()}", scene)
        assert not is_correct(other, scene)
        assert not is_correct("yes or no", scene)
        assert not is_correct(None, scene)

    @pytest.mark.parametrize(
        ("hits", "count", "expected"),
        [(0, 10, (0.0, 0.2775)), (5, 10, (0.2366, 0.7634)), (81, 263, (0.2553, 0.3662)), (0, 0, (0.0, 1.0))],
    )
    def test_wilson_interval_against_published_values(
        self, hits: int, count: int, expected: tuple[float, float]
    ) -> None:
        """(81, 263) is Newcombe's example, Statistics in Medicine 17 (1998), table I, method 3."""
        assert wilson_interval(hits, count) == pytest.approx(expected, abs=5e-5)

    def test_scores_say_how_many(self) -> None:
        assert Score("direct", "answer", 4, 1, 2, 4).row()["accuracy"] == 0.25
