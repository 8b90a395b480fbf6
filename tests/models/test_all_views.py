"""A network on all views: what it adds, what it leaves alone, and groups of batch statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seed_jax import models
from seed_jax.data.transforms import transform
from seed_jax.errors import UserError
from seed_jax.models.all_views import AllViews, SingleInference, apply_views
from seed_jax.models.heads import Classifier

CLASSES, VIEWS = 5, 4


def network(**options):
    backbone = models.create("resnet18", width=0.125, small_stem=True, **options)
    parts = {"joint": Classifier(CLASSES * VIEWS, out="joint_logits"), "single": SingleInference(VIEWS)}
    return AllViews(backbone, parts, rotations=4)


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).random((3, 8, 8, 3)), jnp.float32)


def test_both_inferences_are_those_of_single_forward_passes(images):
    """One image and one view at a time; column y M + j is class y, view j."""
    ours = network()
    variables = jax.jit(ours.init)(jax.random.key(0), images)
    features, state = jax.jit(lambda v, x: ours.apply(v, x, False))(variables, images)
    views = [jnp.rot90(images, j, axes=(1, 2)) for j in range(VIEWS)]
    plain = models.Joined(ours.backbone, ours.parts)
    alone = jax.jit(lambda v, x: plain.apply(v, x, False)[0])
    joint = [np.asarray(alone(variables, x)["joint_logits"]) for x in views]
    np.testing.assert_allclose(features["joint_logits"], joint[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(features["logits"], features["joint_logits"][:, ::VIEWS])
    want = [[np.mean([joint[j][i, y * VIEWS + j] for j in range(VIEWS)]) for y in range(5)] for i in range(3)]
    np.testing.assert_allclose(features["aggregated_logits"], want, rtol=1e-4, atol=1e-6)
    assert jax.tree.structure(state) == jax.tree.structure({"batch_stats": variables["batch_stats"]})


def test_a_pass_over_views_is_one_over_adjacent_rows(images):
    ours, one = network(bn_group=1), network()
    variables = jax.jit(ours.init)(jax.random.key(0), images)
    views = transform(images, 4, 1)
    features, _ = jax.jit(lambda v, x: apply_views(ours, v, x, True))(variables, views)
    assert {name: features[name].shape for name in ("joint_logits", "logits")} == {
        "joint_logits": (3, 4, 20),
        "logits": (3, 4, 5),
    }
    of_one = jax.jit(lambda v, x: apply_views(one, v, x, True))
    for i in range(3):  # a group has all views of one image
        alone, _ = of_one(variables, views[i : i + 1])
        got, want = features["joint_logits"][i], alone["joint_logits"][0]
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)


def test_a_backbone_with_a_classifier_is_refused(images):
    with pytest.raises(UserError, match="would overwrite 'logits', which the backbone returns"):
        network(num_classes=CLASSES).init(jax.random.key(0), images)
