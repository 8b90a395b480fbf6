"""Start, interrupt and resume real processes of `main.py`, and read and compare their workdirs."""

import collections
import contextlib
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from seed_jax.report import metrics

ROOT = Path(__file__).parent.parent.parent
TIMING = ("images_per_second", "data_wait")
EVERY = 5  # steps between checkpoints
PASS = 78  # steps per epoch of the embedded digits at batch 16


class Processes:
    """The processes of one run of the tests' tiny network (`tests/tiny.py`), on up to 8 fake devices.

    A context that kills the processes still running at its end.

    Args:
      method: variant of the config.
      steps: last step of the run.
      devices: total over all processes.
      count: number of processes, which share the devices evenly.
      settings: config keys and values; `{process}` in a value stands for the process's number.

    Attributes:
      begun: step of the newest finished checkpoint at the start, 0 without one.
    """

    def __init__(
        self,
        workdir: Path,
        method: str,
        steps: int,
        *,
        devices: int = 8,
        count: int = 1,
        settings: Mapping[str, object] | None = None,
    ):
        self.workdir, self.begun = workdir, newest_checkpoint(workdir)
        command = [sys.executable, "main.py", f"--config=tests/tiny.py:{method}", f"--workdir={workdir}"]
        given = {"train.steps": steps, "train.checkpoint_epochs": EVERY / PASS} | dict(settings or {})
        command += [f"--config.{key}={value}" for key, value in given.items()]
        port = free_port()
        workdir.parent.mkdir(parents=True, exist_ok=True)
        self._logs = [workdir.with_name(f"{workdir.name}.{i}.log") for i in range(count)]
        self._running = []
        with contextlib.ExitStack() as undo:  # at Ctrl-C between two starts
            undo.callback(self.wait, timeout=0.0)
            for i, log in enumerate(self._logs):
                environment = {
                    **os.environ,
                    "JAX_PLATFORMS": "cpu",
                    "JAX_NUM_CPU_DEVICES": str(devices // count),
                    "PYTHONUNBUFFERED": "1",  # keeps the output of a killed process
                }
                if count > 1:
                    environment |= {
                        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
                        "JAX_NUM_PROCESSES": str(count),
                        "JAX_PROCESS_ID": str(i),
                    }
                mine = [word.replace("{process}", str(i)) for word in command]
                with log.open("w") as output:
                    self._running.append(
                        subprocess.Popen(mine, cwd=ROOT, env=environment, stdout=output, stderr=output)
                    )
            undo.pop_all()

    def reached(
        self, happened: Callable[[Path], object], *, process: int = 0, timeout: float = 300.0
    ) -> bool:
        """Wait until `happened(workdir)`; False if the process ends first, or after `timeout` seconds."""
        end = time.monotonic() + timeout
        while not happened(self.workdir):
            if self._running[process].poll() is not None or time.monotonic() > end:
                return False
            time.sleep(0.002)
        return True

    def when(self, happened, number: signal.Signals, *, process: int = 0, timeout: float = 300.0) -> bool:
        """Send a signal to one process as soon as `happened(workdir)`; return False where `reached` does."""
        if not self.reached(happened, process=process, timeout=timeout):
            return False
        self._running[process].send_signal(number)
        return True

    def limit_files(self, size: int, process: int) -> None:
        """Make every write of a process beyond `size` bytes of a file fail, as on a full disk.

        Needs Linux, but no privileges.
        """
        resource.prlimit(self._running[process].pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def wait(self, timeout: float = 300.0) -> list[int]:
        """Wait, kill what still runs after `timeout` seconds; return the exit codes, negative for signals."""
        end = time.monotonic() + timeout
        for process in self._running:
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
        return [process.wait() for process in self._running]

    def said(self, process: int = 0) -> str:
        """stdout and stderr of a process."""
        return self._logs[process].read_text().replace("\r", "\n")

    def went_on(self) -> bool:
        """Whether process 0 printed that it resumes from step `begun`, or nothing like it if that is 0."""
        said = re.findall(r"resuming from step (\d+) ", self.said())
        return said == ([str(self.begun)] if self.begun else [])

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *unused) -> None:
        self.wait(timeout=0.0)


def after(step: int, seconds: float = 0.0) -> Callable[[Path], bool]:
    """A condition: the metrics of `step` were written at least `seconds` ago."""
    since = None

    def happened(workdir):
        nonlocal since
        path = workdir / metrics.FILE
        if since is None and path.exists() and any(row["step"] >= step for row in metrics.read(path)):
            since = time.monotonic()
        return since is not None and time.monotonic() - since >= seconds

    return happened


def newest_checkpoint(workdir: Path) -> int:
    """The step of the newest finished checkpoint; 0 without one (no checkpoint has step 0)."""
    names = (path.name for path in (workdir / "checkpoints").glob("*"))
    return max((int(name) for name in names if name.isdigit()), default=0)


def half_written(workdir: Path) -> set[str]:
    """Names of the temporary folders of checkpoints under way, or interrupted when the process died."""
    return {path.name for path in (workdir / "checkpoints").glob("*tmp*")}


def writing() -> Callable[[Path], bool]:
    """A condition: a checkpoint is being written, and another was finished before.

    Half-written checkpoints at the first call are left over from an earlier kill and do not count.
    """
    left_over = None

    def happened(workdir):
        nonlocal left_over
        half = half_written(workdir)
        left_over = half if left_over is None else left_over & half
        return bool(half - left_over) and newest_checkpoint(workdir) > 0

    return happened


def checkpoint(workdir: Path, step: int) -> dict:
    """The trees of a checkpoint, `model` and `train`, as NumPy arrays."""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with ocp.training.Checkpointer((workdir / "checkpoints").absolute()) as orbax:
        saved = orbax.checkpointables_metadata(step).metadata
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
            {name: saved[name] for name in ("model", "train")},
        )
        return jax.device_get(orbax.load_checkpointables(step, like))


