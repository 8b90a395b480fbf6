"""Turns the `ml_collections.ConfigDict` that config files and the command line edit into frozen dataclasses.

No other file sees a ConfigDict. Every section is built as `Section(**section)`, so that a misspelt or unused
key is an error.
"""

import dataclasses
import importlib.util
import math
import os
import traceback
import typing
from pathlib import Path

import ml_collections

from seed_jax.config.sections import Config, Data, Evals, Log, Optim, Student, Teacher, Train
from seed_jax.errors import UserError, unknown
from seed_jax.methods import METHODS

__all__ = [
    "Config",
    "Data",
    "Evals",
    "Log",
    "Optim",
    "Student",
    "Teacher",
    "Train",
    "call",
    "default",
    "keys",
    "load",
    "located",
    "packaged",
    "resolve",
    "smoke",
    "variant",
]

CONFIGS = Path(__file__).parents[1] / "configs"
SECTIONS = {f.name: f.type for f in dataclasses.fields(Config) if dataclasses.is_dataclass(f.type)}


def packaged() -> list[str]:
    """Names of the configs that come with the package."""
    return sorted(path.stem for path in CONFIGS.glob("*.py") if path.stem != "__init__")


def located(file: str) -> str:
    """The path of a config file, with its variant if `file` names one.

    `seed_folder`, `seed_folder.py` and `configs/seed_folder.py` are the packaged config unless such a file
    exists in the current folder.

    >>> located("seed_folder:smoke").endswith("configs/seed_folder.py:smoke")
    True

    Raises:
      UserError: there is neither such a file nor such a name.
    """
    path, colon, variant = file.partition(":")
    if not Path(path).is_file():
        name = path.removeprefix("configs/").removesuffix(".py")
        if name not in packaged():
            raise UserError(f"--config: no file {path}. {unknown('config', name, packaged())}")
        path = str(CONFIGS / f"{name}.py")
    return f"{path}{colon}{variant}"


