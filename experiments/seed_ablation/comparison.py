"""SEED with one setting changed at a time: what `scattered` and `fashion` share, all but the images."""

import dataclasses
from typing import NamedTuple

from experiments.seed_strategies import setting
from seed_jax.compare import Comparison, Trained
from seed_jax.configs import digits_teacher

SEED = setting.SEED
IMAGES = {  # overrides of the quick start's
    "scattered": {},
    "fashion": {
        "data.source": "idx",
        "data.dir": "/usr/share/datasets/fashion-mnist",  # Debian's package dataset-fashion-mnist
        "data.subset": "5%",
        "data.flip": 0.5,
    },
}


class Axis(NamedTuple):
    """A setting that is changed: its key, SEED's own value, the others. `of_teacher`: it is the teacher's."""

    key: str
    own: float | int
    others: tuple
    of_teacher: bool = False


AXES = {
    "teacher's temperature": Axis("method.tau_teacher", 0.01, (0.0001, 0.05, 0.1, 0.2)),
    "student's temperature": Axis("method.tau_student", 0.2, (0.05, 0.1, 0.5)),
    "queue size K": Axis("method.queue_size", setting.SMALL_QUEUE, (128, 512, 2048)),
    "hidden width of the head": Axis("method.hidden", setting.WIDTH, (64, 2048)),
    "width of the teacher": Axis("student.options.width", 0.25, (0.125, 0.5), of_teacher=True),
    "depth of the teacher": Axis("student.model", 18, (34,), of_teacher=True),
}


def row(name: str, value) -> str:
    return SEED if value == AXES[name].own else f"SEED, {name} {value:g}"


def of(data: str, quick: bool = False) -> Comparison:
    rows = [Trained(setting.TEACHER, _teacher(quick)), setting.student(SEED, quick)]
    for name, axis in list(AXES.items())[: 1 if quick else None]:
        for value in axis.others[: 1 if quick else None]:
            rows += _changed(name, axis, value, quick)
    return Comparison(
        title=f"SEED with one setting changed: {data}",
        rows=tuple(dataclasses.replace(each, overrides=IMAGES[data]) for each in rows),
        baseline=SEED,
        seeds=(0,) if quick else (0, 1, 2),
    )


def _changed(name: str, axis: Axis, value, quick: bool) -> list[Trained]:
    """The row with this value, behind its teacher if that is another one."""
    student = setting.student(SEED, quick, row=row(name, value))
    if not axis.of_teacher:
        _set(student.config, axis.key, value)
        return [student]
    teacher = Trained(f"teacher, {name} {value:g}", _teacher(quick))
    _set(teacher.config, axis.key, f"resnet{value}" if axis.key == "student.model" else value)
    return [teacher, dataclasses.replace(student, teacher=teacher.name)]


def _teacher(quick: bool):
    return digits_teacher.get_config("smoke" if quick else "")


def _set(c, key: str, value) -> None:
    *sections, field = key.split(".")
    for section in sections:
        c = c[section]
    c[field] = value
