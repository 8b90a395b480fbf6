"""Evaluators: each one scores a frozen network. `evals.names` in the config says which ones a probe runs.

A new evaluator is one file in this folder, with a class that obeys `base.Evaluator`, and one line in the
table. Evaluators read the features of a network and know nothing about the method that trained it.
"""

from seed_jax.evals.knn import Knn
from seed_jax.evals.neighbours import Neighbours
from seed_jax.evals.top1 import Top1

EVALUATORS = {"knn": Knn, "top1": Top1, "neighbours": Neighbours}
