"""./run.sh compare experiments/da_ranking/scattered"""

from experiments.da_ranking import comparison


def get_comparison(quick: bool = False):
    return comparison.of("scattered", quick)
