"""The plots of the ablation: one for each setting with at least two values, in order of the values."""

import json
from pathlib import Path

import pytest

from experiments.seed_ablation import __main__ as command
from experiments.seed_ablation.__main__ import main
from experiments.seed_ablation.comparison import AXES, IMAGES, SEED, of, row
from seed_jax import config
from seed_jax.errors import UserError


def results(rows):
    return json.dumps({"rows": [{"name": name, "scores": {"knn": scores}} for name, scores in rows.items()]})


def test_a_plot_has_the_values_in_order_and_a_setting_with_one_value_has_none(tmp_path, capsys):
    scores = {SEED: [80.0, 82.0], row("queue size K", 128): [60.0, 61.0], row("queue size K", 2048): [79.0]}
    (tmp_path / "results.json").write_text(results(scores))
    assert main(["--plots", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "queue-size-K.svg")]
    text = (tmp_path / "queue-size-K.svg").read_text()
    assert "128 60.5, 1024 81.0, 2048 79.0" in text


@pytest.mark.parametrize("data", IMAGES)
def test_each_row_differs_from_the_first_in_one_key(data):
    comparison = of(data)
    base = comparison.row(SEED).config.to_dict()
    seen = 0
    for name, axis in AXES.items():
        for value in axis.others:
            trained = comparison.row(row(name, value))
            changed = comparison.row(trained.teacher).config if axis.of_teacher else trained.config
            first = comparison.row(comparison.row(SEED).teacher).config.to_dict() if axis.of_teacher else base
            assert differing(first, changed.to_dict()) == [axis.key]
            assert str(of_key(first, axis.key)).removeprefix("resnet") == str(axis.own)
            assert trained.overrides == comparison.row(SEED).overrides == IMAGES[data]
            config.resolve(trained.config)
            seen += 1
    assert len(comparison.rows) == 2 + seen + sum(len(a.others) for a in AXES.values() if a.of_teacher)


def of_key(tree, key):
    for part in key.split("."):
        tree = tree[part]
    return tree


def differing(one, other, prefix=""):
    keys = []
    for key in {*one, *other}:
        if isinstance(one.get(key), dict):
            keys += differing(one[key], other[key], f"{prefix}{key}.")
        elif one.get(key) != other.get(key):
            keys.append(prefix + key)
    return keys


def test_plots_need_a_folder():
    with pytest.raises(UserError, match="--plots takes one folder"):
        main.__wrapped__(["--plots"])


def test_both_data_sets_unless_one_is_named(monkeypatch):
    ran = []
    monkeypatch.setattr(command.compare, "main", lambda arguments: ran.append(arguments) or len(ran) - 1)
    assert main.__wrapped__(["--plan"]) == 1
    assert main.__wrapped__(["fashion", "--plan", "--quick"]) == 2
    names = [(Path(folder).name, *flags) for folder, *flags in ran]
    assert names == [("scattered", "--plan"), ("fashion", "--plan"), ("fashion", "--plan", "--quick")]
