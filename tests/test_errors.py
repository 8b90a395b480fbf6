"""How commands end: errors in a sentence, and output that nobody reads any more, in real processes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from seed_jax.errors import UserError, command, unknown
from seed_jax.report import metrics
from seed_jax.report.metrics import MetricsWriter

ROOT = Path(__file__).parent.parent
TRAIN = ["main.py", "--config=tests/tiny.py:seed"]


@pytest.mark.parametrize(
    ("raised", "code", "printed"),
    [(UserError("fix it"), 1, "fix it\n"), (KeyboardInterrupt(), 130, "\nStopped.\n"), (None, 7, "")],
)
def test_a_command_prints_the_error_and_returns_a_code(raised, code, printed, capsys):
    @command
    def main(arguments):
        if raised:
            raise raised
        return 7

    assert main([]) == code
    assert capsys.readouterr().err == printed


def test_other_errors_are_raised():
    @command
    def main(arguments):
        raise KeyError("x")

    with pytest.raises(KeyError):
        main([])


def test_unknown_suggests_the_nearest_name_or_lists_all():
    assert str(unknown("fruit", "aple", ["pear", "apple"])) == "Unknown fruit 'aple': did you mean 'apple'?"
    assert str(unknown("fruit", "xyz", ["pear", "apple"])) == "Unknown fruit 'xyz': it is one of apple, pear."


def unread(arguments, *streams, **variables):
    """The exit code and stderr of a process; the reader of each of the streams is gone before it starts."""
    read, write = os.pipe()
    os.close(read)
    try:
        result = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, **variables},
            text=True,
            check=False,
            **{"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **dict.fromkeys(streams, write)},
        )
    finally:
        os.close(write)
    return result.returncode, result.stderr


def is_whole(workdir):
    """Whether the six steps, the last checkpoint and the report are there."""
    steps = [row["step"] for row in metrics.read(workdir)]
    return steps == [1, 2, 3, 4, 5, 6] and all(
        (workdir / name).exists() for name in ("checkpoints/6", "report.html")
    )


@pytest.mark.parametrize(
    ("streams", "variables"),
    [
        (["stdout"], {}),
        pytest.param(  # JAX logs to stderr
            ["stdout", "stderr"], {"JAX_LOG_COMPILES": "1", "PYTHONUNBUFFERED": "1"}, marks=pytest.mark.long
        ),
    ],
)
def test_a_training_goes_on_to_its_end(tmp_path, streams, variables):
    code, said = unread([*TRAIN, f"--workdir={tmp_path}"], *streams, **variables)
    assert (code, said or "") == (0, "")
    assert is_whole(tmp_path)


def test_a_training_goes_on_when_its_reader_leaves_later(tmp_path):
    command = f"{sys.executable} {' '.join(TRAIN)} --workdir={tmp_path}; echo $? >{tmp_path}/code"
    subprocess.run(f"({command}) | head -n 1", shell=True, cwd=ROOT, capture_output=True, check=False)
    assert (tmp_path / "code").read_text() == "0\n"
    assert is_whole(tmp_path)


@pytest.mark.long
def test_a_training_without_stdout_and_stderr(tmp_path):
    command = f"{sys.executable} {' '.join(TRAIN)} --workdir={tmp_path} >&- 2>&-"
    assert subprocess.run(command, shell=True, cwd=ROOT, check=False).returncode == 0
    assert is_whole(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        ["main.py", "--help"],
        [*TRAIN, "--plan"],
        ["-m", "seed_jax"],
        ["-m", "seed_jax.report", "--help"],  # printed by argparse
        ["-m", "seed_jax.report", "RUN"],
        ["-m", "seed_jax", "report", "RUN"],
    ],
)
def test_other_commands_end_quietly(tmp_path, arguments):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(1, {"loss": 1.0})
    arguments = [str(tmp_path) if argument == "RUN" else argument for argument in arguments]
    assert unread(arguments, "stdout") == (141, "")


def test_unbuffered_output():
    assert unread(["-m", "seed_jax"], "stdout", PYTHONUNBUFFERED="1") == (141, "")


def test_an_error_that_nobody_reads(tmp_path):
    arguments = ["-m", "seed_jax.report", str(tmp_path / "nowhere")]
    assert unread(arguments, "stdout", "stderr")[0] == 141
    code, said = unread(arguments, "stdout")
    assert code == 1 and re.fullmatch(r".*nowhere does not exist: .*\n", said)
