"""./run.sh compare experiments/seed_teachers/centred.py: teachers on centred digits, validation split."""

from experiments.seed_teachers.compare import METHODS, teacher_config
from experiments.seed_teachers.rates import SEEDS
from seed_jax.compare import Comparison, Trained, Untrained

DATA = {"data.source": "digits", "data.test": "val"}  # each digit once, upright, as large as the image
EPOCHS = 55.0  # as many steps as on scattered digits, of which there are twice as many


def get_comparison(quick: bool = False) -> Comparison:
    length = {} if quick else {"train.epochs": EPOCHS}
    rows = [
        Trained(f"{name}, centred digits", teacher_config(each, quick), DATA | length)
        for name, each in METHODS.items()
    ]
    first = rows[0].name
    untrained = (Untrained("untrained", "start", like=first), Untrained("raw pixels", "pixels", like=first))
    return Comparison(
        title="Teachers on digits in the middle of the image, validation split",
        rows=(*rows, *untrained),
        baseline=first,
        seeds=SEEDS,
    )
