import hashlib
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import seed_jax
from seed_jax import models, weights
from seed_jax.errors import UserError
from seed_jax.models.heads import ProjectionHead
from seed_jax.weights import Head, loading, naming, state_dict
from seed_jax.weights import __main__ as command

torch = pytest.importorskip("torch")
import torch_nets  # noqa: E402

BASE = 8
OPTIONS = {"width": BASE / 64}
DIM = 16


def network(arch="resnet18", head=None, **options):
    parts = {} if head is None else {"head": ProjectionHead(**head)}
    return models.Joined(models.create(arch, **(OPTIONS | options)), parts)


V2 = {"hidden": 64, "dim": DIM}


def moco_v2(depth=18):
    features = BASE * 8 * (4 if depth >= 50 else 1)
    return torch_nets.randomise(torch_nets.ResNet(depth, BASE, fc=torch_nets.mlp(features, features, DIM)))


@pytest.fixture(scope="module")
def moco_file(tmp_path_factory):
    net = moco_v2()
    path = tmp_path_factory.mktemp("weights") / "moco_v2.pth.tar"
    torch.save(torch_nets.moco_checkpoint(net), path, _use_new_zipfile_serialization=False)
    return net, path


def described(recognised):
    return recognised.family, recognised.arch, recognised.options, recognised.head


def images(size=64):
    return np.random.default_rng(0).random((2, size, size, 3), np.float32)


def torch_input(x):
    mean, std = np.float32(models.IMAGENET_MEAN), np.float32(models.IMAGENET_STD)
    return torch.from_numpy(((x - mean) / std).transpose(0, 3, 1, 2).copy())


def relative_error(ours, theirs):
    theirs = theirs.detach().numpy()
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


def check_parity(net, path, ours, **options):
    variables = weights.load(path, ours, **options)
    x = images()
    features, _ = jax.jit(lambda v, x: ours.apply(v, x, False))(variables, x)
    with torch.no_grad():
        assert relative_error(features["embedding"], net(torch_input(x))) < 1e-4


@pytest.mark.parametrize("depth", [18, 50])
def test_moco_v2_embeddings_equal_torch(tmp_path, depth):
    net = moco_v2(depth)
    path = tmp_path / "a.pth.tar"
    torch.save(torch_nets.moco_checkpoint(net), path, _use_new_zipfile_serialization=False)
    recognised = weights.recognise(path)
    features = BASE * 8 * (4 if depth >= 50 else 1)
    assert described(recognised) == ("resnet", f"resnet{depth}", OPTIONS, Head(features, DIM, 2, False))
    head = ProjectionHead(hidden=recognised.head.hidden, dim=recognised.head.dim)
    ours = models.Joined(models.create(recognised.arch, **recognised.options), {"head": head})
    check_parity(net, path, ours)


def seed_checkpoint(student, teacher):
    state = torch_nets.prefixed("module.student.", student) | torch_nets.prefixed("module.teacher.", teacher)
    state |= {
        "module.queue": torch.zeros(2, 8),
        "module.queue_ptr": torch.zeros(1),
        "module.small_queue": torch.zeros(2),
    }
    return {"epoch": 1, "state_dict": state}


def head_of(kind):
    return {
        "moco v1": {"fc": torch.nn.Linear(64, DIM)},
        "swav": {"projection_head": torch_nets.mlp(64, 32, DIM, batch_norm=True)},
        "swav w5": {"projection_head": torch_nets.mlp(64, 32, DIM)},
        "simclr": {"fc": torch_nets.mlp(64, 64, DIM, batch_norm=True)},
        "classifier": {"fc": torch.nn.Linear(64, 10)},
    }[kind]


@pytest.mark.parametrize(
    ("kind", "wrap", "head"),
    [
        ("moco v1", lambda n: torch_nets.moco_checkpoint(n), Head(None, DIM, 1, False)),
        (
            "swav",
            lambda n: torch_nets.prefixed("module.", n) | {"module.prototypes.weight": torch.ones(3, DIM)},
            Head(32, DIM, 2, True),
        ),
        ("swav w5", lambda n: torch_nets.prefixed("module.", n), Head(32, DIM, 2, False)),
        (
            "simclr",
            lambda n: {"model": torch_nets.prefixed("module.module.module.", n)},
            Head(64, DIM, 2, True),
        ),
    ],
)
def test_every_head_is_recognised_and_equals_torch(tmp_path, kind, wrap, head):
    net = torch_nets.randomise(torch_nets.ResNet(18, BASE, **head_of(kind)))
    torch.save(wrap(net), tmp_path / "a.pth")
    recognised = weights.recognise(tmp_path / "a.pth")
    assert described(recognised) == ("resnet", "resnet18", OPTIONS, head)
    fields = {"hidden": head.hidden, "dim": head.dim, "layers": head.layers, "batch_norm": head.batch_norm}
    check_parity(net, tmp_path / "a.pth", network(head=fields))


