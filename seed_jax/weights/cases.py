"""The networks that `parity` compares with a reference implementation, one per golden file."""

from seed_jax.weights import crd
from seed_jax.weights.families import NAMINGS
from seed_jax.weights.parity import Case

BY_NAME = {(naming.family, naming.name): naming for naming in NAMINGS}
VITS = {"vit_s": "vit_small", "vit_b": "vit_base", "vit_l": "vit_large"}


def _classifier(name, arch=None, **options):
    """A network with ImageNet's 1000 classes; `name` is `ARCH-CODE_BASE`."""
    arch_in_name, _, code_base = name.partition("-")
    family = next(family for family, _ in BY_NAME if name.startswith(family))
    return Case(name, arch or arch_in_name, BY_NAME[family, code_base], {"num_classes": 1000} | options)


def _swav(name, hidden, **options):
    head = {"hidden": hidden, "batch_norm": "w5" not in name}
    return Case(name, "resnet50", BY_NAME["resnet", "torchvision"], options, head, "projection_head")


def _mobile(name, arch, **options):
    return _classifier(name, arch, dropout=0.0, **options)


def _efficient(name, arch=None, **options):
    return _classifier(name, arch, dropout=0.0, drop_path=0.0, **options)


def _vit(name, naming, form, head=None, **options):
    options = {"form": form, "patch": int(name[5:].partition("-")[0])} | options
    return Case(name, VITS[name[:5]], BY_NAME["vit", naming], options, head)


def _clip(name, dim):
    return _vit(name, "openai_clip", "clip", {"dim": dim, "layers": 1, "bias": False})


def _fd_vit(name, **options):
    return Case(name, name.partition("-")[0], BY_NAME["fd_vit", "fd"], options)


def _swin(name, code_base, **options):
    arch = name.partition("-")[0]
    return Case(name, arch, BY_NAME[arch.partition("_")[0], code_base], options)


def _crd(name, family="", **options):
    """A network with CIFAR-100's classes."""
    arch = name.removesuffix("-crd")
    naming = BY_NAME[family or arch.rstrip("0123456789x_"), crd.NAME]
    return Case(name, arch, naming, {"num_classes": 100} | options)


CASES = (
    *(_classifier(f"resnet{depth}-torchvision") for depth in (18, 34, 50, 101, 152)),
    _swav("resnet50-swav", 2048),
    _swav("resnet50w2-swav", 8192, width=2),
    _swav("resnet50w4-swav", 8192, width=4),
    _swav("resnet50w5-swav", 10240, width=5),
    _mobile("mobilenetv3_large-d-li14", "mobilenetv3_large"),
    _mobile("mobilenetv3_small-d-li14", "mobilenetv3_small"),
    _mobile("mobilenetv3_large-seed", "mobilenetv3_large"),
    _mobile("mobilenetv3_large-torchvision", "mobilenetv3_large_torchvision"),
    _mobile("mobilenetv3_small-torchvision", "mobilenetv3_small_torchvision"),
    _mobile("mobilenetv3_large-timm", "mobilenetv3_large_torchvision", bn_epsilon=1e-5, bn_momentum=0.9),
    _mobile("mobilenetv3_small-timm", "mobilenetv3_small_torchvision", bn_epsilon=1e-5, bn_momentum=0.9),
    *(_efficient(f"efficientnet_b{i}-lukemelas") for i in range(4)),
    *(_efficient(f"efficientnet_b{i}-torchvision", f"efficientnet_b{i}_torchvision") for i in range(4)),
    _efficient("efficientnet_b0-seed"),
    _efficient("efficientnet_b0-timm", bn_momentum=0.9),
    _efficient("efficientnet_lite0-lukemelas"),
    _efficient("efficientnet_lite2-lukemelas"),
    _efficient("efficientnet_lite0-timm", bn_momentum=0.9),
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
    _fd_vit("fd_vit_small-fd"),
    _fd_vit("fd_vit_small-fd_finetuned", positions="layer", pool="mean", num_classes=1000),
    _swin("swin_tiny-microsoft", "microsoft", num_classes=1000),
    _swin("swin_tiny-esvit", "esvit", window=14, epsilon=1e-6),
    _swin("swinv2_tiny-microsoft", "microsoft", num_classes=1000),
    _swin(
        *("swinv2_tiny-microsoft_window12to16", "microsoft"),
        window=16,
        pretrained_window=12,
        num_classes=1000,
    ),
    _swin("swinv2_tiny-fd", "fd", window=14, image_size=224, num_classes=1000),
    *(_crd(f"cifar_resnet{size}-crd") for size in ("8", "14", "20", "32", "44", "56", "110", "8x4", "32x4")),
    *(_crd(f"wrn_{size}-crd") for size in ("16_1", "16_2", "40_1", "40_2")),
    *(_crd(f"vgg{depth}-crd") for depth in (8, 13)),
    _crd("mobilenetv2_half-crd", "mobilenetv2"),
    _crd("shufflenetv1-crd", "shufflenet"),
    _crd("shufflenetv2-crd", "shufflenet"),
    *(_crd(f"resnet{depth}-crd", small_stem=True) for depth in (18, 50)),
)
