import csv
import dataclasses
import html.parser
import re
import statistics
import xml.etree.ElementTree as ET

import made_up
import pytest

from seed_jax.compare import page, sheet

CASES = {
    "one row": {"rows": 1, "seeds": 1},
    "one seed": {"rows": 3, "seeds": 1},
    "eight rows": {"rows": 8},
    "a failed row": {"rows": 3, "failed": (1,)},
    "a failed baseline": {"rows": 3, "failed": (0,)},
    "all failed": {"rows": 2, "failed": (0, 1)},
}


class Parsed(html.parser.HTMLParser):
    """Visible text, cells of the tables, ids and links; every tag is closed."""

    def __init__(self, source):
        super().__init__()
        self.text, self.tables, self.ids, self.links, self.open = "", [], [], [], []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        if tag != "meta":
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.ids += [value for name, value in attributes if name == "id"]
        self.links += [value for name, value in attributes if name in ("href", "xlink:href", "src")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
        if {"td", "th"} & {*self.open}:
            self.tables[-1][-1][-1] += data


@pytest.fixture(scope="module", params=CASES, ids=list(CASES))
def written(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    result = made_up.result(folder, **CASES[request.param])
    source = page.write(result, folder / "page").read_text()
    return result, folder / "page", source, Parsed(source)


def test_the_same_cells_in_page_markdown_and_latex(written):
    _, folder, _, parsed = written
    cells = parsed.tables[0]
    lines = (folder / "table.md").read_text().splitlines()
    split = [re.split(r"(?<!\\) \| ", line[2:-2]) for line in lines]
    del split[1]
    assert [[cell.replace("\\|", "|") for cell in row] for row in split] == cells
    latex = (folder / "table.tex").read_text()
    assert re.findall(r"\d+(?:\.\d+)?", _rows(latex)) == re.findall(
        r"\d+(?:\.\d+)?", " ".join(" ".join(row) for row in cells)
    )


def _rows(latex):
    return "".join(line for line in latex.splitlines() if line.endswith(r"\\"))


def test_the_csv_has_the_numbers_of_the_result(written):
    result, folder, _, _ = written
    lines = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    assert [line["row"] for line in lines] == [row.name for row in result.rows]
    for line, row in zip(lines, result.rows, strict=True):
        numbers = {key: float(cell) for key, cell in line.items() if key != "row" and cell}
        want = {} if row.parameters is None else {"parameters": row.parameters}
        for name, values in row.scores.items():
            want[f"{name}_mean"] = statistics.fmean(values)
            want |= {f"{name}_std": statistics.stdev(values)} if len(values) > 1 else {}
        if found := result.difference(row.name, "knn"):
            want |= {"knn_difference": found.points, "knn_low": found.low, "knn_high": found.high}
            want["seeds"] = found.seeds
        if row.cost:
            want |= {"seconds": row.cost.seconds, "flop": row.cost.flops, "memory_bytes": row.cost.memory}
            want["teacher_images"] = row.cost.teacher_images
        assert numbers == want


def test_the_headings_of_the_csv(tmp_path):
    assert sheet.text(made_up.result(tmp_path, rows=1, evals=("knn", "linear"))).splitlines()[0] == (
        "row,parameters,knn_mean,knn_std,linear_mean,linear_std,knn_difference,knn_low,knn_high,seeds,"
        "seconds,flop,memory_bytes,teacher_images"
    )


def test_latex_has_as_many_cells_as_columns_and_no_bare_special_letter(written):
    result, folder, _, parsed = written
    latex = (folder / "table.tex").read_text()
    columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", latex)[1]
    rows = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 1 + len(result.rows)
    for row in rows:
        assert len(re.split(r"(?<!\\)&", row)) == len(columns)
        assert not re.search(r"(?<!\\)[%#_]|[~^|<>±–]", row.replace(r"$\pm$", ""))


def test_page_is_self_contained_with_unique_ids(written):
    _, _, source, parsed = written
    assert (
        all(link.startswith("#") for link in parsed.links)
        and "http" not in source
        and "@import" not in source
    )
    assert len(parsed.ids) == len({*parsed.ids}) and {link[1:] for link in parsed.links} <= {*parsed.ids}
    assert {*re.findall(r"url\(#([^)]*)\)", source)} <= {*parsed.ids}


def test_figures_are_svg_files_with_fixed_colours(written):
    result, folder, _, _ = written
    pictures = sorted(folder.glob("*.svg"))
    assert folder / "scores.svg" in pictures
    for picture in pictures:
        assert ET.fromstring(picture.read_text()).tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(" not in picture.read_text() and "#0101" not in picture.read_text()
    text = "".join(ET.fromstring((folder / "scores.svg").read_text()).itertext())
    for row in result.rows:
        assert re.sub(r"\s", "", row.name) in re.sub(r"\s", "", text)


def test_every_row_is_named_and_each_failure_and_note_is_there(written):
    result, _, _, parsed = written
    for row in result.rows:
        assert row.name in parsed.text
        for sentence in (*row.failed, *row.notes):
            assert f"{row.name}: {sentence}" in parsed.text
    assert result.provenance["command"] in parsed.text


def test_numbers_are_those_of_the_result(tmp_path):
    result = made_up.result(tmp_path, rows=2)
    parsed = Parsed(page.write(result, tmp_path).read_text())
    head, baseline, seed, *_ = parsed.tables[0]
    a, b, c = result.row("SEED").scores["knn"]
    mean = (a + b + c) / 3
    spread = (((a - mean) ** 2 + (b - mean) ** 2 + (c - mean) ** 2) / 2) ** 0.5
    cells = dict(zip(head, seed, strict=True))
    assert cells["kNN, test %"] == f"{mean:.1f} ± {spread:.1f}"
    assert cells["parameters"] == "567,705" and cells["minutes"] == "2.0" and cells["TFLOP"] == "480.00"
    assert cells["memory, GiB"] == "1.12" and cells["teacher images"] == "25,600"
    best = result.row("SEED").best["knn"]
    assert cells["kNN, best checkpoint, test %"].startswith(f"{sum(best) / 3:.1f}")
    assert dict(zip(head, baseline, strict=True))["kNN, best checkpoint, test %"] == "–"


def test_the_answer_comes_first_and_says_better_worse_and_not_shown(tmp_path):
    result = made_up.result(tmp_path)
    text = Parsed(page.write(result, tmp_path).read_text()).text
    found = result.difference("SEED", "knn")
    begin = text.index("SEED: better by")
    assert (
        f"{found.points:.1f} points than MoCo-v2 alone ({found.low:.1f} to {found.high:.1f}, 3 seeds)" in text
    )
    assert begin < text.index("kNN, test split, 352 images") < text.index("Scores and cost")
    assert "raw pixels: worse by" in text and "SEED 10x: no difference from MoCo-v2 alone shown (" in text


def test_a_row_without_scores_has_dashes_and_its_reason(tmp_path):
    result = made_up.result(tmp_path, rows=3, failed=(1,))
    table = Parsed(page.write(result, tmp_path).read_text()).tables[0]
    cells = dict(zip(table[0], table[2], strict=True))
    assert cells["kNN, test %"] == cells["minutes"] == cells["parameters"] == "–"
    assert cells["kNN against the baseline"] == "failed"


def answers(result):
    return [f"{name}: {said}" for name, said, _ in page._answer(result)]


def test_the_answer_names_what_failed(tmp_path):
    result = made_up.result(tmp_path, rows=3, failed=(1,))
    assert "SEED: failed, see below" in answers(result)
    result = made_up.result(tmp_path, rows=3, failed=(0,))
    assert answers(result) == [
        "Does SEED help a small student?: no row can be compared with MoCo-v2 alone",
        "MoCo-v2 alone: failed, see below",
    ]
    result = changed(made_up.result(tmp_path, rows=2), "SEED", failed=("seed 3: the disk is full",))
    better, failed, *_ = answers(result)
    assert better.startswith("SEED: better by") and failed == "SEED: 1 seed failed, see below"


def test_the_answer_names_teachers_last(tmp_path):
    result = made_up.result(tmp_path, rows=3)
    result = changed(result, "raw pixels", needs=("SEED",))
    names = [name for name, *_ in page._answer(result)]
    assert names == [made_up.LONG, "student, untrained", "raw pixels", "SEED"]


def changed(result, name, **fields):
    rows = [dataclasses.replace(row, **fields) if row.name == name else row for row in result.rows]
    return dataclasses.replace(result, rows=tuple(rows))


def test_short_times_have_two_digits(tmp_path):
    result = changed(made_up.result(tmp_path, rows=2), "SEED", cost=made_up.Cost(seconds=0.75))
    table = page.scores_table(result)
    column = [cells[table.header.index("minutes")] for cells in table.cells()]
    assert column == ["1.0", "0.013", "–", "–"]


def test_only_settings_that_differ(tmp_path):
    table = page.settings_table(made_up.result(tmp_path, rows=3))
    assert [row[0] for row in table.rows] == ["method.queue", "method.tau_t"]
    assert table.cells()[0] == ["method.queue", "–", "65536", "65536"]


def test_each_figure_of_curves_has_the_baseline(tmp_path):
    figures = page.curve_figures(made_up.result(tmp_path))
    assert {name for name in figures if "knn" in name} == {
        *("curve-knn", "curve-knn-2"),
        *("curve-knn-minutes", "curve-knn-minutes-2"),
    }
    for figure in figures.values():
        assert "MoCo-v2 alone ends at" in figure.svg
    assert "SEED 10x ends at" in figures["curve-loss-2"].svg
    assert "validation split against minutes: MoCo" in figures["curve-knn-minutes"].svg


def test_minutes_are_the_mean_of_the_seeds():
    clocks = [([0, 10], [0.0, 60.0]), ([0, 10], [0.0, 180.0])]
    seeds = [{"knn": ([0, 5, 10], [0.1, 0.2, 0.3])}, {"knn": ([0, 10], [0.1, 0.4])}]
    assert page._against_minutes(seeds, clocks) == [
        {"knn": ([0.0, 1.0, 2.0], [0.1, 0.2, 0.3])},
        {"knn": ([0.0, 2.0], [0.1, 0.4])},
    ]
