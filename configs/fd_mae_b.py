"""Feature distillation on ImageNet: MAE's ViT-B/16 teaches a fresh ViT-B/16, without labels.

Run:      python main.py --config=configs/fd_mae_b.py --workdir=runs/fd_mae_b \\
              --config.teacher.weights=mae_pretrain_vit_base.pth --config.data.dir=FOLDER_OF_IMAGENET
          MAE's weights are under CC BY-NC 4.0.
Hardware: 300 epochs of 1.28 million images at 224 px in batches of 2,048; meant for 16 GPUs or a TPU slice.
          Not run yet: there is no number of our own.
Expected: almost nothing gained: after fine-tuning on ImageNet, top-1 83.8, and MAE itself 83.6 (a review of
          the paper and a reading note on arXiv 2205.14141v3). It is the paper's control: MAE's attention
          already looks as other teachers' does after distillation. The released code has no MAE; the values
          are those that it has for DINO. Otherwise as fd_clip_b.py.
Variants: `:smoke` runs anywhere.
"""

from seed_jax.configs.fd_clip_b import recipe, smoke_or_full


def get_config(variant: str = ""):
    c = recipe("fd_vit_base", drop_path=0.3)
    c.teacher.model, c.teacher.weights = "vit_base", "mae_pretrain_vit_base.pth"
    return smoke_or_full(c, variant)
