"""Feature distillation on ImageNet: the image network of CLIP ViT-B/16 teaches a fresh ViT-B/16, without
labels.

Run:      python main.py --config=configs/fd_clip_b.py --workdir=runs/fd_clip_b \\
              --config.teacher.weights=ViT-B-16.pt --config.data.dir=FOLDER_OF_IMAGENET
          The teacher is a state dict saved from OpenAI's archive (docs/weights.md), the folder that of
          ImageNet's train and val. Only kNN uses the labels. The student is to be fine-tuned
          afterwards (configs/finetune_fd.py); a backbone that stays frozen may gain nothing.
Hardware: 300 epochs of 1.28 million images at 224 px in batches of 2,048; meant for 16 GPUs or a TPU slice.
          Not run yet: there is no number of our own. With less memory add --config.train.accumulate=4.
Batch:    the rate scales with data.batch_size, from its value at 512, as in the released code.
Expected: after fine-tuning on ImageNet, top-1 84.9 (README of SwinTransformer/Feature-Distillation); CLIP
          itself 82.9, and on ADE20K 49.5 mIoU before and 52.8 after (a reading note on arXiv
          2205.14141v3). With a stronger recipe CLIP itself reaches 85.7 (README of LightDXY/FT-CLIP):
          compare with that, too (configs/finetune_clip.py). The values here are those of
          configs/pretrain/fd_pretrain__clip_vit_base__img224__300ep.yaml there. We differ in bfloat16 for
          float16, in a warm-up from 0 instead of a rate of 2e-6, and in the 27 training images that it
          leaves out.
Variants: `:smoke` runs anywhere; `:epochs100` is the recipe of 100 epochs, with crops as in that of 300;
          `:epochs100_official_code` has its released crops, from 0.67 of the image: a default that the
          released config does not override.
"""

from seed_jax import config


def get_config(variant: str = ""):
    c = recipe("fd_vit_base", drop_path=0.2)
    c.teacher.model, c.teacher.weights = "vit_base", "ViT-B-16.pt"
    if variant.startswith("epochs100"):
        c.train.epochs, c.student.options.drop_path = 100.0, 0.1
        variant = variant.removeprefix("epochs100").removeprefix("_")
        if variant == "official_code":
            c.method.parity, c.data.crop_scale = True, (0.67, 1.0)
            return c
    return smoke_or_full(c, variant)


def recipe(student: str, **options):
    """The settings that feature distillation has for all teachers, and a student with these options."""
    c = config.default("fd")
    c.data.source = "imagenet"
    c.data.val, c.data.test = "val", "val"
    c.data.batch_size, c.data.image_size = 2048, 224
    c.data.crop, c.data.crop_scale, c.data.photometric = "random", (0.08, 1.0), "fd"
    c.student.model, c.student.options = student, options
    c.optim.name, c.optim.lr, c.optim.lr_batch, c.optim.lr_min = "adamw", 3e-4, 512, 5e-6
    c.optim.weight_decay, c.optim.decay, c.optim.clip_norm = 0.05, "kernels", 3.0
    c.optim.schedule, c.optim.warmup_epochs, c.optim.decay_from = "cosine", 10.0, "warmup"
    c.train.epochs, c.train.precision = 300.0, "bf16"
    c.train.checkpoint_epochs = 5.0
    c.evals.names, c.evals.every_epochs, c.evals.bank_size = ("knn",), 5.0, 50_000
    return c


def smoke_or_full(c, variant: str):
    """As `config.variant`; the student of `smoke` has the positions of its small images."""
    drop_path = c.student.options.drop_path
    c = config.variant(c, variant)
    if variant == "smoke":
        c.student.options = {"drop_path": drop_path, "image_size": c.data.image_size}
    return c
