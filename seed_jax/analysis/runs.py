"""Open runs for the analysis: their kept checkpoints, also parts that are not served, teacher and images."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seed_jax import parallel
from seed_jax.config import Config
from seed_jax.data.pipeline import eval_batches
from seed_jax.data.sources import Source, listed_once, open_source
from seed_jax.errors import UserError
from seed_jax.evals.online import evenly
from seed_jax.methods.base import Given
from seed_jax.models.network import Network
from seed_jax.train import build, checkpoint, inputs, start, state, student, teacher, workdir
from seed_jax.train.build import Training

SPLITS = ("train", "val", "test")
READ = 64  # images that are read at a time


class Lacking(UserError):
    """A run lacks what a section needs; a section that was not asked for by name is left out then."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What the sections share.

    Attributes:
      out: folder of the page and of further files.
      split: of the images, 'train', 'val' or 'test' as the run's config names them.
      images: how many are drawn.
      samples: how many are measured, evenly spaced; 0 for all.
      sigmas: of the noise on the weights, ascending.
      absolute: the sigmas are in the unit of the weights, not shares of each tensor's standard deviation.
      draws: of the noise, for each sigma, and of the directions of the landscape.
      points: of the landscape along a direction, odd.
      seed: of noise and directions.
    """

    out: Path
    split: str = "val"
    images: int = 4
    samples: int = 1000
    sigmas: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
    absolute: bool = False
    draws: int = 5
    points: int = 9
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Images:
    """Images of a split: `image` uint8 `[N, H, W, 3]`, `label` int32 `[N]` (-1: none)."""

    image: np.ndarray
    label: np.ndarray


@dataclasses.dataclass(frozen=True)
class Opened:
    """An open run: its config, networks and kept checkpoints. Opening it trains and writes nothing.

    Attributes:
      name: the path as the user wrote it.
      mesh: of one device.
      training: its `step` has no teacher.
      steps: those of `state`, ascending: 0 if the start can be drawn again, and the kept checkpoints.
      notes: sentences about what is left out.
    """

    name: str
    workdir: Path
    config: Config
    mesh: jax.sharding.Mesh
    given: Given
    training: Training
    train: Source
    steps: tuple[int, ...]
    backbone: Any = None
    notes: tuple[str, ...] = ()

    @property
    def network(self) -> Network:
        """The student with all the parts that it trained with."""
        return self.training.student

    @functools.cached_property
    def teacher(self) -> teacher.Loaded | None:
        """The teacher, read when it is first asked for; None if the method needs none.

        Raises:
          UserError: it cannot be read.
        """
        c = self.config
        if not c.method.needs_teacher:
            return None
        return teacher.load(
            c.teacher, image_size=c.data.image_size, seed=c.train.seed, precision=c.train.precision
        )

    def state(self, step: int) -> state.TrainState:
        """The state at one of `steps`."""
        if step == 0:
            return self.training.fresh(self.backbone)
        return checkpoint.load_state(self.workdir, self.training.abstract, step)

    def variables(self, step: int):
        """Those of `network` at one of `steps`: of the EMA if the run has one, as it is probed."""
        at = self.state(step)
        return at.ema or {"params": at.params, **at.model_state}

    @functools.cached_property
    def served(self) -> tuple[Network, Any]:
        """The network that later runs load, and its variables at the last step."""
        fresh = {"params": self.training.abstract.params, **self.training.abstract.model_state}
        network, _ = student.served(self.config.method, self.training.student, self.given, fresh)
        return network, state.served(self.config.method, self.state(self.steps[-1]))

    def entries(self, network: Network, variables) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of what a network returns for two images of the run, in the order of its layers."""
        side = self.config.data.image_size
        images, names = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32), []

        def features(variables, images):
            found, _ = network.apply(variables, images, False)
            names.extend(found)
            return found

        shapes = jax.eval_shape(features, variables, images)
        return {name: shapes[name] for name in names}  # a tree of JAX has its keys sorted

    def source(self, split: str, count: int) -> Source:
        """`count` evenly spaced images of a split; all of it if `count` is 0.

        Raises:
          UserError: the data cannot be read.
        """
        d = self.config.data
        whole = (
            self.train if split == "train" else open_source(d.source, getattr(d, split), dir=d.dir or None)
        )
        return evenly(whole, count)

    def images(self, split: str, count: int) -> Images:
        """The images of `source` as the run evaluates them.

        Raises:
          UserError: the data cannot be read.
        """
        d, source = self.config.data, self.source(split, count)
        read = eval_batches(source, d.image_size, READ, resize=d.resize, background=d.background)
        parts = [(batch["image"][batch["mask"]], batch["label"][batch["mask"]]) for batch in read]
        return Images(*map(np.concatenate, zip(*parts, strict=True)))


