"""Photo-like images made from numbers, so that tests and benchmarks need no downloads.

Natural photographs have a 1/f amplitude spectrum, correlated colour channels and sensor grain;
codecs and contrast rules see the same here. At 1920 x 1080 the JPEG at quality 85 has about
0.45 MB, as a camera's would.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def _cloud(
    generator: np.random.Generator, frequency: NDArray[np.float64], size: tuple[int, int], slope: float
) -> NDArray[np.float64]:
    phases = np.exp(2j * np.pi * generator.random(frequency.shape))
    field = np.fft.irfft2(phases / frequency**slope, s=(size[1], size[0]))
    return np.asarray((field - field.mean()) / (field.std() or 1.0))


def photo(width: int, height: int, seed: int = 0, grain: float = 2.0) -> Pixels:
    """A photo-like image (height, width, 3) with `grain` grey levels of sensor noise."""
    generator = np.random.default_rng(seed)
    vertical = np.fft.fftfreq(height)[:, None]
    horizontal = np.fft.rfftfreq(width)[None, :]
    frequency = np.hypot(vertical, horizontal)
    frequency[0, 0] = 1 / max(width, height)
    size = (width, height)
    light = _cloud(generator, frequency, size, 1.3)
    channels = [
        120
        + 45 * light
        + 25 * _cloud(generator, frequency, size, 1.8)
        + generator.normal(0, grain, light.shape)
        for _ in range(3)
    ]
    return np.clip(np.stack(channels, axis=2), 0, 255).astype(np.uint8)


def noise(width: int, height: int, seed: int = 0) -> Pixels:
    """Independent uniform pixels."""
    shape = (height, width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def flat(width: int, height: int, level: int) -> Pixels:
    """One grey level."""
    return np.full((height, width, 3), level, dtype=np.uint8)
