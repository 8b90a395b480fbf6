"""./run.sh compare experiments/da_ranking/fashion"""

from experiments.da_ranking import comparison


def get_comparison(quick: bool = False):
    return comparison.of("fashion", quick)
