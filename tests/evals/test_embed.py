import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from PIL import Image

from seed_jax import models, weights
from seed_jax.data.pipeline import eval_batches
from seed_jax.data.sources import Arrays
from seed_jax.evals import embed, features
from seed_jax.models.heads import ProjectionHead
from seed_jax.models.network import IMAGENET_MEAN, IMAGENET_STD
from seed_jax.weights import pretrained
from seed_jax.weights.preparation import Preparation


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A narrow ResNet-18 with a MoCo head in MoCo's names, its network and variables."""
    path = tmp_path_factory.mktemp("weights") / "moco.safetensors"
    network = models.Joined(models.create("resnet18", width=0.125), {"head": ProjectionHead(dim=5)})
    variables = jax.jit(network.init)(jax.random.key(0), np.zeros((2, 32, 32, 3), np.float32))
    head = weights.Head(hidden=64, dim=5, layers=2, batch_norm=False)
    recognised = weights.Recognised("resnet", "resnet18", {"width": 0.125}, head, "moco", size=32)
    recognised = dataclasses.replace(recognised, preparation=Preparation(1.0))
    weights.save(variables, recognised, path, names="moco")
    return path, network, variables


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), np.uint8)


def embedded(*arguments):
    assert embed.main([str(a) for a in arguments]) == 0
    return dict(np.load(arguments[2]))


def test_images_of_an_array(checkpoint, pictures, tmp_path):
    path, network, variables = checkpoint
    np.save(tmp_path / "images.npy", pictures)
    table = embedded(path, tmp_path / "images.npy", tmp_path / "out.npz", "--batch-size", 4)
    features, _ = jax.jit(lambda v, x: network.apply(v, x, False))(variables, pictures / np.float32(255))
    for key in ("pooled", "embedding"):
        np.testing.assert_allclose(table[key], features[key], rtol=2e-5, atol=1e-6)
    assert table["name"][3] == "images.npy[3]"
    assert table["label"].tolist() == [-1] * 7
    description = json.loads(str(table["network"]))
    assert description["sha256"] == weights.sha256(path) and description["size"] == 32


def test_raw_arrays_are_not_normalised_again(checkpoint, pictures, tmp_path):
    path, network, variables = checkpoint
    normalised = (pictures / np.float32(255) - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    np.save(tmp_path / "raw.npy", normalised)
    np.save(tmp_path / "images.npy", pictures)
    raw = embedded(path, tmp_path / "raw.npy", tmp_path / "raw.npz", "--raw", "--batch-size", 4)
    table = embedded(path, tmp_path / "images.npy", tmp_path / "out.npz", "--batch-size", 4)
    np.testing.assert_allclose(raw["pooled"], table["pooled"], rtol=2e-5, atol=1e-6)


def test_a_folder_and_its_broken_image(checkpoint, pictures, tmp_path, capsys):
    path, network, variables = checkpoint
    (tmp_path / "in").mkdir()
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / "in" / f"{i}.png")
    (tmp_path / "in" / "3.png").write_bytes(b"no image")
    table = embedded(path, tmp_path / "in", tmp_path / "out.npz", "--batch-size", 4)
    assert [name[-5:] for name in table["name"]] == [f"{i}.png" for i in (0, 1, 2, 4, 5, 6)]
    features, _ = jax.jit(lambda v, x: network.apply(v, x, False))(variables, pictures / np.float32(255))
    np.testing.assert_allclose(
        table["pooled"], np.delete(features["pooled"], 3, axis=0), rtol=2e-5, atol=1e-6
    )
    assert "1 could not be read" in capsys.readouterr().out


def test_a_network_resized_to_another_size(checkpoint, pictures):
    path, network, variables = checkpoint
    loaded = pretrained.load(str(path), size=48)
    x = pictures / np.float32(255)
    larger = jax.image.resize(x, (7, 48, 48, 3), "linear")
    np.testing.assert_allclose(
        loaded.network.apply(loaded.variables, x, False)[0]["pooled"],
        network.apply(variables, larger, False)[0]["pooled"],
        rtol=1e-4,
        atol=1e-5,
    )


