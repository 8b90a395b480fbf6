"""The check before a run: teachers, images and settings with a known fault, and a run without one."""

import os
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from seed_jax import config, models
from seed_jax.data.inspect import repeated
from seed_jax.data.sources import Arrays, open_source
from seed_jax.errors import UserError
from seed_jax.train import check
from seed_jax.train.build import Lengths


class Blocks(nn.Module):
    """Means of blocks of 2 x 2 pixels: a teacher that has learned nothing, and does not collapse."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train, keys=None):
        small = jax.image.resize(x[..., :1], (len(x), 8, 8, 1), "linear").reshape(len(x), -1)
        return {"pooled": small * self.param("scale", nn.initializers.ones, ())}


class Constant(Blocks):
    """The same feature for every image."""

    @nn.compact
    def __call__(self, x, train, keys=None):
        return {"pooled": jnp.ones((len(x), 8)) * self.param("scale", nn.initializers.ones, ())}


@pytest.fixture
def checked(monkeypatch, capsys, tmp_path):
    """`checked(teacher, **overrides) -> (exit code, lines)`, in a folder in which nothing may appear."""
    monkeypatch.chdir(tmp_path)
    for name, module in (("tiny", tiny.Tiny), ("blocks", Blocks), ("constant", Constant)):
        monkeypatch.setitem(models.MODELS, name, module)

    def call(teacher, variant="seed", **overrides):
        raw = tiny.get_config(variant)
        raw.teacher.model, raw.teacher.dim, raw.train.steps = teacher, 64, 100
        raw.evals.batch_size = 64
        raw.update_from_flattened_dict({key.replace("__", "."): value for key, value in overrides.items()})
        before = os.listdir()
        code = check.run(raw)
        assert os.listdir() == before
        return code, capsys.readouterr().out.splitlines()

    return call


def verdicts(lines):
    """The last cell of each row of the table by its first."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    return {name: verdict for name, _, verdict in rows[2:]}


def test_a_healthy_run_is_all_ok(checked):
    code, lines = checked("blocks", evals__names=("knn",))
    assert (code, lines[-1]) == (0, "All OK."), lines
    assert len({len(line) for line in lines if line.startswith("|")}) == 1
    assert set(verdicts(lines).values()) == {"OK"} and len(verdicts(lines)) == 8
    images = len(open_source("digits", "train"))
    assert any(f"| 64 of {images:,} images |" in " ".join(line.split()) for line in lines)
    assert any("| 4 of 100 steps, 0.051 epochs |" in " ".join(line.split()) for line in lines)


def test_a_teacher_that_collapses_stops_the_run(checked):
    code, lines = checked("constant", evals__names=("knn",))
    assert code == 1
    found = verdicts(lines)
    assert (found["teacher: variance"], found["teacher: effective rank"]) == ("STOP", "look")
    assert found["teacher: kNN"] == "look" and found["queue"] == "OK"
    assert any("the same embedding for all images: take another teacher.weights" in line for line in lines)


