"""The paired benchmark in its tiny form: both sides compute the same losses; the page by hand."""

import importlib.util
import json

import pytest

from experiments.benchmarks.paired import __main__ as paired
from experiments.benchmarks.paired import work


def measured(losses, theirs, ms=2.0):
    def side(losses, factor, others):
        times = dict.fromkeys(work.PARTS, ms * factor)
        shares = dict.fromkeys(work.PARTS, others)
        return {"losses": losses, "ms": times, "others": shares, "versions": "x 1"}

    return {"ours": side(losses, 1, 0.01), "theirs": side(theirs, 3, 0.2)}


@pytest.mark.long
def test_the_tiny_form(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")  # the threads of torch leave the cores to other tests
    arguments = ["--tiny", "--rounds", "1", "--repeats", "1", "--out", str(tmp_path)]
    assert paired.main(arguments) == 0
    said, page = capsys.readouterr().out, (tmp_path / "paired.md").read_text()
    assert "same work" in said and "load average" in said and page in said
    (found,) = json.loads((tmp_path / "paired.json").read_text())["works"]
    (both,) = found["rounds"]
    assert both["ours"]["losses"] == pytest.approx(both["theirs"]["losses"], rel=1e-4)
    for side in paired.SIDES:
        assert both[side]["ms"].keys() == set(work.PARTS) and min(both[side]["ms"].values()) > 0


def test_without_torch_it_says_how_to_install_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert paired.main(["--out", str(tmp_path)]) == 1
    assert "pip install -r tests/requirements.txt" in capsys.readouterr().err


def test_other_work_is_refused():
    assert "tolerance" in paired.agreement(measured([2.0, 1.0], [2.0, 1.0005]))
    with pytest.raises(paired.UserError, match="do not do the same work"):
        paired.agreement(measured([2.0, 1.0], [2.001, 1.0]))
    with pytest.raises(paired.UserError, match="do not do the same work"):
        paired.agreement(measured([float("nan"), 1.0], [2.0, 1.0]))


def test_the_page_by_hand():
    described = {"teacher": "a", "student": "b", "size": 8, "batch": 4, "queue": 16}
    rounds = [measured([1.0, 1.0], [1.0, 1.0], ms) for ms in (2.0, 4.0, 8.0)]
    page = paired.page({"processor": "a CPU", "works": [{"work": described, "rounds": rounds}]})
    row = "| step | 4.0 (2.0 to 8.0) | 12.0 (6.0 to 24.0) | 3.00 (3.00 to 3.00) | 1000.0 (500.0 to 2000.0) |"
    assert row in page
    assert "20.0% of the cores (disturbed)" in page
