"""The results of a benchmark of several sections, written as they come, and its time."""

import datetime
import importlib.metadata
import json
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import jax

from experiments.benchmarks.accelerator_page import page
from seed_jax.data import files
from seed_jax.errors import UserError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


class Journal:
    """What has been measured; every change is written at once, to `results.json` and `results.md`.

    Its time begins when it is created.

    Args:
      folder: of the two files; created if missing.
      minutes: for all sections together.
      sections: their names; each section is `waiting` at first.
      **facts: further entries of the results.

    Attributes:
      results: what is written as JSON.

    Raises:
      UserError: the folder cannot be written.
    """

    def __init__(self, folder: Path, minutes: float, sections: Iterable[str], **facts):
        self.folder, self.began, self.seconds = folder, time.monotonic(), 60 * minutes
        self._lock = threading.RLock()
        self.results = {
            **facts,
            "minutes": minutes,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": _machine(),
            "sections": {name: {"status": "waiting"} for name in sections},
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._write()
        except OSError as error:
            raise UserError(
                f"--out: {folder} cannot be written ({error.strerror}): name another folder."
            ) from None

    def left(self) -> float:
        """Seconds until the time is over."""
        return self.seconds - (time.monotonic() - self.began)

    def set(self, section: str, **values) -> None:
        """Set entries of a section; they must not be changed afterwards."""
        with self._lock:
            self.results["sections"][section].update(values)
            self._write()

    def say(self, text: str) -> None:
        print(f"[{max(0, self.left()):.0f} s left] {text}", flush=True)

    def cut(self, section: str) -> None:
        """End the process, in a thread, while a section runs: a compilation cannot be interrupted."""
        with self._lock:
            self.set(section, status="cut", reason="the time was over")
            self.say(f"{section}: cut, the time is over; results are in {self.folder}")
            os._exit(self.exit_code())

    def exit_code(self) -> int:
        sections = self.results["sections"].values()
        checks = [check for found in sections for check in found.get("checks", {}).values()]
        failed = any(found["status"] == "failed" for found in sections)
        return int(failed or not all(check["passed"] for check in checks))

    def _write(self):
        self.results["seconds"] = round(time.monotonic() - self.began, 1)
        for name, text in (("json", json.dumps(self.results, indent=1)), ("md", page(self.results))):
            with files.whole(self.folder / f"results.{name}", "w") as file:
                file.write(text + "\n")


def _machine() -> dict:
    first = jax.devices()[0]
    return {
        "device": first.device_kind,
        "platform": first.platform,
        "devices": jax.device_count(),
        "device_bytes": (first.memory_stats() or {}).get("bytes_limit"),
        "runtime": first.client.platform_version,
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }
