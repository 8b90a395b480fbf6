"""The ranking of augmentations: its numbers by hand, the command from a config, and what users get wrong."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from seed_jax.analysis import stddev_of_means, t_stddev
from seed_jax.data.sources import Arrays
from seed_jax.data.views import ViewSpec
from seed_jax.errors import UserError
from seed_jax.rank_augmentations import measure, page
from seed_jax.rank_augmentations.__main__ import _parse, main
from seed_jax.train import loop

GREY = (0.5, 0.5, 0.5)
VIEW = ViewSpec(size=16, flip=0.5, photometric="none", crop="pad", padding=2)


def originals(seed=0):
    pixels = np.random.default_rng(0).integers(0, 256, (700, 16, 16, 3), np.uint8)
    return measure.originals(Arrays("noise", pixels, None), VIEW, seed)


@jax.jit
def respond(images):
    """A teacher that knows mean colours and the colour of the middle."""
    colours = jnp.concatenate([images.mean((1, 2)), images[:, 6:10, 6:10].mean((1, 2))], axis=1)
    return jax.nn.log_softmax(12 * colours)


def test_identity_is_every_original_twice():
    (one,) = measure.measure(respond, originals(), ("identity",), chunks=3, seed=0, fill=GREY)
    batches = originals()
    rows = [np.exp(respond(next(batches).images)) for _ in range(15)]
    rows = np.concatenate([np.concatenate([batch, batch]) for batch in rows])
    np.testing.assert_allclose(one.t_stddev, t_stddev(rows), rtol=1e-5)
    entropy = -(rows * np.log(rows)).sum(axis=1).mean()
    np.testing.assert_allclose(one.entropy, entropy, rtol=1e-5)


def test_accuracy_is_the_share_of_labels_that_the_teacher_names():
    images = jnp.zeros((4, 8, 8, 3)).at[:, ..., 1].set(1.0).at[0, ..., 2].set(2.0)
    batch = measure.Original(images, np.array([2, 1, 1, 0]), None, 0)
    assert measure.accuracy(lambda x: x.mean((1, 2)), [batch]) == 0.75
    batch = batch._replace(labels=np.array([2, 0, -1, -1]))
    assert measure.accuracy(lambda x: x.mean((1, 2)), [batch]) == 0.5


def test_picks_are_the_more_uncertain_half_of_a_pool():
    names = ("identity", "flip", "cutmix", "cutmix_pick")
    ranked = measure.measure(respond, originals(), names, chunks=4, seed=0, fill=GREY)
    assert {one.name for one in ranked} == {*names}
    of = {one.name: one for one in ranked}
    assert of["cutmix_pick"].entropy > of["cutmix"].entropy
    values = [stddev_of_means(one.means) for one in ranked]
    assert [one.t_stddev for one in ranked] == values == sorted(values)


def test_a_run_of_the_same_seed_is_the_same():
    first, again = (
        measure.measure(respond, originals(), ("cutmix", "autoaugment_cifar10"), chunks=2, seed=0, fill=GREY)
        for _ in range(2)
    )
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.means, other.means)


def measured(name, scale, noise=0.0):
    random = np.random.default_rng(1)
    means = scale * np.random.default_rng(0).standard_normal((30, 4))
    return measure.Measured(name, means + noise * random.standard_normal((30, 4)), 1.0, 2.0)


def test_the_table_compares_with_the_best_and_with_identity():
    best, identity = measured("cutmix", 0.001), measured("identity", 0.003)
    header, rows = (table := page.table([best, identity])).header, table.rows
    assert header[3:5] == ["above the best × 1000", "above identity × 1000"]
    ours, theirs = rows[0][4], rows[1][3]
    assert (rows[0][3], rows[1][4]) == ("–", "–")
    assert float(ours.split()[0]) == -float(theirs.split()[0]) < 0
    np.testing.assert_allclose(
        float(theirs.split()[0]), 1000 * (identity.t_stddev - best.t_stddev), atol=6e-4
    )
    assert "above identity × 1000" not in page.table([best, measured("flip", 0.002)]).header


def test_advice_says_when_the_first_cannot_be_told_apart_from_others():
    clear = page.advice([measured("cutmix", 0.001), measured("flip", 0.002)])
    assert clear.startswith("Use cutmix: its T.stddev is the lowest. The next, flip, is above it by")
    tied = page.advice([measured("cutmix", 0.001), measured("mixup", 0.001, 0.0001), measured("flip", 0.002)])
    assert "No clear best: cutmix has the lowest T.stddev, but 30 chunks cannot tell it from mixup." in tied
    assert "nothing to compare it with" in page.advice([measured("cutmix", 0.001)])


def test_time_ends_the_measurement_after_five_chunks():
    (one,) = measure.measure(respond, originals(), ("flip",), chunks=9, limit=0.0, seed=0, fill=GREY)
    assert len(one.means) == 5


@pytest.mark.parametrize("options", [{"draw": "image"}, {"released": True}])
def test_draws_for_each_image_and_the_released_rules(options):
    given = {"chunks": 2, "seed": 0, "fill": GREY}
    (usual,) = measure.measure(respond, originals(), ("autoaugment_cifar10",), **given)
    (other,) = measure.measure(respond, originals(), ("autoaugment_cifar10",), **given, **options)
    assert np.isfinite(other.means).all()
    assert not np.array_equal(usual.means, other.means)


def test_the_command_from_a_config(tmp_path, capsys):
    names = "identity,cutmix_pick"
    arguments = ["--config", "cifar100_kd:smoke", "--augmentations", names, "--chunks", "5", "--size", "16"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "| cutmix_pick " in out and "T.stddev × 1000" in out
    results = json.loads((tmp_path / "results.json").read_text())
    assert {row["name"] for row in results["augmentations"]} == {*names.split(",")}
    assert results["chunks"] == "5 of 5"
    assert "<svg" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "ranking.svg").exists()


def test_one_argument_beside_a_config_is_data_if_it_is_no_teacher(tmp_path):
    run, images, file = tmp_path / "run", tmp_path / "images", tmp_path / "teacher.pth"
    for folder, inside in ((run, "config.json"), (images, "a.png")):
        folder.mkdir()
        (folder / inside).touch()
    file.touch()
    for name, is_data in (("scattered", True), (images, True), (run, False), (file, False)):
        options = _parse(["--config", "cifar100_kd", str(name)])
        assert (options.teacher, options.data) == (("", str(name)) if is_data else (str(name), ""))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--chunks", "2"], "--chunks is 2: use 5 or more."),
        (["--minutes", "-1"], "--minutes is -1.0: use 0 or more."),
        (["--dir", "x"], "--dir is for DATA of the form tfds:NAME"),
        (["--arch", "resnet50"], "--arch, --form and --window are for a TEACHER that is a file"),
        (["--augmentations", "identity,cutmax"], "did you mean 'cutmix'?"),
        (["--augmentations", "flip,flip"], "--augmentations names flip twice"),
        (["--size", "0"], "--size is 0"),
        (["--out", "/proc/seed_jax"], "--out: /proc/seed_jax cannot be created"),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    assert main(["--config", "cifar100_kd:smoke", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_too_few_images():
    few = Arrays("few", np.zeros((20, 32, 32, 3), np.uint8), None)
    with pytest.raises(UserError, match="too few images, 20: a chunk of T.stddev sees 320 different"):
        next(measure.originals(few, VIEW, 0))


def test_a_config_without_a_teacher(capsys):
    assert main(["--config", "digits_classifier:smoke"]) == 1
    assert "digits_classifier:smoke has no teacher: name TEACHER too." in capsys.readouterr().err


def test_a_run_is_the_teacher_and_says_what_it_saw(tmp_path, capsys):
    raw = tiny.get_config("supervised")
    raw.data.source, raw.data.crop, raw.evals.names = "scattered", "pad", ()
    loop.run(raw, tmp_path / "run")
    arguments = [str(tmp_path / "run"), "--augmentations", "flip,cutmix", "--chunks", "5"]
    assert main([*arguments, "--out", str(tmp_path / "ranked")]) == 0
    results = json.loads((tmp_path / "ranked" / "results.json").read_text())
    assert (results["data"], results["split"], results["crop"]) == ("scattered", "train", "pad")
    out = capsys.readouterr().out
    assert "The data has 2,530 images." in out
    assert "The teacher's first choice is the label of " in out and " of 320 training crops." in out


def test_a_teacher_without_a_classifier(tmp_path, capsys):
    raw = tiny.get_config("moco")
    raw.evals.names = ()
    loop.run(raw, tmp_path / "run")
    arguments = [str(tmp_path / "run"), "--augmentations", "identity,cutmix", "--chunks", "5"]
    assert main([*arguments, "--out", str(tmp_path / "ranked")]) == 0
    assert "The teacher has no classifier." in capsys.readouterr().out
