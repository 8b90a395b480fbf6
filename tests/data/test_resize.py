import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from seed_jax.data import images, resize


@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    size=st.sampled_from([7, 32, 96, 224]),
    inner=st.booleans(),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=40, deadline=None)
def test_bilinear_is_pils_to_one_grey_level(width, height, size, inner, seed):
    """Also with a fractional box, as a JPEG decoded at half its size has."""
    picture = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))
    box = (0.25 * inner, 0.5 * inner, width - 0.3 * inner, height - 0.1 * inner)
    expected = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, box=box)).astype(int)
    view = np.asarray(resize.bilinear(picture, size, box))
    assert np.abs(view - expected).max() <= 1


def test_without_the_library_it_is_pils(monkeypatch):
    monkeypatch.setattr(resize, "cykooz_resizer", None)
    picture = Image.radial_gradient("L").convert("RGB")
    expected = picture.resize((50, 50), Image.Resampling.BILINEAR, box=(3, 4.5, 200, 180))
    assert resize.bilinear(picture, 50, (3, 4.5, 200, 180)) == expected


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}])
def test_jpegs_have_pils_bits_whoever_decodes(monkeypatch, options):
    picture = Image.radial_gradient("L").resize((203, 151)).convert("RGB").quantize(50).convert("RGB")
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=88, **options)

    def decoded(data):
        return np.asarray(images.load_rgb(images.open_image(data)))

    ours = decoded(out.getvalue())
    monkeypatch.setattr(images, "simplejpeg", None)
    np.testing.assert_array_equal(ours, decoded(out.getvalue()))
    np.testing.assert_array_equal(ours, np.asarray(Image.open(out)))
