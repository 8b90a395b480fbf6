"""Train from Python: the same run as `python main.py`."""

import os
from collections.abc import Mapping
from typing import Any

import ml_collections

from seed_jax import config as config_lib
from seed_jax import parallel
from seed_jax.configs import seed_folder
from seed_jax.data.sources import EMBEDDED
from seed_jax.errors import UserError, unknown
from seed_jax.train import loop
from seed_jax.train.stop import Stopped
from seed_jax.weights import pretrained


def distil(
    *,
    teacher: str | Mapping[str, Any] = "",
    student: str | Mapping[str, Any],
    data: str | os.PathLike | Mapping[str, Any],
    workdir: str | os.PathLike,
    method: str | Mapping[str, Any] = "seed",
    **overrides: Any,
) -> pretrained.Pretrained:
    """Train a student, or resume if the workdir has a checkpoint; return it ready to run.

    The run equals `python main.py --config=configs/seed_folder.py` with the same keys (docs/config.md), and
    its workdir works with every command.

    >>> seed_jax.distil(  # doctest: +SKIP
    ...     teacher="pip:efficientnet-lite0",
    ...     student="mobilenetv3_small_torchvision",
    ...     data="photos",
    ...     workdir="runs/mine",
    ...     train={"epochs": 20},
    ... )

    Args:
      teacher: `teacher.weights`: a weights file, the workdir of a run, or `pip:NAME`. Methods without a
        teacher take none.
      student: `student.model`, a key of `seed_jax.models.MODELS`.
      data: a folder of images, a file that `data.dir` takes, `tfds:NAME`, or an embedded dataset such as
        'digits'.
      workdir: folder of the run.
      method: `method.name`, a key of `seed_jax.methods.METHODS`.
      **overrides: other keys, by section, `optim={"lr": 0.1}`, or `**{"optim.lr": 0.1}`. `teacher`,
        `student`, `data` and `method` take such a dict too.

    Raises:
      UserError: as `loop.run`; its message is one sentence.
      KeyboardInterrupt: after Ctrl-C, when the state is saved; the same call resumes.
    """
    raw = make_config(teacher=teacher, student=student, data=data, method=method, **overrides)
    parallel.start()
    try:
        loop.run(raw, workdir)
    except Stopped as stop:
        if stop.code:
            raise KeyboardInterrupt from stop
        raise
    return pretrained.load(os.fspath(workdir))


def make_config(*, teacher, student, data, method, **overrides) -> ml_collections.ConfigDict:
    """The config of a run; arguments as for `distil`.

    Raises:
      UserError: a key is not one of a section, or the method is unknown.
    """
    method = {"name": method} if isinstance(method, str) else dict(method)
    raw = seed_folder.get_config()
    name = method.get("name", "seed")
    if name != "seed":
        raw.method = config_lib.default(name).method
    sections = {
        "teacher": {"weights": teacher} if isinstance(teacher, str) else teacher,
        "student": {"model": student} if isinstance(student, str) else student,
        "data": data if isinstance(data, Mapping) else _place(os.fspath(data)),
        "method": method,
    }
    values = {
        f"{section}.{key}": value for section, given in sections.items() for key, value in given.items()
    }
    for key, value in overrides.items():
        nested = isinstance(value, Mapping) and "." not in key
        values |= {f"{key}.{inner}": v for inner, v in value.items()} if nested else {key: value}
    for key, value in values.items():
        section, _, field = key.partition(".")
        if not field:
            raise UserError(f"distil: {key}={value!r}: give a section a dict, as in optim={{'lr': 0.1}}.")
        if section not in raw:
            raise unknown("config section", section, raw.keys())
        with raw.ignore_type():  # `config.resolve` checks types, with a sentence
            raw[section][field] = value
    return raw


def _place(data: str) -> dict[str, str]:
    """The keys of the `data` section that name the images."""
    if data in EMBEDDED or data.startswith("tfds:"):
        return {"source": data, "dir": ""}
    return {"source": "", "dir": data}
