"""The streamed losses against the direct formulas in float64, finite differences and the released code's
form.
"""

import functools
import inspect
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from seed_jax import parallel
from seed_jax.losses import info_nce, seed_loss
from seed_jax.losses.readout import readout


def unit(rng, *shape):
    x = rng.standard_normal(shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def softmax64(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def direct_seed(student, teacher, queue, valid, tau_s, tau_t):
    """The formula as the paper writes it, and its gradient, in float64."""
    s, t, q = (np.asarray(x, np.float64) for x in (student, teacher, queue.reshape(-1, queue.shape[-1])))
    q = q[valid]
    losses, grads = [], []
    for s_i, t_i in zip(s, t, strict=True):
        entries = np.concatenate([q, t_i[None]])
        p = softmax64((entries @ t_i / tau_t)[None])[0]
        logits = entries @ s_i / tau_s
        log_p = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        losses.append(-(p * log_p).sum())
        grads.append((np.exp(log_p) - p) @ entries / tau_s)
    return np.array(losses), np.array(grads)


def near(rng, anchor, distance):
    x = anchor + distance * unit(rng, *anchor.shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@settings(max_examples=12, deadline=None)
@given(
    batch=st.integers(1, 9),
    slots=st.integers(1, 7),
    dim=st.integers(2, 40),
    filled=st.integers(0, 7),
    tau_t=st.sampled_from([1e-4, 0.01, 0.05, 0.2, 1.0]),
    tau_s=st.sampled_from([0.02, 0.2, 1.0]),
    seed=st.integers(0, 1000),
)
def test_seed_loss_equals_the_direct_formula(batch, slots, dim, filled, tau_t, tau_s, seed):
    rng = np.random.default_rng(seed)
    student, teacher, queue = unit(rng, batch, dim), unit(rng, batch, dim), unit(rng, slots, batch, dim)
    queue[0] = near(rng, teacher, 0.1)  # neighbours that receive mass at small temperatures
    valid = np.arange(slots) < filled
    want, want_grad = direct_seed(student, teacher, queue, np.repeat(valid, batch), tau_s, tau_t)

    def total(s):
        losses = seed_loss(s, teacher, queue, valid, tau_student=tau_s, tau_teacher=tau_t)
        chex.assert_shape(losses, (batch,))
        return losses.sum(), losses

    (_, got), grad = jax.value_and_grad(total, has_aux=True)(jnp.asarray(student))
    # A float32 similarity near 1 is known to 6e-8, so a logit at temperature t to 6e-8 / t, and p_T with it.
    slack = 1 + 2e-2 * 0.01 / tau_t
    np.testing.assert_allclose(got, want, rtol=1e-5 * slack, atol=1e-5 * slack / tau_s)
    np.testing.assert_allclose(grad, want_grad, atol=1e-5 * slack / tau_s)


def test_seed_loss_at_the_paper_setting_to_1e_5():
    rng = np.random.default_rng(0)
    student, teacher, queue = unit(rng, 32, 128), unit(rng, 32, 128), unit(rng, 64, 32, 128)
    queue[:8] = near(rng, teacher, 0.3)
    want, want_grad = direct_seed(student, teacher, queue, np.ones(64 * 32, bool), 0.2, 0.01)
    flat = queue.reshape(-1, 128)
    for form in (queue, flat):
        got = seed_loss(student, teacher, form)
        grad = jax.grad(lambda s, form=form: seed_loss(s, teacher, form).sum())(jnp.asarray(student))
        np.testing.assert_allclose(got, want, atol=1e-5)
        np.testing.assert_allclose(grad, want_grad, atol=1e-5)


def test_seed_loss_by_hand():
    """Two entries in the plane: own teacher (1, 0), queue (0, 1), student (0, 1), both temperatures 1."""
    e = np.e
    p = np.array([e, 1.0]) / (e + 1)  # teacher: similarity 1 with itself, 0 with the queue
    log_q = np.log(np.array([1.0, e]) / (e + 1))
    got = seed_loss(
        jnp.array([[0.0, 1.0]]),
        jnp.array([[1.0, 0.0]]),
        jnp.array([[0.0, 1.0]]),
        tau_student=1.0,
        tau_teacher=1.0,
    )
    np.testing.assert_allclose(got, [-(p * log_q).sum()], rtol=1e-6)


def test_released_code_form():
    """jacobswan1/SEED: own embedding first, soft cross-entropy over log_softmax, mean over the batch
    (reference sheet §1.1).
    """
    rng = np.random.default_rng(1)
    student, teacher, queue = unit(rng, 8, 16), unit(rng, 8, 16), unit(rng, 40, 16)
    to = np.einsum("nc,nc->n", teacher, teacher)[:, None], teacher @ queue.T
    so = np.einsum("nc,nc->n", student, teacher)[:, None], student @ queue.T
    targets = softmax64(np.concatenate(to, 1).astype(np.float64) / 0.05)
    released = -(targets * np.log(softmax64(np.concatenate(so, 1).astype(np.float64) / 0.2))).sum() / 8
    np.testing.assert_allclose(
        seed_loss(student, teacher, queue, tau_teacher=0.05).mean(), released, rtol=1e-5
    )


def test_small_teacher_temperature_is_info_nce():
    rng = np.random.default_rng(2)
    student, teacher, queue = unit(rng, 16, 64), unit(rng, 16, 64), unit(rng, 4, 16, 64)

    def value_and_gradient(loss):
        return jax.value_and_grad(lambda s: loss(s).sum())(jnp.asarray(student))

    seed = value_and_gradient(lambda s: seed_loss(s, teacher, queue, tau_student=0.2, tau_teacher=1e-4))
    nce = value_and_gradient(lambda s: info_nce(s, teacher, queue, temperature=0.2))
    chex.assert_trees_all_close(seed, nce, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["seed", "info_nce"])
def test_gradient_against_finite_differences(name):
    rng = np.random.default_rng(3)
    student, teacher, queue = unit(rng, 3, 5), unit(rng, 3, 5), unit(rng, 4, 3, 5)

    def loss(s):
        if name == "seed":
            return seed_loss(s, teacher, queue, tau_teacher=0.1).sum()
        return info_nce(s, teacher, queue, temperature=0.2).sum()

    jax.test_util.check_grads(loss, (jnp.asarray(student),), order=1, modes=["rev"], atol=1e-2, rtol=1e-2)


def test_only_the_student_receives_a_gradient():
    rng = np.random.default_rng(4)
    args = [jnp.asarray(unit(rng, 4, 8)), jnp.asarray(unit(rng, 4, 8)), jnp.asarray(unit(rng, 3, 4, 8))]
    valid = jnp.array([True, True, False])
    grads = jax.grad(lambda s, t, q: seed_loss(s, t, q, valid).sum(), argnums=(0, 1, 2))(*args)
    assert float(jnp.abs(grads[0]).sum()) > 0
    chex.assert_trees_all_equal(grads[1:], jax.tree.map(jnp.zeros_like, tuple(args[1:])))


@pytest.mark.parametrize("loss", [seed_loss, functools.partial(info_nce, temperature=0.2)])
@pytest.mark.parametrize(
    ("wrong", "number"),
    [
        ({"student": (4, 7)}, 1),  # the first argument sets the width
        ({"student": (1, 8)}, 1),
        ({"teacher": (3, 8)}, 1),
        ({"student": (1, 4, 8), "teacher": (1, 4, 8)}, 0),
        ({"queue": (3, 4, 7)}, 2),
        ({"queue": (8,)}, 2),
        ({"valid": (4,)}, 3),
        ({"valid": (1,)}, 3),
        ({"valid": (3, 4, 8)}, 3),
        ({"valid": (1, 4)}, 3),
        ({"valid": ()}, 3),
        ({"queue": (12, 8), "valid": (3,)}, 3),
    ],
)
def test_shapes_that_do_not_fit_are_refused_while_tracing_and_named(loss, wrong, number):
    shapes = {"student": (4, 8), "teacher": (4, 8), "queue": (3, 4, 8), "valid": (3,)} | wrong
    dtypes = {"valid": bool}
    args = [jax.ShapeDtypeStruct(shape, dtypes.get(name, jnp.float32)) for name, shape in shapes.items()]
    with pytest.raises(AssertionError, match=rf"\[{argument(loss, number)}\b"):
        jax.eval_shape(loss, *args)


def argument(loss, number):
    """The name of a positional argument."""
    return list(inspect.signature(loss).parameters)[number]


@pytest.mark.parametrize("loss", [seed_loss, functools.partial(info_nce, temperature=0.2)])
@pytest.mark.parametrize("which", range(4))
def test_dtypes_that_do_not_fit_are_refused_while_tracing_and_named(loss, which):
    shapes = [(4, 8), (4, 8), (3, 4, 8), (3,)]
    for dtype in (jnp.int32, jnp.uint8):
        dtypes = [jnp.bfloat16, jnp.float16, jnp.float32, bool]
        args = list(map(jax.ShapeDtypeStruct, shapes, dtypes))
        assert jax.eval_shape(loss, *args).dtype == jnp.float32
        args[which] = jax.ShapeDtypeStruct(shapes[which], dtype)
        with pytest.raises(AssertionError, match=rf"\[{argument(loss, which)}\]"):
            jax.eval_shape(loss, *args)


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan, math.inf])
def test_temperatures_must_be_above_0(tau):
    rows, queue = np.eye(2, 4, dtype=np.float32), np.eye(4, dtype=np.float32)
    for name in ("tau_student", "tau_teacher"):
        with pytest.raises(AssertionError, match=f"{name} is {tau}: it must be above 0"):
            seed_loss(rows, rows, queue, **{name: tau})
    with pytest.raises(AssertionError, match=f"temperature is {tau}"):
        info_nce(rows, rows, queue, temperature=tau)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"queries": (4, 7)}, "queue"),
        ({"queue": (8,)}, "queue"),
        ({"valid": (3, 1)}, "valid"),
        ({"valid": (1,)}, "valid"),
        ({"logit": (1,)}, "logits of own"),
        ({"entry": (1, 8)}, "entries of own"),
    ],
)
def test_shapes_that_do_not_fit_the_readout_are_refused_and_named(wrong, named):
    shapes = {"queries": (4, 8), "logit": (4,), "entry": (4, 8), "queue": (3, 4, 8), "valid": (3,)} | wrong
    query, logit, entry, queue, valid = (
        jax.ShapeDtypeStruct(shape, bool if name == "valid" else jnp.float32)
        for name, shape in shapes.items()
    )
    with pytest.raises(AssertionError, match=rf"\[{named}\]"):
        jax.eval_shape(
            lambda *a: readout((a[0],), (0.1,), (a[1:3],), *a[3:]), query, logit, entry, queue, valid
        )


