"""What a method is: one paper, one file, one frozen dataclass whose fields are the paper's hyper-parameters.

All methods share one trainer. The trainer passes to a method what may be known before the run (`Given`), the
progress of the run (`Clock`), a `Batch` and two networks (`Nets`). The method returns a loss, its metrics and
the state for the next step (`LossOut`).
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from seed_jax.data.views import ViewSpec
from seed_jax.errors import UserError
from seed_jax.models.network import Features, Network

PyTree = Any
VECTORS = ("pooled", "embedding")  # features that every teacher has, `[B, D]` each


class FeatureShapes(dict):
    """Shapes and dtypes of a teacher's features; asking for one that it lacks raises `UserError`."""

    def __missing__(self, name):
        raise UserError(
            f"teacher.weights: the method needs the teacher's {name!r}, and it returns only "
            f"{', '.join(sorted(self))}: use another teacher."
        )


@dataclasses.dataclass(frozen=True)
class Given:
    """What a method may know before the run.

    Attributes:
      batch_size: `data.batch_size`, over all devices; micro-batches and a kept last batch are smaller.
      num_classes: classes of the training data; 0 without labels.
      image_size: `data.image_size`, pixels.
      steps, steps_per_epoch: length of the run and of an epoch, in steps.
      teacher: shape and dtype of each of the teacher's features for one batch; None without a teacher.
      bn_group, dtype: for the parts that the method adds, as the backbone has them.
      teacher_prefix: the teacher's `prefix_tokens` (`Network`); 0 without a teacher.
      student: returns shapes and dtypes of the student's features of one image, for `init_aux` alone; a
        function, since it traces the network.
    """

    batch_size: int
    num_classes: int
    image_size: int
    steps: int
    steps_per_epoch: int
    teacher: FeatureShapes | None = None
    bn_group: int | None = None
    dtype: Any = jnp.float32
    teacher_prefix: int = 0
    student: Callable[[], Features] | None = None


@struct.dataclass
class Clock:
    """How far the run is: `step` int32, the updates made so far."""

    step: jax.Array
    steps: int = struct.field(pytree_node=False)
    steps_per_epoch: int = struct.field(pytree_node=False)

    @property
    def progress(self) -> jax.Array:
        """Share of the run that is done, float32 in [0, 1]."""
        return jnp.clip(self.step / self.steps, 0.0, 1.0)

    @property
    def epoch(self) -> jax.Array:
        """Epochs completed, int32."""
        return self.step // self.steps_per_epoch


@struct.dataclass
class Batch:
    """What the loss sees of a batch.

    Attributes:
      views: one float32 `[B, V, H, W, 3]` in [0, 1] per ViewSpec.
      label: int32 `[B]`, -1 where there is none.
      keys: one PRNG key per sample, `[B]`, for random choices about one sample, e.g. dropout.
      targets: further targets by name, `[B, ...]`, in the coordinates of the whole image.
      crops: one float32 `[B, V, 4]` per ViewSpec: left, top, width and height of each view's crop, as shares
        of the image.
      flipped: one bool `[B, V]` per ViewSpec: whether the view was mirrored after the crop.
    """

    views: tuple
    label: jax.Array
    keys: jax.Array
    targets: dict = struct.field(default_factory=dict)
    crops: tuple = ()
    flipped: tuple = ()


@struct.dataclass
class LossOut:
    """What a loss returns besides its value; each metric is `[B]` or a scalar."""

    model_state: PyTree
    aux: PyTree
    metrics: dict


class Teacher(Protocol):
    """The frozen network in eval mode. Gradients stop at its variables, not at its outputs."""

    def __call__(self, x: jax.Array, views: Sequence[int] | None = None) -> Features:
        """The teacher's features of `x`, float32 `[B * len(views), H, W, 3]`.

        Args:
          views: indices of the views whose pixels are in `x`, counted over all ViewSpecs; the rows of a
            sample are adjacent. With them a cache can answer instead of the network. None: the loss computed
            the pixels itself, so no cache can know them.
        """


@dataclasses.dataclass(frozen=True)
class Nets:
    """The two networks that a loss calls, as often as its paper does.

    `student.apply({'params': p, **model_state}, x, train, keys)` returns features and the new model state.
    `teacher_prefix`: as in `Given`.
    """

    student: Network
    teacher: Teacher | None
    teacher_prefix: int = 0


