"""./run.sh compare experiments/self_distillation/scattered"""

from experiments.self_distillation import comparison


def get_comparison(quick: bool = False):
    return comparison.of("scattered", quick)
