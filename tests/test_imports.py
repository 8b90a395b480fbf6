"""Imports run one way, as docs/architecture.md draws them; the top level is a table of contents."""

import ast
import graphlib
from pathlib import Path

import pytest

import seed_jax

ROOT = Path(seed_jax.__file__).parent
FILES = {
    ".".join(("seed_jax", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}
# What reads a run back lies below `pretrained`; what trains lies above it.
READING = {f"seed_jax.train.{name}" for name in ("state", "student", "checkpoint", "damage", "workdir")}


def imported(path):
    """Modules of the package that a file imports, also within functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("seed_jax"):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in FILES else node.module


GRAPH = {module: set(imported(path)) - {module} for module, path in FILES.items()}


def reachable(module):
    seen, waiting = set(), [module]
    while waiting:
        new = GRAPH[waiting.pop()] - seen
        seen |= new
        waiting += new
    return seen


def test_no_two_modules_need_each_other():
    graphlib.TopologicalSorter(GRAPH).prepare()  # raises CycleError with the circle


@pytest.mark.parametrize("room", ["methods", "models", "losses", "data", "queue", "rng", "errors"])
def test_the_lower_rooms_know_nothing_of_runs(room):
    upper = ("train", "weights", "evals", "report", "pretrained", "config", "embed")
    for module in FILES:
        if module.split(".")[1:2] == [room]:
            rooms = {name.split(".")[1] for name in reachable(module) if "." in name}
            assert not rooms & set(upper), module


def test_a_run_is_read_back_without_what_trains():
    for module in READING:
        trained = {name for name in reachable(module) if name.startswith("seed_jax.train.")}
        assert trained <= READING, module
        assert "seed_jax.pretrained" not in reachable(module)


def test_the_top_level_is_a_table_of_contents():
    names = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert len(names - {"__init__"}) <= 16
