"""Losses of logits against float64 formulas, differences, the released codes and hand calculation."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from numeric import (
    assert_equals_float64,
    assert_finite,
    assert_released,
    assert_same_on_8_devices,
    draw,
    softmax,
    value_and_gradient,
    wave,
)
from torch.nn import functional as F

from seed_jax.errors import UserError
from seed_jax.losses import (
    dist_loss,
    dkd_loss,
    kd_loss,
    sskd_loss,
    standardise_logits,
    virtual_teacher_loss,
)

LABEL = np.array([0, 3, 1, 1, 2])
sskd = functools.partial(sskd_loss, keep_wrong=0.75, temperature=0.5)


def direct_kd(student, teacher, temperature):
    p, q = softmax(np.float64(teacher) / temperature), softmax(student / temperature)
    return temperature**2 * (p * np.log(p / q)).sum(axis=1)


def direct_dkd(student, teacher, label, alpha, beta, temperature):
    """Sample by sample: the pair (p, 1 - p), then the other classes alone."""
    losses = []
    for s, t, y in zip(student, np.float64(teacher), label, strict=True):
        p, q = softmax(t / temperature), softmax(s / temperature)
        pair = p[y] * np.log(p[y] / q[y]) + (1 - p[y]) * np.log((1 - p[y]) / (1 - q[y]))
        p, q = np.delete(p, y) / (1 - p[y]), np.delete(q, y) / (1 - q[y])
        losses.append(temperature**2 * (alpha * pair + beta * (p * np.log(p / q)).sum()))
    return np.array(losses)


def direct_dist(student, teacher, inter, intra, temperature):
    p, q = softmax(np.float64(teacher) / temperature), softmax(student / temperature)
    rows = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)])
    columns = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T, strict=True)])
    return temperature**2 * (inter * (1 - rows) + intra * (1 - columns))


def direct_sskd(student, teacher, target, keep_wrong, temperature):
    ranks = [(t > t[y]).sum() for t, y in zip(teacher, target, strict=True)]
    order = sorted(range(len(ranks)), key=lambda i: ranks[i])
    wrong = sum(rank > 0 for rank in ranks)
    keep = order[: len(ranks) - wrong + int(wrong * keep_wrong)]
    weights = np.zeros(len(ranks))
    weights[keep] = len(ranks) / len(keep)
    return weights * direct_kd(student, teacher, temperature)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_in_float64(temperature):
    student, teacher = draw(6, 5), draw(6, 5, seed=1)
    loss = functools.partial(kd_loss, teacher_logits=teacher, temperature=temperature)
    assert_equals_float64(loss, lambda s: direct_kd(s, teacher, temperature), student)


def test_dkd_in_float64():
    student, teacher = draw(5, 4), draw(5, 4, seed=1)
    loss = functools.partial(
        dkd_loss, teacher_logits=teacher, label=LABEL, alpha=0.5, beta=6.0, temperature=2.0
    )
    assert_equals_float64(loss, lambda s: direct_dkd(s, teacher, LABEL, 0.5, 6.0, 2.0), student)


def test_dist_in_float64():
    student, teacher = draw(6, 5), draw(6, 5, seed=1)
    loss = functools.partial(dist_loss, teacher_logits=teacher, inter=2.0, intra=0.5, temperature=2.0)
    assert_equals_float64(loss, lambda s: direct_dist(s, teacher, 2.0, 0.5, 2.0), student)


def test_sskd_in_float64():
    student, teacher, target = draw(9, 4), draw(9, 4, seed=1), np.arange(9) % 4
    loss = functools.partial(sskd, teacher_scores=teacher, target=target)
    want = direct_sskd(np.float64(student), teacher, target, 0.75, 0.5)
    assert 0 < (want == 0).sum() < 9
    assert_equals_float64(loss, lambda s: direct_sskd(s, teacher, target, 0.75, 0.5), student)


def test_standardisation_in_float64():
    logits, weights = draw(4, 6), draw(4, 6, seed=1)

    def direct(x):
        x = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, ddof=1, keepdims=True)
        return (x * weights).sum(axis=1)

    assert_equals_float64(lambda x: (standardise_logits(x) * weights).sum(axis=1), direct, logits)


# Computed in float64 by HobbitLong/RepDistiller b84f547 (kd), megvii-research/mdistiller a08d46f (dkd),
# hunto/image_classification_sota 6f7a70a (dist), sunshangquan/logit-standardization-KD f6e5aa5
# (standardised) on wave(5, 4, 0), wave(5, 4, 1), and xuguodong03/SSKD 661b972 on views 1 to 3 of
# wave(16, 5, 0), wave(16, 5, 1).
RELEASED = {
    "kd": (kd_loss, 1.67890223, [-0.1076935, 0.1261773, 0.008010366, -0.02649421]),
    "dkd": (
        functools.partial(dkd_loss, label=LABEL),
        12.5305578,
        [-0.1076935, 0.9254206, -0.04536899, -0.7723582],
    ),
    "dist": (
        functools.partial(dist_loss, temperature=4.0),
        16.6570481,
        [-0.4641071, 0.8095864, 0.2832095, -0.6286889],
    ),
    "standardised": (
        lambda s, t: kd_loss(standardise_logits(s), standardise_logits(t), temperature=2.0),
        0.335400197,
        [-0.0157364, 0.01383039, 0.009508178, -0.007602172],
    ),
}


@pytest.mark.parametrize("name", RELEASED)
def test_released_values(name):
    loss, value, first_row = RELEASED[name]
    teacher = wave(5, 4, 1.0).astype(np.float32)
    assert_released(lambda s: loss(s, teacher), wave(5, 4, 0.0), value, first_row)


def test_released_values_of_sskd_on_rotated_views():
    views = np.arange(16) % 4 != 0
    target = np.repeat([1, 4, 0, 2], 3)
    teacher = wave(16, 5, 1.0)[views].astype(np.float32)
    assert_released(
        lambda s: sskd_loss(s, teacher, target, keep_wrong=1.0, temperature=4.0),
        wave(16, 5, 0.0)[views],
        1.42725465,
        [0.01460619, -0.01437446, 0.048038, -0.04433377, -0.003935948],
    )


def test_dkd_is_kd_with_the_weights_that_couple_it():
    """alpha 1 and beta 1 - p for a sample whose teacher gives the label p (equation 6 of the paper)."""
    student, teacher = draw(5, 4), draw(5, 4, seed=1)
    pair = dkd_loss(student, teacher, LABEL, beta=0.0)
    others = dkd_loss(student, teacher, LABEL, alpha=0.0, beta=1.0)
    p = softmax(np.float64(teacher) / 4)[np.arange(5), LABEL]
    np.testing.assert_allclose(pair + (1 - p) * others, kd_loss(student, teacher), rtol=1e-5)


def test_dkd_of_far_apart_logits_is_exact():
    """1 - p is 0 in float32, where the released code divides 0 by 0; log(1 - p) is log 2 - 200."""
    teacher, student = jnp.array([[200.0, 0.0, 0.0]]), jnp.array([[0.0, 200.0, 0.0]])
    loss = functools.partial(dkd_loss, teacher_logits=teacher, label=np.array([0]), beta=1.0, temperature=1.0)
    value, gradient = assert_finite(loss, student)
    # TCKD: -log q of the label = 200. NCKD: (1/2, 1/2) against (1, e^-200) = 100 - log 2.
    np.testing.assert_allclose(value, 300 - math.log(2), rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-1.0, 1.0 + 0.5, -0.5]], atol=1e-6)


def test_dkd_of_two_classes_is_refused():
    with pytest.raises(UserError, match="logits of 2 classes.*use kd_loss, or at least 3 classes"):
        dkd_loss(jnp.zeros((4, 2)), jnp.zeros((4, 2)), jnp.zeros(4, int))


def test_dkd_without_a_label_is_beta_times_kd():
    student, teacher = draw(2, 4), draw(2, 4, seed=1)
    loss = functools.partial(dkd_loss, teacher_logits=teacher, label=np.array([-1, -1]))
    value, _ = assert_finite(loss, student)
    np.testing.assert_allclose(value, 8 * kd_loss(student, teacher).sum(), rtol=1e-5)


def losses_of(teacher, label):
    """Every loss of logits as a function of the student's, with this teacher."""
    return [
        lambda s: kd_loss(s, teacher),
        lambda s: kd_loss(s, teacher, temperature=1.0),
        lambda s: dkd_loss(s, teacher, label),
        lambda s: dist_loss(s, teacher),
        lambda s: sskd(s, teacher, label),
    ]


