"""What a view is, and how the views of a sample are cut from its image."""

import dataclasses
import functools
import itertools

from seed_jax.data import images, rng

CROPS = ("random", "pad", "centre")
_BAG = -2  # the view number that keys the choice from a bag; -1 keys an epoch's permutation


@dataclasses.dataclass(frozen=True)
class ViewSpec:
    """How to cut and augment `count` views of `size x size` pixels from an image.

    Attributes:
      count: views per sample.
      size: side of a view, pixels.
      scale: range of the crop's share of the image area; used by 'random' only.
      ratio: range of the crop's width / height; used by 'random' only.
      flip: probability of mirroring a view left to right, on the device.
      photometric: key of `photometric.PRESETS`.
      crop: 'random' cuts a random-resized crop (`images.crop_box`). 'centre' is `images.eval_view`. 'pad'
        resizes the short side to `size`, cuts the centre, adds `padding` black pixels on each side and cuts a
        random window from the result, as torchvision's `RandomCrop(size, padding)`. It therefore does not
        resize an image of `size x size`.
      padding: black pixels added on each side; used by 'pad' only.
      resize: short side before the centre crop, as a multiple of `size`; used by 'centre' only.
      policy: one of `augmentations.POLICIES`, on the device, after the photometrics; '' for none.
      erase: probability of erasing a rectangle of a view, on the device, at the end.
      bag: the target of a record that lists other images of the source: the views are cut from one of them,
        drawn by (seed, id, pass), or from the next one that can be read. '' for views of the image itself.
    """

    count: int = 1
    size: int = 224
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    photometric: str = "mocov2"
    crop: str = "random"
    padding: int = 4
    resize: float = images.EVAL_RESIZE
    policy: str = ""
    erase: float = 0.0
    bag: str = ""

    @property
    def short_side(self) -> float:
        """Short side that 'centre' and 'pad' resize to, as a multiple of `size`."""
        return 1.0 if self.crop == "pad" else self.resize


def fill_sample(outs, source, record, views, seed, epoch, background):
    """As `fill_views`, with views of other images of the source where a ViewSpec has a `bag`."""
    crops = []
    for bag, pairs in itertools.groupby(zip(outs, views, strict=True), lambda pair: pair[1].bag):
        arrays, specs = zip(*pairs, strict=True)
        fill = functools.partial(
            fill_views, arrays, views=specs, seed=seed, epoch=epoch, background=background, first=len(crops)
        )
        crops += _fill_from_bag(fill, source, record, bag, seed, epoch) if bag else fill(record)
    return crops


def _fill_from_bag(fill, source, record, bag, seed, epoch):
    """Fill with an image of the record's bag, or with the record's own if none of the bag can be read.

    The crops are keyed by the record's id. An unreadable image is counted when it is drawn for itself.
    """
    indices = record.targets[bag]
    n = rng.host_generator(seed, record.id, epoch, _BAG).integers(len(indices))
    for index in (*indices[n:], *indices[:n]):
        try:
            return fill(source[int(index)]._replace(id=record.id))
        except images.BadImage:
            continue
    return fill(record)


def fill_views(outs, record, views, seed, epoch, background=images.WHITE, first=0):
    """Write the views of a record into `outs`, uint8 `[V, H, W, 3]` for each ViewSpec.

    Views are numbered across ViewSpecs, from `first` on. `background`: as for `images.load_rgb`. Returns the
    crop of each view, as in `train_batches`.
    """
    specs = [spec for spec in views for _ in range(spec.count)]
    numbers = [
        rng.host_generator(seed, record.id, epoch, first + v).random(images.NUMBERS)
        for v in range(len(specs))
    ]
    picture = images.open_image(record.image)
    size = images.upright_size(picture)
    boxes = [
        images.crop_box(*size, u, spec.scale, spec.ratio) if spec.crop == "random" else None
        for u, spec in zip(numbers, specs, strict=True)
    ]
    divisor = 1
    if None not in boxes and images.is_jpeg(picture):
        divisor = images.draft_divisor(boxes, [s.size for s in specs])
    pixels = images.load_rgb(picture, divisor, background)
    squares = {
        (s.size, s.short_side): images.eval_view(pixels, s.size, s.short_side)
        for s in views
        if s.crop != "random"
    }
    crops = []
    for out, spec, u, box in zip(itertools.chain(*outs), specs, numbers, boxes, strict=True):
        if box is not None:
            (left, top, width, height), frame = box, size
            out[:] = images.resized_crop(pixels, box, spec.size, divisor)
        else:
            *frame, left, top = images.eval_box(*size, spec.size, spec.short_side)
            x, y = images.pad_offset(u, spec.padding if spec.crop == "pad" else 0)
            left, top, width, height = left + x, top + y, spec.size, spec.size
            out[:] = images.window(squares[spec.size, spec.short_side], x, y, spec.size)
        crops.append((left / frame[0], top / frame[1], width / frame[0], height / frame[1]))
    return crops
