"""From a ConfigDict to frozen sections: nothing misspelt, nothing unused."""

import dataclasses
import math
import typing

import jax
import pytest

from seed_jax import config
from seed_jax.data import rng
from seed_jax.errors import UserError
from seed_jax.methods import METHODS


def make(method="seed", **overrides):
    raw = config.default(method)
    raw.train.steps = 4
    for key, value in overrides.items():
        *sections, name = key.split("__")
        place = raw
        for section in sections:
            place = place[section]
        place[name] = value
    return raw


@pytest.mark.parametrize("method", METHODS)
def test_defaults_resolve_to_the_defaults_of_the_sections(method):
    c = config.resolve(make(method))
    assert c.method == METHODS[method]()
    assert c.method_name == method
    for name, section in config.SECTIONS.items():
        want = dataclasses.replace(section(), steps=4) if name == "train" else section()
        assert getattr(c, name) == want
    with pytest.raises(dataclasses.FrozenInstanceError):
        c.optim.lr = 1.0


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("optim__lrr", 1.0, r"Unknown config key 'optim\.lrr': did you mean 'optim\.lr'\?"),
        ("method__tau_studnet", 1.0, r"'method\.tau_studnet': did you mean 'method\.tau_student'\?"),
        ("trian", {}, "Unknown config section 'trian': did you mean 'train'"),
        ("method__name", "sed", r"Unknown method\.name 'sed': did you mean 'seed'\?"),
        ("optim__schedule", "cosin", "did you mean 'cosine'"),
        ("optim__decay", "x", "it is one of all, kernels"),
        ("train__precision", "fp16", "did you mean 'bf16'|did you mean 'fp32'"),
        ("train__epochs", 2.0, "Exactly one of .* 2 are"),
        ("train__steps", 0, "Exactly one of .* 0 are"),
        ("train__bn_group", 7, r"train\.bn_group is 7, .* data\.batch_size \(256\)"),
        ("log__every_steps", 0, r"log\.every_steps is 0: it must be above 0"),
        ("data__batch_size", -1, r"data\.batch_size is -1"),
        ("data__crop_scale", [0.1], r"data\.crop_scale is \(0\.1,\): it must be two shares"),
        ("data__crop_scale", [0.1, 0.5, 0.9], r"data\.crop_scale is .*: it must be two shares"),
        ("data__crop", "padd", "Unknown data.crop 'padd': did you mean 'pad'"),
        ("data__padding", -1, r"data\.padding is -1: it must be 0 or more"),
        ("data__last", "keeps", "Unknown data.last 'keeps': did you mean 'keep'"),
        ("train__seed", -1, r"train\.seed is -1: it must be 0 to 2\*\*32 - 1"),
        ("train__seed", 2**32, r"train\.seed is 4294967296: it must be 0 to"),
        ("optim__lr", -1.0, r"optim\.lr is -1.0: it must be 0 or more"),
        ("student__options", {"std": [0.2, float("nan")]}, r"student\.options is .*: it must be finite"),
        ("teacher__dim", 0, r"teacher\.dim is 0: it must be above 0"),
        ("optim__momentum", 5.0, r"optim\.momentum is 5.0: it must be 0 to less than 1"),
        (
            "optim__milestones",
            ("a", 0.5),
            r"optim\.milestones is .*: it must be a tuple, each .* number",
        ),
        ("evals__names", ("knn", "knn"), r"evals\.names is .*: it must be each evaluator once"),
        ("evals__names", ("knn", 5), r"evals\.names is .*: it must be a tuple, each element a text"),
        ("train__ema", None, r"train\.ema is None: it must be a number"),
        ("student__options", None, r"student\.options is None: it must be a dictionary"),
        ("method__queue_start", None, r"method\.queue_start is None: it must be a text"),
    ],
)
def test_mistakes(key, value, words):
    with pytest.raises(UserError, match=words):
        config.resolve(make(**{key: value}))


NUMBERS = [
    (method, f"{section}.{field.name}", getattr(cls(), field.name))
    for method in METHODS
    for section, cls in (*config.SECTIONS.items(), ("method", METHODS[method]))
    for field in dataclasses.fields(cls)
    if field.type is float or float in typing.get_args(field.type)
]


