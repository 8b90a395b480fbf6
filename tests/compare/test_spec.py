"""Comparison files: what they say, and mistakes in them."""

import dataclasses

import pytest
import toy_comparison

from seed_jax.compare import Comparison, Trained, Untrained, spec
from seed_jax.errors import UserError

ROW = Trained("a", "digits_teacher")


def test_rows_come_after_the_rows_that_they_need():
    order = toy_comparison.get_comparison().in_order()
    assert order.index("teacher") < order.index("SEED")
    assert sorted(order) == ["MoCo", "SEED", "pixels", "teacher", "untrained"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "b"}, "Unknown row in baseline 'b'"),
        ({"seeds": (1, 0, 1)}, "Seed 1 is given twice"),
        ({"seeds": ()}, "seeds is empty"),
        ({"evals": ()}, "evals is empty"),
        ({"seeds": 3}, r"seeds of the comparison is 3: write a tuple, as in seeds=\(0, 1, 2\)"),
        ({"seeds": (0, "1")}, "seeds has '1': write whole numbers"),
        ({"evals": "knn"}, "evals of the comparison is 'knn': write a tuple"),
        ({"evals": ("knn", "knnn")}, "has 'knnn', which is no share .*: use knn, linear or top1, or"),
        ({"evals": ("neighbours",)}, "has 'neighbours', which is no share of the test images"),
        ({"notes": "A sentence."}, "notes of the comparison is 'A sentence.': write a tuple"),
        ({"rows": ROW}, "rows of the comparison is Trained"),
        ({"rows": ()}, "has no rows"),
        ({"rows": (ROW, ROW)}, "Two rows are called 'a'"),
        ({"rows": (ROW, Trained("A!", "digits_seed"))}, "share the folder 'a'"),
        ({"rows": (ROW, Trained("b", "digits_seed", teacher="c"))}, "Unknown trained row .* 'c'"),
        ({"rows": (ROW, Untrained("b", "pixels", like="c"))}, "Unknown trained row in `like` of 'b' 'c'"),
        (
            {"rows": (ROW, Trained("b", "x", teacher="c"), Trained("c", "x", start="b"))},
            "The rows b, c need each other",
        ),
    ],
)
def test_mistakes_are_one_sentence(changes, message):
    fields = {"title": "t", "rows": (ROW,), "baseline": "a"} | changes
    with pytest.raises(UserError, match=message):
        Comparison(**fields)


def test_lists_are_tuples_and_classifiers_have_names_of_their_own():
    made = Comparison("t", [ROW], "a", seeds=[3], evals=["linear", "exit1_top1"])
    assert (made.rows, made.seeds, made.evals) == ((ROW,), (3,), ("linear", "exit1_top1"))


def test_overrides_and_seed_change_the_config_and_not_the_file():
    row = Trained("a", "digits_teacher", {"optim.lr": 0.5, "student.options": {"width": 0.5}})
    raw = row.raw(7)
    assert (raw.optim.lr, raw.train.seed, raw.student.options.width) == (0.5, 7, 0.5)
    assert dataclasses.replace(row, overrides={}).raw(0).optim.lr == 0.12


def test_an_override_that_is_no_key():
    with pytest.raises(UserError, match="overrides of row 'a' 'optm.lr': did you mean 'optim.lr'"):
        Trained("a", "digits_teacher", {"optm.lr": 0.5}).raw(0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "There is no Python file"),
        ("x =", r"compare.py cannot be run \(SyntaxError: invalid syntax .*line 1\)"),
        ("x = 1", "has no function get_comparison"),
        ("import nothing_of_this_name", "compare.py, line 1, cannot be run .*nothing_of_this_name"),
        ("def get_comparison(): return 3", "cannot be run .*unexpected keyword argument 'quick'"),
        ("def get_comparison(quick):\n    return [][1]", "line 2, cannot be run .IndexError: list index"),
        ("def get_comparison(quick): return 3", "returned int"),
    ],
)
def test_files_that_are_no_comparison(tmp_path, text, message):
    path = tmp_path / "compare.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        spec.load(path)
