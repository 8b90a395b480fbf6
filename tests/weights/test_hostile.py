"""Hostile and damaged files: reading one gives arrays or one clear sentence, in bounded memory."""

import json
import os
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from flax import traverse_util
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seed_jax import models, weights
from seed_jax.errors import UserError
from seed_jax.weights import array_files, loading

torch = pytest.importorskip("torch")
import torch_nets  # noqa: E402

NETWORK = models.Joined(models.create("resnet18", width=0.125), {})


def state():
    return {name: tensor for name, tensor in torch_nets.ResNet(18, 8).state_dict().items() if tensor.ndim}


def write(path, tensors):
    """Write a file in the format of the path's suffix."""
    if path.suffix == ".safetensors":
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        metadata = {
            "arch": "resnet18",
            "options": '{"width": 0.125}',
            "mean": "[0,0,0]",
            "std": "[1,1,1]",
            "size": "32",
        }
        prepared = {"resize": "1.0", "interpolation": "bicubic"}
        array_files.write_safetensors(path, arrays, {"seed_jax": "0", **metadata, **prepared})
    elif path.suffix == ".npz":
        flat = traverse_util.flatten_dict(loading.shapes(NETWORK), sep="/")
        np.savez(path, **{name: np.ones(leaf.shape, np.float32) for name, leaf in flat.items()})
    else:
        torch.save({"state_dict": tensors}, path, _use_new_zipfile_serialization=path.suffix == ".pth")
    return path


@pytest.fixture(scope="module", params=["a.pth", "a.tar", "a.safetensors", "a.npz"])
def victim(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("hostile") / request.param
    good = write(path, state()).read_bytes()
    weights.load(path, NETWORK)
    return path, good


@settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
@given(st.data())
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # escapes in old pickles
def test_mutated_files_give_arrays_or_one_sentence(victim, data):
    path, good = victim
    content = bytearray(good)
    # Mutate near the ends, where the headers are; the numbers between them may have any value.
    place = st.one_of(st.integers(0, min(len(good), 4000)), st.integers(max(0, len(good) - 4000), len(good)))
    for _ in range(data.draw(st.integers(1, 5))):
        where = min(data.draw(place), len(content))
        match data.draw(st.sampled_from(["flip", "insert", "delete", "cut"])):
            case "flip" if where < len(content):
                content[where] ^= data.draw(st.integers(1, 255))
            case "insert":
                content[where:where] = data.draw(st.binary(min_size=1, max_size=9))
            case "delete":
                del content[where : where + data.draw(st.integers(1, 9))]
            case "cut":
                del content[where:]
    path.write_bytes(content)
    tracemalloc.start()
    try:
        recognised = weights.recognise(path)
        assert isinstance(recognised.arch, str)
        weights.load(path, NETWORK)
    except UserError as error:
        assert str(path) in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2**23 + 20 * len(content)


def test_a_gigabyte_claimed_by_a_kilobyte(tmp_path):
    claim = {"conv1.weight": {"dtype": "F32", "shape": [2**28], "data_offsets": [0, 2**30]}}
    head = json.dumps(claim).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + bytes(900))
    (tmp_path / "b.safetensors").write_bytes(struct.pack("<Q", 2**30) + head)
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (268435456,), }\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("w.npy", b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(900))
    for path in tmp_path.iterdir():
        tracemalloc.start()
        with pytest.raises(UserError, match=str(path)):
            weights.recognise(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**22


def test_big_endian_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", w=np.ones(3, ">f4"))
    with pytest.raises(UserError, match="little-endian"):
        weights.recognise(tmp_path / "a.npz")


@pytest.mark.parametrize("suffix", [".pth", ".tar", ".safetensors"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite(tmp_path, suffix, value):
    tensors = state()
    tensors["layer3.0.bn2.running_var"][5] = value
    path = tmp_path / f"a{suffix}"
    if suffix == ".safetensors":
        array_files.write_safetensors(path, {name: tensor.numpy() for name, tensor in tensors.items()}, {})
    else:
        write(path, tensors)
    network = weights.recognise(path).network()
    with pytest.raises(UserError, match=r"layer3_0/bn2/var in .* has NaN or infinite values"):
        weights.load(path, network)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_read_exactly(tmp_path, dtype):
    save_file = pytest.importorskip("safetensors.torch").save_file
    tensors = {name: tensor.to(getattr(torch, dtype)) for name, tensor in state().items()}
    save_file(tensors, tmp_path / "a.safetensors")
    torch.save(tensors, tmp_path / "a.pth")
    for path in tmp_path.iterdir():
        read = weights.load(path, weights.recognise(path).network())
        kernel = read["params"]["backbone"]["layer4_1"]["conv2"]["kernel"]
        expected = tensors["layer4.1.conv2.weight"].float().numpy().transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(kernel, expected, strict=True)


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_no_reader_runs_code_in_a_checkpoint(tmp_path):
    path, proof = tmp_path / "a.pth", tmp_path / "proof"
    torch.save({"state_dict": state(), "epoch": Touch(proof)}, path)
    assert weights.recognise(path).arch == "resnet18"
    weights.load(path, NETWORK)
    assert not proof.exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_error_says_how_to_convert_torchscript(tmp_path):
    path = tmp_path / "ViT-B-16.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    with pytest.raises(UserError, match=r"TorchScript archive.*torch\.jit\.load\('.*ViT-B-16\.pt', 'cpu'\)"):
        weights.recognise(path)
