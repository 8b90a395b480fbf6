"""Shared by the benchmarks: medians, the matrix-product ceiling, memory, the compile cache."""

import contextlib
import resource
import statistics
import time

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache

# dtype and precision of a product. Networks with `train.precision='fp32'` run at JAX's default precision,
# which is TF32 on NVIDIA GPUs and float32 on a CPU; the losses run at 'highest'.
PRODUCTS = {
    "bf16": (jnp.bfloat16, "default"),
    "fp32": (jnp.float32, "default"),
    "fp32, highest": (jnp.float32, "highest"),
}


def median_ms(call, repeats: int, calls: int = 1) -> float:
    """Median milliseconds of `call` over `repeats` rounds of `calls` calls, which are waited for together.

    Two more rounds come first, to compile and to warm up. With several calls in a round an accelerator has
    the next one queued, as in training, so that the time to start a program is not counted.
    """
    times = []
    for _ in range(2 + repeats):
        began = time.perf_counter()
        jax.block_until_ready([call() for _ in range(calls)])
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times[2:]) / calls


def ceiling(kind: str, size: int, repeats: int = 5, calls: int = 1) -> float:
    """TFLOP/s of a product of two square matrices of side `size` on the first device.

    Args:
      kind: a key of `PRODUCTS`.
      repeats, calls: as for `median_ms`.
    """
    dtype, precision = PRODUCTS[kind]
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    a = jax.device_put(jax.random.normal(jax.random.key(0), (size, size), dtype), here)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision=precision))
    return 2 * size**3 / median_ms(lambda: product(a), repeats, calls) / 1e9


def device_peak() -> int | None:
    """Bytes at the peak of the first device's memory since the process began; None if it does not tell."""
    stats = jax.devices()[0].memory_stats()
    return stats and stats.get("peak_bytes_in_use")


def peak_memory() -> str:
    """Peak of the device where it tells, else of this process."""
    peak = device_peak() or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return f"{peak / 2**30:.2f} GiB"


def page_faults() -> int:
    """Pages that this process has had to be given without a disk; a huge page counts once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def device(mesh) -> str:
    return f"{mesh.size} x {jax.devices()[0].device_kind}"


@contextlib.contextmanager
def uncached():
    """A context without the compile cache on disk, so that every program is compiled."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # else an earlier program has settled that it is used
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()