def test_limits_of_the_loss():
    """log(K + 1) for a student equally similar to all; about 6.19 for a perfect one at K = 65,536
    (reference sheet §1.1).
    """
    dim, count = 64, 63
    basis = np.eye(dim, dtype=np.float32)
    uniform = np.full((1, dim), 1 / np.sqrt(dim), np.float32)
    np.testing.assert_allclose(seed_loss(uniform, basis[:1], basis[1:]), [np.log(count + 1)], rtol=1e-5)
    perfect = seed_loss(basis[:1], basis[:1], basis[1:])
    np.testing.assert_allclose(perfect, [np.log(np.exp(5.0) + count) - 5.0], rtol=1e-5)


def test_empty_queue_is_zero_loss():
    rng = np.random.default_rng(5)
    student, teacher, queue = unit(rng, 4, 8), unit(rng, 4, 8), np.zeros((2, 4, 8), np.float32)
    value, grad = jax.value_and_grad(lambda s: seed_loss(s, teacher, queue, np.zeros(2, bool)).sum())(
        jnp.asarray(student)
    )
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(grad, np.zeros_like(grad), atol=1e-5)


@pytest.mark.parametrize("devices", [2, 8])
def test_sharded_equals_one_device(devices):
    rng = np.random.default_rng(6)
    student, teacher, queue = unit(rng, 16, 32), unit(rng, 16, 32), unit(rng, 6, 16, 32)
    valid = np.arange(6) < 4

    def both(s, t, q, v):
        return jax.value_and_grad(lambda s: seed_loss(s, t, q, v, tau_teacher=0.05).sum())(s)

    want = jax.jit(both)(student, teacher, queue, valid)
    mesh = parallel.make_mesh(jax.devices()[:devices])
    with jax.set_mesh(mesh):
        placed = [jax.device_put(x, parallel.batch_sharding(mesh)) for x in (student, teacher)]
        placed.append(jax.device_put(queue, NamedSharding(mesh, P(None, "data"))))
        got = jax.jit(both)(*placed, valid)
    chex.assert_trees_all_close(got, want, rtol=2e-6, atol=2e-6)


