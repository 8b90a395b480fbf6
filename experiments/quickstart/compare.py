"""Does distillation help? Teacher, baseline and distilled student, on images inside an installed package.

./run.sh                                        one seed, about five minutes on two CPU cores
./run.sh compare experiments/quickstart         five seeds: the committed results
"""

from seed_jax.compare import Comparison, Trained, Untrained

TEACHER, ALONE, SEED = "teacher (MoCo-v2)", "student, MoCo-v2 alone", "student, SEED"


def get_comparison(quick: bool = False) -> Comparison:
    variant = ":smoke" if quick else ""
    return Comparison(
        title="A small network, alone and taught",
        rows=(
            Trained(TEACHER, f"digits_teacher{variant}"),
            Trained(ALONE, f"digits_baseline{variant}"),
            Trained(SEED, f"digits_seed{variant}", teacher=TEACHER),
            Untrained("student, untrained", "start", like=SEED),
            Untrained("raw pixels", "pixels", like=SEED),
        ),
        baseline=ALONE,
        seeds=(0,) if quick else (0, 1, 2, 3, 4),
        notes=("The losses of MoCo-v2 and SEED are different quantities: compare each with itself.",),
    )
