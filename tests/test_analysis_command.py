"""The command `analysis` on small runs: its sections, what is left out, and what users get wrong."""

import dataclasses
import functools
import json
import re
import shutil

import jax
import numpy as np
import optax
import pytest
import tiny
from flax import traverse_util
from PIL import Image

from seed_jax import config, models
from seed_jax.analysis import runs as runs_lib
from seed_jax.analysis import separability
from seed_jax.analysis.__main__ import main
from seed_jax.analysis.sections import attention, gradients, heads, noise
from seed_jax.analysis.sections import separability as section_of_classes
from seed_jax.errors import UserError
from seed_jax.methods import METHODS
from seed_jax.methods.supervised import Supervised
from seed_jax.models.heads import Classifier, Regressor
from seed_jax.models.network import Joined
from seed_jax.models.vit import VisionTransformer
from seed_jax.report import metrics
from seed_jax.train import loop
from seed_jax.weights import vit as names_of_vit

SIGMAS = (0.0, 0.5, 2.0)
VIT = functools.partial(VisionTransformer, 16, 4, heads=2)


class Staged(tiny.Tiny):
    """`Tiny` with its map as `stage1`."""

    def __call__(self, x, train, keys=None):
        return {"stage1": x[:, ::2, ::2] - 0.5, **super().__call__(x, train, keys)}


def trained(folder, variant="supervised", model="staged", data=None):
    raw = tiny.get_config("seed" if variant == "seed" else "supervised")
    raw.method = config.default(variant).method
    raw.student.model = model
    raw.data.update(data or {})
    raw.train.steps, raw.evals.names = 6, ()
    if variant == "seed":
        raw.teacher.model, raw.method.queue_size = "staged", 64
    loop.run(raw, folder)
    return str(folder)


@pytest.fixture(scope="module", autouse=True)
def architectures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "tiny", tiny.Tiny)
        patch.setitem(models.MODELS, "staged", Staged)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("taught"), "seed")


@pytest.fixture
def opened(run):
    return runs_lib.open_run(run)


