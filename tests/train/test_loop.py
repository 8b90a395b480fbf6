"""Whole runs of a tiny network: resume, faults, the workdir."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from experiments.reliability.processes import checkpoint, rows
from seed_jax import config, models, report
from seed_jax.data import rng
from seed_jax.data.pipeline import train_batches
from seed_jax.data.sources import Subset, open_source
from seed_jax.errors import UserError
from seed_jax.report import metrics
from seed_jax.train import loop, monitor, optim, workdir
from seed_jax.train.checkpoint import Checkpoints

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def tiny_model(monkeypatch):
    monkeypatch.setitem(models.MODELS, "tiny", tiny.Tiny)


def run(directory, variant="seed", **overrides):
    raw = tiny.get_config(variant)
    raw.update_from_flattened_dict({key.replace("__", "."): value for key, value in overrides.items()})
    return loop.run(raw, directory)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """An uninterrupted run of the config as it is."""
    directory = tmp_path_factory.mktemp("ended") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "tiny", tiny.Tiny)
        run(directory)
    return directory


@pytest.fixture(scope="module")
def moco(tmp_path_factory):
    """A run without a teacher."""
    directory = tmp_path_factory.mktemp("moco") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "tiny", tiny.Tiny)
        run(directory, "moco", method__dim=12)
    return directory


@pytest.fixture
def copied(ended, tmp_path):
    """A copy of `ended` that a test may change."""
    return shutil.copytree(ended, tmp_path / "copied")


def steps_kept(directory):
    return sorted(int(path.name) for path in (directory / "checkpoints").iterdir())


@pytest.fixture
def crash(monkeypatch):
    """`crash(step)`: from now on a run ends with a RuntimeError after that step."""

    def at(step):
        noted = monitor.Monitor.step

        def note(self, number, *args, **options):
            noted(self, number, *args, **options)
            if number == step:
                raise RuntimeError("power cut")

        monkeypatch.setattr(monitor.Monitor, "step", note)

    return at


@pytest.mark.parametrize(
    ("variant", "method"),
    [
        ("seed", {}),
        pytest.param("seed", {"method__patches": 3, "method__patch_size": 12}, marks=pytest.mark.long),
        ("moco", {}),
        ("dino", {}),
        pytest.param("simclr", {}, marks=pytest.mark.long),
        ("swav", {}),
        pytest.param("mocov3", {}, marks=pytest.mark.long),
        pytest.param("simsiam", {}, marks=pytest.mark.long),
        pytest.param("simreg", {}, marks=pytest.mark.long),
        pytest.param("compress", {}, marks=pytest.mark.long),
        pytest.param("seed_moco", {}, marks=pytest.mark.long),
        pytest.param("disco", {}, marks=pytest.mark.long),
        pytest.param("online_clustering", {}, marks=pytest.mark.long),
    ],
)
def test_resumed_run_equals_an_uninterrupted_one_bitwise(
    tmp_path, crash, monkeypatch, capsys, variant, method
):
    """Parameters, statistics, optimizer, queues, average and every logged number."""
    run(tmp_path / "whole", variant, **method)
    with monkeypatch.context(), pytest.raises(RuntimeError, match="power cut"):
        crash(5)
        run(tmp_path / "cut", variant, **method)
    monkeypatch.undo()
    monkeypatch.setitem(models.MODELS, "tiny", tiny.Tiny)
    assert steps_kept(tmp_path / "cut") == [3]
    assert rows(tmp_path / "cut")[-1]["step"] > 3  # lines that the resumed run must replace
    run(tmp_path / "cut", variant, **method)
    assert "resuming from step 3 of 6" in capsys.readouterr().out
    chex.assert_trees_all_equal(checkpoint(tmp_path / "cut", 6), checkpoint(tmp_path / "whole", 6))
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert [row["step"] for row in rows(tmp_path / "whole")] == [1, 2, 3, 4, 5, 6]


def test_killed_process_resumes_bitwise(tmp_path, capsys):
    """`main.py` gets SIGKILL at no chosen moment after its first checkpoint."""
    length = {"train__steps": 60, "train__checkpoint_epochs": 10 / 78}
    overrides = [f"--config.{key.replace('__', '.')}={value}" for key, value in length.items()]
    command = [sys.executable, "main.py", "--config=tests/tiny.py:seed", f"--workdir={tmp_path / 'cut'}"]
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command + overrides,
            cwd=ROOT,
            env={**os.environ, "JAX_NUM_CPU_DEVICES": "8"},
            stdout=output,
            stderr=output,
        )
        first = tmp_path / "cut" / "checkpoints" / "10"
        while process.poll() is None and not first.exists():
            time.sleep(0.01)
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL, log.read_text()
    run(tmp_path / "cut", **length)
    assert re.search(r"resuming from step [1-5]0 of 60", capsys.readouterr().out)
    run(tmp_path / "whole", **length)
    chex.assert_trees_all_equal(checkpoint(tmp_path / "cut", 60), checkpoint(tmp_path / "whole", 60))
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_step_compiles_once_in_a_run_with_probes_and_checkpoints(tmp_path, caplog):
    with jax.log_compiles(), caplog.at_level("WARNING", logger="jax"):
        score = run(
            tmp_path,
            evals__names=("knn",),
            evals__every_epochs=2 / 78,
            evals__bank_size=32,
            evals__batch_size=64,
        )
    compiled = [message for message in caplog.messages if message.startswith("Compiling jit(step)")]
    assert len(compiled) == 1
    by_step = {row["step"]: row for row in rows(tmp_path) if "knn" in row}
    assert list(by_step) == [0, 2, 3, 4, 6]  # every checkpoint has a probe too
    assert {"teacher_knn", "pixels_knn"} <= by_step[0].keys()
    assert by_step[2].keys() == {"step", "knn"}
    assert score == by_step[6]["knn"]
    assert all(0 <= row["knn"] <= 1 for row in by_step.values())
    assert steps_kept(tmp_path) == [3, 6]


def only(row, name):
    """The scores of that name, of all networks."""
    return {
        key: value
        for key, value in row.items()
        if key.removeprefix("teacher_").removeprefix("pixels_") == name
    }


def test_each_probe_is_a_line_on_the_terminal_and_the_answer_comes_last(tmp_path, crash, monkeypatch, capsys):
    probe = {"evals__names": ("knn",), "evals__bank_size": 32, "evals__batch_size": 64}
    crash(5)
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path, **probe)
    page = (tmp_path / "report.html").read_text()
    assert "raw pixels" in page and report.milestones(tmp_path)[3] in page
    monkeypatch.undo()
    monkeypatch.setitem(models.MODELS, "tiny", tiny.Tiny)
    run(tmp_path, **probe)
    found = {row["step"]: row for row in rows(tmp_path)}
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("train: ")]
    images = len(open_source("digits", "val"))
    lines = [line for line in said if ": kNN: student" in line]
    assert lines == [
        f"train: step {step}: {report.probe_line(only(found[step], 'knn'), found[0] if step else {}, images)}"
        for step in (0, 3, 6)
    ]
    assert all(f" {100 * found[0][name]:.1f} %" in lines[-1] for name in ("knn", "pixels_knn", "teacher_knn"))
    milestones = [line for line in said if line.startswith("train: At ")]
    assert milestones == [f"train: {said}" for said in report.milestones(tmp_path).values()]
    assert milestones[0].startswith("train: At 50 % of the run")
    assert said[-2:] == [
        f"train: {report.answer(tmp_path)[0]}",
        f"train: done, {tmp_path / 'report.html'}",
    ]


def test_a_resumed_run_without_labels_equals_an_uninterrupted_one_bitwise(
    tmp_path, crash, monkeypatch, capsys
):
    """The teacher's features are computed again, and no milestone is repeated."""
    images = np.stack([record.image for record in (open_source("digits", "val")[i] for i in range(96))])
    np.savez(tmp_path / "x.npz", image=images)
    settings = {"data__source": "npz", "data__dir": str(tmp_path / "x.npz"), "data__train": "all"}
    settings |= {"evals__batch_size": 64, "evals__every_epochs": 1 / 6, "train__checkpoint_epochs": 0.5}
    run(tmp_path / "whole", **settings)
    assert capsys.readouterr().out.count("train: At ") == 2
    with monkeypatch.context(), pytest.raises(RuntimeError, match="power cut"):
        crash(5)
        run(tmp_path / "cut", **settings)
    monkeypatch.undo()
    monkeypatch.setitem(models.MODELS, "tiny", tiny.Tiny)
    assert capsys.readouterr().out.count("train: At ") == 2
    score = run(tmp_path / "cut", **settings)
    assert "train: At " not in capsys.readouterr().out
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert score == rows(tmp_path / "whole")[-1]["neighbours"]
    assert [row["step"] for row in rows(tmp_path / "whole") if "alignment" in row] == [*range(7)]


