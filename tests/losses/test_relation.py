"""Losses of features against float64 formulas, differences, the released codes and hand calculation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import (
    assert_equals_float64,
    assert_finite,
    assert_released,
    assert_same_on_8_devices,
    draw,
    value_and_gradient,
    wave,
)

from seed_jax import parallel
from seed_jax.losses import (
    crd_constant,
    crd_loss,
    crd_queue_loss,
    fitnet_loss,
    info_nce,
    pkt_loss,
    rkd_loss,
    similarity_rows,
    sp_loss,
    sskd_loss,
)

RELATIONS = [sp_loss, pkt_loss, rkd_loss]
TAU = 0.07


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def direct_sp(student, teacher):
    grams = [unit(x @ x.T) for x in (student, np.float64(teacher))]
    return ((grams[0] - grams[1]) ** 2).sum() / len(student) ** 2


def direct_pkt(student, teacher):
    def probabilities(x):
        cosines = (1 + unit(x) @ unit(x).T) / 2
        return cosines / cosines.sum(axis=1, keepdims=True)

    p, q = probabilities(np.float64(teacher)), probabilities(student)
    return (p * np.log((p + 1e-7) / (q + 1e-7))).sum() / len(student) ** 2


def smooth_l1(x):
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def direct_rkd(student, teacher, distance=25.0, angle=50.0):
    """Pair by pair and triple by triple. Samples that coincide have no angle."""
    student, teacher, each = np.float64(student), np.float64(teacher), range(len(student))

    def distances(x):
        d = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
        return d / d[~np.eye(len(x), dtype=bool)].mean()

    def cosine(x, i, j, k):
        a, b = x[j] - x[i], x[k] - x[i]
        lengths = np.linalg.norm(a) * np.linalg.norm(b)
        return a @ b / lengths if lengths else 0.0

    pairs = sum(smooth_l1(x) for x in (distances(student) - distances(teacher)).flat)
    triples = sum(
        smooth_l1(cosine(student, i, j, k) - cosine(teacher, i, j, k))
        for i in each
        for j in each
        for k in each
    )
    return distance * pairs / len(student) ** 2 + angle * triples / len(student) ** 3


DIRECT = {sp_loss: direct_sp, pkt_loss: direct_pkt, rkd_loss: direct_rkd}


@pytest.mark.parametrize("loss", RELATIONS)
def test_relations_in_float64(loss):
    """Also of a student that is already close to its teacher."""
    teacher, student = draw(5, 6, seed=1), draw(5, 3)
    assert_equals_float64(lambda s: loss(s, teacher), lambda s: DIRECT[loss](s, teacher), student)
    close = teacher + 0.1 * draw(5, 6, seed=2)
    assert_equals_float64(lambda s: loss(s, teacher), lambda s: DIRECT[loss](s, teacher), close)


def test_rkd_of_samples_far_from_the_origin_and_close_together():
    """Inner products would have lost their distances in float32."""
    teacher, student = draw(4, 3, seed=1), 100 + draw(4, 3, scale=0.01)
    np.testing.assert_allclose(rkd_loss(student, teacher), direct_rkd(student, teacher), rtol=1e-5)


def test_weights_of_rkd():
    student, teacher = draw(4, 3), draw(4, 3, seed=1)
    for distance, angle in ((2.0, 0.0), (0.0, 3.0)):
        got = rkd_loss(student, teacher, distance=distance, angle=angle)
        np.testing.assert_allclose(got, direct_rkd(student, teacher, distance, angle), rtol=1e-5)


def test_fitnet_in_float64():
    student, teacher = draw(3, 2, 2, 2), draw(3, 2, 2, 2, seed=1)
    assert_equals_float64(
        lambda s: fitnet_loss(s, teacher), lambda s: ((s - teacher) ** 2).mean(axis=(1, 2, 3)), student
    )


# Computed in float64 by HobbitLong/RepDistiller b84f547 on wave(5, 4, 0), wave(5, 3, 1); fitnet on
# wave(5, 4, 0), wave(5, 4, 1).
RELEASED = {
    fitnet_loss: (4, 3.59715727, [-0.2524413, 0.1692855, 0.007621392, -0.07478335]),
    sp_loss: (3, 0.126470214, [-0.01124203, -0.008817188, 0.004181481, 0.01227535]),
    pkt_loss: (3, 0.0276745608, [-0.00154628, -0.001169769, 0.001504698, 0.00340488]),
    rkd_loss: (3, 4.58040876, [-0.8027119, -0.490257, 0.3979706, -0.06698573]),
}


@pytest.mark.parametrize("loss", RELEASED)
def test_released_values(loss):
    width, value, first_row = RELEASED[loss]
    teacher = wave(5, width, 1.0).astype(np.float32)
    assert_released(lambda s: loss(s, teacher), wave(5, 4, 0.0), value, first_row)


def test_released_values_of_sskd_on_similarities():
    """xuguodong03/SSKD 661b972 in float64: rows 1 to 3 of every four of wave(16, 3, 2) are the views."""
    views = np.arange(16) % 4 != 0
    teacher = wave(16, 6, 3.0).astype(np.float32)
    rows = similarity_rows(teacher[views], teacher[~views])
    target = np.repeat(np.arange(4), 3)

    def loss(s):
        scores = similarity_rows(s[views], s[~views])
        return sskd_loss(scores, rows, target, keep_wrong=0.75, temperature=0.5)

    first_row = [-9.72268e-05, -0.0008465701, 0.003707351]  # of the first original
    assert_released(loss, wave(16, 3, 2.0), 0.12609737, first_row)


def crd_arguments():
    """What the banks of wave(6, 4, 2) and wave(6, 4, 3), scaled to length 1, give three samples."""
    index = np.array([[0, 3, 4, 5, 1], [1, 2, 4, 5, 0], [2, 5, 5, 0, 3]])
    banks = [unit(wave(6, 4, phase))[index].astype(np.float32) for phase in (2.0, 3.0)]
    return [unit(wave(3, 4, phase)).astype(np.float32) for phase in (0.0, 1.0)] + banks


def direct_crd(student, teacher, student_rows, teacher_rows, constants, samples):
    """The paper's h, negative by negative."""
    losses = []
    for i in range(len(student)):
        loss = 0.0
        pairs = ((student[i], teacher_rows[i]), (teacher[i], student_rows[i]))
        for (anchor, rows), constant in zip(pairs, constants, strict=True):
            noise = (len(rows) - 1) / samples
            p = np.exp(np.float64(rows) @ anchor / TAU) / constant
            h = p / (p + noise)
            loss -= np.log(h[0]) + np.log(1 - h[1:]).sum()
        losses.append(loss)
    return np.array(losses)


