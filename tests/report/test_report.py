import html.parser
import json
import math
import re

import numpy as np
import pytest

from seed_jax import report
from seed_jax.errors import UserError
from seed_jax.report import __main__ as command
from seed_jax.report import plots, runs
from seed_jax.report.metrics import MetricsWriter
from seed_jax.report.tables import Table, mean_std


class Page(html.parser.HTMLParser):
    """Visible text, attributes and the balance of tags."""

    def __init__(self, path):
        super().__init__()
        self.text, self.attributes, self.open = "", [], []
        self.source = path.read_text()
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, *attribute) for attribute in attributes]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes += [(tag, *attribute) for attribute in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def assert_self_contained(page):
    links = [value for _, name, value in page.attributes if name in ("href", "xlink:href", "src")]
    assert all(link.startswith("#") for link in links)
    assert "http" not in page.source and "@import" not in page.source
    assert set(re.findall(r"url\(([^)]{2})", page.source)) <= {"#p"}
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links} <= set(ids)


def a_run(workdir, accuracy=(0.1, 0.5, 0.875), seed=0):
    with MetricsWriter(workdir, tensorboard=False) as writer:
        for step, value in enumerate(accuracy):
            writer.write(10 * step, {"loss": 2.0 - step + seed / 8, "lr": 0.1})
            writer.write(10 * step, {"knn/1": value / 2, "knn/10": value})
    (workdir / "config.json").write_text(
        json.dumps({"method": {"tau_t": 0.01}, "sizes": [3, 4], "note": "<&>"})
    )
    return workdir


def test_mean_and_sample_deviation():
    assert mean_std([92.7, 93.1, 93.5]) == "93.1 ± 0.4"
    assert mean_std([1.0, 2.0], digits=3) == "1.500 ± 0.707"
    assert mean_std([93.14]) == "93.1"


def test_a_table_in_markdown():
    table = Table(("net", "n", "kNN", "time"), [("a|b", 3, [1.0, 2.0], 0.25), ("c", 4, 7.0, None)], digits=2)
    assert table.markdown().splitlines() == [
        "| net | n | kNN | time |",
        "| --- | ---: | ---: | ---: |",
        "| a\\|b | 3 | 1.50 ± 0.71 | 0.25 |",
        "| c | 4 | 7.00 | – |",
    ]
    assert table.aligned().splitlines() == [
        "| net  |   n |         kNN | time |",
        "| ---- | --: | ----------: | ---: |",
        "| a\\|b |   3 | 1.50 ± 0.71 | 0.25 |",
        "| c    |   4 |        7.00 |    – |",
    ]


def test_a_table_in_latex():
    table = Table(("net", "kNN, %"), [('a_b, "c"', [1.0, 3.0]), ("[d] & {e}", None)])
    assert table.latex().splitlines()[1:] == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"net & kNN, \% \\",
        r"\midrule",
        r'a\_b, "c" & 2.0 $\pm$ 1.4 \\',
        r"{[}d] \& \{e\} & -- \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_long_names_of_curves_are_written_above_in_full():
    names = ["a student with a long name " * 4, "n" * 90]
    figure = plots.curves({name: [([0, 1], [0.0, 1.0])] for name in names}, title="t")
    text = "".join(re.sub(r"<[^>]*>", "", figure.svg).split())
    for name in names:
        assert name.replace(" ", "") in text


def test_labels_of_points_at_one_place_are_apart():
    points = [plots.Point(f"net {i}", 1.0, 50.0) for i in range(5)]
    svg = plots.scatter(points, title="t", axis="x").svg
    places = re.findall(r"translate\(([\d.]+) ([\d.]+)\)[^>]*>net \d", svg) or re.findall(
        r'x="([\d.]+)" y="([\d.]+)"[^>]*>net \d', svg
    )
    assert len({*places}) == 5


@pytest.mark.parametrize("low, starts_at_0", [(12.0, False), (7.0, True)])
def test_a_scatter_of_near_values_leaves_out_0(low, starts_at_0):
    points = [plots.Point("a", low, 1.0), plots.Point("b", 17.0, 2.0)]
    places = re.findall(r'<use [^>]*x="([\d.]+)"', plots.scatter(points, title="t", axis="x").svg)
    apart = abs(float(places[0]) - float(places[-1]))
    assert (apart < 200) == starts_at_0


def test_the_band_is_mean_and_deviation_over_common_steps():
    values = np.random.default_rng(0).normal(size=(3, 4))
    steps, mean, deviation = plots.summarise(
        [([0, 5, 10, 15], values[0]), ([0, 5, 10, 15], values[1]), ([5, 10, 15], values[2, 1:])]
    )
    np.testing.assert_array_equal(steps, [5, 10, 15])
    np.testing.assert_allclose(mean, values[:, 1:].mean(axis=0))
    np.testing.assert_allclose(deviation, np.std(values[:, 1:], axis=0, ddof=1))


def test_a_long_curve_is_thinned_and_keeps_its_mean():
    steps, mean, _ = plots.summarise([(np.arange(15000), np.arange(15000.0))])
    assert len(steps) < 1000
    np.testing.assert_allclose([steps.mean(), mean.mean()], 7499.5)


def test_the_report_of_a_run(tmp_path):
    page = Page(report.run_report(a_run(tmp_path / "run")))
    assert_self_contained(page)
    for text in ("87.5 % @ 20", "10.0 % @ 0", "method.tau_t", "0.01", "<&>", "Step 20"):
        assert text in page.text
    described = [value for _, name, value in page.attributes if name == "aria-label"]
    assert any("knn/10 ends at 87.5" in text for text in described) and len(described) == 3


def test_the_report_of_a_run_with_odd_metrics(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(1, {"loss": math.nan, "knn/10": 0.5})
        writer.write(2, {"knn/10": math.nan, "once": 3.0, "$odd_name<": 1.0})
    page = Page(report.run_report(tmp_path))
    assert_self_contained(page)
    assert "not finite" in page.text and "$odd_name<" in page.text


def test_steps_written_twice_and_out_of_order():
    rows = [{"step": 4, "a": 1.0}, {"step": 2, "a": 5.0}, {"step": 4, "a": 3.0, "b": 0.0}]
    assert runs.series(rows) == {"a": ([2, 4], [5.0, 3.0]), "b": ([4], [0.0])}


def test_accuracies_come_first(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(1, {"norm": 1.0, "lr": 0.1, "loss": 2.0, "exit1_top1": 0.25, "knn": 0.5})
    rows = runs.run_table(tmp_path).cells()
    assert [row[0] for row in rows] == ["exit1_top1", "knn", "loss", "lr", "norm"]
    assert rows[0][1] == "25.0 % @ 1" and rows[2][1] == "2 @ 1"


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match="metrics.jsonl"):
        report.run_report(tmp_path)
    run = a_run(tmp_path / "run")
    (run / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json"):
        report.run_report(run)
    (run / "config.json").unlink()
    (run / "report.html").mkdir()
    with pytest.raises(
        UserError, match=r"report.html cannot be written \(Is a directory\): free some space or"
    ):
        report.run_report(run)


def test_the_command(tmp_path, capsys):
    run = a_run(tmp_path / "run")
    assert command.main([str(run)]) == 0
    output = capsys.readouterr().out
    assert re.search(r"\| knn/10 +\| +87\.5 % @ 20 \|", output) and str(run / "report.html") in output
    assert command.main([str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err
