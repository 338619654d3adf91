"""The table of edge cases of the specification, row by row, over real HTTP; every way to be refused."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.integration.vision.calls import image_of, post, problem
from tests.unit.vision.images import one_bit_png, picture, save, with_png_chunk

PNG = save(picture(), "PNG")
JPEG = save(picture(640, 480), "JPEG")


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
            '{"rows": 1000000, "cols": 1000000}',
            '{"resize": {"max_side": 1e400}}',
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
        png = {"Content-Type": "image/png"}
        raw = client.post("/scaffold?options=%7B%7D&options=%7B%7D", content=PNG, headers=png)
        problem(raw, 400, "invalid_options")
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
        problem(client.post("/scaffold", files={"image": too_long}), 413, "payload_too_large")

    def test_bodies_of_unknown_length_are_cut_off_while_they_come(self, client: httpx.Client) -> None:
        """Chunked, without Content-Length: 32 MiB are read of what would be 64."""
        sent = 0

        def endless() -> Iterator[bytes]:
            nonlocal sent
            for _ in range(1024):
                sent += 1
                yield bytes(64 << 10)

        try:
            response = client.post("/scaffold", content=endless(), headers={"Content-Type": "image/bmp"})
        except httpx.WriteError:  # the answer may come while we still send
            pass
        else:
            problem(response, 413, "payload_too_large")
        assert sent < 1024

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