def test_finished_run_run_again_changes_nothing(tmp_path):
    probe = {"evals__names": ("knn",), "evals__bank_size": 32, "evals__batch_size": 64}
    score = run(tmp_path, **probe)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*")}
    lines = (tmp_path / "metrics.jsonl").read_text()
    manifest = (tmp_path / "manifest.json").read_text()
    assert run(tmp_path, **probe) == score == rows(tmp_path)[-1]["knn"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*")} == before
    assert (tmp_path / "metrics.jsonl").read_text() == lines
    assert (tmp_path / "manifest.json").read_text() == manifest


def diverge(monkeypatch, update):
    """The learning rate of one update (1 for the first) is absurd."""
    sane = optim.schedule

    def schedule(*args, **settings):
        rate = sane(*args, **settings)
        return lambda step: jnp.where(step == update - 1, 3e38, rate(step))

    monkeypatch.setattr(optim, "schedule", schedule)


def test_divergence_names_the_step_its_samples_and_the_last_good_checkpoint(tmp_path, monkeypatch):
    diverge(monkeypatch, update=5)
    with pytest.raises(UserError) as caught:
        run(tmp_path)
    message = str(caught.value)
    views = config.resolve(tiny.get_config("seed")).method.views(config.resolve(tiny.get_config("seed")).data)
    batch = next(train_batches(open_source("digits", "train"), views, 16, 0, 4))
    ids = ", ".join(str(low) for low, _ in batch["id"][:8].tolist())
    assert "not finite at step 5" in message
    assert f"(sample ids {ids}, …)" in message
    assert f"the checkpoint of step 3 is kept in {tmp_path}" in message
    assert "\n" not in message
    assert steps_kept(tmp_path) == [3]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(checkpoint(tmp_path, 3)))
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4]


