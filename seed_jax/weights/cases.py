"""The networks that are proven equal to a reference implementation, one a golden file."""

from seed_jax.weights.families import NAMINGS
from seed_jax.weights.parity import Case

TABLES = {(naming.family, naming.name): naming for naming in NAMINGS}
CLASSES = {"num_classes": 1000}
LARGE = {"vit_s": "vit_small", "vit_b": "vit_base", "vit_l": "vit_large"}


def _vit(name, table, form, head=None, **options):
    options = {"form": form, "patch": int(name[5:].partition("-")[0])} | options
    return Case(name, LARGE[name[:5]], TABLES["vit", table], options, head)


def _clip(name, dim):
    return _vit(name, "openai_clip", "clip", {"dim": dim, "layers": 1, "bias": False})


CASES = (
    Case("resnet18-torchvision", "resnet18", TABLES["resnet", "torchvision"], CLASSES),
    _vit("vit_s16-dino", "timm", "dino"),
    _vit("vit_s8-dino", "timm", "dino"),
    _vit("vit_b16-dino", "timm", "dino"),
    _vit("vit_s16-deit", "timm", "deit", num_classes=1000),
    _vit("vit_b16-deit", "timm", "deit", num_classes=1000),
    _vit("vit_l16-timm", "timm", "deit", num_classes=1000),
    _vit("vit_b16-mae", "timm", "deit"),
    _vit("vit_l16-mae", "timm", "deit"),
    _vit("vit_b16-mae_finetuned", "timm", "deit", num_classes=1000, pool="mean"),
    _vit("vit_s16-moco_v3", "moco_v3", "deit", heads=12),
    _vit("vit_b16-moco_v3", "timm", "deit"),
    _clip("vit_b16-clip", 512),
    _clip("vit_l14-clip", 768),
    _vit("vit_b16-timm_clip", "timm_clip", "clip"),
    _vit("vit_s14-dinov2", "timm", "dinov2", image_size=518),
    _vit("vit_s14-dinov2_registers", "timm", "dinov2_registers", image_size=518),
    _vit("vit_b14-dinov2", "timm", "dinov2", image_size=518),
    _vit("vit_l14-dinov2", "timm", "dinov2", image_size=518),
)
