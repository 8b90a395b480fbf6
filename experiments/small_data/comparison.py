"""What the comparisons of `tiles` and `clothes` share: everything but the images."""

from seed_jax.compare import Comparison, Trained, Untrained

BEFORE, AFTER = "student before", "student after SEED"


def of(images: str, quick: bool) -> Comparison:
    """`configs/seed_folder.py` at 64 pixels with the folder `images` of `data.py`."""
    folder = {} if quick else {"data.dir": f"runs/small_data_images/{images}"}
    small = {} if quick else {"data.image_size": 64, "evals.every_epochs": 2.0}
    return Comparison(
        title=f"A folder of 5,000 small images: {images}",
        rows=(
            Untrained("raw pixels", "pixels", like=AFTER),
            Untrained("teacher, EfficientNet-Lite0", "teacher", like=AFTER),
            Untrained(BEFORE, "start", like=AFTER),
            Trained(AFTER, "seed_folder:smoke" if quick else "seed_folder", folder | small),
        ),
        baseline=BEFORE,
        seeds=(0,) if quick else (0, 1, 2),
    )
