"""The aggregate of the views' joint logits against a loop in float64."""

import jax
import numpy as np
import pytest
from numeric import assert_equals_float64, draw

from seed_jax.losses import aggregate


@pytest.mark.parametrize(("views", "classes"), [(4, 3), (3, 4), (6, 6), (1, 5)])
def test_view_j_answers_in_the_columns_of_its_own_view(views, classes):
    def direct(logits):
        return np.array(
            [
                [np.mean([row[j, y * views + j] for j in range(views)]) for y in range(classes)]
                for row in logits
            ]
        )

    assert_equals_float64(aggregate, direct, draw(2, views, views * classes))


def test_columns_of_other_views_receive_no_gradient():
    gradient = jax.grad(lambda x: aggregate(x).sum())(draw(1, 2, 6))
    np.testing.assert_array_equal(gradient[0], [[0.5, 0, 0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5, 0, 0.5]])


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (1, 2, 2, 2)])
def test_shapes_that_are_not_joint_logits(shape):
    with pytest.raises(AssertionError, match="logits"):
        aggregate(draw(*shape))
