"""From every mode and profile to sRGB: depth, transparency, colour spaces."""

from __future__ import annotations

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageCms

from tests.unit.vision.images import (
    close,
    gradient_16,
    grey_profile,
    load,
    picture,
    save,
    srgb_profile,
    swapped_profile,
)


class TestTransparency:
    @pytest.mark.parametrize(
        ("mode", "kind"), [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "TIFF")]
    )
    def test_alpha_is_laid_over_the_background(self, mode: str, kind: str) -> None:
        image = Image.new("RGBA", (64, 64), (200, 200, 200, 0)).convert(mode)
        data = save(image, kind, lossless=True) if kind == "WEBP" else save(image, kind)
        loaded = load(data)
        assert tuple(loaded.pixels[0, 0]) == (255, 255, 255)
        assert "alpha_flattened" in loaded.warnings
        assert tuple(load(data, background="black").pixels[0, 0]) == (0, 0, 0)
        assert tuple(load(data, background="#102030").pixels[0, 0]) == (16, 32, 48)
        checker = load(data, background="checker").pixels
        assert {int(value) for value in np.unique(checker)} == {204, 255}

    def test_half_transparency_mixes(self) -> None:
        data = save(Image.new("RGBA", (8, 8), (0, 0, 0, 128)), "PNG")
        assert abs(int(load(data).pixels[0, 0, 0]) - 127) <= 1

    def test_palette_transparency(self) -> None:
        image = picture(mode="P")
        loaded = load(save(image, "PNG", transparency=image.getpixel((0, 0))))
        assert tuple(loaded.pixels[0, 0]) == (255, 255, 255)
        assert "alpha_flattened" in loaded.warnings

    def test_opaque_alpha_is_no_warning(self) -> None:
        assert load(save(picture(mode="RGBA"), "PNG")).warnings == ()


class TestColour:
    def test_cmyk_and_ycck_jpeg_are_not_inverted(self) -> None:
        colours = Image.new("RGB", (64, 64), (250, 30, 20))
        cmyk = save(colours.convert("CMYK"), "JPEG", quality=95)
        # Adobe's files hold inverted values; libjpeg-turbo stores four channels as YCCK.
        inverted = np.ascontiguousarray(255 - np.asarray(colours.convert("CMYK")))
        ycck = bytes(simplejpeg.encode_jpeg(inverted, 95, "CMYK", "420"))
        for data, transform in ((cmyk, 0), (ycck, 2)):
            marker = data.index(b"\xff\xee")
            assert (data[marker + 4 : marker + 9], data[marker + 15]) == (b"Adobe", transform)
            assert close(load(data).pixels, colours, 2)

    @pytest.mark.parametrize("mode", ["1", "L", "P"])
    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF", "BMP"])
    def test_bilevel_grey_and_palette(self, mode: str, kind: str) -> None:
        image = picture(mode=mode)
        assert close(load(save(image, kind)).pixels, image, 0)

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    def test_16_bit_grey_is_scaled_not_clipped(self, kind: str) -> None:
        ramp = gradient_16()
        loaded = load(save(Image.fromarray(ramp), kind))
        assert np.abs(loaded.pixels[..., 0].astype(float) - ramp / 257).max() <= 1
        assert "depth_reduced" in loaded.warnings

    def test_float_is_scaled_not_clipped(self) -> None:
        ramp = np.linspace(0, 1, 256, dtype=np.float32)[None, :].repeat(8, axis=0)
        loaded = load(save(Image.fromarray(ramp), "TIFF"))
        np.testing.assert_array_equal(loaded.pixels[0, :, 0], np.arange(256))
        wide = load(save(Image.fromarray(ramp * 2000 - 1000), "TIFF"))
        np.testing.assert_array_equal(wide.pixels[0, :, 0], np.arange(256))

    def test_what_is_no_number_becomes_black(self) -> None:
        values = np.array([[np.nan, np.inf, -np.inf, 0.5]] * 4, dtype=np.float32)
        assert load(save(Image.fromarray(values), "TIFF")).pixels[0, :, 0].tolist() == [0, 0, 0, 128]

    def test_many_deep_pixels_take_little_memory(self) -> None:
        """Blocks come together as one: a ramp over several of them."""
        ramp = np.linspace(0, 65535, 3000 * 3000).astype(np.uint16).reshape(3000, 3000)
        loaded = load(save(Image.fromarray(ramp), "TIFF"))
        assert np.abs(loaded.pixels[..., 0].astype(float) - ramp / 257).max() <= 0.5

    def test_lab_goes_through_its_profile(self) -> None:
        lab = ImageCms.profileToProfile(
            Image.new("RGB", (64, 64), (200, 60, 40)),
            ImageCms.createProfile("sRGB"),
            ImageCms.createProfile("LAB"),
            outputMode="LAB",
        )
        assert lab is not None
        assert close(load(save(lab, "TIFF")).pixels, Image.new("RGB", (64, 64), (200, 60, 40)), 3)

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
    def test_embedded_profiles_are_converted_to_srgb(self, kind: str) -> None:
        """The profile says that red and blue are exchanged, so red must come out blue."""
        options = {"lossless": True} if kind == "WEBP" else {}
        red = Image.new("RGB", (64, 64), (255, 0, 0))
        loaded = load(save(red, kind, icc_profile=swapped_profile(), **options))
        assert loaded.pixels[9, 9, 2] > 200 > 60 > loaded.pixels[9, 9, 0]
        same = load(save(red, kind, icc_profile=srgb_profile(), **options))
        assert close(same.pixels, red, 2)

    @pytest.mark.parametrize(
        ("kind", "mode"), [("JPEG", "L"), ("PNG", "L"), ("PNG", "LA"), ("TIFF", "L"), ("TIFF", "LA")]
    )
    def test_profiles_of_grey_are_converted(self, kind: str, mode: str) -> None:
        """Linear grey of one fifth is 124 in sRGB (IEC 61966-2-1); gamma 2.2 is nearly sRGB."""
        grey = Image.new("L", (64, 64), 51).convert(mode)
        linear = load(save(grey, kind, icc_profile=grey_profile(1.0)))
        assert abs(int(linear.pixels[9, 9, 0]) - 124) <= 1
        assert len(set(linear.pixels[9, 9].tolist())) == 1
        assert linear.warnings == ()
        usual = load(save(grey, kind, icc_profile=grey_profile(2.2)))
        assert abs(int(usual.pixels[9, 9, 0]) - 51) <= 4

    def test_broken_profiles_are_ignored_with_a_warning(self) -> None:
        loaded = load(save(picture(), "PNG", icc_profile=b"no profile at all"))
        assert loaded.warnings == ("profile_ignored",)
