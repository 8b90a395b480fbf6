"""Does feature distillation help fine-tuning? A small ViT, taught by itself (DINO), teaches fresh ones (FD).

apt-get install dataset-fashion-mnist
./run.sh compare experiments/feature_distillation            three seeds: the committed results
./run.sh compare experiments/feature_distillation --quick    tries the code

Pre-training and distillation see images without labels; every network is then fine-tuned on few labels with
one recipe, and so is one from random weights.
"""

from seed_jax import config
from seed_jax.compare import Comparison, Trained
from seed_jax.configs import fd_clip_b, finetune_fd

DINO, FD, SCRATCH = "DINO", "FD", "scratch"
IMAGES = {
    "source": "idx",
    "dir": "/usr/share/datasets/fashion-mnist",  # Debian's package dataset-fashion-mnist
    "image_size": 20,
    "resize": 1.0,
    "batch_size": 64,
    "photometric": "none",
}
UNLABELLED, LABELLED = "10%", "2%"  # of the training split, per class
SIZE = {"dim": 64, "depth": 4, "heads": 4, "patch": 4, "image_size": IMAGES["image_size"]}
VARIANTS = {  # what differs from FD: fields of the method and options of the student
    FD: {},
    "FD, pooled target": {"target": "pooled"},
    "FD, l2": {"normalise": "l2"},
    "FD, no normalisation": {"normalise": "none"},
    "FD, positions by layer": {"positions": "layer"},
    "FD, absolute positions": {"positions": "absolute"},
    "FD, drop path 0": {"drop_path": 0.0},
    "FD, drop path 0.2": {"drop_path": 0.2},
    "FD, drop path 0.4": {"drop_path": 0.4},
}
OPTIONS = ("positions", "drop_path")


def get_comparison(quick: bool = False) -> Comparison:
    rows = [Trained(DINO, dino(quick))]
    tuned = [tuned_row(SCRATCH, "vit_small", {"form": "dino"}, "", quick)]
    tuned.append(tuned_row(f"{DINO}, fine-tuned", "vit_small", {"form": "dino"}, DINO, quick))
    for name, differs in VARIANTS.items():
        options = {"drop_path": 0.1} | {k: v for k, v in differs.items() if k in OPTIONS}
        fields = {k: v for k, v in differs.items() if k not in OPTIONS}
        rows.append(Trained(name, distil(options, fields, quick), teacher=DINO))
        positions = "absolute" if options.get("positions") == "absolute" else "layer"
        tuned.append(tuned_row(f"{name}, fine-tuned", "fd_vit_small", {"positions": positions}, name, quick))
    return Comparison(
        title="Feature distillation of a small DINO",
        rows=(*rows, *tuned),
        baseline=f"{DINO}, fine-tuned",
        seeds=(0,) if quick else (0, 1, 2),
        evals=("top1", "linear", "knn"),
    )
