import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Tests neither read nor write the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    folder.rmdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def bucket(monkeypatch):
    """gs:// in memory, where etils looks for it."""
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
