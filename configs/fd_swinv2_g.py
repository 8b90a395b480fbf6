"""Feature distillation on ImageNet: SwinV2-G, of 3 billion parameters, teaches a fresh SwinV2-G, without
labels.

Run:      python main.py --config=configs/fd_swinv2_g.py --workdir=runs/fd_swinv2_g \\
              --config.teacher.weights=FILE --config.data.dir=FOLDER_OF_IMAGENET
          SwinV2-G was never released: FILE is weights of your own. Without any,
          python main.py --config=configs/fd_swinv2_g.py --plan --devices=64 --images=1281167
          prints memory and FLOPs.
Hardware: 300 epochs of 1.28 million images at 224 px in batches of 2,048; meant for 64 devices of 80 GB.
          Parameters, optimizer state and teacher are divided among the devices (`train.shard_params`), and
          blocks are computed again in the backward pass (`remat`). docs/scale.md has the memory. Not run:
          there is no number of our own.
Expected: unknown without the weights. FD-SwinV2-G of the paper: ADE20K 61.4 mIoU and COCO 64.2 box AP, 1.5
          and 1.1 more than SwinV2-G (abstract of arXiv 2205.14141v3); after fine-tuning on ImageNet, top-1
          89.4 instead of 89.2 (a reading note on it). The released code has no SwinV2-G; the values are those
          that it has for EsViT's Swin-B, windows and size of the images included. Otherwise as fd_esvit_b.py.
Variants: `:smoke` runs anywhere.
"""

from seed_jax.configs.fd_clip_b import recipe, smoke_or_full


def get_config(variant: str = ""):
    c = recipe("swinv2_giant", drop_path=0.3, window=14, image_size=224, fd_init=True, remat=True)
    c.teacher.model, c.teacher.weights = "swinv2_giant", "swinv2_giant.pth"
    c.teacher.options = {"window": 14, "image_size": 224}
    c.optim.lr, c.optim.lr_min = 2e-4, 1e-5
    c.train.shard_params = True
    return smoke_or_full(c, variant)
