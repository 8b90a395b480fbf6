"""./run.sh compare experiments/seed_strategies: table 4 of SEED in miniature, and the papers after it."""

from experiments.seed_strategies import setting
from seed_jax.compare import Comparison, Trained, Untrained


def get_comparison(quick: bool = False) -> Comparison:
    names = tuple(setting.STRATEGIES)
    names = names[:2] if quick else names
    return Comparison(
        title="Ways to learn from the same teacher",
        rows=(
            Trained(setting.TEACHER, "digits_teacher:smoke" if quick else "digits_teacher"),
            setting.student(setting.ALONE, quick),
            *(setting.student(name, quick) for name in names),
            Untrained("raw pixels", "pixels", like=setting.SEED),
        ),
        baseline=setting.SEED,
        seeds=(0,) if quick else (0, 1, 2),
        notes=("The losses of two strategies are different quantities: compare each with itself.",),
    )