def test_crd_in_float64():
    """Unlike elsewhere, the gradients of both networks' embeddings count."""
    student, teacher, *rows = crd_arguments()
    constants = (4202.765, 230096.125)
    rest = (*rows, constants)
    assert_equals_float64(
        lambda s: crd_loss(s, teacher, *rest, samples=6),
        lambda s: direct_crd(s, np.float64(teacher), *rest, 6),
        student,
    )
    assert_equals_float64(
        lambda t: crd_loss(student, t, *rest, samples=6),
        lambda t: direct_crd(np.float64(student), t, *rest, 6),
        teacher,
    )


def test_released_values_of_crd():
    """HobbitLong/RepDistiller b84f547 in float64, crd/memory.py and crd/criterion.py."""
    student, teacher, student_rows, teacher_rows = crd_arguments()
    constants = (
        crd_constant(student, teacher_rows, samples=6),
        crd_constant(teacher, student_rows, samples=6),
    )
    np.testing.assert_allclose(constants, [4202.765060257979, 230096.12498318538], rtol=1e-5)

    def loss(s, t):
        return crd_loss(s, t, student_rows, teacher_rows, constants, samples=6).mean()

    value, of_student = value_and_gradient(lambda s: loss(s, teacher), student)
    _, of_teacher = value_and_gradient(lambda t: loss(student, t), teacher)
    np.testing.assert_allclose(value, 28.934827661728676, rtol=1e-5)
    np.testing.assert_allclose(of_student[0], [-0.4021209, 3.3918368, -2.6911589, 2.0157049], rtol=1e-5)
    np.testing.assert_allclose(of_teacher[0], [-3.5702146, 2.0677084, 0.0972107, -1.3139086], rtol=1e-5)


