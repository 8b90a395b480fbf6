"""The benchmark against lightly, in small: both sides do the same steps, or no time is shown."""

import importlib.util

import pytest

from experiments.benchmarks import ssl


def measured(ours, theirs):
    return {"ours": {"losses": ours}, "lightly": {"losses": theirs}}


def test_without_lightly_it_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lightly" else object())
    assert ssl.main([]) == 1
    said = capsys.readouterr().err
    assert "lightly is not installed" in said and "pip install lightly -r tests/requirements.txt" in said


def test_other_work_is_refused():
    assert "tolerance 1e-05" in ssl.agreement("dino", measured([2.0, 1.0], [2.0, 1.0005]))
    for ours in ([2.001, 1.0], [2.0, 1.01], [float("nan"), 1.0]):
        with pytest.raises(ssl.UserError, match="same work: losses of the first steps of dino"):
            ssl.agreement("dino", measured(ours, [2.0, 1.0]))
    with pytest.raises(ssl.UserError, match="changes the loss of dino too little"):
        ssl.agreement("dino", measured([2.0, 2.001], [2.0, 2.001]))


def test_mistakes(capsys):
    for words in (["--size", "16"], ["--rounds", "0"]):
        assert ssl.main(words) == 1
        assert f"{words[0]} is {words[1]}: use " in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("method", ssl.METHODS)
def test_both_sides_do_the_same_work(method, monkeypatch, capsys):
    pytest.importorskip("lightly")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")  # the threads of torch leave the cores to other tests
    words = f"--only {method} --size 32 --batch 4 --rounds 1 --repeats 1"
    assert ssl.main(words.split()) == 0
    said = capsys.readouterr().out
    assert "same work" in said and "of the cores" in said and f"| {method}" in said
