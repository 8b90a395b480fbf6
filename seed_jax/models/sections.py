"""Sections of a network: what lies between the image, or one of its features, and other features.

An architecture need not know where it may be cut. Its forward pass is traced as a whole, and the section has
those operations of the trace that the wanted features depend on. So the sections compute what the whole
network computes, and a section reads only its own parameters.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.extend import core

from seed_jax.models.network import Features, Joined, Network, Variables


@dataclasses.dataclass(frozen=True, eq=False)
class Section:
    """Part of a network in eval mode, called as `section(variables, x) -> features`.

    Attributes:
      network: the whole network.
      size: side of the images, pixels.
      ends: the entries that are computed.
      start: the entry that `x` is, such as 'stage1'; '' if `x` is images, float `[B, size, size, 3]`.

    Raises:
      ValueError: on a call; `ends` depend on more of the image than `start`.

    >>> from seed_jax.models import create
    >>> network = create("cifar_resnet8")
    >>> variables = network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    >>> begin, end = Section(network, 32, ("stage1",)), Section(network, 32, ("pooled",), start="stage1")
    >>> sorted(begin.keep(variables)["params"])
    ['bn1', 'conv1', 'layer1_0']
    >>> x = jnp.ones((2, 32, 32, 3))
    >>> end(variables, begin(variables, x)["stage1"])["pooled"].shape
    (2, 64)
    """

    network: Network
    size: int
    ends: tuple[str, ...]
    start: str = ""

    def __call__(self, variables: Variables, x: jax.Array) -> Features:
        """The entries `ends` of `B` rows; `variables` may lack what the section does not read."""
        program, reads = self._program(len(x))
        given = dict(jax.tree.leaves_with_path(variables))
        results = core.jaxpr_as_fun(program)(*(given[path] for path in reads), x)
        return dict(zip(self.ends, results, strict=True))

    def keep(self, variables: Variables) -> Variables:
        """`variables`, or their shapes, without what the section does not read."""
        _, reads = self._program(1)
        kept = {}
        for path, leaf in jax.tree.leaves_with_path(variables):
            if path in reads:
                *folders, name = (key.key for key in path)
                functools.reduce(lambda tree, key: tree.setdefault(key, {}), folders, kept)[name] = leaf
        return kept

    def _program(self, batch: int):
        """The section for that many rows, and the paths of the variables that it takes before `x`."""
        images = jax.ShapeDtypeStruct((batch, self.size, self.size, 3), jnp.float32)
        shapes = jax.eval_shape(self.network.init, jax.random.key(0), images)
        whole, features = jax.make_jaxpr(
            lambda variables, x: self.network.apply(variables, x, False)[0], return_shape=True
        )(shapes, images)
        entries = dict(zip(sorted(features), whole.jaxpr.outvars, strict=True))
        *places, pixels = whole.jaxpr.invars
        begin, ends = entries[self.start] if self.start else pixels, [entries[name] for name in self.ends]
        equations, needed = _needed(whole.jaxpr.eqns, ends, begin)
        if self.start and pixels in needed:
            raise ValueError(f"{', '.join(self.ends)} depend on more of the image than {self.start}.")
        paths = [path for path, _ in jax.tree.leaves_with_path(shapes)]
        reads = {path: place for path, place in zip(paths, places, strict=True) if place in needed}
        part = whole.jaxpr.replace(invars=[*reads.values(), begin], outvars=ends, eqns=equations)
        return core.ClosedJaxpr(part, whole.consts), list(reads)


@dataclasses.dataclass(frozen=True, eq=False)
class Cut(Joined):
    """A `Joined` that ends early, in eval mode alone; its variables lack what only the rest reads.

    Attributes:
      ends: its entries, and which entry of the whole network each is: `{'logits': 'exit1_logits'}`.
    """

    ends: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def init(self, rng, sample):
        return self._section(sample).keep(super().init(rng, sample))

    def apply(self, variables, x, train, keys=None):
        assert not train, "a network that was cut is not trained: train the whole one."
        state = {name: tree for name, tree in variables.items() if name != "params"}
        features = self._section(x)(variables, x)
        return {name: features[entry] for name, entry in self.ends.items()}, state

    def _section(self, images):
        return Section(Joined(self.backbone, self.parts), images.shape[1], tuple(self.ends.values()))


def _needed(equations, ends, begin):
    """The equations that `ends` depend on, up to `begin`, and every variable that they and `ends` name."""
    kept, needed = [], set(ends)
    for equation in reversed(equations):
        if begin not in equation.outvars and not needed.isdisjoint(equation.outvars):
            kept.append(equation)
            needed |= {x for x in equation.invars if not isinstance(x, core.Literal)}
    return kept[::-1], needed
