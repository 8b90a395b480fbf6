"""The benchmark of the offline pass runs, in small, and its arithmetic is that of the work."""

from experiments.benchmarks import offline


def test_the_plan_grows_as_the_work(capsys):
    small = "--images 256 --dim 4 --clusters 4 --iterations 1 --planned 2560 --planned-clusters 8"
    assert offline.main(small.split()) == 0
    said = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines() if "| " in line]
    (_, _, of_search) = rows[-1]
    assert rows[-1][0] == "5 neighbours of all"
    assert abs(float(of_search) - 100 * float(rows[-1][1])) <= 0.5 + 1e-9
    assert "2,560 are 0.00 GiB" in said
