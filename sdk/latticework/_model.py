"""What the generated models stand on."""

from __future__ import annotations

import os
from base64 import b64decode
from pathlib import Path

from pydantic import BaseModel, ConfigDict


class ApiModel(BaseModel):
    """A value of the API. Fields that this version does not know yet are kept, not refused."""

    model_config = ConfigDict(extra="allow", protected_namespaces=(), populate_by_name=True)


class ImageAnswer(ApiModel):
    """An answer with an image in it."""

    image_b64: str
    media_type: str

    @property
    def image(self) -> bytes:
        """The file, decoded."""
        return b64decode(self.image_b64)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the image to a file; its format is that of `media_type`, whatever the name says."""
        target = Path(path)
        target.write_bytes(self.image)
        return target
