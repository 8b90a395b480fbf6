"""Feature distillation on ImageNet: EsViT's Swin-B with windows of 14 teaches a fresh Swin V2-B, without
labels.

Run:      python main.py --config=configs/fd_esvit_b.py --workdir=runs/fd_esvit_b \\
              --config.teacher.weights=checkpoint_best.pth --config.data.dir=FOLDER_OF_IMAGENET
          EsViT's files can no longer be downloaded (microsoft/esvit, issues 27 and 29): you need a copy, or
          another Swin-B as the teacher.
Hardware: 300 epochs of 1.28 million images at 224 px in batches of 2,048; meant for 16 GPUs or a TPU slice.
          Not run yet: there is no number of our own.
Expected: after fine-tuning on ImageNet, top-1 85.1 (README of SwinTransformer/Feature-Distillation); EsViT
          itself 83.9, and on ADE20K 47.3 mIoU before and 48.9 after (a reading note on arXiv
          2205.14141v3). Teacher and student are different architectures, so that part of the gain may be
          Swin V2's. The values are those of
          configs/pretrain/fd_pretrain__esvit_swin_base__img224__300ep.yaml there. Otherwise as
          fd_clip_b.py, but for the released warm-up, which starts at 4e-6. Unlike the ViTs, the student
          computes its positions in each block.
Variants: `:smoke` runs anywhere; `:official_code` has the teacher's norms with the released code's epsilon,
          1e-5, where EsViT trained with 1e-6. That code also reads EsViT's student in place of its teacher,
          which we do not do.
"""

from seed_jax.configs.fd_clip_b import recipe, smoke_or_full


def get_config(variant: str = ""):
    c = recipe("swinv2_base", drop_path=0.3, window=14, image_size=224, fd_init=True)
    c.teacher.model, c.teacher.weights = "swin_base", "checkpoint_best.pth"
    c.teacher.options = {"window": 14, "epsilon": 1e-6}
    c.optim.lr, c.optim.lr_min = 2e-4, 1e-5
    if variant == "official_code":
        c.method.parity, c.teacher.options.epsilon = True, 1e-5
        return c
    return smoke_or_full(c, variant)
