import functools

import jax
import numpy as np
import pytest
from flax import traverse_util

from seed_jax import config, models, weights
from seed_jax.data.images import BadImage
from seed_jax.data.sources import Arrays
from seed_jax.errors import UserError
from seed_jax.methods.base import Given
from seed_jax.models.swinv2 import SwinTransformerV2
from seed_jax.train import inputs, student
from seed_jax.train import start as start_lib
from seed_jax.weights import loading, parity, swin

NARROW = {"width": 0.125}
UNIT = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


@pytest.fixture
def start(tmp_path):
    """What a student of these options starts with from a file of that network, which tells of itself."""

    def start(held, model, options, names="torchvision"):
        flat = traverse_util.flatten_dict(loading.shapes(held.network()), sep="/")
        drawn = {name: parity.draw(name, leaf.shape) for name, leaf in flat.items()}
        variables = traverse_util.unflatten_dict(drawn, sep="/")
        weights.save(variables, held, tmp_path / "a.safetensors", names=names)
        raw = config.default("supervised")
        raw.train.epochs = 1
        raw.student.model, raw.student.options = model, options
        raw.student.init = str(tmp_path / "a.safetensors")
        resolved = config.resolve(raw)
        given = Given(256, 10, 224, 10, 10)
        found, came_from = start_lib.load(resolved, student.network(resolved, given).backbone)
        expected = {name: trees["backbone"] for name, trees in variables.items()}
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        assert came_from["sha256"] == weights.sha256(tmp_path / "a.safetensors")

    return start


def test_a_start_normalised_otherwise_is_refused_until_the_options_say_so(start):
    held = weights.Recognised("resnet", "resnet18", NARROW, None, "", **UNIT)
    with pytest.raises(
        UserError, match=r"student.init: .* has mean=\(0.0, 0.0, 0.0\), std=.*student.options"
    ):
        start(held, "resnet18", NARROW)
    start(held, "resnet18", NARROW | UNIT)


@pytest.mark.parametrize(("given", "epsilon"), [({}, "0.001"), ({"bn_epsilon": 1e-4}, "0.0001")])
def test_a_start_with_another_epsilon_is_refused(start, given, epsilon):
    arch = "mobilenetv3_small_torchvision"
    held = weights.Recognised("mobilenetv3", arch, {"bn_epsilon": 1e-5}, None, "")
    with pytest.raises(UserError, match=f"has bn_epsilon=1e-05, and the student bn_epsilon={epsilon}:"):
        start(held, arch, given, "timm")


def test_what_only_training_differs_by_is_no_matter(start):
    held = weights.Recognised("mobilenetv3", "mobilenetv3_small", {}, None, "")
    start(held, "mobilenetv3_small", {"dropout": 0.5, "small_stem": True}, "seed")


def test_a_swin_transformer_may_have_other_windows_than_its_start(start, monkeypatch):
    narrow = functools.partial(SwinTransformerV2, 8, (2, 2, 2, 2), (1, 1, 2, 2))
    monkeypatch.setitem(models.MODELS, "swinv2_narrow", narrow)
    monkeypatch.setitem(swin.ARCHITECTURES, (8, (2, 2, 2, 2)), "narrow")
    held = weights.Recognised("swinv2", "swinv2_narrow", {}, None, "")
    old = {"pretrained_window": 8, "pretrained_size": 256}
    for size in (256, 512):
        start(held, "swinv2_narrow", {"window": 16, "image_size": size, **old}, "microsoft")
        with pytest.raises(UserError, match="were trained for windows of 8, 8, 8, 8 .* mean 16, 16, 16, "):
            start(held, "swinv2_narrow", {"window": 16, "image_size": size}, "microsoft")


def test_a_file_that_lacks_its_windows_has_those_of_the_students_options(tmp_path, monkeypatch):
    narrow = functools.partial(SwinTransformerV2, 8, (2, 2, 2, 2), (1, 1, 2, 2))
    monkeypatch.setitem(models.MODELS, "swinv2_narrow", narrow)
    monkeypatch.setitem(swin.ARCHITECTURES, (8, (2, 2, 2, 2)), "narrow")
    shapes = loading.shapes(models.Joined(models.create("swinv2_narrow"), {}))
    flat = traverse_util.flatten_dict(jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes), sep="/")
    np.savez(tmp_path / "a.npz", **flat)
    raw = config.default("supervised")
    raw.train.epochs, raw.student.model, raw.student.init = 1, "swinv2_narrow", str(tmp_path / "a.npz")

    def start(**options):
        raw.student.options = options
        resolved = config.resolve(raw)
        return start_lib.load(resolved, student.network(resolved, Given(8, 10, 256, 1, 1)).backbone)

    start(window=16, image_size=256, pretrained_window=12)
    start(window=8)
    with pytest.raises(UserError, match="^student.init: .* with config.student.options.window=8"):
        start()


@pytest.mark.parametrize(
    ("variant", "knn", "told"),
    [("supervised", False, True), ("seed", True, True), ("moco", False, False)],
)
def test_images_without_a_label_are_told_where_labels_are_used(tmp_path, variant, knn, told):
    labels = np.arange(400) % 3
    labels[::5] = -1
    np.savez(tmp_path / "x.npz", image=np.zeros((400, 8, 8, 3), np.uint8), label=labels)
    raw = config.default(variant)
    raw.train.epochs, raw.evals.names = 1, ("knn",) if knn else ("top1",)
    raw.data.source, raw.data.dir = "npz", str(tmp_path / "x.npz")
    if not told:
        assert inputs.open_sources(config.resolve(raw)).train.num_classes == 3
        return
    with pytest.raises(UserError, match=r"data.source: \d+ of \d+ images have no label, such as x.npz"):
        inputs.open_sources(config.resolve(raw))


def test_a_damaged_record_is_no_image_without_a_label():
    class Damaged(Arrays):
        def __getitem__(self, i):
            if i < 2:
                raise BadImage("damaged")
            return super().__getitem__(i)

    labels = np.arange(9) % 3
    labels[:2] = -1
    source = Damaged("x", np.zeros((9, 4, 4, 3), np.uint8), labels)
    inputs._check_labels(source)
    labels = source.labels()
    labels[5] = -1
    with pytest.raises(UserError, match=r"3 of 9 images have no label, such as x\[5\]"):
        inputs._check_labels(source)
