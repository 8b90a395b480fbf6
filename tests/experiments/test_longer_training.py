"""The figure of accuracy over the epochs, from the committed results and from incomplete ones."""

import json
import shutil

from experiments.longer_training import figure


def test_the_committed_figure_is_that_of_the_committed_results(tmp_path):
    shutil.copy(figure.RESULTS / "results.json", tmp_path)
    assert figure.main([str(tmp_path)]) == 0
    drawn, committed = ((folder / "epochs.svg").read_text() for folder in (tmp_path, figure.RESULTS))
    label = 'aria-label="'
    assert drawn.partition(label)[2].partition('"')[0] == committed.partition(label)[2].partition('"')[0]
    assert "alone ends at 84.69" in drawn


def test_missing_rows_are_named(tmp_path, capsys):
    results = json.loads((figure.RESULTS / "results.json").read_text())
    results["rows"] = [row for row in results["rows"] if not row["name"].startswith("KD, CutMixPick, 48")]
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert figure.main([str(tmp_path)]) == 1
    assert "lacks rows of 'KD, CutMixPick'" in capsys.readouterr().err
