"""Decoding: limits before pixels, every format and mode, colour, orientation, damage."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from unittest import mock

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from services.vision.imaging import (
    DecodeOptions,
    EncodeOptions,
    FrameNotFoundError,
    ImageTooLargeError,
    Limits,
    MalformedImageError,
    OutputFormat,
    Resize,
    TooManyFramesError,
    UnsupportedImageError,
    decode,
    encode,
    read_header,
)
from tests.unit.vision.images import (
    animated,
    close,
    load,
    one_bit_png,
    oriented_jpeg,
    picture,
    png_chunk,
    save,
    tiff_pages,
    with_png_chunk,
)

LIMITS = Limits()


FORMATS = {"JPEG": 8.0, "PNG": 0.0, "WEBP": 4.0, "GIF": 12.0, "BMP": 0.0, "TIFF": 0.0}


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read_by_its_bytes(kind: str) -> None:
    image = picture()
    data = save(image, kind)
    header = read_header(data)
    assert (header.format, header.width, header.height) == (kind.lower(), 320, 240)
    loaded = load(data)
    assert loaded.pixels.shape == (240, 320, 3)
    assert loaded.pixels.dtype == np.uint8
    assert close(loaded.pixels, image, FORMATS[kind])
    assert loaded.warnings == ()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [(1, 1), (5, 5), (39, 39), (3, 700), (700, 3)])
def test_odd_sizes_are_decoded_in_every_format(kind: str, size: tuple[int, int]) -> None:
    assert load(save(picture(*size), kind)).size == size


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"\0\0\0\x0cjP  \r\n\x87\n",
        b"\0\0\0\x20ftypavif",
        b"P6\n1 1\n255\n\0\0\0",
        b"II+\0\x08\0\0\0",
    ],
)
def test_other_formats_are_refused_by_sniffing(data: bytes) -> None:
    with pytest.raises(UnsupportedImageError, match="jpeg, png, webp, gif, bmp, tiff"):
        read_header(data)


def test_only_the_plugins_of_the_whitelist_are_loaded() -> None:
    """Pillow knows some seventy formats, some of which start other programs."""
    code = (
        "import sys; from services.vision.imaging import decode, Limits, DecodeOptions;"
        "from tests.unit.vision.images import picture, save;"
        "[decode(save(picture(), k), Limits(), DecodeOptions()) for k in ('TIFF', 'WEBP', 'GIF', 'BMP')];"
        "print(sorted(m for m in sys.modules if m.startswith('PIL.') and m.endswith('ImagePlugin')))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.removeprefix("PIL.").removesuffix("ImagePlugin") for name in eval(run.stdout)}
    assert loaded == {"Bmp", "Gif", "Jpeg", "Png", "Ppm", "Tiff", "WebP"}


class TestLimits:
    def test_pixels_are_counted_in_the_header(self) -> None:
        """A 12 KB file of 10,000 x 10,000 pixels: no decoder may be asked."""
        data = one_bit_png(10_000)
        assert len(data) < 20_000
        with mock.patch("services.vision.imaging.decode._frames", side_effect=AssertionError):
            with pytest.raises(ImageTooLargeError, match="10000 x 10000 pixels; at most 50000000"):
                load(data)

    @pytest.mark.parametrize("kind", FORMATS)
    def test_long_sides_are_refused_in_every_format(self, kind: str) -> None:
        data = save(picture(320, 8), kind)
        with mock.patch("services.vision.imaging.decode._frames", side_effect=AssertionError):
            with pytest.raises(ImageTooLargeError, match="at most 300"):
                decode(data, Limits(max_side=300), DecodeOptions())

    def test_a_gif_frame_larger_than_its_screen_counts(self) -> None:
        data = bytearray(save(picture(16, 16), "GIF"))
        at = data.index(b"\x2c\0\0\0\0\x10\0\x10\0")
        data[at + 5 : at + 9] = (20_000).to_bytes(2, "little") * 2
        with pytest.raises(ImageTooLargeError):
            load(bytes(data))

    def test_later_pages_of_a_tiff_are_counted(self) -> None:
        """A second page of 12,000 x 12,000 pixels in a file of a few kilobytes."""
        data = tiff_pages((picture(16, 16, "1"), 1), (Image.new("1", (12_000, 12_000)), 1))
        small = tiff_pages((picture(16, 16), 1), (picture(60, 40), 1))
        for bomb, limits in ((data, LIMITS), (small, Limits(max_side=50)), (small, Limits(max_pixels=2000))):
            for frame in ("first", 1, "all"):
                with mock.patch("services.vision.imaging.decode._frames", side_effect=AssertionError):
                    with pytest.raises(ImageTooLargeError):
                        decode(bomb, limits, DecodeOptions(frame=frame))

    def test_a_png_has_one_header(self) -> None:
        """The second one could claim any size behind the back of the limits."""
        plain = save(picture(32, 20), "PNG")
        second = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
        with pytest.raises(MalformedImageError, match="second header"):
            load(plain[:33] + second + plain[33:])

    def test_memory_errors_are_the_callers_problem(self) -> None:
        with mock.patch("services.vision.imaging.decode.pyspng.load", side_effect=MemoryError):
            with pytest.raises(ImageTooLargeError, match="memory"):
                load(save(picture(), "PNG"))

    def test_zipped_text_is_never_inflated(self) -> None:
        bomb = zlib.compress(bytes(64 << 20), 9)
        data = with_png_chunk(save(picture(), "PNG"), b"zTXt", b"Comment\0\0" + bomb)
        with mock.patch.object(PngImagePlugin.PngStream, "chunk_zTXt", side_effect=AssertionError):
            assert load(data).size == (320, 240)
            assert load(with_png_chunk(animated("PNG"), b"zTXt", b"C\0\0" + bomb)).size == (320, 240)

    def test_profile_bombs_are_cut_off(self) -> None:
        bomb = zlib.compress(bytes(64 << 20), 9)
        data = with_png_chunk(save(picture(), "PNG"), b"iCCP", b"icc\0\0" + bomb)
        with pytest.raises(ImageTooLargeError, match="colour profile"):
            load(data)
        jpeg = save(picture(), "JPEG", icc_profile=bytes(2 << 20))
        with pytest.raises(ImageTooLargeError, match="colour profile"):
            load(jpeg)

    def test_floods_of_chunks_are_refused(self) -> None:
        plain = save(picture(), "PNG")
        flood = plain[:33] + png_chunk(b"tEXt", b"a\0b") * 2_000 + plain[33:]
        with pytest.raises(ImageTooLargeError, match="too many chunks"):
            load(flood)
        comments = b"\xff\xfe\0\x02" * 5_000
        jpeg = save(picture(), "JPEG")
        with pytest.raises(MalformedImageError, match="1024"):
            load(jpeg[:2] + comments + jpeg[2:])


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_is_applied_and_undone_by_the_transform(self, orientation: int) -> None:
        data = oriented_jpeg(orientation, 320, 200)
        stored = load(oriented_jpeg(1, 320, 200)).pixels
        loaded = load(data)
        assert loaded.orientation == orientation
        assert loaded.stored_size == (320, 200)
        assert loaded.size == ((320, 200) if orientation < 5 else (200, 320))
        for x, y in ((0, 0), (7, 50), (150, 199 if orientation >= 5 else 90)):
            sx, sy = loaded.to_stored.apply(x, y)
            np.testing.assert_array_equal(loaded.pixels[y, x], stored[round(sy), round(sx)])

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize(
        ("kind", "options"),
        [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})],
    )
    def test_other_containers_carry_it_too(
        self, kind: str, options: dict[str, object], orientation: int
    ) -> None:
        """Turned once, not twice: the pixels are those of Pillow's own turning of the plain picture."""
        image = picture(32, 20)
        exif = Image.Exif()
        exif[0x112] = orientation
        loaded = load(save(image, kind, exif=exif, **options))
        image.getexif()[0x112] = orientation
        expected = np.asarray(ImageOps.exif_transpose(image))
        assert (loaded.orientation, loaded.stored_size) == (orientation, (32, 20))
        np.testing.assert_array_equal(loaded.pixels, expected)
        stored = np.asarray(picture(32, 20))
        sx, sy = loaded.to_stored.apply(3, 7)
        np.testing.assert_array_equal(loaded.pixels[7, 3], stored[round(sy), round(sx)])

    def test_it_holds_for_every_frame_but_for_one_page_of_a_tiff(self) -> None:
        exif = Image.Exif()
        exif[0x112] = 6
        frames = [Image.new("RGB", (32, 20), (level,) * 3) for level in (0, 90)]
        moving = save(frames[0], "PNG", exif=exif, save_all=True, append_images=frames[1:])
        assert [x.size for x in decode(moving, LIMITS, DecodeOptions(frame="all"))] == [(20, 32)] * 2
        pages = tiff_pages((picture(32, 20), 8), (picture(50, 30), 1))
        first, second = decode(pages, LIMITS, DecodeOptions(frame="all"))
        assert (first.size, first.stored_size, first.orientation) == ((20, 32), (32, 20), 8)
        assert (second.size, second.stored_size, second.orientation) == ((50, 30), (50, 30), 1)
        np.testing.assert_array_equal(second.pixels, np.asarray(picture(50, 30)))

    def test_output_carries_no_exif(self) -> None:
        for form in ("jpeg", "png", "webp"):
            written = encode(load(oriented_jpeg(6)).pixels, EncodeOptions(form))
            assert b"Exif" not in written


