import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from seed_jax import parallel
from seed_jax.data import policies
from seed_jax.data.policies import OPS, POLICIES, Rules
from seed_jax.errors import UserError

SIDE = 16
FILL = (124, 116, 104)
NEWEST, OLD = Rules(truncate=True), Rules(torchvision_0_10=True, truncate=True)
auto = jax.jit(policies.auto_augment, static_argnums=(2, 3))


def batch(count=50, seed=0):
    x = np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3))
    x[::2] = x[::2] // 3 + 40  # room for autocontrast and equalize
    return x.astype(np.uint8), jax.random.split(jax.random.key(seed), count)


def floats(x):
    return jnp.asarray(x / 255, jnp.float32)


def pil_op(image, name, amount, old=False):
    """torchvision's operation on a PIL image."""
    size, half = image.size, image.size[0] / 2
    factor = 1 + amount
    m = math.tan(amount) if old else amount
    shift = -m * half if old else 0
    x, y = (int(amount), 0) if name == "translate_x" else (0, int(amount))

    def affine(data):
        return image.transform(size, Image.Transform.AFFINE, data, Image.Resampling.NEAREST)

    return {
        "identity": lambda: image,
        "shear_x": lambda: affine((1, m, shift, 0, 1, 0)),
        "shear_y": lambda: affine((1, 0, 0, m, 1, shift)),
        "translate_x": lambda: affine((1, 0, -x, 0, 1, -y)),
        "translate_y": lambda: affine((1, 0, -x, 0, 1, -y)),
        "rotate": lambda: image.rotate(amount),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "colour": lambda: ImageEnhance.Color(image).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
        "posterize": lambda: ImageOps.posterize(image, int(amount)),
        "solarize": lambda: ImageOps.solarize(image, amount),
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "invert": lambda: ImageOps.invert(image),
    }[name]()


@pytest.mark.parametrize("old", [False, True])
def test_each_operation_is_pils(old):
    """All 15 in one batch at three levels, both signs: to one level, but for pixels on a boundary."""
    rules = OLD if old else NEWEST
    table = policies.amounts(10, (1, SIDE, SIDE, 3), rules)
    cases = [(op, table[op, level]) for op in range(15) for level in (1, 5, 9)]
    cases += [(op, -table[op, 6]) for op in range(1, 10)]
    x, _ = batch(len(cases))
    op, amount = (jnp.asarray(column) for column in zip(*cases, strict=True))
    ours = 255 * np.asarray(jax.jit(lambda *a: policies.apply(*a, rules))(floats(x), op, amount))
    for i, (kind, value) in enumerate(cases):
        pil = np.asarray(pil_op(Image.fromarray(x[i]), OPS[kind], float(value), old)).astype(float)
        differ = (np.abs(np.floor(ours[i] + 1e-3) - pil) > 1.001).mean()
        assert differ <= (0.01 if kind in (1, 2, 5) else 0), (OPS[kind], value)


@pytest.mark.parametrize("policy", POLICIES)
def test_auto_augment_is_pils_one_after_the_other(policy):
    """Draws as `auto_augment` makes them; one level's difference may grow in the second operation."""
    x, keys = batch(60)
    ours = 255 * np.asarray(auto(floats(x), keys, policy, NEWEST))
    u = np.asarray(jax.vmap(lambda key: jax.random.uniform(key, (5,)))(keys))
    ranges = policies.amounts(10, x.shape, NEWEST)
    off, changed = [], 0
    for i, draw in enumerate(u):
        image = Image.fromarray(x[i])
        steps = POLICIES[policy][int(draw[0] * 25)]
        for (name, probability, level), chance, sign in zip(steps, draw[1:3], draw[3:], strict=True):
            if chance < probability:
                amount = float(ranges[OPS.index(name), level])
                image = pil_op(image, name, -amount if 1 <= OPS.index(name) <= 9 and sign < 0.5 else amount)
        off.append((np.abs(ours[i] - np.asarray(image)) > 2).mean())
        changed += np.any(np.asarray(image) != x[i])
    assert changed > 30
    assert np.mean(off) < 0.01 and np.median(off) == 0


