"""A run with exits: the command's report, a network that leaves early, an exit on its own in a file."""

import contextlib
import dataclasses
import io
import json
import re
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seed_jax
from seed_jax import config, parallel
from seed_jax.data.sources import open_source
from seed_jax.data.sources.arrays import Arrays
from seed_jax.errors import UserError
from seed_jax.evals import final
from seed_jax.evals.base import SharedFeatures
from seed_jax.evals.final import open_run
from seed_jax.evals.top1 import Top1
from seed_jax.exits import adaptive, confidence, cost, sweep
from seed_jax.exits.__main__ import main
from seed_jax.exits.adaptive import sections
from seed_jax.models.exits import classifiers
from seed_jax.models.sections import Section
from seed_jax.train import loop, plan, teacher, workdir
from seed_jax.weights import array_files, pretrained
from seed_jax.weights.__main__ import main as weights_main

SIDE = 16


def settings(method):
    raw = config.default(method)
    raw.data.source, raw.data.batch_size, raw.data.image_size = "digits", 16, SIDE
    raw.data.resize = 1.0  # images of this side are not cut
    raw.data.photometric, raw.data.flip = "digits", 0.0
    raw.student.model = "cifar_resnet8"
    raw.train.steps, raw.train.bn_group = 3, 8
    raw.log.every_steps, raw.log.tensorboard = 1, False
    raw.evals.names, raw.evals.batch_size = (), 64
    return raw


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    loop.run(settings("byot"), folder)
    return folder


@pytest.fixture(scope="module")
def run(folder):
    return workdir.load_run(folder)


@pytest.fixture(scope="module")
def images():
    return np.stack([open_source("digits", "test")[i].image for i in range(37)])[:, ::2, ::2]


@pytest.fixture(scope="module")
def whole(run, images):
    """All features of the images."""
    features, _ = jax.jit(lambda v, x: run.network.apply(v, x, False))(
        run.variables, images / jnp.float32(255)
    )
    return {name: np.asarray(x) for name, x in features.items()}


@pytest.fixture(scope="module")
def printed(folder):
    """What the command prints of the run, whose results are then in the folder."""
    with contextlib.redirect_stdout(io.StringIO()) as text:
        assert main([str(folder), "--thresholds", "1,0.11,0,0.2,0.2"]) == 0
    return text.getvalue()


@pytest.fixture(scope="module")
def results(folder, printed):
    return json.loads((folder / "exits" / "results.json").read_text())


def test_the_command(folder, run, printed, results):
    assert all(f"\n| {name} " in printed for name in ("exit1", "exit2", "deepest", "ensemble"))
    exits = {row["name"]: row for row in results["exits"]}
    parameters = {name: exits[name]["parameters"] for name in exits}
    size = {
        name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in run.variables["params"].items()
    }
    assert parameters["deepest"] == size["backbone"] + size["classifier"]
    assert parameters["ensemble"] == sum(size.values())
    stage1 = {name: run.variables["params"]["backbone"][name] for name in ("conv1", "bn1", "layer1_0")}
    assert parameters["exit1"] == size["exit1"] + sum(x.size for x in jax.tree.leaves(stage1))
    assert exits["exit1"]["flops"] < exits["exit2"]["flops"] < exits["ensemble"]["flops"]
    assert all(
        low <= exits[name]["accuracy"] <= high for name in exits for low, high in [exits[name]["interval"]]
    )
    assert all(row["seconds"] > 0 for row in exits.values())
    assert exits["ensemble"]["separability"] is None and exits["exit1"]["separability"] > 0
    assert [row["threshold"] for row in results["thresholds"]] == [0, 0.11, 0.2, 1]
    first, *_, last = results["thresholds"]
    assert first["accuracy"] == exits["exit1"]["accuracy"] and first["leave"] == [1, 0, 0]
    assert last["accuracy"] == exits["deepest"]["accuracy"] and last["leave"] == [0, 0, 1]
    np.testing.assert_allclose(first["flops"], exits["exit1"]["flops"], rtol=1e-6)
    np.testing.assert_allclose(last["flops"], exits["ensemble"]["flops"], rtol=1e-3)  # it has paid for all
    page = (folder / "exits" / "report.html").read_text()
    assert "<svg" in page and "by confidence" in page
    assert (folder / "exits" / "exits.svg").read_text().startswith("<svg xmlns=")


