"""`python -m seed_jax.evals` of a run whose data has moved."""

import shutil

import numpy as np
import pytest
import tiny

from seed_jax import models
from seed_jax.data.sources import open_source
from seed_jax.evals.__main__ import main
from seed_jax.train import loop


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on a quarter of the digits as an .npz file, and that file."""
    folder = tmp_path_factory.mktemp("moved")
    digits = open_source("digits", "all")
    images = np.stack([digits[i].image for i in range(0, len(digits), 4)])
    np.savez(folder / "digits.npz", image=images, label=digits.labels()[::4])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "tiny", tiny.Tiny)
        raw = tiny.get_config("supervised")
        raw.data.source, raw.data.dir = "npz", str(folder / "digits.npz")
        raw.train.steps = 2
        loop.run(raw, folder / "run")
        yield folder / "run", folder / "digits.npz"


def numbers(capsys):
    """(header, cells of the only row) of the printed table."""
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    return lines[0], [cell.strip() for cell in lines[-1].strip("|").split("|")]


def test_the_data_may_have_moved(trained, tmp_path, capsys):
    run, data = trained
    assert main([str(run)]) == 0
    header, before = numbers(capsys)
    assert "kNN, test %" in header
    shutil.copy(data, tmp_path / "moved.npz")
    assert main([str(run), "--dir", str(tmp_path / "moved.npz")]) == 0
    assert numbers(capsys) == (header, before)
    data.rename(tmp_path / "away.npz")
    try:
        assert main([str(run)]) == 1
        said = capsys.readouterr().err
        assert f"{data} cannot be read" in said
        assert "--dir" in said
        assert main([str(run), "--dir", str(tmp_path / "moved.npz"), "--split", "val"]) == 0
    finally:
        (tmp_path / "away.npz").rename(data)
    header, validation = numbers(capsys)
    assert "kNN, val %" in header
    assert "test" not in header
    assert validation[:2] == before[:2]
    assert validation[2:] != before[2:]


def test_other_data_is_one_sentence(trained, tmp_path, capsys):
    run, data = trained
    arrays = dict(np.load(data))
    arrays["image"][7, 0, 0] += 1
    np.savez(tmp_path / "other.npz", **arrays)
    assert main([str(run), "--dir", str(tmp_path / "other.npz")]) == 1
    said = capsys.readouterr().err
    assert f"{run} was trained on different data from {tmp_path / 'other.npz'} (fingerprint" in said
    assert said.count("\n") == 1
