"""A student starts from a network with other positions, other windows or another final norm."""

import functools

import jax
import numpy as np
import pytest

from seed_jax import config, models, weights
from seed_jax.errors import UserError
from seed_jax.methods.base import Given
from seed_jax.models import swin as swin_lib
from seed_jax.models.fd_vit import FDVisionTransformer, resize_absolute
from seed_jax.models.positions import resize_positions
from seed_jax.models.swin import SwinTransformer
from seed_jax.models.swinv2 import SwinTransformerV2
from seed_jax.models.vit import VisionTransformer
from seed_jax.train import start, student
from seed_jax.weights import fd_vit

net = functools.partial(FDVisionTransformer, 12, 4, heads=3, patch=4, image_size=16)
plain = functools.partial(VisionTransformer, 12, 4, 3, patch=4, image_size=16)
windows = functools.partial(SwinTransformer, 8, (2, 1, 1, 2), (1, 1, 2, 2))
second = functools.partial(SwinTransformerV2, 8, (1, 1, 1, 1), (1, 1, 2, 2))


@functools.cache
def shapes(module):
    side = module.image_size
    image = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
    return jax.eval_shape(functools.partial(module.init, train=False), jax.random.key(0), image)["params"]


def drawn(module):
    numbers = np.random.default_rng(0)
    return jax.tree.map(lambda x: (0.3 * numbers.standard_normal(x.shape)).astype(np.float32), shapes(module))


def adapted(ours, theirs):
    """What `ours` gets from parameters of `theirs`, which must have its shapes, and these parameters."""
    params = drawn(theirs)
    found = ours.adapt(params, theirs)
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, shapes(ours))
    return found, params


@pytest.mark.parametrize("side", [16, 24])
def test_one_table_for_all_blocks_becomes_one_for_each(side):
    """The same function: a shared table is resized in the forward pass, a stored one when it is adapted."""
    ours, theirs = net(positions="layer", image_size=side), net()
    found, params = adapted(ours, theirs)
    images = np.random.default_rng(1).standard_normal((1, side, side, 3)).astype(np.float32)
    got, want = (
        jax.jit(lambda p, module=module: module.apply({"params": p}, images, False)["tokens"])(p)
        for module, p in ((ours, found), (theirs, params))
    )
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_absolute_positions_are_kept_or_dropped():
    found, params = adapted(net(positions="absolute", image_size=24), net(positions="absolute"))
    np.testing.assert_array_equal(found["pos_embed"], resize_absolute(params["pos_embed"], (6, 6)))
    for positions in ("shared", "layer", "none"):
        found, params = adapted(net(positions=positions), net(positions="absolute"))
        assert "pos_embed" not in found and found["cls_token"] is params["cls_token"]
    assert not found.keys() & {"rel_pos_bias"}
    found, _ = adapted(net(positions="layer"), net(positions="none"))
    assert not found["block3"]["attn"]["rel_pos_bias"]["table"].any()


@pytest.mark.parametrize(("make", "own"), [(net, "tokens"), (plain, "cls")])
def test_the_final_norm_is_dropped_for_a_fresh_one_of_the_mean(make, own):
    found, params = adapted(make(pool="mean"), make(pool=own))
    np.testing.assert_array_equal(found["fc_norm"]["scale"], np.ones(12))
    assert not found["fc_norm"]["bias"].any() and "norm" in params
    found, params = adapted(make(pool="mean"), make(pool="mean"))
    assert found["fc_norm"] is params["fc_norm"]
    with pytest.raises(UserError, match=f"student.options.pool is '{own}', .* 'mean', .*: use 'mean'"):
        adapted(make(pool=own), make(pool="mean"))


@pytest.mark.parametrize(
    ("ours", "theirs"), [("shared", "layer"), ("absolute", "shared"), ("absolute", "none"), ("none", "layer")]
)
def test_positions_that_do_not_become_others_are_named(ours, theirs):
    message = f"student.options.positions is '{ours}', and .* has '{theirs}', .*: use '{theirs}'"
    with pytest.raises(UserError, match=message):
        adapted(net(positions=ours), net(positions=theirs))


def test_positions_of_a_vit_are_resized():
    found, params = adapted(plain(form="dino", image_size=24), plain(form="dino"))
    want = resize_positions(params["pos_embed"][0, 1:], (6, 6), 0.1, False)
    np.testing.assert_array_equal(found["pos_embed"][0, 1:], want)
    np.testing.assert_array_equal(found["pos_embed"][0, 0], params["pos_embed"][0, 0])


def test_tables_of_a_swin_transformer_are_resized_to_its_windows():
    found, params = adapted(windows(window=5, image_size=160), windows(window=3, image_size=64))
    for name, window in (("block1_1", 5), ("block4_0", 5)):
        table = params[name]["attn"]["rel_pos_bias"]["table"]
        got = found[name]["attn"]["rel_pos_bias"]["table"]
        np.testing.assert_array_equal(got, swin_lib.resize_table(table, window))
    assert found["merge1"] is params["merge1"]


def test_positions_of_the_second_version_serve_windows_that_say_what_they_were_trained_for():
    theirs = second(window=8, image_size=256)
    old = {"pretrained_window": 8, "pretrained_size": 256}
    adapted(second(window=16, image_size=256, **old), theirs)
    found, params = adapted(second(window=16, image_size=512, pretrained_window=8), theirs)
    assert found is params
    message = (
        r"student.options.pretrained_window: .* windows of 8, 8, 8, 8 in .* mean 16, 16, 16, 16: "
        "use window=8 and image_size=256"
    )
    with pytest.raises(UserError, match=message):
        adapted(second(window=16, image_size=512), theirs)


def test_a_run_that_fine_tunes_starts_from_a_distilled_file(tmp_path, monkeypatch):
    monkeypatch.setitem(
        models.MODELS, "fd_vit_narrow", functools.partial(FDVisionTransformer, 12, 4, heads=3)
    )
    monkeypatch.setitem(fd_vit.ARCHITECTURES, (12, 4), "fd_vit_narrow")
    options = {"patch": 4, "image_size": 16}
    held = weights.Recognised("fd_vit", "fd_vit_narrow", options | {"heads": 3}, None, "fd")
    params = drawn(net())
    weights.save({"params": {"backbone": params}}, held, tmp_path / "a.safetensors", names="fd")
    raw = config.default("supervised")
    raw.train.epochs, raw.data.image_size = 1, 16
    raw.student.model = "fd_vit_narrow"
    raw.student.options = options | {"positions": "layer", "pool": "mean", "drop_path": 0.3}
    raw.student.init = str(tmp_path / "a.safetensors")
    resolved = config.resolve(raw)
    network = student.network(resolved, Given(2, 5, 16, 10, 10))
    found, _ = start.load(resolved, network.backbone)
    image = jax.ShapeDtypeStruct((1, 16, 16, 3), np.float32)
    fresh = jax.eval_shape(network.init, jax.random.key(0), image)
    merged = student.with_backbone(fresh, found, raw.student.init)["params"]["backbone"]
    table = merged["block2"]["attn"]["rel_pos_bias"]["table"]
    np.testing.assert_array_equal(table, params["rel_pos_bias"]["table"])
    assert "fc_norm" in merged and "norm" not in merged
    raw.student.options = options | {"positions": "absolute"}
    with pytest.raises(UserError, match=r"student\.options\.positions is 'absolute'"):
        start.load(config.resolve(raw), network.backbone.__class__(net(positions="absolute")))
