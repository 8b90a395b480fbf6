"""The sections of a config: frozen dataclasses that check their own values."""

import dataclasses
from typing import Any

from seed_jax.data.augmentations import POLICIES
from seed_jax.data.images import EVAL_RESIZE, WHITE
from seed_jax.data.photometric import PRESETS
from seed_jax.data.pipeline import LAST
from seed_jax.data.sources import scored_splits, settle
from seed_jax.data.views import CROPS
from seed_jax.errors import UserError, unknown
from seed_jax.evals import EVALUATORS


@dataclasses.dataclass(frozen=True)
class Data:
    """The source of the images and the views that are cut from them.

    Attributes:
      source: one of `seed_jax.data.sources.SOURCES`, where 'digits', 'scattered', 'photos' and 'photos6' are
        embedded; '' to recognise it from `dir`.
      dir: folder, file or pattern to read, or the data_dir of tensorflow-datasets; '' for embedded sources.
      subset: share of the training split, such as '1%' of each class, drawn by train.seed, or by seed 3 as
        '1%@3'; or a file that lists the images; '' for the whole split.
      train: split to train on, or several as 'train+val'; '' for 'train' where the images have labels, else
        'all'.
      val: split for probes during training and for choices.
      test: split for the scores reported at the end.
      bank: split that the online kNN searches; '' for the training split.
      batch_size: images per batch, over all devices.
      image_size: side of a view, pixels.
      resize: short side in evaluation, before the centre crop, as a multiple (1 to 2) of `image_size`.
      background: colour (red, green, blue), 0 to 255, that images with alpha are composited on.
      crop_scale: range of the crop's share of the image area, within (0, 1]; used by crop 'random' only.
      flip: probability of mirroring a view left to right.
      photometric: changes of colour and blur, a key of `seed_jax.data.photometric.PRESETS`.
      workers: reading processes per training process; with 0, threads read. The batches are the same.
      crop: 'random' (random-resized crop), 'pad' (pad with black, then a random window, usual for CIFAR) or
        'centre' (as in evaluation); see `ViewSpec`.
      padding: black pixels added on each side; used by crop 'pad' only.
      policy: augmentation of each view after its photometrics: one of `seed_jax.data.augmentations.POLICIES`,
        of which 'timm_rand_augment' is the `rand-m9-mstd0.5-inc1` of fine-tuning recipes; '' for none. The
        small views of `seed`, `dino` and `swav` get none. Boxes and masks given to a loss do not move with
        it.
      erase: probability of filling a random rectangle of a view with noise, at the end, like timm's mode
        `pixel`; 0.25 in fine-tuning recipes.
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
    resize: float = EVAL_RESIZE
    background: tuple[int, int, int] = WHITE
    crop_scale: tuple[float, float] = (0.2, 1.0)
    flip: float = 0.5
    photometric: str = "mocov2"
    workers: int = 0
    crop: str = "random"
    padding: int = 4
    policy: str = ""
    erase: float = 0.0
    last: str = "drop"

    def check(self) -> None:
        _choice("data.photometric", self.photometric, PRESETS)
        _choice("data.crop", self.crop, CROPS)
        _choice("data.policy", self.policy, ("", *POLICIES))
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
        _require("data.resize", self.resize, 1 <= self.resize <= 2, "1 to 2")
        _require(
            "data.background",
            self.background,
            len(self.background) == 3 and all(0 <= x <= 255 for x in self.background),
            "three whole numbers from 0 to 255: red, green and blue",
        )
        for name in ("flip", "erase"):
            _require(f"data.{name}", getattr(self, name), 0 <= getattr(self, name) <= 1, "0 to 1")
        for name in ("workers", "padding"):
            _not_below_0("data", self, name)

    def settled(self) -> "Data":
        """This section with '' in `source` and `train` replaced by what it means; reads `dir` for that.

        Of a recognised source that has only one of `val` and `test`, that split stands for both.

        Raises:
          UserError: as `sources.settle`.
        """
        if self.source and self.train:
            return self
        source, train = settle(self.source, self.dir, self.train)
        val, test = self.val, self.test
        if not self.source:
            val, test = scored_splits(source, self.dir, val, test)
        return dataclasses.replace(self, source=source, train=train, val=val, test=test)


@dataclasses.dataclass(frozen=True)
class Student:
    """The network that is trained.

    Attributes:
      model: a key of `seed_jax.models.MODELS`.
      options: options of the model, e.g. `width` or `remat`; also the `mean` and `std` of its images.
      image_size: side of its images, pixels, resized on the device; 0 for data.image_size.
      init: weights that the backbone starts from, in any form that teacher.weights takes; '' for random ones.
    """

    model: str = "mobilenetv3_large"
    options: dict = dataclasses.field(default_factory=dict)
    image_size: int = 0
    init: str = ""

    def check(self) -> None:
        _not_below_0("student", self, "image_size")


@dataclasses.dataclass(frozen=True)
class Teacher:
    """The frozen network that the student learns from, for methods that need one.

    Attributes:
      weights: a checkpoint (.pth, .pth.tar, .safetensors, .npz), the workdir of a run, `pip:NAME` for an
        installed package, or 'random' to measure speed and for smoke runs.
      model: a key of `seed_jax.models.MODELS`; '' to recognise it from the weights.
      options: options of the model, also `mean` and `std`, that the weights do not state.
      image_size: side of its images, pixels, resized on the device; 0 for data.image_size.
      dim: width of the embedding of a 'random' teacher.
    """

    weights: str = ""
    model: str = ""
    options: dict = dataclasses.field(default_factory=dict)
    image_size: int = 0
    dim: int = 128

    def check(self) -> None:
        _not_below_0("teacher", self, "image_size")
        _above_0("teacher", self, "dim")


@dataclasses.dataclass(frozen=True)
class Optim:
    """The optimizer and its schedule.

    Attributes:
      name: 'sgd', 'adamw' or 'lars'.
      lr: learning rate for a batch of `lr_batch`; the rate used is lr * batch_size / lr_batch (Goyal et al.
        2017).
      lr_batch: batch size that `lr` and `lr_min` refer to; 0 uses them unscaled.
      parts_lr: learning rate of the parts joined to the backbone, such as the classifier, scaled and
        scheduled as `lr` is, with a proportional floor; 0 uses `lr`. Fine-tuning with few labels uses
        two rates.
      lr_min: the rate that 'cosine' and 'poly' decay to, at most `lr` and scaled as `lr` is.
      momentum: momentum of sgd and lars, 0 or more and below 1.
      nesterov: Nesterov momentum (PyTorch's formula), for sgd with `momentum` above 0 only.
      restart_momentum: set the momentum buffer to zero at each of `milestones`, for sgd with `momentum` above
        0 and 'steps' only. Implementations that rebuild their optimizer when the rate drops do this
        (szagoruyko/attention-transfer).
      weight_decay: weight decay; sgd and lars add it to the gradient, in adamw it is decoupled.
      weight_decay_end: the weight decay at the end of the run, reached along half a cosine, as in DINO; 0 for
        a constant one.
      decay: parameters with weight decay: 'all', as in SEED and MoCo, or 'kernels', those with more
        than one axis, except position tables and tokens, as in MAE.
      layer_decay: rate of each layer divided by that of the next, in networks with layer numbers, above 0 and
        at most 1; 1 for none (BEiT, MAE).
      schedule: 'cosine', 'steps', 'poly' or 'constant'.
      milestones: where 'steps' multiplies the rate by `factor`, in rising order: shares of the run, all
        above 0 and below 1, or epochs, all 1 or more.
      factor: factor by which 'steps' multiplies the rate at each milestone, above 0.
      power: exponent of 'poly', which is (1 - share of the run) ** power; above 0.
      decay_from: 'cosine' and 'poly' count from the 'start' of the run, so that warm-up hides the first part
        of the decay, or from the end of 'warmup', as timm's warmup_prefix. 'steps' allows 'start' only.
      warmup_epochs: epochs of linear warm-up.
      warmup_from: 'zero', or 'lr' (the unscaled rate), as in the released SEED code.
      update: the rate changes every 'step' or every 'epoch'.
      clip_norm: largest global norm of the gradient; 0 for no limit.
    """

    name: str = "sgd"
    lr: float = 0.03
    lr_batch: int = 256
    parts_lr: float = 0.0
    lr_min: float = 0.0
    momentum: float = 0.9
    nesterov: bool = False
    restart_momentum: bool = False
    weight_decay: float = 1e-4
    weight_decay_end: float = 0.0
    decay: str = "all"
    layer_decay: float = 1.0
    schedule: str = "cosine"
    milestones: tuple[float, ...] = (0.6, 0.8)
    factor: float = 0.1
    power: float = 0.9
    decay_from: str = "start"
    warmup_epochs: float = 0.0
    warmup_from: str = "zero"
    update: str = "step"
    clip_norm: float = 0.0

    def check(self) -> None:
        _choice("optim.name", self.name, ("sgd", "adamw", "lars"))
        _choice("optim.decay", self.decay, ("all", "kernels"))
        _choice("optim.schedule", self.schedule, ("cosine", "steps", "poly", "constant"))
        _choice("optim.decay_from", self.decay_from, ("start", "warmup"))
        _choice("optim.warmup_from", self.warmup_from, ("zero", "lr"))
        _choice("optim.update", self.update, ("step", "epoch"))
        for name in (
            "lr",
            "lr_batch",
            "parts_lr",
            "lr_min",
            "weight_decay",
            "weight_decay_end",
            "clip_norm",
            "warmup_epochs",
        ):
            _not_below_0("optim", self, name)
        for name in ("factor", "power"):
            _above_0("optim", self, name)
        _require("optim.momentum", self.momentum, 0 <= self.momentum < 1, "0 to less than 1")
        _require("optim.layer_decay", self.layer_decay, 0 < self.layer_decay <= 1, "above 0 and at most 1")
        _require("optim.lr_min", self.lr_min, self.lr_min <= self.lr, f"at most optim.lr ({self.lr})")
        _require("optim.parts_lr", self.parts_lr, self.lr > 0 or not self.parts_lr, "0 where optim.lr is 0")
        m = self.milestones
        _require(
            "optim.milestones",
            m,
            (all(0 < x < 1 for x in m) or all(1 <= x < float("inf") for x in m))
            and list(m) == sorted(set(m)),
            "shares of the run, all above 0 and below 1, or epochs, all 1 or more, in rising order",
        )
        has_momentum = self.name == "sgd" and self.momentum > 0
        _require(
            "optim.nesterov",
            self.nesterov,
            has_momentum or not self.nesterov,
            "False unless optim.name is 'sgd' and optim.momentum above 0",
        )
        _require(
            "optim.restart_momentum",
            self.restart_momentum,
            (has_momentum and self.schedule == "steps") or not self.restart_momentum,
            "False unless optim.name is 'sgd', optim.momentum above 0 and optim.schedule 'steps'",
        )
        _require(
            "optim.decay_from",
            self.decay_from,
            self.decay_from == "start" or self.schedule != "steps",
            "'start' when optim.schedule is 'steps', whose milestones count from the start of the run",
        )


@dataclasses.dataclass(frozen=True)
class Train:
    """Length, seed and numerics of a run.

    Attributes:
      epochs, steps, examples: length of the run in epochs, steps or images; set one, leave the other two 0.
      seed: seed of every random choice, 0 to 2**32 - 1; JAX's keys use 32 bits of it.
      precision: 'fp32' (on GPUs XLA's default, TF32), or 'bf16' for convolutions and matrix products.
      bn_group: samples that BatchNorm computes its statistics over, a divisor of data.batch_size; the papers'
        eight GPUs had 32 images each. 0 for the whole batch.
      accumulate: micro-batches per step, computed one after the other to save memory; their gradients are
        averaged. More than 1 is refused where the gradient would change: for a loss that compares samples, a
        method that carries state, such as a queue, and BatchNorm over the whole batch.
      ema: decay, below 1, of a moving average of the student's weights and statistics, updated after each
        step, which is then probed, exported and loaded by later runs; 0 for none.
      shard_params: divide parameters, optimizer state, moving averages and the teacher's variables among the
        devices, each array along its longest axis that their number divides, instead of keeping all of them
        on every device; XLA gathers what it needs of them (docs/scale.md).
      checkpoint_epochs: epochs between checkpoints, each with a probe.
      keep: number of newest checkpoints to keep; the one with the best score is kept, too.
    """

    epochs: float = 0.0
    steps: int = 0
    examples: int = 0
    seed: int = 0
    precision: str = "fp32"
    bn_group: int = 32
    accumulate: int = 1
    ema: float = 0.0
    shard_params: bool = False
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
        for name in ("checkpoint_epochs", "keep", "accumulate"):
            _above_0("train", self, name)
        _require("train.ema", self.ema, 0 <= self.ema < 1, "0 to less than 1")
        _require("train.seed", self.seed, 0 <= self.seed < 2**32, "0 to 2**32 - 1")
        for name in ("epochs", "steps", "examples"):
            _not_below_0("train", self, name)


@dataclasses.dataclass(frozen=True)
class Evals:
    """The probe during training. Without labels, it measures how well the student imitates the teacher.

    Attributes:
      names: the evaluators that a probe runs, keys of `seed_jax.evals.EVALUATORS`, each once; () for no
        probe. 'knn' is the majority vote of the nearest images in the bank; 'top1' scores the network's own
        classifiers, if it has any; 'neighbours' is the share of the teacher's nearest neighbours that are the
        student's too; it needs no labels, and runs on data without any. On the command line: knn,top1.
      every_epochs: epochs between probes; there is also one at step 0 and one at the last step.
      k: neighbours that vote in kNN.
      bank_size: use this many images of the bank split, evenly spaced; 0 for all.
      feature: entry of the features that evaluators read, e.g. 'pooled' or 'embedding'.
      batch_size: images per forward, over all devices.
    """

    names: tuple[str, ...] = ("knn", "top1")
    every_epochs: float = 1.0
    k: int = 10
    bank_size: int = 0
    feature: str = "pooled"
    batch_size: int = 256

    def check(self) -> None:
        for name in self.names:
            _choice("evals.names", name, EVALUATORS)
        _require("evals.names", self.names, len({*self.names}) == len(self.names), "each evaluator once")
        for name in ("every_epochs", "batch_size", "k"):
            _above_0("evals", self, name)
        _not_below_0("evals", self, "bank_size")


@dataclasses.dataclass(frozen=True)
class Log:
    """Where metrics go besides `metrics.jsonl`.

    Attributes:
      every_steps: steps per line of metrics.
      tensorboard: also write event files, if tensorboardX is installed.
      wandb: W&B project to log to; '' for none.
    """

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


def _choice(key: str, value, allowed) -> None:
    if value not in allowed:
        raise unknown(key, value, allowed)


def _require(key: str, value, fits: bool, what: str) -> None:
    if not fits:
        raise UserError(f"{key} is {value}: it must be {what}.")


def _above_0(section: str, values, name: str) -> None:
    value = getattr(values, name)
    _require(f"{section}.{name}", value, value > 0, "above 0")


def _not_below_0(section: str, values, name: str) -> None:
    value = getattr(values, name)
    _require(f"{section}.{name}", value, value >= 0, "0 or more")
