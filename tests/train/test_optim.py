"""Schedules against their formulas in NumPy, optimizers against PyTorch's."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seed_jax.config import Optim
from seed_jax.errors import UserError
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
    tx = optim.optimizer(o, rate, frozen)
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


def torch_rates(name, epochs, **settings):
    """The rate of every epoch by one of torch's schedulers, from 0.5."""
    torch = pytest.importorskip("torch")
    sgd = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    scheduler = getattr(torch.optim.lr_scheduler, name)(sgd, **settings)
    got = []
    for _ in range(epochs):
        got += scheduler.get_last_lr()
        sgd.step()
        scheduler.step()
    return got


@pytest.mark.parametrize("update", ["step", "epoch"])
def test_steps_at_epochs_equal_pytorch(update):
    """The KD papers' 150, 180, 210 of 240 epochs, a tenth as long; the last milestone is never reached."""
    want = torch_rates("MultiStepLR", 24, milestones=[15, 18, 21, 30], gamma=0.2)
    o = Optim(lr=0.5, lr_batch=0, schedule="steps", milestones=(15, 18, 21, 30), factor=0.2, update=update)
    got = rates(o, epochs=24, steps_per_epoch=7)
    np.testing.assert_allclose(got, np.repeat(want, 7), rtol=1e-5)


@pytest.mark.parametrize("power", [0.9, 2.0])
@pytest.mark.parametrize(("update", "repeats"), [("step", 1), ("epoch", 7)])
def test_poly_equals_pytorch(power, update, repeats):
    units = 24 * 7 // repeats
    want = torch_rates("PolynomialLR", units, total_iters=units, power=power)
    got = rates(
        Optim(lr=0.5, lr_batch=0, schedule="poly", power=power, update=update), epochs=24, steps_per_epoch=7
    )
    np.testing.assert_allclose(got, np.repeat(want, repeats), rtol=1e-5)


def test_poly_to_a_floor():
    o = Optim(lr=0.4, lr_min=0.1, lr_batch=128, schedule="poly", power=3.0)
    got = rates(o, batch_size=256, epochs=2, steps_per_epoch=50)
    np.testing.assert_allclose(got, 0.2 + 0.6 * (1 - np.arange(100) / 100) ** 3, rtol=1e-5)


def timm_cosine(t, *, peak, floor, warmup_t, t_initial):
    """CosineLRScheduler._get_lr with warmup_prefix, one cycle and a warm-up from 0 (timm 0.4.12)."""
    if t < warmup_t:
        return t * peak / warmup_t
    t -= warmup_t
    if t >= t_initial:
        return floor
    return floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi * t / t_initial))


def test_cosine_after_warm_up_to_a_floor():
    """FD's distillation: batch 2048, rates for 512, 10 of 30 epochs of warm-up (lr_scheduler.py)."""
    o = Optim(lr=3e-4, lr_min=5e-6, lr_batch=512, warmup_epochs=10, decay_from="warmup")
    rate = optim.schedule(o, batch_size=2048, steps=30 * 11, steps_per_epoch=11)
    want = [timm_cosine(t, peak=1.2e-3, floor=2e-5, warmup_t=110, t_initial=220) for t in range(30 * 11 + 2)]
    np.testing.assert_allclose(jax.vmap(rate)(jnp.arange(30 * 11 + 2)), want, rtol=1e-5, atol=1e-9)


def test_poly_after_warm_up_by_epoch():
    o = Optim(
        lr=1.0, lr_batch=0, schedule="poly", warmup_epochs=2, decay_from="warmup", update="epoch", power=1.0
    )
    want = [0, 0.5, 1, 0.75, 0.5, 0.25]
    np.testing.assert_allclose(rates(o, epochs=6, steps_per_epoch=5), np.repeat(want, 5), rtol=1e-6)


@pytest.mark.parametrize("epochs", [2, 3])
def test_a_run_no_longer_than_its_warm_up(epochs):
    o = Optim(lr=1.0, lr_batch=0, warmup_epochs=3, decay_from="warmup")
    got = rates(o, epochs=epochs, steps_per_epoch=4)
    np.testing.assert_allclose(got, np.arange(4 * epochs) / 12, rtol=1e-6)