@pytest.mark.parametrize("far", [1e4, 1e30])
def test_huge_logits_are_finite(far):
    student, teacher = np.zeros((3, 4), np.float32), np.zeros((3, 4), np.float32)
    student[:, 0], teacher[:, 1], student[1], teacher[2] = far, far, -far, -far
    for loss in losses_of(teacher, np.array([0, 1, 2])):
        assert_finite(loss, student)
    assert_finite(lambda s: kd_loss(standardise_logits(s), standardise_logits(teacher)), student)


def test_classes_excluded_by_minus_infinity_do_not_count():
    student, teacher, label = draw(3, 5), draw(3, 5, seed=1), np.array([0, 1, 3])
    without = [x[:, [0, 1, 3, 4]] for x in (student, teacher)]
    student[:, 2] = teacher[:, 2] = -np.inf
    narrow = losses_of(without[1], np.array([0, 1, 2]))
    for number, (loss, other) in enumerate(zip(losses_of(teacher, label), narrow, strict=True)):
        value, _ = assert_finite(loss, student)
        if number != 3:  # DIST averages over all classes
            np.testing.assert_allclose(value, value_and_gradient(other, without[0])[0].sum(), rtol=1e-5)


@pytest.mark.parametrize("level", [0.0, 0.1, 7.0])
def test_equal_logits_have_a_moderate_gradient(level):
    """A classifier that starts at 0: DIST has no correlation to offer, and z-scores are 0."""
    teacher, label, student = draw(4, 10), np.array([0, 1, 2, 9]), np.full((4, 10), level)
    standard = standardise_logits(teacher)
    for loss in (*losses_of(teacher, label), lambda s: kd_loss(standardise_logits(s), standard)):
        assert np.abs(assert_finite(loss, student)[1]).max() < 100
    value, gradient = assert_finite(lambda s: dist_loss(s, teacher), student)
    assert value == 2 and not gradient.any()


