"""The command line: every mistake is one sentence on stderr, exit code 1, no traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from absl import flags
from absl.testing import flagsaver

from seed_jax import models, parallel
from seed_jax.report import metrics
from seed_jax.train import __main__ as main
from seed_jax.train import optim

ROOT = Path(__file__).parent.parent
TINY = "--config=tests/tiny.py:seed"
STOPPED = "Stopped, with nothing to save: the same command starts or resumes the run."

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections


@pytest.fixture
def start(monkeypatch, capsys):
    """`start(*arguments) -> (exit code, stderr)` of main.py, in this process."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", sys.argv)  # the command sets it
    monkeypatch.setitem(models.MODELS, "tiny", tiny.Tiny)
    monkeypatch.setattr(parallel, "start", lambda: None)

    def call(*arguments):
        with flagsaver.flagsaver():
            code = main.main([*map(str, arguments)])
        return code, capsys.readouterr().err

    return call


def one_sentence(result):
    code, message = result
    assert code == 1
    assert len(message.splitlines()) == 1, message
    return message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("--config.optim.lrr=1", ["'optim.lrr'", "did you mean 'optim.lr'?"]),
        ("--config.optm.lr=1", ["'optm.lr'", "did you mean 'optim.lr'?"]),
        ("--config.method.tau=1", ["'method.tau'"]),
        ("--config.method.temperature=1", ["'method.temperature'", "did you mean 'method."]),
        ("--config.optim.lr=fast", ["--config.optim.lr=fast", "could not convert"]),
        ("--config.optim.name=sdg", ["optim.name 'sdg'", "did you mean 'sgd'?"]),
        ("--config.train.epochs=3", ["Exactly one of train.epochs, train.steps and train.examples"]),
        ("--config.method.queue_size=100", ["method.queue_size is 100", "--config.method.queue_size=96"]),
        ("--config.data.photometric=mocov3", ["data.photometric", "mocov2"]),
        ("--config.student.model=resnet19", ["resnet19", "resnet18"]),
        ("--config.teacher.options.foo=1", ["teacher.options has no 'foo'", "--config.teacher.options=…"]),
        ("--config.unheardof=1", ["Unknown config key 'unheardof'", "docs/config.md"]),
        ("--config.teacher.options=kd", ["teacher.options=kd", "write a dictionary, as in '{"]),
        ("--config.optim.lr.foo=1", ["optim.lr has no 'foo'", "--config.optim.lr=…"]),
        ("--config.teacher.weights=", ["teacher.weights", "--config.teacher.weights=PATH"]),
        ("--config.teacher.weights=nowhere.pth", ["teacher.weights", "nowhere.pth"]),
        ("--lr=1", ["'lr'"]),
        ("lr=1", ["'lr=1'", "--config.section.key=value"]),
    ],
)
def test_mistakes_in_an_override(start, tmp_path, override, words):
    message = one_sentence(start(TINY, f"--workdir={tmp_path / 'run'}", override))
    assert all(word in message for word in words), message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("configs/nowhere.py", ["--config", "configs/nowhere.py"]),
        ("configs/digits_seed.py:large", ["variant 'large'", "'smoke'"]),
        ("LICENSE", ["--config", "of LICENSE is not valid Python"]),
    ],
)
def test_mistakes_in_the_config_file(start, tmp_path, config, words):
    message = one_sentence(start(f"--config={config}", f"--workdir={tmp_path / 'run'}"))
    assert all(word in message for word in words), message


@pytest.mark.parametrize("flag", ["--config={}", "--config {}", "-config={}"])
@pytest.mark.parametrize("name", ["seed_folder", "seed_folder.py", "configs/seed_folder.py:smoke"])
def test_a_packaged_config_is_found_from_any_folder(start, tmp_path, monkeypatch, flag, name):
    monkeypatch.chdir(tmp_path)
    message = one_sentence(start(*flag.format(name).split(), "--workdir=run", "--config.optim.name=sdg"))
    assert "did you mean 'sgd'?" in message


