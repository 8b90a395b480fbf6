"""One image: decoding and geometry, on the host.

JPEGs are decoded by libjpeg-turbo without PIL's copies (its bits are PIL's), anything else by PIL. Training
crops are resized by cykooz-resizer, several times as fast as PIL and within one grey level of it; evaluation
views are PIL's to the bit.
"""

import contextlib
import io
import math

import cykooz_resizer
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

BAD_SHARE = 0.01  # of the images of a source, which may be bad
TRIES = 10  # of a random resized crop, as torchvision
NUMBERS = 2 * TRIES + 2  # uniform numbers of one view: area and aspect of each try, place
EVAL_RESIZE = 256 / 224  # of the short side, before the centre crop
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {  # what makes an orientation upright; 5 to 8 swap width and height
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
    """An image that cannot be decoded; the pipeline skips, counts and names it."""


def too_many_bad(count: int, total: int, limit: float = BAD_SHARE) -> bool:
    """Whether more images are bad than may be: two, or the share `limit` of all."""
    return count > max(2, limit * total)


def decode(record) -> np.ndarray:
    """The image of a record as uint8 RGB `[H, W, 3]`; raises `BadImage`."""
    return load_rgb(open_image(record.image))


def open_image(image: bytes | np.ndarray) -> Image.Image:
    """Encoded bytes (read up to the header) or uint8 `[H, W, 3]` as a `PIL.Image`.

    Raises `BadImage`, also for more than PIL's 89 million pixels.
    """
    if isinstance(image, np.ndarray):
        return Image.fromarray(image)
    if not image:
        raise BadImage("an empty file")
    with _pil_errors():
        picture = Image.open(io.BytesIO(image))
    if picture.width * picture.height > Image.MAX_IMAGE_PIXELS:
        raise BadImage(f"{picture.width} x {picture.height} pixels, which looks like a decompression bomb")
    return picture


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """(width, height) that `load_rgb` will give at full size; raises `BadImage`."""
    with _pil_errors():
        turned = _orientation(picture) in (5, 6, 7, 8)
    return picture.size[::-1] if turned else picture.size


def load_rgb(picture: Image.Image, divisor: int = 1) -> np.ndarray:
    """The decoded picture, upright uint8 RGB `[H, W, 3]`, at `1 / divisor` of its size.

    Alpha is dropped; palettes, CMYK, grey and 16-bit grey are converted; EXIF rotation is applied, unless the
    EXIF is broken; of an animation the first frame counts. Raises `BadImage`.

    Args:
      divisor: 1, 2, 4 or 8; only a JPEG obeys, any other picture comes at full size.
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
        picture.load()
        if (turn := _TURNS.get(_orientation(picture))) is not None:
            picture = picture.transpose(turn)
        if picture.mode.startswith("I"):  # 16 bits a pixel, which `convert` would clip instead of scale
            picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        if picture.mode == "P":
            picture = picture.convert("RGBA")
        pixels = np.asarray(picture.convert("RGB"))
    if pixels.shape[:2] != (height, width):
        raise BadImage(f"{pixels.shape[1::-1]} pixels where its header says {(width, height)}")
    return pixels


def is_jpeg(picture: Image.Image) -> bool:
    return picture.format in ("JPEG", "MPO")  # MPO is what phones write: a JPEG with a preview behind it


def _orientation(picture: Image.Image):
    """The EXIF orientation, 1 to 8, or whatever stands there; 1 where the EXIF cannot be read."""
    if picture.format in (None, "TIFF"):  # made from an array; or PIL turns it as it loads
        return 1
    if picture.format == "PNG":
        picture.load()  # its EXIF may stand behind the pixels, whose own errors count
    try:
        return picture.getexif().get(_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # as in `_pil_errors`; the pixels may be fine
        return 1


def _decode_jpeg(picture, width, height, divisor):
    """A colour JPEG that need not be turned; None if PIL has to decode it, or to say what is wrong."""
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
    """What PIL raises for a broken file, as `BadImage`.

    That is any exception: its parsers trust the types of what they read, so that a wrong byte may end in a
    TypeError or an AttributeError. The few lines of ours that run in such a block work on what PIL has read.
    """
    try:
        yield
    except UnidentifiedImageError as error:
        raise BadImage("not an image in a format that PIL knows") from error
    except MemoryError:  # the machine's want, not the file's fault: sizes are bounded before they are decoded
        raise
    except Exception as error:
        raise BadImage(f"{type(error).__name__}: {error}") from error


def crop_box(width: int, height: int, u: np.ndarray, scale, ratio) -> tuple[int, int, int, int]:
    """A random resized crop `(left, top, width, height)` from `NUMBERS` uniform numbers.

    Ten tries of an area in `scale` and an aspect log-uniform in `ratio`, then the largest centre crop whose
    aspect lies in `ratio` (torchvision/transforms/transforms.py, RandomResizedCrop.get_params).
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


def draft_divisor(boxes, sizes) -> int:
    """How much smaller (1, 2, 4, 8) to decode: each crop keeps twice its target, as `reducing_gap=2`."""
    gap = min(min(width, height) / size for (_, _, width, height), size in zip(boxes, sizes, strict=True))
    return max(d for d in (1, 2, 4, 8) if d == 1 or gap >= 2 * d)


def resized_crop(pixels: np.ndarray, box, size: int, divisor: int = 1) -> np.ndarray:
    """The box `(left, top, width, height)` of the full-size picture, resized to uint8 `[size, size, 3]`.

    `pixels` is `1 / divisor` of that size. The crop comes first, so that pixels outside it never count.
    Bilinear with antialias, within one grey level of PIL's.
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


def eval_view(
    pixels: np.ndarray, size: int, resize: float = EVAL_RESIZE, interpolation: str = "bilinear"
) -> np.ndarray:
    """Short side to `round(size * resize)`, then the centre, uint8 `[size, size, 3]`.

    As torchvision's Resize and CenterCrop on PIL images. An image that is exactly `size x size` is returned
    unchanged. `interpolation`: of `RESAMPLING`. Raises `BadImage` for one so thin that it would be resized to
    more than PIL's 89 million pixels.
    """
    height, width, _ = pixels.shape
    if width == height == size:
        return pixels
    short = round(size * resize)
    if width <= height:
        width, height = short, int(short * height / width)
    else:
        width, height = int(short * width / height), short
    if width * height > Image.MAX_IMAGE_PIXELS:
        raise BadImage(f"{pixels.shape[1::-1]} pixels, too thin: resized, it would fill memory")
    picture = Image.fromarray(pixels).resize((width, height), RESAMPLING[interpolation])
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(picture.crop((left, top, left + size, top + size)))
