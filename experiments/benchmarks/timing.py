"""Shared by the benchmarks: medians, the matrix-product ceiling, memory."""

import resource
import statistics
import time

import jax
import jax.numpy as jnp


def median_ms(call, repeats: int) -> float:
    """Median milliseconds of `call`, which is run twice first, once to compile."""
    times = []
    for _ in range(2 + repeats):
        began = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times[2:])


def ceiling(precision: str) -> float:
    """TFLOP/s of a large square matrix product on one device, at the precision of the networks' products."""
    n = 2048 if jax.default_backend() == "cpu" else 8192
    dtype = jnp.bfloat16 if precision == "bf16" else jnp.float32
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    a = jax.device_put(jax.random.normal(jax.random.key(0), (n, n), dtype), here)
    product = jax.jit(lambda a: a @ a)
    return 2 * n**3 / median_ms(lambda: product(a), 5) / 1e9


def peak_memory() -> str:
    """Peak of the device where it tells, else of this process."""
    stats = jax.devices()[0].memory_stats()
    peak = stats["peak_bytes_in_use"] if stats else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return f"{peak / 2**30:.2f} GiB"


def device(mesh) -> str:
    return f"{mesh.size} x {jax.devices()[0].device_kind}"