def open_run(name: str | os.PathLike, *, dir: str = "") -> Opened:
    """Assemble a run from its workdir, on this process's first device.

    Args:
      dir: the new folder of the data, if it has moved.

    Raises:
      UserError: the folder is not the workdir of a run or has no checkpoint, or its data is missing or has
        changed.
    """
    folder = Path(name)
    loaded = workdir.load_run(folder)
    config, manifest = loaded.config, loaded.manifest
    if dir:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, dir=dir))
    try:
        with listed_once():
            sources = inputs.open_sources(config)
    except UserError as error:
        raise UserError(f"{error} If the data has moved, pass its new folder with --dir.") from None
    then, now = manifest["data"].get("fingerprint"), sources.train.fingerprint()
    if then not in (None, now):
        raise UserError(
            f"{folder} was trained on other data (fingerprint {then}, not {now}): pass the folder of the "
            "run's images with --dir."
        )
    config = dataclasses.replace(config, data=sources.data)
    length = build.lengths(config, len(sources.train))
    given = workdir.given_of(config, manifest)
    mesh = parallel.make_mesh(jax.local_devices()[:1])
    training = build.assemble(config, mesh, given)
    steps, backbone, notes = checkpoint.kept_steps(folder), None, []
    saved = sum(map(length.saves, range(steps[-1] + 1)))
    if len(steps) < saved:
        notes.append(
            f"{name} keeps {len(steps)} of the {saved} checkpoints that it wrote: a run with a larger "
            "`train.keep` shows more of the training."
        )
    try:
        backbone, _ = start.load(config, training.student.backbone)
        steps = [0, *steps]
    except UserError as error:
        notes.append(f"{name}: the weights it began with are left out, since they cannot be read: {error}")
    return Opened(
        str(name),
        folder,
        config,
        mesh,
        given,
        training,
        sources.train,
        tuple(steps),
        backbone,
        tuple(notes),
    )


def labelled(run: Opened, options: Options) -> Images:
    """The images to measure that have a label.

    Raises:
      UserError: the data cannot be read.
    """
    images = run.images(options.split, options.samples)
    has = images.label >= 0
    return Images(images.image[has], images.label[has])


def lacks_classes(run: Opened, options: Options) -> str:
    """What `having` says of a run if the images to measure have fewer than two classes."""
    labels = run.source(options.split, options.samples).labels()
    if len({*labels[labels >= 0].tolist()}) > 1:
        return ""
    return (
        f"has images of fewer than two classes among the {len(labels)} of `{options.split}` that are "
        "measured: use a labelled --split, or more --samples"
    )


def lacks_teacher(run: Opened) -> str:
    """What `having` says of a run if its teacher cannot be read."""
    try:
        run.teacher  # noqa: B018
    except UserError as error:
        return f"has a teacher that cannot be read ({str(error).removesuffix('.')})"
    return ""


def having(runs: Sequence[Opened], lacks: Callable[[Opened], str]) -> tuple[list[Opened], list[str]]:
    """The runs that lack nothing, and a sentence for each of the others.

    Args:
      lacks: what a run lacks, the end of a sentence; '' if nothing.

    Raises:
      Lacking: every run lacks something.
    """
    reasons = {run.name: lacks(run) for run in runs}
    notes = [f"{name} {reason}." for name, reason in reasons.items() if reason]
    if len(notes) == len(reasons):
        raise Lacking(" ".join(notes))
    return [run for run in runs if not reasons[run.name]], notes


def at_most(steps: Sequence[int], count: int) -> list[int]:
    """`count` of the steps, evenly spaced, with the first and the last; all of them if they are no more.

    >>> at_most((0, 1, 2, 3, 4, 5, 6), 3)
    [0, 3, 6]
    """
    if len(steps) <= count:
        return list(steps)
    return [steps[i] for i in np.linspace(0, len(steps) - 1, count).round().astype(int)]


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """The last two folders of each path by path, or more if these do not tell them apart.

    >>> short_names(["runs/a/seed0", "runs/b/seed0"])
    {'runs/a/seed0': 'a/seed0', 'runs/b/seed0': 'b/seed0'}
    """
    parts = {path: Path(path).resolve().parts for path in paths}
    depth = 2
    while len({of_path[-depth:] for of_path in parts.values()}) < len({*parts.values()}):
        depth += 1
    return {path: "/".join(of_path[-depth:]) for path, of_path in parts.items()}
