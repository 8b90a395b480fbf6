import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seed_jax.train import compiling


class Program:
    """Stands for a jitted function whose compilation ends when it is told to."""

    def __init__(self, result=None):
        self.go_on, self.result = threading.Event(), result

    def lower(self, *arguments):
        return self

    def compile(self):
        assert threading.current_thread() is not threading.main_thread()
        assert self.go_on.wait(60)
        if isinstance(self.result, Exception):
            raise self.result
        return lambda *arguments: (self.result, *arguments)


def test_shapes_are_enough():
    x = np.arange(6, dtype=np.float32)
    program = compiling.ahead(
        "it", jax.jit(lambda x, y: 2 * x + y), jax.ShapeDtypeStruct((6,), jnp.float32), 1
    )
    np.testing.assert_array_equal(program(x, 1), 2 * x + 1)
    np.testing.assert_array_equal(program(x, 3), 2 * x + 3)


def test_waiting_is_said(monkeypatch):
    slow, said = Program("done"), []

    def say(sentence):
        said.append(sentence)
        slow.go_on.set()

    monkeypatch.setattr(compiling, "say", say)
    monkeypatch.setattr(compiling, "WORDS_EVERY", 1e-3)
    assert compiling.ahead("train: the step", slow, 1)(2) == ("done", 2)
    assert said[0] == "train: the step is still being compiled, for 0 s now"


@pytest.mark.parametrize("error", [RuntimeError("RESOURCE_EXHAUSTED"), TimeoutError("of the compiler")])
def test_an_error_of_the_compiler_comes_with_the_call(error):
    failing = Program(error)
    program = compiling.ahead("it", failing, 1)
    failing.go_on.set()
    with pytest.raises(type(error), match=str(error)):
        program(2)
