"""The teacher's pass over the training images before the training, and the two methods that need it."""

import dataclasses
import re
import shutil

import chex
import jax
import numpy as np
import pytest
import tiny

from experiments.reliability.processes import Processes, checkpoint, rows
from seed_jax import config, models, parallel
from seed_jax.compare.run import costs
from seed_jax.data import pipeline
from seed_jax.data.images import BadImage
from seed_jax.data.pipeline import eval_batches
from seed_jax.data.sources import open_source
from seed_jax.data.sources.base import Subset
from seed_jax.errors import UserError
from seed_jax.evals.features import unit
from seed_jax.report.plan import text
from seed_jax.train import loop, monitor, offline, plan, teacher, workdir


@pytest.fixture(autouse=True)
def tiny_model(monkeypatch):
    monkeypatch.setitem(models.MODELS, "tiny", tiny.Tiny)


def run(directory, variant, **overrides):
    raw = tiny.get_config(variant)
    raw.update_from_flattened_dict({key.replace("__", "."): value for key, value in overrides.items()})
    return loop.run(raw, directory)


def found(directory):
    (file,) = directory.glob("offline-*.npz")
    with np.load(file) as arrays:
        return dict(arrays)


class Broken(Subset):
    """A source whose image `lost` cannot be read."""

    def __init__(self, source, lost):
        super().__init__(source, np.arange(len(source)))
        self.lost = lost

    def __getitem__(self, i):
        if i == self.lost:
            raise BadImage("no such file")
        return super().__getitem__(i)


@pytest.fixture(scope="module", params=["kmeans", pytest.param("bingo", marks=pytest.mark.long)])
def whole(request, tmp_path_factory):
    """`(variant, workdir)` of a run of six steps on 8 devices."""
    directory = tmp_path_factory.mktemp(request.param) / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "tiny", tiny.Tiny)
        run(directory, request.param)
    return request.param, directory


def test_what_is_found_is_of_the_teachers_centre_crops(whole):
    """Pooled features by the teacher itself; each image's bag, or its cluster's mean, is nearest in them."""
    variant, directory = whole
    c = config.resolve(tiny.get_config(variant))
    source = open_source("digits", "train")
    loaded = teacher.load(c.teacher, image_size=16, seed=0, precision="fp32")
    arrays = found(directory)
    assert {name: len(rows_of) for name, rows_of in arrays.items()} == dict.fromkeys(arrays, len(source))
    assert len(arrays) == 2 and arrays["seen"].all()
    batches = eval_batches(source, 16, 64, resize=c.data.resize, background=c.data.background)
    seen = [batch["image"][batch["mask"]] for batch in batches]
    x = np.concatenate(seen).astype(np.float32) / 255
    features = jax.jit(lambda x: loaded.network.apply(loaded.variables, x, False)[0])(x)
    if variant == "bingo":
        z = unit(features["pooled"])
        similarity = z @ z.T
        np.fill_diagonal(similarity, -np.inf)
        own = np.take_along_axis(similarity, arrays["bag"], axis=1)
        want = np.sort(similarity, axis=1)[:, : -len(own[0]) - 1 : -1]
        np.testing.assert_allclose(own, want, atol=1e-5)
    else:
        z, cluster = unit(features["embedding"]), arrays["cluster"]
        means = np.stack([z[cluster == k].mean(axis=0) for k in range(12)])
        distance = ((z[:, None] - means[None]) ** 2).sum(axis=2)
        own = distance[np.arange(len(z)), cluster]
        np.testing.assert_allclose(own, distance.min(axis=1), atol=1e-4)


def test_a_run_that_was_cut_resumes_bitwise_without_another_pass(whole, tmp_path, monkeypatch, capsys):
    variant, directory = whole
    noted = monitor.Monitor.step

    def note(self, number, *args, **options):
        noted(self, number, *args, **options)
        if number == 5:
            raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(monitor.Monitor, "step", note)
        with pytest.raises(RuntimeError, match="power cut"):
            run(tmp_path / "cut", variant)
    assert capsys.readouterr().out.count("once, before the training") == 1
    monkeypatch.setattr(offline, "Extractor", None)
    run(tmp_path / "cut", variant)
    said = capsys.readouterr().out
    assert "resuming from step 3 of 6" in said and "before the training" not in said
    chex.assert_trees_all_equal(checkpoint(tmp_path / "cut", 6), checkpoint(directory, 6))
    assert rows(tmp_path / "cut") == rows(directory)
    chex.assert_trees_all_equal(found(tmp_path / "cut"), found(directory))


def test_the_same_on_one_device(whole, tmp_path, monkeypatch):
    variant, directory = whole
    make, devices = parallel.make_mesh, jax.devices()
    monkeypatch.setattr(parallel, "make_mesh", lambda: make(devices[:1]))
    run(tmp_path / "one", variant)
    chex.assert_trees_all_equal(found(tmp_path / "one"), found(directory))
    chex.assert_trees_all_close(checkpoint(tmp_path / "one", 6), checkpoint(directory, 6), rtol=0, atol=1e-5)


@pytest.mark.long
def test_the_same_with_two_processes(whole, tmp_path):
    variant, directory = whole
    with Processes(tmp_path / "two", variant, 6, count=2) as both:
        assert both.wait() == [0, 0], both.said(0)
    chex.assert_trees_all_equal(found(tmp_path / "two"), found(directory))
    chex.assert_trees_all_close(checkpoint(tmp_path / "two", 6), checkpoint(directory, 6), rtol=0, atol=1e-5)


