"""./run.sh compare experiments/seed_ablation/scattered"""

from experiments.seed_ablation import comparison


def get_comparison(quick: bool = False):
    return comparison.of("scattered", quick)