def test_run_that_diverges_at_once_can_be_started_again_in_its_workdir(tmp_path):
    with pytest.raises(UserError, match="not finite at step 1 .*; there is no checkpoint yet") as caught:
        run(tmp_path, optim__lr=3e38)
    assert str(caught.value).endswith(": lower optim.lr or set optim.clip_norm.")
    run(tmp_path)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert json.loads((tmp_path / "config.json").read_text())["optim"]["lr"] == 0.1


def test_workdir_of_another_config_names_the_keys_that_differ(copied):
    with pytest.raises(UserError) as caught:
        run(copied, optim__lr=0.2, method__tau_student=0.3)
    message = str(caught.value)
    assert "method.tau_student is 0.2 there and 0.3 here" in message
    assert "optim.lr is 0.1 there and 0.2 here" in message
    assert "\n" not in message
    run(copied, log__every_steps=7)  # how a run is watched is not what it is


def test_a_run_goes_on_when_a_key_was_added_since(copied):
    path = copied / "config.json"
    written = json.loads(path.read_text())
    del written["student"]["image_size"]
    path.write_text(json.dumps(written))
    run(copied)
    with pytest.raises(UserError, match="student.image_size is 0 there and 8 here"):
        run(copied, student__image_size=8)


def test_teacher_and_student_of_other_sizes_than_the_views(tmp_path):
    run(tmp_path, teacher__image_size=24, student__image_size=12)
    assert all(np.isfinite(row["loss"]) for row in rows(tmp_path))


