import jax
import numpy as np
import pytest

from seed_jax import models
from seed_jax.models.heads import ProjectionHead
from seed_jax.models.vit import CLIP_MEAN, CLIP_STD
from seed_jax.weights import naming as naming_lib
from seed_jax.weights import vit

NAMINGS = {naming.name: naming for naming in vit.NAMINGS}
CLIP = {"form": "clip", "mean": CLIP_MEAN, "std": CLIP_STD}
DINOV2 = {"patch": 14, "image_size": 518}
NATIVE = {"patch": 16, "image_size": 224}
DECODER = {"mask_token": (1, 1, 512), "decoder_pos_embed": (1, 197, 512), "decoder_norm.weight": (512,)}
# Tensors of published files that do not belong to the network.
PROJECTOR = {"head.0.weight": (4096, 384), "head.3.weight": (4096, 4096), "head.6.weight": (256, 4096)}
FILES = [
    ("timm", "vit_small", {"form": "dino"}, {}),
    ("timm", "vit_small", {"form": "dino", "patch": 8}, {"head.mlp.0.weight": (2048, 384)}),
    ("timm", "vit_base", {"form": "deit", "num_classes": 1000}, {}),
    ("timm", "vit_large", {"form": "deit"}, DECODER),
    ("timm", "vit_base", {"form": "deit", "num_classes": 1000, "pool": "mean"}, {}),
    ("timm", "vit_small", {"form": "dinov2"} | DINOV2, {"mask_token": (1, 384)}),
    ("timm", "vit_large", {"form": "dinov2_registers"} | DINOV2, {}),
    ("timm_clip", "vit_base", CLIP, {}),
    ("timm_clip", "vit_base", CLIP | {"num_classes": 512}, {}),
    ("moco_v3", "vit_small", {"form": "deit", "heads": 12}, PROJECTOR),
    ("openai_clip", "vit_base", CLIP, {"positional_embedding": (77, 512), "ln_final.weight": (512,)}),
    ("openai_clip", "vit_large", CLIP | {"patch": 14, "image_size": 336}, {}),
]


def tensors(naming, arch, options):
    """The file's names and shapes, converted from ours."""
    parts = {"head": ProjectionHead(dim=512, layers=1, bias=False)} if naming.name == "openai_clip" else {}
    network = models.Joined(models.create(arch, **options), parts)
    sample = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
    ours = naming_lib.leaves(jax.eval_shape(network.init, jax.random.key(0), sample))
    names = naming_lib.torch_names(naming, ours)
    assert None not in names.values()
    assert len(set(names.values())) == len(names)
    zero = np.float32(0)
    return {
        names[path]: naming_lib.to_torch(naming, path, np.broadcast_to(zero, shape)).shape
        for path, shape in ours.items()
    }


@pytest.mark.parametrize(("name", "arch", "options", "others"), FILES)
def test_a_file_identifies_its_naming_and_its_network(name, arch, options, others):
    options = NATIVE | options
    shapes = tensors(NAMINGS[name], arch, options) | others
    first = next(naming for naming in vit.NAMINGS if all(tensor in shapes for tensor in naming.signature))
    assert first.name == name
    assert first.describe(shapes) == (arch, options)


def test_published_names_and_shapes():
    shapes = tensors(NAMINGS["timm"], "vit_small", {"form": "dinov2_registers", "num_classes": 7} | DINOV2)
    assert shapes["register_tokens"] == (1, 4, 384)
    assert shapes["pos_embed"] == (1, 1370, 384)
    assert shapes["blocks.11.attn.qkv.weight"] == (1152, 384)
    assert shapes["blocks.0.ls2.gamma"] == (384,)
    assert shapes["head.weight"] == (7, 384)
    shapes = tensors(NAMINGS["openai_clip"], "vit_base", NATIVE | CLIP)
    assert shapes["visual.class_embedding"] == (768,)
    assert shapes["visual.positional_embedding"] == (197, 768)
    assert shapes["visual.conv1.weight"] == (768, 3, 16, 16)
    assert shapes["visual.transformer.resblocks.3.attn.in_proj_bias"] == (2304,)
    assert shapes["visual.transformer.resblocks.3.mlp.c_proj.weight"] == (768, 3072)
    assert shapes["visual.proj"] == (768, 512)


def test_a_size_without_an_architecture_is_named():
    shapes = {"patch_embed.proj.weight": (192, 3, 16, 16), "pos_embed": (1, 197, 192)}
    shapes |= {f"blocks.{i}.norm1.bias": (192,) for i in range(12)}
    arch, _ = NAMINGS["timm"].describe(shapes)
    assert arch == "vision transformer of 12 blocks of width 192"
