"""The tag directories of TIFF, which EXIF uses as well: enough to read a size or an orientation."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from services.vision.imaging.errors import MalformedImageError

IMAGE_WIDTH = 0x100
IMAGE_LENGTH = 0x101
ORIENTATION = 0x112
ICC_PROFILE = 0x8773
MAXIMUM_TAGS = 512
MAXIMUM_DIRECTORIES = 4096
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}


@dataclass(frozen=True)
class TiffTags:
    """One directory: tag -> (type, count, offset of the value in the data)."""

    data: bytes
    order: str
    entries: dict[int, tuple[int, int, int]]
    following: int

    @classmethod
    def read(cls, data: bytes, offset: int | None = None) -> TiffTags:
        """The directory at `offset`, by default the first. Raises MalformedImageError."""
        order = {b"II": "<", b"MM": ">"}.get(data[:2])
        if order is None:
            raise MalformedImageError("the tag directory has no byte order")
        try:
            if offset is None:
                (offset,) = struct.unpack_from(f"{order}I", data, 4)
            (count,) = struct.unpack_from(f"{order}H", data, offset)
            if count > MAXIMUM_TAGS:
                raise MalformedImageError(f"a tag directory has {count} entries, at most {MAXIMUM_TAGS}")
            entries: dict[int, tuple[int, int, int]] = {}
            for index in range(count):
                at = offset + 2 + 12 * index
                tag, kind, values = struct.unpack_from(f"{order}HHI", data, at)
                long_value = _SIZES.get(kind, 1) * values > 4
                place = struct.unpack_from(f"{order}I", data, at + 8)[0] if long_value else at + 8
                entries[tag] = (kind, values, place)
            (following,) = struct.unpack_from(f"{order}I", data, offset + 2 + 12 * count)
        except struct.error:
            raise MalformedImageError("a tag directory is cut off") from None
        return cls(data, order, entries, following)

    def number(self, tag: int) -> int | None:
        """The first value of an integer tag, None where it is absent or no integer."""
        kind, count, place = self.entries.get(tag, (0, 0, 0))
        code = {1: "B", 3: "H", 4: "I"}.get(kind)
        if code is None or count < 1:
            return None
        try:
            return int(struct.unpack_from(f"{self.order}{code}", self.data, place)[0])
        except struct.error:
            raise MalformedImageError("a tag points outside of the file") from None

    def size(self) -> tuple[int, int]:
        """(width, height) of the page in pixels. Raises MalformedImageError where it is not said."""
        width, height = self.number(IMAGE_WIDTH), self.number(IMAGE_LENGTH)
        if width is None or height is None:
            raise MalformedImageError("the tiff does not say how large it is")
        return width, height

    def orientation(self) -> int:
        """EXIF orientation 1-8; 1 where it is absent or nonsense. Raises MalformedImageError."""
        value = self.number(ORIENTATION)
        return value if value is not None and 1 <= value <= 8 else 1

    def raw(self, tag: int) -> bytes | None:
        """The bytes of a tag's value, None where it is absent."""
        if tag not in self.entries:
            return None
        kind, count, place = self.entries[tag]
        return self.data[place : place + _SIZES.get(kind, 1) * count]


def orientation_of(exif: bytes) -> int:
    """EXIF orientation 1-8 of a TIFF structure; 1 where it is absent or nonsense."""
    try:
        return TiffTags.read(exif).orientation()
    except MalformedImageError:
        return 1


def pages_of(data: bytes) -> Iterator[TiffTags]:
    """The pages of a TIFF file. Raises MalformedImageError where the chain is endless or broken."""
    seen: set[int] = set()
    tags = TiffTags.read(data)
    yield tags
    while tags.following:
        if tags.following in seen or len(seen) >= MAXIMUM_DIRECTORIES:
            raise MalformedImageError("the tiff has an endless chain of pages")
        seen.add(tags.following)
        tags = TiffTags.read(data, tags.following)
        yield tags
