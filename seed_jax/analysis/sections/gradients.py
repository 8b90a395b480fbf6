"""Mean gradient magnitude of each layer, at the start of a run and at every kept checkpoint."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from seed_jax.analysis import gradient_magnitudes
from seed_jax.analysis.runs import Opened, Options, Run
from seed_jax.analysis.sections.figures import curves
from seed_jax.analysis.sections.needs import at_most, lacks_teacher, short_names, trained
from seed_jax.data.pipeline import train_batches
from seed_jax.models.network import Network
from seed_jax.report import html, plots
from seed_jax.report.tables import Table
from seed_jax.train import student
from seed_jax.train.step import make_gradient

IMAGES = 64  # that are differentiated at once, unless the loss needs its whole batch
LEAD = (
    "Mean absolute gradient of each kernel, of the run's own loss, on the first batch of the run with the "
    f"augmentation it had then, in train mode, so that all steps see the same images: {IMAGES} of the batch, "
    "or a few more to fill a group of BatchNorm. Losses of other weights "
    "and terms have gradients of another scale: of two runs, compare the shape over layers first. Zhang et "
    "al. (arXiv 1905.08094) compare networks so and released no code; loss and images are choices here."
)


def section(runs: Sequence[Opened], options: Options) -> list[html.Block]:
    """Curves by layer, a line for each step, and the mean over the backbone's layers against the steps.

    Raises:
      Lacking: every run needs a teacher, and none of the teachers can be read.
    """
    del options
    figures, tables, means = [], [], {}
    names = short_names([run.name for run in runs])
    runs, notes = trained(runs, lacks_teacher)
    notes += [
        f"{run.name} is measured on all {run.config.data.batch_size} images of the batch: {why}."
        for run in runs
        if run.config.data.batch_size > IMAGES and (why := _whole(run))
    ]
    for number, run in enumerate(runs, 1):
        name, found = names[run.name], magnitudes(run)
        layers = list(next(iter(found.values())))
        at = np.arange(1, len(layers) + 1)
        lines = {
            f"step {step}": [(at, _logarithms(found[step].values()))]
            for step in at_most([*found], plots.MAX_SERIES)
        }
        title = f"{name}: log10 of the mean |gradient|"
        figures += curves(lines, title=title, axis="layer", name=f"gradients-run{number}")
        header = ["layer", *(f"step {step}" for step in found)]
        rows = [[layer, *(f"{of_step[layer]:.3g}" for of_step in found.values())] for layer in layers]
        tables.append(html.Details(f"{name}: mean |gradient| of each layer", Table(header, rows)))
        of_backbone = [
            np.mean([value for layer, value in of_step.items() if layer.startswith("backbone/")])
            for of_step in found.values()
        ]
        means[name] = [([*found], _logarithms(of_backbone))]
    title = "log10 of the mean |gradient| over the backbone's layers"
    figures = [*curves(means, title=title, name="gradients"), *figures]
    blocks = [html.Heading("Gradients"), html.Lead(LEAD), html.Figures(figures), *tables]
    return [*blocks, *([html.Notes(notes)] if notes else [])]


def magnitudes(run: Run) -> dict[int, dict[str, float]]:
    """Mean absolute gradient by step and layer; layers are in the order in which the network uses them."""
    d, taught = run.config.data, run.teacher
    batch = next(
        train_batches(
            run.train,
            run.training.views,
            d.batch_size,
            run.config.train.seed,
            last=d.last,
            background=d.background,
        )
    )
    count = _count(run)
    batch = jax.tree.map(lambda rows: rows[:count], batch)
    gradient = make_gradient(
        run.config.method,
        run.network,
        taught and taught.network,
        run.given,
        run.training.views,
        seed=run.config.train.seed,
    )
    measured = jax.jit(lambda *arguments: gradient_magnitudes(gradient(*arguments)))
    layers, found = layers_of(run.network, d.image_size), {}
    with jax.set_mesh(run.mesh):
        batch, of_teacher = jax.device_put((batch, taught.variables if taught else {}))
        for step in tqdm(run.steps, f"{run.name}: gradients", unit="step", delay=1):
            values = jax.device_get(measured(run.state(step), of_teacher, batch))
            found[step] = {layer: float(values[layer]) for layer in layers}
    return found


def _whole(run: Run) -> str:
    """Why the loss of a part of the batch is another loss; '' if it is not."""
    carries = jax.tree.leaves(run.training.abstract.aux)
    return run.config.method.whole_batch() or ("it carries state from batch to batch" if carries else "")


def _count(run: Run) -> int:
    """How many images of the batch are differentiated: whole groups of BatchNorm."""
    size, group = run.config.data.batch_size, run.given.bn_group or 1
    return size if _whole(run) else min(size, -(-IMAGES // group) * group)


def layers_of(network: Network, image_size: int) -> list[str]:
    """The paths of all parameters of two axes or more, in the order in which the network creates them."""
    names = []

    def init():
        names.extend(_kernels(student.init_variables(network, image_size, 0)["params"]))
        return jnp.zeros(())

    jax.eval_shape(init)  # what it returns would have its keys sorted
    return names


def _kernels(tree: Mapping, path: tuple[str, ...] = ()):
    for name, inner in tree.items():
        if isinstance(inner, Mapping):
            yield from _kernels(inner, (*path, name))
        elif inner.ndim > 1:
            yield "/".join((*path, name))


def _logarithms(values) -> np.ndarray:
    """log10; not a number where a layer has no gradient."""
    values = np.array([*values], float)
    return np.log10(values, out=np.full(len(values), np.nan), where=values > 0)
