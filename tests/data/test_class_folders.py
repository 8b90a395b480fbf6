"""Runs on a folder whose kind and classes are recognised."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import tiny
from PIL import Image

from seed_jax import config, models
from seed_jax.data.sources import open_source
from seed_jax.errors import UserError
from seed_jax.evals import embed
from seed_jax.evals.__main__ import main as evals
from seed_jax.report import metrics
from seed_jax.train import inputs, loop, plan, workdir


@pytest.fixture(scope="module", autouse=True)
def tiny_model():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "tiny", tiny.Tiny)
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same 120 digits twice: `photos` has one sub-folder per class, `loose` has none."""
    root, digits = tmp_path_factory.mktemp("data"), open_source("digits", "all")
    for n in range(120):
        record = digits[n]
        for folder in (root / "photos" / f"class {record.label}", root / "loose"):
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(record.image).save(folder / f"{n:03}.png")
    return root


def raw(folder, method="seed", **data):
    c = tiny.get_config(method)
    c.data.update({"source": "", "dir": str(folder), "train": "", **data})
    c.evals.names, c.train.steps, c.evals.k = ("knn",), 1, 3
    return c


def sizes(folder):
    return [len(open_source("imagefolder", split, dir=str(folder))) for split in ("train", "val", "test")]


@pytest.fixture(scope="module")
def trained(folders, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    loop.run(raw(folders / "photos"), directory)
    return directory


def test_a_run_on_a_class_folder_has_a_probe_and_says_so(folders, tmp_path, capsys):
    photos = folders / "photos"
    loop.run(raw(photos), tmp_path)
    train, val, test = sizes(photos)
    assert (
        f"train: 10 classes by sub-folder in {photos}; labels are used by probes only; training uses {train} "
        f"images, val {val}, test {test} (train on all with --config.data.train=all, without accuracies)\n"
    ) in capsys.readouterr().out
    assert {"knn", "teacher_knn", "pixels_knn"} <= {key for row in metrics.read(tmp_path) for key in row}
    written, manifest = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("config", "manifest")
    )
    assert (written["data"]["source"], written["data"]["train"]) == ("", "")
    assert (manifest["data"]["source"], manifest["train_split"]) == ("imagefolder", "train")
    assert manifest["data"]["images"] == train
    assert manifest["val_images"] == manifest["probe_images"] == val


def test_evals_use_what_the_run_recognised(trained, folders, monkeypatch, capsys):
    monkeypatch.setattr("seed_jax.data.sources.recognise", lambda path: pytest.fail("recognised again"))
    assert evals([str(trained)]) == 0
    assert "kNN, test %" in capsys.readouterr().out


def test_a_manifest_of_an_earlier_version_is_no_obstacle(trained, tmp_path):
    """It lacks the training split, and the config has it."""
    run = workdir.load_run(trained)
    manifest = {key: value for key, value in run.manifest.items() if key != "train_split"}
    data = dataclasses.replace(run.config.data, source="imagefolder", train="train")
    older = dataclasses.replace(run, manifest=manifest, config=dataclasses.replace(run.config, data=data))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workdir, "load_run", lambda *a, **k: older)
        assert evals([str(trained)]) == 0


def test_training_on_all_images_of_a_class_folder_measures_imitation(folders, tmp_path, capsys):
    score = loop.run(raw(folders / "photos", train="all"), tmp_path)
    said = capsys.readouterr().out
    assert (
        "train: data.train is 'all', so probes measure how well the student imitates the teacher, on 120 of "
        "the training images; for accuracy: use --config.data.train= to train on one split"
    ) in said
    assert not any("knn" in row for row in metrics.read(tmp_path))
    probes = {row["step"]: row for row in metrics.read(tmp_path) if "neighbours" in row}
    assert list(probes) == [0, 1] and score == probes[1]["neighbours"]
    others = {"teacher_effective_rank", "pixels_effective_rank", "pixels_neighbours"}
    assert probes[0].keys() - probes[1].keys() == others
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["data"]["images"], manifest["val_images"], manifest["probe_images"]) == (120, None, 120)
    assert "No clear gain in imitating the teacher: the student's share of the teacher's nearest" in said
    with pytest.raises(UserError, match="data.train is 'all', which contains images of data.val"):
        inputs.open_all(config.resolve(raw(folders / "photos", source="imagefolder", train="all")))


@pytest.mark.parametrize("source", ["", "folder"])
def test_a_run_without_classes_says_how_to_get_accuracies(folders, source):
    place = folders / ("photos" if source else "loose")
    sources, _ = inputs.open_all(config.resolve(raw(place, source=source)))
    assert (len(sources.train), sources.bank, len(sources.val)) == (120, None, 120)
    assert (sources.data.source, sources.data.train) == ("folder", "all")
    assert sources.names == ("neighbours",)
    assert sources.note == (
        f"{place} has no labels, so probes measure how well the student imitates the teacher, on 120 of the "
        "training images; for accuracy: put the images of each class into a sub-folder of their own"
        + (" and set data.source=''" if source else "")
    )
    quiet = raw(place, source=source)
    quiet.evals.names = ()
    sources, _ = inputs.open_all(config.resolve(quiet))
    assert (sources.note, sources.names, sources.val) == ("", (), None)