def test_mistakes_are_found_before_the_workdir_is_touched(tmp_path):
    for overrides, words in {
        ("method__queue_size", 72): "method.queue_size is 72.*--config.method.queue_size=64",
        ("student__model", "tinny"): "Unknown model 'tinny'",
        ("train__bn_group", 5): "train.bn_group is 5, which does not divide",
        ("data__batch_size", 4096): "4096",
        ("data__source", "digit"): "data.source.*digits",
        ("teacher__weights", ""): "teacher.weights is empty.*--config.teacher.weights=PATH",
        ("teacher__weights", "nowhere.pth"): "there is no file or workdir 'nowhere.pth'",
    }.items():
        key, value = overrides
        with pytest.raises(UserError, match=words):
            run(tmp_path / "run", **{key: value})
        assert not (tmp_path / "run").exists(), key


def test_batch_that_the_devices_do_not_divide(tmp_path):
    with pytest.raises(UserError, match="data.batch_size is 20 and must be a multiple of .*8 devices"):
        run(tmp_path / "run", data__batch_size=20, train__bn_group=4)


def test_a_run_does_not_go_on_with_other_data_or_another_teacher(copied, monkeypatch):
    monkeypatch.setattr(Subset, "fingerprint", lambda self: "another")
    with pytest.raises(
        UserError, match="its data, teacher or student.init changed: data.fingerprint was .* and is another"
    ):
        run(copied)


def test_a_run_goes_on_where_its_data_and_its_teacher_lie_elsewhere(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), np.uint8)
    digests = {"teacher": {"source": "a/t.pth", "file": "t.pth", "sha256": "12", "licence": "MIT"}}
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        np.savez(tmp_path / place / "x.npz", image=pixels)
    elsewhere = {"data__source": "npz", "data__dir": str(tmp_path / "there" / "x.npz")}
    run(tmp_path / "run", "moco", data__source="npz", data__dir=str(tmp_path / "here" / "x.npz"))
    run(tmp_path / "run", "moco", **elsewhere)
    np.savez(tmp_path / "there" / "x.npz", image=255 - pixels)
    with pytest.raises(UserError, match="changed: data.fingerprint was"):
        run(tmp_path / "run", "moco", **elsewhere)

    directory = tmp_path / "taught"
    (directory / "checkpoints" / "3").mkdir(parents=True)
    raw = tiny.get_config("seed")
    workdir._write(directory / "config.json", workdir._plain(raw))
    workdir._write(directory / "manifest.json", digests)
    raw.teacher.weights, raw.data.workers, raw.train.shard_params = "b/renamed.pth", 2, True
    workdir.claim(directory, raw)
    moved = digests["teacher"] | {"source": "b/renamed.pth", "file": "renamed.pth"}
    workdir.write_manifest(directory, teacher=moved)
    for other in (moved | {"sha256": "34"}, {"source": "random weights"}):
        with pytest.raises(UserError, match="its data, teacher or student.init changed: teacher"):
            workdir.write_manifest(directory, teacher=other)
    workdir._write(directory / "manifest.json", {"teacher": {"source": "a/run", "step": 3}})
    with pytest.raises(UserError, match="teacher.weights is random there and b/renamed.pth here"):
        workdir.claim(directory, raw)


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["ViT"]}')
    with pytest.raises(UserError, match="not of a run"):
        run(tmp_path)
    assert (tmp_path / "config.json").read_text() == '{"architectures": ["ViT"]}'


def test_all_problems_of_data_and_teacher_are_told_at_once(tmp_path):
    with pytest.raises(UserError) as caught:
        run(tmp_path, data__source="digit", teacher__weights="nowhere.pth")
    first, second = str(caught.value).splitlines()
    assert "data.source" in first
    assert "nowhere.pth" in second


def test_a_run_is_the_teacher_of_another(moco, tmp_path):
    """What `load_run` gives is the last checkpoint; SEED takes it and says so in its manifest."""
    loaded = workdir.load_run(moco)
    network, variables, manifest = loaded.network, loaded.variables, loaded.manifest
    assert loaded.step == 6
    saved = checkpoint(moco, 6)["model"]
    chex.assert_trees_all_equal(jax.device_get(variables["params"]), saved["params"])
    chex.assert_trees_all_equal(jax.device_get(variables["batch_stats"]), saved["model_state"]["batch_stats"])
    image = jax.random.uniform(rng.stream(0, "image"), (2, 16, 16, 3))
    assert network.apply(variables, image, False)[0]["embedding"].shape == (2, 12)
    assert manifest["data"]["source"] == "digits"

    run(tmp_path / "student", teacher__weights=str(moco))
    written = json.loads((tmp_path / "student" / "manifest.json").read_text())
    assert written["teacher"]["source"] == str(moco)
    assert written["teacher_features"]["embedding"] == {"shape": [16, 12], "dtype": "float32"}
    assert written["data"]["images"] == len(open_source("digits", "train"))
    assert written["steps"] == 6