def test_a_batch_of_one():
    student, teacher, label = draw(1, 4), draw(1, 4, seed=1), np.array([2])
    values = [assert_finite(loss, student)[0] for loss in losses_of(teacher, label)]
    row = np.corrcoef(softmax(np.float64(student[0])), softmax(np.float64(teacher[0])))[0, 1]
    np.testing.assert_allclose(values[3], 2 - row, rtol=1e-5)  # columns are constant
    wrong = np.argmin(teacher, axis=1)
    assert not sskd(student, teacher, wrong).any()  # int(0.75 * 1) rows are kept


def test_standardisation_ignores_scale_and_shift():
    """That of huge logits too, whose squares overflow."""
    logits = draw(3, 5)
    want = standardise_logits(logits)
    np.testing.assert_allclose(standardise_logits(1e25 * logits), want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(standardise_logits(logits + 8), want, rtol=1e-4, atol=1e-5)


def test_equal_ranks_are_kept_in_the_order_of_the_rows():
    """Three of seven wrong rows: those of rank 1 first, then the first of rank 2."""
    teacher, target = np.tile([[3.0, 2.0, 1.0]], (8, 1)), np.array([2, 1, 2, 0, 2, 1, 2, 2])
    losses = sskd_loss(jnp.zeros((8, 3)), teacher, target, keep_wrong=3 / 7, temperature=1.0)
    assert [*np.flatnonzero(losses)] == [0, 1, 3, 5]


@pytest.mark.parametrize("loss", [kd_loss, dist_loss, dkd_loss, sskd])
def test_same_on_8_devices(loss):
    args = [draw(16, 6), draw(16, 6, seed=1), np.arange(16) % 6]
    assert_same_on_8_devices(loss, *args[: 3 if loss in (dkd_loss, sskd) else 2])


def test_only_the_student_receives_a_gradient():
    student, teacher, label = draw(3, 4), draw(3, 4, seed=1), np.array([0, 1, 2])
    for number, loss in enumerate(losses_of(teacher, label)):
        assert np.abs(value_and_gradient(loss, student)[1]).max() > 1e-4
        assert not value_and_gradient(lambda t, n=number: losses_of(t, label)[n](student), teacher)[1].any()


@pytest.mark.parametrize("loss", [kd_loss, dist_loss, dkd_loss, sskd])
def test_arguments_that_do_not_fit_are_refused_and_named(loss):
    names = ["scores", "target"] if loss is sskd else ["logits", "label"]
    with_label = [names[1]] if loss in (dkd_loss, sskd) else []
    good = {f"student_{names[0]}": ((4, 5), jnp.bfloat16), f"teacher_{names[0]}": ((4, 5), jnp.float16)}
    good |= dict.fromkeys(with_label, ((4,), jnp.int32))

    def shape(**arguments):
        return jax.eval_shape(loss, *(jax.ShapeDtypeStruct(*x) for x in (good | arguments).values()))

    assert shape().dtype == jnp.float32 and shape().shape == (() if loss is dist_loss else (4,))
    for name, (dims, _) in good.items():
        wrong = jnp.float32 if name in with_label else jnp.int32
        with pytest.raises(AssertionError, match=name):
            shape(**{name: (dims, wrong)})
        with pytest.raises(AssertionError, match=name):
            shape(**{name: ((*dims, 1), good[name][1])})
        with pytest.raises(AssertionError, match=name):
            shape(**{name: ((3, *dims[1:]), good[name][1])})
    with pytest.raises(AssertionError, match="temperature is 0: it must be above 0"):
        loss(*(jnp.zeros(*x) for x in good.values()), temperature=0)


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(AssertionError, match="keep_wrong is 75: it must be from 0 to 1"):
        sskd_loss(jnp.zeros((2, 3)), jnp.zeros((2, 3)), jnp.zeros(2, int), keep_wrong=75, temperature=1.0)
    with pytest.raises(AssertionError, match="at least 2 classes"):
        standardise_logits(jnp.zeros((4, 1)))
    with pytest.raises(AssertionError, match="logits"):
        standardise_logits(jnp.zeros(4))


def test_the_virtual_teacher_is_the_released_one():
    """The mean over classes and samples of Tf-KD_reg, times the number of classes, in torch."""
    logits = wave(5, 4, 0.0).astype(np.float32)
    p = torch.full((5, 4), 0.01 / 3, dtype=torch.float64)
    p[torch.arange(5), torch.tensor(LABEL)] = 0.99
    x = torch.tensor(np.float64(logits), requires_grad=True)
    want = 4 * F.kl_div(F.log_softmax(x, 1), F.softmax(p / 20, 1), reduction="none").mean(1)
    want.sum().backward()
    value, gradient = value_and_gradient(lambda s: virtual_teacher_loss(s, LABEL), logits)
    np.testing.assert_allclose(value, want.detach(), rtol=1e-5)
    np.testing.assert_allclose(gradient, x.grad, rtol=1e-4, atol=1e-6)
    with pytest.raises(AssertionError, match="label"):
        virtual_teacher_loss(logits, LABEL[:3])
    with pytest.raises(AssertionError, match="correct is 99"):
        virtual_teacher_loss(logits, LABEL, correct=99)


def test_the_virtual_teacher_by_hand():
    """Of 100 classes: e^(0.99 / 20) against 99 that are close to 1."""
    logits = np.log(np.r_[0.505, np.full(99, 0.005)])[None].astype(np.float32)
    p = np.exp(0.0495) / (np.exp(0.0495) + 99 * np.exp(0.01 / 99 / 20))
    assert round(p, 4) == 0.0105
    rest = (1 - p) / 99
    want = p * np.log(p / 0.505) + 99 * rest * np.log(rest / 0.005)
    np.testing.assert_allclose(virtual_teacher_loss(logits, np.array([0])), want, rtol=1e-5)