@dataclasses.dataclass(frozen=True)
class Offline:
    """What a method finds in the teacher's features of all training images, once, before the training.

    Attributes:
      entry: the entry of the teacher's features that is searched, `[B, D]`.
      rows: shape and dtype of an image's row in each array that is found, by name; a loss has the rows of its
        batch in `batch.targets`, and a ViewSpec may cut its views from images that a row lists (`bag`).
      find: `find(features, index, mesh, seed)` returns the arrays, `[M, ...]` each, and a sentence to say, ''
        for none. `features` are float32 `[M, D]` of the M images that can be read, `index` int64 `[M]` their
        places in the training split.
    """

    entry: str
    rows: Mapping[str, jax.ShapeDtypeStruct]
    find: Callable[[np.ndarray, np.ndarray, jax.sharding.Mesh, int], tuple[Mapping[str, np.ndarray], str]]


class Method:
    """The contract between a paper and the trainer, with the defaults that most papers share.

    Attributes:
      needs_teacher: whether `config.teacher` is loaded.
      needs_labels: whether every training image must have a label.
      without_labels: the override with which it needs none, such as 'method.gamma=0'; '' if there is none.
      smoke: upper bounds of its fields in a config's `:smoke` form.
    """

    needs_teacher: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False
    without_labels: ClassVar[str] = ""
    smoke: ClassVar[Mapping[str, Any]] = {}

    def check(self, data, train) -> None:
        """Raise `UserError` for values of those config sections that the method cannot work with."""

    def check_teacher(self, network: Network) -> None:
        """Raise `UserError` for a teacher whose features look right but mean something else."""

    def whole_batch(self) -> str:
        """Why the loss is not a mean over its samples ("it compares samples"); '' if it is.

        With '' and without `aux` a step may compute its batch in micro-batches (`train.accumulate`).
        """
        return ""

    def notice(self, metrics: Mapping[str, float], given: Given) -> str:
        """A sentence on what the metrics of a window show to be wrong; '' if nothing. A run says one."""
        return ""

    def views(self, data) -> tuple[ViewSpec, ...]:
        """The views of an image that the loss sees, from the `data` section of the config."""
        return (base_view(data),)

    def offline(self, images: int) -> Offline | None:
        """What to find before the training in the teacher's features of all training images; None: nothing.

        Args:
          images: how many they are.

        Raises:
          UserError: they are too few.
        """
        return None

    def network(self, backbone: Network, given: Given) -> Network:
        """The backbone and the parts trained with it, as a `Joined`."""
        raise NotImplementedError

    def init_aux(self, rng: jax.Array, given: Given, variables: PyTree) -> PyTree:
        """State carried from step to step that no gradient trains; `variables` are the fresh student's."""
        return {}

    def project(self, params: PyTree, clock: Clock) -> PyTree:
        """The parameters that a step starts from, e.g. with unit prototypes."""
        return params

    def loss(
        self, nets: Nets, params, model_state, aux, batch: Batch, clock: Clock, rng: jax.Array
    ) -> tuple[jax.Array, LossOut]:
        """The scalar loss of a batch.

        Args:
          rng: this step's PRNG key, for random choices shared by the whole batch; choices about one sample
            use `batch.keys`.
        """
        raise NotImplementedError

    def served(self, variables: PyTree, aux: PyTree) -> PyTree:
        """The variables that are probed, exported and loaded by later runs, e.g. an EMA copy.

        A part whose parameters are left out is left out of the network, too.
        """
        return variables

    def frozen(self, path: tuple[str, ...]) -> bool:
        """Whether the parameter at this path is not trained; it gets no optimizer slots."""
        return False

    def late_epochs(self) -> float:
        """Epochs at the start of the run in which the parameters that are `late` are not trained."""
        return 0.0

    def late(self, path: tuple[str, ...]) -> bool:
        """Whether the parameter at this path is not trained in the first `late_epochs()`."""
        return False