def test_a_run_is_the_start_of_another(moco, tmp_path):
    """A linear probe keeps the backbone of the run that it starts from."""
    run(tmp_path / "probe", "supervised", student__init=str(moco), method__freeze="backbone")
    first, probe = checkpoint(moco, 6)["model"], checkpoint(tmp_path / "probe", 6)["model"]
    chex.assert_trees_all_equal(probe["params"]["backbone"], first["params"]["backbone"])
    chex.assert_trees_all_equal(
        probe["model_state"]["batch_stats"]["backbone"], first["model_state"]["batch_stats"]["backbone"]
    )
    manifest = json.loads((tmp_path / "probe" / "manifest.json").read_text())
    assert (manifest["init"]["source"], manifest["init"]["step"]) == (str(moco), 6)
    with pytest.raises(UserError, match=r"student.init changed: init.step was 6 and is 7"):
        workdir.write_manifest(tmp_path / "probe", init=manifest["init"] | {"step": 7})
    older = {key: value for key, value in manifest.items() if key != "init"}
    (tmp_path / "probe" / "manifest.json").write_text(json.dumps(older))
    workdir.write_manifest(tmp_path / "probe", init=manifest["init"])
    assert workdir.load_run(tmp_path / "probe").step == 6


def test_lost_lines_of_metrics_are_told(copied, capsys):
    whole = (copied / metrics.FILE).read_text()
    for kept, told in ((whole, False), (whole.splitlines(keepends=True)[0], True), ("", True)):
        (copied / metrics.FILE).write_text(kept)
        shutil.rmtree(copied / "checkpoints" / "6")
        run(copied)
        lost = f"metrics.jsonl ends at step {1 if kept else 0}: its lines up to step 3 are lost"
        assert (lost in capsys.readouterr().out) == told


def test_metrics_are_on_the_disk_before_a_checkpoint_counts_on_them(tmp_path, monkeypatch):
    """Else a machine that stops could lose lines that no resumed run would write again."""
    synced, behind = {}, []
    fsync, save = os.fsync, Checkpoints.save

    def note(file):
        fsync(file)
        synced[os.fstat(file).st_ino] = os.fstat(file).st_size

    def look(self, *args, **options):
        found = (tmp_path / metrics.FILE).stat()
        behind.append(found.st_size - synced.get(found.st_ino, 0))
        save(self, *args, **options)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(Checkpoints, "save", look)
    run(tmp_path)
    assert behind == [0] * len(behind) and len(behind) > 1


@pytest.mark.parametrize(
    ("path", "words"),
    [("", "is not the workdir of a run"), ("started", "holds no (finished )?checkpoint")],
)
def test_folders_that_are_no_finished_run(tmp_path, path, words):
    (tmp_path / "started").mkdir()
    raw = tiny.get_config("seed")
    workdir.claim(tmp_path / "started", raw)
    workdir.write_manifest(
        tmp_path / "started", data={"num_classes": 10}, steps=6, steps_per_epoch=78, teacher_dim=8
    )
    with pytest.raises(UserError, match=words):
        workdir.load_run(tmp_path / path)


def test_runs_of_older_versions_are_read(copied):
    """They had `evals.knn` in the config, and only the embedding's width in the manifest."""
    raw, manifest = (json.loads((copied / f"{name}.json").read_text()) for name in ("config", "manifest"))
    assert raw["evals"].pop("names") == ["top1"]
    raw["evals"]["knn"] = False
    assert manifest.pop("teacher_features")["embedding"]["shape"] == [16, 8]
    manifest["teacher_dim"] = 8
    before = workdir.load_run(copied)
    (copied / "config.json").write_text(json.dumps(raw))
    (copied / "manifest.json").write_text(json.dumps(manifest))
    chex.assert_trees_all_equal(workdir.load_run(copied).variables, before.variables)
    run(copied)
