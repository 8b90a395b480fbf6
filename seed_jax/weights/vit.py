"""Tensor names of vision transformers in timm, DeiT, DINO, DINOv2, MAE and MoCo v3, and in OpenAI's CLIP.

timm's `vit_*_clip_*` have the same tensors with CLIP's activation (`clip_quickgelu`) and with the exact GELU,
so the user must say which one a file has. A file in OpenAI's names is read with OpenAI's activation; files of
OpenCLIP in these names that were trained on LAION with GELU need `form=clip_gelu`.

These files also have tensors that do not belong to the network: `mask_token` and `decoder_*` (MAE, DINOv2),
and in CLIP's files every tensor whose name does not start with `visual.`.
"""

import re

from seed_jax.models.vit import CLIP_MEAN, CLIP_STD
from seed_jax.weights.naming import LEAVES, Naming, tensor_name

ARCHITECTURES = {(384, 12): "vit_small", (768, 12): "vit_base", (1024, 24): "vit_large"}

TIMM_MODULES = (
    (r"patch_embed", r"patch_embed.proj"),
    (r"block(\d+)/(norm1|norm2|ls1|ls2)", r"blocks.\1.\2"),
    (r"block(\d+)/(attn|mlp)/(\w+)", r"blocks.\1.\2.\3"),
    (r"(norm|fc_norm|norm_pre)", r"\1"),
    (r"fc", r"head"),
)

CLIP_MODULES = (
    (r"patch_embed", r"visual.conv1"),
    (r"norm_pre", r"visual.ln_pre"),
    (r"norm", r"visual.ln_post"),
    (r"block(\d+)/norm(\d)", r"visual.transformer.resblocks.\1.ln_\2"),
    (r"block(\d+)/attn/proj", r"visual.transformer.resblocks.\1.attn.out_proj"),
    (r"block(\d+)/mlp/fc1", r"visual.transformer.resblocks.\1.mlp.c_fc"),
    (r"block(\d+)/mlp/fc2", r"visual.transformer.resblocks.\1.mlp.c_proj"),
)

CLIP_TOKENS = {"cls_token": "visual.class_embedding", "pos_embed": "visual.positional_embedding"}


def timm_name(path, paths):
    """Return timm's name of a leaf."""
    module, _, leaf = path.rpartition("/")
    if path in ("backbone/cls_token", "backbone/pos_embed", "backbone/register_tokens"):
        return leaf
    return tensor_name(_replace(TIMM_MODULES, module), leaf)


def clip_name(path, paths):
    """Return a leaf's name in github.com/openai/CLIP, clip/model.py; the projection is a one-layer head."""
    module, _, leaf = path.rpartition("/")
    if path == "head/linear1/kernel":
        return "visual.proj"
    if module == "backbone" and leaf in CLIP_TOKENS:
        return CLIP_TOKENS[leaf]
    if leaf in LEAVES and (match := re.fullmatch(r"backbone/block(\d+)/attn/qkv", module)):
        return f"visual.transformer.resblocks.{match[1]}.attn.in_proj_{LEAVES[leaf]}"
    return tensor_name(_replace(CLIP_MODULES, module), leaf)


def _replace(rules, module):
    for pattern, replacement in rules:
        if match := re.fullmatch(f"backbone/{pattern}", module):
            return match.expand(replacement)
    return None


def describe_timm(shapes):
    """Return name and options for `models.create`.

    A file with neither a classifier nor a decoder is taken for a DINO backbone. DINO's form and DeiT's differ
    only in how position embeddings are resized.
    """
    registers = "register_tokens" in shapes
    if "blocks.0.ls1.gamma" in shapes:
        form = "dinov2_registers" if registers else "dinov2"
    elif any(re.match(r"head\.weight|fc_norm\.|mask_token|decoder_", name) for name in shapes):
        form = "deit"
    else:
        form = "dino"
    arch, options = _describe(shapes, form, "patch_embed.proj.weight", "pos_embed", r"blocks\.(\d+)\..*")
    if "head.weight" in shapes:
        options["num_classes"] = shapes["head.weight"][0]
    if "fc_norm.weight" in shapes:
        options["pool"] = "mean"
    return arch, options


def describe_timm_clip(shapes):
    """Return name and options for `models.create`, with CLIP's form, mean and std."""
    arch, options = describe_timm(shapes)
    return arch, options | {"form": "clip", "mean": CLIP_MEAN, "std": CLIP_STD}


def _activations(arch, options):
    return (
        (arch, options, "timm's vit_*_clip_quickgelu_*"),
        (arch, options | {"form": "clip_gelu"}, "timm's vit_*_clip_* with GELU, e.g. of LAION's data"),
    )


def describe_moco_v3(shapes):
    """Return name and options for `models.create`. MoCo v3's ViT-S has 12 heads, which no shape shows."""
    arch, options = _describe(shapes, "deit", "patch_embed.proj.weight", "pos_embed", r"blocks\.(\d+)\..*")
    return arch, options | {"heads": 12}


def describe_clip(shapes):
    """Return name and options for `models.create`, with CLIP's form, mean and std."""
    blocks = r"visual\.transformer\.resblocks\.(\d+)\..*"
    arch, options = _describe(shapes, "clip", "visual.conv1.weight", CLIP_TOKENS["pos_embed"], blocks)
    return arch, options | {"mean": CLIP_MEAN, "std": CLIP_STD}


def _describe(shapes, form, filters, positions, blocks):
    dim, _, patch, _ = shapes[filters]
    depth = len({match[1] for name in shapes if (match := re.fullmatch(blocks, name))})
    arch = ARCHITECTURES.get((dim, depth), f"vision transformer of {depth} blocks of width {dim}")
    grid = round((shapes[positions][-2] - 1) ** 0.5)
    return arch, {"patch": patch, "form": form, "image_size": grid * patch}


NAMINGS = (
    Naming(
        family="vit",
        name="openai_clip",
        signature=(
            "visual.class_embedding",
            "visual.ln_pre.weight",
            "visual.transformer.resblocks.0.attn.in_proj_weight",
        ),
        to_torch=clip_name,
        describe=describe_clip,
        layouts=(
            (r"head/linear1/kernel", "same"),
            (r"backbone/(cls_token|pos_embed)", "squeezed"),
        ),
    ),
    Naming(
        family="vit",
        name="moco_v3",
        signature=("cls_token", "blocks.0.attn.qkv.weight", "patch_embed.proj.bias", "head.6.weight"),
        to_torch=timm_name,
        describe=describe_moco_v3,
    ),
    Naming(
        family="vit",
        name="timm_clip",
        signature=("cls_token", "blocks.0.attn.qkv.weight", "norm_pre.weight"),
        to_torch=timm_name,
        describe=describe_timm_clip,
        alike=_activations,
    ),
    Naming(
        family="vit",
        name="timm",
        signature=("cls_token", "blocks.0.attn.qkv.weight", "patch_embed.proj.bias"),
        to_torch=timm_name,
        describe=describe_timm,
    ),
)
