import pytest

from seed_jax.weights import preparation

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
