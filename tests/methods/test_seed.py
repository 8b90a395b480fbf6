"""SEED against the formula written out in float64."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake import CLOCK, FakeNetwork, batch, embed64, given, log_softmax64

from seed_jax.config import Data, Train
from seed_jax.errors import UserError
from seed_jax.losses import nce_loss
from seed_jax.methods.base import Nets
from seed_jax.methods.seed import Seed

B, D = 4, 5
METHOD = Seed(queue_size=3 * B, tau_student=0.2, tau_teacher=0.05)


def setting():
    student, teacher = FakeNetwork(D), FakeNetwork(D)
    x = batch(B)
    student_variables = student.init(jax.random.key(1), x.views[0][:, 0])
    teacher_variables = teacher.init(jax.random.key(2), x.views[0][:, 0])
    nets = Nets(student, lambda x, views: teacher.apply(teacher_variables, x, False)[0])
    aux = METHOD.init_aux(jax.random.key(3), given(B, D), student_variables)
    return nets, student_variables, teacher_variables, aux


def loss_of(nets, variables, aux, x, method=METHOD):
    state = {"batch_stats": variables["batch_stats"]}
    return method.loss(nets, variables["params"], state, aux, x, CLOCK, jax.random.key(0))


def direct(z_s, z_t, queue, tau_s, tau_t):
    """-sum_j softmax(z_t . d_j / tau_t) log softmax(z_s . d_j / tau_s), d over the own z_t and the queue."""
    losses = []
    for s, t in zip(z_s, z_t, strict=True):
        entries = np.concatenate([t[None], queue])
        p = np.exp(log_softmax64((entries @ t)[None] / tau_t))
        losses.append(-(p * log_softmax64((entries @ s)[None] / tau_s)).sum())
    return np.array(losses)


def test_loss_over_several_steps_equals_the_formula_on_the_queue_before_the_step():
    nets, student, teacher, aux = setting()
    past = np.zeros((0, D))
    for n in range(5):  # past the 3 slots, so that the oldest are overwritten
        x = batch(B, seed=n)
        image = x.views[0][:, 0]
        z_s, z_t = (embed64(v["params"]["w"], image) for v in (student, teacher))
        loss, out = loss_of(nets, student, aux, x)
        want = direct(z_s, z_t, past, 0.2, 0.05)
        np.testing.assert_allclose(loss, want.mean(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(out.metrics["teacher_cosine"], (z_s * z_t).sum(axis=1), atol=1e-5)
        aux, past = out.aux, np.concatenate([past, z_t])[-3 * B :]


def test_only_teacher_embeddings_are_queued():
    nets, student, teacher, aux = setting()
    x = batch(B)
    _, out = loss_of(nets, student, aux, x)
    chex.assert_trees_all_close(
        out.aux["queue"].slots[0],
        embed64(teacher["params"]["w"], x.views[0][:, 0]).astype(np.float32),
        atol=1e-6,
    )
    np.testing.assert_array_equal(out.aux["queue"].slots[1:], 0)


def test_noise_start_counts_from_the_first_step():
    nets, student, _, _ = setting()
    method = Seed(queue_size=3 * B, queue_start="noise")
    aux = method.init_aux(jax.random.key(3), given(B, D), student)
    loss, _ = loss_of(nets, student, aux, batch(B), method)
    assert float(loss) > 1e-3  # over an empty queue the loss is 0


def test_one_call_of_each_network_on_the_same_view_and_only_the_student_trains():
    nets, student, _, aux = setting()
    x = batch(B)
    seen = []
    embedding = {"embedding": jnp.ones((B, D))}
    nets = Nets(nets.student, lambda *asked: seen.append(asked) or embedding)
    _, out = loss_of(nets, student, aux, x)
    (call,) = nets.student.calls
    assert call["train"] is True
    assert call["keys"] is x.keys
    ((asked, views),) = seen
    assert views == (0,)
    np.testing.assert_array_equal(call["x"], x.views[0][:, 0])
    np.testing.assert_array_equal(asked, x.views[0][:, 0])
    np.testing.assert_array_equal(out.model_state["batch_stats"]["seen"], 1)


def test_no_gradient_for_teacher_and_queue():
    nets, student, teacher, aux = setting()
    for n in range(3):
        aux = loss_of(nets, student, aux, batch(B, seed=n))[1].aux

    def total(params, teacher_params, slots):
        asked = Nets(
            nets.student,
            lambda x, views: FakeNetwork(D).apply({"params": teacher_params}, x, False)[0],
        )
        variables = {"params": params, "batch_stats": student["batch_stats"]}
        return loss_of(asked, variables, {"queue": aux["queue"].replace(slots=slots)}, batch(B, seed=9))[0]

    grads = jax.grad(total, argnums=(0, 1, 2))(student["params"], teacher["params"], aux["queue"].slots)
    assert float(jnp.abs(grads[0]["w"]).max()) > 1e-3
    np.testing.assert_array_equal(grads[1]["w"], 0)
    np.testing.assert_array_equal(grads[2], 0)


def test_binary_strategy_is_the_loss_of_that_name_over_the_same_queue():
    nets, student, teacher, aux = setting()
    method = Seed(queue_size=3 * B, strategy="binary", tau_student=0.3)
    for n in range(2):
        x = batch(B, seed=n)
        loss, out = loss_of(nets, student, aux, x, method)
        rows = [
            jnp.asarray(embed64(v["params"]["w"], x.views[0][:, 0]), jnp.float32) for v in (student, teacher)
        ]
        want = nce_loss(*rows, aux["queue"].slots, jnp.arange(3) < n, temperature=0.3)
        np.testing.assert_allclose(loss, want.mean(), rtol=1e-4)
        aux = out.aux
    np.testing.assert_allclose(aux["queue"].slots[1], rows[1], atol=1e-5)


PATCHES = Seed(queue_size=3 * B, tau_student=0.2, tau_teacher=0.05, patches=3, patch_size=2)


def with_patches(seed):
    """A batch of `batch` with three small views of each image, of the global view's size."""
    whole, small = batch(B, seed=seed), batch(B, views=3, seed=100 + seed)
    return whole.replace(views=(whole.views[0], small.views[0]))