def test_classifier_of_a_supervised_file(tmp_path):
    net = torch_nets.randomise(torch_nets.ResNet(18, BASE, **head_of("classifier")))
    torch.save(net.state_dict(), tmp_path / "a.pth")
    recognised = weights.recognise(tmp_path / "a.pth")
    assert described(recognised) == ("resnet", "resnet18", OPTIONS | {"num_classes": 10}, None)
    ours = network(num_classes=10)
    features, _ = ours.apply(weights.load(tmp_path / "a.pth", ours), images(), False)
    assert relative_error(features["logits"], net(torch_input(images()))) < 1e-4


def test_seed_files_have_a_student_and_a_teacher(tmp_path, capsys):
    student = torch_nets.MobileNetV3Small(fc=torch_nets.mlp(1024, 1024, DIM))
    teacher = moco_v2()
    torch.save(seed_checkpoint(torch_nets.randomise(student), teacher), tmp_path / "a.pth")
    recognised = weights.recognise(tmp_path / "a.pth")
    assert described(recognised) == ("mobilenetv3", "mobilenetv3_small", {}, Head(1024, DIM, 2, False))
    ours = models.Joined(models.create("mobilenetv3_small"), {"head": ProjectionHead(dim=DIM)})
    check_parity(student, tmp_path / "a.pth", ours)
    assert weights.recognise(tmp_path / "a.pth", part="teacher").arch == "resnet18"
    check_parity(teacher, tmp_path / "a.pth", network(head=V2), part="teacher")
    for arguments, shown, other in ([], "student", "teacher"), (["--part=teacher"], "teacher", "student"):
        assert command.main(["inspect", str(tmp_path / "a.pth"), *arguments]) == 0
        words = f"a student and a teacher; this is the {shown}, --part={other} shows the other"
        assert words in capsys.readouterr().out


def test_simclr_teacher_inside_a_seed_file(tmp_path):
    net = torch_nets.randomise(torch_nets.ResNet(18, BASE, **head_of("simclr")))
    state = torch_nets.prefixed("module.teacher.module.", net)
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    assert weights.recognise(tmp_path / "a.pth", part="teacher").head == Head(64, DIM, 2, True)


