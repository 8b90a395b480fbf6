"""Whether anything else ran while something was timed: the machine's load and the cores that others took."""

import os
import resource
from pathlib import Path

DISTURBED = 0.05  # share of all cores that others may take before a timing is called disturbed

_IDLE = (3, 4)  # columns of /proc/stat: idle, waiting for a disk
_COUNTED = 8  # the columns after these count a guest's time again


class Others:
    """What other processes took of the cores in all `with` blocks of this object so far.

    Child processes count as others until they have ended, so let none outlive a block.
    """

    def __init__(self):
        self._cores = self._taken = 0.0

    def __enter__(self) -> "Others":
        self._before = _times()
        return self

    def __exit__(self, *unused) -> None:
        if self._before and (after := _times()):
            cores, busy, own = (new - old for new, old in zip(after, self._before, strict=True))
            self._cores += cores
            self._taken += busy - own

    @property
    def share(self) -> float | None:
        """Of all cores, 0 to 1; None where the system does not tell."""
        return max(self._taken, 0.0) / self._cores if self._cores else None

    def __str__(self):
        return told(self.share)


def told(share: float | None) -> str:
    """A sentence's part about what others took: it says `disturbed` above `DISTURBED`."""
    if share is None:
        return "what other processes took is unknown here"
    return f"other processes took {share:.1%} of the cores{' (disturbed)' if share > DISTURBED else ''}"


def load() -> str:
    """The load average of the last minute, and the number of cores."""
    return f"load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores"


def processor() -> str:
    """Name, family and model of the CPU, as far as the system tells them."""
    found = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            found.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    name = found.get("model name", "an unknown CPU")
    return f"{name} (family {found['cpu family']}, model {found['model']})" if "cpu family" in found else name


def _times() -> tuple[float, float, float] | None:
    """Seconds of all cores, their busy seconds, seconds of this process; None without /proc/stat."""
    try:
        columns = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    except OSError:
        return None
    seconds = [ticks / os.sysconf("SC_CLK_TCK") for ticks in columns[:_COUNTED]]
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own = sum(usage.ru_utime + usage.ru_stime for usage in used)
    return sum(seconds), sum(seconds) - sum(seconds[i] for i in _IDLE), own
