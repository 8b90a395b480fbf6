"""Feature distillation on ImageNet: DINOv2's ViT-B/14 teaches a fresh ViT-B/14, without labels.

Run:      python main.py --config=configs/fd_dinov2_b.py --workdir=runs/fd_dinov2_b \\
              --config.teacher.weights=dinov2_vitb14_pretrain.pth --config.data.dir=FOLDER_OF_IMAGENET
Hardware: 300 epochs of 1.28 million images at 224 px in batches of 2,048, 257 tokens an image; meant for 16
          GPUs or a TPU slice. Not run yet: there is no number of our own.
Expected: unknown: nobody has published it. DINOv2 itself has a linear probe of 84.5 and kNN of 82.1 (README
          of facebookresearch/dinov2); for a backbone that stays frozen take it as it is, since the probe of
          DINO's student is worse than DINO's. The values are those of the paper's DINO. Otherwise as
          fd_clip_b.py.
Variants: `:smoke` runs anywhere.
"""

from seed_jax.configs.fd_clip_b import recipe, smoke_or_full


def get_config(variant: str = ""):
    c = recipe("fd_vit_base", drop_path=0.3, patch=14)
    c.teacher.model, c.teacher.weights = "vit_base", "dinov2_vitb14_pretrain.pth"
    c.teacher.options = {"form": "dinov2", "patch": 14, "image_size": 518}
    return smoke_or_full(c, variant)
