import argparse
import collections
import datetime
import decimal
import enum
import functools
import io
import os
import pathlib
import pickle
import random
import struct
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seed_jax.errors import UserError
from seed_jax.weights import torch_file

torch = pytest.importorskip("torch")


def save(path, content, legacy=False):
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def many_kinds():
    base = torch.arange(24, dtype=torch.float32)
    dtypes = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int16, torch.uint8, torch.bool)
    state = {str(dtype): torch.tensor([[0, 1, 2], [3, 4, 5]]).to(dtype) for dtype in dtypes}
    return state | {
        "whole": base,
        "slice": base[5:11],
        "transposed": base.view(4, 6).t(),
        "every second": base.view(4, 6)[:, ::2],
        "parameter": torch.nn.Parameter(torch.randn(3, 2)),
        "number": torch.tensor(3),
        "empty": torch.zeros(0, 4),
        "nan": torch.tensor([float("nan"), -0.0]),
    }


@pytest.mark.parametrize("legacy", [False, True])
def test_every_kind_of_tensor_comes_back_bitwise(tmp_path, legacy):
    state = many_kinds()
    read = torch_file.read(save(tmp_path / "a.pth", state, legacy))
    assert list(read) == list(state)
    for name, tensor in state.items():
        tensor = tensor.detach()
        assert read[name].shape == tuple(tensor.shape)
        assert str(read[name].dtype) == str(tensor.dtype).removeprefix("torch.")
        expected = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        assert read[name].tobytes() == expected, name
        assert not read[name].flags.writeable or 0 in read[name].shape


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_other_objects_of_training_scripts_are_skipped(tmp_path, legacy, key):
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))  # has OrderedDict._metadata
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    content = {
        key: net.state_dict(),
        "epoch": 3,
        "best": 0.5,
        "none": None,
        "options": argparse.Namespace(lr=1),
    }
    content |= {
        "optimizer": optimizer.state_dict(),
        "sizes": [torch.Size([1, 2]), torch.float32, (1, True, "x")],
    }
    read = torch_file.read(save(tmp_path / "a.pth", content, legacy))
    assert list(read) == list(net.state_dict())
    np.testing.assert_array_equal(read["0.weight"], net[0].weight.detach().numpy())


def test_newer_pickle_protocols(tmp_path):
    torch.save(many_kinds(), tmp_path / "a.pth", pickle_protocol=4)
    np.testing.assert_array_equal(torch_file.read(tmp_path / "a.pth")["whole"], np.arange(24))


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_foreign_code_is_skipped_and_not_run(tmp_path, legacy):
    proof = tmp_path / "proof"
    path = save(tmp_path / "a.pth", {"w": torch.ones(2), "x": Hostile(proof), "y": [Hostile(proof)]}, legacy)
    assert list(torch_file.read(path)) == ["w"]
    assert not proof.exists()


class CfgNode(dict):
    """yacs's class: a dict with attributes."""

    def __init__(self, entries):
        super().__init__(entries)
        self.__dict__["__immutable__"] = True


class Meter:
    """An object that must not be made, and whose state must not be set."""

    def __init__(self):
        self.values = {"loss": [0.5]}

    def __setstate__(self, state):
        raise AssertionError("a method of a class in the file was called")


class Phase(enum.Enum):
    WARM_UP = 1


def of_a_training_script():
    """What scripts save next to the weights."""
    return {
        "epoch": np.int64(3),
        "arch": "resnet50",
        "args": argparse.Namespace(lr=0.03, schedule=[120, 160], device=torch.device("cuda:0")),
        "config": CfgNode({"MODEL": CfgNode({"DEPTH": 50})}),
        "best_acc": np.float64(67.5),
        "history": collections.defaultdict(list, {"loss": [np.float32(0.5)], (1, 2): [], 0.5: [], None: []}),
        "counts": collections.Counter("seed"),
        "seen": {1, 2},
        "frozen": frozenset({"fc"}),
        "dtype": torch.float8_e5m2,
        "rng": [random.getstate(), np.random.default_rng(0).bit_generator.state, np.arange(3)],
        "meter": Meter(),
        "phase": Phase.WARM_UP,
        "activation": functools.partial(torch.nn.functional.gelu, approximate="tanh"),
        "function": torch.nn.functional.relu,
        "method": torch.nn.Linear(2, 2).forward,
        "path": pathlib.PurePosixPath("/data/imagenet"),
        "time": datetime.datetime(2020, 3, 4),
        "values": (slice(1, 2), 2j, b"bytes", bytearray(b"bytes"), 10**30, range(3), decimal.Decimal(1)),
        "queue": torch.ones(2, dtype=torch.complex64),
        "model_ema": torch.nn.Linear(2, 2),
    }


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
def test_checkpoints_of_training_scripts(tmp_path, legacy, protocol, monkeypatch):
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    content = of_a_training_script() | {"state_dict": net.state_dict()}
    path = tmp_path / "a.pth"
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    names = [__name__, "functools", "pathlib", "numpy", "datetime"]
    for name in {*names, "numpy._core.multiarray"}:
        monkeypatch.setitem(sys.modules, name, None)  # importing them would fail
    read = torch_file.read(path)
    monkeypatch.undo()
    assert list(read) == list(net.state_dict())
    np.testing.assert_array_equal(read["0.weight"], net[0].weight.detach().numpy())


