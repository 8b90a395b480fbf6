"""From an `ml_collections.ConfigDict`, which config files and the command line edit, to frozen dataclasses.

This is the only file that sees a ConfigDict. Every section is built as `Section(**section)`, so nothing in
a config can be misspelt or unused without an error.
"""

import dataclasses
from typing import Any

import ml_collections

from seed_jax.data.photometric import PRESETS
from seed_jax.data.pipeline import CROPS, LAST
from seed_jax.errors import UserError, unknown
from seed_jax.methods import METHODS


@dataclasses.dataclass(frozen=True)
class Data:
    """The source of the images and the views that are cut from them.

    Attributes:
      source: 'digits', 'scattered', 'photos', 'photos6' (embedded); 'folder', 'imagefolder', 'filelist',
        'npz', 'webdataset', 'arrayrecord', 'tfds:NAME'; or 'photographs', which means 'folder' when `dir` is
        set, else 'photos6'.
      dir: the folder, file or pattern, or the data_dir of tensorflow-datasets.
      subset: share of the training split, such as '1%' of each class, drawn by train.seed, or by seed 3 as
        '1%@3'; or a file that lists the images; '' for the whole split.
      train: split to train on.
      val: split for probes during training and for choices.
      test: split for the scores reported at the end.
      bank: split that the online kNN searches; '' for the training split.
      batch_size: over all devices.
      image_size: side of a view, pixels.
      crop_scale: range of the crop's share of the image area, within (0, 1]; used by crop 'random' only.
      flip: probability of mirroring a view left to right.
      photometric: preset of `data/photometric.py`.
      workers: reading processes per training process; 0 reads in threads. The batches are the same.
      crop: 'random' (random-resized crop), 'pad' (pad with black, then a random window, usual for CIFAR) or
        'centre' (as in evaluation); see `ViewSpec`.
      padding: black pixels added on each side; used by crop 'pad' only.
      last: 'drop' leaves out the incomplete last batch of an epoch, 'keep' trains on it as a shorter batch.
    """

    source: str = "digits"
    dir: str = ""
    subset: str = ""
    train: str = "train"
    val: str = "val"
    test: str = "test"
    bank: str = ""
    batch_size: int = 256
    image_size: int = 224
    crop_scale: tuple[float, float] = (0.2, 1.0)
    flip: float = 0.5
    photometric: str = "mocov2"
    workers: int = 0
    crop: str = "random"
    padding: int = 4
    last: str = "drop"

    def check(self) -> None:
        _choice("data.photometric", self.photometric, PRESETS)
        _choice("data.crop", self.crop, CROPS)
        _choice("data.last", self.last, LAST)
        for name in ("batch_size", "image_size"):
            _above_0("data", self, name)
        scale = self.crop_scale
        _require(
            "data.crop_scale",
            scale,
            len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1,
            "two shares of the area, 0 < low <= high <= 1",
        )
        _require("data.flip", self.flip, 0 <= self.flip <= 1, "0 to 1")
        for name in ("workers", "padding"):
            _not_below_0("data", self, name)


@dataclasses.dataclass(frozen=True)
class Student:
    """The network that is trained.

    Attributes:
      model: a key of `seed_jax.models.MODELS`.
      options: of the model, e.g. `width`; also `mean` and `std`.
      image_size: the side it sees, resized on the device from data.image_size; 0 for that.
      init: weights whose backbone is the start, a workdir or others as for the teacher; '' for a random
        start.
    """

    model: str = "mobilenetv3_large"
    options: dict = dataclasses.field(default_factory=dict)
    image_size: int = 0
    init: str = ""

    def check(self) -> None:
        _not_below_0("student", self, "image_size")


@dataclasses.dataclass(frozen=True)
class Teacher:
    """The frozen network, for methods that need one.

    Attributes:
      weights: a checkpoint (.pth, .pth.tar, .safetensors, .npz), the workdir of a run, `pip:NAME` of an
        installed package, or 'random' for speed and smoke runs.
      model: a key of `seed_jax.models.MODELS`; '' for what the weights tell.
      options: of the model, also `mean` and `std`, where the weights do not tell.
      image_size: the side it sees, resized on the device from data.image_size; 0 for that.
      dim: width of the embedding of a 'random' teacher.
    """

    weights: str = ""
    model: str = ""
    options: dict = dataclasses.field(default_factory=dict)
    image_size: int = 0
    dim: int = 128

    def check(self) -> None:
        _not_below_0("teacher", self, "image_size")