def test_a_file_that_is_gone_from_a_run_with_a_checkpoint_is_said(whole, tmp_path, capsys):
    variant, directory = whole
    shutil.copytree(directory, tmp_path / "run")
    (file,) = (tmp_path / "run").glob("offline-*.npz")
    file.unlink()
    run(tmp_path / "run", variant)
    assert f"{file} is missing, and this run has a checkpoint" in capsys.readouterr().out
    chex.assert_trees_all_equal(found(tmp_path / "run"), found(directory))


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path):
    wanted = config.resolve(tiny.get_config("kmeans")).method.offline(1000)
    with pytest.raises(UserError, match=re.escape(f"{tmp_path} cannot be read (Is a directory)")):
        offline.load(tmp_path, wanted, 1000)


def test_damaged_and_foreign_files_are_named(whole, tmp_path):
    variant, directory = whole
    (file,) = directory.glob("offline-*.npz")
    wanted, copy = config.resolve(tiny.get_config(variant)).method.offline(1000), tmp_path / file.name
    images = len(open_source("digits", "train"))
    assert offline.load(copy, wanted, images) is None
    content = file.read_bytes()
    words = re.escape(f"{copy} is damaged or was not written by this run: remove it")
    for wrong in (content[: len(content) // 2], b""):
        copy.write_bytes(wrong)
        with pytest.raises(UserError, match=words):
            offline.load(copy, wanted, images)
    copy.write_bytes(content)
    assert offline.load(copy, wanted, images).keys() == {*wanted.rows, "seen"}
    with pytest.raises(UserError, match=words):
        offline.load(copy, wanted, images + 1)


def test_a_run_that_ended_is_read_with_its_targets(whole, tmp_path):
    variant, directory = whole
    run, arrays = workdir.load_run(directory), found(directory)
    source, of_teacher = open_source("digits", "train"), run.manifest["teacher"]
    read = offline.with_rows(source, directory, run.config, of_teacher)
    assert {*read[7].targets, "seen"} == arrays.keys()
    for name, target in read[7].targets.items():
        np.testing.assert_array_equal(target, arrays[name][7])
    with pytest.raises(UserError, match="is missing, so the run's targets are not known: restore it"):
        offline.with_rows(source, tmp_path, run.config, of_teacher)


def test_an_image_that_was_unreadable_in_the_pass_stays_out_of_the_run(tmp_path, monkeypatch):
    """The file is whole again when the training starts: the image must not train with a row of zeros."""
    images = open_source("digits", "train")
    before = offline._find
    lost = 11

    def find(p, name):
        source = p.sources.train
        broken = Broken(source, lost)
        return before(dataclasses.replace(p, sources=dataclasses.replace(p.sources, train=broken)), name)

    monkeypatch.setattr(offline, "_find", find)
    run(tmp_path / "run", "kmeans")
    seen = found(tmp_path / "run")["seen"]
    assert np.flatnonzero(~seen).tolist() == [lost] and len(seen) == len(images)
    ended = workdir.load_run(tmp_path / "run")
    read = offline.with_rows(images, tmp_path / "run", ended.config, ended.manifest["teacher"])
    assert read[lost + 1].targets.keys() == {"cluster"}
    with pytest.raises(BadImage, match="could not be read when its targets were computed"):
        read[lost]
    rows_of = pipeline.train_batches(read, (pipeline.ViewSpec(size=16),), len(read), 0, last="keep")
    batch = next(rows_of)
    assert lost in batch["bad"] and images.ids()[lost] not in batch["id"][:, 0]


def test_costs_have_the_pass(whole):
    """Six steps at batch 16; in each, BINGO's teacher sees two views."""
    variant, directory = whole
    in_steps = {"kmeans": 0, "bingo": 2}[variant] * 6 * 16
    assert costs(directory)["teacher_images"] == len(open_source("digits", "train")) + in_steps


def test_the_name_depends_on_what_the_arrays_depend_on(tmp_path):
    def name(variant="kmeans", teacher=None, data="d", **overrides):
        raw = tiny.get_config(variant)
        raw.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
        known = {"sha256": "a", "source": "here"} | (teacher or {})
        return offline.path(tmp_path, config.resolve(raw), known, data).name

    others = (
        name("bingo"),
        name(teacher={"sha256": "b"}),
        name(data="e"),
        name(method__clusters=13),
        name(data__image_size=32),
        name(data__resize=1.5),
        name(train__seed=1),
        name(train__precision="bf16"),
    )
    assert len({name(), *others}) == 9
    assert name(teacher={"source": "there"}, optim__lr=1.0, data__workers=2) == name()


@pytest.mark.parametrize(
    ("variant", "overrides", "words"),
    [
        ("kmeans", {"method__clusters": 5000}, "method.clusters is 5000, and the training split has only"),
        ("bingo", {"method__neighbours": 5000}, "method.neighbours is 5000, and the training split has only"),
        ("kmeans", {"method__feature": "tokens"}, "Unknown method.feature 'tokens'"),
        ("bingo", {"teacher__weights": ""}, "teacher.weights is empty"),
    ],
)
def test_mistakes_are_named_before_anything_is_compiled(tmp_path, variant, overrides, words):
    with pytest.raises(UserError, match=words):
        run(tmp_path, variant, **overrides)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("variant", ["kmeans", "bingo"])
def test_is_planned(variant):
    made = plan.make(config.resolve(tiny.get_config(variant)), devices=8)
    images = len(open_source("digits", "train"))
    assert made.student_flops > 0
    assert made.teacher_images == {"kmeans": 0, "bingo": 2}[variant]
    assert made.offline_images == images and f"the teacher sees {images:,} images" in text(made)
    if variant == "bingo":
        np.testing.assert_allclose(made.offline_flops, images * made.teacher_flops / 2, rtol=0.05)