@dataclasses.dataclass(frozen=True)
class SelfTaught(Supervised):
    """Adds maps as a self-teacher does, and serves the classifier alone."""

    def network(self, backbone, given):
        joined = super().network(backbone, given)
        return dataclasses.replace(
            joined, parts={**joined.parts, "own": Regressor(4, 8, of="stage1", out="own_map")}
        )

    def served(self, variables, aux):
        return {
            collection: {name: tree for name, tree in trees.items() if name != "own"}
            for collection, trees in variables.items()
        }


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small transformer for images of 32 pixels, written as an .npz of our names."""
    path = tmp_path_factory.mktemp("weights") / "small.npz"
    network = Joined(models.LinenNetwork(VIT(image_size=32)), {})
    shapes = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    flat, draw = traverse_util.flatten_dict(shapes, sep="/"), np.random.default_rng(0)
    np.savez(path, **{name: draw.standard_normal(x.shape).astype(np.float32) for name, x in flat.items()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "vit_16", VIT)
        patch.setitem(names_of_vit.ARCHITECTURES, (16, 4), "vit_16")
        yield str(path)


def options(folder, **given):
    return runs_lib.Options(folder, **{"images": 2, "samples": 40, "sigmas": SIGMAS, "draws": 2} | given)


def test_the_page_has_every_section(run, taught, tmp_path, capsys):
    arguments = [
        "--samples",
        "40",
        "--images",
        "2",
        "--sigmas",
        "0,1",
        "--draws",
        "2",
        "--points",
        "3",
        "--out",
        str(tmp_path),
    ]
    assert main([run, taught, *arguments]) == 0
    page = (tmp_path / "report.html").read_text()
    headings = re.findall("<h2>(.*?)</h2>", page)
    assert headings == [
        "Attention",
        "Noise on the weights",
        "Landscape",
        "Gradients",
        "Class separability",
        "Notes",
    ]
    assert not re.search(r'(src|href)="(?!#|data:)', page)  # self-contained
    assert f"{taught} has no classifier of its data" in page
    assert str(tmp_path / "report.html") in capsys.readouterr().out
    files = {path.name for path in (tmp_path / "attention").rglob("*.png")}
    assert {"image0-step0-stage1.png", "image1-step6-stage1.png", "image0-teacher-stage1.png"} <= files
    figures = {path.stem for path in tmp_path.glob("*.svg")}
    assert {"attention-run1-image0", "noise-kept", "gradients"} <= figures
    assert {"landscape-loss-recomputed", "landscape-planes", "landscape-run1-kept"} <= figures


def test_weights_beside_a_run(weights, run, tmp_path, monkeypatch):
    """Heads of the weights, overlays of the run, both on the images of --data; classes of the run alone."""
    found, rows_of = [], heads.rows_of

    def noted(opened, options):
        found.append((opened, rows_of(opened, options)))
        return found[-1][1]

    monkeypatch.setattr(heads, "rows_of", noted)
    few = ["--images", "1", "--samples", "8"]
    arguments = ["--data", "photos6", "--split", "train", *few, "--out", str(tmp_path)]
    assert main([weights, run, "--sections", "heads,attention,separability", *arguments]) == 0
    page = (tmp_path / "report.html").read_text()
    headings = ["Attention heads", "Attention", "Class separability", "Notes"]
    assert re.findall("<h2>(.*?)</h2>", page) == headings
    for sentence in (
        f"{weights} does not say how images are normalised",
        f"{run} has a network without attention weights.",
        f"{weights} has a network without maps",
        f"{weights} is a weights file, and this section needs a run.",
    ):
        assert sentence in page, sentence
    assert "vit_16" in page and (tmp_path / "heads-run1-distance.svg").exists()
    (image,) = (tmp_path / "attention").rglob("image0-step6-stage1.png")
    assert np.asarray(Image.open(image)).shape == (128, 128, 3)  # the run's 16 pixels
    ((opened, rows),) = found
    images = opened.drawn("train", 8)
    assert (
        images.shape[1:] == (32, 32, 3) and len(images) <= 8 and [*rows] == ["weights"]
    )  # the network's own size
    network = Joined(models.LinenNetwork(VIT(image_size=32, form="dino", attention=True)), {})
    tree = traverse_util.unflatten_dict(dict(np.load(weights)), sep="/")
    features, _ = jax.jit(network.apply, static_argnums=2)(tree, images.astype(np.float32) / 255, False)
    shares = np.asarray(features["attention2"], np.float64)[:, :, 1:, 1:]
    want = (shares / shares.sum(axis=-1, keepdims=True)).mean(axis=(0, 1))
    np.testing.assert_allclose(rows["weights"].maps[2], want, rtol=1e-3)


def test_weights_alone_have_no_section_of_runs(weights, tmp_path, capsys):
    arguments = ["--data", "photos6", "--split", "train", "--out", str(tmp_path)]
    assert main([weights, "--sections", "gradients,separability", *arguments]) == 1
    told = capsys.readouterr().err
    assert told.count(f"{weights} is a weights file, and this section needs a run.") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "small.npz is a weights file, which has no images of its own: name some with --data."),
        (["--data", "nowhere"], "there is no folder nowhere"),
        (["--data", "photos6", "--arch", "resnet18"], "small.npz has vit_16"),
        (["--data", "photos6", "--size", "-1"], "--size is -1"),
        (["again.npz", "--form", "clip"], "--form is for one weights file, and RUN_OR_WEIGHTS has 2"),
    ],
)
def test_wrong_arguments_of_weights(arguments, message, weights, tmp_path, capsys):
    assert main([weights, *arguments, "--out", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


def test_sections_that_cannot_be_had(taught, tmp_path, capsys):
    only = ["--samples", "40", "--images", "1", "--out", str(tmp_path)]
    assert main([taught, "--sections", "noise", *only]) == 1
    assert "has no classifier of its data's classes" in capsys.readouterr().err
    assert main([taught, *only]) == 0
    out = capsys.readouterr().out
    assert f"heads is left out: {taught} has a student and a teacher without attention weights" in out
    assert f"noise is left out: {taught} has no classifier of its data's classes" in out
    assert "noise is left out" in (tmp_path / "report.html").read_text()


def test_a_section_that_was_measured_is_kept_when_another_one_is_refused(taught, tmp_path, capsys):
    only = ["--samples", "40", "--images", "1", "--out", str(tmp_path)]
    assert main([taught, "--sections", "separability,noise", *only]) == 1
    told = capsys.readouterr()
    assert "has no classifier of its data's classes" in told.err
    page = (tmp_path / "report.html").read_text()
    assert re.findall("<h2>(.*?)</h2>", page) == ["Class separability", "Notes"]


def test_a_run_without_enough_classes_leaves_the_others(run, tmp_path, monkeypatch):
    """One image has one class; the other run is measured all the same."""
    plain, few = runs_lib.open_run(run), dataclasses.replace(runs_lib.open_run(run), name="few")
    whole = runs_lib.Run.source

    def source(self, split, count):
        return whole(self, split, 1 if self.name == "few" and split == "val" else count)

    monkeypatch.setattr(runs_lib.Run, "source", source)
    for section in (noise.section, section_of_classes.section):
        blocks = section([plain, few], options(tmp_path, sigmas=(0.0,), draws=1))
        (note,) = blocks[-1].items
        assert note.startswith("few has images of fewer than two classes among the 1 of `val`")


def test_a_teacher_is_read_only_for_the_sections_that_ask(taught, tmp_path, monkeypatch):
    copy = shutil.copytree(taught, tmp_path / "copy")
    change(copy / "config.json", "teacher", "weights", "gone.pth")
    opened = runs_lib.open_run(copy)
    assert section_of_classes.values_of(opened, options(tmp_path))
    for section in (attention.section, gradients.section):
        with pytest.raises(runs_lib.Lacking, match="has a teacher that cannot be read .*gone.pth"):
            section([opened], options(tmp_path))


def test_statistics_are_recomputed_on_a_bounded_number_of_images(opened, tmp_path, monkeypatch):
    asked, images = [], runs_lib.Run.images

    def noted(self, split, count):
        asked.append((split, count))
        return images(self, split, count)

    monkeypatch.setattr(runs_lib.Run, "images", noted)
    monkeypatch.setattr(noise, "SEEN", 48)
    noise.accuracies(opened, options(tmp_path, samples=0, sigmas=(0.0,), draws=1))
    assert ("train", 48) in asked and ("val", 0) in asked


def test_noise_says_that_it_sees_the_image_alone(opened, tmp_path, monkeypatch):
    entries = dict.fromkeys(("logits", "aggregated_logits"), np.zeros((2, 10)))
    monkeypatch.setattr(runs_lib.Opened, "entries", lambda self, network, variables: entries)
    monkeypatch.setattr(noise, "accuracies", lambda run, options: {noise.KEPT: np.ones((3, 2))})
    (note,) = noise.section([opened], options(tmp_path))[-1].items
    assert note.startswith(f"{opened.name} also answers by all views of an image")


def test_data_that_moved(tmp_path):
    here, there = tmp_path / "here.npz", tmp_path / "there.npz"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), np.uint8)
    np.savez(here, image=pixels, label=np.arange(64) % 4)
    npz = {"source": "npz", "dir": str(here), "train": "all", "val": "all", "test": "all"}
    name = trained(tmp_path / "run", data=npz)
    here.rename(there)
    with pytest.raises(UserError, match="pass its new folder with --dir"):
        runs_lib.open_run(name)
    assert len(runs_lib.open_run(name, dir=str(there)).images("val", 0).label) == 64


def test_steps_are_those_of_the_run(opened):
    assert opened.steps == (0, 3, 6)
    kernels = [np.asarray(opened.variables(step)["params"]["backbone"]["conv1"]["kernel"]) for step in (0, 6)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-4
    fresh = opened.training.fresh(None).params["backbone"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernels[0], fresh)
    _, served = opened.served
    np.testing.assert_array_equal(kernels[1], served["params"]["backbone"]["conv1"]["kernel"])


def test_overlays_of_a_stage(opened, tmp_path):
    images = opened.images("val", 2).image
    tiles = attention.tiles_of(opened, images)
    assert [list(row) for row in tiles[0].values()] == [["stage1"]] * 3
    assert list(tiles[0]) == ["step 0", "step 3", "step 6"]
    attention.section([opened], options(tmp_path))
    (path,) = tmp_path.rglob("image1-step3-stage1.png")
    large = np.asarray(Image.open(path))
    assert large.shape == (128, 128, 3)
    np.testing.assert_array_equal(large[::8, ::8], tiles[1]["step 3"]["stage1"])


def test_maps_of_a_self_teacher_that_is_not_served(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "self_taught", SelfTaught)
    self_taught = runs_lib.open_run(trained(tmp_path / "run", "self_taught"))
    assert "own" not in self_taught.served[1]["params"]
    (tiles,) = attention.tiles_of(self_taught, self_taught.images("val", 1).image)
    assert {row: list(of_row) for row, of_row in tiles.items()} == {
        f"step {step}": ["stage1", "own_map"] for step in (0, 3, 6)
    }
    *_, shown = attention.section([self_taught], options(tmp_path))
    assert len(shown.figures) == 4  # of each of two images its stages, and what the method adds


def test_a_start_that_is_gone_and_other_data(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    change(copy / "config.json", "student", "init", "nowhere.npz")
    opened = runs_lib.open_run(copy)
    assert opened.steps == (3, 6)
    assert "the weights it began with are left out" in opened.notes[0]
    change(copy / "manifest.json", "data", "fingerprint", "0123")
    with pytest.raises(UserError, match="was trained on other data"):
        runs_lib.open_run(copy)


def change(path, section, key, value):
    content = json.loads(path.read_text())
    content[section][key] = value
    path.write_text(json.dumps(content))


def test_accuracy_without_noise_is_that_of_the_network(opened, tmp_path):
    found = noise.accuracies(opened, options(tmp_path))
    assert found.keys() == {noise.KEPT, noise.RECOMPUTED}
    network, variables = opened.served
    seen = opened.images("val", 40)
    logits = network.apply(variables, seen.image.astype(np.float32) / 255, False)[0]["logits"]
    np.testing.assert_allclose(found[noise.KEPT][0], (logits.argmax(axis=1) == seen.label).mean())
    assert found[noise.KEPT].shape == found[noise.RECOMPUTED].shape == (3, 2)


def test_gradients_are_those_of_a_step(opened, run, monkeypatch):
    found = gradients.magnitudes(opened)
    assert list(found) == [0, 3, 6]
    kernels = ["backbone/conv1/kernel", "backbone/conv2/kernel", "classifier/fc/kernel"]
    assert list(found[0]) == kernels
    assert all(value > 0 for of_step in found.values() for value in of_step.values())
    assert found[0] != found[6]

    def norm(gradients):
        return dict.fromkeys(kernels, optax.tree.norm(gradients))

    monkeypatch.setattr(gradients, "gradient_magnitudes", norm)
    first = next(row for row in metrics.read(run) if row["step"] == 1)
    np.testing.assert_allclose(gradients.magnitudes(opened)[0][kernels[0]], first["grad_norm"], rtol=1e-4)


def test_gradients_are_of_a_part_of_a_large_batch(opened, monkeypatch):
    monkeypatch.setattr(gradients, "IMAGES", 5)  # one group of BatchNorm has 8
    assert gradients._count(opened) == 8
    part = gradients.magnitudes(opened)[0]
    monkeypatch.setattr(gradients, "IMAGES", 64)
    assert part != gradients.magnitudes(opened)[0]
    method = dataclasses.replace(opened.config.method, mix="mixup")
    mixing = dataclasses.replace(opened, config=dataclasses.replace(opened.config, method=method))
    monkeypatch.setattr(gradients, "IMAGES", 5)
    assert gradients._count(mixing) == 16


def test_layers_are_in_the_order_of_the_network():
    network = Joined(models.create("mobilenetv3_small"), {"classifier": Classifier(10)})
    layers = gradients.layers_of(network, 32)
    blocks = [int(found[1]) for layer in layers if (found := re.search(r"/block(\d+)/", layer))]
    assert blocks == sorted(blocks) and blocks[-1] == 11
    assert layers[0] == "backbone/stem_conv/kernel" and layers[-1] == "classifier/fc/kernel"


def test_separability_of_stages(opened, tmp_path):
    values = section_of_classes.values_of(opened, options(tmp_path))
    assert list(values) == ["stage1", "pooled"]
    seen = opened.images("val", 40)
    mean, std = (np.array(x) for x in (opened.network.backbone.mean, opened.network.backbone.std))
    pooled = ((seen.image / 255 - mean) / std - 0.5)[:, ::2, ::2].mean(axis=(1, 2))
    np.testing.assert_allclose(values["stage1"], separability(pooled, seen.label), rtol=1e-4)


def test_exits_come_before_the_last_feature(opened, tmp_path, monkeypatch):
    values = {"stem": 4.0, "stage1": 3.0, "pooled": 1.0, "exit1_pooled": 2.0}
    monkeypatch.setattr(section_of_classes, "values_of", lambda run, options: values)
    *_, shown, table = section_of_classes.section([opened], options(tmp_path))
    assert [row[0] for row in table.rows] == ["stem", "stage1", "exit1_pooled", "pooled"]
    assert ["ends at 3" in shown.figures[0].svg, "ends at 1" in shown.figures[1].svg] == [True, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "There is no file or workdir 'nowhere'"),
        (["a", "a/../a"], "RUN_OR_WEIGHTS names a twice"),
        (["a", "--sections", "atention"], "did you mean 'attention'?"),
        (["a", "--sections", "noise,noise"], "--sections names noise twice"),
        (["a", "--images", "0"], "--images is 0: use 1 or more."),
        (["a", "--sigmas", "0.2,0.1"], "--sigmas must ascend"),
        (["tests", "--size", "32"], "--size is for weights, and RUN_OR_WEIGHTS has none"),
        (["a", "--points", "1"], "--points is 1: use 3 or more."),
        (["a", "--points", "4"], "--points is 4: use an odd number"),
        (["a", "--absolute"], "--absolute needs --sigmas in the unit of the weights"),
        (["a", "--out", "/proc/seed_jax"], "--out: /proc/seed_jax cannot be created"),
    ],
)
def test_wrong_arguments(arguments, message, tmp_path, capsys):
    assert main(["--out", str(tmp_path), *arguments]) == 1
    assert message in capsys.readouterr().err
