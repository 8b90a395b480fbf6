"""Open weights and runs for the analysis: all parts, kept checkpoints, teacher and images."""

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seed_jax import parallel
from seed_jax.config import Config, Data
from seed_jax.data.pipeline import eval_batches
from seed_jax.data.sources import Source, listed_once, open_source
from seed_jax.errors import UserError
from seed_jax.evals.online import evenly
from seed_jax.methods.base import Given
from seed_jax.models.network import Network
from seed_jax.train import build, checkpoint, inputs, offline, start, state, student, teacher, workdir
from seed_jax.train.build import Training
from seed_jax.weights import flags, pretrained
from seed_jax.weights import source as weights_source
from seed_jax.weights.preparation import Preparation, of_run
from seed_jax.weights.pretrained import Pretrained

SPLITS = ("train", "val", "test")
READ = 64  # images that are read at a time


class Lacking(UserError):
    """What a section needs is lacking; a section that was not asked for by name is left out then."""


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opened:
    """A network that is open for the analysis, of a run or of a weights file.

    Attributes:
      name: the path as the user wrote it.
      network: with all its parts.
      arch: a key of `seed_jax.models.MODELS`.
      size: side of the images that it is shown, pixels.
      preparation: how photographs become such images.
      shown: the images of `--data`; None for those of the run.
      notes: sentences about what is left out or assumed.
    """

    name: str
    network: Network
    arch: str
    size: int
    preparation: Preparation
    shown: Data | None = None
    notes: tuple[str, ...] = ()

    @property
    def abstract(self):
        """Shapes of the variables of `network`."""
        raise NotImplementedError

    @property
    def rows(self) -> dict[str, int]:
        """The steps of `variables`, ascending, by what figures call them."""
        raise NotImplementedError

    @property
    def method(self) -> str:
        """The name of the method that it was trained with; '' if it is unknown."""
        return ""

    @property
    def needs_teacher(self) -> bool:
        return False

    @property
    def teacher(self) -> teacher.Loaded | None:
        """The teacher; None if the method needs none.

        Raises:
          UserError: it cannot be read.
        """
        return None

    def variables(self, step: int):
        """Those of `network` at one of `rows`."""
        raise NotImplementedError

    def entries(self, network: Network, variables) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of what a network returns for two images, in the order of its layers."""
        images, names = jax.ShapeDtypeStruct((2, self.size, self.size, 3), jnp.float32), []

        def features(variables, images):
            found, _ = network.apply(variables, images, False)
            names.extend(found)
            return found

        shapes = jax.eval_shape(features, variables, images)
        return {name: shapes[name] for name in names}  # a tree of JAX has its keys sorted

    def drawn(self, split: str, count: int) -> np.ndarray:
        """`count` evenly spaced images to look at, all of the split if 0; uint8 `[N, H, W, 3]`.

        Raises:
          UserError: the data cannot be read.
        """
        d = self.shown
        return self._read(evenly(open_source(d.source, getattr(d, split), dir=d.dir or None), count)).image

    def _read(self, source: Source) -> Images:
        read = eval_batches(source, self.size, READ, **self.preparation._asdict())
        parts = [(batch["image"][batch["mask"]], batch["label"][batch["mask"]]) for batch in read]
        return Images(*map(np.concatenate, zip(*parts, strict=True)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights(Opened):
    """A network in a weights file: it has no training, labels or images."""

    loaded: Pretrained

    @property
    def abstract(self):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.loaded.variables)

    @property
    def rows(self) -> dict[str, int]:
        return {"weights": 0}

    def variables(self, step: int):
        return self.loaded.variables


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(Opened):
    """An open run: its config, networks and kept checkpoints. Opening it trains and writes nothing.

    `network` is the student with all the parts that it trained with.

    Attributes:
      mesh: of one device.
      training: its `step` has no teacher.
      steps: those of `state`, ascending: 0 if the start can be drawn again, and the kept checkpoints.
    """

    workdir: Path
    config: Config
    mesh: jax.sharding.Mesh
    given: Given
    training: Training
    train: Source
    steps: tuple[int, ...]
    backbone: Any = None

    @property
    def abstract(self):
        return {"params": self.training.abstract.params, **self.training.abstract.model_state}

    @property
    def rows(self) -> dict[str, int]:
        return {f"step {step}": step for step in self.steps}

    @property
    def method(self) -> str:
        return self.config.method_name

    @property
    def needs_teacher(self) -> bool:
        return self.config.method.needs_teacher

    @functools.cached_property
    def teacher(self) -> teacher.Loaded | None:
        c = self.config
        if not self.needs_teacher:
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
        """Those of `network` at one of `steps`, of the EMA if the run has one, with the served backbone."""
        at = self.state(step)
        whole = at.ema or {"params": at.params, **at.model_state}
        served = state.served(self.config.method, at)
        return {
            name: trees | {part: tree for part, tree in served.get(name, {}).items() if part == "backbone"}
            for name, trees in whole.items()
        }

    @functools.cached_property
    def served(self) -> tuple[Network, Any]:
        """The network that later runs load, and its variables at the last step."""
        network, _ = student.served(self.config.method, self.training.student, self.given, self.abstract)
        return network, state.served(self.config.method, self.state(self.steps[-1]))

    def source(self, split: str, count: int) -> Source:
        """`count` evenly spaced images of a split of the run's data; all of it if `count` is 0.

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
        return self._read(self.source(split, count))

    def drawn(self, split: str, count: int) -> np.ndarray:
        return super().drawn(split, count) if self.shown else self.images(split, count).image


def open_weights(
    name: str,
    *,
    shown: Data | None,
    arch: str = "",
    form: str = "",
    windows: Mapping[str, int] = MappingProxyType({}),
    size: int = 0,
) -> Weights:
    """Open a weights file or `pip:NAME`.

    Args:
      shown: the images to look at.
      arch, form, windows: the architecture, the form of a transformer and the options of a Swin V2's windows,
        if the weights do not determine them.
      size: side of the images, pixels; 0 for the network's own.

    Raises:
      UserError: the weights cannot be read, or there are no images.
    """
    weights_source.find(name)
    if shown is None:
        raise UserError(f"{name} is a weights file, which has no images of its own: name some with --data.")
    options = ({"form": form} if form else {}) | dict(windows)
    loaded = pretrained.load_named(name, flags=flags.FLAGS, model=arch, options=options)
    notes = ()
    if loaded.assumed:
        notes = (f"{name} does not say how images are normalised: ImageNet's mean and std are assumed.",)
    return Weights(
        name=name,
        network=loaded.network,
        arch=loaded.arch,
        size=size or loaded.size,
        preparation=loaded.preparation,
        shown=shown,
        notes=notes,
        loaded=loaded,
    )


def open_run(name: str | os.PathLike, *, dir: str = "", shown: Data | None = None) -> Run:
    """Assemble a run from its workdir, on this process's first device.

    Args:
      dir: the new folder of the data, if it has moved.
      shown: images to look at in place of the run's.

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
    return Run(
        name=str(name),
        network=training.student,
        arch=config.student.model,
        size=config.data.image_size,
        preparation=of_run(config.data),
        shown=shown,
        notes=tuple(notes),
        workdir=folder,
        config=config,
        mesh=mesh,
        given=given,
        training=training,
        train=offline.with_rows(sources.train, folder, config, manifest["teacher"]),
        steps=tuple(steps),
        backbone=backbone,
    )
