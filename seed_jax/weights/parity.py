"""Compare our networks and converters with reference implementations in PyTorch.

A golden file stores a few values, at drawn positions, of what the reference computed. It stores no weights:
`draw` recreates the weights from the tensor names. From these weights, our converter and our network must
compute the same values.
"""

import dataclasses
import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from seed_jax import models
from seed_jax.models.heads import ProjectionHead
from seed_jax.models.network import Joined
from seed_jax.weights import heads
from seed_jax.weights import naming as naming_lib
from seed_jax.weights.naming import Naming

GOLDEN = Path(__file__).parent / "golden"
POSITIONS = 64


@dataclasses.dataclass(frozen=True)
class Case:
    """A golden file `golden/{name}.npz`, and the network that must reproduce it.

    Attributes:
      name: the golden file without its suffix.
      arch, options: the arguments of `models.create`. Dropout and drop-path are 0, because running statistics
        after a forward in train mode are compared too.
      naming: the reference's tensor names.
      head: options of `ProjectionHead`, if the reference has a head.
      head_style: how the head's tensors are named (`heads.py`).
    """

    name: str
    arch: str
    naming: Naming
    options: dict = dataclasses.field(default_factory=dict)
    head: dict | None = None
    head_style: str = "fc"


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of one case.

    `error`: for each feature or statistic, the largest difference divided by the largest golden value; of
    these the maximum.
    """

    name: str
    error: float
    parameters: int


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draw a float32 tensor from its name and shape alone. No value is at its default.

    From standard normal numbers n (Philox, keyed by BLAKE2b of the name): running variances are 0.5 + n^2;
    other vectors are 1 + n / 5 if their name ends in `weight`, `gamma` or `proj`, and n / 10 if not (biases,
    means); matrices and filters with such a name are n sqrt(g / fan-in), with g = 2 for filters and 1 for
    matrices; all else (tokens, position embeddings) is n / 2.
    """
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "little")
    n = np.random.Generator(np.random.Philox(key=key)).standard_normal(shape, np.float32)
    if name.endswith("running_var"):
        return np.float32(0.5) + n * n
    weight = name.endswith(("weight", "gamma", "proj"))
    if n.ndim < 2:
        return 1 + n / 5 if weight else n / 10
    if not weight:
        return n / 2
    gain = 2 if n.ndim == 4 else 1
    return n * np.float32(np.sqrt(gain / np.prod(shape[1:])))


def positions(size: int, count: int = POSITIONS) -> np.ndarray:
    """Return the drawn positions at which a flat array of `size` values is compared."""
    return np.random.Generator(np.random.Philox(key=size)).integers(0, size, count)


def fingerprint(shapes: dict[str, tuple[int, ...]]) -> str:
    """Return the sha256 of a state dict's names and shapes, which are in PyTorch's layout."""
    lines = sorted(f"{name} {list(shape)}" for name, shape in shapes.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def check(case: Case) -> Result:
    """Draw the weights, convert them, run the network and compare it with the golden values.

    Raises:
      ValueError: our names and shapes, converted to PyTorch's, differ from the reference's.
    """
    golden = np.load(GOLDEN / f"{case.name}.npz")
    parts = {"head": ProjectionHead(**case.head)} if case.head else {}
    network = Joined(models.create(case.arch, mean=(0, 0, 0), std=(1, 1, 1), **case.options), parts)
    template = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((2, 224, 224, 3)))
    names = heads.names(case.naming, case.head_style, naming_lib.leaves(template))

    def tensor(path, shape):
        mock = np.broadcast_to(np.float32(0), shape)
        return draw(names[path], naming_lib.to_torch(case.naming, path, mock).shape)

    def array(path, leaf):
        path = path.partition("/")[2]
        drawn = tensor(path, leaf.shape)
        shapes[names[path]] = drawn.shape
        return np.ascontiguousarray(naming_lib.from_torch(case.naming, path, drawn, leaf.ndim))

    shapes = {}
    flat = {path: array(path, leaf) for path, leaf in traverse_util.flatten_dict(template, sep="/").items()}
    if fingerprint(shapes) != golden["names"]:
        raise ValueError(f"{case.name}: our names or shapes differ from the reference's")
    variables = traverse_util.unflatten_dict(flat, sep="/")
    statistics = [name for name in shapes if name.endswith(("running_mean", "running_var"))]
    parameters = sum(int(np.prod(shapes[name])) for name in shapes if name not in statistics)
    if parameters != golden["parameters"]:
        raise ValueError(
            f"{case.name}: we have {parameters} parameters, the reference {golden['parameters']}"
        )

    errors = []
    keys = sorted(key for key in golden if "/" in key and not key.startswith("train/"))
    sizes = list(dict.fromkeys(int(key.split("/")[0]) for key in golden if key.split("/")[0].isdigit()))
    for size in sizes:
        features, _ = jax.jit(lambda v, x: network.apply(v, x, train=False))(variables, images(size))
        for key in keys:
            if key.startswith(f"{size}/"):
                flat = np.asarray(features[key.split("/")[1]]).reshape(2, -1)
                errors.append(_relative(flat[:, positions(flat.shape[1])], golden[key]))
    if "train/running_var" in golden:
        _, state = jax.jit(lambda v, x: network.apply(v, x, True, jax.random.split(jax.random.key(0), 2)))(
            variables, images(sizes[0])
        )
        updated = {
            names[path]: leaf
            for path, leaf in traverse_util.flatten_dict(state["batch_stats"], sep="/").items()
        }
        for leaf in ("running_mean", "running_var"):
            values = np.concatenate([updated[name] for name in sorted(updated) if name.endswith(leaf)])
            errors.append(_relative(values[positions(len(values), 128)], golden[f"train/{leaf}"]))
    return Result(case.name, max(errors), parameters)


def images(size: int) -> np.ndarray:
    """Return the two normalised images of the golden files, float32 `[2, size, size, 3]`."""
    return 2 * draw(f"images {size}", (2, 3, size, size)).transpose(0, 2, 3, 1)


def _relative(ours, golden) -> float:
    error = np.abs(ours - golden).max() / np.abs(golden).max()
    return float(error) if np.isfinite(error) else float("inf")
