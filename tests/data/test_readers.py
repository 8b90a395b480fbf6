import io
import itertools
import multiprocessing
import os
import pickle
import select
import signal
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from jax._src import xla_bridge
from PIL import Image
from test_tfds import write_tfds

from seed_jax.data import pack, readers
from seed_jax.data.sources import Arrays, open_source
from seed_jax.errors import UserError


def powers(share):
    """Endless elements: large, small, empty and transposed arrays, and whether JAX has started a backend."""
    for n in itertools.count():
        large = np.arange(6000, dtype=np.float64).reshape(60, 100).T * n + share
        device = xla_bridge.backends_are_initialized()
        yield {"large": large, "double": 2 * large, "none": large[:0], "n": n, "device": device}


class Table:
    """Reads its share of an array that all workers share."""

    def __init__(self, array):
        self.array = array

    def __call__(self, share):
        while True:
            yield self.array[share]


def fails(share):
    yield share
    raise UserError(f"share {share} is no good") if share == 1 else KeyError("a mistake")


def test_elements_arrive_in_step_whether_or_not_they_fit():
    elements = readers.in_step(powers, [10, 20], 60_000)  # room for one of the two large arrays
    for n in range(3):
        for share, element in zip([10, 20], next(elements), strict=True):
            expected = np.arange(6000).reshape(60, 100).T * n + share
            np.testing.assert_array_equal(element["large"], expected)
            np.testing.assert_array_equal(element["double"], 2 * expected)
            assert (element["n"], element["none"].shape, element["device"]) == (n, (0, 60), False)
    elements.close()
    assert not multiprocessing.active_children()


def test_the_pickle_of_the_task_has_no_arrays(monkeypatch):
    sizes, dump = [], readers._dump

    def spy(*args):
        data, places = dump(*args)
        sizes.append(len(data))
        return data, places

    monkeypatch.setattr(readers, "_dump", spy)
    table = np.arange(2_000_000)
    elements = readers.in_step(Table(table), [slice(5, 9)], 100)
    np.testing.assert_array_equal(next(elements), [[5, 6, 7, 8]])
    elements.close()
    assert sizes[0] < 1000


def png(grey):
    out = io.BytesIO()
    Image.new("RGB", (5, 5), (grey, 0, 0)).save(out, "PNG")
    return out.getvalue()


def folder(path):
    for n in range(3):
        (path / f"{n}.png").write_bytes(png(n))
    return open_source("folder", "all", dir=str(path))


def webdataset(path):
    folder(path)
    with tarfile.open(path / "x.tar", "w") as tar:
        for n in range(3):
            tar.add(path / f"{n}.png", f"{n}.png")
    return open_source("webdataset", "all", dir=str(path / "x.tar"))


def arrayrecord(path):
    pack.pack(Arrays("noise", np.zeros((3, 5, 5, 3), np.uint8), None), path / "packed")
    return open_source("arrayrecord", "all", dir=str(path / "packed"))


def tfds(path):
    write_tfds(path, [(png(n), n) for n in range(3)])
    return open_source("tfds:cifar10", "train", dir=str(path))


@pytest.mark.parametrize("kind", [folder, webdataset, arrayrecord, tfds])
def test_sources_are_pickled_without_open_files(tmp_path, kind):
    source = kind(tmp_path)
    before = [source[n] for n in range(3)]  # opens every file that is opened late
    arrays = []
    data = pickle.dumps(source, protocol=5, buffer_callback=arrays.append)
    assert len(data) < 20_000
    again = pickle.loads(data, buffers=arrays)
    assert [again[n] for n in range(3)] == before


def test_the_parent_raises_a_workers_user_error():
    elements = readers.in_step(fails, [1], 100)
    assert next(elements) == [1]
    with pytest.raises(UserError, match="share 1 is no good"):
        next(elements)
    assert not multiprocessing.active_children()


def test_another_error_is_printed_and_ends_the_run(capfd):
    elements = readers.in_step(fails, [2], 100)
    next(elements)
    with pytest.raises(UserError, match="failed with exit code 1"):
        next(elements)
    assert "KeyError: 'a mistake'" in capfd.readouterr().err


def test_a_killed_worker_ends_the_run():
    elements = readers.in_step(powers, [10, 20], 100_000)
    next(elements)
    victim, _ = multiprocessing.active_children()
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    with pytest.raises(
        UserError, match=r"killed by SIGKILL, as the system does when memory runs out: .*workers"
    ):
        next(elements)
    assert not multiprocessing.active_children()


SCRIPT = """
import multiprocessing, os, signal, sys
from concurrent.futures import ThreadPoolExecutor
from seed_jax.data.pipeline import ViewSpec, train_batches
from seed_jax.data.sources import open_source

def main():
    got = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: got.append(number))
    batches = train_batches(open_source("digits", "train"), (ViewSpec(size=8),), 8, 0, workers=2)
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(next, batches)
        while len(multiprocessing.active_children()) < 2:  # they have not yet run any of our code
            pass
        os.killpg(0, signal.SIGTERM)
        first.result()
    os.killpg(0, signal.SIGINT)
    next(batches)
    assert set(got) == {signal.SIGINT, signal.SIGTERM}
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    sys.stdin.readline()
    globals()["kept"] = batches  # not closed
    if sys.argv[1] == "raise":
        raise KeyError("a mistake")

if __name__ == "__main__":
    main()
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux")
@pytest.mark.parametrize("end", ["raise", "SIGKILL"])
def test_workers_survive_signals_to_the_group_and_end_with_the_parent(tmp_path, end):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, script, end],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as parent:
        line = parent.stdout.readline()
        assert line, parent.stderr.read()
        ends = [os.pidfd_open(int(pid)) for pid in line.split()]
        assert len(ends) == 2
        if end == "SIGKILL":
            parent.kill()
        _, error = parent.communicate("go\n")
    assert parent.returncode == (1 if end == "raise" else -signal.SIGKILL), error
    for fd in ends:
        assert select.select([fd], [], [], 60)[0]  # a pidfd is readable when its process has ended
        os.close(fd)