@dataclasses.dataclass(frozen=True)
class Optim:
    """The optimizer and its schedule.

    Attributes:
      name: 'sgd', 'adamw' or 'lars'.
      lr: for a batch of `lr_batch`; the rate used is lr * batch_size / lr_batch (Goyal et al. 2017).
      lr_batch: 0 uses `lr` as it is.
      momentum: of sgd and lars.
      weight_decay: added to the gradient by sgd, decoupled in adamw.
      decay: 'all' parameters, as SEED and MoCo do, or 'kernels' only.
      schedule: 'cosine', 'steps' (x0.1 at each of `milestones`) or 'constant'.
      milestones: shares of the whole run, between 0 and 1.
      warmup_epochs: of linear warm-up.
      warmup_from: 'zero', or 'lr' (the unscaled rate), as the released SEED code does.
      update: the rate changes every 'step' or every 'epoch'.
      clip_norm: global gradient norm; 0 for none.
    """

    name: str = "sgd"
    lr: float = 0.03
    lr_batch: int = 256
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay: str = "all"
    schedule: str = "cosine"
    milestones: tuple[float, ...] = (0.6, 0.8)
    warmup_epochs: float = 0.0
    warmup_from: str = "zero"
    update: str = "step"
    clip_norm: float = 0.0

    def check(self) -> None:
        _choice("optim.name", self.name, ("sgd", "adamw", "lars"))
        _choice("optim.decay", self.decay, ("all", "kernels"))
        _choice("optim.schedule", self.schedule, ("cosine", "steps", "constant"))
        _choice("optim.warmup_from", self.warmup_from, ("zero", "lr"))
        _choice("optim.update", self.update, ("step", "epoch"))
        _require(
            "optim.milestones",
            self.milestones,
            all(0 < m < 1 for m in self.milestones),
            "shares of the run, above 0 and below 1",
        )
        _require("optim.momentum", self.momentum, 0 <= self.momentum < 1, "0 to less than 1")
        for name in ("lr", "lr_batch", "weight_decay", "clip_norm", "warmup_epochs"):
            _not_below_0("optim", self, name)


@dataclasses.dataclass(frozen=True)
class Train:
    """The run: exactly one of `epochs`, `steps` and `examples` is not 0.

    Attributes:
      seed: of all that is random, 0 to 2**32 - 1: JAX's keys hold no more of it.
      precision: 'fp32' (on GPUs XLA's default, TF32), or 'bf16' for convolutions and matrix products.
      bn_group: BatchNorm statistics over groups of so many samples, as on the papers' eight GPUs of 32
        images each; 0 for the whole batch.
      checkpoint_epochs: epochs between checkpoints, each with a probe.
      keep: how many of the newest checkpoints stay, beside the best by probe.
    """

    epochs: float = 0.0
    steps: int = 0
    examples: int = 0
    seed: int = 0
    precision: str = "fp32"
    bn_group: int = 32
    checkpoint_epochs: float = 1.0
    keep: int = 2

    def check(self) -> None:
        given = [k for k in ("epochs", "steps", "examples") if getattr(self, k)]
        if len(given) != 1:
            raise UserError(
                "Exactly one of train.epochs, train.steps and train.examples must not be 0, "
                f"and {len(given)} are: set the others to 0."
            )
        _choice("train.precision", self.precision, ("fp32", "bf16"))
        for name in ("checkpoint_epochs", "keep"):
            _above_0("train", self, name)
        _require("train.seed", self.seed, 0 <= self.seed < 2**32, "0 to 2**32 - 1")
        for name in ("epochs", "steps", "examples"):
            _not_below_0("train", self, name)


@dataclasses.dataclass(frozen=True)
class Evals:
    """The online probe.

    Attributes:
      knn: whether to run it, where there are labels. A classifier's top-1 is always taken where there is one.
      every_epochs: epochs between probes; there is one at step 0 and one at the end too.
      k: neighbours, majority vote.
      bank_size: of the bank split, at most so many images; 0 for all.
      feature: entry of the features that is probed.
      batch_size: of the forward passes.
    """

    knn: bool = True
    every_epochs: float = 1.0
    k: int = 10
    bank_size: int = 0
    feature: str = "pooled"
    batch_size: int = 256

    def check(self) -> None:
        for name in ("every_epochs", "batch_size", "k"):
            _above_0("evals", self, name)
        _not_below_0("evals", self, "bank_size")


@dataclasses.dataclass(frozen=True)
class Log:
    """`metrics.jsonl` always; `tensorboard` if tensorboardX is installed; `wandb`: a project's name or ''."""

    every_steps: int = 50
    tensorboard: bool = True
    wandb: str = ""

    def check(self) -> None:
        _above_0("log", self, "every_steps")


@dataclasses.dataclass(frozen=True)
class Config:
    """A run, resolved."""

    data: Data
    student: Student
    teacher: Teacher
    method: Any
    method_name: str
    optim: Optim
    train: Train
    evals: Evals
    log: Log


