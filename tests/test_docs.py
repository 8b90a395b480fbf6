"""The pages in docs/: links and quotes are right, the printed code runs, and the page of keys is current."""

import dataclasses
import importlib
import inspect
import math
import re
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from seed_jax import config, evals, methods, models, parallel
from seed_jax.config import __main__ as command
from seed_jax.config import sections
from seed_jax.configs import digits_seed, digits_teacher
from seed_jax.data import sources
from seed_jax.data.pipeline import train_batches
from seed_jax.data.sources import open_source
from seed_jax.report import metrics
from seed_jax.train import build, loop, step, teacher, workdir

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
FILE = r"(?:[\w.]+/)*\w+\.py"


def prose(page):
    """The text of a page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page):
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def defined(file):
    """Names that a Python file defines: constants, functions, also inner ones, classes and `Class.method`."""
    text, names, scope = file.read_text(), set(), []
    for indent, name in re.findall(r"^( *)(?:(?:async )?def|class) (\w+)", text, flags=re.MULTILINE):
        scope = [*scope[: len(indent) // 4], name]
        names |= {name, ".".join(scope)}
    return names | {*re.findall(r"^(\w+)(?:: [^=\n]+)? =", text, flags=re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_in_files_exist(page):
    """``file.py: name`` and ``[file.py](link): `name` ``, where the file is ours."""
    named = re.findall(rf"`({FILE}): ([\w.]+)`|\]\(([^)\s]+\.py)\): `([\w.]+)`", prose(page))
    for path, name, link, linked_name in named:
        places = [ROOT / path, ROOT / "seed_jax" / path] if path else [page.parent / link]
        files = [place for place in places if place.is_file()]
        assert files, path
        assert (name or linked_name) in defined(files[0]), (path or link, name or linked_name)


def test_the_page_of_keys_is_current(capsys, monkeypatch):
    monkeypatch.delitem(models.MODELS, "tiny", raising=False)  # tests add it
    assert command.main(["keys"]) == 0
    hint = "run `python -m seed_jax.config keys > docs/config.md`"
    assert capsys.readouterr().out == (DOCS / "config.md").read_text(), hint


def test_the_page_has_every_key():
    page = command.page()
    keys = re.findall(r"^\| `([\w.]+)` \|", page, flags=re.MULTILINE)
    assert {*keys} == {*config.keys()} - {"method.name"}
    assert "| `optim.name` | `str` | `'sgd'` | 'sgd', 'adamw' or 'lars'. |" in page


def test_the_page_has_every_choice(monkeypatch):
    """The values that the checks compare with, and the tables that a run looks names up in."""
    choices = {"data.source": sources.SOURCES, "student.model": models.MODELS, "method.name": methods.METHODS}
    monkeypatch.setattr(sections, "_choice", lambda key, value, allowed: choices.update({key: allowed}))
    for section, cls in config.SECTIONS.items():
        (cls(steps=1) if section == "train" else cls()).check()
    assert {"optim.schedule", "data.photometric", "evals.names", "train.precision"} <= {*choices}
    page = command.page()
    for key, names in choices.items():
        text = "\n".join(re.findall(rf"^(?:\| )?`{key}`.*", page, re.MULTILINE))
        for name in names:
            assert re.search(rf"\b{name}\b", text), (key, name)


@dataclasses.dataclass(frozen=True)
class Section:
    """A section.

    Attributes:
      a, b: two
        lines.
      c: one.

    Raises:
      d: nothing.
    """

    a: int = 0
    b: int = 0
    c: int = 0


@dataclasses.dataclass(frozen=True)
class Undocumented(Section):
    __doc__ = Section.__doc__

    d: int = 0


def test_every_key_must_be_explained(monkeypatch):
    assert command.meanings(Section) == {"a": "two lines.", "b": "two lines.", "c": "one."}
    monkeypatch.setitem(methods.METHODS, "section", Section)
    assert "| `method.b` | `int` | `0` | two lines. |" in command.page()
    monkeypatch.setitem(methods.METHODS, "section", Undocumented)
    with pytest.raises(ValueError, match=r"Undocumented\.d has no entry under Attributes"):
        command.page()


@pytest.mark.parametrize("arguments", [[], ["list"]])
def test_list_names_every_config_and_how_to_run_it(capsys, arguments):
    assert command.main(arguments) == 0
    text = capsys.readouterr().out
    for name in config.packaged():
        assert re.search(
            rf"^{name}\n  \w.*\n(  .*\n)*    seed-jax train --config={name} --workdir", text, re.M
        )
    assert "\\" not in text


def test_show_prints_the_header_and_marks_what_differs(capsys):
    assert command.main(["show", "seed_r50_to_mbv3:official_code"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("SEED, the paper's main run") and "\nHardware: 200 epochs" in text
    assert "\n* method.tau_teacher = 0.0001   (default 0.01)\n" in text
    assert "\n  method.tau_student = 0.2\n" in text
    assert "\n  method.name = 'seed'\n" in text
    module = importlib.import_module("seed_jax.configs.seed_r50_to_mbv3")
    resolved = config.resolve(module.get_config("official_code"))
    shown = dict(re.findall(r"^[* ] (\S+) = (.*?)(?:   \(default .*)?$", text, flags=re.MULTILINE))
    want = {
        f"{s}.{f}": v for s in (*config.SECTIONS, "method") for f, v in vars(getattr(resolved, s)).items()
    }
    assert shown == {key: repr(value) for key, value in want.items()} | {"method.name": "'seed'"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("seed_fodler", "Unknown config 'seed_fodler': did you mean 'seed_folder'?"),
        ("configs/seed_folder.py:large", "Unknown config variant 'large': use 'smoke', or"),
    ],
)
def test_show_of_an_unknown_config_is_one_sentence(capsys, name, message):
    assert command.main(["show", name]) == 1
    error = capsys.readouterr().err
    assert error.startswith(message) and len(error.splitlines()) == 1


FOLLOW = DOCS / "follow_one_batch.md"


def test_quotes_are_in_the_files_they_name():
    quotes = re.findall(
        r"^\[[^\]]*\]\(([^)\s]+\.py)\)[^\n]*:\n\n```python\n(.*?)^```$",
        FOLLOW.read_text(),
        re.DOTALL | re.MULTILINE,
    )
    assert len(quotes) == FOLLOW.read_text().count("```python") >= 12
    for link, quote in quotes:
        assert quote in (DOCS / link).read_text(), f"{link}:\n{quote}"
        assert len(quote.splitlines()) <= 12, quote


PLACES = {"rows": P(parallel.DATA_AXIS), "rows of every slot": P(None, parallel.DATA_AXIS), "all": P()}


def test_shapes_and_devices_are_those_of_the_run():
    """The table of shapes, for the run of the quick start with an untrained teacher of the same network.

    Features are where the compiler puts them for a batch that is placed as the loop places it.
    """
    raw = digits_seed.get_config()
    teacher_options = digits_teacher.get_config().student
    raw.teacher = {**raw.teacher, "model": teacher_options.model, "options": teacher_options.options}
    c = config.resolve(raw)
    source = open_source(c.data.source, c.data.train)
    network = teacher.undrawn(c.teacher, "fp32")
    pixels = jax.ShapeDtypeStruct((128, 16, 16, 3), jnp.float32)
    loaded = teacher.Loaded(network, jax.eval_shape(network.init, jax.random.key(0), pixels), {})
    length = build.lengths(c, len(source))
    given = build.make_given(c, length, source.num_classes, loaded)
    mesh = parallel.make_mesh()
    training = build.assemble(c, mesh, given, network)
    state = training.abstract
    variables = {"params": state.params, **state.model_state}
    batch = parallel.to_devices(mesh, next(train_batches(source, training.views, 128, 0)))

    def forward(variables, teacher_variables, batch):
        seen = step._seen(batch, training.views, 0, training.student)
        x = seen.views[0][:, 0]
        student, _ = training.student.apply(variables, x, False)
        return {"Batch": seen, "student": student, "teacher": network.apply(teacher_variables, x, False)[0]}

    everywhere = parallel.replicated(mesh)
    where = (everywhere, everywhere, parallel.batch_sharding(mesh))
    with jax.set_mesh(mesh):
        lowered = jax.jit(forward, in_shardings=where).lower(variables, loaded.variables, batch)
    arrays = {"batch": batch, **lowered.out_info, **vars(state)}
    shardings = {
        "batch": jax.tree.map(lambda x: x.sharding, batch),
        **lowered.compile().output_shardings,
        **vars(training.shardings),
    }
    page = FOLLOW.read_text()
    rows = re.findall(r"^\| `(.*?)` \| \[(.*?)\] \| (\w+) \| ([\w ]+) \|", page, flags=re.MULTILINE)
    assert len(rows) >= 12
    for name, shape, dtype, devices in rows:
        array, sharding = eval(name, arrays), eval(name, shardings)
        assert (shape, dtype) == (", ".join(map(str, array.shape)), array.dtype.name), name
        said = NamedSharding(mesh, PLACES[devices])
        assert sharding.is_equivalent_to(said, len(array.shape)), (name, sharding)
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    assert f"{parameters:,} numbers" in page
    assert f"{len(source):,} training images, so {length.epoch} steps per epoch" in page


ADDED = re.findall(
    rf"^`({FILE})`:\n\n```python\n(.*?)^```$", (DOCS / "adding.md").read_text(), re.DOTALL | re.MULTILINE
)
TABLES = {
    "METHODS": (methods.METHODS, "methods"),
    "MODELS": (models.MODELS, "models"),
    "READERS": (sources.READERS, "data.sources"),
    "EVALUATORS": (evals.EVALUATORS, "evals"),
}


@pytest.fixture(scope="module")
def added():
    """The files of docs/adding.md as modules, by path; the rows it names are in the tables."""
    page = (DOCS / "adding.md").read_text()
    rows = re.findall(r"^Row in `(\w+)`: `(.*)`$", page, flags=re.MULTILINE)
    assert {table for table, _ in rows} == {*TABLES}
    assert page.count("```python") == len(ADDED)
    modules = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tests" / "methods")
        for path, code in ADDED:
            name = path.removesuffix(".py").replace("/", ".")
            modules[path] = types.ModuleType(name)
            patch.setitem(sys.modules, name, modules[path])
            exec(compile(code, path, "exec"), modules[path].__dict__)
        for table, row in rows:
            entries, package = TABLES[table]
            names = {}
            for path, module in modules.items():
                if path.startswith(f"seed_jax/{package.replace('.', '/')}/"):
                    names |= vars(module)
            for key, value in eval(f"{{{row}}}", names).items():
                assert key not in entries
                patch.setitem(entries, key, value)
        # The table of all sources is computed from READERS when the package is imported.
        patch.setattr(sources, "SOURCES", (*sources.SOURCES, *sources.READERS))
        yield modules


@pytest.mark.parametrize("path", [path for path, _ in ADDED if path.startswith("tests/")])
def test_the_printed_tests_pass(added, path, tmp_path):
    functions = {name: test for name, test in vars(added[path]).items() if name.startswith("test_")}
    assert functions
    for name, test in functions.items():
        (tmp_path / name).mkdir()
        known = {"tmp_path": tmp_path / name}
        test(**{argument: known[argument] for argument in inspect.signature(test).parameters})


def test_the_files_are_where_the_page_says(added):
    """Each module has its test, and none exists already: the page describes what is to be added."""
    for path, _ in ADDED:
        assert not (ROOT / path).exists()
        if path.startswith("seed_jax/") and path != "seed_jax/methods/similarity.py":
            room = "data" if "/data/" in path else path.split("/")[1]
            assert f"tests/{room}/test_{Path(path).name}" in added


def run(added, directory, method, **overrides):
    """Six steps of the printed config, small, with another method where `method` says so."""
    (directory / "images").mkdir(parents=True)
    for part, count in (("train", 24), ("test", 8)):
        added["tests/data/test_stl10.py"].write(directory / "images", part, count)
    c = added["configs/cosine_stl10.py"].get_config()
    c.method = config.default(method).method
    c.data.dir, c.data.image_size, c.data.batch_size = str(directory / "images"), 16, 16
    c.data.flip, c.data.padding = 0.0, 0  # nearly the same batch each time: the loss must fall
    c.student.options.width = 0.125
    c.teacher.weights, c.teacher.model, c.teacher.dim = "random", "tiny", 8
    c.train.epochs, c.train.steps, c.train.bn_group = 0.0, 6, 8
    c.train.checkpoint_epochs = c.evals.every_epochs = 6.0
    c.evals.names, c.evals.batch_size = ("centroid",), 32
    c.log.every_steps, c.log.tensorboard = 1, False
    c.update_from_flattened_dict(overrides)
    loop.run(c, directory / "run")
    return metrics.read(directory / "run")


def test_the_method_trains_the_model_on_the_source_and_the_evaluator_probes(added, tmp_path, monkeypatch):
    monkeypatch.setitem(models.MODELS, "tiny", tiny.Tiny)
    rows = run(added, tmp_path, "cosine")
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 6
    assert losses[-1] < losses[0] < 2
    probes = {row["step"]: row for row in rows if "centroid" in row}
    assert {*probes} == {0, 6}
    assert all(0 <= row["centroid"] <= 1 for row in probes.values())
    assert "teacher_centroid" in probes[0]
    loaded = workdir.load_run(tmp_path / "run")
    assert type(loaded.network.backbone.module) is added["seed_jax/models/conv4.py"].Conv4
    assert loaded.network.parts["projector"].dim == 8


def test_a_method_with_the_loss_trains(added, tmp_path, monkeypatch):
    monkeypatch.setitem(models.MODELS, "tiny", tiny.Tiny)
    rows = run(added, tmp_path, "similarity", **{"evals.names": (), "optim.lr": 0.5})
    losses = [row["loss"] for row in rows if "loss" in row]
    assert math.isfinite(losses[-1]) and np.mean(losses[3:]) < np.mean(losses[:3])
