"""DisCo on ImageNet: a ResNet-18 contrasts two views and imitates a ResNet-50 (MoCo-v2) on both.

Run:      python main.py --config=configs/disco_r50_to_r18.py --workdir=runs/disco_r50_to_r18 \\
              --config.teacher.weights=moco_v2_200ep_pretrain.pth.tar --config.data.dir=TFDS_FOLDER
Hardware: 200 epochs of 1.28 million images at 224 px, with three forwards of the student and two of the
  teacher. Meant for 8 GPUs. Not run yet: we have no number of our own.
Expected: 60.6 % linear in the paper, recalled and not re-read; its teacher is the authors' own.
Batch:    the rate scales with data.batch_size, from 0.03 at 256. method.weight is 32, the images per GPU of
  the released commands, which sum the distances over a GPU; to repeat one of them, set it to its images
  per GPU.
Variants: `:smoke` runs anywhere.
"""

from seed_jax import config


def get_config(variant: str = ""):
    c = config.default("disco")
    c.data.source = "tfds:imagenet2012"
    c.data.train, c.data.bank = "train[:99%]", "train[:99%]"
    c.data.val, c.data.test = "train[99%:]", "validation"
    c.data.batch_size = 256
    c.data.crop_scale = (0.2, 1.0)
    c.data.photometric = "mocov2"
    c.teacher.model = "resnet50"
    c.teacher.weights = "moco_v2_200ep_pretrain.pth.tar"
    c.student.model = "resnet18"
    c.optim.lr, c.optim.lr_batch = 0.03, 256
    c.optim.weight_decay = 1e-4
    c.optim.update = "epoch"
    c.train.epochs = 200.0
    c.train.precision = "bf16"
    c.train.bn_group = 32
    c.evals.every_epochs = 5.0
    c.evals.bank_size = 50_000
    return config.variant(c, variant)
