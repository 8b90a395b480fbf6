"""Fold what is constant in eval mode into the neighbouring kernels: the same features, fewer operations.

A convolution or Linear layer takes on the factor of a BatchNorm or LayerScale that alone reads its output;
Linear layers take on scale and bias of a LayerNorm that only they read. Which module reads which is found in
a trace of the network, so every architecture made of `layers.py` is folded, whatever its names are. Nothing
is folded where something else reads the value: a ReLU before a norm, an entry of the features.
"""

import collections
import re
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.ad_checkpoint import checkpoint_name

from seed_jax.models import layers
from seed_jax.models.network import Network, Variables

WEIGHTED = (layers.Conv, nn.Dense)
LEFT_OUT = {  # of a folded module; a parameter comes first
    layers.BatchNorm: ("scale", "mean", "var"),
    layers.LayerScale: ("gamma",),
    layers.LayerNorm: ("scale", "bias"),
}
EMPTY = jax.ShapeDtypeStruct((0,), np.float32)
MARK = re.compile(r"call (\d+) (reads|writes)")


class Call(NamedTuple):
    """A module that was called, and where in the variables its own are, by name."""

    module: nn.Module
    paths: dict[str, tuple[str, ...]]


def fold(network: Network, variables: Variables, sample: jax.ShapeDtypeStruct) -> Variables:
    """Variables with which `network.apply` in eval mode returns the same features by fewer operations.

    In place of its statistics, scale or offset a folded module has the empty array `layers.FOLDED`, by which
    it knows. Such variables cannot be trained.

    Args:
      network: what `variables` belong to.
      variables: float32 arrays, or shapes.
      sample: shape and dtype of a batch of images.

    Returns:
      New variables, float32, on the host, as if computed in float64 (a product of two float32 numbers is the
      same); shapes if given shapes.

    >>> from seed_jax.models import create
    >>> network, sample = create("resnet18", width=0.125), jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    >>> variables = jax.eval_shape(network.init, jax.random.key(0), sample)
    >>> folded = fold(network, variables, sample)
    >>> sorted(variables), sorted(folded), sorted(folded["params"]["bn1"])
    (['batch_stats', 'params'], ['params'], ['bias', 'folded'])
    """
    flat = flatten_dict(variables)
    shapes = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in flat.values())
    for folded, weighted in _foldable(network, variables, sample):
        if not shapes:
            flat |= _values(flat, folded, weighted)
        left_out = [folded.paths[name] for name in LEFT_OUT[type(folded.module)]]
        flat[*left_out[0][:-1], layers.FOLDED] = EMPTY if shapes else np.zeros(EMPTY.shape, EMPTY.dtype)
        for path in left_out:
            del flat[path]
    return unflatten_dict(flat)


def _values(flat, folded, weighted):
    """What the variables that stay become: `{path: float32 array}`."""

    def read(call):
        return {name: np.asarray(flat[path], np.float32) for name, path in call.paths.items()}

    kind, own, new = type(folded.module), read(folded), {}
    factor = own.get("gamma")
    if kind is layers.BatchNorm:
        factor = own["scale"] / np.sqrt(own["var"].astype(np.float64) + folded.module.epsilon)
        new[folded.paths["bias"]] = own["bias"] - own["mean"] * factor
    for layer in weighted:
        weights = read(layer)
        if kind is layers.LayerNorm:
            offset = np.einsum("i,ij->j", own["bias"], weights["kernel"], dtype=np.float64)
            weights["bias"] = weights["bias"] + offset
            weights["kernel"] = own["scale"][:, None] * weights["kernel"]
        else:
            weights = {name: value * factor for name, value in weights.items()}
        new |= {layer.paths[name]: value for name, value in weights.items()}
    return {path: value.astype(np.float32, copy=False) for path, value in new.items()}


def _foldable(network, variables, sample):
    """Yield each call that can be folded, and the calls of the layers that take it on."""
    calls, inputs, outputs, readers = _trace(network, variables, sample)
    times = collections.Counter(path for call in calls for path in call.paths.values())

    def suits(number, modules, names):
        """Whether call `number` is of one of the modules and has these variables, for itself alone."""
        if number is None or type(calls[number].module) not in modules:
            return False
        paths = calls[number].paths
        return set(names) <= paths.keys() and all(times[path] == 1 for path in paths.values())

    for number, value in inputs.items():
        kind = type(calls[number].module)
        if kind is layers.LayerNorm:
            weighted, names = readers[outputs[number]], ("kernel", "bias")
        else:
            alone = readers[value] == [number]
            weighted, names = [n for n in outputs if alone and outputs[n] == value], ("kernel",)
        fits = suits(number, LEFT_OUT, LEFT_OUT.get(kind, ())) and all(
            suits(n, WEIGHTED, names) for n in weighted
        )
        if weighted and fits:
            yield calls[number], [calls[n] for n in weighted]


def _trace(network, variables, sample):
    """The calls of layers in a forward, and who reads what.

    Inputs and outputs pass through named identities, which the jaxpr shows. What a network computes in an
    inner jaxpr, or from variables that it has changed, is left out, and so is not folded.

    Returns:
      calls: all calls of layers.
      inputs, outputs: the value that a call reads, and the one that it writes, by the number of the call.
      readers: the number of each call that reads a value; None for each other use of it.
    """
    calls = []

    def forward(variables, x):
        where = {id(leaf): path for path, leaf in flatten_dict(variables).items()}

        def mark(function, args, kwargs, context):
            module, number = context.module, len(calls)
            if context.method_name != "__call__" or type(module) not in (*WEIGHTED, *LEFT_OUT) or not args:
                return function(*args, **kwargs)
            own = {path[-1]: id(leaf) for path, leaf in flatten_dict(module.variables).items()}
            calls.append(Call(module, {name: where[leaf] for name, leaf in own.items() if leaf in where}))
            y = function(checkpoint_name(args[0], f"call {number} reads"), *args[1:], **kwargs)
            return checkpoint_name(y, f"call {number} writes")

        with nn.intercept_methods(mark):
            return network.apply(variables, x, False)[0]

    jaxpr = jax.make_jaxpr(forward)(variables, sample).jaxpr
    inputs, outputs, readers = {}, {}, collections.defaultdict(list)
    for equation in jaxpr.eqns:
        named = equation.primitive.name == "name" and MARK.fullmatch(equation.params["name"])
        number, verb = (int(named[1]), named[2]) if named else (None, "")
        if verb == "reads":
            inputs[number] = id(equation.invars[0])
        elif verb == "writes":
            outputs[number] = id(equation.outvars[0])
        for value in equation.invars:
            readers[id(value)].append(number if verb == "reads" else None)
    for value in jaxpr.outvars:
        readers[id(value)].append(None)
    return calls, inputs, outputs, readers
