"""What the experiments on response distillation share: data, networks and schedule."""

from seed_jax import config
from seed_jax.compare import Trained
from seed_jax.configs import digits_classifier, digits_kd

DATA = {  # beyond the packaged configs
    "fashion": {
        "source": "idx",
        "dir": "/usr/share/datasets/fashion-mnist",  # Debian's package dataset-fashion-mnist
        "subset": "5%",
        "flip": 0.5,
    },
    "scattered": {},
}
TEACHER, STUDENTS = "teacher", ("cifar_resnet8", "wrn_16_1")


def teacher(data: str, quick: bool = False) -> Trained:
    return Trained(TEACHER, _config("supervised", data, "cifar_resnet20", digits_classifier.EPOCHS, quick))


def student(
    name: str,
    data: str,
    model: str,
    quick: bool = False,
    *,
    method: str = "kd",
    epochs: float = digits_kd.EPOCHS,
    probes: float = 0.0,
    **fields,
) -> Trained:
    """A row that the teacher of the same seed teaches, if the method has one.

    Args:
      probes: epochs between checkpoints with a probe; 0 for the end alone.
      fields: of the method.
    """
    c = _config(method, data, model, epochs, quick, probes)
    for key, value in fields.items():
        c.method[key] = value
    return Trained(name, c, teacher=TEACHER if config.resolve(c).method.needs_teacher else "")


def _config(method: str, data: str, model: str, epochs: float, quick: bool, probes: float = 0.0):
    c = digits_classifier.recipe(method, epochs)
    for key, value in DATA[data].items():
        c.data[key] = value
    c.student.model = model
    c.train.checkpoint_epochs = c.evals.every_epochs = probes or epochs  # one takes as long as two epochs
    return config.variant(c, "smoke") if quick else c