@pytest.mark.parametrize(
    ("milestones", "update", "want"),
    [
        ((0.25, 0.5), "step", (15, 30)),
        ((0.25, 0.5), "epoch", (20, 30)),  # step 15 is within the second epoch of 10 steps
        ((1, 2.5), "step", (10, 25)),
        ((1, 2.5), "epoch", (10, 30)),
        ((), "step", ()),
    ],
)
def test_milestones_are_the_steps_at_which_the_rate_falls(milestones, update, want):
    o = Optim(schedule="steps", milestones=milestones, update=update)
    assert optim.milestone_steps(o, 60, 10) == want
    got = rates(o, epochs=6, steps_per_epoch=10)
    np.testing.assert_array_equal(np.flatnonzero(np.diff(got)) + 1, want)


@pytest.mark.parametrize(("lr_batch", "want"), [(256, 0.03 * 96 / 256), (512, 0.03 * 96 / 512), (0, 0.03)])
def test_linear_scaling_rule(lr_batch, want):
    got = rates(Optim(lr=0.03, lr_batch=lr_batch, schedule="constant"), batch_size=96)
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize(
    ("o", "name", "options"),
    [
        (Optim(lr=0.3, momentum=0.9, weight_decay=0.05), "SGD", {"momentum": 0.9}),
        (Optim(lr=0.3, momentum=0.0, weight_decay=0.05), "SGD", {}),
        (
            Optim(lr=0.3, momentum=0.9, nesterov=True, weight_decay=0.05),
            "SGD",
            {"momentum": 0.9, "nesterov": True},
        ),
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
    tx = optim.optimizer(o, rate, never)
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


def test_two_rates_equal_the_parameter_groups_of_swavs_fine_tuning():
    """eval_semisup.py: rates 0.02 and 5, momentum 0.9, both divided by 5 after 12 and 16 epochs."""
    torch = pytest.importorskip("torch")
    numbers = np.random.default_rng(0)
    start = {part: {"kernel": numbers.standard_normal((4, 3))} for part in ("backbone", "classifier")}
    grads = numbers.standard_normal((20, 4, 3))
    o = Optim(lr=0.02, parts_lr=5.0, lr_batch=0, weight_decay=0.0, schedule="steps", factor=0.2)
    tx = optim.optimizer(o, optim.schedule(o, batch_size=64, steps=20, steps_per_epoch=1), never)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), start)
    state = tx.init(params)
    theirs = {part: torch.tensor(tree["kernel"], requires_grad=True) for part, tree in start.items()}
    groups = [{"params": [theirs["backbone"]]}, {"params": [theirs["classifier"]], "lr": 5.0}]
    reference = torch.optim.SGD(groups, lr=0.02, momentum=0.9)
    falls = torch.optim.lr_scheduler.MultiStepLR(reference, [12, 16], gamma=0.2)

    @jax.jit
    def step(params, state, grad):
        updates, state = tx.update({part: {"kernel": grad} for part in params}, state, params)
        return optax.apply_updates(params, updates), state

    for grad in grads:
        params, state = step(params, state, jnp.asarray(grad, jnp.float32))
        for x in theirs.values():
            x.grad = torch.tensor(grad)
        reference.step()
        falls.step()
    for part, x in theirs.items():
        np.testing.assert_allclose(params[part]["kernel"], x.detach().numpy(), rtol=1e-4, atol=1e-4)


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


def vit(depth):
    """The parameters of a ViT under the names of its parts, shapes aside, and a head."""
    numbers = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(numbers.standard_normal(shape), jnp.float32)

    def dense():
        return {"kernel": draw(3, 2), "bias": draw(2)}

    backbone = {f"block{i}": {"attn": dense(), "norm1": {"scale": draw(3)}} for i in range(depth)}
    backbone |= {"patch_embed": dense(), "cls_token": draw(1, 1, 3), "pos_embed": draw(1, 5, 3)}
    return {"backbone": backbone | {"norm": {"scale": draw(3)}}, "head": dense(), "ema": dense()}


