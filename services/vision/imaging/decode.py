"""Bytes to upright 8-bit sRGB pixels, strictly: header, limits, structure, pixels, colour.

Runs in a worker process with limited memory and time; nothing here may run on an event loop.
JPEG goes through libjpeg-turbo (simplejpeg) and PNG through libspng (pyspng), both measured in
`benchmarks/vision`; the rest through the one Pillow plug-in of its format.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pyspng
import simplejpeg
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from services.vision.imaging.container import Container, open_container
from services.vision.imaging.convert import apply_profile, flatten, is_srgb, to_rgb, upright
from services.vision.imaging.errors import (
    FrameNotFoundError,
    ImageTooLargeError,
    MalformedImageError,
    TooManyFramesError,
)
from services.vision.imaging.header import ImageHeader, read_header
from services.vision.imaging.limits import Limits
from services.vision.imaging.resize import Resize
from services.vision.scaffold.affine import Affine
from services.vision.scaffold.colour import Pixels

FrameChoice = int | Literal["first", "all"]

_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "jpeg": JpegImagePlugin.JpegImageFile,
    "png": PngImagePlugin.PngImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "gif": GifImagePlugin.GifImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
}


@dataclass(frozen=True)
class DecodeOptions:
    """`background` lies under transparency, `frame` chooses from animations, `resize` the working
    size; `allow_truncated` draws what is there of a file without its end.

    `replicate_chroma` enlarges the colour of a JPEG by repeating it instead of smoothing: right where
    the pixels go straight back into a JPEG of the same colour resolution, since averaging the copies
    gives the stored values again, and a tenth faster.
    """

    background: str = "white"
    frame: FrameChoice = "first"
    allow_truncated: bool = False
    resize: Resize = field(default_factory=Resize)
    replicate_chroma: bool = False


@dataclass(frozen=True)
class Picture:
    """One upright frame of the working size, (H, W, 3) uint8.

    `stored_size` is the file's own (width, height) before orientation; `to_stored` maps working
    pixels onto it.
    """

    pixels: Pixels
    header: ImageHeader
    stored_size: tuple[int, int]
    upright_size: tuple[int, int]
    orientation: int
    to_stored: Affine
    warnings: tuple[str, ...]
    frame: int = 0
    frames: int = 1

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[1], self.pixels.shape[0]


def decode(data: bytes, limits: Limits, options: DecodeOptions) -> list[Picture]:
    """Decode one frame, or all with `frame="all"`.

    Raises UnsupportedImageError, MalformedImageError, ImageTooLargeError, TooManyFramesError,
    FrameNotFoundError. The limits are checked before any pixel is decoded.
    """
    header = read_header(data)
    limits.check(header.width, header.height)
    container = open_container(data, header, limits)
    wanted = _wanted_frames(container, limits, options.frame)
    warnings: list[str] = []
    if not container.complete:
        if not options.allow_truncated:
            raise MalformedImageError(f"the {header.format} is truncated: its end is missing")
        warnings.append("truncated")
    if container.frames > 1 and options.frame == "first":
        warnings.append("animated")
    try:
        return [
            _finish(image, noted, container, header, options, warnings, index)
            for index, image, noted in _frames(container, header, wanted, options)
        ]
    except MemoryError:
        raise ImageTooLargeError("decoding the image takes more memory than allowed") from None


def _wanted_frames(container: Container, limits: Limits, choice: FrameChoice) -> list[int]:
    if choice == "all":
        if container.frames > limits.max_frames:
            raise TooManyFramesError(
                f"the animation has {container.frames} frames, at most {limits.max_frames} are drawn"
                " at once; choose one by its index"
            )
        limits.check(*container.extent, container.frames)
        return list(range(container.frames))
    index = 0 if choice == "first" else choice
    if index >= container.frames:
        raise FrameNotFoundError(f"frame {index} does not exist: the image has {container.frames}")
    return [index]


Frame = tuple[int, Pixels | Image.Image, list[str]]


def _frames(
    container: Container, header: ImageHeader, wanted: list[int], options: DecodeOptions
) -> Iterator[Frame]:
    """(index, stored pixels or image, warnings) of the wanted frames."""
    try:
        if header.format == "jpeg" and header.depth == 8 and header.channels in (1, 3):
            yield 0, *_jpeg(container, header, options)
        elif header.format == "png" and container.complete and not (container.keyed or container.frames > 1):
            yield 0, *_png(container, header)
        else:
            frames = _tolerant if options.allow_truncated else _pillow
            yield from frames(container, header, wanted)
    except (MalformedImageError, MemoryError):
        raise
    except Exception as error:  # decoders meet hostile bytes with whatever exception comes to hand
        raise MalformedImageError(f"the {header.format} cannot be decoded: it is corrupt") from error


def _jpeg(
    container: Container, header: ImageHeader, options: DecodeOptions
) -> tuple[Pixels | Image.Image, list[str]]:
    """Decode at the smallest DCT scale that still covers the working size."""
    size = (header.width, header.height)
    target = options.resize.target(size)
    reduced = target[0] < size[0]
    how: dict[str, Any] = {"fastupsample": options.replicate_chroma and target == size}
    if reduced:
        how |= {"min_height": target[1], "min_width": target[0]}
    warnings: list[str] = []
    try:
        pixels = simplejpeg.decode_jpeg(container.data, "RGB", strict=True, **how)
    except ValueError as error:
        # Bytes between markers are a common harmless fault of cameras; a missing end is not.
        harmless = "extraneous bytes" in str(error)
        if not (harmless or options.allow_truncated):
            raise
        warnings.append("recovered" if harmless else "truncated")
        pixels = simplejpeg.decode_jpeg(container.data, "RGB", strict=False, **how)
    return _managed(pixels, header, container.icc, warnings)


def _png(container: Container, header: ImageHeader) -> tuple[Pixels | Image.Image, list[str]]:
    mode = "RGBA" if header.channels in (2, 4) else "RGB"
    pixels: Pixels = pyspng.load(container.data, format=mode)
    warnings = ["depth_reduced"] if header.depth == 16 else []
    if mode == "RGB":
        return _managed(pixels, header, container.icc, warnings)
    image = Image.fromarray(pixels)
    image, noted = to_rgb(image.convert("LA") if header.channels == 2 else image, container.icc)
    return image, warnings + noted


def _managed(
    pixels: Pixels, header: ImageHeader, icc: bytes | None, warnings: list[str]
) -> tuple[Pixels | Image.Image, list[str]]:
    if icc is None or is_srgb(icc):
        return pixels, warnings
    managed = apply_profile(Image.fromarray(pixels), icc, grey=header.channels == 1)
    if managed is None:
        return pixels, [*warnings, "profile_ignored"]
    return managed, warnings


def _pillow(container: Container, header: ImageHeader, wanted: list[int]) -> Iterator[Frame]:
    with _PLUGINS[header.format](io.BytesIO(container.data)) as source:
        for index in wanted:
            if container.frames > 1:
                source.seek(index)
            source.load()
            image, warnings = to_rgb(source, container.icc)
            yield index, image.copy() if image is source else image, warnings


def _tolerant(container: Container, header: ImageHeader, wanted: list[int]) -> list[Frame]:
    """The same with what is missing left blank; the frames say so where the strict way fails."""
    try:
        return list(_pillow(container, header, wanted))
    except MemoryError:
        raise
    except Exception:
        # Pillow's switch is global; a worker process decodes one image at a time.
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            return [
                (i, image, ["truncated", *noted]) for i, image, noted in _pillow(container, header, wanted)
            ]
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False


def _finish(
    image: Pixels | Image.Image,
    noted: list[str],
    container: Container,
    header: ImageHeader,
    options: DecodeOptions,
    warnings: list[str],
    index: int,
) -> Picture:
    """Flatten, turn upright, bring to the working size."""
    noted = list(dict.fromkeys(warnings + noted))
    if isinstance(image, Image.Image):
        flat, shone_through = flatten(image, options.background)
        if shone_through:
            noted.append("alpha_flattened")
        pixels = np.array(flat)
    else:
        pixels = image
    orientation = container.orientation(index)
    if orientation != 1 and header.format != "tiff":  # Pillow turns the pages of a TIFF itself
        pixels = upright(pixels, orientation)
    upright_size = (header.width, header.height) if orientation < 5 else (header.height, header.width)
    if header.format in ("gif", "tiff"):  # their frames have sizes of their own
        upright_size = (pixels.shape[1], pixels.shape[0])
    stored = upright_size if orientation < 5 else (upright_size[1], upright_size[0])
    pixels, change = options.resize.apply(pixels, upright_size)
    if change is not None:
        noted.append(change)
    working = (pixels.shape[1], pixels.shape[0])
    to_stored = _way_back(working, upright_size, stored, orientation)
    return Picture(
        pixels, header, stored, upright_size, orientation, to_stored, tuple(noted), index, container.frames
    )


@lru_cache(maxsize=256)
def _way_back(
    working: tuple[int, int], upright_size: tuple[int, int], stored: tuple[int, int], orientation: int
) -> Affine:
    return Affine.resize(working, upright_size).then(Affine.upright_to_stored(orientation, stored))
