"""Every test sees 8 CPU devices, rank promotion is an error, and warnings are errors (pyproject.toml)."""

import os
import subprocess
import sys
import types
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile much and compute little: without optimisations they take half the time. XLA kills a process
# whose devices wait 40 s for each other, as 8 devices on few busy cores may.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1 "
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
)

import jax
import pytest
from absl import flags

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
flags.FLAGS.mark_as_parsed()  # grain reads an absl flag


def pytest_collection_modifyitems(items):
    """The folders with the longest tests come first, so that all workers end together."""
    items.sort(key=lambda item: item.path.parent.name not in ("train", "compare", "exits", "experiments"))


@pytest.fixture(scope="session", autouse=True)
def compile_cache(tmp_path_factory):
    """A program that several tests need is compiled once, also for the processes that tests start."""
    cache = str(tmp_path_factory.mktemp("xla"))
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache


@pytest.fixture(scope="module", autouse=True)
def one_picture(request):
    """A run draws the curves of its page in tests/report and in a process of its own; elsewhere they are
    empty, since drawing them is a fifth of a short run.
    """
    from seed_jax.report import plots, runs, svg

    def empty(lines, *, title, percent, name):
        return svg.Figure("<svg></svg>", name)

    with pytest.MonkeyPatch.context() as patch:
        if request.path.parent.name != "report":
            patch.setattr(runs, "plots", types.SimpleNamespace(MAX_SERIES=plots.MAX_SERIES, curves=empty))
        yield


@pytest.fixture
def two_processes():
    """`two_processes(script, *arguments)`: what each of two processes said that run the script together, once
    both have ended with exit code 1."""
    from experiments.reliability.processes import free_port

    tests = Path(__file__).parent

    def run(script, *arguments):
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]),
            "JAX_NUM_CPU_DEVICES": "4",
            "JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}",
            "JAX_NUM_PROCESSES": "2",
        }
        both = [
            subprocess.Popen(
                [sys.executable, "-c", script, *map(str, arguments)],
                env={**environment, "JAX_PROCESS_ID": str(i)},
                stderr=subprocess.PIPE,
                text=True,
            )
            for i in range(2)
        ]
        try:
            said = [process.communicate(timeout=120)[1] for process in both]
        finally:
            for process in both:
                process.kill()
        assert [process.returncode for process in both] == [1, 1], said
        return said

    return run