# torchvision 0.29, in short form: operation, tenths of the probability, level.
PUBLISHED = {
    "cifar10": (
        "Inv1 Con2-6 Rot7-2 TX3-9 Shp8-1 Shp9-3 SY5-8 TY7-9 AC5 Eq9 SY2-7 Pos3-7 Col4-3 Bri6-7 Shp3-9 "
        "Bri7-9 Eq6 Eq5 Con6-7 Shp6-5 Col7-7 TX5-8 Eq3 AC4 TY4-3 Shp2-6 Bri9-6 Col2-8 Sol5-2 Inv0 Eq2 AC6 "
        "Eq2 Eq6 Col9-9 Eq6 AC8 Sol2-8 Bri1-3 Col7-0 Sol4-5 AC9 TY9-9 TY7-9 AC9 Sol8-3 Eq8 Inv1 TY7-9 AC9"
    ),
    "imagenet": (
        "Pos4-8 Rot6-9 Sol6-5 AC6 Eq8 Eq6 Pos6-7 Pos6-6 Eq4 Sol2-4 Eq4 Rot8-8 Sol6-3 Eq6 Pos8-5 Eq10 Rot2-3 "
        "Sol6-8 Eq6 Pos4-6 Rot8-8 Col4-0 Rot4-9 Eq6 Eq0 Eq8 Inv6 Eq10 Col6-4 Con10-8 Rot8-8 Col10-2 Col8-8 "
        "Sol8-7 Shp4-7 Inv6 SX6-5 Eq10 Col4-0 Eq6 Eq4 Sol2-4 Sol6-5 AC6 Inv6 Eq10 Col6-4 Con10-8 Eq8 Eq6"
    ),
}


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_are_the_published_ones(policy):
    short = {"Inv": "invert", "Con": "contrast", "Rot": "rotate", "TX": "translate_x", "TY": "translate_y"}
    short |= {"Shp": "sharpness", "SX": "shear_x", "SY": "shear_y", "AC": "autocontrast", "Eq": "equalize"}
    short |= {"Pos": "posterize", "Col": "colour", "Bri": "brightness", "Sol": "solarize"}
    words = re.findall(r"([A-Za-z]+)(\d+)-?(\d?)", PUBLISHED[policy])
    assert len(POLICIES[policy]) == 25
    assert [step for pair in POLICIES[policy] for step in pair] == [
        (short[name], int(tenths) / 10, int(level or 0)) for name, tenths, level in words
    ]


def test_amounts_by_hand():
    """Of levels 0 and 9 of 10, and 9 of 31, for 331 pixels."""
    shape = (1, 331, 662, 3)
    last = dict(zip(OPS, policies.amounts(10, shape, NEWEST)[:, 9].tolist(), strict=True))
    expected = {"shear_x": 0.3, "translate_x": 300, "translate_y": 150, "rotate": 30, "colour": 0.9}
    assert {name: pytest.approx(last[name]) for name in expected} == expected
    assert last["posterize"] == 4 and last["solarize"] == 0
    solarize, posterize = OPS.index("solarize"), OPS.index("posterize")
    assert policies.amounts(10, shape, NEWEST)[solarize, 0] == 255
    assert policies.amounts(10, shape, OLD)[solarize, 0] == 256
    assert policies.amounts(31, shape, NEWEST)[OPS.index("rotate"), 9] == pytest.approx(9)
    wide = policies.amounts(31, shape, NEWEST, wide=True)
    assert wide[1:11, 30].tolist() == pytest.approx([0.99, 0.99, 32, 32, 135, *[0.99] * 4, 2])
    assert policies.amounts(10, shape, NEWEST)[posterize].tolist() == [8, 8, 7, 7, 6, 6, 5, 5, 4, 4]


def test_rand_and_trivial_augment_draw_14_operations():
    x = floats(batch(1)[0].repeat(300, 0))
    keys = jax.random.split(jax.random.key(5), 300)
    out = np.asarray(jax.jit(policies.trivial_augment)(x, keys))
    same = (np.abs(out - np.asarray(x)) < 1e-6).all((1, 2, 3)).mean()
    assert 1 / 14 < same < 0.35  # identity, and level 0 of the others
    assert len(np.unique(out.round(4), axis=0)) > 120
    rand = jax.jit(policies.rand_augment, static_argnames=("count", "level"))
    once = np.asarray(rand(x, keys, count=1))
    assert 15 <= len(np.unique(once.round(4), axis=0)) <= 23  # 9 of the 14 have two signs
    assert len(np.unique(np.asarray(rand(x, keys)).round(4), axis=0)) > 80


@pytest.mark.parametrize(
    ("name", "amount", "want"),
    [
        ("shear_x", 0.27, lambda image, affine: affine((1, 0.27, 0, 0, 1, 0))),
        ("shear_y", -0.15, lambda image, affine: affine((1, 0, 0, -0.15, 1, 0))),
        ("translate_x", 3.3, lambda image, affine: affine((1, 0, -3.3, 0, 1, 0))),
        ("translate_y", -2.6, lambda image, affine: affine((1, 0, 0, 0, 1, 2.6))),
        ("rotate", 27, lambda image, affine: image.rotate(27, Image.Resampling.BICUBIC, fillcolor=FILL)),
        (
            "solarize_add",
            99,
            lambda image, affine: image.point([i + 99 if i < 128 else i for i in range(256)] * 3),
        ),
    ],
)
def test_operations_of_timm_are_pils(name, amount, want):
    x, _ = batch(2)
    rules = Rules(bicubic=True, fill=tuple(value / 255 for value in FILL))
    ours = policies.apply(floats(x), jnp.full(2, OPS.index(name)), jnp.full(2, amount, jnp.float32), rules)
    for pixels, result in zip(x, 255 * np.asarray(ours), strict=True):
        image = Image.fromarray(pixels)

        def affine(data, image=image):
            bicubic = Image.Resampling.BICUBIC
            return image.transform(image.size, Image.Transform.AFFINE, data, bicubic, fillcolor=FILL)

        # PIL rounds, and a centre on the border may fall on either side of it.
        assert (np.abs(result - np.asarray(want(image, affine))) > 1).mean() <= 0.01