def vit_layer(path):
    """Layer numbers of a ViT of depth 12."""
    name = path[1]
    if name in ("patch_embed", "cls_token", "pos_embed"):
        return 0
    return int(name[5:]) + 1 if name.startswith("block") else 13


def test_layer_decay_of_a_vit():
    """Feature-Distillation optimizer.py: scales 0.65 ** 13, ..., 0.65, 1 of layers 0 to 13; head 13."""
    params = vit(12)
    o = Optim(lr=1.0, momentum=0.0, weight_decay=0.0, schedule="constant", layer_decay=0.65)
    tx = optim.optimizer(o, lambda step: 1.0, lambda p: p[0] == "ema", layer=vit_layer, layers=13)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    scales = [0.65**i for i in reversed(range(12 + 2))]
    for i in range(12):
        for leaf in jax.tree.leaves(updates["backbone"][f"block{i}"]):
            np.testing.assert_allclose(leaf, -scales[i + 1], rtol=1e-6)
    for name in ("patch_embed", "cls_token", "pos_embed"):
        for leaf in jax.tree.leaves(updates["backbone"][name]):
            np.testing.assert_allclose(leaf, -0.0036972, rtol=1e-4)  # 0.65 ** 13
    np.testing.assert_array_equal(updates["backbone"]["norm"]["scale"], -1)
    np.testing.assert_array_equal(updates["head"]["kernel"], -1)
    np.testing.assert_array_equal(updates["ema"]["kernel"], 0)


