"""Metrics and progress of a run, and the check that every metric is finite.

The metrics of a step are read after the next step has been dispatched.
"""

import sys
import time
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from seed_jax.data.pipeline import BadImages
from seed_jax.errors import UserError
from seed_jax.report.metrics import MetricsWriter

NAMED = 8  # bad images that each process names in one window
IN_FLIGHT = 2  # steps dispatched before the device finishes them: hides the host, bounds memory


def say(sentence: str) -> None:
    """Print a line above the progress bar, in process 0 only."""
    if jax.process_index() == 0:
        tqdm.write(sentence)


class Monitor:
    """Collect the metrics of each step, and write their means as one line per window.

    A window is read only after the step after it has been dispatched, so the device never waits for the host.
    Bad images are summed over the window and over the processes. When one epoch has more of them than `bad`
    allows, all processes stop at the same step.

    Args:
      writer: writes the lines.
      bad: the training split's bad images: their names and the limit.
      name: shown by the progress bar.
      start: the step of the state at the start, 0 for a new run.
      earlier: `state()` of the monitor whose run this one resumes; empty for a new run.
      steps: last step of the run.
      steps_per_epoch: steps of one epoch.
      every: a window ends at each multiple of this step.
      batch_size: images per step, over all devices.
      notice: a sentence on what the means of a window show to be wrong, or ''; the first one is said.
    """

    def __init__(
        self,
        writer: MetricsWriter,
        bad: BadImages,
        *,
        name: str,
        start: int,
        earlier: dict,
        steps: int,
        steps_per_epoch: int,
        every: int,
        batch_size: int,
        notice: Callable[[Mapping[str, float]], str],
    ):
        self._writer, self._bad, self._every, self._batch_size = writer, bad, every, batch_size
        self._steps_per_epoch = steps_per_epoch
        self._name, self._notice, self._noticed = name, notice, ""
        self._pass, self._bad_in_pass = earlier.get("bad_in_pass", (0, 0))
        rows = [{k: np.float32(v) for k, v in row.items()} for row in earlier.get("window", [])]
        bad_images = np.array(earlier.get("bad", []), np.int32).reshape(-1, NAMED)
        mine = bad_images[jax.process_index() :: jax.process_count()].ravel()
        self._window = [
            (step, row, {"id": np.empty((0, 2), np.uint32), "bad": mine if row is rows[0] else mine[:0]})
            for step, row in enumerate(rows, start=start - len(rows) + 1)
        ]
        self._closed: list = []
        self._clock = time.perf_counter()
        self._waited = 0.0
        self._timed = 0
        self._bar = tqdm(
            total=steps,
            initial=start,
            desc=name,
            unit="step",
            dynamic_ncols=True,
            disable=jax.process_index() != 0,
            file=sys.stdout,
            mininterval=0.5 if sys.stdout.isatty() else 10.0,
        )

    def step(self, step: int, metrics: dict, samples: dict, waited: float | None) -> None:
        """Add a step to the window.

        Args:
          step: 1 for the first update.
          metrics: scalars on the device, float32; int32 `bad_images`.
          samples: `id` uint32 `[B, 2]` and `bad` int32 `[B]` of this process's images.
          waited: seconds that the host waited for the batch; None for a step run in a pause, whose time does
            not count.

        Raises:
          NotFinite: a metric of an earlier step is NaN or infinite.
          UserError: an epoch has more bad images than allowed.
        """
        self._write_closed(waited or 0.0)
        self._window.append((step, metrics, samples))
        if len(self._window) > IN_FLIGHT:
            jax.block_until_ready(self._window[-1 - IN_FLIGHT][1])
        if waited is not None:
            self._waited += waited
            self._timed += 1
        self._bar.update(step - self._bar.n)
        if step % self._every == 0:
            self._close()

    def flush(self) -> None:
        """Write all steps so far; afterwards their metrics are known to be finite. Raises as `step` does."""
        self._close()
        self._write_closed()

    def state(self) -> dict:
        """State, as JSON types, from which a new `Monitor` continues exactly. Raises as `step` does.

        `window`: metrics of the last steps, which have no line yet; all are finite. `bad`: indices of the bad
        images in these steps, a list per process, -1 where there is no image. `bad_in_pass`: the epoch, and
        its number of bad images so far.
        """
        self._write_closed()
        window = [{k: float(v) for k, v in row.items()} for row in self._read(self._window)]
        bad = _bad_images(self._window).tolist() if any(row["bad_images"] for row in window) else []
        return {"window": window, "bad": bad, "bad_in_pass": [self._pass, self._bad_in_pass]}

    def pause(self) -> "_Pause":
        """A context whose time does not count as training time, for probes and checkpoints."""
        return _Pause(self)

    def close(self) -> None:
        self._bar.close()

    def _close(self):
        self._write_closed()
        self._closed, self._window = self._window, []

    def _write_closed(self, waited: float = 0.0):
        """Write the closed window; the `waited` seconds belong to the window of the next step."""
        if not self._closed:
            return
        closed, self._closed = self._closed, []
        rows = self._read(closed)
        bad, names = self._count_bad(closed, [row["bad_images"] for row in rows])
        means = {
            name: float(np.mean([row[name] for row in rows])) for name in rows[0] if name != "bad_images"
        }
        end = max(self._clock, time.perf_counter() - waited)
        shown, timing = f"loss {means['loss']:.3f}", {}
        if self._timed:
            seconds = max(end - self._clock, 1e-9)
            timing["images_per_second"] = self._timed * self._batch_size / seconds
            timing["data_wait"] = min(1.0, self._waited / seconds)
            shown += f", {timing['images_per_second']:.0f} images/s, data wait {timing['data_wait']:.0%}"
        self._clock, self._waited, self._timed = end, 0.0, 0
        self._writer.write(closed[-1][0], {**means, **timing, **bad}, **names)
        self._bar.set_postfix_str(shown)
        if not self._noticed:
            self._noticed = self._notice(means)
            if self._noticed:
                say(f"{self._name}: step {closed[-1][0]}: {self._noticed}")

    def _read(self, window) -> list[dict]:
        rows = jax.device_get([metrics for _, metrics, _ in window])
        for (step, _, samples), row in zip(window, rows, strict=True):
            if not all(np.isfinite(value) for value in row.values()):
                raise NotFinite(step, samples["id"])
        return rows

    def _count_bad(self, closed, counts) -> tuple[dict, dict]:
        """Count and names of the bad images in a window, for its line in metrics.jsonl.

        Both are empty if there were none.
        """
        if not sum(counts):
            return {}, {}
        names = [self._bad.source.name(int(i)) for i in _bad_images(closed).ravel() if i >= 0]
        for (step, _, _), count in zip(closed, counts, strict=True):
            epoch = (step - 1) // self._steps_per_epoch
            self._bad_in_pass = int(count) + (self._bad_in_pass if epoch == self._pass else 0)
            self._pass = epoch
            self._bad.check(self._bad_in_pass, names)
        return {"bad_images": sum(counts)}, {"bad_image_names": ", ".join(names)}


