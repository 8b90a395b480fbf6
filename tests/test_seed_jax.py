"""`seed-jax`: every sub-command answers `--help`, and a mistake is one sentence."""

import sys

import pytest

from seed_jax import __version__
from seed_jax.__main__ import COMMANDS, main


def test_help_lists_every_command(capsys):
    for arguments in ([], ["--help"]):
        assert main(arguments) == 0
        printed = capsys.readouterr().out
        assert all(f"\n  {name} " in printed for name in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["seed-jax"])  # the commands get their arguments, not the process's
    try:
        code = main([name, "--help"])
    except SystemExit as end:  # argparse
        code = end.code
    assert code == 0
    assert len(capsys.readouterr().out) > 200


def test_an_unknown_command(capsys):
    assert main(["trian"]) == 1
    assert capsys.readouterr().err == "Unknown command 'trian': did you mean 'train'?\n"
