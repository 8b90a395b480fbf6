"""The highest memory use of this process, or of its first device."""

from pathlib import Path

import jax

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset() -> None:
    """Start a new measurement, where the system can."""
    if jax.default_backend() == "cpu" and _RESET.exists():
        _RESET.write_text("5")


def peak() -> int | None:
    """Bytes since `reset` of this process on a CPU; of the device since the process began otherwise.

    None if the system does not say.
    """
    if jax.default_backend() != "cpu":
        return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    lines = _STATUS.read_text().splitlines() if _STATUS.exists() else []
    sizes = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(sizes[0]) if sizes else None
