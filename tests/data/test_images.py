import io
import math
import struct
import zlib

import numpy as np
import pytest
from photos import photo
from PIL import Image

from seed_jax.data import images
from seed_jax.data.sources import Record


def encode(picture, form, **kwargs):
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    out = io.BytesIO()
    picture.save(out, form, **kwargs)
    return out.getvalue()


def decode(data):
    return images.decode(Record(data, 0, -1))


@pytest.mark.parametrize(
    ("form", "tolerance"),
    [("JPEG", 6), ("PNG", 0), ("WEBP", 12), ("BMP", 0), ("TIFF", 0)],
)
def test_formats(form, tolerance):
    out = decode(encode(photo(), form))
    assert out.shape == (40, 61, 3)
    assert out.dtype == np.uint8
    assert np.abs(out.astype(int) - photo()).max() <= tolerance * 3
    assert np.abs(out.astype(int) - photo()).mean() <= tolerance


def test_grey_palette_cmyk_and_16_bits():
    grey = photo()[..., 0]
    assert (decode(encode(grey, "PNG")) == grey[..., None]).all()
    sixteen = Image.fromarray(grey.astype(np.uint16) * 256 + 77)
    assert (decode(encode(sixteen, "PNG")) == grey[..., None]).all()
    palette = Image.fromarray(photo()).quantize(64)
    np.testing.assert_array_equal(decode(encode(palette, "PNG")), np.asarray(palette.convert("RGB")))
    one_bit = Image.fromarray(grey).convert("1")
    np.testing.assert_array_equal(decode(encode(one_bit, "PNG"))[..., 1] > 0, np.asarray(one_bit))
    cmyk = decode(encode(Image.fromarray(photo()).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(cmyk.astype(int) - photo()).mean() < 6


@pytest.mark.parametrize("transform", [0, 1, 2])
def test_four_channel_jpegs_are_as_pil_reads_them(transform):
    """Adobe's marker distinguishes CMYK (0) from YCCK (2)."""
    data = bytearray(encode(Image.fromarray(photo()).convert("CMYK"), "JPEG", quality=95))
    adobe = data.index(b"Adobe")
    data[adobe + 11] = transform
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode(bytes(data)), expected)


def png(depth, colour, row, transparent=b"", palette=b"", width=2):
    """A PNG of one row, by the specification: bit depth, colour type, packed row, tRNS, PLTE."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)
    out = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    out += chunk(b"PLTE", palette) if palette else b""
    out += chunk(b"tRNS", transparent) if transparent else b""
    return out + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")


def shorts(*values):
    return struct.pack(f">{len(values)}H", *values)


WITH_ALPHA = {  # a PNG of two pixels, their colours and alphas as the PNG specification defines them
    "1-bit grey": (png(1, 0, b"\x80", shorts(1)), [[255] * 3, [0] * 3], [0, 255]),
    "2-bit grey": (png(2, 0, b"\xd0", shorts(3)), [[255] * 3, [85] * 3], [0, 255]),
    "4-bit grey": (png(4, 0, b"\xa5", shorts(10)), [[170] * 3, [85] * 3], [0, 255]),
    "8-bit grey": (png(8, 0, b"\x07\x09", shorts(9)), [[7] * 3, [9] * 3], [255, 0]),
    "16-bit grey": (png(16, 0, shorts(1000, 60000), shorts(60000)), [[3] * 3, [234] * 3], [255, 0]),
    "low byte differs": (png(16, 0, shorts(1000, 60001), shorts(60000)), [[3] * 3, [234] * 3], [255, 255]),
    "8-bit RGB": (png(8, 2, bytes(range(1, 7)), shorts(4, 5, 6)), [[1, 2, 3], [4, 5, 6]], [255, 0]),
    "16-bit RGB": (
        png(16, 2, shorts(1000, 2000, 3000, 40000, 50000, 60000), shorts(40000, 50000, 60000)),
        [[3, 7, 11], [156, 195, 234]],
        [255, 0],
    ),
    "palette": (png(8, 3, b"\0\1", b"\x80\xff", bytes(range(1, 7))), [[1, 2, 3], [4, 5, 6]], [128, 255]),
    "short tRNS": (png(8, 3, b"\0\1", b"\0", bytes(range(1, 7))), [[1, 2, 3], [4, 5, 6]], [0, 255]),
    "grey + alpha": (png(8, 4, b"\x07\x40\x09\xff"), [[7] * 3, [9] * 3], [64, 255]),
    "16-bit grey + alpha": (png(16, 4, shorts(1000, 0, 60000, 65535)), [[3] * 3, [234] * 3], [0, 255]),
    "RGBA": (png(8, 6, bytes([1, 2, 3, 0, 4, 5, 6, 200])), [[1, 2, 3], [4, 5, 6]], [0, 200]),
    "16-bit RGBA": (
        png(16, 6, shorts(1000, 2000, 3000, 0, 40000, 50000, 60000, 65535)),
        [[3, 7, 11], [156, 195, 234]],
        [0, 255],
    ),
}


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (10, 200, 90)])
@pytest.mark.parametrize("name", WITH_ALPHA)
def test_alpha_is_composited_on_the_background(name, background):
    data, colours, alphas = WITH_ALPHA[name]
    share = np.array(alphas)[:, None] / 255
    expected = np.array(colours) * share + np.array(background) * (1 - share)
    found = images.decode(Record(data, 0, -1), background)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found[0], expected, atol=1)
    opaque = np.array(alphas) % 255 == 0
    np.testing.assert_array_equal(found[0][opaque], expected[opaque])
    if background == (255, 255, 255):
        np.testing.assert_array_equal(decode(data), found)


@pytest.mark.parametrize(("form", "options"), [("WEBP", {"lossless": True}), ("TIFF", {}), ("GIF", {})])
def test_alpha_of_other_formats(form, options):
    pixels = np.dstack([photo(), np.full((40, 61), 255, np.uint8)])
    pixels[:, :20, :3], pixels[:, :20, 3] = 0, 0
    found = images.decode(Record(encode(pixels, form, **options), 0, -1), (10, 200, 90))
    assert (found[:, :20] == [10, 200, 90]).all()
    assert np.abs(found[:, 20:].astype(int) - photo()[:, 20:]).mean() < (20 if form == "GIF" else 1e-9)


def test_alpha_of_a_turned_image():
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.dstack([photo(), np.full((40, 61), 255, np.uint8)])
    pixels[:10, :, 3] = 0
    found = images.decode(Record(encode(pixels, "PNG", exif=exif), 0, -1), (9, 9, 9))
    expected = np.where(pixels[..., 3:] == 0, np.uint8(9), photo())
    np.testing.assert_array_equal(found, np.rot90(expected, -1))


def test_opaque_alpha_changes_nothing():
    alpha = np.dstack([photo(), np.full((40, 61), 255, np.uint8)])
    np.testing.assert_array_equal(decode(encode(alpha, "PNG")), photo())


def test_grey_jpeg_and_grey_with_alpha():
    grey = Image.fromarray(photo()[..., 0])
    data = encode(grey, "JPEG", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(decode(data), np.repeat(expected[..., None], 3, axis=-1))
    np.testing.assert_array_equal(decode(encode(grey.convert("LA"), "PNG"))[..., 0], photo()[..., 0])


def test_first_frame_of_a_gif():
    frames = [Image.new("RGB", (8, 6), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(decode(data)[3, 3], [250, 0, 0], atol=4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(orientation):
    upright = {  # the EXIF standard's definition of row 0 and column 0, in NumPy
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, -1),
        7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
        8: lambda x: np.rot90(x, 1),
    }[orientation](photo())
    exif = Image.Exif()
    exif[0x0112] = orientation
    height, width, _ = upright.shape
    for form in ("PNG", "TIFF", "WEBP", "JPEG"):
        data = encode(photo(), form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
        assert images.upright_size(images.open_image(data)) == (width, height)
        difference = np.abs(decode(data).astype(int) - upright)
        assert difference.mean() < 2 if form == "JPEG" else not difference.any()


def odd_exif(kind, content, tag=0x0112):
    """EXIF with one tag, whose type `kind` and bytes `content` need not be valid."""
    count = len(content) // {1: 1, 2: 1, 3: 2, 5: 8, 7: 1}[kind]
    inline = content.ljust(4, bytes(1)) if len(content) <= 4 else struct.pack("<I", 26)
    entry = struct.pack("<HHI", tag, kind, count) + inline
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4) + content


ODD_EXIF = {
    "ascii": odd_exif(2, b"6\0"),
    "bytes": odd_exif(1, b"\6\6"),
    "undefined": odd_exif(7, b"\6"),
    "shorts": odd_exif(3, b"\6\0\6\0"),
    "nine": odd_exif(3, b"\t\0"),
    "zero": odd_exif(3, b"\0\0"),
    "over zero": odd_exif(5, bytes(8)),
    "no header": b"Exif\0\0nothing",
    "cut": odd_exif(3, b"\6\0")[:-12],
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Truncated File Read")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", ODD_EXIF.values(), ids=ODD_EXIF)
def test_odd_exif_leaves_the_picture_as_it_is(form, exif):
    data = encode(photo(), form, exif=exif)
    assert images.upright_size(images.open_image(data)) == (61, 40)
    np.testing.assert_array_equal(decode(data), decode(encode(photo(), form)))


def test_a_turned_picture_is_turned_whatever_else_its_exif_holds():
    """The other tag has a wrong type, so PIL could not write the EXIF again without the orientation."""
    tags = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack("<HHII", 0x010E, 5, 1, 38)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + tags + bytes(4) + struct.pack("<II", 72, 1)
    for form in ("JPEG", "PNG", "WEBP"):
        data = encode(photo(), form, exif=exif)
        picture = images.open_image(data)
        assert images.upright_size(picture) == (40, 61)
        np.testing.assert_array_equal(decode(data), np.rot90(decode(encode(photo(), form)), -1))


@pytest.mark.parametrize("error", [TypeError, AttributeError, ZeroDivisionError, RecursionError])
def test_whatever_pil_raises_is_a_bad_image_but_want_of_memory(monkeypatch, error):
    def fail(*_):
        raise error("such")

    picture = images.open_image(encode(photo(), "PNG"))
    monkeypatch.setattr(type(picture), "load", fail)
    with pytest.raises(images.BadImage, match=f"{error.__name__}: such"):
        images.load_rgb(picture)
    error = MemoryError
    with pytest.raises(MemoryError):
        images.load_rgb(picture)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # PIL warns of a broken TIFF header before it raises
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "GIF", "WEBP", "BMP"])
def test_broken_files_raise_bad_image(form):
    data = encode(photo(), form)
    for broken in (b"", b"not an image", data[:20], data[: len(data) // 2]):
        with pytest.raises(images.BadImage):
            decode(broken)


def bomb(width, height):
    """A PNG of a few bytes whose header claims a huge size."""
    data = bytearray(encode(photo(), "PNG"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.mark.parametrize("side", [9_500, 15_000, 60_000])  # PIL warns of the first and refuses the others
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_bad_images(side):
    with pytest.raises(images.BadImage, match="decompression bomb"):
        decode(bomb(side, side))


def test_what_is_no_image_says_so():
    for content, message in (
        (b"", "an empty file"),
        (b"<html>", "not an image"),
        (b"\0" * 900, "not an image"),
    ):
        with pytest.raises(images.BadImage, match=message):
            decode(content)


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}]
)
@pytest.mark.parametrize("divisor", [1, 2, 4, 8])
def test_jpegs_are_pils_to_the_bit(options, divisor):
    data = encode(photo(301, 203), "JPEG", quality=90, **options)
    picture = Image.open(io.BytesIO(data))
    if divisor > 1:
        picture.draft(None, (301 // divisor, 203 // divisor))
    pixels = images.load_rgb(images.open_image(data), divisor)
    np.testing.assert_array_equal(pixels, np.asarray(picture))


def test_draft_shows_the_same_crop():
    data = encode(photo(1603, 1201), "JPEG", quality=95)
    box = (203, 101, 1009, 901)
    assert images.draft_divisor([box], [224]) == 2
    assert images.draft_divisor([box, (0, 0, 300, 300)], [96, 96]) == 1
    assert images.draft_divisor([box], [20]) == 8
    whole = images.resized_crop(images.load_rgb(images.open_image(data)), box, 96)
    for divisor in (2, 4):
        half = images.load_rgb(images.open_image(data), divisor)
        assert half.shape[1] == math.ceil(1603 / divisor)
        draft = images.resized_crop(half, box, 96, divisor)
        assert np.abs(draft.astype(int) - whole).mean() <= 1
