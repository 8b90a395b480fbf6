"""The correlation of T.stddev with test losses, on numbers whose coefficients are known."""

import numpy as np
import pytest

from experiments.da_ranking import comparison, correlate, setting


def test_coefficients_of_a_line_with_noise():
    random = np.random.default_rng(0)
    x = np.linspace(1, 2, 8)[:, None] + 0.01 * random.standard_normal((8, 3))
    found = correlate._correlation(x, 3 * x + 0.01 * random.standard_normal((8, 3)))
    for coefficient in found.values():
        low, high = coefficient["interval"]
        assert low - 1e-9 <= coefficient["value"] <= high + 1e-9 <= 1 + 2e-9
        assert coefficient["value"] > 0.9 and coefficient["p"] < 0.01
        assert len(coefficient["each seed"]) == 3
    assert found["Spearman"]["value"] == pytest.approx(1.0)
    assert found["Spearman"]["between"] == pytest.approx(1.0)


def test_two_extremes_do_not_make_a_correlation_of_what_lies_between():
    x = np.array([0.0, 4.0, 5.0, 6.0, 7.0, 20.0])[:, None]
    y = np.array([0.0, 7.0, 5.0, 5.0, 4.0, 20.0])[:, None]
    found = correlate._correlation(x, y)["Pearson"]
    assert found["value"] > 0.9 and found["between"] < -0.9


def test_noise_has_an_interval_around_0():
    random = np.random.default_rng(1)
    found = correlate._correlation(random.standard_normal((8, 3)), random.standard_normal((8, 3)))
    for coefficient in found.values():
        low, high = coefficient["interval"]
        assert low < 0 < high and coefficient["p"] > 0.05


def test_the_table_has_every_augmentation_lowest_first():
    names = comparison.AUGMENTATIONS
    t = {name: [0.001 * (n + 1), 0.001 * (n + 2)] for n, name in enumerate(names)}
    losses = {name: [1.0 + n, 2.0 + n] for n, name in enumerate(("alone", *names))}
    x, y = (np.array([of[name] for name in names]) for of in (t, losses))
    models = {
        model: {"test_loss": losses, "correlation": correlate._correlation(x, y)}
        for model in setting.STUDENTS
    }
    text = correlate._markdown(
        "scattered", {"t_stddev": t, "students": models, "between students": {"a, b": 1.0}}
    )
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    assert rows[2 : 3 + len(names)] == ["alone", *names]
    assert "Spearman between the losses of a, b: 1.00." in text
