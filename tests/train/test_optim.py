"""Schedules against their formulas in NumPy, optimizers against PyTorch's."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seed_jax.config import Optim
from seed_jax.train import optim


def rates(o, *, batch_size=256, epochs=20, steps_per_epoch=78):
    """The rate of every step as the compiled train step computes it."""
    steps = epochs * steps_per_epoch
    rate = optim.schedule(o, batch_size=batch_size, steps=steps, steps_per_epoch=steps_per_epoch)
    return np.asarray(jax.jit(jax.vmap(rate))(jnp.arange(steps, dtype=jnp.int32)))


def never(path):
    return False


def updated(o, params, grads, *, steps=1, frozen=never, rate=None):
    """Parameters after `steps` steps with constant gradients."""
    rate = rate or optim.schedule(o, batch_size=256, steps=100, steps_per_epoch=10)
    tx = optim.optimizer(o, rate, params, frozen)
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_cosine_by_step():
    share = np.arange(20 * 78) / (20 * 78)
    want = 0.03 * 0.5 * (1 + np.cos(np.pi * share))
    np.testing.assert_allclose(rates(Optim(lr=0.03)), want, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("steps_per_epoch", [3, 7, 41, 78, 1001, 5004])
@pytest.mark.parametrize("batch_size", [64, 256, 1024])
def test_schedule_of_the_released_seed_code(batch_size, steps_per_epoch):
    """Set once an epoch: 5 epochs from lr to its multiple, then the cosine over all (tools/utils.py)."""
    epochs, lr, multiple = 12, 0.03, batch_size / 256
    by_epoch = [
        lr + (lr * multiple - lr) * e / 5
        if e < 5
        else lr * multiple * 0.5 * (1 + math.cos(math.pi * e / epochs))
        for e in range(epochs)
    ]
    o = Optim(lr=lr, warmup_epochs=5, warmup_from="lr", update="epoch")
    got = rates(o, batch_size=batch_size, epochs=epochs, steps_per_epoch=steps_per_epoch)
    np.testing.assert_allclose(got, np.repeat(by_epoch, steps_per_epoch), rtol=1e-5)


def test_warm_up_from_zero_by_step():
    got = rates(Optim(lr=0.5, schedule="constant", warmup_epochs=2.5), steps_per_epoch=10)
    np.testing.assert_allclose(got[:25], 0.5 * np.arange(25) / 25, rtol=1e-6)
    np.testing.assert_allclose(got[25:], 0.5)


def test_steps_divide_by_ten_at_shares_of_the_run():
    """The linear probe: 30, and a tenth of it from epoch 60 and again from 80 of 100."""
    o = Optim(lr=30.0, schedule="steps", milestones=(0.6, 0.8), update="epoch")
    got = rates(o, epochs=100, steps_per_epoch=7)
    np.testing.assert_allclose(got, np.repeat([30.0, 3.0, 0.3], [60 * 7, 20 * 7, 20 * 7]), rtol=1e-5)


@pytest.mark.parametrize(("lr_batch", "want"), [(256, 0.03 * 96 / 256), (512, 0.03 * 96 / 512), (0, 0.03)])
def test_linear_scaling_rule(lr_batch, want):
    got = rates(Optim(lr=0.03, lr_batch=lr_batch, schedule="constant"), batch_size=96)
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize(
    ("o", "name", "options"),
    [
        (Optim(lr=0.3, momentum=0.9, weight_decay=0.05), "SGD", {"momentum": 0.9}),
        (Optim(lr=0.3, momentum=0.0, weight_decay=0.05), "SGD", {}),
        (Optim(name="adamw", lr=0.02, weight_decay=0.05), "AdamW", {}),
    ],
)
def test_equals_pytorch(o, name, options):
    """Eight steps down a cosine on a loss whose gradient changes with the parameters; decay on biases too."""
    torch = pytest.importorskip("torch")
    numbers = np.random.default_rng(0)
    start = {"kernel": numbers.standard_normal((4, 3)), "bias": numbers.standard_normal(3)}
    inputs = numbers.standard_normal((8, 16, 4))
    rate = optim.schedule(o, batch_size=256, steps=8, steps_per_epoch=4)

    params = {k: jnp.asarray(v, jnp.float32) for k, v in start.items()}
    tx = optim.optimizer(o, rate, params, never)
    state = tx.init(params)

    @jax.jit
    def step(params, state, x):
        grads = jax.grad(lambda p: jnp.tanh(x @ p["kernel"] + p["bias"][None]).sum(axis=1).mean() ** 2)(
            params
        )
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    theirs = {k: torch.tensor(v, dtype=torch.float64, requires_grad=True) for k, v in start.items()}
    reference = getattr(torch.optim, name)(theirs.values(), lr=o.lr, weight_decay=o.weight_decay, **options)
    for n, x in enumerate(inputs):
        params, state = step(params, state, jnp.asarray(x, jnp.float32))
        reference.param_groups[0]["lr"] = o.lr * 0.5 * (1 + math.cos(math.pi * n / 8))
        reference.zero_grad()
        (torch.tanh(torch.tensor(x) @ theirs["kernel"] + theirs["bias"]).sum(1).mean() ** 2).backward()
        reference.step()
    for k in start:
        np.testing.assert_allclose(params[k], theirs[k].detach().numpy(), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_decay_of_kernels_only(name):
    """With a zero gradient only the decay moves a parameter."""
    params = {"conv": {"kernel": jnp.ones((3, 3, 2, 2)), "bias": jnp.ones(2)}, "bn": {"scale": jnp.ones(2)}}
    grads = jax.tree.map(jnp.zeros_like, params)
    o = Optim(name=name, lr=1.0, weight_decay=0.1, schedule="constant")
    everything, _ = updated(o, params, grads)
    assert all(float(leaf.max()) < 1 for leaf in jax.tree.leaves(everything))
    kernels, _ = updated(Optim(**{**vars(o), "decay": "kernels"}), params, grads)
    assert float(kernels["conv"]["kernel"].max()) < 1
    np.testing.assert_array_equal(kernels["conv"]["bias"], 1)
    np.testing.assert_array_equal(kernels["bn"]["scale"], 1)


def test_lars_moves_each_parameter_by_a_share_of_its_own_norm():
    """The first update has the norm lr * 0.001 * |w|, whatever the gradient's (You et al. 2017, eq. 6)."""
    params = {"a": jnp.full((2, 2), 2.0), "b": jnp.full((5, 5), 0.1)}
    grads = {"a": jnp.full((2, 2), 1e3), "b": jnp.full((5, 5), 1e-3)}
    o = Optim(name="lars", lr=1.5, weight_decay=0.0, schedule="constant")
    moved, _ = updated(o, params, grads)
    for k, p in params.items():
        np.testing.assert_allclose(np.linalg.norm(p - moved[k]), 1.5 * 0.001 * np.linalg.norm(p), rtol=1e-3)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_frozen_parameters_get_no_slots_and_do_not_move(name):
    params = {"backbone": {"kernel": jnp.ones((7, 5))}, "classifier": {"kernel": jnp.ones((2, 3))}}
    grads = jax.tree.map(jnp.ones_like, params)
    o = Optim(name=name, lr=1.0, weight_decay=0.1)
    moved, state = updated(o, params, grads, steps=3, frozen=lambda path: path[0] == "backbone")
    np.testing.assert_array_equal(moved["backbone"]["kernel"], params["backbone"]["kernel"])
    assert float(jnp.abs(moved["classifier"]["kernel"] - 1).min()) > 0
    shapes = {leaf.shape for leaf in jax.tree.leaves(state)}
    assert (2, 3) in shapes
    assert (7, 5) not in shapes


def test_gradients_are_clipped_by_their_global_norm():
    params = {"a": jnp.zeros(4), "b": jnp.zeros((2, 2))}
    o = Optim(lr=1.0, momentum=0.0, weight_decay=0.0, clip_norm=0.5, schedule="constant")
    large, _ = updated(o, params, {"a": jnp.full(4, 3.0), "b": jnp.full((2, 2), 4.0)})
    np.testing.assert_allclose(large["a"], -0.5 * 0.6 / 2, rtol=1e-5)  # of the norm 10, |a| is 6 and |b| is 8
    np.testing.assert_allclose(large["b"], -0.5 * 0.8 / 2, rtol=1e-5)
    small, _ = updated(o, params, {"a": jnp.full(4, 0.1), "b": jnp.full((2, 2), 0.1)})
    np.testing.assert_allclose(small["a"], -0.1, rtol=1e-5)
