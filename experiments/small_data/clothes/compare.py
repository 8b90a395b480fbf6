"""./run.sh compare experiments/small_data/clothes"""

from experiments.small_data import comparison


def get_comparison(quick: bool = False):
    return comparison.of("clothes", quick)