class AsPairs:
    """Pickled as Python 2 pickles an OrderedDict."""

    def __init__(self, entries):
        self.entries = entries

    def __reduce__(self):
        return collections.OrderedDict, ([[key, value] for key, value in self.entries.items()],)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("key", ["state_dict", None])
@pytest.mark.parametrize(
    "wrap",
    [
        collections.OrderedDict,
        lambda entries: collections.defaultdict(list, entries),
        collections.Counter,
        CfgNode,
        AsPairs,
    ],
)
def test_tensors_in_dicts_of_other_classes(tmp_path, wrap, key, legacy):
    entries = {"a": torch.arange(3), "b": torch.ones(2)}
    content = {key: wrap(entries), "epoch": 1} if key else wrap(entries)
    read = torch_file.read(save(tmp_path / "a.pth", content, legacy))
    assert list(read) == ["a", "b"]
    np.testing.assert_array_equal(read["a"], np.arange(3))


class Subclass(torch.Tensor):
    pass


def test_parameters_with_attributes(tmp_path):
    parameter, tensor = torch.nn.Parameter(torch.ones(2)), torch.ones(3)
    parameter.no_decay = tensor.no_decay = True
    state = {"parameter": parameter, "tensor": tensor, "subclass": torch.ones(4).as_subclass(Subclass)}
    read = torch_file.read(save(tmp_path / "a.pth", state))
    assert {name: array.shape for name, array in read.items()} == {
        "parameter": (2,),
        "tensor": (3,),
        "subclass": (4,),
    }


def with_attribute(tensor):
    tensor.no_decay = True
    return tensor


@pytest.mark.parametrize(
    ("unreadable", "says"),
    [
        (torch.ones(2, dtype=torch.complex64), "complex64"),
        (torch.ones(2, 2).to_sparse(), r"torch\._utils\._rebuild_sparse_tensor"),
        (torch.ones(2, device="meta"), r"torch\._utils\._rebuild_meta_tensor_no_storage"),
        (with_attribute(torch.ones(2, device="meta")), r"torch\._tensor\._rebuild_from_type_v2"),
        (torch.ones(2).to(torch.uint16), r"torch\._utils\._rebuild_tensor_v3"),
    ],
)
def test_only_a_tensor_of_the_state_dict_must_be_readable(tmp_path, unreadable, says):
    content = {
        "state_dict": {"w": torch.ones(2)},
        "optimizer": {"x": unreadable},
        "teacher": {"x": unreadable},
    }
    assert list(torch_file.read(save(tmp_path / "a.pth", content))) == ["w"]
    content["state_dict"]["x"] = unreadable
    with pytest.raises(UserError, match=rf"a\.pth .*its tensor x is a {says}"):
        torch_file.read(save(tmp_path / "a.pth", content))


def test_a_file_that_cannot_be_opened(tmp_path):
    with pytest.raises(UserError, match="directory"):
        torch_file.read(tmp_path)


def test_a_pickled_module_is_refused_by_name(tmp_path):
    path = save(tmp_path / "a.pth", torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"class torch\.nn\.modules\.linear\.Linear instead of a state dict"):
        torch_file.read(path)


class LegacyPickler(pickle.Pickler):
    """Write a `("persistent", storage type, key, numel)` tuple as torch's persistent id of a storage."""

    def persistent_id(self, obj):
        if isinstance(obj, tuple) and obj[:1] == ("persistent",):
            _, storage_type, key, numel = obj
            return ("storage", storage_type, key, "cuda:0", numel, None)
        return None


class FakeTensor:
    def __init__(self, *args):
        self.args = args

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (*self.args, False, collections.OrderedDict())


def legacy_bytes(tree, keys, storages, little_endian=True):
    out = io.BytesIO()
    for head in (torch_file.MAGIC, torch_file.PROTOCOL, {"little_endian": little_endian}):
        pickle.dump(head, out, protocol=2)
    LegacyPickler(out, protocol=2).dump(tree)
    pickle.dump(keys, out, protocol=2)
    for numel, data in storages:
        out.write(struct.pack("<q", numel) + data)
    return out.getvalue()


