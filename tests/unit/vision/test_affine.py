"""Affine maps against NumPy and Pillow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from services.vision.imaging.convert import upright
from services.vision.scaffold.affine import Affine

coefficients = st.floats(-100, 100).map(lambda value: round(value, 3))
affines = st.builds(Affine, *[coefficients] * 6)


def _homogeneous(affine: Affine) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.vstack([np.array(affine.rows()), [0, 0, 1]])


@given(affines, affines, coefficients, coefficients)
def test_composition_is_the_product_of_matrices(first: Affine, second: Affine, x: float, y: float) -> None:
    product = _homogeneous(second) @ _homogeneous(first) @ [x, y, 1]
    assert first.then(second).apply(x, y) == pytest.approx(tuple(product[:2]), rel=1e-9, abs=1e-6)


@given(affines, coefficients, coefficients)
def test_inverse_leads_back(affine: Affine, x: float, y: float) -> None:
    if abs(affine.a * affine.e - affine.b * affine.d) < 1e-2:
        return
    back = affine.inverse().apply(*affine.apply(x, y))
    assert back == pytest.approx((x, y), abs=1e-4)


def test_a_flat_map_has_no_inverse() -> None:
    with pytest.raises(ValueError, match="inverse"):
        Affine(1, 1, 0, 1, 1, 0).inverse()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_against_pillow(orientation: int) -> None:
    """Upright pixels and the map to stored ones agree with `ImageOps.exif_transpose`."""
    stored = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    image = Image.fromarray(stored)
    image.getexif()[0x112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image))
    turned = upright(stored, orientation)
    np.testing.assert_array_equal(turned, expected)
    to_stored = Affine.upright_to_stored(orientation, (7, 5))
    for y in range(turned.shape[0]):
        for x in range(turned.shape[1]):
            sx, sy = to_stored.apply(x, y)
            np.testing.assert_array_equal(stored[int(sy), int(sx)], turned[y, x])


def test_orientation_nine_is_refused() -> None:
    with pytest.raises(ValueError, match="orientation 9"):
        Affine.upright_to_stored(9, (3, 3))


def test_resize_maps_outer_edges() -> None:
    scale = Affine.resize((100, 50), (400, 100))
    assert scale.apply(-0.5, -0.5) == (-0.5, -0.5)
    assert scale.apply(99.5, 49.5) == (399.5, 99.5)


def test_rows_round_trip() -> None:
    affine = Affine(1, 2, 3, 4, 5, 6)
    assert Affine.from_rows(affine.rows()) == affine
