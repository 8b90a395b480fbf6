"""A trace of some steps, for TensorBoard's profiler or Perfetto."""

import contextlib
from pathlib import Path

import jax

from seed_jax.train.monitor import say


class Profiler:
    """A context that traces `count` steps from step `first` on into `directory`; it ends the trace on exit.

    Every step carries the annotation `train` with its number, traced or not: any profiler shows it.
    """

    def __init__(self, directory: Path, *, first: int, count: int):
        self._directory, self._first, self._count = directory, first, count
        self._running = self._traced = False

    @contextlib.contextmanager
    def step(self, number: int):
        """A context around the work of one step; True for the last traced one, which is to be waited for."""
        if self._count and number == self._first:
            jax.profiler.start_trace(self._directory)
            self._running = True
        last = self._running and number == self._first + self._count - 1
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield last
        if last:
            self._end()

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *unused) -> None:
        if self._running:
            self._end()
        if self._count and not self._traced:
            say(f"--profile: no step was traced, because tracing starts at step {self._first}.")

    def _end(self):
        self._running, self._traced = False, True
        jax.profiler.stop_trace()
        say(f"The trace is in {self._directory}: open it with TensorBoard's profile plugin or Perfetto.")