SECTIONS = {f.name: f.type for f in dataclasses.fields(Config) if dataclasses.is_dataclass(f.type)}


def default(method: str) -> ml_collections.ConfigDict:
    """Every section's defaults, with the fields of one method: what config files start from."""
    config = ml_collections.ConfigDict(
        {name: dataclasses.asdict(section()) for name, section in SECTIONS.items()}
    )
    config.method = ml_collections.ConfigDict({"name": method, **dataclasses.asdict(METHODS[method]())})
    return config


def variant(config: ml_collections.ConfigDict, name: str) -> ml_collections.ConfigDict:
    """The config, or its form named in `--config=configs/x.py:NAME`; every file has 'smoke'."""
    if name in ("", "smoke"):
        return smoke(config) if name else config
    raise UserError(f"Unknown config variant '{name}': use 'smoke', or one that the file's header names.")


SMALLEST = {"resnet50": "resnet18", "mobilenetv3_large": "mobilenetv3_small"}


def smoke(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The same run on any machine in a minute: embedded digits, small views, 4 steps, a random teacher, the
    smallest network of the student's family.
    """
    config.data.source, config.data.dir = "digits", ""
    config.data.train, config.data.val, config.data.test, config.data.bank = "train", "val", "test", ""
    config.data.batch_size, config.data.image_size = 16, 32
    config.evals.bank_size, config.evals.batch_size = 64, 64
    config.train.epochs, config.train.steps, config.train.examples = 0.0, 4, 0
    config.train.bn_group = min(config.train.bn_group, 4)
    config.log.every_steps = 2
    config.student.model = SMALLEST.get(config.student.model, config.student.model)
    if "queue_size" in config.method:
        config.method.queue_size = 64
    if "patch_size" in config.method:
        config.method.patch_size, config.method.patches = 16, min(config.method.patches, 2)
    if config.teacher.weights:
        config.teacher.weights, config.teacher.model = "random", "resnet18"
        config.teacher.options = ml_collections.ConfigDict()
    return config


def resolve(raw: ml_collections.ConfigDict) -> Config:
    """The frozen form of a ConfigDict.

    Raises:
      UserError: an unknown section, key or method, or a value that cannot be; names the nearest that exists.
    """
    values = raw.to_dict()
    for name in values:
        if name not in SECTIONS and name != "method":
            raise unknown("config section", name, [*SECTIONS, "method"])
    sections = {name: _section(name, cls, values.get(name, {})) for name, cls in SECTIONS.items()}
    fields = dict(values.get("method", {}))
    method_name = fields.pop("name", "")
    if method_name not in METHODS:
        raise unknown("method.name", method_name, METHODS)
    config = Config(
        method=_section("method", METHODS[method_name], fields), method_name=method_name, **sections
    )
    _check(config)
    config.method.check(config.data, config.train)
    return config


def keys() -> list[str]:
    """The keys of all sections, with those of every method."""
    sections = [*SECTIONS.items(), *(("method", method) for method in METHODS.values())]
    found = {f"{name}.{field.name}" for name, cls in sections for field in dataclasses.fields(cls)}
    return sorted(found | {"method.name"})


def check_splits(data: Data) -> None:
    """Raises `UserError` when the bank that probes learn from holds the images that they are tested on."""
    bank = data.bank or data.train
    if bank in ("all", data.val, data.test):
        key = "data.bank" if data.bank else "data.train"
        raise UserError(
            f"{key} is '{bank}', which holds the images of data.val or data.test: use --config.{key}=train, "
            "or --config.evals.knn=False to train without a probe."
        )


def _section(name: str, cls, values: dict):
    known = {f.name: f for f in dataclasses.fields(cls)}
    for key in values:
        if key not in known:
            raise unknown("config key", f"{name}.{key}", [f"{name}.{k}" for k in known])
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _check(c: Config) -> None:
    for name in SECTIONS:
        getattr(c, name).check()
    if c.train.bn_group and c.data.batch_size % c.train.bn_group:
        raise UserError(
            f"train.bn_group is {c.train.bn_group}, which does not divide data.batch_size "
            f"({c.data.batch_size}): use a divisor of it, or 0."
        )


def _choice(key: str, value, allowed) -> None:
    if value not in allowed:
        raise unknown(key, value, allowed)


def _require(key: str, value, fits: bool, what: str) -> None:
    if not fits:
        raise UserError(f"{key} is {value}: it must be {what}.")


def _above_0(section: str, values, name: str) -> None:
    value = getattr(values, name)
    _require(f"{section}.{name}", value, 0 < value < float("inf"), "above 0")


def _not_below_0(section: str, values, name: str) -> None:
    value = getattr(values, name)
    _require(f"{section}.{name}", value, 0 <= value < float("inf"), "0 or more")