@pytest.mark.parametrize(
    ("o", "name", "options"),
    [
        (Optim(lr=0.3, nesterov=True), "SGD", {"momentum": 0.9, "nesterov": True}),
        (Optim(name="adamw", lr=0.02), "AdamW", {}),
    ],
)
def test_layer_decay_and_undecayed_parameters_equal_the_groups_of_feature_distillation(o, name, options):
    """One torch group a parameter: its rate is scaled; vectors, cls_token and pos_embed have no decay."""
    torch = pytest.importorskip("torch")
    o = dataclasses.replace(
        o, weight_decay=0.5, decay="kernels", layer_decay=0.8, schedule="constant", lr_batch=0
    )
    params = vit(12)
    paths = [tuple(k.key for k in path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    theirs = [
        torch.tensor(np.asarray(leaf, np.float64), requires_grad=True) for leaf in jax.tree.leaves(params)
    ]
    groups = [
        {
            "params": [p],
            "lr": o.lr * 0.8 ** (12 + 1 - vit_layer(path)),
            "weight_decay": 0.5 if path[-1] == "kernel" else 0.0,
        }
        for path, p in zip(paths, theirs, strict=True)
    ]
    reference = getattr(torch.optim, name)(groups, lr=o.lr, **options)
    rate = optim.schedule(o, batch_size=256, steps=4, steps_per_epoch=1)
    tx = optim.optimizer(o, rate, never, layer=vit_layer, layers=13, undecayed={"cls_token", "pos_embed"})
    state, numbers = tx.init(params), np.random.default_rng(1)
    step = jax.jit(tx.update)
    for _ in range(4):
        grads = [numbers.standard_normal(p.shape) for p in theirs]
        tree = jax.tree.unflatten(jax.tree.structure(params), [jnp.asarray(g, jnp.float32) for g in grads])
        updates, state = step(tree, state, params)
        params = optax.apply_updates(params, updates)
        for p, grad in zip(theirs, grads, strict=True):
            p.grad = torch.tensor(grad)
        reference.step()
    for path, ours, p in zip(paths, jax.tree.leaves(params), theirs, strict=True):
        np.testing.assert_allclose(ours, p.detach().numpy(), rtol=2e-5, atol=2e-6, err_msg=str(path))


def test_layer_decay_needs_layer_numbers():
    with pytest.raises(UserError, match=r"optim\.layer_decay is 0\.75.* student\.model"):
        optim.optimizer(Optim(layer_decay=0.75), lambda step: 1.0, never)


@pytest.mark.parametrize("nesterov", [False, True])
def test_restarted_momentum_equals_an_optimizer_rebuilt_at_each_milestone(nesterov):
    torch = pytest.importorskip("torch")
    o = Optim(
        lr=0.1, lr_batch=0, nesterov=nesterov, restart_momentum=True, schedule="steps", milestones=(1, 2)
    )
    numbers = np.random.default_rng(0)
    grads = numbers.standard_normal((9, 3))
    params = {"w": jnp.ones(3), "frozen": jnp.ones(4)}
    rate = optim.schedule(o, batch_size=256, steps=9, steps_per_epoch=3)
    tx = optim.optimizer(o, rate, lambda path: path[0] == "frozen", milestones=optim.milestone_steps(o, 9, 3))
    state, step = tx.init(params), jax.jit(tx.update)
    theirs = torch.ones(3, dtype=torch.float64, requires_grad=True)
    for n, grad in enumerate(grads):
        if n % 3 == 0:
            reference = torch.optim.SGD(
                [theirs], lr=0.1 ** (1 + n // 3), momentum=0.9, weight_decay=1e-4, nesterov=nesterov
            )
        theirs.grad = torch.tensor(grad)
        reference.step()
        updates, state = step({"w": jnp.asarray(grad, jnp.float32), "frozen": jnp.ones(4)}, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params["w"], theirs.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_late_parameters_and_rising_decay_equal_pytorch_as_dino_uses_it():
    """main_dino.py sets rate and decay at each step; `cancel_gradients_last_layer` drops a gradient, so that
    AdamW passes the parameter over."""
    torch = pytest.importorskip("torch")
    o = Optim(name="adamw", lr=0.1, lr_batch=0, weight_decay=0.04, weight_decay_end=0.4, decay="kernels")
    grads = np.random.default_rng(0).standard_normal((8, 2, 3, 2))
    ours = {"early": jnp.ones((3, 2)), "late": jnp.ones((3, 2))}
    theirs = {name: torch.ones(3, 2, dtype=torch.float64, requires_grad=True) for name in ours}
    rate = optim.schedule(o, batch_size=1, steps=8, steps_per_epoch=3)
    decay = optim.decay_schedule(o, 8)
    late = {"late": lambda path: path == ("late",), "late_steps": 3}
    tx = optim.optimizer(o, rate, never, decay=decay, **late)
    state, step = tx.init(ours), jax.jit(tx.update)
    reference = torch.optim.AdamW(theirs.values())
    for n, pair in enumerate(grads):
        (group,) = reference.param_groups
        group["lr"] = 0.05 * (1 + math.cos(math.pi * n / 8))
        group["weight_decay"] = 0.4 - 0.18 * (1 + math.cos(math.pi * n / 8))
        for grad, (name, parameter) in zip(pair, theirs.items(), strict=True):
            parameter.grad = None if name == "late" and n < 3 else torch.tensor(grad)
        reference.step()
        given = {name: jnp.asarray(grad, jnp.float32) for name, grad in zip(ours, pair, strict=True)}
        updates, state = step(given, state, ours)
        ours = optax.apply_updates(ours, updates)
        for name, parameter in theirs.items():
            np.testing.assert_allclose(ours[name], parameter.detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "lars"])
def test_decay_can_rise_in_every_optimizer(name):
    o = Optim(name=name, weight_decay=0.1, weight_decay_end=0.3, momentum=0.0)
    decay = optim.decay_schedule(o, 2)
    assert [round(float(decay(n)), 6) for n in (0, 1, 2, 5)] == [0.1, 0.2, 0.3, 0.3]
    assert optim.decay_schedule(dataclasses.replace(o, weight_decay_end=0.0), 2) == 0.1
    if name == "sgd":
        tx = optim.optimizer(o, lambda step: 1.0, never, decay=decay)
        params, zero = {"w": jnp.ones((2, 2))}, {"w": jnp.zeros((2, 2))}
        state = tx.init(params)
        for want in (0.1, 0.2):
            updates, state = tx.update(zero, state, params)
            np.testing.assert_allclose(updates["w"], -want, rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_structure_of_the_state_is_that_of_existing_checkpoints(name, clip_norm):
    params = {"kernel": jnp.ones((3, 2)), "fixed": jnp.ones(2)}
    main = {
        "sgd": optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(lambda step: 1.0, 0.9)),
        "adamw": optax.adamw(lambda step: 1.0),
        "lars": optax.lars(lambda step: 1.0, trust_ratio_mask={"kernel": True, "fixed": optax.MaskedNode()}),
    }[name]
    if clip_norm:
        main = optax.chain(optax.clip_by_global_norm(clip_norm), main)
    want = optax.partition(
        {"trained": main, "frozen": optax.set_to_zero()}, {"kernel": "trained", "fixed": "frozen"}
    ).init(params)
    tx = optim.optimizer(Optim(name=name, clip_norm=clip_norm), lambda step: 1.0, lambda p: p == ("fixed",))
    assert jax.tree.structure(tx.init(params)) == jax.tree.structure(want)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"schedule": "polly"}, r"Unknown optim\.schedule 'polly': did you mean 'poly'"),
        ({"decay_from": "end"}, r"Unknown optim\.decay_from 'end': it is one of start, warmup"),
        ({"milestones": (0.6, 80)}, r"optim\.milestones is \(0\.6, 80\): it must be shares of the run"),
        ({"milestones": (0.8, 0.6)}, r"optim\.milestones is .* in rising order"),
        ({"milestones": (30, 30)}, r"optim\.milestones is .* in rising order"),
        ({"milestones": (0.0, 0.5)}, r"optim\.milestones is .* all above 0"),
        ({"milestones": (30, float("inf"))}, r"optim\.milestones is "),
        ({"factor": 0.0}, r"optim\.factor is 0\.0: it must be above 0"),
        ({"power": 0.0}, r"optim\.power is 0\.0: it must be above 0"),
        ({"lr_min": -1.0}, r"optim\.lr_min is -1\.0: it must be 0 or more"),
        ({"lr_min": 0.5, "lr": 0.1}, r"optim\.lr_min is 0\.5: it must be at most optim\.lr \(0\.1\)"),
        ({"layer_decay": 0.0}, r"optim\.layer_decay is 0\.0: it must be above 0 and at most 1"),
        ({"layer_decay": 1.5}, r"optim\.layer_decay is 1\.5: it must be above 0 and at most 1"),
        ({"nesterov": True, "name": "adamw"}, r"optim\.nesterov is True: .* unless optim\.name is 'sgd'"),
        ({"nesterov": True, "momentum": 0.0}, r"optim\.nesterov is True: .* optim\.momentum above 0"),
        ({"restart_momentum": True}, r"optim\.restart_momentum is True: .* optim\.schedule 'steps'"),
        ({"restart_momentum": True, "schedule": "steps", "name": "lars"}, r"optim\.restart_momentum is True"),
        ({"parts_lr": -1.0}, r"optim\.parts_lr is -1\.0: it must be 0 or more"),
        ({"parts_lr": 5.0, "lr": 0.0}, r"optim\.parts_lr is 5\.0: it must be 0 where optim\.lr is 0"),
        ({"decay_from": "warmup", "schedule": "steps"}, r"optim\.decay_from is warmup: it must be 'start'"),
    ],
)
def test_mistakes(settings, words):
    with pytest.raises(UserError, match=words):
        Optim(**settings).check()


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": "steps", "milestones": (150, 180, 210), "restart_momentum": True, "nesterov": True},
        {"schedule": "steps", "milestones": (0.5,), "factor": 0.5},
        {"schedule": "poly", "decay_from": "warmup", "lr_min": 0.03},
        {"name": "adamw", "layer_decay": 0.65, "decay": "kernels"},
    ],
)
def test_settings_of_papers(settings):
    Optim(**settings).check()
