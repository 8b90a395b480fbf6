import json

import numpy as np
import pytest
from PIL import Image

from seed_jax import config, weights
from seed_jax.evals import embed
from seed_jax.train import loop
from seed_jax.weights import preparation
from seed_jax.weights.__main__ import main as weights_command

USUAL = 256 / 224


@pytest.mark.parametrize(
    ("network", "resize", "interpolation"),
    [
        (("resnet", "resnet50", {}, "torchvision"), USUAL, "bilinear"),
        (("vit", "vit_small", {"form": "dino"}, "timm"), USUAL, "bicubic"),
        (("vit", "vit_base", {"form": "deit"}, "timm"), USUAL, "bicubic"),
        (
            ("vit", "vit_base", {"form": "deit"}, "timm", "facebookresearch/moco-v3, CONFIG.md"),
            USUAL,
            "bilinear",
        ),
        (("vit", "vit_small", {"form": "deit"}, "moco_v3"), USUAL, "bilinear"),
        (("vit", "vit_base", {"form": "clip"}, "openai_clip"), 1, "bicubic"),
        (("vit", "vit_base", {"form": "clip_gelu"}, "timm_clip"), 1, "bicubic"),
        (("fd_vit", "fd_vit_base", {"patch": 16}, "fd"), USUAL, "bicubic"),
        (("swin", "swin_tiny", {"image_size": 224}, "microsoft"), USUAL, "bicubic"),
        (("swinv2", "swinv2_base", {"image_size": 384}, "microsoft"), 1, "bicubic"),
        (("efficientnet", "efficientnet_b0", {}, "lukemelas"), 1, "bicubic"),
        (("efficientnet", "efficientnet_b0", {}, "timm"), USUAL, "bicubic"),
        (("efficientnet", "efficientnet_b0", {}, "seed"), USUAL, "bilinear"),
        (("efficientnet", "efficientnet_b2_torchvision", {}, "torchvision"), 1, "bicubic"),
        (("efficientnet", "efficientnet_lite0", {}, "lukemelas"), USUAL, "bilinear"),
    ],
)
def test_as_their_authors_evaluate(network, resize, interpolation):
    assert preparation.of_network(*network) == (resize, interpolation, (255, 255, 255))


@pytest.mark.parametrize(
    "damage",
    [
        {},
        {"resize": "NaN"},
        {"resize": "[]"},
        {"interpolation": "lanczos"},
        {"background": "[0, 0]"},
        {"background": "[0, 0, 256]"},
        {"background": "[0, 0, 1.5]"},
        {"background": "7"},
    ],
)
def test_damaged_metadata(damage):
    good = {"resize": "1.0", "interpolation": "bicubic"}
    assert preparation.of_metadata(good) == (1.0, "bicubic", (255, 255, 255))
    good["background"] = "[1, 2, 3]"
    assert preparation.of_metadata(good) == (1.0, "bicubic", (1, 2, 3))
    with pytest.raises((KeyError, TypeError, ValueError)):
        preparation.of_metadata(damage and good | damage)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one step with a preparation of its own, and the file exported from it."""
    folder = tmp_path_factory.mktemp("run")
    raw = config.default("supervised")
    raw.data.image_size, raw.data.resize, raw.data.background = 24, 1.5, (10, 200, 90)
    raw.data.batch_size, raw.data.photometric = 16, "none"
    raw.student.model, raw.student.options.width, raw.student.options.small_stem = "resnet18", 0.125, True
    raw.train.steps, raw.train.bn_group, raw.evals.names, raw.log.tensorboard = 1, 8, (), False
    loop.run(raw, folder / "run")
    assert weights_command(["export", str(folder / "run"), str(folder / "student.safetensors")]) == 0
    return folder / "run", folder / "student.safetensors"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Photographs of several sizes, one of exactly the run's; the last one is half transparent."""
    folder = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    for n, (width, height) in enumerate([(24, 24), (36, 36), (80, 50), (31, 90), (24, 40), (12, 12)]):
        coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{n}.png")
    clear = random.integers(0, 256, (40, 30, 4), np.uint8)
    clear[:20, :, 3] = 0
    Image.fromarray(clear).save(folder / "6.png")
    return folder


def test_an_export_says_all_that_prepares_a_photograph(run, photographs, tmp_path):
    """PIL alone, by what the file says about itself, gives the images behind the features of `embed`."""
    directory, export = run
    with open(export, "rb") as file:
        said = json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]
    size, resize, background = (json.loads(said[name]) for name in ("size", "resize", "background"))
    assert (size, resize, background) == (24, 1.5, [10, 200, 90])
    resample = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    prepared = []
    for path in sorted(photographs.iterdir()):
        picture = Image.open(path).convert("RGBA")
        canvas = Image.new("RGBA", picture.size, (*background, 255))
        picture = Image.alpha_composite(canvas, picture).convert("RGB")
        short, (width, height) = round(size * resize), picture.size
        ratio = short / min(width, height)
        new = (short, int(height * ratio)) if width <= height else (int(width * ratio), short)
        left, top = round((new[0] - size) / 2), round((new[1] - size) / 2)
        picture = picture.resize(new, resample[said["interpolation"]])
        prepared.append(np.asarray(picture.crop((left, top, left + size, top + size))))
    mean, std = (np.float32(json.loads(said[name])) for name in ("mean", "std"))
    x = (np.stack(prepared) / np.float32(255) - mean) / std
    network = weights.recognise(export).network(mean=(0.0,) * 3, std=(1.0,) * 3)
    features, _ = network.apply(weights.load(export, network), x, False)
    for spec in (export, directory):
        out = tmp_path / "out.npz"
        assert embed.main([str(spec), str(photographs), str(out)]) == 0
        table = np.load(out)
        np.testing.assert_allclose(table["pooled"], features["pooled"], rtol=1e-4, atol=1e-6)
        described = json.loads(str(table["network"]))
        assert (described["resize"], described["background"]) == (1.5, [10, 200, 90])


def test_inspect_says_how_a_run_prepares_photographs(run, capsys):
    for spec in run:
        assert weights_command(["inspect", str(spec)]) == 0
        said = capsys.readouterr().out
        assert "bilinear, short side to 36 px, then centre crop; alpha on (10, 200, 90)" in said
