"""`seed-jax compare`: its flags, what it prints, and the mistakes that it names."""

import contextlib
import io
import json
import shlex
from pathlib import Path

import pytest

from seed_jax.compare.__main__ import _name, main

FILE = """
import toy_comparison
from seed_jax.compare import Comparison, Trained

def get_comparison(quick=False):
    steps = 3 if quick else 6
    return Comparison(
        title="Fast and slow",
        rows=(
            Trained("slow", toy_comparison.config("moco"), {"evals.names": ()}),
            Trained("fast", toy_comparison.config("moco"), {"evals.names": (), "train.steps": steps}),
        ),
        baseline="slow",
        seeds=(0, 1, 2),
    )
"""


def call(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*map(str, arguments)])
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rates") / "rates.py"
    path.write_text(FILE)
    return path


@pytest.fixture(scope="module")
def trained(file):
    """The arguments of a call that trained two runs, what it printed, and the folder of its cells."""
    out = file.parent / "out"
    arguments = [file, "--quick", "--seeds", 5, "--baseline", "fast", "--out", out]
    code, printed, wrong = call(*arguments)
    assert (code, wrong) == (0, "")
    return arguments, printed, out


@pytest.mark.parametrize(
    "file, quick, name",
    [
        ("/home/me/experiments/da_ranking/fashion/compare.py", False, "da_ranking/fashion"),
        ("/home/me/experiments/da_ranking/fashion/compare.py", True, "da_ranking/fashion-quick"),
        ("/home/me/experiments/quickstart/compare.py", False, "quickstart"),
        ("/home/me/experiments/lr.py", True, "lr-quick"),
        ("/home/me/mine/compare.py", False, "mine"),
        ("/home/me/mine/v1.5.py", False, "v1.5"),
    ],
)
def test_folders_of_two_comparisons_differ(file, quick, name):
    assert str(_name(Path(file), quick)) == name


def test_quick_seeds_and_baseline_are_used(trained):
    arguments, printed, out = trained
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["fast", "slow"]
    assert [path.name for path in (out / "slow").iterdir()] == ["seed5"]
    found = json.loads((out / "results.json").read_text())
    assert (found["baseline"], found["images"]) == ("fast", 352)
    assert {row["name"]: row["steps"] for row in found["rows"]} == {"slow": 6, "fast": 3}
    assert found["provenance"]["command"] == shlex.join(["seed-jax", "compare", *map(str, arguments)])
    assert "Not the same: slow: 6 steps; fast has 3" in printed
    assert f"Page: {out / 'report.html'}" in printed


def test_workdirs_are_compared_and_printed(trained, tmp_path):
    out = trained[-1]
    slow, fast = out / "slow" / "seed5", out / "fast" / "seed5"
    code, printed, wrong = call(slow, fast, "--baseline", fast, "--out", tmp_path)
    assert (code, wrong) == (0, "")
    found = json.loads((tmp_path / "results.json").read_text())
    assert {row["name"]: row["seeds"] for row in found["rows"]} == {str(slow): [5], str(fast): [5]}
    scores = {row["name"]: row["scores"]["knn"][0] for row in found["rows"]}
    assert f"| {slow} |" in printed and f" {scores[str(slow)]:.1f} |" in printed
    assert f"{slow}, kNN: " in printed
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize("flag", [["--quick"], ["--plan"], ["--seeds", 1], ["--again", "slow"]])
def test_flags_of_files_are_refused_for_workdirs(trained, flag):
    code, _, wrong = call(trained[-1] / "slow" / "seed5", *flag)
    assert (code, wrong) == (
        1,
        f"{flag[0]} is for a comparison file: runs that exist are not trained.\n",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--baseline", "fats"], "Unknown row in baseline 'fats': did you mean 'fast'?\n"),
        (["--seeds", 1, 1], "Seed 1 is given twice: name each seed once.\n"),
    ],
)
def test_wrong_values_are_refused_before_training(file, arguments, message):
    assert call(file, *arguments, "--out", file.parent / "nowhere") == (1, "", message)
    assert not (file.parent / "nowhere").exists()


def test_what_is_no_workdir_is_named(trained, tmp_path):
    run = trained[-1] / "slow" / "seed5"
    name = "is not the workdir of a run"
    assert call("a", "b")[::2] == (1, f"a {name}: name runs, or one comparison file.\n")
    assert call(run, tmp_path)[::2] == (1, f"{tmp_path} {name}: it has no config.json.\n")
