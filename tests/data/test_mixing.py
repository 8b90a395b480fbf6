import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from seed_jax import parallel
from seed_jax.data import mixing
from seed_jax.errors import UserError

KEY = jax.random.key(3)


def batch(count=6, height=8, width=10, seed=0):
    x = np.random.default_rng(seed).random((count, height, width, 3), np.float32)
    return jnp.asarray(x), jax.random.split(jax.random.key(seed), count)


def released_box(height, width, lam, cx, cy):
    """The box rule of the released code (rand_bbox), restated."""
    w, h = int(width * np.sqrt(1.0 - lam)), int(height * np.sqrt(1.0 - lam))
    x1, x2 = (int(np.clip(cx + sign * (w // 2), 0, width)) for sign in (-1, 1))
    y1, y2 = (int(np.clip(cy + sign * (h // 2), 0, height)) for sign in (-1, 1))
    return x1, y1, x2, y2


def test_box_rule():
    numbers = np.random.default_rng(0)
    lam = numbers.random(200).astype(np.float32)
    cx, cy = numbers.integers(0, 31, 200), numbers.integers(0, 20, 200)
    ours = mixing.cut_box(jnp.asarray(lam), (jnp.asarray(cx), jnp.asarray(cy)), 20, 31)
    expected = [released_box(20, 31, *one) for one in zip(lam, cx, cy, strict=True)]
    np.testing.assert_array_equal(np.stack(ours, -1), expected)


def test_box_by_hand():
    """Half of the sides of 8 x 10 at lambda 0.75: 5 x 4 pixels, of which 2 are on either side of (3, 6)."""
    box = mixing.cut_box(jnp.array([0.75, 0.0]), (jnp.array([3, 9]), jnp.array([6, 0])), 8, 10)
    np.testing.assert_array_equal(np.stack(box, -1), [[1, 4, 5, 8], [4, 0, 10, 4]])


def test_paste_and_mix_by_hand():
    x, _ = batch(3)
    partner = jnp.array([2, 0, 1])
    box = mixing.Box(*(jnp.array(e) for e in ([0, 3, 4], [0, 2, 2], [10, 5, 4], [8, 4, 6])))
    pasted = mixing.paste(x, partner, box)
    expected = np.array(x)
    expected[0] = x[2]
    expected[1, 2:4, 3:5] = x[0, 2:4, 3:5]
    np.testing.assert_array_equal(pasted.images, expected)
    np.testing.assert_allclose(pasted.weight, [0, 1 - 4 / 80, 1])
    mixed = mixing.mix(x, partner, jnp.array([0.25, 1.0, 0.0]))
    np.testing.assert_allclose(mixed.images[0], 0.25 * x[0] + 0.75 * x[2], rtol=1e-6)
    np.testing.assert_array_equal(mixed.images[1:], np.stack([x[1], x[1]]))


@pytest.mark.parametrize("each", [False, True])
def test_cutmix_says_what_it_pasted(each):
    """Every image is its own pixels and its partner's, in the share that `weight` says."""
    x, keys = batch(16)
    mixed = jax.jit(mixing.cutmix)(x, KEY, keys if each else None)
    own, theirs = (np.asarray((mixed.images == x[rows]).all(-1)) for rows in (mixed.own, mixed.partner))
    assert (own | theirs).all()
    np.testing.assert_allclose(mixed.weight, own.mean((1, 2)), atol=1e-6)
    np.testing.assert_array_equal(np.sort(mixed.partner), np.arange(16))
    assert (np.asarray(mixed.partner) != np.arange(16)).all()
    assert (len(np.unique(mixed.weight)) > 1) == each


@pytest.mark.parametrize("each", [False, True])
def test_mixup_says_what_it_mixed(each):
    x, keys = batch(16)
    mixed = jax.jit(mixing.mixup)(x, KEY, keys if each else None)
    w = np.asarray(mixed.weight).reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(mixed.images, w * x + (1 - w) * x[mixed.partner], rtol=1e-5)
    np.testing.assert_array_equal(np.sort(mixed.partner), np.arange(16))
    assert (len(np.unique(mixed.weight)) > 1) == each


@pytest.mark.parametrize("alpha", [1.0, 0.2])
def test_lambda_is_beta(alpha):
    """Mean 1/2 and variance 1 / (4 (2 alpha + 1)) of Beta(alpha, alpha)."""
    mixup = jax.jit(mixing.mixup, static_argnames="alpha")
    weight = mixup(jnp.zeros((3000, 1, 1, 3)), KEY, jax.random.split(KEY, 3000), alpha=alpha).weight
    assert abs(float(weight.mean()) - 0.5) < 0.03
    assert abs(float(weight.var()) * 4 * (2 * alpha + 1) - 1) < 0.08


def test_derangements_are_uniform():
    """Four items have 9 derangements."""
    keys = jax.random.split(KEY, 1800)
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: mixing.derangement(key, 4)))(keys))
    assert (drawn != np.arange(4)).all()
    counts = np.unique(drawn, axis=0, return_counts=True)[1]
    assert len(counts) == 9
    assert ((counts - 200) ** 2 / 200).sum() < 26.1  # chi-squared with 8 degrees, p = 0.001


def test_what_is_drawn_for_an_image_does_not_depend_on_the_batch():
    x, keys = batch(6)
    order = jnp.array([3, 0, 5, 1, 4, 2])
    cutmix, erase = jax.jit(mixing.cutmix), jax.jit(mixing.random_erase)
    np.testing.assert_array_equal(
        cutmix(x, KEY, keys).weight[order], cutmix(x[order], KEY, keys[order]).weight
    )
    np.testing.assert_array_equal(erase(x, keys, fill=0.5)[order], erase(x[order], keys[order], fill=0.5))


def test_pool_has_other_draws_and_adjacent_rows():
    x, keys = batch(6)
    pool = jax.jit(mixing.cutmix_pool)(x, KEY, keys)
    assert pool.images.shape == (12, 8, 10, 3)
    np.testing.assert_array_equal(pool.own, np.repeat(np.arange(6), 2))
    same = np.asarray((pool.images == x[pool.own]).all(-1).mean((1, 2)))
    np.testing.assert_allclose(pool.weight, same, atol=1e-6)
    assert not np.array_equal(pool.weight[::2], pool.weight[1::2])
    pool = jax.jit(mixing.cutmix_pool)(x, KEY)
    assert len(np.unique(pool.weight)) == 2  # one draw a run


def direct_scores(criterion, t, s, temperature=4.0):
    t, s = np.asarray(t, np.float64), np.asarray(s, np.float64)
    if criterion == "kld":
        log_t, log_s = log_softmax(t / temperature, 1), log_softmax(s / temperature, 1)
        return (np.exp(log_t) * (log_t - log_s)).sum(1)
    log_p = log_softmax(t if criterion == "teacher_entropy" else s, 1)
    return -(np.exp(log_p) * log_p).sum(1)


@pytest.mark.parametrize("criterion", mixing.CRITERIA)
def test_pick_takes_the_highest_scores(criterion):
    t, s = (np.random.default_rng(seed).normal(0, 3, (20, 7)).astype(np.float32) for seed in (1, 2))
    expected = direct_scores(criterion, t, s)
    np.testing.assert_allclose(mixing.scores(criterion, t, s), expected, rtol=2e-5)
    order = np.argsort(expected)
    np.testing.assert_array_equal(mixing.pick(criterion, t, s), order[10:])
    np.testing.assert_array_equal(mixing.pick(criterion, t, s, n_pick=3), order[17:])
    np.testing.assert_array_equal(mixing.pick(criterion, t, s, ratio=0.26), order[15:])
    np.testing.assert_array_equal(mixing.pick(criterion, t, s, n_pick=20), order)


def test_scores_of_certain_logits_are_finite():
    """The released code takes log 0 here. Entropies by hand: 0 and log 2."""
    t = jnp.array([[500.0, 0.0, -500.0], [300.0, 300.0, -500.0]])
    np.testing.assert_allclose(mixing.scores("teacher_entropy", t), [0, np.log(2)], atol=1e-6)
    assert np.isfinite(mixing.scores("kld", t, -t)).all()


def test_no_gradient_passes_through_scores():
    gradient = jax.grad(lambda s: mixing.scores("student_entropy", s, s).sum())(jnp.ones((3, 4)))
    np.testing.assert_array_equal(gradient, jnp.zeros((3, 4)))


def test_cutout_is_a_clipped_square():
    x, keys = batch(200, 16, 12)
    colour = jnp.array([0.5, 0.4, 0.3])
    out = np.asarray(jax.jit(mixing.cutout, static_argnames="length")(x, keys, fill=colour, length=7))
    hole = (out == np.float32(colour)).all(-1)
    np.testing.assert_array_equal(out[~hole], np.asarray(x)[~hole])
    rows, columns = hole.any(2).sum(1), hole.any(1).sum(1)
    np.testing.assert_array_equal(hole.sum((1, 2)), rows * columns)  # rectangles
    assert rows.max() == columns.max() == 6 and rows.min() == columns.min() == 3  # 7 // 2 on either side
    once = np.asarray(mixing.cutout(x, KEY, fill=0.0)) == 0  # 16 / 4 pixels, the same hole in all images
    assert once.any() and (once == once[:1]).all() and once[0].any((0, 2)).sum() <= 4


def test_random_erasing_has_its_rate_area_and_noise():
    x, keys = batch(400, 20, 20)
    out = np.asarray(jax.jit(mixing.random_erase)(x, keys, fill=2.0))
    hole = (out == 2).all(-1)
    np.testing.assert_array_equal(out[~hole], np.asarray(x)[~hole])
    erased = hole.any((1, 2))
    assert abs(erased.mean() - 0.5) < 0.1
    rows, columns = hole.any(2).sum(1)[erased], hole.any(1).sum(1)[erased]
    np.testing.assert_array_equal(hole.sum((1, 2))[erased], rows * columns)
    area = rows * columns / 400
    assert 0.01 <= area.min() < 0.06 and 0.28 < area.max() <= 0.36  # whole pixels of 0.02 to 0.33
    assert abs(np.log(rows / columns).mean()) < 0.15
    noisy = jax.jit(lambda x, keys: mixing.random_erase(x, keys, fill=2.0, noise=(0.1, 0.2, 0.3)))(x, keys)
    np.testing.assert_array_equal(noisy[~hole], out[~hole])
    np.testing.assert_allclose(np.asarray(noisy)[hole].std(0), [0.1, 0.2, 0.3], rtol=0.1)


def test_sharding_does_not_matter():
    x, keys = batch(16)
    pool = jax.jit(mixing.cutmix_pool)
    alone = pool(x, KEY, keys)
    sharding = parallel.batch_sharding(parallel.make_mesh())
    shared = pool(jax.device_put(x, sharding), KEY, jax.device_put(keys, sharding))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), alone, shared)


@pytest.mark.parametrize("change", [mixing.mixup, mixing.cutmix, mixing.cutmix_pool])
def test_bad_batches(change):
    with pytest.raises(UserError, match="the batch has 1: use --config.data.batch_size=2"):
        change(jnp.zeros((1, 4, 4, 3)), KEY)
    with pytest.raises(UserError, match="RGB"):
        change(jnp.zeros((4, 4, 4, 1)), KEY)


def test_bad_picks_and_keys():
    t = jnp.zeros((8, 3))
    with pytest.raises(UserError, match="n_pick is 9 and the pool has 8 images"):
        mixing.pick("teacher_entropy", t, n_pick=9)
    with pytest.raises(UserError, match="ratio of picks is 1.5"):
        mixing.pick("teacher_entropy", t, ratio=1.5)
    with pytest.raises(UserError, match="did you mean 'teacher_entropy'"):
        mixing.pick("teacher_entrop", t)
    with pytest.raises(ValueError, match="'kld' needs student_logits"):
        mixing.pick("kld", t)
    with pytest.raises(UserError, match="A batch of 1 has no image"):
        mixing.derangement(KEY, 1)
    with pytest.raises(ValueError, match="3 keys for 4 images"):
        mixing.cutout(jnp.zeros((4, 8, 8, 3)), jax.random.split(KEY, 3), fill=0.0)
