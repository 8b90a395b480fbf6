"""What the comparisons of `fashion` and `scattered` share: everything but the images."""

from experiments.da_ranking import setting
from seed_jax.compare import Comparison

# The paper's, without CutMixPick by the student's entropy: its T.stddev needs a student that is trained.
AUGMENTATIONS = (
    "identity",
    "flip",
    "crop_flip",
    "cutout",
    "autoaugment_cifar10",
    "mixup",
    "cutmix",
    "cutmix_pick",
)


def row(model: str, augmentation: str) -> str:
    return f"{model}, {augmentation}"


def of(data: str, quick: bool) -> Comparison:
    students = setting.STUDENTS[:1] if quick else setting.STUDENTS
    rows = [setting.teacher(data, quick)]
    for model in students:
        rows.append(setting.student(f"{model}, alone", data, model, quick, method="supervised"))
        rows += [
            setting.student(row(model, name), data, model, quick, augment=name) for name in AUGMENTATIONS
        ]
    return Comparison(
        title=f"Which augmentation to distil with: {data}",
        rows=tuple(rows),
        baseline=row(students[0], "identity"),
        seeds=(0,) if quick else (0, 1, 2),
        evals=("top1",),
        notes=("Identity sees each image twice: its weight of KD is twice that of plain KD.",),
    )
