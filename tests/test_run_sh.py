"""The commands for many hosts that run.sh prints; nothing is installed, copied or started."""

import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RUN = ["--config=configs/x.py", "--workdir=/mnt/it's shared/run"]


def run_sh(*arguments):
    return subprocess.run(["./run.sh", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_pod_copies_and_starts_on_all_workers():
    result = run_sh("pod", "slice", "us-central2-b", "--dry-run", "--", *RUN)
    assert result.returncode == 0, result.stderr
    bundle, copy, start = (shlex.split(line) for line in result.stdout.splitlines())
    assert bundle[0] == "tar"
    gcloud = ["gcloud", "compute", "tpus", "tpu-vm"]
    assert copy == [*gcloud, "scp", bundle[2], "slice:seed_jax.tgz", "--zone=us-central2-b", "--worker=all"]
    assert start[:-1] == [*gcloud, "ssh", "slice", "--zone=us-central2-b", "--worker=all"]
    command = shlex.split(start[-1].removeprefix("--command="))
    assert command[-len(RUN) - 3 :] == ["ACCELERATOR=tpu", "SEED_JAX_MULTIHOST=1", "./run.sh", *RUN]


def test_slurm_starts_one_process_per_gpu():
    result = run_sh("slurm", "2", "4", "--", *RUN)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    for setting in ("nodes=2", "ntasks-per-node=4", "gres=gpu:4"):
        assert f"#SBATCH --{setting}" in lines
    assert "export ACCELERATOR=cuda SEED_JAX_MULTIHOST=1" in lines
    srun = shlex.split(lines[-1])
    assert srun[0] == "srun"
    assert srun[-len(RUN) - 1 :] == [str(ROOT / "run.sh"), *RUN]
    subprocess.run(["bash", "-n"], input=result.stdout, text=True, check=True)


@pytest.mark.parametrize("arguments", [["pod", "slice"], ["slurm", "2", "--", "--config=x"], ["pod"]])
def test_usage(arguments):
    result = run_sh(*arguments)
    assert result.returncode == 1
    assert result.stderr.startswith("Usage: ./run.sh ")
