"""The methods by name: `config.method.name` is a key of `METHODS` and the name of a file here."""

from seed_jax.methods.attention_transfer import AttentionTransfer
from seed_jax.methods.kd import KD
from seed_jax.methods.moco import MoCo
from seed_jax.methods.seed import Seed
from seed_jax.methods.supervised import Supervised

METHODS = {
    "attention_transfer": AttentionTransfer,
    "kd": KD,
    "moco": MoCo,
    "seed": Seed,
    "supervised": Supervised,
}
