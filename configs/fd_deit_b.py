"""Feature distillation on ImageNet: DeiT's ViT-B/16, a classifier, teaches a fresh ViT-B/16 its tokens.

Run:      python main.py --config=configs/fd_deit_b.py --workdir=runs/fd_deit_b \\
          --config.teacher.weights=deit_base_patch16_224-b5f2ef4d.pth --config.data.dir=FOLDER_OF_IMAGENET
Hardware: 300 epochs of 1.28 million images at 224 px in batches of 2,048; meant for 16 GPUs or a TPU slice.
          Not run yet: there is no number of our own.
Expected: after fine-tuning on ImageNet, top-1 83.0 (README of SwinTransformer/Feature-Distillation); DeiT
          itself 81.8, and on ADE20K 47.0 mIoU before and 48.0 after (a reading note on arXiv
          2205.14141v3). The values are those of
          configs/pretrain/fd_pretrain__deit_vit_base__img224__300ep.yaml there. Otherwise as fd_clip_b.py.
Variants: `:smoke` runs anywhere.
"""

from seed_jax.configs.fd_clip_b import recipe, smoke_or_full


def get_config(variant: str = ""):
    c = recipe("fd_vit_base", drop_path=0.3)
    c.teacher.model, c.teacher.weights = "vit_base", "deit_base_patch16_224-b5f2ef4d.pth"
    return smoke_or_full(c, variant)
