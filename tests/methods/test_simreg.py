"""SimReg against UCDvision/simreg, simreg.py and mlp_arch.py, on a network of one matrix product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake import CLOCK, FakeNetwork, batch, embed64, unit64
from siamese import B, F, Pooled, pixels, wave

from seed_jax import config
from seed_jax.config import Data
from seed_jax.errors import UserError
from seed_jax.methods.base import Batch, FeatureShapes, Given, Nets
from seed_jax.methods.simreg import SimReg

T = 5  # width of the teacher's feature


def given(**widths):
    shapes = {name: jax.ShapeDtypeStruct((B, width), jnp.float32) for name, width in widths.items()}
    return Given(B, 0, 2, 10, 5, FeatureShapes(shapes))


def shapes(method, **widths):
    network = method.network(Pooled(), given(**widths))
    variables = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((2, 2, 2, 3)))
    return jax.tree.map(lambda x: x.shape, variables["params"])


def test_three_steps_equal_the_released_code():
    """It ran in float64, with plain gradient descent at 0.5."""
    method = SimReg()
    network = method.network(Pooled(), given(pooled=T))
    variables = network.init(jax.random.key(0), jnp.zeros((2, 2, 2, 3)))
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    params["backbone"]["w"] = jnp.asarray(0.3 * wave(12, F, 0.0), jnp.float32)
    linears = [(part, layer) for part in ("projector", "predictor") for layer in ("linear1", "linear2")]
    for n, (part, layer) in enumerate(linears, start=1):
        leaves = params[part][layer]
        leaves["kernel"] = jnp.asarray(0.3 * wave(*leaves["kernel"].shape, 0.1 * n), jnp.float32)
        leaves["bias"] = jnp.asarray(wave(1, *leaves["bias"].shape, 0.5 + n)[0], jnp.float32)

    @jax.jit
    def step(params, state, x, answer):
        seen = Batch((x,), jnp.zeros(B, jnp.int32), jax.random.split(jax.random.key(0), B))
        nets = Nets(network, lambda x, views: {"pooled": answer})

        def loss(params):
            return method.loss(nets, params, state, {}, seen, CLOCK, jax.random.key(0))

        (value, out), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.5 * g, params, grads), out.model_state, value

    losses = []
    for n in range(3):
        params, state, value = step(
            params, state, pixels(n, 0), jnp.asarray(wave(B, T, 0.2 + n), jnp.float32)
        )
        losses.append(float(value))
    np.testing.assert_allclose(losses, [2.46209824, 2.24993048, 1.96247772], rtol=1e-4)
    weights = [-0.00064203, 0.86285707, -0.77369294, 0.62447614, -0.63511941, 0.73902929, -0.82956956]
    np.testing.assert_allclose(params["backbone"]["w"][0], weights, rtol=1e-3, atol=1e-4)
    bias = [-2.8724613, -0.18151692, 1.97915886, -2.54829246, 2.26519593]
    np.testing.assert_allclose(params["predictor"]["linear2"]["bias"], bias, rtol=1e-3, atol=1e-4)
    means = state["batch_stats"]["projector"]["bn1"]["mean"][:4]
    np.testing.assert_allclose(
        means, [0.94605922, -0.45941843, -0.67026525, 0.02899408], rtol=1e-3, atol=1e-4
    )


class Predicted(FakeNetwork):
    """Answers with the entry that the method's predictor adds."""

    def apply(self, variables, x, train, keys=None):
        features, state = super().apply(variables, x, train, keys)
        return {"prediction": features["embedding"]}, state


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("target", ["pooled", "embedding"])
def test_loss_against_numpy_and_the_teachers_own_view(normalise, target):
    student, seen, teachers = Predicted(T), batch(B), batch(B, seed=9)
    variables = student.init(jax.random.key(0), seen.views[0][:, 0])
    answer, asked = np.asarray(wave(B, T, 0.4), np.float32), []

    def teacher(x, views):
        asked.append((x, views))
        return {target: answer}

    def loss(views):
        method = SimReg(target=target, normalise=normalise)
        state = {"batch_stats": variables["batch_stats"]}
        args = variables["params"], state, {}, seen.replace(views=views), CLOCK, jax.random.key(0)
        return method.loss(Nets(student, teacher), *args)

    p, t = np.asarray(seen.views[0], np.float64).reshape(B, -1) @ np.asarray(variables["params"]["w"]), answer
    cosine = (embed64(variables["params"]["w"], seen.views[0]) * unit64(t)).sum(axis=1)
    want = 2 - 2 * cosine if normalise else ((p - t) ** 2).sum(axis=1)
    for views, of in (((seen.views[0],), 0), ((seen.views[0], teachers.views[0]), 1)):
        value, out = loss(views)
        np.testing.assert_allclose(value, want.mean(), rtol=1e-5)
        np.testing.assert_allclose(out.metrics["teacher_cosine"], cosine, rtol=1e-4, atol=1e-6)
        x, numbers = asked.pop()
        assert numbers == (of,)
        np.testing.assert_array_equal(x, views[of][:, 0])
        np.testing.assert_array_equal(student.calls[-1]["x"], seen.views[0][:, 0])


def test_the_mlps_and_what_is_served():
    four = shapes(SimReg(), pooled=T)
    assert four["projector"]["linear1"]["kernel"] == (F, 2 * F)
    assert four["projector"]["linear2"]["kernel"] == (2 * F, F)
    assert four["predictor"]["linear1"]["kernel"] == (F, 2 * F)
    assert four["predictor"]["linear2"]["kernel"] == (2 * F, T)
    assert set(four["projector"]) == set(four["predictor"]) == {"linear1", "bn1", "linear2"}
    l2 = SimReg(target="embedding", layers=2, batch_norm=False, hidden=F)
    of_l2 = shapes(l2, pooled=T, embedding=3)["predictor"]
    assert of_l2["linear1"]["kernel"] == (F, F) and of_l2["linear2"]["kernel"] == (F, 3) and len(of_l2) == 2
    assert shapes(SimReg(layers=1), pooled=T)["predictor"] == {"linear1": {"kernel": (F, T), "bias": (T,)}}
    assert set(SimReg().served({"params": four}, {})["params"]) == {"backbone"}


def test_the_teacher_may_see_a_weaker_view():
    data = Data(photometric="mocov2", crop_scale=(0.2, 1.0))
    assert [view.photometric for view in SimReg().views(data)] == ["mocov2"]
    student, teacher = SimReg(photometric_teacher="none").views(data)
    assert (student.photometric, teacher.photometric) == ("mocov2", "none")
    assert (student.scale, student.size, student.flip) == (teacher.scale, teacher.size, teacher.flip)


def test_mistakes():
    for field, value, words in (
        ("target", "logits", "Unknown method.target 'logits': it is one of embedding, pooled"),
        ("layers", 3, "method.layers is 3: use 1, 2 or 4"),
        ("hidden", -1, "method.hidden is -1: use 0 or more"),
        ("photometric_teacher", "weak", "Unknown method.photometric_teacher 'weak'"),
    ):
        raw = config.default("simreg")
        raw.train.steps, raw.method[field] = 1, value
        with pytest.raises(UserError, match=words):
            config.resolve(raw)
    with pytest.raises(UserError, match="needs the teacher's 'embedding', and it returns only pooled"):
        SimReg(target="embedding").network(Pooled(), given(pooled=T))
