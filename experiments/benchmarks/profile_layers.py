"""Where the time of a step goes, by kind of layer: every distinct call of a layer, timed by itself.

The calls are collected while the network is traced. Each distinct one (layer, shape of its input) becomes small
programs of its own: forward, and for a network that is trained the gradients. Their times, times the number of
such calls, are added up by kind. XLA fuses layers with their neighbours in the whole program, and keeps some of
their values in the caches, so the sum differs from the time of the network; the difference is a row.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.parts import Network
from experiments.benchmarks.timing import median_ms
from seed_jax import parallel
from seed_jax.models import layers

ACTIVATIONS = {"relu": nn.relu, "h_swish": layers.h_swish, "silu": nn.silu, "gelu": nn.gelu}
LAYERS = (layers.Conv, layers.BatchNorm, layers.SqueezeExcite, nn.Dense, nn.LayerNorm)


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of a layer: `function(variables, x)`.

    Attributes:
      kind: such as 'depthwise 3x3'.
      what: tells calls apart that need programs of their own.
      fresh: draws the variables, `{"params": ..., ...}`; None for a function without any.
      first: whether no gradient reaches its input, because that is the batch of images.
    """

    kind: str
    what: str
    function: Callable
    fresh: Callable | None
    x: jax.ShapeDtypeStruct
    first: bool


@dataclasses.dataclass(frozen=True)
class Timed:
    """A pass of a distinct call: `calls` in the network; ms, FLOPs and bytes of one of them.

    `bytes`: of the arguments and results, each counted once.
    """

    network: str
    kind: str
    what: str
    pass_: str
    calls: int
    ms: float
    flops: float
    bytes: float


def calls(network: Network) -> collections.Counter[Call]:
    """The calls of layers, activations included, in one forward of the network, with their numbers."""
    found, inside = {}, []
    counts = collections.Counter()

    def add(call):
        counts[found.setdefault((call.kind, call.what), call)] += 1

    def record(run, arguments, keywords, context):
        module = context.module
        if context.method_name != "__call__" or inside or not isinstance(module, LAYERS):
            return run(*arguments, **keywords)
        add(_layer(module, arguments[0], arguments[1:], keywords))
        inside.append(module)
        try:
            return run(*arguments, **keywords)
        finally:
            inside.pop()

    with nn.intercept_methods(record):
        program = jax.make_jaxpr(network.forward)(*network.arguments)
    for name, x in _activations(program.jaxpr):
        function = ACTIVATIONS[name]
        add(Call(name, str(x.shape), lambda _, x, f=function: (f(x), {}), None, x, False))
    return counts


def time_calls(name: str, network: Network, repeats: int) -> Iterator[Timed]:
    """Time each distinct call of the network `repeats` times, and yield its passes."""
    for call, count in calls(network).items():
        for pass_, program, arguments in _passes(call, network.trained):
            ms = median_ms(lambda program=program, arguments=arguments: program(*arguments), repeats)
            leaves = jax.tree.leaves((arguments, jax.eval_shape(program, *arguments)))
            moved = sum(x.size * x.dtype.itemsize for x in leaves)
            yield Timed(name, call.kind, call.what, pass_, count, ms, _flops(call, arguments), moved)


def _layer(module, x, rest, keywords) -> Call:
    alone = module.clone(parent=None, name=None)
    x = jax.ShapeDtypeStruct(x.shape, x.dtype)
    train = True in rest or keywords.get("train", False)

    def fresh():
        return alone.init(jax.random.key(0), jnp.zeros(x.shape, x.dtype), *rest, **keywords)

    def function(variables, x):
        mutable = [name for name in variables if name != "params"] if train else []
        return alone.apply(variables, x, *rest, mutable=mutable, **keywords)

    kind = _kind(module, x)
    return Call(kind, f"{_settings(alone)}{x.shape}", function, fresh, x, kind == "stem convolution")


def _kind(module, x) -> str:
    if not isinstance(module, layers.Conv):
        names = {layers.BatchNorm: "BatchNorm", layers.SqueezeExcite: "squeeze-excite", nn.Dense: "linear"}
        return names.get(type(module), type(module).__name__)
    if x.shape[-1] == 3:
        return "stem convolution"
    return f"{'depthwise' if module.depthwise else 'convolution'} {module.kernel}x{module.kernel}"


def _settings(module) -> str:
    if isinstance(module, layers.Conv):
        return f"stride {module.stride}, {module.features} channels of "
    if isinstance(module, nn.Dense):
        return f"{module.features} of "
    return f"{module.hidden} hidden, " if isinstance(module, layers.SqueezeExcite) else ""


def _activations(jaxpr) -> Iterator[tuple[str, jax.ShapeDtypeStruct]]:
    """Activations of maps and tokens; those of vectors take no time, and belong to squeeze-excite or a head."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "jit":
            yield from _activations(equation.params["jaxpr"].jaxpr)
        elif equation.primitive.name == "custom_jvp_call":
            name, x = equation.params["call_jaxpr"].jaxpr.debug_info.func_name, equation.invars[0].aval
            if name in ACTIVATIONS and x.ndim > 2:
                yield name, jax.ShapeDtypeStruct(x.shape, x.dtype)


def _passes(call: Call, trained: bool) -> Iterator[tuple[str, Callable, tuple]]:
    """The passes of a call: name, jitted function, arguments on the devices."""
    variables = {} if call.fresh is None else jax.jit(call.fresh)()
    params = variables.get("params", {})
    state = {name: tree for name, tree in variables.items() if name != "params"}

    def forward(params, state, x):
        return call.function({"params": params, **state} if call.fresh else {}, x)

    x = _noise(call.x)
    program = jax.jit(forward)
    yield "forward", program, (params, state, x)
    if not trained:
        return

    def linearised(params, state, x):
        return jax.vjp(lambda params, x: forward(params, state, x), params, x, has_aux=True)

    y, back, _ = jax.jit(linearised)(params, state, x)
    dy = _noise(y)
    if call.kind.startswith(("stem", "convolution", "depthwise")):
        if not call.first:
            yield "input gradient", jax.jit(lambda back, dy: back(dy)[1]), (back, dy)
        yield "kernel gradient", jax.jit(lambda back, dy: back(dy)[0]), (back, dy)
    else:
        yield "backward", jax.jit(lambda back, dy: back(dy)), (back, dy)


def _noise(x):
    noise = np.random.default_rng(0).standard_normal(x.shape, np.float32)
    return jax.device_put(noise.astype(x.dtype), parallel.batch_sharding(jax.sharding.get_mesh()))


def _flops(call: Call, arguments) -> float:
    """Of one pass of a convolution or Linear: each pass is one product of the same size; 0 for other kinds."""
    if call.fresh is None:
        return 0
    variables = jax.eval_shape(call.fresh)
    kernel = variables.get("params", {}).get("kernel")
    if kernel is None:
        return 0
    y = jax.eval_shape(lambda v, x: call.function(v, x)[0], variables, call.x)
    return 2.0 * y.size * kernel.size / kernel.shape[-1]
