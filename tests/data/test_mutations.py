"""Images damaged at random: each gives a view or a BadImage, never another error."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_images import ODD_EXIF

from seed_jax.data import images, pipeline
from seed_jax.data.sources import Record, open_source
from seed_jax.data.views import fill_views

SPECS = (pipeline.ViewSpec(size=8),)
FORMS = {
    "jpeg": ("RGB", "JPEG", {"exif": True}),
    "progressive": ("RGB", "JPEG", {"progressive": True}),
    "cmyk": ("CMYK", "JPEG", {}),
    "mpo": ("RGB", "MPO", {"save_all": True}),
    "png": ("RGBA", "PNG", {"exif": True}),
    "png16": ("I;16", "PNG", {}),
    "palette": ("P", "PNG", {"transparency": bytes(range(64))}),
    "webp": ("RGB", "WEBP", {"exif": True}),
    "bmp": ("RGB", "BMP", {}),
    "tiff": ("RGB", "TIFF", {"exif": True}),
    "lzw": ("RGB", "TIFF", {"compression": "tiff_lzw"}),
    "gif": ("P", "GIF", {"save_all": True}),
    "exif_ascii": ("RGB", "JPEG", {"exif": ODD_EXIF["ascii"]}),
    "exif_bytes": ("RGB", "PNG", {"exif": ODD_EXIF["bytes"]}),
    "exif_undefined": ("RGB", "WEBP", {"exif": ODD_EXIF["undefined"]}),
}


@pytest.fixture(autouse=True)
def quiet(capfd):
    """Discard the messages that libtiff prints about damaged files."""
    yield
    capfd.readouterr()


def whole(form):
    mode, file_format, options = FORMS[form]
    y, x = np.mgrid[0:40, 0:61]
    picture = Image.fromarray(np.stack([4 * x, 6 * y, 2 * (x + y)], -1).astype(np.uint8))
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture)[..., 0].astype(np.uint16) * 256)
    else:
        picture = picture.quantize(64) if mode == "P" else picture.convert(mode)
    options = dict(options)
    if options.get("exif") is True:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = 6
        options["exif"][0x011A] = 72.5  # a resolution
    out = io.BytesIO()
    picture.save(out, file_format, **options)
    return out.getvalue()


def mutated(data, random):
    data = bytearray(data)
    kind, at = random.integers(4), random.integers(len(data))
    if kind == 0:  # a few wrong bytes, half of them in the header
        for _ in range(random.integers(1, 6)):
            data[random.integers(random.choice([min(200, len(data)), len(data)]))] = random.integers(256)
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        data[at:at] = random.bytes(random.integers(1, 50))
    else:
        del data[at : at + random.integers(1, 60)]
    return bytes(data)


def views(data):
    """A training view and an evaluation view, as the pipeline makes them."""
    out = np.zeros((1, 8, 8, 3), np.uint8)
    fill_views([out], Record(data, 3, -1), SPECS, seed=0, epoch=0)
    return out[0], images.eval_view(images.decode(Record(data, 0, -1)), 8)


@pytest.mark.parametrize("form", FORMS)
def test_intact_images_give_views(form):
    for view in views(whole(form)):
        assert view.std() > 5


# PIL warns of what it reads around; here only errors count.
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("form", FORMS)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_mutated_images_give_views_or_bad_image(form, seed):
    data = mutated(whole(form), np.random.default_rng(seed))
    try:
        for view in views(data):
            assert view.shape == (8, 8, 3)
    except images.BadImage as error:
        assert str(error)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_the_pipeline_reads_past_damaged_images(tmp_path):
    """Of 600 images five are damaged so that decoding always fails: they are skipped, counted and named."""
    good = whole("jpeg")
    for n in range(600):
        (tmp_path / f"{n:03}.jpg").write_bytes(good)
    broken = {7: b"", 99: b"<html>", 200: good[:400], 301: bytes(3000), 302: whole("png")[:100]}
    for n, content in broken.items():
        (tmp_path / f"{n:03}.jpg").write_bytes(content)
    source = open_source("folder", "all", dir=str(tmp_path))
    bad = pipeline.BadImages(source)
    list(pipeline.eval_batches(source, 8, 200, bad=bad, threads=2))
    assert sorted(bad.names) == sorted(broken)
    again = pipeline.BadImages(source)
    next(pipeline.train_batches(source, SPECS, 600, seed=0, bad=again, threads=2))
    assert sorted(again.names) == sorted(broken)