def test_the_accuracy_is_that_of_the_final_evaluation(folder, results):
    run, c = open_run(folder, best=False, dir="")
    features = SharedFeatures(
        run.network, run.variables, parallel.make_mesh(), c, {"queries": open_source("digits", "test")}
    )
    scores = Top1(features, c.evals).run(run.variables)
    reported = {row["name"]: row["accuracy"] for row in results["exits"]}
    for name, score in (("exit1", "exit1_top1"), ("deepest", "top1"), ("ensemble", "ensemble_top1")):
        assert reported[name] == scores[score].mean()


def test_flops_of_an_exit_by_hand(run):
    """Its convolutions, two operations for a product: 1x1 to 16, 4x4 with stride 4, 1x1 to 64, a Linear."""
    part = Section(run.network, SIDE, ("exit1_logits",), "stage1")
    positions, left = SIDE**2, (SIDE // 4) ** 2
    by_hand = 2 * (positions * 16 * 16 + left * (16 * 16) * 16 + left * 16 * 64 + 64 * 10)
    own = jax.tree.map(jnp.zeros_like, part.keep(run.variables))
    assert set(own["params"]) == {"exit1"}
    start = jax.ShapeDtypeStruct((1, SIDE, SIDE, 16), jnp.float32)
    counted = jax.jit(part).lower(own, start).cost_analysis()["flops"]
    assert by_hand <= counted <= 1.25 * by_hand  # norms, ReLUs and the average on top
    np.testing.assert_allclose(cost.flops(part, run.variables), counted)


def test_flops_are_counted_on_the_cpu(monkeypatch):
    """No accelerator's backend counts a program that is not compiled."""
    where = []

    def product(a):
        where.append(jax.config.jax_default_device)
        return a @ a

    assert plan.flops(product, jnp.ones((4, 4))) == 2 * 4**3
    assert [device.platform for device in where] == ["cpu"]

    def missing(backend):
        raise RuntimeError(f"Unknown backend {backend}")

    monkeypatch.setattr(jax, "local_devices", missing)
    with pytest.raises(UserError, match="FLOPs are counted on the CPU, .* leaves it out: use"):
        plan.flops(product, jnp.ones((4, 4)))


@pytest.mark.parametrize("share", [0.0, 0.4, pytest.param(1.0, marks=pytest.mark.long)])
def test_leaving_early_answers_as_the_sweep_predicts(run, images, whole, share):
    names = classifiers(whole)
    sure = np.sort(confidence(whole[names[0]]))
    middle = int(share * (len(sure) - 2))
    threshold = {0.0: 0.0, 1.0: 1.0}.get(share, (sure[middle] + sure[middle + 1]) / 2)
    (policy,) = sweep([whole[name] for name in names], np.zeros(len(images), int), [1, 2, 3], [threshold])
    answer = adaptive(run.network, run.variables, size=SIDE, threshold=threshold)
    got = answer(images)
    np.testing.assert_array_equal(got.exits, policy.exits)
    want = np.stack([whole[name] for name in names])[policy.exits, np.arange(len(images))]
    np.testing.assert_allclose(got.logits, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(answer(images[:1]).exits, policy.exits[:1])
    as_float = answer(images / np.float32(255))
    np.testing.assert_array_equal(as_float.exits, got.exits)
    assert (len(set(got.exits)) > 1) == (share == 0.4)
    nobody = answer(images[:0])
    assert nobody.logits.shape == (0, 10) and nobody.exits.shape == (0,)


def test_the_documented_lines_run(folder, images, tmp_path, capsys):
    page = Path(__file__, "../../../docs/weights.md").resolve().read_text()
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "adaptive(" in block)
    names = {"images": images[:3]}
    seed_jax.export(folder, tmp_path / "all.safetensors", at_exit="all")
    exec(code.replace("all.safetensors", str(tmp_path / "all.safetensors")), names)
    assert re.fullmatch(r"\[\d \d \d\]\n", capsys.readouterr().out)


def test_each_section_starts_where_the_last_one_ended(run, whole):
    parts = sections(run.network, whole, SIDE)
    assert [part.start for part in parts] == ["", "stage1", "stage2"]
    assert [part.ends[0] for part in parts] == ["exit1_logits", "exit2_logits", "logits"]


@pytest.mark.parametrize("number", [1, 2])
def test_an_exit_on_its_own(folder, run, images, whole, tmp_path, capsys, number):
    file = tmp_path / "exit.safetensors"
    assert weights_main(["export", str(folder), str(file), "--exit", str(number)]) == 0
    assert f"exit {number} of cifar_resnet8" in capsys.readouterr().out
    loaded = seed_jax.load(file)
    features = loaded(images)
    np.testing.assert_allclose(features["logits"], whole[f"exit{number}_logits"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(features["pooled"], whole[f"exit{number}_pooled"], rtol=1e-6, atol=1e-6)
    left = {name: set(tree) for name, tree in loaded.variables["params"].items()}
    assert set(left) == {"backbone", f"exit{number}"}
    assert left["backbone"] == {"conv1", "bn1"} | {f"layer{stage}_0" for stage in range(1, number + 1)}
    count = sum(x.size for x in jax.tree.leaves(loaded.variables["params"]))
    assert count < sum(x.size for x in jax.tree.leaves(run.variables["params"]))
    assert weights_main(["inspect", str(file)]) == 0
    assert f"{count:,}" in capsys.readouterr().out


def test_all_exits_in_one_file(folder, run, images, whole, tmp_path, capsys):
    file = tmp_path / "all.safetensors"
    assert weights_main(["export", str(folder), str(file), "--exit", "all"]) == 0
    assert "all exits of cifar_resnet8" in capsys.readouterr().out
    tensors = array_files.read_safetensors(file)
    deepest = seed_jax.export(folder, tmp_path / "deepest.safetensors")
    for name, tensor in array_files.read_safetensors(deepest.path).items():
        np.testing.assert_array_equal(tensors.pop(name), tensor)
    assert {name.partition(".")[0] for name in tensors} == {"exit1", "exit2"}
    loaded = seed_jax.load(file)
    chex.assert_trees_all_equal(loaded.variables, jax.device_get(run.variables))
    features = loaded(images)
    for name in (*classifiers(whole), "ensemble_logits", "pooled"):
        np.testing.assert_allclose(features[name], whole[name], rtol=1e-6, atol=1e-6)
    assert weights_main(["inspect", str(file)]) == 0
    assert "exit1, exit2 of " in capsys.readouterr().out
    pretrained.load_named(file, where="student.init", model="cifar_resnet8")


@pytest.mark.long
def test_the_journals_exits_of_a_run_in_bf16(images, tmp_path):
    """The file has float32 parameters, and computes in float32 what the run's network computes in it."""
    raw = settings("byot")
    raw.method.form, raw.train.precision, raw.train.steps = "journal", "bf16", 1
    loop.run(raw, tmp_path / "run")
    file = tmp_path / "all.safetensors"
    seed_jax.export(tmp_path / "run", file, at_exit="all")
    loaded, run = seed_jax.load(file), workdir.load_run(tmp_path / "run", precision="fp32")
    chex.assert_trees_all_equal(loaded.variables, jax.device_get(run.variables))
    want, _ = run.network.apply(run.variables, images[:5] / jnp.float32(255), False)
    features = loaded(images[:5])
    for name in (*classifiers(want), "ensemble_logits"):
        np.testing.assert_allclose(features[name], want[name], rtol=1e-5, atol=1e-6)


def test_the_file_has_pytorchs_names_and_layouts(folder, run, tmp_path):
    file = tmp_path / "exit.safetensors"
    exported = seed_jax.export(folder, file, at_exit=1)
    assert (exported.names, exported.left_out) == ("crd", ())
    tensors = array_files.read_safetensors(file)
    kernel = run.variables["params"]["exit1"]["conv2"]["kernel"]
    np.testing.assert_array_equal(tensors["exit1.conv2.weight"], np.asarray(kernel).transpose(3, 2, 0, 1))
    assert tensors["layer1.0.conv1.weight"].shape == (16, 16, 3, 3)
    assert "exit1.bn1.running_var" in tensors and not any(name.startswith("layer2") for name in tensors)


def test_the_deepest_is_exported_without_exits(folder, tmp_path):
    exported = seed_jax.export(folder, tmp_path / "deepest.safetensors")
    assert all(name.startswith("exit") for name in exported.left_out)
    loaded = seed_jax.load(tmp_path / "deepest.safetensors", model="cifar_resnet8")
    assert set(loaded.variables["params"]) == {"backbone"}


def test_mistakes_are_one_sentence(folder, tmp_path, capsys):
    out = str(tmp_path / "x.safetensors")
    assert weights_main(["export", str(folder), out, "--exit", "3"]) == 1
    assert "--exit is 3, and the network has the exits 1, 2: use one" in capsys.readouterr().err
    assert weights_main(["export", str(folder), out, "--exit", "1", "--names", "timm"]) == 1
    assert "exits cannot be written under names 'timm': choose from crd" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        weights_main(["export", str(folder), out, "--exit", "last"])
    assert "--exit: 'last' is no exit: use a number or 'all'" in capsys.readouterr().err
    assert main([str(folder), "--thresholds", "0.5,2"]) == 1
    assert "--thresholds has 2: use values from 0 to 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(folder), "--thresholds", "0.5,a"])
    assert "--thresholds: '0.5,a' is no list of numbers: write one as 0.5,0.9" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main([str(folder), "--out", str(tmp_path / "file" / "exits")]) == 1
    said = capsys.readouterr()
    assert "--out: " in said.err and "cannot be created" in said.err and "Measuring" not in said.out
    seed_jax.export(folder, out, at_exit=1)
    with pytest.raises(UserError, match="at_exit is 1, and .* is a file: use the workdir of a run"):
        seed_jax.export(out, tmp_path / "y.safetensors", at_exit=1)


def test_what_an_exit_on_its_own_can_do(folder, images, whole, tmp_path):
    """It gives features of images; it is no teacher."""
    file = tmp_path / "exit.safetensors"
    seed_jax.export(folder, file, at_exit=2)
    found = seed_jax.embed(file, images)
    np.testing.assert_allclose(found["pooled"], whole["exit2_pooled"], rtol=1e-5, atol=1e-6)
    loaded = seed_jax.load(file)
    with pytest.raises(UserError, match="exit.safetensors has one exit of a network, which cannot teach"):
        teacher.prepare(teacher.Loaded(loaded.network, loaded.variables, loaded.provenance), SIDE)


def test_one_exit_is_no_start_and_has_one_architecture(folder, tmp_path):
    file = tmp_path / "exit.safetensors"
    seed_jax.export(folder, file, at_exit=1)
    with pytest.raises(UserError, match="student.init: .* is one exit, without the stages after it"):
        pretrained.load_named(file, where="student.init", model="cifar_resnet8")
    with pytest.raises(UserError, match="has exits of cifar_resnet8, not of resnet18: leave --arch empty"):
        pretrained.load_named(file, flags=("--arch", "--form"), model="resnet18")
    assert pretrained.load_named(file, model="cifar_resnet8").network.parts.keys() == {"exit1"}


def test_a_damaged_file_is_named(folder, tmp_path):
    file = tmp_path / "exit.safetensors"
    seed_jax.export(folder, file, at_exit=1)
    tensors, metadata = dict(array_files.read_safetensors(file)), array_files.safetensors_metadata(file)
    tensors = {name: np.array(x) for name, x in tensors.items() if name != "exit1.fc.bias"}
    array_files.write_safetensors(file, tensors, metadata)
    with pytest.raises(UserError, match="has no exit1/fc/bias of shape .*: export it again"):
        seed_jax.load(file)
    array_files.write_safetensors(file, tensors, {**metadata, "exit": "{}"})
    with pytest.raises(UserError, match="has damaged metadata .*: export it again"):
        seed_jax.load(file)


def labelled_as(labels):
    """The source of the digits, whose images have these labels in turn."""
    images = np.stack([open_source("digits", "test")[i].image for i in range(12)])
    return Arrays("digits", images, np.resize(labels, 12), class_names=[str(i) for i in range(10)])


@pytest.mark.parametrize(
    ("labels", "count", "known"),
    [pytest.param([3], 12, False, marks=pytest.mark.long), ([1, 2, -1], 8, True)],
)
def test_one_class_and_images_without_a_label(folder, tmp_path, monkeypatch, labels, count, known):
    monkeypatch.setattr(final, "open_scored", lambda config, split: labelled_as(labels))
    monkeypatch.setattr(cost, "costs", lambda sections, variables: [cost.Cost(1, 1.0, 1.0)] * len(sections))
    assert main([str(folder), "--out", str(tmp_path), "--thresholds", "0.5"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["images"] == count
    assert (results["exits"][0]["separability"] is not None) == known


def test_data_that_cannot_be_scored_is_named(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(final, "open_scored", lambda config, split: labelled_as([-1]))
    assert main([str(folder), "--out", str(tmp_path), "--split", "val"]) == 1
    assert "No image of --split val has a label: use the other split" in capsys.readouterr().err


def test_a_run_on_all_images_has_none_to_measure_on(run):
    c = dataclasses.replace(run.config, data=dataclasses.replace(run.config.data, train="all"))
    with pytest.raises(UserError, match="The run trained on 352 of the 352 images of data.test"):
        final.open_scored(c, "test")


def test_a_run_without_exits_is_named(tmp_path, capsys):
    loop.run(settings("supervised"), tmp_path)
    assert main([str(tmp_path)]) == 1
    assert "has no exits, as a run of supervised: use a run of byot" in capsys.readouterr().err
    assert weights_main(["export", str(tmp_path), str(tmp_path / "x.safetensors"), "--exit", "1"]) == 1
    assert "--exit is 1, and the network has no exits: use a run of byot" in capsys.readouterr().err
