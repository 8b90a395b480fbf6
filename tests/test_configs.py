"""Every file in configs/ runs its smoke form through the real main.py, or in the test of its experiment."""

import importlib
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from experiments.quickstart.__main__ import RUNS
from seed_jax import config
from seed_jax.report import metrics

ROOT = Path(__file__).parent.parent
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("[!_]*.py"))
IN_EXPERIMENTS = {*RUNS.values(), "seed_lite0_to_mbv3s"}


def smoke(name, workdir):
    return subprocess.run(
        [sys.executable, "main.py", f"--config=configs/{name}.py:smoke", f"--workdir={workdir}"],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def started(request, tmp_path_factory):
    """The smoke runs of the tests selected, two at a time, as `{name: (workdir, future)}`."""
    tests = [item for item in request.session.items if item.originalname == "test_smoke"]
    names = [item.callspec.params["name"] for item in tests]
    workdirs = {name: tmp_path_factory.mktemp(name) for name in names}
    with ThreadPoolExecutor(2) as pool:
        yield {name: (workdir, pool.submit(smoke, name, workdir)) for name, workdir in workdirs.items()}


@pytest.mark.parametrize("name", sorted({*NAMES} - IN_EXPERIMENTS))
def test_smoke(name, started):
    workdir, future = started[name]
    result = future.result()
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Warning" not in result.stderr
    losses = [row["loss"] for row in metrics.read(workdir) if "loss" in row]
    assert losses
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize("name", NAMES)
def test_full_form_resolves_and_says_how_it_is_run(name):
    module = importlib.import_module(f"seed_jax.configs.{name}")
    config.resolve(module.get_config())
    assert f"python main.py --config=configs/{name}.py" in module.__doc__
    assert "Hardware:" in module.__doc__


def test_official_code_differs_from_the_paper_where_the_reference_says():
    module = importlib.import_module("seed_jax.configs.seed_r50_to_mbv3")
    paper, code = (config.resolve(module.get_config(variant)) for variant in ("", "official_code"))
    assert (paper.method.tau_teacher, code.method.tau_teacher) == (0.01, 1e-4)
    assert (paper.method.queue_start, code.method.queue_start) == ("empty", "noise")
    assert (paper.optim.update, code.optim.update) == ("step", "epoch")
    assert (code.optim.warmup_epochs, code.optim.warmup_from) == (5, "lr")
    for c in (paper, code):
        assert (c.method.tau_student, c.method.queue_size, c.data.batch_size) == (0.2, 65_536, 256)
        assert (c.optim.lr, c.optim.momentum, c.optim.weight_decay, c.train.epochs) == (0.03, 0.9, 1e-4, 200)
