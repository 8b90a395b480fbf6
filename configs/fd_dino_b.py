"""Feature distillation on ImageNet: DINO's ViT-B/16 teaches a fresh ViT-B/16, without labels.

Run:      python main.py --config=configs/fd_dino_b.py --workdir=runs/fd_dino_b \\
              --config.teacher.weights=dino_vitbase16_pretrain.pth --config.data.dir=FOLDER_OF_IMAGENET
Hardware: 300 epochs of 1.28 million images at 224 px in batches of 2,048; meant for 16 GPUs or a TPU slice.
          Not run yet: there is no number of our own.
Expected: after fine-tuning on ImageNet, top-1 83.8 (README of SwinTransformer/Feature-Distillation); DINO
          itself 82.8 (a review of the paper and a reading note on arXiv 2205.14141v3), and on ADE20K 46.2
          mIoU before and 47.7 after (the note). The linear probe gets worse: 78.2 before (README of
          facebookresearch/dino), 76.1 after (the note). Do not distil DINO for a backbone that stays
          frozen. The values are those of configs/pretrain/fd_pretrain__dino_vit_base__img224__300ep.yaml
          there. Otherwise as fd_clip_b.py.
Variants: `:smoke` runs anywhere.
"""

from seed_jax.configs.fd_clip_b import recipe, smoke_or_full


def get_config(variant: str = ""):
    c = recipe("fd_vit_base", drop_path=0.3)
    c.teacher.model, c.teacher.weights = "vit_base", "dino_vitbase16_pretrain.pth"
    return smoke_or_full(c, variant)