def test_crd_sends_no_gradient_into_the_banks():
    student, teacher, *rows = crd_arguments()
    for number in range(2):

        def loss(x, number=number):
            given = [*rows[:number], x, *rows[number + 1 :]]
            return crd_loss(student, teacher, *given, (1e3, 1e3), samples=6)

        assert not value_and_gradient(loss, rows[number])[1].any()


def test_crd_over_queues_is_info_nce_both_ways():
    student, teacher = unit(draw(4, 6)), unit(draw(4, 6, seed=1))
    queues = [unit(draw(3, 4, 6, seed=seed)) for seed in (2, 3)]
    valid = np.array([True, True, False])

    def direct(s, t):
        """Softmax of the positive among the valid entries of the other network's queue."""
        losses = 0.0
        for anchor, positive, queue in ((s, t, queues[1]), (t, s, queues[0])):
            logits = np.concatenate(
                [(anchor * positive).sum(axis=1, keepdims=True), anchor @ queue[:2].reshape(8, 6).T], axis=1
            )
            losses = losses - logits[:, 0] / TAU + np.log(np.exp(logits / TAU).sum(axis=1))
        return losses

    value, gradient = value_and_gradient(lambda s: crd_queue_loss(s, teacher, *queues, valid), student)
    np.testing.assert_allclose(value, direct(np.float64(student), np.float64(teacher)), rtol=1e-5)
    # As with the banks, the other network's positive is no variable.
    own = value_and_gradient(lambda s: info_nce(s, teacher, queues[1], valid, temperature=TAU), student)[1]
    np.testing.assert_allclose(gradient, own, rtol=1e-6)
    gradient = value_and_gradient(lambda t: crd_queue_loss(student, t, *queues, valid), teacher)[1]
    own = value_and_gradient(lambda t: info_nce(t, student, queues[0], valid, temperature=TAU), teacher)[1]
    np.testing.assert_allclose(gradient, own, rtol=1e-6)


def test_equal_samples_and_zeros_are_safe():
    """Two equal samples, a sample of zeros, and a network whose features are all the same or all 0."""
    teacher = draw(5, 4, seed=1)
    student = draw(5, 4)
    student[1], student[3] = student[0], 0
    for features in (student, np.zeros((5, 4), np.float32), np.full((5, 4), 0.3, np.float32)):
        for loss in RELATIONS:
            assert np.abs(assert_finite(lambda s, loss=loss: loss(s, teacher), features)[1]).max() < 1e3
            assert_finite(lambda s, loss=loss, t=features: loss(s, t), student)
        assert_finite(lambda s: similarity_rows(s, teacher), features)
    np.testing.assert_allclose(rkd_loss(student, teacher), direct_rkd(student, teacher), rtol=1e-5)


@pytest.mark.parametrize("loss", RELATIONS)
def test_a_batch_of_one_has_no_relations(loss):
    assert assert_finite(lambda s: loss(s, draw(1, 4, seed=1)), draw(1, 3))[0] == 0


@pytest.mark.parametrize("loss", [*RELATIONS, fitnet_loss])
def test_only_the_student_receives_a_gradient(loss):
    student, teacher = draw(4, 3), draw(4, 3, seed=1)
    assert np.abs(value_and_gradient(lambda s: loss(s, teacher), student)[1]).max() > 1e-5
    assert not value_and_gradient(lambda t: loss(student, t), teacher)[1].any()


@pytest.mark.parametrize("loss", [*RELATIONS, fitnet_loss])
def test_maps_count_as_vectors(loss):
    student, teacher = draw(4, 2, 2, 3), draw(4, 2, 2, 3, seed=1)
    np.testing.assert_allclose(
        loss(student, teacher), loss(student.reshape(4, 12), teacher.reshape(4, 12)), rtol=1e-6
    )


