"""The binary loss over a queue against its formula in float64, and against CRD's with the same constant."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from numeric import draw, value_and_gradient

from seed_jax import parallel
from seed_jax.losses import crd_loss, nce_loss

N, D, TAU = 8, 6, 0.3


def unit(*shape, seed):
    x = draw(*shape, seed=seed)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def direct(student, teacher, queue):
    """Losses and their gradients with a constant c, written out with probabilities."""
    s, t, q = (np.asarray(x, np.float64) for x in (student, teacher, queue))
    own, others = np.exp((s * t).sum(axis=1) / TAU), np.exp(s @ q.T / TAU)
    total = len(q) * others.mean()
    of_own, of_others = own / (own + total), others / (others + total)
    gradient = (of_others @ q - (1 - of_own)[:, None] * t) / TAU
    return -np.log(of_own) - np.log(1 - of_others).sum(axis=1), gradient


def test_the_formula_in_float64(monkeypatch):
    monkeypatch.setattr("seed_jax.losses.readout.BLOCK", 16)
    student, teacher, queue = unit(N, D, seed=1), unit(N, D, seed=2), unit(5, N, D, seed=3)
    valid = np.array([True, False, True, True, False])
    want, gradient = direct(student, teacher, queue[valid].reshape(-1, D))
    got, found = value_and_gradient(lambda s: nce_loss(s, teacher, queue, valid, temperature=TAU), student)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_allclose(found, gradient, rtol=1e-4, atol=1e-5)


def test_crd_with_the_same_constant_and_bank():
    """CRD adds up both anchors, so equal ones have twice the loss; M is any number, Z is M c."""
    student, teacher, queue, samples = unit(N, D, seed=4), unit(N, D, seed=5), unit(20, D, seed=6), 50
    rows = jnp.concatenate([teacher[:, None], jnp.broadcast_to(queue, (N, 20, D))], axis=1)
    constant = samples * np.exp(student @ queue.T / TAU).mean()
    crd = crd_loss(student, student, rows, rows, (constant,) * 2, samples=samples, temperature=TAU)
    np.testing.assert_allclose(2 * nce_loss(student, teacher, queue, temperature=TAU), crd, rtol=1e-4)


def test_without_entries_it_is_0_and_only_the_student_receives_a_gradient():
    args = [
        jnp.asarray(unit(N, D, seed=7)),
        jnp.asarray(unit(N, D, seed=8)),
        jnp.asarray(unit(3, N, D, seed=9)),
    ]

    @jax.jit
    def both(args, valid):
        return jax.value_and_grad(lambda args: nce_loss(*args, valid).sum())(args)

    loss, grads = both(args, jnp.zeros(3, bool))
    assert loss == 0 and not any(grad.any() for grad in grads)
    loss, grads = both(args, jnp.array([True, False, True]))
    assert loss > 1 and jnp.abs(grads[0]).max() > 1e-2
    assert not grads[1].any() and not grads[2].any()


def test_8_devices_with_the_queue_on_its_columns():
    args = unit(N, D, seed=10), unit(N, D, seed=11), unit(3, N, D, seed=12)
    both = jax.jit(lambda s, t, q: jax.value_and_grad(lambda s: nce_loss(s, t, q).sum())(s))
    want, mesh = both(*args), parallel.make_mesh()
    with jax.set_mesh(mesh):
        placed = [jax.device_put(x, parallel.batch_sharding(mesh)) for x in args[:2]]
        got = both(*placed, jax.device_put(args[2], NamedSharding(mesh, P(None, "data"))))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)
