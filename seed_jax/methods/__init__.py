"""The methods by name: `config.method.name` is a key of `METHODS` and the name of a file here."""

from seed_jax.methods.attention_transfer import AttentionTransfer
from seed_jax.methods.bingo import BINGO
from seed_jax.methods.byot import BYOT
from seed_jax.methods.compress import CompRess
from seed_jax.methods.cs_kd import CSKD
from seed_jax.methods.ddgsd import DDGSD
from seed_jax.methods.dino import DINO
from seed_jax.methods.disco import DisCo
from seed_jax.methods.fd import FD
from seed_jax.methods.frskd import FRSKD
from seed_jax.methods.kd import KD
from seed_jax.methods.kmeans import KMeans
from seed_jax.methods.moco import MoCo
from seed_jax.methods.mocov3 import MoCoV3
from seed_jax.methods.online_clustering import OnlineClustering
from seed_jax.methods.sad import SAD
from seed_jax.methods.seed import Seed
from seed_jax.methods.seed_moco import SeedMoCo
from seed_jax.methods.simclr import SimCLR
from seed_jax.methods.simreg import SimReg
from seed_jax.methods.simsiam import SimSiam
from seed_jax.methods.sla import SLA
from seed_jax.methods.supervised import Supervised
from seed_jax.methods.swav import SwAV

METHODS = {
    "attention_transfer": AttentionTransfer,
    "bingo": BINGO,
    "byot": BYOT,
    "compress": CompRess,
    "cs_kd": CSKD,
    "ddgsd": DDGSD,
    "dino": DINO,
    "disco": DisCo,
    "fd": FD,
    "frskd": FRSKD,
    "kd": KD,
    "kmeans": KMeans,
    "moco": MoCo,
    "mocov3": MoCoV3,
    "online_clustering": OnlineClustering,
    "sad": SAD,
    "seed": Seed,
    "seed_moco": SeedMoCo,
    "simclr": SimCLR,
    "simreg": SimReg,
    "simsiam": SimSiam,
    "sla": SLA,
    "supervised": Supervised,
    "swav": SwAV,
}
