"""How large the gradients of each layer are: shallow layers with small ones learn slowly."""

import jax
import jax.numpy as jnp


def gradient_magnitudes(gradients) -> dict[str, jax.Array]:
    """Mean absolute gradient of each tensor of two axes or more: kernels, not biases or BatchNorm.

    As Zhang et al. (Be Your Own Teacher, arXiv 1905.08094) draw it by layer; they released no code.

    Args:
      gradients: pytree of dicts of float arrays, as `jax.grad` returns it for parameters.

    Returns:
      float32 scalars by path, such as `backbone/conv1/kernel`.

    >>> gradients = {"conv": {"kernel": jnp.array([[1.0, -3.0]]), "bias": jnp.ones(2)}}
    >>> {name: float(value) for name, value in gradient_magnitudes(gradients).items()}
    {'conv/kernel': 2.0}
    """
    leaves = jax.tree_util.tree_leaves_with_path(gradients)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): jnp.abs(x.astype(jnp.float32)).mean()
        for path, x in leaves
        if x.ndim > 1
    }
