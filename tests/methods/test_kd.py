"""KD with an augmented view against NumPy in float64, with two networks that are one matrix product each."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake import CLOCK, FakeNetwork, batch, given, log_softmax64

from seed_jax import config
from seed_jax.data import mixing
from seed_jax.errors import UserError
from seed_jax.methods.base import FeatureShapes, Nets
from seed_jax.methods.kd import KD, TERMS

CLASSES, T = 4, 4.0


class Logits(FakeNetwork):
    """A FakeNetwork whose embedding is its logits and its pooled feature, too."""

    def apply(self, variables, x, train, keys=None):
        features, state = super().apply(variables, x, train, keys)
        x = features["embedding"]
        return {"logits": x, "pooled": x, "stage1": 0 * x, "stage2": x, "regressed": x}, state


class Run:
    def __init__(self, size=8, side=4):
        self.batch = batch(size, side=side)
        self.student, self.teacher = Logits(CLASSES), Logits(CLASSES)
        sample = self.batch.views[0][:, 0]
        self.variables = self.student.init(jax.random.key(1), sample)
        self.teachers = self.teacher.init(jax.random.key(2), sample)
        self.asked = []
        self.clock = CLOCK

    def loss(self, method, key=0):
        def ask(x, views=None):
            self.asked.append((x, views))
            return self.teacher.apply(self.teachers, x, False)[0]

        state = {"batch_stats": self.variables["batch_stats"]}
        return method.loss(
            Nets(self.student, ask),
            self.variables["params"],
            state,
            {},
            self.batch,
            self.clock,
            jax.random.key(key),
        )

    def logits64(self, network, x):
        w = self.variables if network is self.student else self.teachers
        return np.asarray(x, np.float64).reshape(len(x), -1) @ np.asarray(w["params"]["w"], np.float64)

    def kd64(self, x):
        log_s, log_t = (log_softmax64(self.logits64(n, x) / T) for n in (self.student, self.teacher))
        return T**2 * (np.exp(log_t) * (log_t - log_s)).sum(axis=1)

    def ce64(self, x):
        return -log_softmax64(self.logits64(self.student, x))[np.arange(len(x)), np.asarray(self.batch.label)]


def test_hintons_loss():
    run = Run()
    loss, out = run.loss(KD())
    x = run.batch.views[0][:, 0]
    np.testing.assert_allclose(loss, 0.1 * run.ce64(x).mean() + 0.9 * run.kd64(x).mean(), rtol=1e-5)
    np.testing.assert_allclose(out.metrics["kd"], run.kd64(x), rtol=1e-4)
    assert [views for _, views in run.asked] == [(0,)]
    assert len(run.student.calls) == 1 and out.model_state["batch_stats"]["seen"] == 1


@pytest.mark.parametrize(("settings", "plain", "weight"), [({}, 0.9, 0.9), ({"average": True}, 0.45, 0.45)])
def test_an_augmented_view_has_its_own_pass_and_the_teachers_label(settings, plain, weight):
    run = Run()
    loss, out = run.loss(KD(augment="cutmix", **settings))
    (x, _), (again, views) = run.asked
    assert views is None and np.abs(again - x).max() > 0
    want = 0.1 * run.ce64(x).mean() + plain * run.kd64(x).mean() + weight * run.kd64(again).mean()
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    np.testing.assert_array_equal(run.student.calls[1]["x"], again)
    assert out.model_state["batch_stats"]["seen"] == 2


@pytest.mark.parametrize(("step", "share"), [(0, 0.1), (4, 0.5), (9, 1.0), (30, 1.0)])
def test_the_weights_rise_in_the_warm_up_and_that_of_ce_does_not(step, share):
    """Two epochs of five steps, for the plain and the augmented view."""
    run = Run()
    run.clock = CLOCK.replace(step=jnp.int32(step))
    loss, _ = run.loss(KD(augment="identity", warmup_epochs=2.0))
    x = run.batch.views[0][:, 0]
    want = 0.1 * run.ce64(x).mean() + 1.8 * share * run.kd64(x).mean()
    np.testing.assert_allclose(loss, want, rtol=1e-5)


def test_identity_doubles_the_weight_of_kd():
    run = Run()
    loss, _ = run.loss(KD(augment="identity", gamma=0.0))
    np.testing.assert_allclose(loss, 1.8 * run.kd64(run.batch.views[0][:, 0]).mean(), rtol=1e-5)


def test_funmatch_sees_the_mixed_view_alone_and_no_label():
    run = Run()
    method = KD(losses={"kd": 1.0}, gamma=0.0, both=False, augment="mixup")
    assert not method.needs_labels
    loss, out = run.loss(method)
    ((again, _),) = run.asked
    np.testing.assert_allclose(loss, run.kd64(again).mean(), rtol=1e-5)
    assert len(run.student.calls) == 1 and out.metrics.keys() == {"augmented_kd"}


@pytest.mark.parametrize("criterion", mixing.CRITERIA)
def test_cutmix_pick_reuses_the_teachers_logits_of_the_pool(criterion):
    run = Run()
    loss, out = run.loss(KD(augment="cutmix_pick", criterion=criterion, gamma=0.0))
    (x, _), (pool, views) = run.asked
    assert len(pool) == 16 and views is None
    teacher, student = (run.logits64(n, pool) for n in (run.teacher, run.student))

    def entropy(logits):
        return -(np.exp(log_softmax64(logits)) * log_softmax64(logits)).sum(axis=1)

    score = {
        "teacher_entropy": entropy(teacher),
        "student_entropy": entropy(student),
        "kld": run.kd64(pool),
    }[criterion]
    picked = np.argsort(score)[8:]
    want = 0.9 * (run.kd64(x).mean() + run.kd64(np.asarray(pool)[picked]).mean())
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    passes = 2 if criterion == "teacher_entropy" else 3
    assert len(run.student.calls) == passes and out.model_state["batch_stats"]["seen"] == passes
    assert len(run.student.calls[-1]["x"]) == 8


def test_one_draw_for_the_batch_or_for_each_image():
    run = Run(size=32)
    for draw in ("batch", "image"):
        run.loss(KD(augment="flip", draw=draw, gamma=0.0, both=False), key=3)
    batch_wide, each = (
        [bool((a == b).all()) for a, b in zip(x, run.batch.views[0][:, 0], strict=True)] for x, _ in run.asked
    )
    assert len({*batch_wide}) == 1
    assert len({*each}) == 2


@pytest.mark.parametrize("name", TERMS)
def test_every_loss_has_a_gradient(name):
    run = Run()

    def loss(params):
        run.variables["params"] = params
        return run.loss(KD(losses={name: 1.0}, gamma=0.0))[0]

    gradient = jax.grad(loss)(run.variables["params"])["w"]
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
    assert bool(KD(losses={name: 1.0}).whole_batch()) == TERMS[name].compares_samples


def test_standardised_logits_have_no_scale():
    run = Run()
    before = run.loss(KD(standardise=True, gamma=0.0))[0]
    run.variables = {**run.variables, "params": {"w": 3 * run.variables["params"]["w"]}}
    np.testing.assert_allclose(run.loss(KD(standardise=True, gamma=0.0))[0], before, rtol=1e-4)


def test_the_students_classifier_is_as_wide_as_the_teachers():
    logits = FeatureShapes({"logits": jax.ShapeDtypeStruct((8, 4), jnp.float32)})
    at = dataclasses.replace(given(8), teacher=logits)
    assert KD().network(None, at).parts["classifier"].num_classes == 4
    with pytest.raises(UserError, match="The teacher has 4 classes and the data 3"):
        KD().network(None, dataclasses.replace(at, num_classes=3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"losses": {"kdd": 1.0}}, "method.losses.*'kdd'.*kd"),
        ({"losses": {}}, "method.losses is empty"),
        ({"losses": {"kd": -1.0}}, "the weight of kd is -1.0"),
        ({"losses": {"crd": 1.0}, "augment": "mixup"}, "crd alone, which does not see method.augment"),
        ({"losses": {"crd": 1.0, "kd": 1.0}, "augment": "mixup", "both": False}, "crd, which sees x alone"),
        ({"losses": {"crd": 1.0}, "dim": 0}, "method.dim is 0"),
        ({"gamma": -0.1}, "method.gamma is -0.1"),
        ({"temperature": 0.0}, "method.temperature is 0.0"),
        ({"augment": "cutmx"}, "method.augment.*'cutmx'.*cutmix"),
        ({"draw": "epoch"}, "method.draw.*'epoch'"),
        ({"both": False}, "method.both is False"),
        ({"augment": "cutmix_pick", "n_pick": 10_000}, "method.n_pick is 10000, and the pool has"),
        ({"augment": "cutmix_pick", "pick_ratio": 0.0}, "method.pick_ratio is 0.0"),
        ({"augment": "cutmix_pick", "runs": 0}, "method.runs is 0"),
        ({"augment": "cutmix_pick", "criterion": "entropy"}, "method.criterion.*'entropy'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        KD(**settings).check(config.sections.Data(), config.sections.Train())


def test_a_count_above_a_smaller_pool_keeps_it_all():
    run = Run(size=4)
    run.loss(KD(augment="cutmix_pick", n_pick=64, gamma=0.0))
    assert len(run.student.calls[-1]["x"]) == 8


def test_one_image_cannot_be_mixed():
    with pytest.raises(UserError, match="'mixup', which needs two images to mix, and data.batch_size is 1"):
        KD(augment="mixup").check(config.sections.Data(batch_size=1), config.sections.Train())
