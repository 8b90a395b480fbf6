"""./run.sh compare experiments/small_data/tiles"""

from experiments.small_data import comparison


def get_comparison(quick: bool = False):
    return comparison.of("tiles", quick)
