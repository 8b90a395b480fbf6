"""Feature distillation: a student's tokens imitate the normalised tokens of a frozen teacher.

Wei et al., "Contrastive Learning Rivals Masked Image Modeling in Fine-tuning via Feature Distillation",
arXiv 2205.14141, and "Improving CLIP Fine-tuning Performance", ICCV 2023.
"""

import math

import chex
import jax.numpy as jnp
from jax import lax

from seed_jax.losses.root import root

NORMALISATIONS = ("layernorm", "l2", "none", "standardise")
DISTANCES = ("smooth_l1", "mse", "cosine", "mix")
EPSILON = 1e-5


def normalise_tokens(tokens, how: str = "layernorm"):
    """Turn a teacher's tokens into the targets of feature distillation.

    - `layernorm`: each token has mean 0 and variance 1 over its channels, eps 1e-5, without affine terms. The
      paper calls it whitening; channels stay correlated.
    - `l2`: each token has length 1.
    - `standardise`: each channel has mean 0 and variance 1 over all tokens of the batch, eps 1e-5. The
      samples are then not independent.
    - `none`: the tokens as they are.

    Args:
      tokens: float `[B, T, C]`.
      how: one of the above.

    Returns:
      float32 `[B, T, C]`. A token of 0 stays 0 under `l2`.

    Raises:
      AssertionError: the shape or dtype of `tokens` is not the above, or `how` is unknown.

    >>> [round(float(x), 4) for x in normalise_tokens(jnp.array([[[3.0, -4.0]]]), "l2").ravel()]
    [0.6, -0.8]
    """
    chex.assert_rank(tokens, 3, custom_message="tokens")
    chex.assert_type(tokens, float, custom_message="tokens")
    assert how in NORMALISATIONS, f"normalise is {how!r}: use one of {', '.join(NORMALISATIONS)}."
    tokens = tokens.astype(jnp.float32)
    if how == "l2":
        return tokens * lax.rsqrt(jnp.maximum(jnp.square(tokens).sum(axis=2, keepdims=True), 1e-24))
    if how == "none":
        return tokens
    axes = (2,) if how == "layernorm" else (0, 1)
    # In two passes: E[x^2] - E[x]^2 is wrong by 4e-4 for tokens that are far from 0.
    centred = tokens - tokens.mean(axis=axes, keepdims=True)
    return centred * lax.rsqrt(jnp.square(centred).mean(axis=axes, keepdims=True) + EPSILON)


def fd_loss(student, teacher, *, beta: float = 2.0, normalise: str = "layernorm"):
    """Mean over tokens and channels of the smooth L1 distance to the teacher's normalised tokens.

    Of a difference d: d^2 / (2 beta) if |d| < beta, else |d| - beta / 2, as torch's `smooth_l1_loss`. (Optax'
    `huber_loss` is beta times that.) The released code (SwinTransformer/Feature-Distillation,
    models/feature_distillation.py) has beta 2 and counts the cls token as any other; the student's tokens
    come from its projector, and the teacher's from its own final norm.

    Args:
      student: float `[B, T, C]`. Only this argument receives a gradient.
      teacher: float `[B, T, C]`.
      beta: where the distance becomes linear; 0 is the absolute difference.
      normalise: of the teacher's tokens, as `normalise_tokens`.

    Returns:
      float32 `[B]`, a loss for each sample.

    Raises:
      AssertionError: a shape or dtype is not the above, `beta` is below 0, or `normalise` is unknown. Checked
        while tracing.

    >>> student, teacher = jnp.array([[[1.0, 4.0]]]), jnp.zeros((1, 1, 2))
    >>> float(fd_loss(student, teacher, normalise="none")[0])  # (1 / 4 + 3) / 2
    1.625
    """
    target = normalise_tokens(lax.stop_gradient(teacher), normalise)
    return token_distances(student, target, beta=beta).mean(axis=1)


def token_distances(student, target, *, distance: str = "smooth_l1", beta: float = 2.0, mix: float = 0.9):
    """The distance of each token to its target; those of the papers after FD beside FD's own.

    - `smooth_l1`: as `fd_loss`, the mean over channels. MaskDistill has it too.
    - `mse`: the mean over channels of the squared difference (Proteus).
    - `cosine`: 1 minus the cosine; 1 where a token is 0 (EVA).
    - `mix`: `mix` times `cosine` and 1 - `mix` times `smooth_l1` (0.9 in Theia and AM-RADIO; 0.5 with beta 1
      in UNIC).

    Args:
      student: float `[B, T, C]`.
      target: float `[B, T, C]`; it receives a gradient too.
      distance, beta, mix: as above; `mix` from 0 to 1.

    Returns:
      float32 `[B, T]`.

    Raises:
      AssertionError: a shape or dtype is not the above, `beta` or `mix` is out of its range, or `distance` is
        unknown. Checked while tracing.

    >>> student, target = jnp.array([[[1.0, 4.0]]]), jnp.zeros((1, 1, 2))
    >>> [float(token_distances(student, target, distance=name)[0, 0]) for name in ("smooth_l1", "mse")]
    [1.625, 8.5]
    """
    chex.assert_rank(student, 3, custom_message="student")
    chex.assert_type([student, target], float, custom_message="student and target")
    chex.assert_equal_shape([student, target], custom_message="student and target")
    assert beta >= 0, f"beta is {beta}: use 0 or more."
    assert 0 <= mix <= 1, f"mix is {mix}: use 0 to 1."
    assert distance in DISTANCES, f"distance is {distance!r}: use one of {', '.join(DISTANCES)}."
    student, target = student.astype(jnp.float32), target.astype(jnp.float32)
    if distance == "mse":
        return jnp.square(student - target).mean(axis=2)
    if distance == "cosine":
        return 1 - _cosine(student, target)
    size = jnp.abs(student - target)
    smooth = jnp.where(size < beta, jnp.square(size) / (2 * beta), size - beta / 2) if beta else size
    smooth = smooth.mean(axis=2)
    return smooth if distance == "smooth_l1" else mix * (1 - _cosine(student, target)) + (1 - mix) * smooth


def _cosine(a, b):
    """`[B, T]`; lengths are at least 1e-8, as in torch's `cosine_similarity`."""
    lengths = (jnp.maximum(root(jnp.square(x).sum(axis=2)), 1e-8) for x in (a, b))
    return (a * b).sum(axis=2) / math.prod(lengths)