def _bad_images(window) -> np.ndarray:
    """Indices of each process's first bad images in a window, int32 `[processes, NAMED]`, padded with -1."""
    mine = [i for _, _, samples in window for i in samples["bad"].tolist() if i >= 0][:NAMED]
    mine += [-1] * (NAMED - len(mine))
    return multihost_utils.process_allgather(np.array(mine, np.int32)).reshape(-1, NAMED)


class _Pause:
    def __init__(self, monitor):
        self._monitor = monitor

    def __enter__(self):
        self._begin = time.perf_counter()

    def __exit__(self, *unused):
        seconds, bar = time.perf_counter() - self._begin, self._monitor._bar
        self._monitor._clock += seconds
        if not bar.disable:  # tqdm estimates the remaining time from these
            bar.start_t += seconds
            bar.last_print_t += seconds


class NotFinite(UserError):
    """A metric of a step is NaN or infinite.

    Args:
      step: the step.
      ids: of its samples in this process, uint32 `[B, 2]`, low half first; the message names the first 8.
    """

    def __init__(self, step: int, ids: np.ndarray):
        joined = (ids[:, 1].astype(np.int64) << 32) | ids[:, 0]
        shown = ", ".join(str(i) for i in joined[:8])
        super().__init__(f"The loss or its gradient is not finite at step {step} (sample ids {shown}, …)")
