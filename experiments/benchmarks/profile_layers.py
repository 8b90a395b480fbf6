"""Where the time of a network's pass goes, by kind of layer: every distinct call of a layer, timed by itself.

The calls are collected while the network is traced. Each distinct one (layer, shape of its input) becomes
small programs of its own: forward, and for a network that is trained the gradients. Their times, times the
number of such calls, are added up by kind. In the whole program XLA fuses layers with their neighbours, so
the sum differs from the time of the pass; the difference is a row.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.parts import Network
from experiments.benchmarks.quiet import Others
from experiments.benchmarks.timing import median_ms
from seed_jax import parallel
from seed_jax.models import layers
from seed_jax.report.tables import Table

ACTIVATIONS = {"relu": nn.relu, "h_swish": layers.h_swish, "silu": nn.silu, "gelu": nn.gelu}
SLOWEST = 20  # calls in the second table
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
    bytes: int

    ms_all = property(lambda self: self.calls * self.ms)
    flops_all = property(lambda self: self.calls * self.flops)
    bytes_all = property(lambda self: self.calls * self.bytes)


def calls(network: Network) -> list[tuple[str, Call]]:
    """The calls of layers in one forward of the network, activations included.

    Returns:
      (path, call) pairs: the path is that of the layer's scope in compiled programs, such as
      'MobileNetV3/block1/depthwise_conv', and empty for activations.
    """
    found, inside = [], []

    def record(run, arguments, keywords, context):
        module = context.module
        if context.method_name != "__call__" or inside or not isinstance(module, LAYERS):
            return run(*arguments, **keywords)
        found.append((_scope(module), _layer(module, arguments[0], arguments[1:], keywords)))
        inside.append(module)  # what squeeze-excite calls is part of it
        try:
            return run(*arguments, **keywords)
        finally:
            inside.pop()

    with nn.intercept_methods(record):
        program = jax.make_jaxpr(network.forward)(*network.arguments)
    for name, x in _activations(program.jaxpr):
        function = ACTIVATIONS[name]
        found.append(("", Call(name, str(x.shape), lambda _, x, f=function: (f(x), {}), None, x, False)))
    return found


def time_calls(name: str, network: Network, repeats: int, others: Others) -> Iterator[Timed]:
    """Time each distinct call of the network `repeats` times, and yield its passes.

    Args:
      others: watches the timings.
    """
    same = collections.defaultdict(list)
    for _, call in calls(network):
        same[call.kind, call.what].append(call)
    for call, *more in same.values():
        for pass_, program, arguments in _passes(call, network.trained):
            jax.block_until_ready(program(*arguments))  # compiled here, not while the others are watched
            with others:
                ms = median_ms(functools.partial(program, *arguments), repeats)
            leaves = jax.tree.leaves((arguments, jax.eval_shape(program, *arguments)))
            moved = sum(x.size * x.dtype.itemsize for x in leaves)
            yield Timed(name, call.kind, call.what, pass_, 1 + len(more), ms, _flops(call), moved)


def tables(timed: list[Timed], whole: dict[str, float], step_ms: float) -> str:
    """Markdown: the time by kind and pass, longest first, and the slowest calls.

    Args:
      whole: ms of each network's pass; the difference to its calls' sum is a row.
      step_ms: of the step, for the shares.
    """
    kinds = collections.defaultdict(list)
    for t in timed:
        kinds[t.network, t.kind, t.pass_].append(t)
    rows = [
        [
            *key,
            *(sum(getattr(t, what) for t in group) for what in ("calls", "ms_all", "flops_all", "bytes_all")),
        ]
        for key, group in kinds.items()
    ]
    rows = [
        [*row[:5], 100 * row[4] / step_ms, _rate(row[5], row[4], 9), row[6] / row[4] / 1e6] for row in rows
    ]
    rows.sort(key=lambda row: -row[4])
    for network, ms in whole.items():
        rest = ms - sum(t.ms_all for t in timed if t.network == network)
        rows.append([network, "the whole less the above", "", None, rest, 100 * rest / step_ms, None, None])
    header = ["network", "kind", "pass", "calls", "ms", "share of step %", "TFLOP/s", "GB/s"]
    slowest = sorted(timed, key=lambda t: -t.ms_all)[:SLOWEST]
    calls_header = ["network", "kind", "pass", "layer and input", "calls", "ms each", "TFLOP/s", "GB/s"]
    call_rows = [
        [t.network, t.kind, t.pass_, t.what, t.calls, t.ms, _rate(t.flops, t.ms, 9), t.bytes / t.ms / 1e6]
        for t in slowest
    ]
    return f"{Table(header, rows, 2).markdown()}\n\n{Table(calls_header, call_rows, 2).markdown()}"


def _rate(count: float, ms: float, digits: int) -> float | None:
    return count / ms / 10**digits if count else None


def _scope(module) -> str:
    top = module
    while isinstance(top.parent, nn.Module):
        top = top.parent
    return "/".join([type(top).__name__, *module.path])


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
    """Activations of maps and tokens; those of vectors are part of squeeze-excite, or take no time."""
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
    yield "forward", jax.jit(forward), (params, state, x)
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


def _flops(call: Call) -> float:
    """Of one pass of a convolution: each pass is one product of the same size; 0 for other kinds."""
    if call.fresh is None:
        return 0
    variables = jax.eval_shape(call.fresh)
    kernel = variables.get("params", {}).get("kernel")
    if kernel is None:
        return 0
    y = jax.eval_shape(lambda v, x: call.function(v, x)[0], variables, call.x)
    return 2.0 * y.size * kernel.size / kernel.shape[-1]
