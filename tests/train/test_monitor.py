"""Windows of metrics, and the check that they are finite."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from seed_jax.data import rng
from seed_jax.data.pipeline import BadImages
from seed_jax.data.sources import open_source
from seed_jax.errors import UserError
from seed_jax.report.metrics import MetricsWriter, read
from seed_jax.train import monitor as monitor_lib
from seed_jax.train.monitor import Monitor


@pytest.fixture
def make(tmp_path):
    writer = MetricsWriter(tmp_path, tensorboard=False)
    bad = BadImages(open_source("digits", "val"))
    made = []

    def monitor(start=0, steps=10, every=3, earlier=None, notice=lambda means: ""):
        options = {"start": start, "steps": steps, "steps_per_epoch": 4, "every": every, "batch_size": 4}
        options |= {"earlier": earlier or {}, "notice": notice}
        made.append(Monitor(writer, bad, name="test", **options))
        return made[-1]

    yield monitor
    for each in made:
        each.close()
    writer.close()


def metrics(loss=0.0, bad=0):
    return {"loss": jnp.float32(loss), "lr": jnp.float32(0.1), "bad_images": jnp.int32(bad)}


def samples(ids=(1, 2, 3, 4), bad=()):
    return {"id": rng.split_id(np.array(ids)), "bad": np.array([*bad, *[-1] * (4 - len(bad))], np.int32)}


def note(monitor, step, loss, ids=(1, 2, 3, 4), bad=()):
    monitor.step(step, metrics(loss, len(bad)), samples(ids, bad), 0.0)


def test_a_line_is_the_mean_of_a_window_which_ends_at_multiples(make, tmp_path):
    monitor = make(start=4)
    for step in range(5, 12):
        note(monitor, step, step)
    monitor.flush()
    lines = [(row["step"], row["loss"]) for row in read(tmp_path)]
    assert lines == [(6, 5.5), (9, 8.0), (11, 10.5)]
    assert all(row["images_per_second"] > 0 and 0 <= row["data_wait"] <= 1 for row in read(tmp_path))


def test_a_window_is_read_only_after_the_next_step(make, tmp_path):
    monitor = make(every=1)
    note(monitor, 1, 1.0)
    assert read(tmp_path) == []
    note(monitor, 2, 2.0)
    assert [row["step"] for row in read(tmp_path)] == [1]


def test_the_first_notice_is_said_with_the_step_of_its_window(make, capsys):
    monitor = make(every=2, notice=lambda means: f"high: {means['loss']}" if means["loss"] > 2 else "")
    for step in range(1, 8):
        note(monitor, step, step)
    monitor.flush()
    said = capsys.readouterr().out
    assert "test: step 4: high: 3.5" in said and said.count("high") == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_step_that_is_not_finite_is_named_with_its_samples(make, tmp_path, value):
    monitor = make()
    note(monitor, 1, 1.0)
    note(monitor, 2, value, ids=(5, 2**33 + 1, 7, 8))
    note(monitor, 3, value)
    with pytest.raises(UserError, match=rf"not finite at step 2 \(sample ids 5, {2**33 + 1}, 7, 8"):
        monitor.flush()
    assert read(tmp_path) == []


@pytest.fixture
def clock(monkeypatch):
    """The monitor's clock, set by the test: `clock[0] = seconds`."""
    now = [0.0]
    monkeypatch.setattr(monitor_lib.time, "perf_counter", lambda: now[0])
    return now


def test_a_short_window_has_the_speed_of_a_long_one_when_data_is_slow(make, tmp_path, clock):
    """Each batch takes a second to read and none to compute: 4 images/s, and all of the time is waiting."""
    monitor = make(every=2)
    for step in (1, 2, 3):
        clock[0] = float(step)
        monitor.step(step, metrics(), samples(), 1.0)
    monitor.flush()
    assert [row["images_per_second"] for row in read(tmp_path)] == [4.0, 4.0]
    assert [row["data_wait"] for row in read(tmp_path)] == [1.0, 1.0]


def test_a_step_in_a_pause_is_not_timed(make, tmp_path, clock):
    monitor = make(every=2)
    with monitor.pause():
        clock[0] = 60.0
    monitor.step(1, metrics(), samples(), None)
    clock[0] = 62.0
    monitor.step(2, metrics(), samples(), 0.5)
    monitor.flush()
    (row,) = read(tmp_path)
    assert (row["images_per_second"], row["data_wait"]) == (2.0, 0.25)


def test_a_window_of_one_step_in_a_pause_has_no_speed(make, tmp_path):
    monitor = make(every=1)
    monitor.step(1, metrics(), samples(), None)
    monitor.flush()
    assert read(tmp_path) == [{"step": 1, "loss": 0.0, "lr": pytest.approx(0.1)}]


@pytest.mark.parametrize("cut", range(1, 7))
def test_a_monitor_continues_from_the_state_of_another(make, tmp_path, cut):
    """Lines, and names and counts of bad images, equal those of an uninterrupted monitor, through JSON."""
    bad = [(), (5,), (), (6,), (7, 6), (), ()]
    whole, monitor = make(), make()
    for step, images in enumerate(bad, start=1):
        note(whole, step, step / 3, bad=images)
    whole.flush()
    lines = [untimed(row) for row in read(tmp_path)]
    for step, images in enumerate(bad, start=1):
        note(monitor, step, step / 3, bad=images)
        if step == cut:
            monitor = make(start=cut, earlier=json.loads(json.dumps(monitor.state())))
    monitor.flush()
    again = [untimed(row) for row in read(tmp_path)][len(lines) :]
    assert again == lines
    assert monitor.state() == whole.state()


def untimed(row):
    return {k: v for k, v in row.items() if k not in ("images_per_second", "data_wait")}


def test_bad_images_are_summed_over_a_window_and_named(make, tmp_path):
    monitor = make()
    for step, bad in enumerate([(), (5,), (), (), (), ()], start=1):
        note(monitor, step, 1.0, bad=bad)
    monitor.flush()
    first, second = read(tmp_path)
    assert (first["bad_images"], first["bad_image_names"]) == (1, open_source("digits", "val").name(5))
    assert "bad_images" not in second and "bad_image_names" not in second


def test_too_many_bad_images_in_one_epoch_stop_the_run(make, tmp_path):
    """Of 180 images two may be bad; an epoch has four steps."""
    monitor = make(every=1)
    for step, bad in enumerate([(5, 6), (), (), (), (5,), (6,)], start=1):
        note(monitor, step, 1.0, bad=bad)
    monitor.flush()
    note(monitor, 7, 1.0, bad=(7,))
    with pytest.raises(UserError, match=r"^1.67 % of the 180 images of a split cannot be read"):
        monitor.flush()