class TestAnimation:
    @pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
    def test_first_frame_by_default_with_a_warning(self, kind: str) -> None:
        loaded = load(animated(kind))
        assert loaded.warnings == ("animated",)
        assert int(loaded.pixels.max()) == 0

    @pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
    def test_one_frame_by_index_or_all(self, kind: str) -> None:
        data = animated(kind)
        assert abs(int(load(data, frame=2).pixels[9, 9, 0]) - 80) <= 2
        frames = decode(data, LIMITS, DecodeOptions(frame="all"))
        assert [frame.frame for frame in frames] == [0, 1, 2]
        assert [int(frame.pixels[9, 9, 0]) // 38 for frame in frames] == [0, 1, 2]

    def test_too_many_frames_and_frames_beyond_the_end(self) -> None:
        data = animated("GIF", frames=18, size=(16, 16))
        with pytest.raises(TooManyFramesError, match="18 frames, at most 16"):
            decode(data, LIMITS, DecodeOptions(frame="all"))
        with pytest.raises(FrameNotFoundError, match="frame 18"):
            decode(data, LIMITS, DecodeOptions(frame=18))

    def test_pixels_of_all_frames_are_counted_together(self) -> None:
        data = animated("GIF", frames=3, size=(100, 100))
        with pytest.raises(ImageTooLargeError, match="3 frames"):
            decode(data, Limits(max_pixels=20_000), DecodeOptions(frame="all"))


class TestDamage:
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
    @pytest.mark.parametrize("share", [1.0, 0.6])
    def test_truncated_files_are_refused(self, kind: str, share: float) -> None:
        data = save(picture(), kind)
        cut = data[:-1] if share == 1.0 else data[: int(len(data) * share)]
        with pytest.raises(MalformedImageError):
            load(cut)

    def test_a_truncated_tiff_is_refused(self) -> None:
        data = save(picture(), "TIFF")
        with pytest.raises(MalformedImageError):
            load(data[: len(data) // 2])

    @pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "jpeg"])
    def test_a_tiff_without_its_last_byte_is_refused(self, compression: str | None) -> None:
        with pytest.raises(MalformedImageError):
            load(save(picture(), "TIFF", compression=compression)[:-1])

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF"])
    def test_allow_truncated_draws_what_is_there(self, kind: str) -> None:
        data = save(picture(), kind)
        loaded = load(data[: int(len(data) * 0.7)], allow_truncated=True)
        assert loaded.size == (320, 240)
        assert "truncated" in loaded.warnings
        assert "truncated" not in load(data, allow_truncated=True).warnings

    def test_a_wrong_checksum_is_refused(self) -> None:
        data = bytearray(save(picture(), "PNG"))
        data[len(data) // 2] ^= 0x10
        with pytest.raises(MalformedImageError):
            load(bytes(data))

    def test_missing_rows_are_refused_although_all_checksums_fit(self) -> None:
        header = save(picture(64, 64), "PNG")[8:33]
        rows = png_chunk(b"IDAT", zlib.compress(bytes((64 * 3 + 1) * 40)))
        with pytest.raises(MalformedImageError):
            load(b"\x89PNG\r\n\x1a\n" + header + rows + png_chunk(b"IEND", b""))

    def test_bytes_between_jpeg_markers_are_forgiven(self) -> None:
        data = save(picture(), "JPEG")
        loaded = load(data[:-2] + b"\0\0\0" + data[-2:])
        assert loaded.size == (320, 240)

    @pytest.mark.parametrize("kind", FORMATS)
    def test_headers_alone_are_malformed(self, kind: str) -> None:
        data = save(picture(64, 48), kind)
        for length in range(2, 64, 3):
            with pytest.raises((MalformedImageError, UnsupportedImageError)):
                load(data[:length])

    def test_endless_tiff_chains_end(self) -> None:
        data = bytearray(save(picture(16, 16, "L"), "TIFF"))
        first = int.from_bytes(data[4:8], "little")
        count = int.from_bytes(data[first : first + 2], "little")
        at = first + 2 + 12 * count
        data[at : at + 4] = first.to_bytes(4, "little")
        with pytest.raises(MalformedImageError, match="endless"):
            load(bytes(data))


class TestResize:
    def test_jpeg_is_decoded_at_a_reduced_scale(self) -> None:
        image = picture(1600, 1200)
        loaded = load(save(image, "JPEG", quality=95), resize=Resize(max_side=400))
        assert loaded.size == (400, 300)
        assert loaded.upright_size == (1600, 1200)
        assert "reduced" in loaded.warnings
        assert loaded.to_stored.apply(-0.5, -0.5) == (-0.5, -0.5)
        assert loaded.to_stored.apply(399.5, 299.5) == (1599.5, 1199.5)
        assert close(loaded.pixels, image.resize((400, 300), Image.Resampling.LANCZOS), 4)

    def test_orientation_and_scale_together(self) -> None:
        loaded = load(oriented_jpeg(6, 1600, 1200), resize=Resize(max_side=400))
        assert loaded.size == (300, 400)
        assert loaded.to_stored.apply(-0.5, -0.5) == pytest.approx((-0.5, 1199.5))

    def test_small_images_are_enlarged_on_demand_only(self) -> None:
        data = save(picture(30, 20), "PNG")
        assert load(data, resize=Resize(max_side=2048)).size == (30, 20)
        enlarged = load(data, resize=Resize(min_side=240))
        assert enlarged.size == (360, 240)
        assert enlarged.warnings == ("enlarged",)

    @pytest.mark.parametrize(
        ("size", "resize", "expected"),
        [
            ((8000, 20), Resize(max_side=2048, min_side=200), (2048, 5)),
            ((1920, 1080), Resize(max_side=2048), (1920, 1080)),
            ((4000, 1), Resize(max_side=100), (100, 1)),
        ],
    )
    def test_max_side_has_the_last_word(
        self, size: tuple[int, int], resize: Resize, expected: tuple[int, int]
    ) -> None:
        assert resize.target(size) == expected


class TestEncode:
    @pytest.mark.parametrize(("form", "level"), [("png", 0), ("png", 1), ("png", 9)])
    def test_png_is_lossless(self, form: OutputFormat, level: int) -> None:
        pixels = load(save(picture(), "PNG")).pixels
        written = encode(pixels, EncodeOptions(form, png_level=level))
        np.testing.assert_array_equal(load(written).pixels, pixels)

    @pytest.mark.parametrize("form", ["jpeg", "webp"])
    def test_lossy_formats_come_close_and_obey_quality(self, form: OutputFormat) -> None:
        image = picture()
        pixels = np.asarray(image)
        small, large = (encode(pixels, EncodeOptions(form, quality)) for quality in (40, 95))
        assert len(small) < 0.6 * len(large)
        assert close(load(large).pixels, image, 3)

    def test_repeating_chroma_loses_nothing_on_the_way_back_into_jpeg(self) -> None:
        """JPEG to JPEG at the same colour resolution: the fast way is as close as the smooth one."""
        data = save(picture(640, 480), "JPEG", quality=85)
        smooth = load(data)

        def loss(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> float:
            again = load(encode(pixels, EncodeOptions("jpeg", 85))).pixels
            return float(np.mean((again.astype(float) - smooth.pixels) ** 2))

        repeated = load(data, replicate_chroma=True).pixels
        assert (repeated != smooth.pixels).any()
        assert loss(repeated) <= 1.05 * loss(smooth.pixels)

    def test_webp_sides_are_bounded(self) -> None:
        with pytest.raises(ValueError, match="16383"):
            encode(np.zeros((1, 16_384, 3), dtype=np.uint8), EncodeOptions("webp"))
