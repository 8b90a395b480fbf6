"""SIGTERM and Ctrl-C: the run saves its state and ends, all processes at the same step."""

import os
import signal
import threading

import jax
from jax.experimental import multihost_utils

EXIT_CODES = {signal.SIGTERM: 0, signal.SIGINT: 130}


class Stopped(SystemExit):
    """The run was asked to stop and has saved its state: exit code 0 after SIGTERM, 130 after Ctrl-C."""


class StopRequest:
    """A context in which the first SIGTERM or Ctrl-C only asks the loop to stop; a second ends at once.

    Handlers are installed in the main thread only, and the earlier ones are put back at the end. With several
    processes JAX listens for SIGTERM itself and has all of them agree on a step, whichever the signal
    reached.
    """

    def __init__(self):
        self._signal = signal.SIGTERM
        self._asked = False
        self._before = {}

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self._signal]

    def reached(self, step: int) -> bool:
        """Whether the run is to stop before `step`; every process asks before each step.

        It costs a look at a flag: nothing is sent unless a signal came.
        """
        if jax.process_count() == 1:
            return self._asked
        if not multihost_utils.reached_preemption_sync_point(step):
            return False
        if self._before:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # JAX would ignore a second one
        return True

    def asked_here(self) -> bool:
        """Whether what runs between two steps, a probe, is to be abandoned.

        Never with several processes: these agree at steps only, and none may leave the others alone in a
        computation.
        """
        return jax.process_count() == 1 and self._asked

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            numbers = EXIT_CODES if jax.process_count() == 1 else [signal.SIGINT]
            self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *unused) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def _note(self, number, frame):
        del frame
        self._asked, self._signal = True, signal.Signals(number)
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
