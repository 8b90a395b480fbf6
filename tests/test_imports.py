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
# From docs/architecture.md: a module may import from its own layer and from those above it in this list.
LAYERS = [
    "seed_jax errors",
    "data",
    "parallel models losses analysis",
    "methods report",
    "evals.features evals.base evals.knn evals.top1 evals.linear evals",
    "config",
    "train.state train.student train.damage train.checkpoint train.workdir train",
    "weights",
    "weights.pretrained evals.online evals.final evals.pixels evals.embed evals.images evals.subject "
    "evals.protocols",
    "train.teacher train.start train.step train.optim train.inputs train.build train.plan train.check "
    "train.monitor train.stop train.profile train.compiling train.offline train.loop train.distil "
    "train.__main__ compare "
    "rank_augmentations exits analysis.runs analysis.sections analysis.__main__ embed evals.__main__ configs "
    "__main__",
]


def layer(module):
    """The number of the most specific layer of a module."""
    name = module.removeprefix("seed_jax.")
    rooms = [(room, n) for n, names in enumerate(LAYERS) for room in names.split()]
    return max((len(room), n) for room, n in rooms if within(name, room))[1]


def within(name, room):
    return name == room or name.startswith(f"{room}.")


def imported(path):
    """Modules of the package that a file imports, also within functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            if node.module.startswith("seed_jax"):
                for alias in node.names:
                    name = f"{node.module}.{alias.name}"
                    yield name if name in FILES else node.module


GRAPH = {module: set(imported(path)) - {module} for module, path in FILES.items()}


def test_no_two_modules_need_each_other():
    graphlib.TopologicalSorter(GRAPH).prepare()  # raises CycleError with the circle


@pytest.mark.parametrize("module", FILES)
def test_imports_point_one_way(module):
    upward = {name for name in GRAPH[module] if layer(name) > layer(module)}
    assert not upward


def test_the_top_level_is_a_table_of_contents():
    names = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    commands = {"embed", "exits", "rank_augmentations"}  # which are nothing else
    assert len(names - {"__init__", "__main__"} - commands) <= 14
