"""Stop a run on SIGTERM or Ctrl-C: all processes save a checkpoint at the same step and exit."""

import contextlib
import os
import signal
import threading

import jax
from jax.experimental import multihost_utils

from seed_jax.errors import EXIT_CODES, watch_signals


class Stopped(SystemExit):
    """The run was stopped and has saved its state. Exit code 0 after SIGTERM, 130 after Ctrl-C."""


class StopRequest:
    """A context in which the first SIGTERM or Ctrl-C asks the loop to stop, and the second ends the process.

    The second one ends it whatever it is doing, also while native code keeps Python from running a handler.
    The loop enters this context after its first step; until then there is nothing to save.

    Handlers are installed in the main thread only, and the previous ones are restored at the end. With
    several processes, JAX itself handles SIGTERM: whichever process receives it, all processes agree on the
    step to stop at.
    """

    def __init__(self):
        self._signal = signal.SIGTERM
        self._asked = False
        self._before = {}
        self._arrived = 0
        self._end_watch = lambda: None

    @property
    def exit_code(self) -> int:
        """Exit code for the signal received."""
        return EXIT_CODES[self._signal]

    def reached(self, step: int) -> bool:
        """Whether to stop before `step`; every process must call this before each step.

        Reads a flag: the processes communicate only after a signal.
        """
        if jax.process_count() == 1:
            return self._asked
        if not multihost_utils.reached_preemption_sync_point(step):
            return False
        if self._before:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # JAX would ignore a second SIGTERM
        return True

    def asked_here(self) -> bool:
        """Whether to abandon the probe that is running, between two steps of the training.

        Always False with several processes: they agree only at steps, and one that left a computation early
        would leave the others waiting in it.
        """
        return jax.process_count() == 1 and self._asked

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            numbers = EXIT_CODES if jax.process_count() == 1 else [signal.SIGINT]
            self._before = {number: signal.signal(number, self._note) for number in numbers}
            self._end_watch = watch_signals(self._count)
        return self

    def __exit__(self, *unused) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        self._end_watch()

    def _note(self, number, frame):
        del frame
        self._asked, self._signal = True, signal.Signals(number)
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def _count(self, number):
        """Count a signal, in a thread; the first may still wait for native code to let its handler run."""
        self._arrived += number in self._before
        if self._arrived > 1:
            with contextlib.suppress(OSError):
                os.write(2, b"\nEnded without saving: the same command resumes from the newest checkpoint.\n")
            os._exit(128 + number)
