"""What the experiments on response distillation share: data, networks and schedule."""

import ml_collections

from seed_jax import config
from seed_jax.compare import Trained

FASHION = "/usr/share/datasets/fashion-mnist"  # Debian's package dataset-fashion-mnist
DATA = {
    "fashion": {"source": "idx", "dir": FASHION, "subset": "5%", "flip": 0.5},
    "scattered": {"source": "scattered", "dir": "", "subset": "", "flip": 0.0},
}
TEACHER = "teacher"
TEACHER_MODEL = "cifar_resnet20"
STUDENTS = ("cifar_resnet8", "wrn_16_1")
EPOCHS, TEACHER_EPOCHS = 12.0, 40.0  # about 500 and 1,700 steps


def base(method: str, data: str, model: str, epochs: float, quick: bool) -> ml_collections.ConfigDict:
    """CRD's recipe, shorter: SGD 0.05, three decays by 10, crops moved by an eighth; images of 16 pixels."""
    c = config.default(method)
    for key, value in DATA[data].items():
        c.data[key] = value
    c.data.batch_size, c.data.image_size, c.data.resize = 64, 16, 1.0
    c.data.crop, c.data.padding, c.data.photometric = "pad", 2, "none"
    c.student.model = model
    c.optim.name, c.optim.lr, c.optim.lr_batch = "sgd", 0.05, 0
    c.optim.momentum, c.optim.weight_decay = 0.9, 5e-4
    c.optim.schedule, c.optim.milestones = "steps", (0.625, 0.75, 0.875)
    c.train.epochs = epochs
    c.train.bn_group, c.train.precision = 0, "fp32"
    c.train.checkpoint_epochs = epochs
    c.evals.names, c.evals.every_epochs = ("top1",), epochs
    c.log.every_steps = 50
    return config.variant(c, "smoke") if quick else c


def teacher(data: str, quick: bool = False) -> Trained:
    return Trained(TEACHER, base("supervised", data, TEACHER_MODEL, TEACHER_EPOCHS, quick))


def student(
    name: str,
    data: str,
    model: str,
    quick: bool = False,
    *,
    method: str = "kd",
    epochs: float = EPOCHS,
    **fields,
) -> Trained:
    """A row that the teacher of the same seed teaches; `fields` are those of the method."""
    c = base(method, data, model, epochs, quick)
    for key, value in fields.items():
        c.method[key] = value
    return Trained(name, c, teacher=TEACHER if method == "kd" else "")
