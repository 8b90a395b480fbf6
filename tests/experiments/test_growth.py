"""The benchmark of growth: its points, in this process with a network of two convolutions, and its laws."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import tiny

from experiments.benchmarks.growth import __main__ as growth
from experiments.benchmarks.growth import laws, point
from seed_jax import models


@pytest.mark.long
def test_the_quick_form(tmp_path, monkeypatch):
    """A longer queue adds its bytes to the arguments; each of two devices holds half of queue and views."""
    monkeypatch.setitem(models.MODELS, point.NETWORK, Narrow)
    monkeypatch.setattr(growth, "child", point.measure)
    assert growth.main(["--quick", "--out", str(tmp_path)]) == 0
    axes = json.loads((tmp_path / "results.json").read_text())["axes"]
    assert {axis: [each["x"] for each in found] for axis, found in axes.items()} == {
        "K": [256, 1024],
        "batch": [8, 16],
        "devices": [1, 2],
        "images": [1000, 2000],
    }
    short, long = (each["arguments"] for each in axes["K"])
    assert long - short == 4 * 128 * (1024 - 256)
    one, two = (each["arguments"] for each in axes["devices"])
    queue, views = 1024 * 128 * 4, 16 * 32 * 32 * 3
    assert one - two == pytest.approx((queue + views) / 2, rel=0.01)
    page = (tmp_path / "table.md").read_text()
    assert "| K | arguments, MiB | linear |" in page and "| images | start, ms | linear |" in page
    picture = ET.fromstring((tmp_path / "growth.svg").read_text())
    assert "devices" in "".join(picture.itertext())


class Narrow(tiny.Tiny):
    """It takes the options of a ResNet."""

    width: float = 1.0


def test_a_line_is_straight_and_a_parabola_is_not():
    x = np.array([4096, 16_384, 65_536, 262_144, 1_048_576])
    line = laws.fit("linear", x, 20 + 0.001 * x)
    assert line.straight and line.worst < 1e-9
    assert (line.fixed, line.slope) == pytest.approx((20, 0.001))
    assert 0.8 < line.exponent < 1
    np.testing.assert_allclose(line(x), 20 + 0.001 * x)
    parabola = laws.fit("linear", x, (0.001 * x) ** 2)
    assert not parabola.straight
    assert parabola.exponent == pytest.approx(2)


def test_the_other_laws():
    x = np.array([1, 2, 4, 8])
    assert laws.fit("inverse", x, 3 + 5 / x).straight
    assert str(laws.fit("inverse", x, 3 + 5 / x)) == "3 + 5 / x"
    assert laws.fit("constant", x, [7.0, 7.1, 6.9, 7.0]).straight
    assert not laws.fit("constant", x, 3 + 5 / x).straight
