"""What a section of a network costs: parameters, FLOPs, and the time that it takes here."""

import math
import statistics
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from seed_jax.models.network import Variables
from seed_jax.models.sections import Section

WARM, REPEATS = 5, 30


class Cost(NamedTuple):
    """Of one image.

    Attributes:
      parameters: that the section reads.
      flops: as the compiler counts them, two for a multiplication and an addition.
      seconds: the median of 30 runs after 5, each awaited.
    """

    parameters: int
    flops: float
    seconds: float


def cost(section: Section, variables: Variables) -> Cost:
    """The cost of a section that starts at the image, at batch 1 on the first device."""
    own = jax.device_put(section.keep(variables), jax.local_devices()[0])
    image = jax.device_put(jnp.zeros((1, section.size, section.size, 3)), jax.local_devices()[0])
    run, times = jax.jit(section), []
    for _ in range(WARM + REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(run(own, image))
        times.append(time.perf_counter() - start)
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(own["params"]))
    return Cost(parameters, flops(section, variables), statistics.median(times[WARM:]))


def flops(section: Section, variables: Variables) -> float:
    """FLOPs of a section for one image or one row of its start, without compiling it."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), section.keep(variables))
    x = jax.ShapeDtypeStruct((1, section.size, section.size, 3), jnp.float32)
    if section.start:
        x = jax.eval_shape(Section(section.network, section.size, (section.start,)), variables, x)
        x = x[section.start]
    return jax.jit(section).lower(shapes, x).cost_analysis()["flops"]
