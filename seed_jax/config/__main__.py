"""python -m seed_jax.config [list]       the packaged configs
python -m seed_jax.config show NAME    the header of a config and all its values; NAME:VARIANT for a variant
python -m seed_jax.config keys         every key, as a Markdown page (docs/config.md)
"""

import argparse
import dataclasses
import importlib
import inspect
import re
import sys
import textwrap
from types import ModuleType

from seed_jax.config import SECTIONS, packaged, resolve
from seed_jax.data.augmentations import POLICIES
from seed_jax.data.photometric import PRESETS
from seed_jax.data.sources import SOURCES
from seed_jax.errors import command, unknown
from seed_jax.evals import EVALUATORS
from seed_jax.methods import METHODS
from seed_jax.models import MODELS

# Keys whose values are names in a table, listed below the table of their section.
NAMES = {
    "data": {"`data.source`": SOURCES, "`data.photometric`": PRESETS, "`data.policy`": POLICIES},
    "student": {"`student.model` and `teacher.model`": MODELS},
    "evals": {"`evals.names`": EVALUATORS},
}
COLUMNS = ("key", "type", "default", "meaning")
PAGE = """\
# Every config key

`python -m seed_jax.config keys` prints this page; `python -m seed_jax.config show NAME` prints the values of
one config. Set a key in a config file (`c.optim.lr = 0.1`) or on the command line, where tuples and
dictionaries need quotes:

```bash
python main.py --config=seed_folder --workdir=runs/mine --config.data.dir=PHOTOS --config.optim.lr=0.1 \\
  --config.data.crop_scale='(0.3,1.0)' --config.student.options='{"width":0.5}' --config.evals.names=knn
```

Values are checked before the run starts ([seed_jax/config](../seed_jax/config/__init__.py): `resolve`). An
unknown key, a value of another type or a value that is not allowed ends the command with one sentence.
"""


@command
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m seed_jax.config", description="The packaged configs, and the keys of every config."
    )
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("list", help="list the packaged configs and how to run each one (the default)")
    show_parser = commands.add_parser("show", help="print the header of a config and all its values")
    show_parser.add_argument("name", help="a packaged config; NAME:VARIANT for a variant")
    commands.add_parser("keys", help="print every key with its type, default and meaning, as Markdown")
    options = parser.parse_args(arguments)
    if options.command == "show":
        print(show(options.name), end="")
    elif options.command == "keys":
        print(page(), end="")
    else:
        print("\n\n".join(summary(name) for name in packaged()))
    return 0


def summary(name: str) -> str:
    """What a packaged config is, and the first command of its header."""
    header = _file(name).__doc__
    title = " ".join(header.split("\n\n")[0].split())
    lines = re.search(r"^Run: +((?:.*\\\n)*.*)", header, flags=re.MULTILINE)[1]
    run = " ".join(lines.replace("\\\n", " ").split())
    run = run.replace(f"python main.py --config=configs/{name}.py", f"seed-jax train --config={name}")
    return f"{name}\n{textwrap.indent(textwrap.fill(title, 100), '  ')}\n    {run}"


def show(name: str) -> str:
    """The header of a packaged config and its values, one `section.key = value` a line.

    A `*` marks a value that differs from the default; the default follows it.

    Args:
      name: of the config, with `:VARIANT` for a variant.

    Raises:
      UserError: there is no such config or variant.
    """
    name, _, variant = name.partition(":")
    file = _file(name)
    config = resolve(file.get_config(variant))
    lines = [f"  method.name = {config.method_name!r}"]
    for section in (*SECTIONS, "method"):
        values = getattr(config, section)
        for field in dataclasses.fields(values):
            value, default = getattr(values, field.name), _default(field)
            line = f"{section}.{field.name} = {value!r}"
            lines.append(f"  {line}" if value == default else f"* {line}   (default {default!r})")
    return "\n".join([inspect.cleandoc(file.__doc__), "", *lines, ""])


def page() -> str:
    """docs/config.md: every key of every section and of every method.

    Raises:
      ValueError: a key has no entry under `Attributes:` in the docstring of its class.
    """
    parts = [PAGE]
    for section, cls in SECTIONS.items():
        parts.append(f"## {section}\n\n{_first_line(cls)}\n\n{_table(section, cls)}")
        parts += [f"{key}: {', '.join(names)}.\n" for key, names in NAMES.get(section, {}).items()]
    names = ", ".join(f"`{name}`" for name in METHODS)
    parts.append(
        "## method\n\n`method.name` chooses the method; a config file gets its keys from "
        f"`config.default(NAME)`. The methods are {names}.\n"
    )
    for name, cls in METHODS.items():
        parts.append(f"### {name}\n\n{_first_line(cls)}\n\n{_table('method', cls)}")
    return "\n".join(parts)


def meanings(cls) -> dict[str, str]:
    """The text of each entry under `Attributes:` in a class's docstring, by attribute.

    An entry `a, b: text` gives both attributes that text.
    """
    _, _, entries = inspect.getdoc(cls).partition("Attributes:\n")
    found, names = {}, []
    for line in entries.partition("\n\n")[0].splitlines():
        if start := re.match(r"  (\w+(?:, \w+)*): (.*)", line):
            names, text = start[1].split(", "), start[2]
            found |= dict.fromkeys(names, text)
        else:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


def _table(section: str, cls) -> str:
    explained, rows = meanings(cls), [COLUMNS, ("---",) * len(COLUMNS)]
    for field in dataclasses.fields(cls):
        if field.name not in explained:
            raise ValueError(f"{cls.__name__}.{field.name} has no entry under Attributes in the docstring.")
        kind = field.type.__name__ if isinstance(field.type, type) else str(field.type)
        code = f"`{section}.{field.name}`", f"`{kind}`", f"`{_default(field)!r}`"
        rows.append((*code, explained[field.name]))
    lines = (" | ".join(("", *(cell.replace("|", r"\|") for cell in row), "")).strip() for row in rows)
    return "\n".join(lines) + "\n"


def _default(field: dataclasses.Field):
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _first_line(cls) -> str:
    return inspect.getdoc(cls).splitlines()[0]


def _file(name: str) -> ModuleType:
    name = name.removeprefix("configs/").removesuffix(".py")
    if name not in packaged():
        raise unknown("config", name, packaged())
    return importlib.import_module(f"seed_jax.configs.{name}")


if __name__ == "__main__":
    sys.exit(main())
