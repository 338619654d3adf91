"""Mutations of image files: what a careless or hostile sender might send."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from tests.unit.vision.images import (
    animated,
    oriented_jpeg,
    picture,
    save,
    swapped_profile,
    tiff_pages,
    with_png_chunk,
)

Mutation = Callable[[random.Random, bytearray], None]


def seeds() -> list[bytes]:
    """Small valid files of every format and of the stranger modes."""
    files = [save(picture(96, 72), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")]
    files += [save(picture(96, 72, mode), "TIFF") for mode in ("1", "L", "CMYK", "F", "RGBA")]
    files += [save(picture(96, 72), "TIFF", compression=c) for c in ("tiff_lzw", "tiff_deflate", "jpeg")]
    files += [save(picture(96, 72, mode), "PNG") for mode in ("1", "P", "LA", "RGBA", "I;16")]
    files += [save(picture(96, 72, mode), "JPEG") for mode in ("L", "CMYK")]
    files += [save(picture(96, 72), "JPEG", progressive=True), oriented_jpeg(6, 96, 72)]
    files.append(tiff_pages((picture(96, 72), 6), (picture(40, 60), 1)))
    files += [animated(kind, 3, (64, 48)) for kind in ("GIF", "WEBP", "PNG")]
    files += [save(picture(96, 72), kind, icc_profile=swapped_profile()) for kind in ("JPEG", "PNG", "WEBP")]
    files.append(with_png_chunk(save(picture(96, 72), "PNG"), b"gAMA", b"\0\0\xb1\x8f"))
    return files


def _flip(generator: random.Random, data: bytearray) -> None:
    for _ in range(generator.choice((1, 1, 2, 8, 64))):
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)


def _flip_header(generator: random.Random, data: bytearray) -> None:
    for _ in range(generator.randint(1, 4)):
        data[generator.randrange(min(len(data), 128))] = generator.randrange(256)


def _truncate(generator: random.Random, data: bytearray) -> None:
    del data[generator.randrange(1, len(data)) :]


def _cut(generator: random.Random, data: bytearray) -> None:
    start = generator.randrange(len(data))
    del data[start : start + generator.randint(1, 200)]


def _repeat(generator: random.Random, data: bytearray) -> None:
    start = generator.randrange(len(data))
    piece = data[start : start + generator.randint(1, 400)]
    data[start:start] = piece * generator.randint(1, 20)


def _extremes(generator: random.Random, data: bytearray) -> None:
    width = generator.choice((1, 2, 4))
    start = generator.randrange(max(1, min(len(data), 512) - width))
    data[start : start + width] = generator.choice((b"\xff", b"\x00", b"\x7f", b"\x80")) * width


def _noise(generator: random.Random, data: bytearray) -> None:
    start = generator.randrange(len(data))
    count = min(generator.randint(1, 300), len(data) - start)
    data[start : start + count] = generator.randbytes(count)


MUTATIONS: tuple[Mutation, ...] = (_flip, _flip_header, _truncate, _cut, _repeat, _extremes, _noise)


def mutated(count: int, seed: int = 0) -> Iterator[bytes]:
    """`count` mutated files, the same ones for the same seed."""
    generator = random.Random(seed)
    files = seeds()
    for _ in range(count):
        data = bytearray(generator.choice(files))
        for _ in range(generator.choice((1, 1, 1, 2, 3))):
            if len(data) > 1:
                generator.choice(MUTATIONS)(generator, data)
        yield bytes(data)
