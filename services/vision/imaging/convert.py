"""Any decoded picture to 8-bit sRGB: colour management, bit depth, transparency, orientation.

Arrays are (H, W, 3) uint8 unless said otherwise.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from services.vision.scaffold.colour import Pixels, parse_colour

_BLOCK = 1 << 22
"""Values converted at a time: double precision of 50 megapixels would not fit a worker."""
CHECKER_SIDE = 16
CHECKER = (255, 204)
_PROFILE_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "LAB": "LAB"}


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn stored pixels (H, W, C) the way EXIF `orientation` says."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def is_srgb(icc: bytes) -> bool:
    """Whether the profile says of itself that it is sRGB, so that nothing need be converted."""
    return b"sRGB" in icc or "sRGB".encode("utf-16-be") in icc


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@lru_cache(maxsize=16)
def _transform(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """A transform to sRGB, None where the profile is broken or belongs to other colours."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        space = str(profile.profile.xcolor_space).strip()
        if _PROFILE_SPACES.get(space) != mode:
            return None
        return ImageCms.buildTransform(profile, _srgb(), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def apply_profile(image: Image.Image, icc: bytes, *, grey: bool = False) -> Image.Image | None:
    """The image in sRGB by its profile; None where the profile cannot be used.

    `grey` says that the channels of an RGB image are one and the same: a profile of grey is used then.
    """
    transform = _transform(icc, image.mode)
    if transform is None and grey and image.mode == "RGB":
        image = image.getchannel(0)
        transform = _transform(icc, image.mode)
    if transform is None:
        return None
    return _transformed(image, transform)


def _transformed(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    result = ImageCms.applyTransform(image, transform)
    assert result is not None  # None only comes back from transforms in place
    return result


@lru_cache(maxsize=1)
def _lab_transform() -> ImageCms.ImageCmsTransform:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    return ImageCms.buildTransform(lab, _srgb(), "LAB", "RGB")


def _deep_to_8_bit(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float grey to 8 bits by scaling; Pillow's own conversion clips.

    16-bit values map their full range; 32-bit ones do where they fit 16 bits, floats where they lie
    in [0, 1]; everything else is stretched between its least and its largest finite value.
    """
    values = np.asarray(image)
    blocks = np.array_split(values, max(1, values.size // _BLOCK))
    low = min(float(_finite(block).min()) for block in blocks)
    high = max(float(_finite(block).max()) for block in blocks)
    if image.mode != "F" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    elif image.mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    scale = 255 / (high - low or 1.0)
    scaled = [np.rint((_finite(block) - low) * scale).astype(np.uint8) for block in blocks]
    return Image.fromarray(np.concatenate(scaled))


def _finite(block: NDArray[Any]) -> NDArray[np.float64]:
    """The values in double precision, 0 for what is not a number."""
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(block.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def to_rgb(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, list[str]]:
    """An RGB or RGBA image from any mode Pillow decodes to, and warning codes."""
    warnings: list[str] = []
    grey = image.mode in ("LA", "La")
    if image.mode.startswith("I") or image.mode == "F":
        warnings.append("depth_reduced")
        image = _deep_to_8_bit(image)
    alpha: Image.Image | None = None
    if image.mode in ("LA", "La", "PA", "RGBa", "RGBA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        alpha = rgba.getchannel("A")
        image = rgba.convert("RGB")
    elif image.mode == "LAB":
        image, icc = _transformed(image, _lab_transform()), None
    elif image.mode not in ("RGB", "L", "CMYK"):
        image = image.convert("RGB")
    if icc is not None and not (image.mode == "RGB" and is_srgb(icc)):
        managed = apply_profile(image, icc, grey=grey)
        if managed is None:
            warnings.append("profile_ignored")
        image = managed or image
    if image.mode != "RGB":
        image = image.convert("RGB")
    if alpha is not None:
        image.putalpha(alpha)
    return image, warnings


def _ground(size: tuple[int, int], background: str) -> Image.Image:
    if background != "checker":
        return Image.new("RGB", size, parse_colour(background))
    rows = np.arange(size[1]) // CHECKER_SIDE
    cols = np.arange(size[0]) // CHECKER_SIDE
    field: NDArray[np.uint8] = np.where((rows[:, None] + cols[None, :]) % 2, *reversed(CHECKER)).astype(
        np.uint8
    )
    return Image.fromarray(field).convert("RGB")


def flatten(image: Image.Image, background: str) -> tuple[Image.Image, bool]:
    """Lay an RGBA image over a background; also whether anything shone through.

    `background` is a colour name, `#rrggbb` or `checker`.
    """
    if image.mode != "RGBA":
        return image, False
    alpha = image.getchannel("A")
    lowest, _ = alpha.getextrema()
    if lowest == 255:
        return image.convert("RGB"), False
    ground = _ground(image.size, background)
    ground.paste(image.convert("RGB"), mask=alpha)
    return ground, True
