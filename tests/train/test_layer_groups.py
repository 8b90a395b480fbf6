"""Layer decay and weight decay of whole networks, against the groups of the released fine-tuning code.

The expected groups are written by hand from SwinTransformer/Feature-Distillation, optimizer.py
(`get_vit_layer`, `get_swin_layer`, `get_finetune_param_groups`) and the skip lists of its models: scale =
decay^(depth + 1 - id), with id 0 for patch embedding, cls token and positions, i + 1 for block i, depth + 1
for the rest.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seed_jax import models
from seed_jax.config import Optim
from seed_jax.methods.base import Given
from seed_jax.methods.supervised import Supervised
from seed_jax.models.fd_vit import FDVisionTransformer
from seed_jax.models.swin import SwinTransformer
from seed_jax.models.swinv2 import SwinTransformerV2
from seed_jax.models.vit import VisionTransformer
from seed_jax.train import build, optim

DECAY = 0.65
VIT = {"dim": 8, "depth": 12, "heads": 2, "patch": 4, "image_size": 8}
SWIN = {"dim": 8, "depths": (2, 2, 6, 2), "heads": (1, 1, 2, 2), "window": 2, "image_size": 32, "patch": 2}


def groups(module, side):
    """The scale of the rate and the weight decay of each parameter of a network that is fine-tuned."""
    given = Given(4, 5, side, 10, 10)
    network = Supervised().network(models.LinenNetwork(module), given)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, side, side, 3)))["params"]
    zeros = jax.tree.map(lambda leaf: np.zeros((1,) * leaf.ndim, np.float32), shapes)
    ones = jax.tree.map(np.ones_like, zeros)
    o = Optim(momentum=0.0, weight_decay=0.05, decay="kernels", layer_decay=DECAY)
    tx = optim.optimizer(o, lambda step: 1.0, lambda path: False, **build._layers(network))
    step = jax.jit(lambda grads, params: tx.update(grads, tx.init(params), params)[0])

    def update(grads, params):
        leaves = jax.tree_util.tree_leaves_with_path(step(grads, params))
        return {"/".join(key.key for key in path): -leaf.item() for path, leaf in leaves}

    scales, decays = update(ones, zeros), update(zeros, ones)
    return {path: (scale, decays[path] / scale) for path, scale in scales.items()}


# Of a block: whether the weight decays.
MLP = {"mlp/fc1/kernel": 1, "mlp/fc1/bias": 0, "mlp/fc2/kernel": 1, "mlp/fc2/bias": 0}
NORMS = {f"norm{i}/{name}": 0 for i in (1, 2) for name in ("scale", "bias")}
PROJ = {"attn/proj/kernel": 1, "attn/proj/bias": 0}
HEAD = {"classifier/fc/kernel": 1, "classifier/fc/bias": 0}
FD_BLOCK = {
    "attn/qkv/kernel": 1,
    "attn/q_bias": 0,
    "attn/v_bias": 0,
    "ls1/gamma": 0,
    "ls2/gamma": 0,
} | MLP | NORMS | PROJ  # fmt: skip
PLAIN_BLOCK = {"attn/qkv/kernel": 1, "attn/qkv/bias": 0} | MLP | NORMS | PROJ
EMBED = {"patch_embed/kernel": 1, "patch_embed/bias": 0, "cls_token": 0}


def expected(first: dict, blocks: list[tuple[str, dict]], last: dict):
    """(scale, weight decay) by path; ids 0 for `first`, 1 to N for the blocks, N + 1 for `last`."""
    n, found = len(blocks), {}
    ids = [(0, {f"backbone/{k}": v for k, v in first.items()})]
    ids += [
        (i, {f"backbone/{block}/{k}": v for k, v in of.items()}) for i, (block, of) in enumerate(blocks, 1)
    ]
    ids += [(n + 1, {f"backbone/{k}": v for k, v in last.items()} | HEAD)]
    for number, decays in ids:
        found |= {path: (DECAY ** (n + 1 - number), 0.05 * decay) for path, decay in decays.items()}
    return found


def check(got, want):
    assert got.keys() == want.keys()
    for path, pair in want.items():
        np.testing.assert_allclose(got[path], pair, rtol=1e-5, atol=1e-8, err_msg=path)


FC_NORM = {"fc_norm/scale": 0, "fc_norm/bias": 0}
NORM = {"norm/scale": 0, "norm/bias": 0}


@pytest.mark.parametrize(
    ("options", "first", "of_block", "last"),
    [
        # As fine-tuned: a table in each block, which decays, and a fresh norm of the mean.
        ({"positions": "layer", "pool": "mean"}, {}, {"attn/rel_pos_bias/table": 1}, FC_NORM),
        # One table that is kept is in the last group.
        ({"positions": "shared"}, {}, {}, {"rel_pos_bias/table": 1} | NORM),
        ({"positions": "absolute", "pool": "mean"}, {"pos_embed": 0}, {}, FC_NORM),
    ],
)
def test_groups_of_the_student_of_feature_distillation(options, first, of_block, last):
    want = expected(EMBED | first, [(f"block{i}", FD_BLOCK | of_block) for i in range(12)], last)
    check(groups(FDVisionTransformer(**VIT, **options), 8), want)
    assert want["backbone/patch_embed/kernel"][0] == pytest.approx(0.0036972, rel=1e-4)  # 0.65^13


@pytest.mark.parametrize("form", ["deit", "clip"])
def test_groups_of_a_plain_vit(form):
    """FT-CLIP (BEiT's optim_factory.py) has these groups, too; CLIP's `ln_pre` comes before the blocks."""
    first = EMBED | {"pos_embed": 0}
    if form == "clip":
        first = {k: v for k, v in first.items() if k != "patch_embed/bias"}
        first |= {"norm_pre/scale": 0, "norm_pre/bias": 0}
    want = expected(first, [(f"block{i}", PLAIN_BLOCK) for i in range(12)], FC_NORM)
    check(groups(VisionTransformer(**VIT, form=form, pool="mean"), 8), want)


@pytest.mark.parametrize("version", [1, 2])
def test_groups_of_swin(version):
    """A merging has the id of its stage's last block; tables, or their network and scales, do not decay."""
    tables = {"attn/rel_pos_bias/table": 0}
    block = PLAIN_BLOCK | tables
    if version == 2:
        positions = {"fc1/kernel": 0, "fc1/bias": 0, "fc2/kernel": 0}
        block = {"attn/qkv/kernel": 1, "attn/q_bias": 0, "attn/v_bias": 0, "attn/logit_scale": 0}
        block |= {f"attn/rel_pos_bias/{k}": v for k, v in positions.items()} | MLP | NORMS | PROJ
    names = [f"block{stage}_{i}" for stage, depth in enumerate(SWIN["depths"], 1) for i in range(depth)]
    embed = {"patch_embed/kernel": 1, "patch_embed/bias": 0, "patch_norm/scale": 0, "patch_norm/bias": 0}
    want = expected(embed, [(name, block) for name in names], NORM)
    for stage, number in ((1, 2), (2, 4), (3, 10)):
        scale = DECAY ** (12 + 1 - number)
        for k, decay in (("reduction/kernel", 1), ("norm/scale", 0), ("norm/bias", 0)):
            want[f"backbone/merge{stage}/{k}"] = (scale, 0.05 * decay)
    got = groups({1: SwinTransformer, 2: SwinTransformerV2}[version](**SWIN), 32)
    check(got, want)
    assert sum(bool(re.match("backbone/merge", path)) for path in got) == 9