@pytest.mark.parametrize("loss", [*RELATIONS, fitnet_loss, similarity_rows])
def test_same_on_8_devices(loss):
    assert_same_on_8_devices(loss, draw(16, 5), draw(16, 5, seed=1))


def test_crd_is_the_same_on_8_devices():
    rows = [unit(draw(16, 9, 4, seed=seed)) for seed in (2, 3)]
    assert_same_on_8_devices(
        lambda s, t, *rows: crd_loss(s, t, *rows, (900.0, 900.0), samples=50),
        *(unit(draw(16, 4, seed=seed)) for seed in (0, 1)),
        *rows,
    )
    queues = [unit(draw(3, 16, 4, seed=seed)) for seed in (2, 3)]
    student, teacher = (unit(draw(16, 4, seed=seed)) for seed in (0, 1))
    want = value_and_gradient(lambda s: crd_queue_loss(s, teacher, *queues), student)
    with jax.set_mesh(parallel.make_mesh()):
        got = value_and_gradient(lambda s: crd_queue_loss(s, teacher, *queues), student)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    np.testing.assert_allclose(got[1], want[1], rtol=1e-5, atol=1e-5)


def shape(loss, *arguments, **settings):
    arguments = [jax.ShapeDtypeStruct(*x) for x in arguments]
    return jax.eval_shape(functools.partial(loss, **settings), *arguments)


@pytest.mark.parametrize("loss", [*RELATIONS, fitnet_loss])
def test_features_that_do_not_fit_are_refused_and_named(loss):
    good = ((4, 5), jnp.bfloat16)
    assert shape(loss, good, ((4, 5), jnp.float16)).dtype == jnp.float32
    assert shape(loss, good, good).shape == ((4,) if loss is fitnet_loss else ())
    with pytest.raises(AssertionError, match="teacher"):
        shape(loss, good, ((3, 5), jnp.float32))
    for name, pair in (("student", ((4, 5), jnp.int32)), ("teacher", ((4, 5), jnp.uint8))):
        arguments = {"student": good, "teacher": good, name: pair}
        with pytest.raises(AssertionError, match=name):
            shape(loss, *arguments.values())
    with pytest.raises(AssertionError, match="student has shape"):
        shape(loss, ((4,), jnp.float32), ((4,), jnp.float32))


def test_other_arguments_that_do_not_fit_are_refused_and_named():
    rows, bank, f32 = ((4, 5), jnp.float32), ((4, 7, 5), jnp.float32), jnp.float32
    with pytest.raises(AssertionError, match="teacher, against the shape of student"):
        shape(fitnet_loss, rows, ((4, 6), f32))
    with pytest.raises(AssertionError, match="originals, against views"):
        shape(similarity_rows, rows, ((4, 6), f32))
    with pytest.raises(AssertionError, match="views"):
        shape(similarity_rows, ((4, 5), jnp.int32), rows)
    with pytest.raises(AssertionError, match="teacher_queue, against the shape of student_queue"):
        shape(crd_queue_loss, rows, rows, ((8, 5), f32), ((9, 5), f32))
    with pytest.raises(AssertionError, match="temperature is 0"):
        shape(crd_queue_loss, rows, rows, ((8, 5), f32), ((8, 5), f32), temperature=0)

    bank_loss = functools.partial(crd_loss, constants=(1.0, 1.0), samples=6)
    assert shape(bank_loss, rows, rows, bank, bank).shape == (4,)
    for name, number, wrong in (
        ("student", 0, ((4, 5), jnp.int32)),
        ("teacher", 1, ((4,), f32)),
        ("student_rows", 2, ((4, 7, 6), f32)),
        ("teacher_rows", 3, ((3, 7, 5), f32)),
        ("student_rows has shape", 2, ((4, 1, 5), f32)),
    ):
        arguments = [rows, rows, bank, bank]
        arguments[number] = wrong
        with pytest.raises(AssertionError, match=name):
            shape(bank_loss, *arguments)
    with pytest.raises(AssertionError, match="samples is 0: it must be above 0"):
        shape(bank_loss, rows, rows, bank, bank, samples=0)