def test_small_patches_equal_the_formula_over_two_queues():
    """jacobswan1/SEED, seed/small_patch_builder.py: a queue each, of the first patch, means that add up."""
    nets, student, teacher, _ = setting()
    aux = PATCHES.init_aux(jax.random.key(3), given(B, D), student)
    past, small_past = np.zeros((0, D)), np.zeros((0, D))
    for n in range(5):
        x = with_patches(n)
        rows = x.views[1].reshape(B * 3, *x.views[1].shape[2:])
        z_s, z_t = (embed64(v["params"]["w"], x.views[0][:, 0]) for v in (student, teacher))
        small_s, small_t = (embed64(v["params"]["w"], rows) for v in (student, teacher))
        loss, out = loss_of(nets, student, aux, x, PATCHES)
        whole = direct(z_s, z_t, past, 0.2, 0.05)
        small = direct(small_s, small_t, small_past, 0.2, 0.05)
        np.testing.assert_allclose(loss, whole.mean() + small.mean(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(out.metrics["patch_loss"], small, rtol=1e-4, atol=1e-5)
        aux, past = out.aux, np.concatenate([past, z_t])[-3 * B :]
        small_past = np.concatenate([small_past, small_t.reshape(B, 3, D)[:, 0]])[-3 * B :]
        slot = n % 3
        np.testing.assert_allclose(aux["queue"].slots[slot], past[-B:], atol=1e-5)
        np.testing.assert_allclose(aux["small_queue"].slots[slot], small_past[-B:], atol=1e-5)
        assert int(aux["queue"].next) == int(aux["small_queue"].next) == (n + 1) % 3


def test_small_patches_go_through_by_themselves_after_the_whole_with_keys_of_their_own():
    nets, student, _, _ = setting()
    aux = PATCHES.init_aux(jax.random.key(3), given(B, D), student)
    x = with_patches(0)
    _, out = loss_of(nets, student, aux, x, PATCHES)
    first, second = nets.student.calls
    assert len(first["x"]) == B
    assert len(second["x"]) == len(second["keys"]) == 3 * B
    np.testing.assert_array_equal(second["x"].reshape(x.views[1].shape), x.views[1])
    np.testing.assert_array_equal(second["variables"]["batch_stats"]["seen"], 1)
    np.testing.assert_array_equal(out.model_state["batch_stats"]["seen"], 2)
    keys = jax.random.key_data(jnp.concatenate([first["keys"], second["keys"]]))
    assert len(np.unique(keys, axis=0)) == 4 * B
    # Image 2's patch 1 is keyed by its image and view alone.
    expected = jax.random.fold_in(x.keys[2], 2)
    np.testing.assert_array_equal(
        jax.random.key_data(second["keys"][2 * 3 + 1]), jax.random.key_data(expected)
    )


def test_noise_in_the_two_queues_differs():
    method = Seed(queue_size=3 * B, queue_start="noise", patches=6)
    aux = method.init_aux(jax.random.key(0), given(B, D), {})
    assert np.abs(aux["queue"].slots - aux["small_queue"].slots).min(axis=(0, 1)).max() > 0


def test_views_of_the_released_code():
    """tools/utils.py: swav_aug and swav_small_aug."""
    data = Data(image_size=224, crop_scale=(0.14, 1.0), photometric="swav")
    whole, small = Seed(patches=6).views(data)
    assert (whole.count, whole.size, whole.scale, whole.photometric) == (1, 224, (0.14, 1.0), "swav")
    assert (small.count, small.size, small.scale, small.photometric) == (6, 96, (0.05, 0.14), "swav_small")
    assert small.ratio == whole.ratio == (3 / 4, 4 / 3)
    assert small.flip == whole.flip == 0.5
    assert len(Seed().views(data)) == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"patches": -1}, "method.patches"),
        ({"hidden": -1}, "method.hidden is -1"),
        ({"strategy": "l2"}, "Unknown method.strategy 'l2': it is one of binary, seed"),
        ({"patch_scale": (0.2, 0.1)}, "method.patch_scale"),
        ({"patch_scale": (0.2,)}, "method.patch_scale"),
    ],
)
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(UserError, match=words):
        Seed(**settings).check(Data(), Train())
