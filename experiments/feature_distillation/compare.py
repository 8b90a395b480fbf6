"""Does feature distillation help fine-tuning? A small contrastive ViT (MoCo v3) teaches fresh ones (FD).

apt-get install dataset-fashion-mnist
./run.sh compare experiments/feature_distillation            three seeds: the committed results
./run.sh compare experiments/feature_distillation --quick    tries the code

Pre-training and distillation see images without labels. Every network is then fine-tuned on few labels with
one recipe, and so is one from random weights.
"""

from typing import NamedTuple

from seed_jax import config
from seed_jax.compare import Comparison, Trained, Untrained
from seed_jax.configs import fd_clip_b, finetune_fd

TEACHER, FD = "MoCo v3", "FD"
UNLABELLED, LABELLED = "10%", "2%"  # of each class of the training split
SIDE = 20
SIZE = {"dim": 64, "depth": 4, "heads": 4, "patch": 4, "image_size": SIDE}
DATA = {
    "source": "idx",
    "dir": "/usr/share/datasets/fashion-mnist",  # Debian's package dataset-fashion-mnist
    "val": "val",
    "test": "test",
    "image_size": SIDE,
    "resize": 1.0,
    "batch_size": 64,
}
NETWORKS = {  # model and options when a network is pre-trained, and options when it is fine-tuned
    "vit": ("vit_small", {"mocov3_init": True}, {"mocov3_init": True}),
    "shared": ("fd_vit_small", {"positions": "shared"}, {"positions": "layer", "truncated": False}),
    "layer": ("fd_vit_small", {"positions": "layer"}, {"positions": "layer", "truncated": False}),
    "absolute": ("fd_vit_small", {"positions": "absolute"}, {"positions": "absolute", "truncated": False}),
}
EPOCHS = {"teacher": 24.0, "fd": 6.0, "tuned": 24.0}


class Row(NamedTuple):
    """A row of FD: its student, and what its method has instead of FD's own values."""

    name: str
    network: str = "shared"
    method: dict = {}
    drop_path: float = 0.1
    epochs: float = EPOCHS["fd"]


ROWS = (
    Row(FD),
    Row("FD, pooled target", method={"target": "pooled"}),
    Row("FD, l2", method={"normalise": "l2"}),
    Row("FD, not normalised", method={"normalise": "none"}),
    Row("FD, positions by layer", "layer"),
    Row("FD, absolute positions", "absolute"),
    Row("FD, the teacher's network", "vit"),
    Row("FD, drop path 0", drop_path=0.0),
    Row("FD, drop path 0.4", drop_path=0.4),
    Row("FD, the teacher's network, 24 epochs", "vit", epochs=24.0),
)


def get_comparison(quick: bool = False) -> Comparison:
    before, after = [Trained(TEACHER, contrastive(quick))], [fine_tuned(TEACHER, "vit", quick)]
    for row in ROWS[: 1 if quick else None]:
        before.append(Trained(row.name, distilled(row, quick), teacher=TEACHER))
        after.append(fine_tuned(row.name, row.network, quick))
    for network in ("vit", "layer"):
        after.append(fine_tuned("", network, quick))
    return Comparison(
        title="Feature distillation of a small contrastive ViT",
        rows=(*before, *after, Untrained("raw pixels", "pixels", like=after[0].name)),
        baseline=after[0].name,
        seeds=(0,) if quick else (0, 1, 2),
        evals=("top1", "linear", "knn"),
    )


def contrastive(quick: bool):
    """MoCo v3's recipe, configs/mocov3_vits16.py, shorter and with milder views."""
    c = _images(config.default("mocov3"), UNLABELLED)
    c.data.crop_scale, c.data.photometric = (0.5, 1.0), "digits"
    c.method.photometric_second, c.method.hidden, c.method.dim = "digits", 256, 64
    c.optim.lr, c.optim.weight_decay, c.optim.warmup_epochs, c.optim.clip_norm = 1e-3, 0.05, 2.0, 3.0
    c.train.epochs, c.train.bn_group = EPOCHS["teacher"], 0
    model, options, _ = NETWORKS["vit"]
    return _adamw(c, model, options, quick)


def distilled(row: Row, quick: bool):
    """FD's recipe, configs/fd_clip_b.py, shorter."""
    model, options, _ = NETWORKS[row.network]
    c = _images(fd_clip_b.recipe(model), UNLABELLED)
    c.data.crop_scale = (0.3, 1.0)
    c.method.update(row.method)
    c.optim.lr, c.optim.lr_min, c.optim.warmup_epochs = 2e-3, 2e-5, 1.0
    c.train.epochs = row.epochs
    return _adamw(c, model, {**options, "drop_path": row.drop_path}, quick)


def fine_tuned(start: str, network: str, quick: bool) -> Trained:
    """The row `start`, or random weights, after FD's fine-tuning, configs/finetune_fd.py, shorter.

    Without mixed images, RandAugment and erasing, which are for longer runs.
    """
    model, _, options = NETWORKS[network]
    c = _images(finetune_fd.recipe(), LABELLED)
    c.data.crop_scale, c.data.policy, c.data.erase, c.method.mix = (0.8, 1.0), "", 0.0, ""
    c.optim.lr, c.optim.lr_min, c.optim.warmup_epochs = 4e-3, 1e-6, 4.0
    c.optim.layer_decay = 0.75 if start else 1.0
    c.train.epochs = EPOCHS["tuned"]
    c = _adamw(c, model, {**options, "pool": "mean", "drop_path": 0.1}, quick)
    named = {"vit": "random weights", "layer": "random weights of FD's network"}
    return Trained(f"{start or named[network]}, fine-tuned", c, start=start)


def _images(c, subset: str):
    c.data.update({**DATA, "subset": subset, "crop": "random", "photometric": "none"})
    return c


def _adamw(c, model: str, options: dict, quick: bool):
    c.optim.name, c.optim.lr_batch, c.optim.decay, c.optim.decay_from = "adamw", 0, "kernels", "warmup"
    c.train.precision = "fp32"
    c.train.checkpoint_epochs = c.evals.every_epochs = c.train.epochs
    c.log.every_steps = 50
    if quick:
        c = config.smoke(c)
        c.data.image_size = SIDE
    c.student.model, c.student.options = model, {**SIZE, **options}
    return c
