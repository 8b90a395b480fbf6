import jax
import numpy as np
import pytest

from seed_jax import parallel
from seed_jax.errors import UserError
from seed_jax.evals.retrieval import recalled

MESH = parallel.make_mesh(jax.devices()[:1])


def test_agrees_with_the_definition():
    rng = np.random.default_rng(0)
    labels = rng.integers(12, size=90)
    x = rng.standard_normal((12, 8))[labels] + 1.2 * rng.standard_normal((90, 8))
    found = recalled(x, labels, mesh=MESH, at=(1, 4))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for i in range(len(x)):
        others = np.delete(np.arange(len(x)), i)
        order = others[np.argsort(-(unit[others] @ unit[i]), kind="stable")]
        for k, right in found.items():
            assert right[i] == (labels[i] in labels[order[:k]])
    assert 0.1 < found[1].mean() < found[4].mean() < 1


def test_an_image_is_not_its_own_neighbour():
    pairs = np.repeat(np.eye(4), 2, axis=0)  # each image twice: the copy is found, not the image itself
    assert recalled(pairs, np.repeat(np.arange(4), 2), mesh=MESH, at=(1,))[1].all()
    assert not recalled(pairs, np.arange(8), mesh=MESH, at=(1, 5))[5].any()


def test_too_few_images_are_named():
    with pytest.raises(UserError, match="Recall at 10 needs 11 test images, and there are 3"):
        recalled(np.eye(3), np.arange(3), mesh=MESH)
