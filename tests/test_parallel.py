"""Joining other processes: the environment it needs, and the errors when a process is gone."""

import ctypes
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from seed_jax import parallel
from seed_jax.errors import UserError


@pytest.fixture
def environment(monkeypatch):
    """`environment(**variables)`: set these, and unset the others that `start` reads."""

    def only(**variables):
        for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return only


def test_the_environment_gives_the_number_of_the_process(environment, monkeypatch):
    given = {}
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: given.update(options))
    environment(JAX_COORDINATOR_ADDRESS="host:1234", JAX_NUM_PROCESSES="4", JAX_PROCESS_ID="3")
    parallel.start()
    assert (given["num_processes"], given["process_id"]) == (4, 3)
    assert given["heartbeat_timeout_seconds"] + given["shutdown_timeout_seconds"] < 60
    environment(JAX_COORDINATOR_ADDRESS="host:1234")
    parallel.start()
    assert (given["num_processes"], given["process_id"]) == (None, None)  # JAX finds them on the cluster


def test_a_number_of_processes_that_is_not_a_number(environment):
    environment(JAX_COORDINATOR_ADDRESS="host:1234", JAX_NUM_PROCESSES="two")
    with pytest.raises(UserError, match="JAX_NUM_PROCESSES is 'two'"):
        parallel.start()


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("seed_jax.evals.embed", ["network", "data", "out.npz"]),
        ("seed_jax.evals.__main__", ["."]),
        ("seed_jax.weights.__main__", ["parity"]),
        ("seed_jax.compare.__main__", ["experiments/lite0"]),
    ],
)
def test_commands_print_the_error_as_one_sentence(environment, capsys, command, arguments):
    environment(JAX_COORDINATOR_ADDRESS="host:1234", JAX_NUM_PROCESSES="two")
    assert importlib.import_module(command).main(arguments) == 1
    assert capsys.readouterr().err == "JAX_NUM_PROCESSES is 'two': set it to a number.\n"


@pytest.mark.parametrize("error", [ValueError("Number of processes must be defined."), IndexError("port")])
def test_an_incomplete_environment(environment, monkeypatch, error):
    def initialize(**options):
        raise error

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    environment(JAX_COORDINATOR_ADDRESS="host:1234")
    with pytest.raises(UserError, match="set JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES"):
        parallel.start()


def test_processes_that_do_not_meet(environment, monkeypatch):
    def initialize(**options):
        raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: Barrier timed out\nmore")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    environment(JAX_COORDINATOR_ADDRESS="host:1234", JAX_NUM_PROCESSES="2", JAX_PROCESS_ID="0")
    with pytest.raises(UserError, match=r"did not meet at host:1234 \(DEADLINE_EXCEEDED: Barrier"):
        parallel.start()


MEMORY = "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore"
GONE = "UNKNOWN: Gloo AllGather failed: Connection closed by peer [127.0.0.1]:49577"


def test_an_error_of_the_only_process_is_raised_unchanged():
    for message in (GONE, "INTERNAL: cuDNN failed", "INVALID_ARGUMENT: shapes"):
        with (
            pytest.raises(jax.errors.JaxRuntimeError, match=re.escape(message)),
            parallel.ending_with_the_others("x"),
        ):
            raise jax.errors.JaxRuntimeError(message)


def test_out_of_memory_names_the_batch_size():
    with (
        pytest.raises(UserError, match=r"allocating 9 bytes.*smaller --config.data.batch_size") as caught,
        parallel.ending_with_the_others("x"),
    ):
        raise jax.errors.JaxRuntimeError(MEMORY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (jax.errors.JaxRuntimeError(GONE), "Process 1 of 2 ends because another one ended .*49577.*: start"),
        (
            jax.errors.JaxRuntimeError("UNAVAILABLE: x"),
            "Process 1 of 2 ends because another one ended .*: start",
        ),
        (jax.errors.JaxRuntimeError(MEMORY), "^\nThe devices are out of memory .*data.batch_size"),
        (jax.errors.JaxRuntimeError("INTERNAL: cuDNN"), "^\nTraceback (.|\n)*test_parallel(.|\n)*cuDNN"),
        (KeyError("cat.jpg"), "^\nTraceback (.|\n)*test_parallel(.|\n)*KeyError: 'cat.jpg'"),
        (RuntimeError("connection pool"), "^\nTraceback (.|\n)*RuntimeError: connection pool"),
        (UserError("The disk is full."), "^\nThe disk is full.\n$"),
    ],
)
def test_one_of_several_processes_ends_with_its_error(monkeypatch, capsys, error, words):
    class Ended(BaseException):
        pass

    def end(code):
        assert code == 1
        raise Ended

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(parallel.os, "_exit", end)
    with pytest.raises(Ended), parallel.ending_with_the_others("start"):
        raise error
    assert re.search(words, capsys.readouterr().err)


@pytest.mark.parametrize("stop", [SystemExit(0), KeyboardInterrupt()])
def test_a_stop_of_one_of_several_processes_is_not_a_failure(monkeypatch, stop):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(type(stop)), parallel.ending_with_the_others("start"):
        raise stop


def test_the_mesh_has_the_devices_in_order():
    mesh = parallel.make_mesh(jax.devices()[::-1])
    assert mesh.devices.tolist() == jax.devices()


ARENAS = """
import ctypes, os
import jax, jax.numpy as jnp
from seed_jax import parallel
parallel.start()
x = jnp.ones((1024, 1024))
for _ in range(3):
    jax.jit(lambda x: jnp.sin(x @ x) @ x)(x).block_until_ready()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, file)
libc.fflush(file)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="the C library is not glibc")
def test_all_threads_share_one_arena_on_a_cpu():
    root = Path(__file__).parent.parent
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", ARENAS]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("<heap nr=") == 1