def legacy_tensor(numel=4, offset=0, shape=(2, 2), strides=(2, 1)):
    return {"w": FakeTensor(("persistent", torch.FloatStorage, "7", numel), offset, shape, strides)}


DATA = np.arange(4, dtype="<f4").tobytes()


def test_hand_written_legacy_file(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(legacy_bytes(legacy_tensor(strides=(1, 2)), ["7"], [(4, DATA)]))
    np.testing.assert_array_equal(torch_file.read(path)["w"], [[0, 2], [1, 3]])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (legacy_bytes(legacy_tensor(2**40), ["7"], [(2**40, DATA)]), "outside the file"),
        (legacy_bytes(legacy_tensor(2**63), ["7"], [(4, DATA)]), "invalid size"),
        (legacy_bytes(legacy_tensor(), ["7"], [(5, DATA)]), "not the 4"),
        (legacy_bytes(legacy_tensor(), ["7"], [(-4, DATA)]), "not the 4"),
        (legacy_bytes(legacy_tensor(), ["7", "7"], [(4, DATA)]), "storages"),
        (legacy_bytes(legacy_tensor(), ["8"], [(4, DATA)]), "storages"),
        (legacy_bytes(legacy_tensor(), 3, [(4, DATA)]), "storages"),
        (legacy_bytes(legacy_tensor(offset=1), ["7"], [(4, DATA)]), "beyond its storage"),
        (legacy_bytes(legacy_tensor(strides=(3, 1)), ["7"], [(4, DATA)]), "beyond its storage"),
        (legacy_bytes(legacy_tensor(strides=(-1, 1)), ["7"], [(4, DATA)]), "shape is invalid"),
        (legacy_bytes(legacy_tensor(strides=(1,)), ["7"], [(4, DATA)]), "shape is invalid"),
        (legacy_bytes(legacy_tensor(shape=(2**40, 2), strides=(0, 0)), ["7"], [(4, DATA)]), "larger"),
        (legacy_bytes(legacy_tensor(), ["7"], [(4, DATA)], little_endian=False), "byte order"),
        (legacy_bytes({"w": 3}, [], []), "no dict of tensors"),
        (legacy_bytes([1, 2], [], []), "no dict of tensors"),
        (b"", "empty"),
        (b"hello, I am a web page that says 404", "neither a zip"),
        (pickle.dumps(1), "neither"),
        (b"PK\3\4" + bytes(50), "zip"),
    ],
)
def test_broken_files_are_refused_without_allocating(tmp_path, content, says):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(UserError, match=f"{path} .*{says}"):
        torch_file.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


def rezip(path, out, change, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", compression) as new:
        for name in old.namelist():
            data = change(name.partition("/")[2], old.read(name))
            if data is not None:
                new.writestr(name, data)
    return out


@pytest.mark.parametrize(
    ("change", "compression", "says"),
    [
        (lambda name, data: data, zipfile.ZIP_DEFLATED, "compressed"),
        (lambda name, data: b"big" if name == "byteorder" else data, zipfile.ZIP_STORED, "byte order"),
        (lambda name, data: None if name == "data/0" else data, zipfile.ZIP_STORED, "storage '0' is missing"),
        (lambda name, data: data[:-4] if name == "data/0" else data, zipfile.ZIP_STORED, "storage '0' is"),
        (lambda name, data: None if name == "data.pkl" else data, zipfile.ZIP_STORED, "no data.pkl"),
    ],
)
def test_altered_archives(tmp_path, change, compression, says):
    path = rezip(save(tmp_path / "a.pth", many_kinds()), tmp_path / "b.pth", change, compression)
    with pytest.raises(UserError, match=says):
        torch_file.read(path)


def test_an_archive_packed_again_without_compression_reads_the_same(tmp_path):
    path = save(tmp_path / "a.pth", {"w": torch.arange(9.0)})
    again = rezip(path, tmp_path / "b.pth", lambda name, data: data)
    np.testing.assert_array_equal(torch_file.read(again)["w"], np.arange(9))


@pytest.fixture(scope="module", params=[False, True], ids=["zip", "legacy"])
def victim(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    state = {"state_dict": {"w": torch.randn(2, 3), "b": torch.zeros(2).half()}, "epoch": 1}
    return save(folder / "good.pth", state, request.param).read_bytes(), folder / "bad.pth"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # the standard library's, for escapes in old strings
def test_mutated_files_are_read_or_refused(victim, data):
    good, path = victim
    content = bytearray(good)
    places = st.tuples(st.integers(0, len(good) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(places, max_size=8)):
        content[place] = value
    cut = data.draw(st.none() | st.integers(0, len(good)))
    path.write_bytes(content[:cut])
    try:
        read = torch_file.read(path)
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert all(isinstance(array, np.ndarray) for array in read.values())
