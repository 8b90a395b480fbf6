"""Train from Python: the same run as `python main.py`."""

import os
from collections.abc import Mapping
from typing import Any

import ml_collections

from seed_jax import config as config_lib
from seed_jax import parallel
from seed_jax.configs import seed_folder
from seed_jax.data.sources import named
from seed_jax.errors import UserError, unknown
from seed_jax.train import loop
from seed_jax.train.stop import Stopped
from seed_jax.weights import pretrained


def distil(
    *,
    teacher: str | os.PathLike | Mapping[str, Any] = "",
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
    ...     data="images",
    ...     workdir="runs/mine",
    ...     train={"epochs": 20},
    ... )

    Args:
      teacher: `teacher.weights`: a weights file, the workdir of a run, or `pip:NAME`. Methods without a
        teacher take none.
      student: `student.model`, a key of `seed_jax.models.MODELS`.
      data: a folder of images, a file that `data.dir` takes, or else `tfds:NAME` or an embedded dataset such
        as 'digits'.
      workdir: folder of the run.
      method: `method.name`, a key of `seed_jax.methods.METHODS`.
      **overrides: other keys, by section, `optim={"lr": 0.1}`, or `**{"optim.lr": 0.1}`. `teacher`,
        `student`, `data` and `method` take such a dict too.

    Raises:
      UserError: as `loop.run`; its message is one sentence.
      KeyboardInterrupt: after Ctrl-C, when the state is saved; the same call resumes. A second Ctrl-C ends
        the process without saving.
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
        other = config_lib.default(name)
        raw.method, raw.train.bn_group = other.method, other.train.bn_group
    if not isinstance(data, Mapping):
        data = dict(zip(("source", "dir"), named(os.fspath(data)), strict=True))
    sections = {
        "teacher": teacher if isinstance(teacher, Mapping) else {"weights": os.fspath(teacher)},
        "student": student if isinstance(student, Mapping) else {"model": student},
        "data": data,
        "method": method,
    }
    for key, value in {**sections, **overrides}.items():
        section, _, field = key.partition(".")
        if section not in raw:
            raise unknown("config section", section, raw.keys())
        if "." in field:
            raise UserError(f"{key} is not a config key: give {key.rpartition('.')[0]} a dict.")
        if not field and not isinstance(value, Mapping):
            raise UserError(f"{key} is {value!r}: it must be a dict of keys, as in optim={{'lr': 0.1}}.")
        with raw.ignore_type():  # `config.resolve` checks types, with a sentence
            raw[section].update({field: value} if field else value)
    return raw