def test_queue_sizes_that_do_not_divide_into_blocks(monkeypatch):
    monkeypatch.setattr("seed_jax.losses.readout.BLOCK", 16)
    rng = np.random.default_rng(7)
    student, teacher, queue = unit(rng, 4, 8), unit(rng, 4, 8), unit(rng, 37, 8)
    want, _ = direct_seed(student, teacher, queue, np.ones(37, bool), 0.2, 0.05)
    np.testing.assert_allclose(seed_loss(student, teacher, queue, tau_teacher=0.05), want, rtol=1e-5)


def test_compiled_program_gathers_embeddings_only_and_needs_little_memory():
    """On 8 devices at K = 65,536, B = 256, D = 128: no collective above [B, D], temporaries under 10 MB a
    device.
    """
    mesh = parallel.make_mesh()
    rows = jax.ShapeDtypeStruct((256, 128), jnp.float32, sharding=parallel.batch_sharding(mesh))

    def temporaries(queue_size):
        slots = queue_size // 256
        queue = jax.ShapeDtypeStruct(
            (slots, 256, 128), jnp.float32, sharding=NamedSharding(mesh, P(None, "data"))
        )
        valid = jax.ShapeDtypeStruct((slots,), bool, sharding=parallel.replicated(mesh))
        with jax.set_mesh(mesh):
            step = jax.jit(jax.value_and_grad(lambda s, t, q, v: seed_loss(s, t, q, v).mean()))
            program = step.lower(rows, rows, queue, valid).compile()
        for line in program.as_text().splitlines():
            if re.search(
                r"= .*(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(-start)?\(", line
            ):
                for shape in re.findall(r"[a-z]+\d+\[([\d,]*)\]", line.split("(")[0]):
                    assert math.prod(int(n) for n in shape.split(",") if n) <= 256 * 128, line
        return program.memory_analysis().temp_size_in_bytes

    at_64k = temporaries(65_536)
    assert at_64k < 10e6
    assert temporaries(1_048_576) < 1.1 * at_64k + 1e6
