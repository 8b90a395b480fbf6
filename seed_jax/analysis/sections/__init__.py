"""The sections of the page of `python -m seed_jax.analysis`: each is a function of runs, in its own file.

A section is `section(runs, options) -> blocks of report/html.py`. It raises `Lacking` if no run has what it
needs. A new one is one file and one line here.
"""

from collections.abc import Callable, Sequence

from seed_jax.analysis.runs import Opened, Options
from seed_jax.analysis.sections import attention, gradients, heads, landscape, noise, separability
from seed_jax.report.html import Block

SECTIONS: dict[str, Callable[[Sequence[Opened], Options], list[Block]]] = {
    "attention": attention.section,
    "heads": heads.section,
    "noise": noise.section,
    "landscape": landscape.section,
    "gradients": gradients.section,
    "separability": separability.section,
}