def test_full_size_names_fit_the_real_architectures():
    """Every leaf of each network has a tensor, and every tensor is used."""
    for arch, net in {
        "resnet18": torch_nets.ResNet(18, 64),
        "resnet34": torch_nets.ResNet(34, 64),
        "resnet50": torch_nets.ResNet(50, 64),
        "mobilenetv3_small": torch_nets.MobileNetV3Small(fc=torch.nn.Identity()),
    }.items():
        tensors = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
        state = state_dict.of_torch("f", tensors, None)
        ours = models.Joined(models.create(arch), {})
        leaves = naming.leaves(jax.eval_shape(ours.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
        arrays, faults = loading.match(state, leaves)
        assert {path: array.shape for path, array in arrays.items()} == leaves
        assert faults == {}


def test_formats_agree_and_an_unwanted_head_is_left_out(tmp_path, moco_file):
    _, path = moco_file
    whole = weights.load(path, network(head=V2))
    flat = traverse_util.flatten_dict(whole, sep="/")
    assert all(leaf.dtype == np.float32 and leaf.flags.c_contiguous for leaf in flat.values())
    np.savez(tmp_path / "a.npz", **flat)
    again = weights.load(tmp_path / "a.npz", network(head=V2))
    jax.tree.map(np.testing.assert_array_equal, whole, again)
    assert weights.recognise(tmp_path / "a.npz") == weights.recognise(path)
    bare = weights.load(path, network())
    assert list(bare["params"]) == list(bare["batch_stats"]) == ["backbone"]
    jax.tree.map(np.testing.assert_array_equal, bare["params"]["backbone"], whole["params"]["backbone"])


def test_safetensors_have_torch_names(tmp_path, moco_file):
    save_file = pytest.importorskip("safetensors.torch").save_file
    net, path = moco_file
    save_file(net.state_dict(), tmp_path / "a.safetensors")
    jax.tree.map(
        np.testing.assert_array_equal,
        weights.load(tmp_path / "a.safetensors", network(head=V2)),
        weights.load(path, network(head=V2)),
    )


def test_half_precision_files_become_float32(tmp_path, moco_file):
    net, _ = moco_file
    state = {name: t.bfloat16() if t.is_floating_point() else t for name, t in net.state_dict().items()}
    torch.save(state, tmp_path / "a.pth")
    kernel = weights.load(tmp_path / "a.pth", network(head=V2))["params"]["backbone"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, state["conv1.weight"].float().numpy().transpose(2, 3, 1, 0))


def altered(tmp_path, net, **changes):
    state = {k: v.clone() for k, v in net.state_dict().items()} | changes
    path = tmp_path / "altered.pth"
    torch.save({k: v for k, v in state.items() if v is not None}, path)
    return path


def test_names_that_do_not_fit_are_listed(tmp_path, moco_file):
    net, _ = moco_file
    changes = {
        "bn1.weight": None,
        "layer1.0.conv3.weight": torch.ones(1, 1, 1, 1),
        "odd.thing": torch.ones(1),
        "fc.2.weight": torch.ones(5, 64),
    }
    with pytest.raises(UserError) as error:
        weights.load(altered(tmp_path, net, **changes), network(head=V2))
    text = str(error.value)
    assert text.startswith(str(tmp_path))
    assert "1 missing: bn1.weight" in text
    assert "2 unexpected: layer1.0.conv3.weight, odd.thing" in text
    assert "1 of another shape: fc.2.weight (5, 64) instead of (16, 64)" in text
    assert "the closest is resnet" in text


@pytest.mark.parametrize(
    ("arch", "head"), [("resnet34", V2), ("resnet50", V2), ("resnet18", {"hidden": 32, "dim": DIM})]
)
def test_an_error_names_the_network_in_the_file(moco_file, arch, head):
    _, path = moco_file
    with pytest.raises(
        UserError,
        match=r"^/.*the network in the file, resnet18, width=0\.125 with .*hidden=64",
    ):
        weights.load(path, network(arch, head))


def test_a_head_that_the_file_lacks_is_missing(tmp_path):
    torch.save(torch_nets.ResNet(18, BASE).state_dict(), tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"4 missing: fc\.0\.bias, .* without a projection head"):
        weights.load(tmp_path / "a.pth", network(head=V2))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tmp_path, moco_file, value):
    net, _ = moco_file
    path = altered(tmp_path, net, **{"bn1.bias": torch.full((BASE,), value)})
    with pytest.raises(UserError, match="params/backbone/bn1/bias in .*NaN"):
        weights.load(path, network(head=V2))


def test_a_missing_file_names_the_key_the_public_file_and_the_override(tmp_path):
    with pytest.raises(UserError) as error:
        weights.load(tmp_path / "none.pth", network(), where="teacher.weights")
    for words in (
        "teacher.weights: ",
        "moco_v2_800ep_pretrain.pth.tar",
        "a04e12f8",
        "--config.teacher.weights=",
    ):
        assert words in str(error.value)


def test_an_error_about_an_argument_does_not_mention_configs(tmp_path):
    with pytest.raises(UserError, match=r"^There is no file or workdir '.*none.pth': use the path") as error:
        weights.recognise(tmp_path / "none.pth")
    assert "--config" not in str(error.value) and "moco" not in str(error.value)


def test_a_missing_run_of_a_packaged_config_names_the_command_that_trains_it(tmp_path):
    teacher = tmp_path / "digits_classifier"
    with pytest.raises(UserError) as error:
        weights.recognise(teacher, where="teacher.weights")
    command = f"train it with `python main.py --config=digits_classifier --workdir={teacher}`"
    assert str(error.value) == f"teacher.weights: there is no file or workdir '{teacher}': {command}."


def test_files_of_no_known_family(tmp_path):
    torch.save({"blocks.0.weight": torch.ones(2)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"known family \(resnet, .*vit, .*shufflenet\).*blocks\.0\.weight"):
        weights.recognise(tmp_path / "a.pth")
    np.savez(tmp_path / "a.npz", x=np.ones(2))
    with pytest.raises(UserError, match="known family"):
        weights.recognise(tmp_path / "a.npz")


@pytest.mark.parametrize("module", ["backbone/conv1", "head/linear1", "backbone/block1/attn/qkv"])
def test_unknown_leaves_under_our_own_names(tmp_path, module):
    flat = traverse_util.flatten_dict(loading.shapes(network(head=V2)), sep="/")
    arrays = {name: np.ones(leaf.shape, np.float32) for name, leaf in flat.items()}
    np.savez(tmp_path / "a.npz", **arrays, **{f"params/{module}/k\xfcrnel": np.ones(2, np.float32)})
    with pytest.raises(UserError, match="a.npz has no network of a known family"):
        weights.recognise(tmp_path / "a.npz")


def test_the_same_tensor_twice(tmp_path):
    torch.save({"module.conv1.weight": torch.ones(2), "conv1.weight": torch.ones(2)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="several prefixes"):
        weights.recognise(tmp_path / "a.pth")


def test_torch_is_not_imported(moco_file):
    _, path = moco_file
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from seed_jax.weights import recognise\n"
        f"print(recognise({str(path)!r}).arch)"
    )
    root = pathlib.Path(seed_jax.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "resnet18", done.stderr


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"weights")
    assert weights.sha256(tmp_path / "a") == hashlib.sha256(b"weights").hexdigest()