def bound(
    method: Method,
    *names: str,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
) -> None:
    """Raise `UserError` for the first of these fields that is not in its bounds; NaN is in none.

    Args:
      method: has the fields.
      names: of the fields.
      least, most: the smallest value that is allowed, and the largest, if any.
      above: instead of both, a value that is too small.
    """
    for name in names:
        value = getattr(method, name)
        if above is not None and not value > above:
            raise UserError(f"method.{name} is {value}: use a value above {above:g}.")
        if most is not None and not least <= value <= most:
            raise UserError(f"method.{name} is {value}: use {least:g} to {most:g}.")
        if least is not None and not value >= least:
            raise UserError(f"method.{name} is {value}: use {least:g} or more.")


def check_local_views(method: Method) -> None:
    """Raise `UserError` if `local_views`, `local_size` or `local_scale` of a method is not allowed."""
    bound(method, "local_views", least=0)
    bound(method, "local_size", least=1)
    scale = method.local_scale
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        raise UserError(f"method.local_scale is {scale}: use a range within (0, 1], such as (0.05, 0.4).")


def check_local_size(method: Method, backbone: Network, image_size: int) -> None:
    """Raise `UserError` if a network for images of `image_size` cannot take the method's local views."""
    if not method.local_views or method.local_size == image_size:
        return

    def image(side):
        return jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)

    variables = jax.eval_shape(backbone.init, jax.random.key(0), image(image_size))
    try:
        jax.eval_shape(lambda v, x: backbone.apply(v, x, False)[0], variables, image(method.local_size))
    except UserError as error:
        raise UserError(
            f"method.local_size is {method.local_size}, which student.model cannot take. {error}"
        ) from error


def local_view(method: Method, data, photometric: str) -> ViewSpec:
    """The method's local views, flipped as the `data` section of the config says."""
    return ViewSpec(
        method.local_views, method.local_size, method.local_scale, flip=data.flip, photometric=photometric
    )


def grouped(given: Given) -> str:
    """A sentence if the statistics of BatchNorm tell which views are of one image, as `notice` returns it."""
    if not 0 < (given.bn_group or 0) < given.batch_size:
        return ""
    return (
        f"train.bn_group is {given.bn_group}, less than the batch: views of an image are normalised with the "
        "same few images, which may tell that they belong together; use --config.train.bn_group=0."
    )


def unbalanced(method: Method, metrics: Mapping[str, float], given: Given) -> str:
    """For `Method.notice`: Sinkhorn has not converged if a prototype has over twice its share of the rows."""
    if metrics["imbalance"] <= 1:
        return ""
    queue = f" and {method.queue_size:,} of the queue" if method.queue_size else ""
    return (
        f"Sinkhorn has not converged: after {method.iterations} iterations at method.epsilon "
        f"{method.epsilon:g} a prototype has {metrics['imbalance'] + 1:.1f} times its share of "
        f"{given.batch_size:,} rows{queue}; raise method.epsilon or method.iterations."
    )


def hits(logits: jax.Array, label: jax.Array) -> jax.Array:
    """1 where the largest logit, of `[..., C]`, is that of the label, `[...]`, else 0: float32 `[...]`."""
    return (logits.argmax(axis=-1) == label).astype(jnp.float32)


def without(variables: PyTree, names: Collection[str]) -> PyTree:
    """Variables of a `Joined` without those of some of its parts, for `Method.served`.

    >>> without({"params": {"backbone": 1, "head": 2}, "batch_stats": {"backbone": 3}}, ("head",))
    {'params': {'backbone': 1}, 'batch_stats': {'backbone': 3}}
    """
    return {
        collection: {name: tree for name, tree in trees.items() if name not in names}
        for collection, trees in variables.items()
    }


def unit(x: jax.Array) -> jax.Array:
    """Rows `[B, D]` scaled to length 1, float32, safe at 0 (torch's F.normalize, eps 1e-12)."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))


def feature_shapes(network: Network, image_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a fresh network's features of one square image."""
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), image)
    return jax.eval_shape(lambda v, x: network.apply(v, x, False)[0], variables, image)


def base_view(data, count: int = 1) -> ViewSpec:
    """`count` views of the kind that the `data` section of the config describes."""
    return ViewSpec(
        count=count,
        size=data.image_size,
        scale=tuple(data.crop_scale),
        flip=data.flip,
        photometric=data.photometric,
        crop=data.crop,
        padding=data.padding,
        resize=data.resize,
        policy=data.policy,
        erase=data.erase,
    )
