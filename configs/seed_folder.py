"""Distil your own folder of images, no labels needed: ResNet-50 (MoCo-v2) to MobileNetV3-Small with SEED.

Run:      python main.py --config=configs/seed_folder.py --workdir=runs/mine \\
              --config.data.dir=FOLDER --config.teacher.weights=moco_v2_800ep_pretrain.pth.tar
          With one sub-folder per class, a kNN probe runs during training and a test split is left out;
          to train on all images without a probe: --config.data.train=all
Hardware: 224 px; one GPU, or a few images per second on two CPU cores (experiments/benchmarks).
"""

from seed_jax import config


def get_config(variant: str = ""):
    c = config.default("seed")
    c.data.source = ""  # recognised from data.dir
    c.data.train = ""  # 'train' where the images have labels, for a probe; else 'all'
    c.data.batch_size = 64
    c.teacher.weights = "moco_v2_800ep_pretrain.pth.tar"
    c.student.model = "mobilenetv3_small_torchvision"
    c.method.queue_size = 4096
    c.train.epochs = 100.0
    c.train.checkpoint_epochs = 1.0
    c.evals.every_epochs = 5.0
    c.evals.batch_size = 64
    c.log.every_steps = 10
    return config.variant(c, variant)
