"""The profile of a step counts every layer once, and knows its kind in a trace."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import parts, profile_layers, profile_trace, quiet
from seed_jax import models, parallel

SCOPES = {
    "jit(step)/update/mul": ("optimizer", "", ""),
    "jit(step)/views/vmap(jit(_uniform))/xor": ("photometrics", "", ""),
    "jit(step)/jvp(loss)/while/body/dot_general": ("loss", "", "forward"),
    "jit(step)/jvp(loss)/teacher/ResNet/conv1/add": ("teacher", "stem convolution", "forward"),
    "jit(step)/transpose(jvp(loss))/ResNet/layer1_0/bn1/mul": ("student", "BatchNorm", "backward"),
    "jit(step)/jvp(loss)/ResNet/layer1_0/jit(relu)/max": (
        "student",
        "activations, skip connections",
        "forward",
    ),
    "jit(step)/square": ("rest", "", ""),
}


@pytest.fixture
def mesh():
    mesh = parallel.make_mesh(jax.devices()[:1])
    with jax.set_mesh(mesh):
        yield mesh


def network(name, trained, **options):
    made, x = models.create(name, **options), jnp.ones((4, 32, 32, 3))
    variables = jax.jit(made.init)(jax.random.key(0), x)
    state = {key: tree for key, tree in variables.items() if key != "params"}

    def forward(params, x):
        return made.apply({"params": params, **state}, x, trained, jax.random.split(jax.random.key(0), 4))[0][
            "pooled"
        ]

    return parts.Network(forward, (variables["params"], x), trained)


@pytest.mark.long
def test_the_layers_of_mobilenetv3_are_counted():
    found = profile_layers.calls(network("mobilenetv3_large", True, width=0.25))
    kinds = collections.Counter(call.kind for _, call in found)
    # Table 1 of the paper: 15 blocks, the first without expansion; 8 with squeeze-and-excite.
    assert kinds == {
        "stem convolution": 1,
        "convolution 1x1": 14 + 15 + 1,
        "depthwise 3x3": 9,
        "depthwise 5x5": 6,
        "BatchNorm": 1 + 14 + 15 + 15 + 1,
        "squeeze-excite": 8,
        "linear": 1,
        "relu": 11,
        "h_swish": 20,
    }
    paths = {path for path, _ in found}
    assert {"MobileNetV3/stem_conv", "MobileNetV3/block4/se", "MobileNetV3/block1/depthwise_conv"} <= paths


def test_every_pass_of_a_layer_is_timed(mesh):
    del mesh
    others, small = quiet.Others(), network("resnet18", True, width=0.125, small_stem=True)
    few = [(path, call) for path, call in profile_layers.calls(small) if "layer1_0" in path or not path]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profile_layers, "calls", lambda network: few)
        timed = list(profile_layers.time_calls("student", small, 1, others))
    counts = {(t.kind, t.pass_, t.what): t.calls for t in timed}
    shape = (4, 32, 32, 8)
    for pass_ in ("forward", "input gradient", "kernel gradient"):
        assert counts["convolution 3x3", pass_, f"stride 1, 8 channels of {shape}"] == 2
    for pass_ in ("forward", "backward"):
        assert counts["BatchNorm", pass_, str(shape)] == 2
        assert counts["relu", pass_, str(shape)] == 1 + 4
    (conv,) = (t for t in timed if t.pass_ == "input gradient")
    assert conv.flops == 2 * 4 * 32 * 32 * 8 * 9 * 8
    tables = profile_layers.tables(timed, {"student": 100.0}, 200.0)
    assert "| student | the whole less the above |" in tables


def test_the_gradients_of_a_layer_are_those_of_the_layer(mesh):
    del mesh
    layer = profile_layers.calls(network("resnet18", True, width=0.125, small_stem=True))[2][1]
    passes = {pass_: program(*arguments) for pass_, program, arguments in profile_layers._passes(layer, True)}
    assert [*passes] == ["forward", "input gradient", "kernel gradient"]
    assert passes["input gradient"].shape == layer.x.shape
    kernel = layer.fresh()["params"]["kernel"]
    assert passes["kernel gradient"]["kernel"].shape == kernel.shape
    # A convolution is linear: <dy, conv(x)> is <input gradient, x> and <kernel gradient, kernel>.
    x = profile_layers._noise(layer.x)
    dy = profile_layers._noise(passes["forward"][0])
    inner = float((dy * passes["forward"][0]).sum())
    np.testing.assert_allclose(float((passes["input gradient"] * x).sum()), inner, rtol=1e-3)
    np.testing.assert_allclose(float((passes["kernel gradient"]["kernel"] * kernel).sum()), inner, rtol=1e-3)


@pytest.mark.parametrize("scope", SCOPES)
def test_kinds_of_operations_by_their_scope(scope):
    layers = {"ResNet/conv1": "stem convolution", "ResNet/layer1_0/bn1": "BatchNorm"}
    assert profile_trace.kind(scope, layers) == SCOPES[scope]


def test_the_table_of_a_trace(mesh):
    del mesh
    small = network("resnet18", False, width=0.125, small_stem=True)

    def step(params, x):
        with jax.named_scope("loss"):
            return small.forward(params, x).sum()

    program = jax.jit(step).lower(*small.arguments).compile()
    part = parts.Part("step", lambda: program(*small.arguments), program, None, 0.0)
    table = profile_trace.table(part, {"student forward": small}, 2)
    assert "| student | convolution 3x3 | forward |" in table


def test_others_are_counted_against_the_cores(monkeypatch):
    readings = iter([(100.0, 50.0, 10.0), (104.0, 53.0, 11.0), (200.0, 60.0, 20.0), (204.0, 61.0, 21.0)])
    monkeypatch.setattr(quiet, "_times", lambda: next(readings))
    others = quiet.Others()
    assert "unknown" in str(others)
    with others:
        pass
    assert others.share == 0.5 and "50.0% of the cores (disturbed)" in str(others)
    with others:
        pass
    assert others.share == 0.25
