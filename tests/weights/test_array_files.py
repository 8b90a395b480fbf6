import json
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seed_jax.errors import UserError
from seed_jax.weights import array_files

READERS = {"a.safetensors": array_files.read_safetensors, "a.npz": array_files.read_npz}


def arrays():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    return {"params/a/kernel": values, "b": values.T, "half": values.astype(np.float16), "n": np.float64(3)}


def safetensors_bytes(**entries):
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + np.arange(4, dtype="<f4").tobytes()


def test_safetensors_against_its_own_package(tmp_path):
    numpy_writer = pytest.importorskip("safetensors.numpy")
    written = {name: np.ascontiguousarray(array) for name, array in arrays().items()}
    numpy_writer.save_file(written, tmp_path / "a.safetensors", metadata={"format": "np"})
    read = array_files.read_safetensors(tmp_path / "a.safetensors")
    assert read.keys() == written.keys()
    for name, array in written.items():
        np.testing.assert_array_equal(read[name], array, strict=True)


def test_bfloat16(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors_bytes(w={"dtype": "BF16", "shape": [2, 4], "data_offsets": [0, 16]}))
    expected = np.frombuffer(np.arange(4, dtype="<f4").tobytes(), "<u2").astype(np.uint32) << 16
    np.testing.assert_array_equal(
        array_files.read_safetensors(path)["w"].astype(np.float32).ravel(), expected.view(np.float32)
    )


def test_npz_against_numpy(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays())
    read = array_files.read_npz(tmp_path / "a.npz")
    for name, array in arrays().items():
        np.testing.assert_array_equal(read[name], array, strict=True)
    assert read.keys() == arrays().keys()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 10**5) + b"[" * 10**5,
        safetensors_bytes(w={"dtype": "F32", "shape": [4], "data_offsets": [4, 20]}),
        safetensors_bytes(w={"dtype": "F32", "shape": [4], "data_offsets": [-4, 12]}),
        safetensors_bytes(w={"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}),
        safetensors_bytes(w={"dtype": "F32", "shape": [-2, -2], "data_offsets": [0, 16]}),
        safetensors_bytes(w={"dtype": "F32", "shape": "4", "data_offsets": [0, 16]}),
        safetensors_bytes(w={"dtype": "X", "shape": [4], "data_offsets": [0, 16]}),
        safetensors_bytes(w=3),
        safetensors_bytes(w={"dtype": "F32"}),
    ],
)
def test_broken_safetensors(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path} "):
        array_files.read_safetensors(path)


@pytest.mark.parametrize("value", [np.array([{}], object), np.array(["a"]), np.ones(2, "c8")])
def test_npz_of_other_dtypes(tmp_path, value):
    np.savez(tmp_path / "a.npz", w=value)
    with pytest.raises(UserError, match="does not contain real numbers"):
        array_files.read_npz(tmp_path / "a.npz")


def test_compressed_npz(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", w=np.zeros(1000))
    with pytest.raises(UserError, match="compressed"):
        array_files.read_npz(tmp_path / "a.npz")


@pytest.fixture(scope="module", params=READERS)
def victim(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / request.param
    if request.param == "a.npz":
        np.savez(path, **arrays())
    else:
        path.write_bytes(safetensors_bytes(w={"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}))
    return READERS[request.param], path, path.read_bytes()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_mutated_files_are_read_or_refused(victim, data):
    read, path, good = victim
    content = bytearray(good)
    places = st.tuples(st.integers(0, len(good) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(places, max_size=6)):
        content[place] = value
    path.write_bytes(content[: data.draw(st.none() | st.integers(0, len(good)))])
    try:
        assert all(isinstance(array, np.ndarray) for array in read(path).values())
    except UserError as error:
        assert str(path) in str(error)
