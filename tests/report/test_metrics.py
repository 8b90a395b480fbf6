import math
import os
import resource

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seed_jax.errors import UserError
from seed_jax.report import metrics
from seed_jax.report.metrics import MetricsWriter, last_score, read


def write(workdir, steps, **options):
    with MetricsWriter(workdir, tensorboard=False, **options) as writer:
        for step in steps:
            writer.write(step, {"loss": 1 / (1 + step)})


def test_round_trip(tmp_path):
    with MetricsWriter(tmp_path / "new", tensorboard=False) as writer:
        writer.write(1, {"loss": jnp.float32(0.1), "lr": np.float64(3e-300)})
        writer.write(np.int64(2), {"knn/10": 1})
    assert read(tmp_path / "new") == [
        {"step": 1, "loss": float(np.float32(0.1)), "lr": 3e-300},
        {"step": 2, "knn/10": 1.0},
    ]


def test_nan_and_infinity_are_valid_json(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(1, {"loss": math.nan, "norm": math.inf})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": null, "norm": null}\n'
    assert all(math.isnan(read(tmp_path)[0][name]) for name in ("loss", "norm"))
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.truncate(1)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": null, "norm": null}\n'


def test_each_line_is_on_disk_at_once(tmp_path):
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.write(3, {"loss": 1.0})
    assert read(tmp_path) == [{"step": 3, "loss": 1.0}]
    writer.close()


def test_resume_drops_the_lines_after_the_checkpoint(tmp_path):
    write(tmp_path, range(10))
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.truncate(6)
        writer.write(7, {"loss": 7.0})
    assert [row["step"] for row in read(tmp_path)] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@settings(deadline=None)
@given(cut=st.integers(0, 200))
def test_a_run_killed_at_any_byte_can_go_on(tmp_path_factory, cut):
    workdir = tmp_path_factory.mktemp("run")
    write(workdir, range(6))
    path = workdir / "metrics.jsonl"
    whole = path.read_bytes()[:cut]
    path.write_bytes(whole)
    complete = whole.count(b"\n")
    assert [row["step"] for row in read(path)] == list(range(complete))
    write(workdir, [complete])
    assert [row["step"] for row in read(path)] == list(range(complete + 1))


@pytest.mark.parametrize(
    "line", ['{"st', "7", "[1]", "null", '{"loss": 1}', '{"step": "a"}', '{"step": null}']
)
def test_a_damaged_line_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(UserError, match="line 2 is not a line of metrics .*: remove it"):
        read(tmp_path)
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n\xff\n')
    with pytest.raises(UserError, match="metrics.jsonl cannot be read"):
        read(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        read(tmp_path / "nowhere.jsonl")


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics.jax, "process_index", lambda: 1)
    with MetricsWriter(tmp_path / "run") as writer:
        writer.write(1, {"loss": 1.0})
        writer.truncate(0)
    assert not (tmp_path / "run").exists()


def test_tensorboard_gets_the_same_numbers(tmp_path):
    pytest.importorskip("tensorboardX")
    with MetricsWriter(tmp_path) as writer:
        writer.write(5, {"loss": 0.25})
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"loss" in events.read_bytes()


def test_tensorboard_hides_the_steps_that_a_resumed_run_repeats(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import SessionLog

    with MetricsWriter(tmp_path) as writer:
        for step in (3, 4):
            writer.write(step, {"loss": 0.25})
    with MetricsWriter(tmp_path) as writer:
        writer.truncate(3)
    begun = [event.step for event in events(tmp_path) if event.session_log.status == SessionLog.START]
    assert begun == [4]


def events(workdir):
    """The events of all files: TFRecords of length, checksum, bytes, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted((workdir / "tensorboard").iterdir()):
        rest = path.read_bytes()
        while rest:
            length = int.from_bytes(rest[:8], "little")
            yield Event.FromString(rest[12 : 12 + length])
            rest = rest[16 + length :]


def test_truncating_at_step_0_keeps_no_old_file(tmp_path):
    write(tmp_path, [3])
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.truncate(0)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_negative_step_moves_the_lines_to_an_old_file(tmp_path):
    lines = []
    for loss in (1.0, 2.0):
        with MetricsWriter(tmp_path, tensorboard=False) as writer:
            writer.write(1, {"loss": loss})
            lines.append(writer.path.read_text())
            writer.truncate(-1)
            assert writer.path.read_text() == ""
    assert (tmp_path / "metrics.jsonl.old").read_text() == "".join(lines)


def test_a_full_disk_is_one_sentence(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(1, {"loss": 1.0})
        written = writer.path.stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (written + 5, limits[1]))  # writing more fails
        try:
            with (
                pytest.raises(UserError, match=r"metrics.jsonl cannot be written \(File too large\)"),
                writer,
            ):
                writer.write(2, {"loss": 1.0})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [row["step"] for row in read(tmp_path)] == [1]


def test_a_file_that_cannot_be_made_or_cut_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/metrics.jsonl cannot be written .*make it writable"):
        MetricsWriter(tmp_path / "file", tensorboard=False)
    write(tmp_path, [1, 2])
    (tmp_path / f"metrics.jsonl.{os.getpid()}.tmp").mkdir()  # where the cut file would be written
    with (
        pytest.raises(UserError, match=r"metrics.jsonl cannot be written \(Is a directory\)"),
        MetricsWriter(tmp_path, tensorboard=False) as writer,
    ):
        writer.truncate(1)
    assert [row["step"] for row in read(tmp_path)] == [1, 2]


def test_the_score_is_top1_or_else_knn_of_the_last_line_that_has_one(tmp_path):
    rows = [{"step": 0, "knn": 0.1, "top1": 0.2}, {"step": 2, "knn": 0.3}, {"step": 4, "loss": 1.0}]
    assert [last_score(rows[:count]) for count in range(4)] == [None, 0.2, 0.3, 0.3]
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        for row in rows:
            writer.write(row["step"], {name: value for name, value in row.items() if name != "step"})
        assert [writer.score(step) for step in range(5)] == [0.2, None, 0.3, None, None]


def test_wandb_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install wandb"):
        MetricsWriter(tmp_path, wandb="distill")


def test_wandb_gets_the_same_numbers_and_one_id_per_workdir(tmp_path, monkeypatch):
    (tmp_path / "wandb.py").write_text(
        "import types\n"
        "calls = []\n"
        "def init(**options):\n"
        "    calls.append(options)\n"
        "    log = lambda numbers, step: calls.append((numbers, step))\n"
        "    return types.SimpleNamespace(log=log, finish=lambda: calls.append('finish'))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for _ in range(2):
        with MetricsWriter(tmp_path / "run", tensorboard=False, wandb="distill") as writer:
            writer.write(3, {"loss": 0.5})
    import wandb

    first, numbers, end, second, *_ = wandb.calls
    assert first == second and (first["project"], first["name"]) == ("distill", "run")
    assert (numbers, end) == (({"loss": 0.5}, 3), "finish")
