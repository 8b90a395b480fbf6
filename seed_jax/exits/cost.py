"""What a section of a network costs: parameters, FLOPs, and the time that it takes here."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seed_jax.models.network import Variables
from seed_jax.models.sections import Section
from seed_jax.train import plan

WARM, REPEATS = 5, 30


class Cost(NamedTuple):
    """Of one image.

    Attributes:
      parameters: that the section reads.
      flops: as `train.plan.flops` counts them.
      seconds: the median of 30 runs after 5, each awaited.
    """

    parameters: int
    flops: float
    seconds: float


def costs(sections: Sequence[Section], variables: Variables) -> list[Cost]:
    """What each section costs for one image, measured on the first device; sections begin at the image.

    They run in turn, so that whatever else the machine does slows all of them.
    """
    device = jax.local_devices()[0]
    image = jax.device_put(jnp.zeros((1, sections[0].size, sections[0].size, 3)), device)
    programs = [(jax.jit(s), jax.device_put(s.keep(variables), device)) for s in sections]
    times = np.zeros((WARM + REPEATS, len(sections)))
    for row in times:
        for number, (run, own) in enumerate(programs):
            start = time.perf_counter()
            jax.block_until_ready(run(own, image))
            row[number] = time.perf_counter() - start
    medians = np.median(times[WARM:], axis=0).tolist()
    return [
        Cost(sum(x.size for x in jax.tree.leaves(own["params"])), flops(section, variables), seconds)
        for section, (_, own), seconds in zip(sections, programs, medians, strict=True)
    ]


def flops(section: Section, variables: Variables) -> float:
    """FLOPs of a section for one image or one row of its start, without compiling it."""
    x = jax.ShapeDtypeStruct((1, section.size, section.size, 3), jnp.float32)
    if section.start:
        x = jax.eval_shape(Section(section.network, section.size, (section.start,)), variables, x)
        x = x[section.start]
    return plan.flops(section, section.keep(variables), x)
