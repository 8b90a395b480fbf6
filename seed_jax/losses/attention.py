"""Losses of where a feature map is active: attention transfer, SAD, and FSP's flow between two maps.

They compare maps of different channels. Everything is float32, products at the highest precision.
"""

import chex
import jax
import jax.numpy as jnp
from jax import lax

from seed_jax.losses.root import root

REDUCTIONS = ("sum", "max")
FORMS = ("mean_square", "norm")


def attention_map(features, *, power: float = 2, reduce: str = "sum"):
    """F(A) = sum or max over channels of |A|^power (Zagoruyko and Komodakis, arXiv 1612.03928, section 3.1).

    Args:
      features: float `[B, H, W, C]`.
      power: p, at least 1.
      reduce: 'sum' or 'max'.

    Returns:
      float32 `[B, H, W]`, not normalised. Its gradient is finite where features are 0.

    Raises:
      AssertionError: the shape or dtype of `features` is not the above, `power` is below 1, or `reduce` is
        unknown. Checked while tracing.

    >>> np.asarray(attention_map(jnp.array([[[[3.0, -4.0]]]]))).ravel()
    array([25.], dtype=float32)
    >>> np.asarray(attention_map(jnp.array([[[[3.0, -4.0]]]]), reduce="max")).ravel()
    array([16.], dtype=float32)
    """
    chex.assert_rank(features, 4, custom_message="features")
    chex.assert_type(features, float, custom_message="features")
    assert power >= 1, f"power is {power}: use 1 or more."
    assert reduce in REDUCTIONS, f"reduce is {reduce!r}: use one of {', '.join(REDUCTIONS)}."
    features = features.astype(jnp.float32)
    powers = jnp.square(features) if power == 2 else jnp.abs(features) ** power
    return powers.sum(axis=3) if reduce == "sum" else powers.max(axis=3)


def attention_transfer_loss(
    student, teacher, *, power: float = 2, reduce: str = "sum", form: str = "mean_square"
):
    """Distance of the attention maps of one stage, each scaled to length 1 (arXiv 1612.03928, equation 2).

    With d = q_s - q_t, the difference of the two maps as vectors of length 1:

    - `mean_square`: |d|^2 / (H W), the released code (szagoruyko/attention-transfer, utils.py). Its
      weight is 1000 for each stage.
    - `norm`: |d| / 2, the paper's; the caller multiplies by beta.

    The first is 4 / (H W) times the square of the second. A map that is 0 stays 0 and receives no gradient.
    Equal maps have a finite one, which under `norm` is the direction of their rounding.

    Features of different sizes: the larger ones are averaged over blocks to the size of the smaller ones, as
    HobbitLong/RepDistiller, distiller_zoo/AT.py, does. The paper has equal sizes only.

    Args:
      student: float `[B, H, W, C]`. Only this argument receives a gradient.
      teacher: float `[B, h, w, C']`. Each side divides the student's or is a multiple of it.
      power, reduce: as `attention_map`.
      form: 'mean_square' or 'norm'.

    Returns:
      float32 `[B]`, a loss for each sample.

    Raises:
      AssertionError: as `attention_map`; the sizes do not divide, or `form` is unknown.

    Maps (1, 0) and (0, 1), whose distance is the square root of 2:

    >>> student = jnp.array([1.0, 0.0]).reshape(1, 1, 2, 1)
    >>> teacher = jnp.array([0.0, 1.0]).reshape(1, 1, 2, 1)
    >>> float(attention_transfer_loss(student, teacher)[0])
    1.0
    >>> round(float(attention_transfer_loss(student, teacher, form="norm")[0]), 4)
    0.7071
    """
    assert form in FORMS, f"form is {form!r}: use one of {', '.join(FORMS)}."
    pair = _of_one_size(student, lax.stop_gradient(teacher))
    q_s, q_t = (_unit(attention_map(x, power=power, reduce=reduce)) for x in pair)
    squares = jnp.square(q_s - q_t).reshape(len(q_s), -1)
    return squares.mean(axis=1) if form == "mean_square" else root(squares.sum(axis=1)) / 2


def input_gradient_loss(first, second):
    """|J_1 - J_2| / 2, the distance of two gradients by the pixels (arXiv 1612.03928, section 3.2).

    The caller multiplies by the paper's beta. Both arguments receive a gradient: stop that of a teacher.
    Where the two are equal it is 0.

    Args:
      first, second: float `[B, H, W, C]`.

    Returns:
      `[B]` of their type, a loss for each sample.

    Raises:
      AssertionError: the shape or dtype of an argument is not the above. Checked while tracing.

    >>> first = jnp.array([3.0, 4.0]).reshape(1, 1, 2, 1)
    >>> float(input_gradient_loss(first, 0 * first)[0])
    2.5
    """
    chex.assert_rank([first, second], 4)
    chex.assert_type([first, second], float)
    chex.assert_equal_shape([first, second])
    return root(jnp.square(first - second).sum(axis=(1, 2, 3))) / 2