def call(path: str | os.PathLike, name: str, *arguments, **options):
    """Run a Python file of the user's, a config or a comparison, and return what its function `name` returns.

    Args:
      arguments, options: of the function.

    Raises:
      UserError: there is no such file or function, or the user's code raises an exception. If that is a
        `UserError`, it is raised as it is.
    """
    path = Path(path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or not path.is_file():
        raise UserError(f"There is no Python file {path}: name one that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if hasattr(module, name):
            return getattr(module, name)(*arguments, **options)
    except UserError:
        raise
    except Exception as error:  # the user's code may raise anything
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f", line {frame.lineno}," for frame in frames if frame.filename == spec.origin]
        what = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
        raise UserError(f"{path}{lines[-1] if lines else ''} cannot be run ({what}): correct it.") from error
    raise UserError(f"{path} has no function {name}: add it.")


def load(file: str) -> ml_collections.ConfigDict:
    """Load a config from a file or by the name of a packaged one; `file` may end in `:VARIANT`.

    Raises:
      UserError: as `located` and `call`, the file has no such variant, or it returns no ConfigDict.
    """
    path, _, variant = located(file).partition(":")
    made = call(path, "get_config", *([variant] if variant else []))
    if not isinstance(made, ml_collections.ConfigDict):
        raise UserError(f"{path}: get_config returned {type(made).__name__}: let it return a ConfigDict.")
    return made


def default(method: str) -> ml_collections.ConfigDict:
    """The defaults of every section and of one method, for a config file to edit."""
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    config = ml_collections.ConfigDict(
        {name: dataclasses.asdict(section()) for name, section in SECTIONS.items()}
    )
    config.method = ml_collections.ConfigDict({"name": method, **dataclasses.asdict(METHODS[method]())})
    return config


def variant(config: ml_collections.ConfigDict, name: str) -> ml_collections.ConfigDict:
    """The variant NAME of `--config=configs/x.py:NAME`: '' is the config itself; every file has 'smoke'."""
    if name in ("", "smoke"):
        return smoke(config) if name else config
    raise UserError(f"Unknown config variant '{name}': use 'smoke', or a variant from the file's header.")


SMALLEST = {
    "": "resnet18",
    "resnet34": "resnet18",
    "resnet50": "resnet18",
    "mobilenetv3_large": "mobilenetv3_small",
    "vit_base": "vit_small",
    "vit_large": "vit_small",
    "fd_vit_base": "fd_vit_small",
    "fd_vit_large": "fd_vit_small",
    "swin_small": "swin_tiny",
    "swin_base": "swin_tiny",
    "swinv2_small": "swinv2_tiny",
    "swinv2_base": "swinv2_tiny",
    "swinv2_giant": "swinv2_tiny",
    **{f"cifar_resnet{size}": "cifar_resnet8" for size in (14, 20, 32, 44, 56, 110, "8x4", "32x4")},
    **{f"wrn_{size}": "wrn_16_1" for size in ("16_2", "40_1", "40_2")},
    "vgg13": "vgg8",
    "mobilenetv2": "mobilenetv2_half",
}


def smoke(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A run of 4 steps that takes a minute on any machine: embedded digits, small views, a random teacher,
    the smallest network of the student's family, the method's fields within its `smoke` bounds.
    """
    config.data.source, config.data.dir = "digits", ""
    config.data.train, config.data.val, config.data.test, config.data.bank = "train", "val", "test", ""
    config.data.batch_size, config.data.image_size = 16, 32
    config.evals.bank_size, config.evals.batch_size = 64, 64
    config.train.epochs, config.train.steps, config.train.examples = 0.0, 4, 0
    config.train.bn_group = min(config.train.bn_group, 4)
    config.log.every_steps = 2
    config.student.model = SMALLEST.get(config.student.model, config.student.model)
    for name, bound in METHODS[config.method.name].smoke.items():
        config.method[name] = min(config.method[name], bound)
    if config.teacher.weights:
        config.teacher.weights = "random"
        config.teacher.model = SMALLEST.get(config.teacher.model, config.teacher.model)
        config.teacher.options = ml_collections.ConfigDict()
    return config


def resolve(raw: ml_collections.ConfigDict) -> Config:
    """The frozen form of a ConfigDict.

    Raises:
      UserError: a section, key or method is unknown (names the nearest known one), or a value is not allowed.
    """
    values = raw.to_dict()
    for name in values:
        if name not in SECTIONS and name != "method":
            raise unknown("config section", name, [*SECTIONS, "method"])
    sections = {name: _section(name, cls, values.get(name, {})) for name, cls in SECTIONS.items()}
    fields = dict(values.get("method", {}))
    method_name = fields.pop("name", "")
    if method_name not in METHODS:
        raise unknown("method.name", method_name, METHODS)
    config = Config(
        method=_section("method", METHODS[method_name], fields), method_name=method_name, **sections
    )
    _check(config)
    config.method.check(config.data, config.train)
    return config


def keys() -> list[str]:
    """All keys, `section.name`, those of every method included."""
    sections = [*SECTIONS.items(), *(("method", method) for method in METHODS.values())]
    names = {f"{name}.{field.name}" for name, cls in sections for field in dataclasses.fields(cls)}
    return sorted(names | {"method.name"})


def _section(name: str, cls, values: dict):
    known = {f.name: f for f in dataclasses.fields(cls)}
    for key in values:
        if key not in known:
            raise unknown("config key", f"{name}.{key}", [f"{name}.{k}" for k in known])
    return cls(**{k: _as_field(f"{name}.{k}", known[k].type, value) for k, value in values.items()})


KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", dict: "a dictionary"}


def _as_field(key: str, kind, value):
    """A config's value as its field has it: lists become tuples, and 'knn,top1' a tuple of two names.

    Raises:
      UserError: the value is of another type, or a number in it is NaN or infinite.
    """
    if not _finite(value):
        raise UserError(f"{key} is {value!r}: it must be finite.")
    if typing.get_origin(kind) is not tuple:
        if kind in KINDS and not _is(kind, value):
            raise UserError(f"{key} is {value!r}: it must be {KINDS[kind]}.")
        return value
    element = typing.get_args(kind)[0]
    elements = [value] if element is str and isinstance(value, str) else value
    if not isinstance(elements, list | tuple) or not all(_is(element, x) for x in elements):
        raise UserError(f"{key} is {value!r}: it must be a tuple, each element {KINDS[element]}.")
    if element is str:
        return tuple(name for text in elements for name in text.split(",") if name)
    return tuple(elements)


def _is(kind, value) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _finite(value) -> bool:
    """Whether every number in a value, also within lists and dictionaries, is finite."""
    if isinstance(value, dict):
        return all(_finite(x) for x in value.values())
    if isinstance(value, list | tuple):
        return all(_finite(x) for x in value)
    return not isinstance(value, float) or math.isfinite(value)


def _check(c: Config) -> None:
    for name in SECTIONS:
        getattr(c, name).check()
    if c.train.bn_group and c.data.batch_size % c.train.bn_group:
        raise UserError(
            f"train.bn_group is {c.train.bn_group}, which does not divide data.batch_size "
            f"({c.data.batch_size}): use a divisor of it, or 0."
        )