def test_a_file_goes_before_the_packaged_config_of_its_name(start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seed_folder.py").write_text("def get_config():\n    1 +\n")
    message = one_sentence(start("--config=seed_folder.py", "--workdir=run"))
    assert "line 2 of seed_folder.py is not valid Python" in message
    assert "did you mean 'seed_folder'?" in one_sentence(start("--config=seed_foldr", "--workdir=run"))


def test_help_names_the_page_of_keys_and_the_configs(capsys):
    assert main.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert "docs/config.md" in printed and "seed_folder" in printed and "--workdir" in printed


@pytest.mark.parametrize("body", ["config.defalt('seed')", "{}['seed']"])
def test_a_fault_of_a_config_file_itself_keeps_its_traceback(start, tmp_path, body):
    (tmp_path / "own.py").write_text(f"from seed_jax import config\n\ndef get_config():\n    return {body}\n")
    with pytest.raises((AttributeError, KeyError), match="defalt|seed"):
        start(f"--config={tmp_path / 'own.py'}", f"--workdir={tmp_path / 'run'}")


def test_teacher_file_that_is_no_checkpoint(start, tmp_path):
    path = tmp_path / "teacher.pth"
    path.write_text("<html>404 Not Found</html>")
    message = one_sentence(start(TINY, f"--workdir={tmp_path / 'run'}", f"--config.teacher.weights={path}"))
    assert str(path) in message


def test_teacher_of_another_architecture(start, tmp_path):
    """A ResNet-18's tensors where the config says resnet50: names the override that fits."""
    torch = pytest.importorskip("torch")
    tensors = {"conv1.weight": torch.zeros(64, 3, 7, 7)}
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        for block in (0, 1):
            inputs = width // 2 if block == 0 and stage > 1 else width
            place = f"layer{stage}.{block}"
            tensors[f"{place}.conv1.weight"] = torch.zeros(width, inputs, 3, 3)
            tensors[f"{place}.conv2.weight"] = torch.zeros(width, width, 3, 3)
            if width != inputs:
                tensors[f"{place}.downsample.0.weight"] = torch.zeros(width, inputs, 1, 1)
    tensors |= {"fc.0.weight": torch.zeros(512, 512), "fc.2.weight": torch.zeros(128, 512)}
    path = tmp_path / "teacher.pth.tar"
    torch.save({"state_dict": {f"module.encoder_q.{k}": v for k, v in tensors.items()}}, path)
    arguments = [f"--config.teacher.weights={path}", "--config.teacher.model=resnet50"]
    message = one_sentence(start(TINY, f"--workdir={tmp_path / 'run'}", *arguments))
    assert "teacher.weights: " in message and "not resnet50" in message
    assert "--config.teacher.model=resnet18" in message


def test_folder_without_images(start, tmp_path):
    (tmp_path / "images" / "cats").mkdir(parents=True)
    arguments = ["--config.data.source=folder", f"--config.data.dir={tmp_path / 'images'}"]
    message = one_sentence(start(TINY, f"--workdir={tmp_path / 'run'}", *arguments))
    assert str(tmp_path / "images") in message


def test_workdir_that_is_a_file(start, tmp_path):
    (tmp_path / "run").write_text("")
    message = one_sentence(start(TINY, f"--workdir={tmp_path / 'run'}"))
    assert str(tmp_path / "run") in message


def test_divergence(start, tmp_path, monkeypatch):
    monkeypatch.setattr(optim, "schedule", lambda *args, **settings: lambda step: np.float32(3e38))
    code, message = start(TINY, f"--workdir={tmp_path}")
    assert code == 1
    assert "not finite at step" in message
    assert "Traceback" not in message


def test_a_run_and_its_override(start, tmp_path):
    code, _ = start(
        TINY, f"--workdir={tmp_path}", "--config.train.steps=2", "--config.method.tau_student=0.3"
    )
    assert code == 0
    assert json.loads((tmp_path / "config.json").read_text())["method"]["tau_student"] == 0.3
    assert [row["step"] for row in metrics.read(tmp_path)] == [1, 2]


def test_a_check_needs_no_workdir_and_excludes_a_plan(start):
    assert "plan, check" in one_sentence(start(TINY, "--plan", "--check"))
    assert "nowhere.pth" in one_sentence(start(TINY, "--check", "--config.teacher.weights=nowhere.pth"))
    assert start(TINY, "--check") == (0, "")


def test_sigterm_at_the_start(tmp_path):
    """The config file sends it, so it comes before anything else has begun."""
    (tmp_path / "own.py").write_text(
        "import os, signal\n\ndef get_config():\n    os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    command = [sys.executable, "main.py", f"--config={tmp_path / 'own.py'}", f"--workdir={tmp_path / 'run'}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert result.stderr == f"\n{STOPPED}\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("missing", ["workdir", "config"])
def test_required_flags(missing, tmp_path):
    given = {"workdir": f"--workdir={tmp_path}", "config": TINY}
    del given[missing]
    result = subprocess.run(
        [sys.executable, "main.py", *given.values()],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"--{missing}" in one_sentence((result.returncode, result.stderr))


def test_flags_are_those_of_the_documentation():
    assert {"config", "workdir"} <= set(flags.FLAGS)
