"""Dots by layer: one for each value, means, and networks of other depths."""

import re

from seed_jax.report import svg
from seed_jax.report.dots import dots


def test_a_dot_for_each_value_and_a_key():
    series = {"student": {1: [1.0, 3.0], 2: [4.0, 6.0]}, "teacher": {1: [2.0], 2: [3.0], 3: [7.0, 9.0]}}
    figure = dots(series, title="Distance", name="d")
    text = figure.svg
    assert len(re.findall(r"<use ", text)) >= 8
    for i, count in ((0, 4), (1, 4)):
        colour = svg.CSS[svg.SERIES[i]]
        assert len(re.findall(rf"<use [^>]*fill: {re.escape(colour)}", text)) == count
    assert "student has a mean of 2 in layer 1 and 5 in layer 2" in text
    assert "teacher has a mean of 2 in layer 1 and 8 in layer 3" in text
    assert "●" in text and ">teacher<" in text


def test_values_that_are_not_finite_are_not_drawn():
    figure = dots({"student": {1: [float("nan")]}}, title="Cosine", name="c")
    assert not re.search(rf"<use [^>]*fill: {re.escape(svg.CSS[svg.SERIES[0]])}", figure.svg)
    assert "student has a mean of nan in layer 1" in figure.svg
