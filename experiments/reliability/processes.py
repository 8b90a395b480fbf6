"""Real processes of `main.py`, to be killed and started again, and what their runs leave behind."""

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
PASS = 78  # steps of an epoch of the embedded data at batch 16


class Processes:
    """The processes of one run of the tests' tiny network (`tests/tiny.py`), on 8 or fewer fake devices.

    Args:
      method: variant of the config, 'seed', 'patches' or 'moco'.
      steps: of the whole run.
      devices: over all processes. count: processes, which share the devices evenly.
      settings: keys of the config and their values, in which `{process}` is the number of the process.

    Attributes:
      begun: the newest finished checkpoint at the start, 0 without one.

    As a context, whatever still runs at its end is killed.
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
        with contextlib.ExitStack() as undo:  # Ctrl-C between two starts
            undo.callback(self.wait, timeout=0.0)
            for i, log in enumerate(self._logs):
                environment = {
                    **os.environ,
                    "JAX_PLATFORMS": "cpu",
                    "JAX_NUM_CPU_DEVICES": str(devices // count),
                    "PYTHONUNBUFFERED": "1",  # what a killed process said must not be lost
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
        """Wait until `happened(workdir)`: False if the process ended before, or it took `timeout` seconds."""
        end = time.monotonic() + timeout
        while not happened(self.workdir):
            if self._running[process].poll() is not None or time.monotonic() > end:
                return False
            time.sleep(0.002)
        return True

    def when(self, happened, number: signal.Signals, *, process: int = 0, timeout: float = 300.0) -> bool:
        """Send a signal to one process as soon as `happened(workdir)`; False as of `reached`."""
        if not self.reached(happened, process=process, timeout=timeout):
            return False
        self._running[process].send_signal(number)
        return True

    def limit_files(self, size: int, process: int) -> None:
        """From now on every write of the process past `size` bytes of a file fails, as on a full disk.

        Needs no rights, but Linux.
        """
        resource.prlimit(self._running[process].pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def wait(self, timeout: float = 300.0) -> list[int]:
        """The exit codes, negative for signals; whatever runs longer than `timeout` seconds is killed."""
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
        """Whether process 0 says that it began at the checkpoint `begun`; at step 0, if there was none."""
        said = re.findall(r"going on from step (\d+) ", self.said())
        return said == ([str(self.begun)] if self.begun else [])

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *unused) -> None:
        self.wait(timeout=0.0)


def after(step: int, seconds: float = 0.0) -> Callable[[Path], bool]:
    """Whether metrics of `step` are written, since so many seconds."""
    since = None

    def happened(workdir):
        nonlocal since
        path = workdir / metrics.FILE
        if since is None and path.exists() and any(row["step"] >= step for row in metrics.read(path)):
            since = time.monotonic()
        return since is not None and time.monotonic() - since >= seconds

    return happened


def newest_checkpoint(workdir: Path) -> int:
    """The step of the newest finished checkpoint; 0, which is no checkpoint's, without one."""
    names = (path.name for path in (workdir / "checkpoints").glob("*"))
    return max((int(name) for name in names if name.isdigit()), default=0)


def half_written(workdir: Path) -> set[str]:
    """The temporary folders of checkpoints that are being written, or were when the process died."""
    return {path.name for path in (workdir / "checkpoints").glob("*tmp*")}


def writing() -> Callable[[Path], bool]:
    """Whether a checkpoint is being written, and one was finished before. Ask often: what lies there at the
    first call is left over from an earlier kill.
    """
    left_over = None

    def happened(workdir):
        nonlocal left_over
        half = half_written(workdir)
        left_over = half if left_over is None else left_over & half
        return bool(half - left_over) and newest_checkpoint(workdir) > 0

    return happened


def checkpoint(workdir: Path, step: int) -> dict:
    """Everything that a checkpoint holds, as NumPy arrays: `model` and `train`."""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with ocp.training.Checkpointer((workdir / "checkpoints").absolute()) as orbax:
        saved = orbax.checkpointables_metadata(step).metadata
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
            {name: saved[name] for name in ("model", "train")},
        )
        return jax.device_get(orbax.load_checkpointables(step, like))


def rows(workdir: Path) -> list[dict]:
    """metrics.jsonl without what depends on the clock."""
    return [{k: v for k, v in row.items() if k not in TIMING} for row in metrics.read(workdir)]


def differences(one: Path, other: Path, step: int) -> dict[str, float]:
    """The largest difference of two runs at `step`: network, queue and optimizer, logged metrics.

    Of numbers up to 1 it is absolute, of larger ones relative.

    Infinity where the metrics are not of the same steps, or anything is NaN.
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
    """In words, what `differences` compares of a run, its rows and queues counted."""
    leaves = jax.tree_util.tree_leaves_with_path(checkpoint(workdir, step)["train"])
    queues = sum("slots" in jax.tree_util.keystr(path) for path, _ in leaves)
    return (
        f"{step} steps: losses ({len(rows(workdir))} rows), parameters, train state with {queues} "
        f"queue{'s' if queues > 1 else ''}"
    )


def explain(one: Path, other: Path, step: int, limit: float, most: int = 8) -> list[str]:
    """What differs by more than `limit`, a sentence each: rows of metrics, then arrays, `most` of each."""
    a, b = (dict(_numbered(rows(run))) for run in (one, other))
    lines = [f"a row of {run.name} alone: {row}" for row, run in _alone(a, b, one, other)]
    for key in sorted(a.keys() & b.keys()):
        if differ := [k for k in a[key] if not _gap(a[key][k], b[key][k]) <= limit]:  # NaN is not
            found = "; ".join(f"{k} {a[key][k]!r} and {b[key][k]!r}" for k in differ)
            lines.append(f"step {key[0]} of {one.name} and {other.name}: {found}")
    x, y = checkpoint(one, step), checkpoint(other, step)
    gaps = jax.tree.map(_gap, x, y)
    arrays = [
        f"{jax.tree_util.keystr(path)} differs by {gap:.3g}"
        for path, gap in jax.tree_util.tree_leaves_with_path(gaps)
        if not gap <= limit
    ]
    return [line for found in (lines, arrays) for line in _cut(found, most)]


def _alone(a: dict, b: dict, one: Path, other: Path) -> Iterator[tuple[dict, Path]]:
    """Rows that only one of two runs has, by step."""
    for key in sorted(a.keys() ^ b.keys()):
        yield (a[key], one) if key in a else (b[key], other)


def _numbered(found: list[dict]) -> Iterator[tuple[tuple, dict]]:
    """Each row under its step, its names, and how many of these came before."""
    seen = collections.Counter()
    for row in found:
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
    """The largest; Python's `max` passes over NaN."""
    largest = float(np.max(gaps))
    return float("inf") if np.isnan(largest) else largest


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]
