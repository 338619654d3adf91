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
from tests.unit.vision.images import (
    animated,
    one_bit_png,
    oriented_jpeg,
    picture,
    save,
    with_png_chunk,
)

PNG = save(picture(), "PNG")
JPEG = save(picture(640, 480), "JPEG")


def post(client: httpx.Client, path: str, image: bytes, **options: Any) -> httpx.Response:
    return client.post(path, files={"image": ("x", image)}, data={"options": json.dumps(options)})


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem document of a refused request, which must be the expected one."""
    document: dict[str, Any] = response.json()
    assert (response.status_code, document["code"]) == (status, code), document
    assert response.headers["content-type"] == "application/problem+json"
    assert document["request_id"]
    return document


def image_of(answer: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(answer["image_b64"])))


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

    def test_frames_of_an_animation_are_a_sequence(self, client: httpx.Client) -> None:
        answer = post(client, "/scaffold", animated("GIF"), frame="all").json()
        assert [entry["t"] for entry in answer["images"]] == [1, 2, 3]
        single = post(client, "/scaffold", animated("GIF")).json()
        assert "animated" in single["warnings"]
        assert single["t"] is None

    def test_sequences_are_bounded_in_number_and_pixels(self, client: httpx.Client) -> None:
        many = [("image", ("x", PNG))] * 17
        assert client.post("/sequence", files=many).status_code == 400
        body = {"images": [{"image_b64": base64.b64encode(one_bit_png(6000)).decode()}] * 2}
        problem(client.post("/sequence", json=body), 422, "image_too_large")
        problem(post(client, "/scaffold", animated("GIF", 18, (64, 64)), frame="all"), 422, "too_many_frames")


class TestEdgeCases:
    """The table of edge cases, row by row, as a caller meets them."""

    @pytest.mark.parametrize("side", [1, 5, 39])
    @pytest.mark.parametrize("profile", ["paper", "legible"])
    def test_specks_are_refused_with_advice_or_enlarged(
        self, client: httpx.Client, side: int, profile: str
    ) -> None:
        data = save(picture(side, side), "PNG")
        refused = problem(post(client, "/scaffold", data, profile=profile), 422, "image_too_small")
        assert "resize.min_side" in refused["detail"]
        enlarged = post(client, "/scaffold", data, profile=profile, resize={"min_side": 240})
        assert enlarged.json()["working_size"] == [240, 240]
        assert "enlarged" in enlarged.json()["warnings"]

    @pytest.mark.parametrize("size", [(8000, 20), (20, 8000)])
    def test_strips(self, client: httpx.Client, size: tuple[int, int]) -> None:
        data = save(picture(*size), "PNG")
        problem(post(client, "/scaffold", data), 422, "image_too_small")

    def test_auto_matrix_reduces_only_on_request(self, client: httpx.Client) -> None:
        data = save(picture(900, 90), "PNG")
        refused = problem(post(client, "/scaffold", data), 422, "image_too_small")
        assert "at most 2 rows and 6 cols" in refused["detail"]
        answer = post(client, "/scaffold", data, auto_matrix=True, prompt={"question": "?"}).json()
        assert answer["matrix"] == {"rows": 2, "cols": 6}
        assert "matrix_reduced" in answer["warnings"]
        assert "2 rows and 6 columns" in answer["prompt"]["system"]

    def test_claims_in_headers_are_refused_before_decoding(self, client: httpx.Client) -> None:
        document = problem(post(client, "/scaffold", one_bit_png(10_000)), 422, "image_too_large")
        assert "10000 x 10000" in document["detail"]
        problem(post(client, "/scaffold", save(picture(16_400, 2), "PNG")), 422, "image_too_large")

    def test_metadata_bombs_do_no_harm(self, client: httpx.Client) -> None:
        import zlib

        bomb = zlib.compress(bytes(200 << 20), 9)
        assert post(client, "/scaffold", with_png_chunk(PNG, b"zTXt", b"C\0\0" + bomb)).status_code == 200
        profile = with_png_chunk(PNG, b"iCCP", b"icc\0\0" + bomb)
        problem(post(client, "/scaffold", profile), 422, "image_too_large")

    def test_alpha_is_flattened_with_a_warning(self, client: httpx.Client) -> None:
        data = save(Image.new("RGBA", (300, 300), (9, 9, 9, 0)), "PNG")
        answer = post(client, "/scaffold", data, background="#336699", output={"format": "png"}).json()
        assert "alpha_flattened" in answer["warnings"]
        assert image_of(answer).getpixel((1, 1)) == (0x33, 0x66, 0x99)

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
    def test_truncation_is_strict_by_default(self, client: httpx.Client, kind: str) -> None:
        data = save(picture(), kind)[:-1]
        problem(post(client, "/scaffold", data), 422, "image_malformed")

    def test_allow_truncated(self, client: httpx.Client) -> None:
        answer = post(client, "/scaffold", JPEG[: len(JPEG) * 3 // 4], allow_truncated=True).json()
        assert "truncated" in answer["warnings"]

    @pytest.mark.parametrize("data", [b"", b"GIF", b"<svg/>", b"%PDF-1.4", b"\0" * 999])
    def test_other_bytes_are_unsupported_whatever_they_are_called(
        self, client: httpx.Client, data: bytes
    ) -> None:
        response = client.post("/scaffold", files={"image": ("photo.png", data, "image/png")})
        problem(response, 415, "unsupported_media_type")

    def test_the_name_of_a_file_does_not_matter(self, client: httpx.Client) -> None:
        response = client.post("/scaffold", files={"image": ("x.jpg", PNG, "image/jpeg")})
        assert response.status_code == 200

    @pytest.mark.parametrize("make", ["white", "black", "grey", "noise"])
    def test_contrast_on_uniform_and_noise(self, client: httpx.Client, make: str) -> None:
        levels = {"white": 255, "black": 0, "grey": 128}
        if make in levels:
            image = Image.new("RGB", (400, 300), (levels[make],) * 3)
        else:
            image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
        answer = post(client, "/scaffold", save(image, "PNG")).json()
        assert answer["legibility"]["min_contrast"] >= 4.5

    def test_two_digit_labels_and_t_from_ten(self, client: httpx.Client) -> None:
        data = save(picture(1000, 1000), "PNG")
        answer = post(client, "/scaffold", data, rows=12, cols=12, image_index=10).json()
        assert answer["dots"][-1]["label"] == "(10,12,12)"
        assert answer["legibility"]["overlaps"] == 0
        problem(
            post(client, "/scaffold", save(picture(500, 500), "PNG"), rows=12, cols=12, image_index=10),
            422,
            "image_too_small",
        )

    @pytest.mark.parametrize(
        "options",
        [
            '{"rows": 0}',
            '{"rows": 27}',
            '{"rows": 26, "cols": 26}',
            '{"jitter": NaN}',
            '{"jitter": Infinity}',
            '{"rows": 5, "rows": 6}',
            '{"rws": 5}',
            '{"color": "blurple"}',
            '{"background": "auto"}',
            '{"output": {"quality": 0}}',
            '{"frame": -1}',
            '{"frame": 3}',
            '{"prompt": {"question": "?", "locale": "xx"}}',
            "[1]",
            "{",
            "null",
            "[" * 5000,
            '{"output": {"format": "webp"}, "resize": {"max_side": null}, "rows": "six"}',
        ],
    )
    def test_options_that_make_no_sense(self, client: httpx.Client, options: str) -> None:
        response = client.post("/scaffold", files={"image": PNG}, data={"options": options})
        problem(response, 400, "invalid_options")

    def test_errors_name_the_field(self, client: httpx.Client) -> None:
        document = problem(post(client, "/scaffold", PNG, rows=0, cols=99), 400, "invalid_options")
        assert {entry["location"] for entry in document["errors"]} == {"options.rows", "options.cols"}

    def test_duplicate_parts_and_unknown_parts(self, client: httpx.Client) -> None:
        twice = [("image", ("a", PNG)), ("image", ("b", PNG))]
        problem(client.post("/scaffold", files=twice), 400, "invalid_options")
        options = {"options": ["{}", "{}"]}
        problem(client.post("/scaffold", files={"image": PNG}, data=options), 400, "invalid_options")
        problem(client.post("/scaffold", files={"picture": PNG}), 400, "invalid_options")
        problem(
            client.post("/scaffold", data={"image": "text"}, files={"options": b"{}"}), 400, "invalid_options"
        )

    @pytest.mark.parametrize(
        "body",
        [
            b"{}",
            b"[]",
            b'{"image_b64": 5}',
            b'{"image_b64": "***"}',
            b'{"image_b64": ""}',
            b'{"image_b64": "QUJD", "extra": 1}',
            b'{"image_b64": "QUJD", "image_b64": "QUJD"}',
        ],
    )
    def test_json_bodies_are_strict(self, client: httpx.Client, body: bytes) -> None:
        response = client.post("/scaffold", content=body, headers={"Content-Type": "application/json"})
        problem(response, 400, "invalid_options")

    def test_other_media_types_are_unsupported(self, client: httpx.Client) -> None:
        response = client.post("/scaffold", content=PNG, headers={"Content-Type": "text/plain"})
        problem(response, 415, "unsupported_media_type")
        response = client.post("/resolve", content=b"{}", headers={"Content-Type": "text/plain"})
        problem(response, 415, "unsupported_media_type")

    def test_files_and_bodies_are_bounded(self, client: httpx.Client) -> None:
        headers = {"Content-Type": "image/bmp"}
        too_long = b"BM" + bytes(20_000_001)
        problem(client.post("/scaffold", content=too_long, headers=headers), 413, "payload_too_large")

    def test_webp_cannot_hold_every_size(self, client: httpx.Client) -> None:
        data = save(picture(16_384, 200), "PNG")
        response = post(
            client, "/scaffold", data, resize={"max_side": None}, output={"format": "webp"}, rows=1
        )
        assert "WebP" in problem(response, 400, "invalid_options")["detail"]

    def test_errors_never_repeat_image_data(self, client: httpx.Client) -> None:
        secret = b"SECRETPIXELS" * 40
        for data in (b"\xff\xd8\xff\xe0" + secret, b"\x89PNG\r\n\x1a\n" + secret, secret):
            assert "SECRETPIXELS" not in post(client, "/scaffold", data).text


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
