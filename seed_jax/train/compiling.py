"""Compilation of a program on another thread, while this one reads images and scores the start."""

import concurrent.futures
import time
from collections.abc import Callable

from seed_jax.train.monitor import say

WORDS_EVERY = 20  # seconds between two lines that say what is waited for


def ahead(what: str, jitted, *arguments) -> Callable:
    """Trace a program now and compile it on another thread.

    Args:
      what: the program, in a line that says that it is still being compiled.
      jitted: from `jax.jit`.
      arguments: arrays, or shapes with their shardings.

    Returns:
      The program, a function of such arrays. Its first call waits until it is compiled.
    """
    lowered, began = jitted.lower(*arguments), time.perf_counter()
    thread = concurrent.futures.ThreadPoolExecutor(1, "compile")
    compiled = thread.submit(lowered.compile)
    thread.shutdown(wait=False)

    def call(*arguments):
        while not concurrent.futures.wait([compiled], WORDS_EVERY).done:
            say(f"{what} is still being compiled, for {time.perf_counter() - began:.0f} s now")
        return compiled.result()(*arguments)

    return call