def test_levels_of_timm():
    """By hand from the `increasing` form of timm/data/auto_augment.py, for images of 40 x 20."""
    want = {
        "shear_x": (0.27, 0.03),
        "shear_y": (0.27, 0.03),
        "rotate": (27, 3),
        "translate_x": (8.1, 0.9),
        "translate_y": (16.2, 1.8),
        "brightness": (0.81, 0.09),
        "contrast": (0.81, 0.09),
        "colour": (0.81, 0.09),
        "sharpness": (0.81, 0.09),
        "posterize": (1, 4),
        "solarize": (26, 231),
        "solarize_add": (99, 11),
    }
    op = jnp.array([[OPS.index(name)] * 2 for name in want])
    level = jnp.broadcast_to(jnp.array([9.0, 1.0]), op.shape)
    got = policies.timm_amounts(op, level, (1, 40, 20, 3))
    np.testing.assert_allclose(got, list(want.values()), rtol=1e-6)


def test_timm_leaves_a_quarter_as_it_is():
    """Both operations are left out in a quarter of the draws; levels vary, so that few images are equal."""
    x = floats(batch(1)[0].repeat(400, 0))
    keys = jax.random.split(jax.random.key(5), 400)
    out = np.asarray(jax.jit(lambda *a: policies.timm_rand_augment(*a, fill=jnp.full(3, 0.5)))(x, keys))
    same = (np.abs(out - np.asarray(x)) < 1e-6).all((1, 2, 3)).mean()
    assert 0.18 < same < 0.33
    assert len(np.unique(out.round(4), axis=0)) > 200
    assert out.min() >= 0 and out.max() <= 1


def test_one_key_is_one_draw_for_the_batch():
    """Equal images stay equal, and no image's result depends on the other images or on their order."""
    x, keys = batch(8)
    equal = floats(x[:1].repeat(8, 0))
    for key in keys[:4]:
        out = np.asarray(auto(equal, key, "cifar10", Rules()))
        np.testing.assert_array_equal(out, out[:1].repeat(8, 0))
    assert len(np.unique(np.asarray(auto(equal, keys, "cifar10", Rules())), axis=0)) > 2
    order = np.array([3, 0, 7, 1, 4, 2, 6, 5])
    np.testing.assert_allclose(
        auto(floats(x[order]), keys[order], "imagenet", Rules()),
        auto(floats(x), keys, "imagenet", Rules())[order],
        atol=1e-6,
    )


def test_without_truncation_values_lie_between_levels():
    x, keys = batch(60)
    whole = 255 * np.asarray(auto(floats(x), keys, "cifar10", NEWEST))
    free = 255 * np.asarray(auto(floats(x), keys, "cifar10", Rules()))
    np.testing.assert_allclose(whole, whole.round(), atol=1e-3)
    assert (np.abs(free - free.round()) > 0.01).any()
    assert (np.abs(free - whole) <= 2).mean() > 0.98
    assert free.min() >= 0 and free.max() <= 255.001


def test_sharding_does_not_matter():
    x, keys = batch(16)
    sharding = parallel.batch_sharding(parallel.make_mesh())
    alone = auto(floats(x), keys, "imagenet", Rules())
    x, keys = jax.device_put((floats(x), keys), sharding)
    shared = auto(x, keys, "imagenet", Rules())
    np.testing.assert_allclose(shared, alone, atol=1e-6)
    assert len(shared.sharding.device_set) == 8
    program = auto.lower(x, keys, "imagenet", Rules()).compile().as_text()
    assert "all-gather" not in program and "all-to-all" not in program


def test_wrong_arguments():
    x, keys = batch(4)
    x = floats(x)
    with pytest.raises(UserError, match="did you mean 'cifar10'"):
        policies.auto_augment(x, keys, "cifar100")
    for change in (
        lambda x: policies.auto_augment(x, keys, "cifar10"),
        lambda x: policies.rand_augment(x, keys),
        lambda x: policies.trivial_augment(x, keys),
    ):
        with pytest.raises(UserError, match=r"works on RGB .*\[4, 16, 16, 1\]"):
            change(x[..., :1])
    with pytest.raises(UserError, match="level of RandAugment is 31: use 0 to 30"):
        policies.rand_augment(x, keys, level=31)
