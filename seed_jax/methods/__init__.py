"""The methods by name: `config.method.name` is a key of `METHODS` and the name of a file here."""

from seed_jax.methods.byot import BYOT
from seed_jax.methods.kd import KD
from seed_jax.methods.moco import MoCo
from seed_jax.methods.seed import Seed
from seed_jax.methods.supervised import Supervised

METHODS = {"byot": BYOT, "kd": KD, "moco": MoCo, "seed": Seed, "supervised": Supervised}
