"""./run.sh compare experiments/seed_teachers/rates.py: three learning rates each, validation split."""

from experiments.seed_teachers.compare import DINO, METHODS, RATES, SWAV, teacher_config
from seed_jax.compare import Comparison, Trained

SEEDS = (10,)  # none that the table reports
FURTHER = {"MoCo v2": 0.0075, "SimSiam": 1.92}  # whose best rate was an end of the grid
LOCAL_VIEWS = {"local_views": 2, "local_size": 12, "local_scale": (0.4, 0.8)}
TRIED = {  # what may be in the way of a method, tried at its rate
    "SwAV, 512 prototypes": METHODS["SwAV"]._replace(fields=SWAV | {"prototypes": 512}),
    "SwAV, local views": METHODS["SwAV"]._replace(fields=SWAV | LOCAL_VIEWS),
    "DINO, no BatchNorm in the head": METHODS["DINO"]._replace(fields=DINO | {"batch_norm": False}),
}


def row(name: str, rate: float) -> str:
    return f"{name}, rate {rate:g}"


def get_comparison(quick: bool = False) -> Comparison:
    rows = [(row(name, rate), METHODS[name], rate) for name in METHODS for rate in RATES]
    rows += [(row(name, rate), METHODS[name], rate) for name, rate in FURTHER.items()]
    rows += [(name, tried, tried.rate) for name, tried in TRIED.items()]
    trained = [
        Trained(name, teacher_config(each, quick, rate), {"data.test": "val"}) for name, each, rate in rows
    ]
    return Comparison(
        title="Learning rates of the teachers, validation split",
        rows=tuple(trained[:: len(RATES)] if quick else trained),
        baseline=trained[0].name,
        seeds=SEEDS,
    )
