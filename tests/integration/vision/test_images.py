"""The drawing routes over real HTTP: forms of requests and answers, edge cases, errors."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks.vision.photos import photo
from services.vision.scaffold import Affine
from tests.integration.vision.calls import image_of, post, problem
from tests.unit.vision.images import (
    animated,
    one_bit_png,
    oriented_jpeg,
    picture,
    save,
)

PNG = save(picture(), "PNG")
JPEG = save(picture(640, 480), "JPEG")


class TestForms:
    def test_json_multipart_and_raw_body_agree(self, client: httpx.Client) -> None:
        options = {"rows": 5, "cols": 4, "output": {"format": "png"}}
        body = {"image_b64": base64.b64encode(PNG).decode(), "options": options}
        answers = [
            client.post("/scaffold", json=body).json(),
            post(client, "/scaffold", PNG, **options).json(),
            client.post(
                "/scaffold",
                content=PNG,
                params={"options": json.dumps(options)},
                headers={"Content-Type": "image/png"},
            ).json(),
        ]
        for answer in answers:
            answer.pop("timing_ms")
        assert answers[0] == answers[1] == answers[2]
        assert len(answers[0]["dots"]) == 20
        assert answers[0]["media_type"] == "image/png"
        assert image_of(answers[0]).size == (320, 240)

    @pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
    def test_accept_answers_with_the_bytes_and_a_header(self, client: httpx.Client, form: str) -> None:
        response = client.post(
            "/scaffold", content=JPEG, headers={"Content-Type": "image/jpeg", "Accept": f"image/{form}"}
        )
        assert response.headers["content-type"] == f"image/{form}"
        drawn = Image.open(io.BytesIO(response.content))
        assert (drawn.format or "").lower() == form
        metadata = json.loads(response.headers["Scaffold-Metadata"])
        assert metadata["working_size"] == [640, 480]
        assert metadata["legibility"]["overlaps"] == 0
        assert "dots" not in metadata

    @pytest.mark.parametrize(
        ("accept", "media_type"),
        [
            ("*/*", "application/json"),
            ("image/*", "image/jpeg"),
            ("image/png;q=0.3, image/webp;q=0.9", "image/webp"),
            ("application/json;q=0.5, image/png", "image/png"),
            ("application/json, image/png", "application/json"),
        ],
    )
    def test_negotiation(self, client: httpx.Client, accept: str, media_type: str) -> None:
        headers = {"Content-Type": "image/png", "Accept": accept}
        assert client.post("/scaffold", content=PNG, headers=headers).headers["content-type"] == media_type

    def test_what_cannot_be_produced_is_not_acceptable(self, client: httpx.Client) -> None:
        headers = {"Content-Type": "image/png", "Accept": "text/html"}
        problem(client.post("/scaffold", content=PNG, headers=headers), 406, "not_acceptable")
        sequence = client.post("/sequence", files=[("image", PNG)], headers={"Accept": "image/png"})
        problem(sequence, 406, "not_acceptable")

    def test_same_bytes_in_same_bytes_out_and_an_entity_tag(self, client: httpx.Client) -> None:
        headers = {"Content-Type": "image/png", "Accept": "image/png"}
        first = client.post("/scaffold", content=PNG, headers=headers)
        second = client.post("/scaffold", content=PNG, headers=headers)
        assert first.content == second.content
        assert first.headers["etag"] == second.headers["etag"]
        cached = client.post(
            "/scaffold", content=PNG, headers={**headers, "If-None-Match": first.headers["etag"]}
        )
        assert cached.status_code == 304
        assert cached.content == b""
        other = client.post("/scaffold", content=PNG, params={"options": '{"rows": 5}'}, headers=headers)
        assert other.headers["etag"] != first.headers["etag"]
        as_jpeg = client.post("/scaffold", content=PNG, headers={**headers, "Accept": "image/jpeg"})
        assert as_jpeg.headers["etag"] != first.headers["etag"]

    def test_prompt_and_original_come_along_on_request(self, client: httpx.Client) -> None:
        answer = post(
            client,
            "/scaffold",
            PNG,
            include_original=True,
            output={"format": "png"},
            prompt={"question": "Where is the cup?"},
        ).json()
        original = Image.open(io.BytesIO(base64.b64decode(answer["original_b64"])))
        np.testing.assert_array_equal(np.asarray(original), np.asarray(Image.open(io.BytesIO(PNG))))
        assert "6 rows and 6 columns" in answer["prompt"]["system"]
        assert answer["prompt"]["images"] == ["original", "overlay"]

    def test_paper_profile_keeps_the_size_and_the_librarys_quality(self, client: httpx.Client) -> None:
        large = save(picture(2400, 300), "JPEG")
        paper = post(client, "/scaffold", large, profile="paper").json()
        legible = post(client, "/scaffold", large).json()
        assert paper["working_size"] == [2400, 300]
        assert legible["working_size"] == [2048, 256]
        assert legible["scale_x"] == pytest.approx(2048 / 2400, abs=1e-4)
        assert "reduced" in legible["warnings"]
        assert len(base64.b64decode(paper["image_b64"])) > 0


class TestWayBack:
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_dots_lead_back_to_stored_pixels(self, client: httpx.Client, orientation: int) -> None:
        """EXIF orientation and reduction together: the transform and every dot agree."""
        data = oriented_jpeg(orientation, 640, 400)
        answer = post(client, "/scaffold", data, resize={"max_side": 500}).json()
        assert answer["orientation"] == orientation
        assert answer["original_size"] == [640, 400]
        transform = Affine.from_rows(answer["transform"])
        for dot in answer["dots"]:
            x, y = transform.apply(dot["x"], dot["y"])
            assert (dot["x_original"], dot["y_original"]) == pytest.approx((x, y), abs=0.01)
            assert -0.5 <= x <= 639.5
            assert -0.5 <= y <= 399.5
        resolved = client.post(
            "/resolve",
            json={
                "text": "It is at (2,5).",
                "size": answer["working_size"],
                "transform": answer["transform"],
                "points": [
                    {
                        "x": answer["dots"][10]["x_original"],
                        "y": answer["dots"][10]["y_original"],
                        "original": True,
                    }
                ],
            },
        ).json()
        (mention,) = resolved["mentions"]
        dot = answer["dots"][10]
        assert dot["label"] == "(2,5)" == resolved["points"][0]["label"]
        assert (mention["x"], mention["y"]) == (dot["x"], dot["y"])
        assert mention["x_original"] == pytest.approx(dot["x_original"], abs=0.01)


class TestCrop:
    def test_labels_stay_true_in_the_crop(self, client: httpx.Client) -> None:
        data = save(picture(1400, 700), "PNG")
        answer = post(
            client, "/crop", data, center={"row": 3, "col": 2}, radius=1, output={"format": "png"}
        ).json()
        assert answer["box_working"] == [200, 200, 600, 400]
        assert image_of(answer).size == (400, 200)
        places = {dot["label"]: (dot["x"], dot["y"]) for dot in answer["dots"]}
        assert places["(3,2)"] == (200, 100)
        assert Affine.from_rows(answer["transform"]).apply(200, 100) == (400, 300)

    def test_crop_comes_from_the_full_resolution(self, client: httpx.Client) -> None:
        large = picture(2400, 1200)
        data = save(large, "PNG", compress_level=1)
        answer = post(
            client,
            "/crop",
            data,
            center={"row": 3, "col": 3},
            radius=0.5,
            mark="none",
            output={"format": "png"},
        ).json()
        left, top, right, bottom = answer["box_working"]
        expected = np.asarray(large)[top:bottom, left:right]
        np.testing.assert_array_equal(np.asarray(image_of(answer)), expected)

    def test_rescaffold_draws_a_matrix_of_its_own(self, client: httpx.Client) -> None:
        data = save(picture(1400, 700), "JPEG")
        answer = post(
            client,
            "/crop",
            data,
            points=[{"row": 2, "col": 2}, {"row": 4, "col": 3}],
            radius=1,
            mark="rescaffold",
            crop_matrix={"rows": 4, "cols": 3},
        ).json()
        assert answer["matrix"] == {"rows": 4, "cols": 3}
        assert len(answer["dots"]) == 12
        dot = answer["dots"][0]
        assert (dot["x_original"], dot["y_original"]) == pytest.approx(
            Affine.from_rows(answer["transform"]).apply(dot["x"], dot["y"]), abs=0.01
        )

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"center": {"row": 7, "col": 1}},
            {"center": {"row": 1, "col": 1}, "points": [{"row": 1, "col": 1}]},
            {"center": {"row": 1, "col": 1}, "radius": 0},
        ],
    )
    def test_crops_need_one_place_that_exists(self, client: httpx.Client, options: dict[str, Any]) -> None:
        problem(post(client, "/crop", PNG, **options), 400, "invalid_options")


class TestSequence:
    def test_images_are_numbered_in_order(self, client: httpx.Client) -> None:
        files = [("image", ("a", save(picture(400, 300, seed=k), "PNG"))) for k in range(3)]
        options = json.dumps({"prompt": {"question": "What changed?"}})
        answer = client.post("/sequence", files=files, data={"options": options}).json()
        assert [entry["t"] for entry in answer["images"]] == [1, 2, 3]
        assert answer["images"][1]["dots"][0]["label"] == "(2,1,1)"
        assert "(t,x,y)" in answer["prompt"]["system"]
        assert answer["prompt"]["images"] == ["overlay"] * 3

    @pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
    def test_frames_of_an_animation_are_a_sequence(self, client: httpx.Client, kind: str) -> None:
        answer = post(client, "/scaffold", animated(kind), frame="all").json()
        assert [entry["t"] for entry in answer["images"]] == [1, 2, 3]
        single = post(client, "/scaffold", animated(kind)).json()
        assert "animated" in single["warnings"]
        assert single["t"] is None

    def test_crops_and_checks_take_the_first_frame_and_say_so(self, client: httpx.Client) -> None:
        crop = post(client, "/crop", animated("GIF"), frame="all", center={"row": 2, "col": 2})
        assert "animated" in crop.json()["warnings"]

    def test_sequences_are_bounded_in_number_and_pixels(self, client: httpx.Client) -> None:
        many = [("image", ("x", PNG))] * 17
        assert client.post("/sequence", files=many).status_code == 400
        body = {"images": [{"image_b64": base64.b64encode(one_bit_png(6000)).decode()}] * 2}
        problem(client.post("/sequence", json=body), 422, "image_too_large")
        problem(post(client, "/scaffold", animated("GIF", 18, (64, 64)), frame="all"), 422, "too_many_frames")


class TestWords:
    def test_prompt_renders_messages(self, client: httpx.Client) -> None:
        body = {
            "question": "Where?",
            "mode": "sequence",
            "images": 2,
            "image_urls": ["u:1", "u:2"],
            "locale": "de",
        }
        answer = client.post("/prompt", json=body).json()
        assert [part.get("image_url", {}).get("url") for part in answer["messages"][1]["content"]] == [
            "u:1",
            "u:2",
            None,
        ]
        assert "zwei" in answer["system"] or "2" in answer["system"]
        problem(client.post("/prompt", json={**body, "image_urls": ["u:1"]}), 400, "invalid_options")

    @pytest.mark.parametrize(
        "body",
        [
            {"rows": 6},
            {"text": "x", "rows": 0},
            {"points": [{"x": 1, "y": 2}]},
            {"points": [{"x": 900, "y": 2}], "size": [700, 700]},
            {"text": "x", "transform": [[1, 0, 0], [0, 1, 0]]},
            {"text": "x", "size": [9, 9], "transform": [[0, 0, 0], [0, 0, 0]]},
            {"text": "x" * 100_001},
        ],
    )
    def test_resolve_refuses_what_cannot_be_resolved(
        self, client: httpx.Client, body: dict[str, Any]
    ) -> None:
        problem(client.post("/resolve", json=body), 400, "invalid_options")

    def test_resolve_reports_ranges_and_places_that_do_not_exist(self, client: httpx.Client) -> None:
        body = {"text": "(3,2) through (6,4), not (9,9). [[left]]", "size": [700, 700]}
        answer = client.post("/resolve", json=body).json()
        assert answer["answer"] == "left"
        assert [mention["in_range"] for mention in answer["mentions"]] == [True, True, False]
        assert answer["ranges"][0]["box"] == [150, 250, 450, 700]

    def test_capabilities(self, client: httpx.Client) -> None:
        answer = client.get("/capabilities").json()
        assert answer["formats"] == ["jpeg", "png", "webp", "gif", "bmp", "tiff"]
        assert answer["ask"] is True
        assert answer["limits"]["pixels"] == 50_000_000


def test_the_drawn_dots_are_where_the_answer_says(client: httpx.Client) -> None:
    data = save(Image.fromarray(photo(700, 700)), "PNG")
    answer = post(client, "/scaffold", data, color="magenta", plate="off", output={"format": "png"}).json()
    drawn = image_of(answer)
    assert all(drawn.getpixel((dot["x"], dot["y"])) == (230, 0, 190) for dot in answer["dots"])