def test_repeated_images_and_a_queue_beyond_the_data_are_named(checked, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    images[[7, 40]] = images[3]
    np.savez(tmp_path / "x.npz", image=images)
    data = {"data__source": "npz", "data__dir": str(tmp_path / "x.npz"), "data__train": "all"}
    code, lines = checked("blocks", **data, optim__lr=9.0, method__tau_teacher=1e-4)
    assert code == 0
    found = verdicts(lines)
    assert {name for name, verdict in found.items() if verdict == "look"} >= {"repeated images", "queue"}
    said = "\n".join(lines)
    assert "2 among 60 of 60 looked at" in said and "remove the copies, such as " in said
    assert (
        "queue: use --config.method.queue_size=16 (64 is more than half of the 60 training images)." in said
    )
    assert "use --config.method.tau_teacher=0.01" in said and "use --config.optim.lr=0.3" in said
    assert "not known, no labels" in said and found["teacher: kNN"] == "–"


def test_images_that_are_trained_on_are_no_copies_of_themselves(checked):
    code, lines = checked("blocks", data__train="all", evals__names=("top1",), variant="supervised")
    found = verdicts(lines)
    assert code == 0 and found["repeated images"] == "OK", lines


def test_a_copy_in_the_test_split_is_found(checked, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (200, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", image=images, label=np.arange(200) % 2)
    splits = [open_source("npz", split, dir=str(tmp_path / "x.npz")) for split in ("train", "test")]
    train, test = (source.indices[0] for source in splits)
    images[test] = images[train]
    np.savez(tmp_path / "x.npz", image=images, label=np.arange(200) % 2)
    _, lines = checked("blocks", data__source="npz", data__dir=str(tmp_path / "x.npz"), data__batch_size=16)
    assert verdicts(lines)["repeated images"] == "look"
    assert any("1 among 200 of 200 looked at" in line for line in lines)


def test_statistics_that_lag_in_a_short_run_are_named(checked):
    student = {"student__model": "mobilenetv3_small_torchvision", "student__options": {"width": 0.5}}
    _, lines = checked("blocks", **student)
    assert verdicts(lines)["batch statistics"] == "look"
    assert any("bn_momentum" in line for line in lines)


def test_what_would_stop_the_run_stops_the_check(checked):
    with pytest.raises(UserError, match="method.queue_size is 72"):
        checked("blocks", method__queue_size=72)
    with pytest.raises(UserError, match="method.clusters is 5000, and the training split has only"):
        checked("blocks", variant="kmeans", method__clusters=5000)
    with pytest.raises(UserError, match="nowhere"):
        checked("blocks", student__init="nowhere")


def test_copies_are_found_across_sources_and_flat_images_are_none():
    images = np.random.default_rng(1).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    images[2] = images[5] = 200
    first, second = (
        Arrays(name, images[rows], np.zeros(len(rows), np.int64))
        for name, rows in (("a", [0, 1, 2, 5]), ("b", [3, 1, 4]))
    )
    assert repeated([first, second]) == [[first.name(1), second.name(1)]]
    assert repeated([first]) == []


@pytest.mark.parametrize(
    ("embeddings", "variance", "rank"),
    [
        (np.eye(8).repeat(4, axis=0), 1 - 1 / 8, 8.0),  # the mean is 1/8 in each of 8 dimensions
        (np.eye(2).repeat(16, axis=0) @ np.ones((2, 8)), 0.0, 1.0),
        (np.concatenate([np.ones((16, 1)), -np.ones((16, 1))]), 1.0, 1.0),
        (np.concatenate([np.zeros((56, 8)), np.eye(8)]), 1 / 8 - 1 / 512, 8.0),  # the mean is 1/64 in each
        (np.zeros((32, 8)), 0.0, 0.0),
    ],
)
def test_variance_and_rank_of_known_embeddings(embeddings, variance, rank):
    spread, directions = check.of_embeddings(embeddings.astype(np.float32))
    assert spread.found.startswith(f"{variance:.2g} of 1, ") or variance == 0.0
    assert directions.found == f"{rank:.1f} of {embeddings.shape[1]} dimensions"
    assert (bool(spread.remedy), spread.stops) == (variance == 0, variance == 0)


def test_one_image_says_nothing_of_a_teacher():
    (found,) = check.of_embeddings(np.ones((1, 8), np.float32))
    assert (found.verdict, found.stops) == ("–", False)


def test_a_teacher_below_raw_pixels_is_named_only_beyond_the_interval():
    pixels = np.arange(100) < 60
    assert "worse than raw pixels" in check.of_neighbours(np.arange(100) < 40, pixels).remedy
    assert check.of_neighbours(np.arange(100) < 55, pixels).remedy == ""


def test_the_queue_turns_and_the_rate_scales():
    c = config.default("seed")
    c.optim.lr, c.optim.lr_batch, c.data.batch_size, c.method.queue_size = 0.03, 256, 512, 4096
    settings = SimpleNamespace(data=c.data, optim=c.optim, method=c.method)
    length = Lengths(total=15, epoch=4, probe=4, save=4)
    found = {f.name: f for f in check.of_settings(settings, length, 2048, [])}
    assert found["turn of the queue"].found == "8 of 15 steps, 2 epochs"
    assert found["turn of the queue"].remedy.startswith("the queue turns only after half of the run")
    assert found["learning rate, sgd"].found == "0.06 (0.03 for a batch of 256, here 512)"
    longer = check.of_settings(settings, Lengths(16, 4, 4, 4), 2048, [])
    assert not any(f.remedy for f in longer)


@pytest.mark.parametrize(
    ("prototypes", "queue", "few"), [(768, 256, False), (769, 256, True), (512, 0, False)]
)
def test_fewer_rows_than_prototypes_are_named(prototypes, queue, few):
    c = config.default("swav")
    c.data.batch_size, c.method.prototypes, c.method.queue_size = 512, prototypes, queue
    settings = SimpleNamespace(data=c.data, optim=c.optim, method=c.method)
    found = {f.name: f for f in check.of_settings(settings, Lengths(100, 4, 4, 4), 2048, [])}
    assert found["prototypes"].found == f"{prototypes}, balanced over {512 + queue} rows"
    assert ("use fewer method.prototypes" in found["prototypes"].remedy) == few


def test_a_queue_that_a_run_never_uses_balances_no_rows():
    c = config.default("swav")
    c.data.batch_size, c.method.queue_size, c.method.queue_from = 64, 256, 15
    settings = SimpleNamespace(data=c.data, optim=c.optim, method=c.method)
    for total, rows in ((64, 64), (65, 320)):  # 15 epochs of 4 steps, and the 4 steps in which it fills
        found = {f.name: f for f in check.of_settings(settings, Lengths(total, 4, 4, 4), 2048, [])}
        assert found["prototypes"].found.endswith(f"balanced over {rows} rows")
