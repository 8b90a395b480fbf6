"""Whether anything else ran while something was timed: the machine's load and the cores that others took."""

import contextlib
import dataclasses
import os
import resource
from collections.abc import Iterator
from pathlib import Path

DISTURBED = 0.05  # share of all cores that others may take before a timing is called disturbed

_STAT = Path("/proc/stat")
_IDLE = (3, 4)  # columns of /proc/stat: idle, waiting for a disk
_WORK = range(8)  # the columns after these count a guest's time again


@dataclasses.dataclass
class Others:
    """What other processes did during a `watched` block.

    Attributes:
      share: of all cores, 0 to 1; None where the system does not tell, and before the block has ended.
    """

    share: float | None = None

    @property
    def disturbed(self) -> bool:
        return (self.share or 0) > DISTURBED

    def __str__(self):
        if self.share is None:
            return "what other processes took is unknown here"
        return f"others took {self.share:.1%} of the cores{': DISTURBED' if self.disturbed else ''}"


@contextlib.contextmanager
def watched() -> Iterator[Others]:
    """A context that measures the others: the machine's busy time without that of this process.

    Child processes are counted as this process once they have ended, so start none that outlives the block.
    """
    others, before = Others(), _times()
    yield others
    after = _times()
    if before and after:
        every, busy, own = (new - old for new, old in zip(after, before, strict=True))
        others.share = max(busy - own, 0.0) / every if every else None


def load() -> str:
    """The load average of the last minute, and the number of cores."""
    try:
        average = f"{os.getloadavg()[0]:.2f}"
    except OSError:
        average = "unknown"
    return f"load average {average} on {os.cpu_count()} cores"


def cpu() -> str:
    """The name of the processor, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "an unknown CPU"
    found = {}
    for line in lines:
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    family, model = found.get("cpu family", "?"), found.get("model", "?")
    return f"{found.get('model name', 'an unknown CPU')} (family {family}, model {model})"


def _times() -> tuple[float, float, float] | None:
    """Seconds of all cores, their busy seconds, seconds of this process; None without /proc/stat."""
    try:
        columns = [int(word) for word in _STAT.read_text().split("\n", 1)[0].split()[1:]]
    except OSError:
        return None
    ticks = [columns[i] / os.sysconf("SC_CLK_TCK") for i in _WORK]
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own = sum(usage.ru_utime + usage.ru_stime for usage in used)
    return sum(ticks), sum(ticks) - sum(ticks[i] for i in _IDLE), own
