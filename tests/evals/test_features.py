import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seed_jax import parallel
from seed_jax.errors import UserError
from seed_jax.evals.features import Extractor


class Mean:
    """`pooled` is the mean colour, `embedding` its scaled first channel."""

    traces = 0

    def apply(self, variables, x, train):
        assert not train
        Mean.traces += 1
        pooled = jnp.mean(x, axis=(1, 2))
        return {"pooled": pooled, "embedding": variables["params"]["scale"] * pooled[:, :1], "unused": x}, {}


def batches(images, batch_size):
    """What `eval_batches` yields: the last batch is padded with copies that the mask hides."""
    for start in range(0, len(images), batch_size):
        index = np.arange(start, start + batch_size)
        mask = index < len(images)
        index = np.minimum(index, len(images) - 1)
        yield {"image": images[index], "label": index % 3, "id": index + 2**40, "mask": mask}


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("batch_size", [5, 8, 16])
def test_every_example_is_counted_once(devices, batch_size):
    images = np.random.default_rng(0).integers(256, size=(21, 4, 4, 3), dtype=np.uint8)
    mesh = parallel.make_mesh(jax.devices()[:devices])
    extract = Extractor(Mean(), mesh, keys=("pooled", "embedding"))
    features, labels, ids = extract({"params": {"scale": np.float32(2)}}, batches(images, batch_size))
    expected = images.astype(np.float64).mean(axis=(1, 2)) / 255
    np.testing.assert_allclose(features["pooled"], expected, rtol=1e-6)
    np.testing.assert_allclose(features["embedding"], 2 * expected[:, :1], rtol=1e-6)
    assert set(features) == {"pooled", "embedding"} and features["pooled"].dtype == np.float32
    np.testing.assert_array_equal(labels, np.arange(21) % 3)
    np.testing.assert_array_equal(ids, np.arange(21) + 2**40)


def test_only_the_entries_asked_for_are_returned_and_nothing_is_compiled_again():
    images = np.full((8, 4, 4, 3), 51, np.uint8)
    extract = Extractor(Mean(), parallel.make_mesh(), keys=("pooled", "embedding"))
    variables = {"params": {"scale": np.float32(2)}}
    both, _, _ = extract(variables, batches(images, 8))
    before = Mean.traces
    one, _, _ = extract(variables, batches(images, 8), keys=("embedding",))
    assert list(one) == ["embedding"] and Mean.traces == before
    np.testing.assert_array_equal(one["embedding"], both["embedding"])


def test_is_compiled_once():
    images = np.zeros((21, 4, 4, 3), np.uint8)
    extract = Extractor(Mean(), parallel.make_mesh())
    before = Mean.traces
    for scale in (1, 2):
        extract({"params": {"scale": np.float32(scale)}}, batches(images, 8))
    assert Mean.traces == before + 1


def test_mistakes_are_named():
    extract = Extractor(Mean(), parallel.make_mesh(), keys=("pooler",))
    with pytest.raises(UserError, match="'pooler': use one of embedding, pooled, unused"):
        extract({"params": {"scale": np.float32(1)}}, batches(np.zeros((3, 4, 4, 3), np.uint8), 8))
    with pytest.raises(UserError, match="no images"):
        extract({}, [])
