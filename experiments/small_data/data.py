"""Make two folders of small images, each with about 5,000 to train on.

    pip install scikit-image scikit-learn
    python -m experiments.small_data.data OUT                   OUT/tiles
    python -m experiments.small_data.data OUT FASHION_MNIST     OUT/tiles and OUT/clothes

`OUT/tiles` has tiles of fifteen photographs inside scikit-image and scikit-learn, 64 x 64 pixels; the class
is the photograph. Each photograph is cut into cells of 64 x 64 pixels, and each cell belongs to one split. A
tile is a window of 32 to 48 pixels within a cell, enlarged. So tiles of one split may overlap, and tiles of
two splits never do. The splits are the folders `train`, `val` and `test`.

`OUT/clothes` has the first 720 images of each class of Fashion-MNIST's training set, 28 x 28 pixels,
brightness replaced by a blend of two random colours, dark to bright. There is one folder per class, so that
the splits are those of any such folder (docs/data.md). FASHION_MNIST is a folder with its files
`train-images-idx3-ubyte.gz` and `train-labels-idx1-ubyte.gz`.
"""

import argparse
import gzip
from pathlib import Path

import numpy as np
from PIL import Image

PHOTOGRAPHS = (
    *("astronaut", "brick", "camera", "chelsea", "coffee", "grass", "gravel", "hubble_deep_field"),
    *("immunohistochemistry", "moon", "retina", "rocket", "stereo_motorcycle", "china", "flower"),
)
CLOTHES = ("tshirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
CELL, TILE, WINDOW = 64, 64, (32, 48)  # pixels
TILES = {"train": 350, "val": 75, "test": 75}  # of each photograph
SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}  # of its cells


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.small_data.data", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("out", type=Path, help="the two folders are made in it")
    parser.add_argument("fashion_mnist", type=Path, nargs="?", help="folder of Fashion-MNIST's files")
    options = parser.parse_args()
    for number, name in enumerate(PHOTOGRAPHS):
        tiles(options.out / "tiles", name, np.random.default_rng(number))
    if options.fashion_mnist:
        clothes(options.out / "clothes", options.fashion_mnist)


def tiles(out: Path, name: str, random: np.random.Generator) -> None:
    """Write the tiles of one photograph to `out`/SPLIT/`name`."""
    photograph = photo(name)
    corners = [(CELL * i, CELL * j) for i, j in np.ndindex(*(n // CELL for n in photograph.shape[:2]))]
    corners = random.permutation(corners)
    ends = np.round(np.cumsum(list(SHARES.values())) * len(corners)).astype(int)
    for (split, count), cells in zip(TILES.items(), np.split(corners, ends[:-1]), strict=True):
        for number in range(count):
            side = int(random.integers(WINDOW[0], WINDOW[1] + 1))
            top, left = cells[number % len(cells)] + random.integers(0, CELL - side + 1, 2)
            window = Image.fromarray(photograph[top : top + side, left : left + side])
            save(window.resize((TILE, TILE), Image.Resampling.BICUBIC), out / split / name, number)


def photo(name: str) -> np.ndarray:
    """A photograph inside scikit-image or scikit-learn, uint8 `[H, W, 3]`."""
    from skimage import color, data
    from sklearn.datasets import load_sample_image

    if name in ("china", "flower"):
        return load_sample_image(f"{name}.jpg")
    image = getattr(data, name)()
    image = image[0] if isinstance(image, tuple) else image  # the left one of a stereo pair
    return image if image.ndim == 3 else color.gray2rgb(image)


def clothes(out: Path, fashion_mnist: Path, count: int = 720) -> None:
    """Write `count` coloured images of each class of Fashion-MNIST to `out`/CLASS."""
    images = read(fashion_mnist / "train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    labels = read(fashion_mnist / "train-labels-idx1-ubyte.gz", 8)
    for label, name in enumerate(CLOTHES):
        for number, index in enumerate(np.flatnonzero(labels == label)[:count]):
            random = np.random.default_rng(int(index))
            dark, bright = random.uniform(0, 110, 3), random.uniform(110, 255, 3)
            share = images[index, ..., None] / 255
            save(Image.fromarray(np.uint8((1 - share) * dark + share * bright)), out / name, number)


def read(file: Path, header: int) -> np.ndarray:
    """The bytes of a compressed idx file after its header."""
    return np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8, offset=header)


def save(image: Image.Image, folder: Path, number: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / f"{number:04d}.png")


if __name__ == "__main__":
    main()