def sad_loss(shallow, deep, *, reduction: str = "sum"):
    """Self attention distillation: the shallow stage's attention imitates a deeper one's (arXiv 1908.00821).

    A map is the sum of squares over channels, the deep one's resized bilinearly to the shallow one's size
    (half-pixel centres, no antialiasing, as torch's `interpolate`), then a softmax over all positions. The
    loss is the squared distance of the two: `sum` over positions, as the authors say
    (cardwing/Codes-for-Lane-Detection, issue 180). With `mean`, which ports of it use, it is at most
    2 / (H W) and does nothing at a weight of 0.1.

    Both arguments receive a gradient: stop that of `deep` for a target.

    Args:
      shallow: float `[B, H, W, C]`.
      deep: float `[B, h, w, C']`.
      reduction: 'sum' or 'mean' over the H W positions.

    Returns:
      float32 `[B]`, a loss for each sample.

    Raises:
      AssertionError: as `attention_map`, or `reduction` is unknown.

    >>> x = jnp.array([1.0, 0.0]).reshape(1, 1, 2, 1)
    >>> round(float(sad_loss(x, x[:, :, ::-1])[0]), 4), round(float(sad_loss(x, x)[0]), 4)
    (0.4271, 0.0)
    """
    assert reduction in ("sum", "mean"), f"reduction is {reduction!r}: use 'sum' or 'mean'."
    a, b = attention_map(shallow), attention_map(deep)
    b = jax.image.resize(b, (len(b), *a.shape[1:]), "linear", antialias=False)
    a, b = (jax.nn.softmax(x.reshape(len(x), -1)) for x in (a, b))
    squares = jnp.square(a - b)
    return squares.sum(axis=1) if reduction == "sum" else squares.mean(axis=1)


def fsp_matrix(first, second):
    """Inner products of the channels of two maps, / (h w): the flow between layers (Yim et al., CVPR 2017).

    Args:
      first: float `[B, H, W, C]`.
      second: float `[B, h, w, C']`. The larger of the two maps is averaged over blocks to the size of the
        other, which must divide it.

    Returns:
      float32 `[B, C, C']`.

    Raises:
      AssertionError: the shape or dtype of an argument is not the above, or the sizes do not divide.

    >>> ones = jnp.ones((1, 4, 4, 2))
    >>> np.asarray(fsp_matrix(2 * ones, ones[:, ::2, ::2])).ravel()
    array([2., 2., 2., 2.], dtype=float32)
    """
    a, b = _of_one_size(first, second)
    products = jnp.einsum("bhwc,bhwd->bcd", a, b, precision=lax.Precision.HIGHEST)
    return products / (a.shape[1] * a.shape[2])


def fsp_loss(student, teacher):
    """Mean squared difference of the flows of student and teacher between two layers (Yim et al., CVPR 2017).

    As HobbitLong/RepDistiller, distiller_zoo/FSP.py, whose weight is 50 for each pair of layers.

    Args:
      student: the two maps of `fsp_matrix`. Only this argument receives a gradient.
      teacher: the same, of the same channels.

    Returns:
      float32 `[B]`, a loss for each sample.

    Raises:
      AssertionError: as `fsp_matrix`, or the channels differ.
    """
    g_s, g_t = fsp_matrix(*student), lax.stop_gradient(fsp_matrix(*teacher))
    chex.assert_equal_shape([g_s, g_t], custom_message="FSP matrices of student and teacher")
    return jnp.square(g_s - g_t).mean(axis=(1, 2))


def _of_one_size(*features):
    """Both in float32, the larger one averaged over blocks."""
    for x in features:
        chex.assert_rank(x, 4, custom_message="features")
        chex.assert_type(x, float, custom_message="features")
    height, width = (min(x.shape[axis] for x in features) for axis in (1, 2))
    return [_shrunk(x.astype(jnp.float32), height, width) for x in features]


def _shrunk(x, height: int, width: int):
    batch, h, w, channels = x.shape
    assert h % height == 0 and w % width == 0, f"a map of {h} x {w} does not divide into {height} x {width}."
    return x.reshape(batch, height, h // height, width, w // width, channels).mean(axis=(2, 4))


def _unit(maps):
    """Maps `[B, H, W]` of length 1; those that are 0 stay 0 and receive no gradient."""
    return maps * _reciprocal(jnp.square(maps).sum(axis=(1, 2), keepdims=True))


def _reciprocal(squares):
    above = squares > 1e-24
    return jnp.where(above, lax.rsqrt(jnp.where(above, squares, 1)), 0)