def test_without_labels_and_teacher_there_is_the_effective_rank(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(inputs, "UNLABELLED", 16)
    loop.run(raw(folders / "loose", "moco"), tmp_path)
    said = capsys.readouterr().out
    assert "so probes measure effective rank, on 16 of the training images" in said
    assert "These scores cannot tell whether training helped: the student's effective rank" in said


def test_the_image_that_prevents_classes_is_named(folders, tmp_path):
    shutil.copytree(folders / "photos", tmp_path / "photos")
    shutil.copy(folders / "loose" / "000.png", tmp_path / "photos" / "Thumbs.png")
    sources, _ = inputs.open_all(config.resolve(raw(tmp_path / "photos")))
    assert sources.note.endswith(
        "for accuracy: Thumbs.png is not directly in a class folder: move it away and the sub-folders are "
        "classes"
    )


def test_without_evaluators_no_image_is_left_out(folders, tmp_path):
    c = raw(folders / "photos")
    c.evals.names = ()
    sources, _ = inputs.open_all(config.resolve(c))
    assert (len(sources.train), sources.val, sources.data.train, sources.note) == (120, None, "all", "")
    assert plan.make(config.resolve(c), devices=1).images == 120
    for n in range(4):  # too few for all splits
        (tmp_path / "ab"[n % 2]).mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "ab"[n % 2] / f"{n}.png")
    c.data.dir, c.data.train = str(tmp_path), "train"
    assert inputs.open_all(config.resolve(c))[0].val is None


def test_training_on_all_with_a_bank_has_a_probe(folders):
    sources, _ = inputs.open_all(config.resolve(raw(folders / "photos", train="all", bank="train")))
    assert (len(sources.train), len(sources.bank)) == (120, sizes(folders / "photos")[0])
    assert "training uses 120 images, val" in sources.note
    assert "without accuracies" not in sources.note


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("val", "val 40; there is no test split, so evals scores val"),
        ("test", "test 40; there is no val split, so probes score test"),
    ],
)
def test_own_splits_without_val_or_test(folders, tmp_path, caplog, other, words):
    """The commonest layout has train/ and val/; the commands of the README do not name a split."""
    for n, image in enumerate(sorted((folders / "photos").rglob("*.png"))):
        place = tmp_path / "data" / ("train" if n % 3 else other) / image.parent.name
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, place)
    sources, _ = inputs.open_all(config.resolve(raw(tmp_path / "data")))
    assert f"training uses 80 images, {words}" in sources.note
    if other == "val":
        loop.run(raw(tmp_path / "data"), tmp_path / "run")
        assert evals([str(tmp_path / "run")]) == 0
        assert "one split, val, serves as val and as test, so the best checkpoint" in caplog.text
        assert json.loads((tmp_path / "run" / "manifest.json").read_text())["val_images"] == 40


def test_a_method_that_needs_labels_takes_them_from_the_folders(folders):
    sources, _ = inputs.open_all(config.resolve(raw(folders / "photos", "supervised")))
    assert sources.train.num_classes == 10
    assert "labels are used by training and probes; training uses" in sources.note
    assert "train=all" not in sources.note


def test_too_few_images_for_a_probe(tmp_path):
    for n in range(4):
        (tmp_path / "ab"[n % 2]).mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "ab"[n % 2] / f"{n}.png")
    message = "is empty: add images .*, or train without accuracies, with --config.data.train=all.$"
    with pytest.raises(UserError, match=message):
        inputs.open_all(config.resolve(raw(tmp_path, train="train")))


def test_the_plan_counts_the_images_of_the_recognised_split(folders):
    train, _, _ = sizes(folders / "photos")
    for split, count in (("", train), ("all", 120)):
        c = config.resolve(raw(folders / "photos", train=split))
        assert plan.make(c, devices=1).images == count


def test_embed_carries_the_labels_of_class_folders(trained, folders, tmp_path):
    assert embed.main([str(trained), str(folders / "photos"), str(tmp_path / "out.npz")]) == 0
    table = np.load(tmp_path / "out.npz")
    named = [int(re.search(r"class (\d)", name)[1]) for name in table["name"].tolist()]
    assert table["label"].tolist() == named
    assert embed.main([str(trained), str(folders / "loose"), str(tmp_path / "out.npz")]) == 0
    assert set(np.load(tmp_path / "out.npz")["label"].tolist()) == {-1}
