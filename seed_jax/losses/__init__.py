"""Losses: pure functions of arrays that return one value per sample, or one for a batch that they compare."""

from seed_jax.losses.attention import (
    attention_map,
    attention_transfer_loss,
    fsp_loss,
    fsp_matrix,
    input_gradient_loss,
    sad_loss,
)
from seed_jax.losses.contrastive import (
    batch_info_nce,
    compress_loss,
    info_nce,
    nce_loss,
    nt_xent,
    seed_loss,
)
from seed_jax.losses.feature import fd_loss, normalise_tokens, token_distances
from seed_jax.losses.prototype import dino_loss, sinkhorn, swav_loss
from seed_jax.losses.relation import (
    crd_constant,
    crd_loss,
    crd_queue_loss,
    fitnet_loss,
    pkt_loss,
    rkd_loss,
    similarity_rows,
    sp_loss,
)
from seed_jax.losses.response import (
    aggregate,
    dist_loss,
    dkd_loss,
    kd_loss,
    sskd_loss,
    standardise_logits,
    virtual_teacher_loss,
)

__all__ = [
    "aggregate",
    "attention_map",
    "attention_transfer_loss",
    "batch_info_nce",
    "compress_loss",
    "crd_constant",
    "crd_loss",
    "crd_queue_loss",
    "dino_loss",
    "dist_loss",
    "dkd_loss",
    "fd_loss",
    "fitnet_loss",
    "fsp_loss",
    "fsp_matrix",
    "info_nce",
    "input_gradient_loss",
    "kd_loss",
    "nce_loss",
    "normalise_tokens",
    "nt_xent",
    "pkt_loss",
    "rkd_loss",
    "sad_loss",
    "seed_loss",
    "similarity_rows",
    "sinkhorn",
    "sp_loss",
    "sskd_loss",
    "standardise_logits",
    "swav_loss",
    "token_distances",
    "virtual_teacher_loss",
]
