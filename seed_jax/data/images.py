"""Decode one image and cut views from it, on the host.

libjpeg-turbo decodes JPEGs without PIL's copies, to the same bits as PIL; PIL decodes every other format.
cykooz-resizer resizes random crops several times as fast as PIL and within one grey level of it (very rarely
two). Evaluation views equal PIL's bit for bit.
"""

import contextlib
import io
import math

import cykooz_resizer
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

BAD_SHARE = 0.01  # share of a source's images that may be bad
TRIES = 10  # attempts of a random-resized crop, as in torchvision
NUMBERS = 2 * TRIES + 2  # uniform numbers per view: area and aspect of each attempt, then the position
EVAL_RESIZE = 256 / 224  # short side before the centre crop, as a multiple of the crop's side
WHITE = (255, 255, 255)  # what images with alpha are put on by default
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {  # the transpose that makes each EXIF orientation upright; 5 to 8 swap width and height
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BILINEAR = cykooz_resizer.ResizeAlg.convolution(cykooz_resizer.FilterType.bilinear)


class BadImage(Exception):
    """An image cannot be read or decoded; the pipeline skips the image, counts it and logs its name."""


def too_many_bad(count: int, total: int, limit: float = BAD_SHARE) -> bool:
    """Whether `count` bad images of `total` exceed both two images and the share `limit` of `total`."""
    return count > max(2, limit * total)


def decode(record, background: tuple[int, int, int] = WHITE) -> np.ndarray:
    """Decode the image of a record to upright uint8 RGB `[H, W, 3]`; arguments and errors as `load_rgb`."""
    return load_rgb(open_image(record.image), background=background)


def open_image(image: bytes | np.ndarray) -> Image.Image:
    """Open encoded bytes (only the header is read) or uint8 `[H, W, 3]` as a `PIL.Image`.

    Raises `BadImage` for bytes that PIL cannot read, and for images above PIL's limit of 89 million pixels.
    """
    if isinstance(image, np.ndarray):
        return Image.fromarray(image)
    if not image:
        raise BadImage("an empty file")
    with _pil_errors():
        picture = Image.open(io.BytesIO(image))
        _scale_transparent_value(picture)
    if picture.width * picture.height > Image.MAX_IMAGE_PIXELS:
        raise BadImage(f"{picture.width} x {picture.height} pixels, which looks like a decompression bomb")
    return picture


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """The (width, height) of what `load_rgb` returns at full size, in pixels. Raises `BadImage`."""
    with _pil_errors():
        turned = _orientation(picture) in (5, 6, 7, 8)
    return picture.size[::-1] if turned else picture.size


def load_rgb(picture: Image.Image, divisor: int = 1, background: tuple[int, int, int] = WHITE) -> np.ndarray:
    """Decode a picture to upright uint8 RGB `[H, W, 3]`, at `1 / divisor` of its size.

    A picture with alpha, or with a transparent colour, is composited on `background`. Palettes, CMYK, grey
    and 16-bit grey are converted to RGB. EXIF rotation is applied unless the EXIF is broken. Of an animation,
    only the first frame is decoded.

    Args:
      picture: from `open_image`.
      divisor: 1, 2, 4 or 8. Only JPEGs are decoded at a smaller size; other pictures ignore it.
      background: red, green and blue, 0 to 255.

    Raises:
      BadImage: the picture cannot be decoded.
    """
    if picture.format is None:
        return np.asarray(picture)
    divisor = divisor if is_jpeg(picture) else 1
    width, height = (-(-x // divisor) for x in upright_size(picture))
    if is_jpeg(picture) and (pixels := _decode_jpeg(picture, width, height, divisor)) is not None:
        return pixels
    with _pil_errors():
        if divisor > 1:
            picture.draft(None, (picture.width // divisor, picture.height // divisor))
        picture = _upright(picture)
        if picture.has_transparency_data:
            on = Image.new("RGBA", picture.size, (*background, 255))
            picture = Image.alpha_composite(on, picture.convert("RGBA"))
        pixels = np.asarray(picture.convert("RGB"))
    if pixels.shape[:2] != (height, width):
        raise BadImage(f"{pixels.shape[1::-1]} pixels where its header says {(width, height)}")
    return pixels


def load_rgba(picture: Image.Image) -> Image.Image:
    """Decode a picture from `open_image` to an upright one of mode RGBA. Raises `BadImage`."""
    with _pil_errors():
        return _upright(picture).convert("RGBA")


def has_alpha(picture: Image.Image) -> bool:
    """Whether a picture has an alpha channel or transparent colours. Raises `BadImage`."""
    with _pil_errors():
        return picture.has_transparency_data


def _upright(picture: Image.Image) -> Image.Image:
    """Decode a picture, apply its EXIF rotation, and reduce 16-bit grey to 8 bits; alpha is kept."""
    picture.load()
    if (turn := _TURNS.get(_orientation(picture))) is not None:
        picture = picture.transpose(turn)
    if not picture.mode.startswith("I"):
        return picture
    values, transparent = np.asarray(picture), picture.info.get("transparency")
    grey = Image.fromarray((values >> 8).astype(np.uint8))  # `convert` would clip instead of scale
    if transparent is not None:
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def is_jpeg(picture: Image.Image) -> bool:
    """Whether the picture is a JPEG, also one with a preview appended, as phones write them (MPO)."""
    return picture.format in ("JPEG", "MPO")


def _scale_transparent_value(picture: Image.Image) -> None:
    """Scale the transparent colour of a PNG to 8 bits, as PIL scales its pixels.

    PIL compares the two without that. Of 16-bit colours it keeps the high bytes, so that all colours with the
    transparent one's high bytes become transparent.
    """
    value = picture.info.get("transparency")
    if picture.format != "PNG" or not picture.tile or value is None:
        return
    layout = picture.tile[0][3]
    if layout == "RGB;16B":
        picture.info["transparency"] = tuple(x >> 8 for x in value)
    elif layout in ("L;2", "L;4"):
        picture.info["transparency"] = value * (85 if layout == "L;2" else 17)


def _orientation(picture: Image.Image):
    """The value of the EXIF orientation tag, 1 to 8 if it is valid; 1 when the EXIF cannot be read."""
    if picture.format in (None, "TIFF"):  # an array has no EXIF; PIL turns a TIFF while loading it
        return 1
    if picture.format == "PNG":
        picture.load()  # the EXIF may follow the pixels, and errors in the pixels must be raised
    try:
        return picture.getexif().get(_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # any type, see `_pil_errors`; the pixels may still be good
        return 1


def _decode_jpeg(picture, width, height, divisor):
    """Decode an RGB JPEG that is already upright.

    Returns None when PIL has to decode the picture or to report what is wrong with it.
    """
    if picture.mode != "RGB" or _orientation(picture) in _TURNS:
        return None
    try:
        pixels = simplejpeg.decode_jpeg(
            picture.fp.getbuffer(), min_width=width, min_height=height, min_factor=divisor
        )
    except ValueError:
        return None
    return pixels if pixels.shape == (height, width, 3) else None


@contextlib.contextmanager
def _pil_errors():
    """Turn any exception but `MemoryError` inside the block into `BadImage`.

    PIL's parsers trust the types of the values in a file, so one wrong byte may raise a TypeError or an
    AttributeError. Keep our own code in such a block to a few lines that work on values read by PIL.
    """
    try:
        yield
    except UnidentifiedImageError as error:
        raise BadImage("not an image in a format that PIL knows") from error
    except MemoryError:  # the machine lacks memory; the file is not at fault, since its size was checked
        raise
    except Exception as error:
        raise BadImage(f"{type(error).__name__}: {error}") from error


def crop_box(width: int, height: int, u: np.ndarray, scale, ratio) -> tuple[int, int, int, int]:
    """The box `(left, top, width, height)` of a random-resized crop, in pixels of a `width x height` image.

    Ten attempts draw an area share uniformly from `scale` and an aspect log-uniformly from `ratio`. If no
    attempt fits, the box is the largest centre crop whose aspect is within `ratio`
    (torchvision/transforms/transforms.py, RandomResizedCrop.get_params). torchvision draws a new position in
    each attempt; we draw one, which has the same distribution.

    Args:
      u: `NUMBERS` uniform numbers in [0, 1).
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for n in range(TRIES):
        area = width * height * (scale[0] + (scale[1] - scale[0]) * u[2 * n])
        aspect = math.exp(low + (high - low) * u[2 * n + 1])
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(u[2 * TRIES] * (width - w + 1)), int(u[2 * TRIES + 1] * (height - h + 1))
            return left, top, w, h
    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (width - w) // 2, (height - h) // 2, w, h


def pad_offset(u: np.ndarray, padding: int) -> tuple[int, int]:
    """The (left, top) of a window in an image with `padding` pixels added on each side, from `-padding` to
    `padding` in pixels of the image before padding.

    All `(2 * padding + 1) ** 2` offsets are equally likely, as in RandomCrop of
    torchvision/transforms/transforms.py.

    Args:
      u: `NUMBERS` uniform numbers in [0, 1), of which the last two are used.
    """
    left, top = (int(x * (2 * padding + 1)) - padding for x in u[2 * TRIES : 2 * TRIES + 2])
    return left, top


def draft_divisor(boxes, sizes) -> int:
    """The divisor (1, 2, 4 or 8) to decode a JPEG with, so that no crop is under twice its view's size.

    The margin of two is PIL's `reducing_gap=2`.

    Args:
      boxes: `(left, top, width, height)` of each crop.
      sizes: the side of each view.
    """
    gap = min(min(width, height) / size for (_, _, width, height), size in zip(boxes, sizes, strict=True))
    return max(d for d in (1, 2, 4, 8) if d == 1 or gap >= 2 * d)


def resized_crop(pixels: np.ndarray, box, size: int, divisor: int = 1) -> np.ndarray:
    """Cut a box from a picture and resize it to uint8 `[size, size, 3]`.

    Bilinear with antialias, within one grey level of PIL's, very rarely two. The box is cut before the
    resize, so pixels outside it have no influence.

    Args:
      pixels: uint8 `[H, W, 3]`, the picture decoded at `1 / divisor` of its size.
      box: `(left, top, width, height)` in pixels of the full-size picture.
    """
    left, top, right, bottom = (x / divisor for x in (box[0], box[1], box[0] + box[2], box[1] + box[3]))
    right, bottom = min(right, pixels.shape[1]), min(bottom, pixels.shape[0])
    x, y = int(left), int(top)
    crop = pixels[y : math.ceil(bottom), x : math.ceil(right)]
    rgb = cykooz_resizer.PixelType.U8x3
    view = cykooz_resizer.ImageData(size, size, rgb)
    cykooz_resizer.Resizer().resize(
        cykooz_resizer.ImageData(crop.shape[1], crop.shape[0], rgb, crop.tobytes()),
        view,
        cykooz_resizer.ResizeOptions(
            resize_alg=_BILINEAR,
            crop_box=cykooz_resizer.CropBox(left - x, top - y, right - left, bottom - top),
            use_alpha=False,
        ),
    )
    return np.frombuffer(view.get_buffer(), np.uint8).reshape(size, size, 3)


def eval_box(width: int, height: int, size: int, resize: float = EVAL_RESIZE) -> tuple[int, int, int, int]:
    """The geometry of `eval_view`: (resized width, resized height, left, top), in pixels.

    `left` and `top` are the corner of the `size x size` centre crop in the resized image.
    """
    short = round(size * resize)
    if width <= height:
        width, height = short, int(short * height / width)
    else:
        width, height = int(short * width / height), short
    return width, height, round((width - size) / 2), round((height - size) / 2)


def eval_view(
    pixels: np.ndarray, size: int, resize: float = EVAL_RESIZE, interpolation: str = "bilinear"
) -> np.ndarray:
    """Resize the short side to `round(size * resize)` and cut the centre, uint8 `[size, size, 3]`.

    Equals torchvision's Resize and CenterCrop on PIL images.

    Args:
      pixels: uint8 `[H, W, 3]`.
      resize: 1 or more; with 1, an image of `size x size` is returned unchanged.
      interpolation: 'bilinear' or 'bicubic' (`RESAMPLING`).

    Raises:
      BadImage: the image is so thin that resizing would produce more than PIL's limit of 89 million pixels.
    """
    width, height, left, top = eval_box(pixels.shape[1], pixels.shape[0], size, resize)
    if width * height > Image.MAX_IMAGE_PIXELS:
        raise BadImage(
            f"{pixels.shape[1]} x {pixels.shape[0]} pixels, too thin to resize: the result would exceed "
            f"{Image.MAX_IMAGE_PIXELS} pixels"
        )
    picture = Image.fromarray(pixels).resize((width, height), RESAMPLING[interpolation])
    return np.asarray(picture.crop((left, top, left + size, top + size)))


def window(pixels: np.ndarray, left: int, top: int, size: int) -> np.ndarray:
    """The `size x size` window of `pixels` with its corner at (left, top), black where it leaves the image.

    `pixels` and the result are uint8 `[H, W, 3]`.
    """
    picture = Image.fromarray(pixels)
    return np.asarray(picture.crop((left, top, left + size, top + size)))
