"""`seed_jax.load`: a network that is called on images."""

import jax
import numpy as np
import pytest
from flax import traverse_util
from PIL import Image

import seed_jax
from seed_jax import models, weights
from seed_jax.errors import UserError
from seed_jax.weights import loading, parity, pretrained

NETWORK = weights.Recognised("resnet", "resnet18", {"width": 0.125, "num_classes": 3}, None, "", size=32)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    shapes = loading.shapes(NETWORK.network())
    drawn = {
        name: parity.draw(name, leaf.shape)
        for name, leaf in traverse_util.flatten_dict(shapes, sep="/").items()
    }
    variables = traverse_util.unflatten_dict(drawn, sep="/")
    path = tmp_path_factory.mktemp("pretrained") / "a.safetensors"
    weights.save(variables, NETWORK, path)
    return path


@pytest.fixture(scope="module")
def network(file):
    return seed_jax.load(file)


def test_a_loaded_network_is_called_on_images(network):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    features = network(pixels)
    assert set(features) == {"stem", "stage1", "stage2", "stage3", "stage4", "pooled", "logits"}
    mean, std = np.float32(models.IMAGENET_MEAN), np.float32(models.IMAGENET_STD)
    normalised = (pixels / np.float32(255) - mean) / std
    module = network.network.backbone.module
    of_backbone = {name: tree["backbone"] for name, tree in network.variables.items()}
    expected = module.apply(of_backbone, normalised, train=False, keys=None)
    for name, value in expected.items():
        np.testing.assert_allclose(features[name], value, rtol=1e-4, atol=1e-5)
    for images in (pixels.astype(np.float64) / 255, jax.numpy.asarray(pixels), (pixels / 255).tolist()):
        np.testing.assert_allclose(network(images)["pooled"], features["pooled"], rtol=1e-4, atol=1e-5)


def test_images_of_any_side_and_one_compilation_per_shape(network):
    assert network(np.zeros((1, 48, 40, 3), np.float32))["stem"].shape == (1, 24, 20, 8)
    compiled = network._forward._cache_size()
    network(np.ones((1, 48, 40, 3), np.float32))
    assert network._forward._cache_size() == compiled
    assert network._placed is network._placed  # moved to the device once


def test_with_a_size_images_are_resized(file, network):
    resizing = seed_jax.load(file, size=32)
    assert resizing(np.zeros((1, 48, 40, 3), np.uint8))["stem"].shape == (1, 16, 16, 8)


@pytest.mark.parametrize(
    ("images", "what"),
    [
        (np.zeros((32, 32, 3), np.uint8), r"uint8 \[32, 32, 3\]"),
        (np.zeros((1, 3, 32, 32), np.float32), r"float32 \[1, 3, 32, 32\]"),
        (np.zeros((1, 32, 32, 3), np.int64), r"int64 \[1, 32, 32, 3\]"),
        ([[0.5]], r"float64 \[1, 1\]"),
    ],
)
def test_images_of_another_shape_or_dtype(network, images, what):
    message = (
        rf"^The images are {what}: pass uint8, or float in \[0, 1\], of shape \[B, H, W, 3\], H and W "
        r"preferably 32\.$"
    )
    with pytest.raises(UserError, match=message):
        network(images)


def test_a_loaded_network_prints_in_a_few_lines(network):
    assert isinstance(network, pretrained.Pretrained)
    assert "array(" not in repr(network)


def test_messages_name_the_arguments_of_the_function(tmp_path, file):
    with pytest.raises(
        UserError, match=r"^There is no file or workdir 'absent\.pth': use the path of an exist"
    ):
        seed_jax.load("absent.pth")
    with pytest.raises(UserError, match=r"not resnet50: use model='resnet18', or leave it out\.$"):
        seed_jax.load(file, model="resnet50")
    with pytest.raises(
        UserError, match=r"not resnet50: use --config\.student\.model=resnet18, or leave it out"
    ):
        pretrained.load_named(file, model="resnet50", where="student.init")
    clip = weights.Recognised("vit", "vit_small", {"form": "clip", "image_size": 32}, None, "")
    shapes = loading.shapes(clip.network())
    flat = traverse_util.flatten_dict(shapes, sep="/")
    np.savez(tmp_path / "clip.npz", **{name: np.ones(leaf.shape, np.float32) for name, leaf in flat.items()})
    with pytest.raises(UserError, match=r"options\['form'\]='clip'; options\['form'\]='clip_gelu'"):
        seed_jax.load(tmp_path / "clip.npz")


@pytest.mark.parametrize(
    ("photograph", "message"),
    [
        (
            np.zeros((40, 60, 4), np.uint8),
            r"The photograph is uint8 \[40, 60, 4\]: pass a file, its bytes, or",
        ),
        (np.zeros((40, 60, 3)), r"The photograph is float64 \[40, 60, 3\]: pass"),
        (np.zeros((40, 60), np.uint8), r"The photograph is uint8 \[40, 60\]: pass"),
        ("absent.jpg", r"absent.jpg cannot be read \(No such file or directory\): pass the path of an image"),
        (b"no image", r"The photograph cannot be decoded \(.+\): pass an image"),
    ],
)
def test_what_is_no_photograph(network, photograph, message):
    with pytest.raises(UserError, match=f"^{message}.*\\.$"):
        network.prepare(photograph)


def test_a_photograph_is_prepared_as_pil_does(network, tmp_path):
    """Short side to round(32 * 256 / 224) = 37, bilinear, then the centre; alpha on white."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 4), np.uint8)
    picture = Image.fromarray(pixels, "RGBA")
    picture.save(tmp_path / "photograph.png")
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    resized = Image.alpha_composite(white, picture).convert("RGB").resize((55, 37), Image.Resampling.BILINEAR)
    expected = np.asarray(resized.crop((12, 2, 44, 34)))
    for photograph in (tmp_path / "photograph.png", (tmp_path / "photograph.png").read_bytes()):
        np.testing.assert_array_equal(network.prepare(photograph), expected)
