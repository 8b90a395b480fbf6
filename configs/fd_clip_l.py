"""Feature distillation on ImageNet: the image network of CLIP ViT-L/14 teaches a fresh ViT-L/14, without
labels.

Run:      python main.py --config=configs/fd_clip_l.py --workdir=runs/fd_clip_l \\
              --config.teacher.weights=ViT-L-14.pt --config.data.dir=FOLDER_OF_IMAGENET
          The teacher is a state dict saved from OpenAI's archive (docs/weights.md).
Hardware: 300 epochs of 1.28 million images at 224 px in batches of 2,048, of two ViT-L; meant for 32 GPUs
          or a TPU slice. Not run yet: there is no number of our own. With less memory add
          --config.student.options.remat=True or --config.train.accumulate=4.
Expected: after fine-tuning on ImageNet, top-1 87.7 (README of SwinTransformer/Feature-Distillation); CLIP
          itself 86.1, and on ADE20K 53.5 mIoU before and 55.7 after (a reading note on arXiv
          2205.14141v3). The paper's 89.0 has another recipe: ImageNet-22K in between, and 336 px. With a
          stronger recipe CLIP itself reaches 88.0 (README of LightDXY/FT-CLIP). The values are those of
          configs/pretrain/fd_pretrain__clip_vit_large__img224__300ep.yaml there. Otherwise as
          fd_clip_b.py.
Variants: `:smoke` runs anywhere.
"""

from seed_jax.configs.fd_clip_b import recipe, smoke_or_full


def get_config(variant: str = ""):
    c = recipe("fd_vit_large", drop_path=0.3, patch=14, remat=False)
    c.teacher.model, c.teacher.weights = "vit_large", "ViT-L-14.pt"
    c.teacher.options = {"patch": 14}
    return smoke_or_full(c, variant)