@pytest.mark.parametrize(("method", "key", "default"), NUMBERS)
def test_every_number_must_be_finite(method, key, default):
    assert {"method.temperature", "method.patch_scale", "optim.milestones"} <= {key for _, key, _ in NUMBERS}
    for value in (math.nan, math.inf, -math.inf):
        wrong = (*default[:-1], value) if isinstance(default, tuple) else value
        with pytest.raises(UserError) as error:
            config.resolve(make(method, **{key.replace(".", "__"): wrong}))
        assert str(error.value) == f"{key} is {wrong}: it must be finite."


@pytest.mark.parametrize(
    ("key", "value"),
    [("temperature", 0.0), ("temperature", -1.0), ("momentum", 1.5), ("momentum", -0.1), ("dim", 0)]
    + [("hidden", -1)],
)
def test_mistakes_in_moco(key, value):
    with pytest.raises(UserError, match=rf"method\.{key} is {value}"):
        config.resolve(make("moco", **{f"method__{key}": value}))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("global_views", 1, "method.global_views is 1: use 2 or more."),
        ("prototypes", 1, "method.prototypes is 1: use 2 or more."),
        ("tau_teacher", 0.0, "method.tau_teacher is 0.0: use a value above 0."),
        ("tau_teacher_start", 0.0, "method.tau_teacher_start is 0.0: use a value above 0."),
        ("tau_student", -1.0, "method.tau_student is -1.0: use a value above 0."),
        ("momentum", 1.5, "method.momentum is 1.5: use 0 to 1."),
        ("local_views", -1, "method.local_views is -1: use 0 or more."),
        ("local_scale", (0.4, 0.1), r"method.local_scale is \(0.4, 0.1\): use a range within"),
        ("photometric_local", "dino_locl", "method.photometric_local 'dino_locl': did you mean 'dino_local'"),
    ],
)
def test_mistakes_in_dino(key, value, words):
    with pytest.raises(UserError, match=words):
        config.resolve(make("dino", **{f"method__{key}": value}))


def test_dino_has_its_own_moving_average():
    with pytest.raises(UserError, match=r"train.ema is 0.9, but dino serves .* use --config.train.ema=0.0"):
        config.resolve(make("dino", train__ema=0.9))


def test_no_two_seeds_give_the_same_keys():
    def bits(seed):
        return int(jax.random.bits(rng.stream(seed, "init")))

    seeds = [config.resolve(make(train__seed=seed)).train.seed for seed in (0, 2**31, 2**32 - 1)]
    assert len({bits(seed) for seed in seeds}) == 3
    assert bits(2**32) == bits(0)  # which is why it is refused


def test_lists_of_json_become_tuples():
    assert config.resolve(make(data__crop_scale=[0.1, 0.9])).data.crop_scale == (0.1, 0.9)


def test_smoke_keeps_the_method_and_needs_nothing():
    raw = make(method__queue_size=65_536, method__tau_student=0.3, teacher__weights="x.pth", data__dir="/x")
    c = config.resolve(config.variant(raw, "smoke"))
    assert (c.data.source, c.data.dir, c.teacher.weights) == ("digits", "", "random")
    assert c.method.tau_student == 0.3
    assert c.method.queue_size % c.data.batch_size == 0
    assert c.train.steps <= 10


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", r"own\.py has no function get_config: add it\."),
        ("open('/no such file')", r"own\.py, line 1, cannot be run \(FileNotFoundError: .*/no such file.*\)"),
        (
            "import json\n\n\ndef get_config():\n    return json.loads('{')",
            r"own\.py, line 5, cannot be run \(JSONDecodeError: [^\n]*\): correct it\.$",
        ),
        ("def get_config():\n    return 3", "get_config returned int: let it return a ConfigDict"),
        ("raise ValueError", r"own\.py, line 1, cannot be run \(ValueError\): correct it\.$"),
        (
            "from seed_jax import config\n\n\ndef get_config():\n    return config.default('sed')",
            "^Unknown method 'sed': did you mean 'seed'",
        ),
    ],
)
def test_a_config_file_that_cannot_be_run(tmp_path, text, words):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(UserError, match=words):
        config.load(str(tmp_path / "own.py"))


def test_a_variant_is_the_argument_of_the_function(tmp_path):
    (tmp_path / "own.py").write_text(
        "from seed_jax import config\n\n\ndef get_config(size='large'):\n"
        "    c = config.default('seed')\n    c.data.dir = size\n    return c"
    )
    path = str(tmp_path / "own.py")
    assert [config.load(file).data.dir for file in (path, f"{path}:small")] == ["large", "small"]
