"""Fine-tuning of CLIP itself on ImageNet: the strong baseline that its distilled student has to beat.

Run:      python main.py --config=configs/finetune_clip.py --workdir=runs/finetune_clip \\
              --config.student.init=ViT-B-16.pt --config.data.dir=FOLDER_OF_IMAGENET
          The file is a state dict saved from OpenAI's archive (docs/weights.md).
Hardware: 50 epochs of 1.28 million images at 224 px in batches of 2,048, on eight A100 there; L: 30 epochs.
          Not run yet: there is no number of our own. With less memory add --config.train.accumulate=4.
Batch:    the rate scales with data.batch_size, from its value at 2048; the released code's is for that alone.
Expected: top-1 85.7, with `:large` 88.0 (README and logs of LightDXY/FT-CLIP, arXiv 2212.06138), where the
          students of feature distillation have 84.9 and 87.7 (README of
          SwinTransformer/Feature-Distillation). The values are those of
          scripts/bash_fine_Openai_CLIP_P16.sh and bash_fine_Openai_CLIP_Large_P14.sh there: an EMA, label
          smoothing, RandAugment and erasing, and neither mixup, CutMix nor drop path. We differ in a patch
          embedding that is trained, at the lowest rate, where there it is frozen; in a mean over patches
          that is normalised, where there patches are normalised first; in bilinear crops for bicubic, and a
          warm-up from 0 instead of 1e-6.
Variants: `:smoke` runs anywhere; `:large` is ViT-L/14 (init ViT-L-14.pt).
"""

from seed_jax import config
from seed_jax.configs import finetune_fd
from seed_jax.models.vit import CLIP_MEAN, CLIP_STD


def get_config(variant: str = ""):
    c = finetune_fd.recipe()
    c.method.mix = ""
    c.data.batch_size, c.data.resize = 2048, 1.0
    c.student.model, c.student.init = "vit_base", "ViT-B-16.pt"
    c.student.options = {"form": "clip", "pool": "mean", "mean": CLIP_MEAN, "std": CLIP_STD}
    c.optim.lr, c.optim.lr_batch, c.optim.lr_min, c.optim.clip_norm = 6e-4, 2048, 1e-6, 0.0
    c.optim.layer_decay, c.optim.warmup_epochs = 0.6, 10.0
    c.train.epochs, c.train.ema = 50.0, 0.9998
    if variant == "large":
        c.student.model, c.student.init, c.student.options.patch = "vit_large", "ViT-L-14.pt", 14
        c.optim.lr, c.optim.layer_decay, c.optim.warmup_epochs = 4e-4, 0.65, 5.0
        c.train.epochs = 30.0
        return c
    return finetune_fd.smoke_of(c) if variant == "smoke" else config.variant(c, variant)