def rows(workdir: Path) -> list[dict]:
    """The lines of metrics.jsonl without the values that depend on time."""
    return [{k: v for k, v in row.items() if k not in TIMING} for row in metrics.read(workdir)]


def differences(one: Path, other: Path, step: int) -> dict[str, float]:
    """The largest difference between two runs at `step`, for network, train state and logged metrics.

    Differences are absolute for numbers up to 1, relative for larger ones, and infinite if the metrics have
    different steps or keys, or if a number is NaN.
    """
    a, b = checkpoint(one, step), checkpoint(other, step)
    lines = list(zip(rows(one), rows(other), strict=False))
    same = len(rows(one)) == len(rows(other)) and all(x.keys() == y.keys() for x, y in lines)
    return {
        "network": _largest(a["model"], b["model"]),
        "train state": _largest(a["train"], b["train"]),
        "metrics": _worst([_gap(x[k], y[k]) for x, y in lines for k in x]) if same else float("inf"),
    }


def contents(workdir: Path, step: int) -> str:
    """A description of what `differences` compares, with the number of rows and what the state carries."""
    leaves = jax.tree_util.tree_leaves_with_path(checkpoint(workdir, step)["train"])
    names = [jax.tree_util.keystr(path) for path, _ in leaves]
    queues = sum("slots" in name for name in names)
    carried = [f"{queues} queue{'s' if queues > 1 else ''}"] if queues else []
    carried += ["a moving average"] if any("'ema'" in name for name in names) else []
    carried += ["a centre"] if any("'center'" in name for name in names) else []
    return (
        f"{step} steps: losses ({len(rows(workdir))} rows), parameters, train state with "
        f"{' and '.join(carried)}"
    )


def explain(one: Path, other: Path, step: int, limit: float, most: int = 8) -> list[str]:
    """Sentences on what differs by more than `limit`: at most `most` rows of metrics, then as many arrays."""
    a, b = (dict(_numbered(rows(run))) for run in (one, other))
    sentences = [f"a row of {run.name} alone: {row}" for row, run in _alone(a, b, one, other)]
    for key in sorted(a.keys() & b.keys()):
        if differ := [k for k in a[key] if not _gap(a[key][k], b[key][k]) <= limit]:  # true for NaN
            values = "; ".join(f"{k} {a[key][k]!r} and {b[key][k]!r}" for k in differ)
            sentences.append(f"step {key[0]} of {one.name} and {other.name}: {values}")
    x, y = checkpoint(one, step), checkpoint(other, step)
    gaps = jax.tree.map(_gap, x, y)
    arrays = [
        f"{jax.tree_util.keystr(path)} differs by {gap:.3g}"
        for path, gap in jax.tree_util.tree_leaves_with_path(gaps)
        if not gap <= limit
    ]
    return _cut(sentences, most) + _cut(arrays, most)


def _alone(a: dict, b: dict, one: Path, other: Path) -> Iterator[tuple[dict, Path]]:
    """Rows that only one of the two runs has, by step."""
    for key in sorted(a.keys() ^ b.keys()):
        yield (a[key], one) if key in a else (b[key], other)


def _numbered(rows_of_run: list[dict]) -> Iterator[tuple[tuple, dict]]:
    """Each row with a unique key: its step, its names, and the number of earlier rows with both."""
    seen = collections.Counter()
    for row in rows_of_run:
        key = (row["step"], tuple(sorted(row)))
        yield (*key, seen[key]), row
        seen[key] += 1


def _cut(lines: list[str], most: int) -> list[str]:
    return lines[:most] + ([f"and {len(lines) - most} more"] if len(lines) > most else [])


def _gap(x, y) -> float:
    if isinstance(x, str):
        return 0.0 if x == y else float("inf")
    x, y = np.float64(x), np.float64(y)
    return float(np.max(np.abs(x - y) / np.maximum(1, np.abs(y)), initial=0.0))


def _largest(a, b) -> float:
    return _worst(jax.tree.leaves(jax.tree.map(_gap, a, b)))


def _worst(gaps) -> float:
    """The largest number; infinity for NaN, which Python's `max` may skip."""
    largest = float(np.max(gaps))
    return float("inf") if np.isnan(largest) else largest


def free_port() -> int:
    """A TCP port of this machine on which nothing listens."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]
