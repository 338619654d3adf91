"""What an encoder gives back, and how it says that a text is too long."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


class TooLong(ValueError):
    """A text has more tokens than the encoder has positions."""

    def __init__(self, index: int, tokens: int, limit: int) -> None:
        super().__init__(f"input {index} has {tokens} tokens; the encoder reads at most {limit}")
        self.index = index
        self.tokens = tokens
        self.limit = limit


def shorten(vectors: Vectors, dimensions: int) -> Vectors:
    """The first `dimensions` components, brought back to unit length."""
    cut = vectors[:, :dimensions]
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    return np.asarray(cut / np.maximum(lengths, 1e-12), dtype=np.float32)
