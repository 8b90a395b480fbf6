import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Tests neither read nor write the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    folder.rmdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def bucket(monkeypatch):
    """A gs:// bucket in memory, through etils."""
    memory = pytest.importorskip("fsspec.implementations.memory")
    from etils.epath import backend

    class Bucket(memory.MemoryFileSystem):
        store, pseudo_dirs = {}, [""]

        @classmethod
        def _strip_protocol(cls, path):
            return "/" + str(path).removeprefix("gs://").strip("/")

    fake = Bucket(skip_instance_cache=True)
    monkeypatch.setattr(type(backend.fsspec_backend), "fs", lambda self, path: fake)
    return fake


@pytest.fixture
def pets(tmp_path):
    """23 images in two classes and two splits, of several formats and sizes."""
    for n in range(23):
        noise = np.random.default_rng(n).integers(0, 256, (30 + 3 * n, 40, 3), np.uint8)
        folder = tmp_path / "pets" / ("val" if n % 5 == 0 else "train") / ("dog" if n % 2 else "cat")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(folder / f"{n:02}.{('jpg', 'png', 'webp')[n % 3]}")
    return tmp_path / "pets"


@pytest.fixture
def jpegs(tmp_path):
    """200 small files, of which two are broken."""
    for n in range(200):
        path = tmp_path / f"{n:03}.jpg"
        Image.new("RGB", (20, 20), (n, n, n)).save(path)
        if n in (17, 18):
            path.write_bytes(path.read_bytes()[:300])
    return tmp_path