def test_photographs_are_prepared_as_the_network_needs(checkpoint, tmp_path):
    path, network, variables = checkpoint
    other = tmp_path / "other.safetensors"
    recognised = dataclasses.replace(weights.recognise(path), preparation=Preparation(1.0, "bicubic"))
    weights.save(variables, recognised, other, names="moco")
    photograph = np.random.default_rng(1).integers(0, 256, (1, 64, 96, 3), np.uint8)
    np.save(tmp_path / "images.npy", photograph)
    table = embedded(other, tmp_path / "images.npy", tmp_path / "out.npz")
    resized = Image.fromarray(photograph[0]).resize((48, 32), Image.Resampling.BICUBIC).crop((8, 0, 40, 32))
    features, _ = network.apply(variables, np.asarray(resized)[None] / np.float32(255), False)
    np.testing.assert_allclose(table["pooled"], features["pooled"], rtol=2e-5, atol=1e-6)
    description = json.loads(str(table["network"]))
    assert (description["resize"], description["interpolation"]) == (1.0, "bicubic")


@pytest.mark.parametrize("raw", [False, True])
def test_rows_of_several_processes(pictures, monkeypatch, raw):
    """Each process has its own rows; their indices restore the order."""
    source = Arrays("pictures", pictures, None)
    floats = pictures.astype(np.float32)

    def batches():
        made = embed.raw_batches(floats, 4) if raw else eval_batches(source, 32, 4, resize=1.0)
        return list(features._numbered(made, 4))

    whole, by_process = batches(), []
    for process in range(2):
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(jax, "process_index", lambda i=process: i)
        by_process.append(batches())
    assert len(by_process[0]) == len(by_process[1]) == len(whole) == 2

    def table(batches):
        joined = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
        return {key: column[joined["mask"]] for key, column in joined.items()}

    gathered = table([*by_process[0], *by_process[1]])
    assert gathered["id"][:, 0].tolist() == [0, 1, 4, 5, 2, 3, 6]
    order = np.argsort(gathered["id"][:, 0])
    for key, column in table(whole).items():
        np.testing.assert_array_equal(gathered[key][order], column)
    np.testing.assert_array_equal(gathered["image"][order], floats if raw else pictures)


def test_the_file_has_the_usual_mode_and_no_temporary_file_is_left(checkpoint, pictures, tmp_path):
    np.save(tmp_path / "images.npy", pictures)
    (tmp_path / "usual").touch()
    embedded(checkpoint[0], tmp_path / "images.npy", tmp_path / "out.npz")
    assert (tmp_path / "out.npz").stat().st_mode == (tmp_path / "usual").stat().st_mode
    (tmp_path / "folder.npz").mkdir()
    arguments = [checkpoint[0], tmp_path / "images.npy", tmp_path / "folder.npz"]
    assert embed.main([str(a) for a in arguments]) == 1
    assert sorted(x.name for x in tmp_path.iterdir()) == ["folder.npz", "images.npy", "out.npz", "usual"]


@pytest.mark.parametrize("wrong", [["--batch-size", "0"], ["--size", "0"], ["--size", "32", "--raw"]])
def test_arguments_that_make_no_sense(wrong, capsys):
    with pytest.raises(SystemExit):
        embed.main(["spec", "data", "out.npz", *wrong])
    assert wrong[0] in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("spec", "data", "out", "more", "words"),
    [
        ("absent.pth", "in", "out.npz", [], "^There is no file or workdir 'absent.pth'"),
        ("moco", "absent.npy", "out.npz", [], "absent.npy cannot be read as a .npy file"),
        ("moco", "floats.npy", "out.npz", [], "floats.npy contains a float32 array .* or use --raw"),
        ("moco", "bytes.npy", "out.npz", ["--raw"], "normalised images are a float array of shape"),
        ("moco", "nowhere", "out.npz", [], "^nowhere is not an existing file or folder of images"),
        ("moco", "in", "out.txt", [], "must end in .npz"),
        ("moco", "in", "absent/out.npz", [], "the folder absent does not exist"),
        ("moco", "in", "out.npz", ["--arch", "resnet50"], "use --arch=resnet18"),
    ],
)
def test_mistakes_are_one_sentence(checkpoint, tmp_path, monkeypatch, capsys, spec, data, out, more, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    np.save("floats.npy", np.zeros((1, 8, 8, 3), np.float32))
    np.save("bytes.npy", np.zeros((1, 8, 8, 3), np.uint8))
    assert embed.main([str(checkpoint[0]) if spec == "moco" else spec, data, out, *more]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert re.search(words, message), message
