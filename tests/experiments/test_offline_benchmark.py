"""The benchmark of the offline pass runs, in small, and its arithmetic is that of the work."""

from experiments.benchmarks import offline


def test_mistakes(capsys):
    for words, said in (
        ("--iterations 0", "--iterations is 0: use 1 or more"),
        ("--images 64 --dim 2 --clusters 1 --iterations 50", "converges in less than 50 iterations"),
    ):
        assert offline.main(words.split()) == 1
        assert said in capsys.readouterr().err


def test_the_plan_grows_as_the_work(capsys):
    small = "--images 256 --dim 4 --clusters 4 --iterations 1 --planned 2560 --planned-clusters 8"
    assert offline.main(small.split()) == 0
    said = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines() if "| " in line]
    names, here, planned = zip(*rows[2:], strict=True)
    assert names == ("seeds of 4 and 8 clusters", "one iteration", "5 neighbours of all")
    for seconds, of_plan, times in zip(here, planned, (20, 20, 100), strict=True):
        assert abs(float(of_plan) - times * float(seconds)) <= times * 0.005 + 0.005 + 1e-9
    assert "2,560 are 0.00 GiB" in said
