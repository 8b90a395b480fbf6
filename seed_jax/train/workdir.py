"""The workdir of a run: its lock, `config.json` and `manifest.json`, and loading a run from it."""

import contextlib
import dataclasses
import errno
import fcntl
import importlib.metadata
import json
import logging
import math
import os
import subprocess
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections

from seed_jax import config as config_lib
from seed_jax import parallel
from seed_jax.data import files, images
from seed_jax.errors import UserError
from seed_jax.methods.base import Given
from seed_jax.models.network import Network
from seed_jax.train import checkpoint, damage, student

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
    "pillow",
    "simplejpeg",
    "cykooz-resizer",
)
# Config keys that name a location, and the key of the manifest that identifies the content there.
PLACES = {"data.dir": "data.fingerprint", "teacher.weights": "teacher.sha256"}
# Side of the images of sources that come with a package, pixels.
SIDES = {"digits": 32, "scattered": 16, "photos": 32, "photos6": 32}


class InUse(UserError):
    """Another process holds the lock of a workdir."""


@contextlib.contextmanager
def hold(workdir: Path, file: str = ".lock"):
    """A context that locks the workdir against other runs; creates the folder if missing.

    The system releases the lock however this process ends, except on some network file systems when the host
    dies. Without effect on a file system without locks.

    Args:
      file: the name of the lock file: '.lock' is that of a run.

    Raises:
      InUse: another run has the lock.
      UserError: the folder cannot be created.
    """
    with contextlib.ExitStack() as stack:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            if jax.process_index() == 0:
                lock = stack.enter_context(open(workdir / file, "w"))
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse(
                f"Another run is using {workdir}: wait for it, or use another folder; if its host died, "
                f"remove {workdir}/{file}."
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise UserError(
                    f"{workdir} cannot be created ({error.strerror}): use another path."
                ) from error
        yield


def agree(workdir: Path, raw: ml_collections.ConfigDict, facts: dict) -> None:
    """Check that all processes have the same workdir, config and facts (of `write_manifest`).

    Keys that do not change the result may differ: `data.workers`, `log.tensorboard`, `log.wandb`, and the
    paths of the data and the teacher.

    Raises:
      UserError: in every process, naming the keys that differ.
    """
    mine = {"--workdir": str(workdir)} | _resolved(_plain(raw)) | _flat(_as_json(facts))
    free = {*PLACES, "data.workers", "log.tensorboard", "log.wandb", "teacher.source", "teacher.file"}
    compared = {key: value for key, value in mine.items() if key not in free}
    first, *others = map(json.loads, parallel.gather(json.dumps(compared)))
    for number, other in enumerate(others, start=1):
        if other != first:
            raise UserError(
                "The processes do not belong to one run: "
                f"{_differences(first, other, 'in process 0', f'in process {number}')}: start all of them "
                "with the same config, data and teacher."
            )


def claim(workdir: Path, raw: ml_collections.ConfigDict) -> None:
    """Write `config.json`, or check that the config in it is the same.

    The `log` section, `data.workers` and `train.shard_params` may differ, and so may the paths of the data
    and the teacher if the manifest identifies their content. A workdir without a checkpoint is not checked:
    nothing in it can be lost.

    Raises:
      UserError: the workdir has a run of another config (names the keys that differ), or a `config.json` that
        no run wrote.
    """
    path = workdir / "config.json"
    mine = _plain(raw)
    if path.exists() and not {"method", "train"} <= _read_config(path).keys():
        raise UserError(f"{path} is not of a run: use another --workdir.")
    if path.exists() and _has_checkpoint(workdir):
        warn_of_resize(workdir)
        theirs, mine = _resolved(_read_config(path)), _resolved(mine)
        known = (
            _flat(files.read_json(workdir / "manifest.json")) if (workdir / "manifest.json").exists() else {}
        )
        places = {key for key, content in PLACES.items() if known.get(content)}
        of_log = {key for key in theirs | mine if key.startswith("log.")}
        free = places | of_log | {"data.workers", "train.shard_params"}
        theirs, mine = ({k: v for k, v in run.items() if k not in free} for run in (theirs, mine))
        if theirs != mine:
            raise UserError(
                f"{workdir} has a run of another config: {_differences(theirs, mine, 'there', 'here')}: "
                "use another --workdir, or the config of that run."
            )
        return
    _write(path, mine)


def write_manifest(workdir: Path, **facts) -> None:
    """Write `manifest.json` with versions, commit, devices and `facts`, or check the one of a run to resume.

    Facts that the existing manifest does not have are not compared: an older version of this code wrote it.

    Args:
      **facts: JSON types; what identifies the teacher, the student's initial weights and the data.

    Raises:
      UserError: a fact changed since the start of the run.
    """
    path = workdir / "manifest.json"
    facts = _as_json(facts)
    if path.exists() and _has_checkpoint(workdir):
        manifest = files.read_json(path)
        before, now = _flat(manifest), _flat({k: v for k, v in facts.items() if k in manifest})
        named = {"class_names"}  # other facts identify what these name
        if "teacher.sha256" in before.keys() & now.keys():
            named |= {"teacher.source", "teacher.file"}
        differ = [
            f"{k} was {before.get(k)} and is {v}"
            for k, v in now.items()
            if k not in named and before.get(k) != v
        ]
        if differ:
            raise UserError(
                f"The run in {workdir} cannot resume because its data, teacher or student.init changed: "
                f"{'; '.join(differ[:5])}: restore them, or use another --workdir."
            )
        return
    devices = jax.devices()
    manifest = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "commit": _commit(),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processes": jax.process_count(),
        **facts,
    }
    _write(path, manifest)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run loaded from its workdir: network (backbone and parts), variables, config, manifest, and step."""

    network: Network
    variables: dict
    config: config_lib.Config
    manifest: dict
    step: int


def load_run(workdir: str | os.PathLike, *, precision: str | None = None, best: bool = False) -> Run:
    """Load a run from its newest checkpoint, to this process's first device.

    Args:
      precision: 'fp32' or 'bf16'; the run's own by default.
      best: take the checkpoint with the highest score instead of the newest.

    Raises:
      UserError: the folder is not the workdir of a run, or has no such checkpoint.
    """
    workdir = Path(workdir)
    if not (workdir / "config.json").exists() or not (workdir / "manifest.json").exists():
        raise UserError(f"{workdir} is not the workdir of a run: it has no config.json and manifest.json.")
    config = config_lib.resolve(raw_of(workdir))
    manifest = files.read_json(workdir / "manifest.json")
    if not {"data", "steps", "steps_per_epoch"} <= manifest.keys():
        raise UserError(f"{workdir}/manifest.json is not of a run: restore the original file.")
    train = dataclasses.replace(config.train, precision=precision or config.train.precision)
    built = dataclasses.replace(config, train=train)
    given = given_of(built, manifest)
    network, shapes = student.served(config.method, student.network(built, given), given)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), shapes)
    variables, step = checkpoint.load_model(workdir, like, best=best)
    return Run(network, variables, config, manifest, step)


def warn_of_resize(workdir: str | os.PathLike) -> None:
    """Log one sentence if the run is older than `data.resize`, which may change how its images are evaluated.

    Not for packaged sources, whose images have one known size (`_read_config`).
    """
    path = Path(workdir) / "config.json"
    data = _read_config(path).get("data", {}) if path.exists() else {}
    side = data.get("image_size")
    if side and "resize" not in data and data.get("source") not in SIDES and jax.process_index() == 0:
        logging.warning(
            "%s is older than data.resize: evaluation now resizes images of exactly %d pixels, too, to a "
            'short side of %d before the centre crop; if all images have that size, add "resize": 1.0 to '
            "the section data of that file, and --config.data.resize=1.0 to the command that resumes.",
            path,
            side,
            round(side * images.EVAL_RESIZE),
        )


def _read_config(path: Path) -> dict:
    """A `config.json`, with today's keys and values in place of older ones.

    Older ones have the switch `evals.knn` in place of `evals.names`, and the source 'photographs'. Before
    `data.resize`, an image of `data.image_size` was not resized; all images of a packaged source have one
    size.
    """
    raw = files.read_json(path)
    if "knn" in raw.get("evals", {}) and not raw["evals"].pop("knn"):
        raw["evals"]["names"] = ["top1"]
    data = raw.get("data", {})
    if data.get("source") == "photographs":
        data["source"] = "folder" if data.get("dir") else "photos6"
    if "resize" not in data and SIDES.get(data.get("source"), 0) == data.get("image_size"):
        data["resize"] = 1.0
    return raw


def given_of(config: config_lib.Config, manifest: dict) -> Given:
    """The method's `Given`, from the manifest.

    Older manifests have only the width of the embedding, or no `teacher_prefix`: their runs took the largest
    square of the teacher's tokens for its patches.
    """
    features = manifest.get("teacher_features")
    if features is None and manifest.get("teacher_dim"):
        shape = [config.data.batch_size, manifest["teacher_dim"]]
        features = {"embedding": {"shape": shape, "dtype": "float32"}}
    if features is not None:
        features = {
            name: jax.ShapeDtypeStruct(x["shape"], jnp.dtype(x["dtype"])) for name, x in features.items()
        }
    prefix = manifest.get("teacher_prefix")
    if prefix is None:
        tokens = features["tokens"].shape[1] if features and "tokens" in features else 0
        prefix = tokens - math.isqrt(tokens) ** 2
    return student.make_given(
        config,
        manifest["data"]["num_classes"],
        manifest["steps"],
        manifest["steps_per_epoch"],
        features,
        prefix,
    )


def _differences(a: dict, b: dict, where_a: str, where_b: str) -> str:
    keys = [key for key in sorted({*a, *b}) if a.get(key, "absent") != b.get(key, "absent")]
    shown = "; ".join(
        f"{key} is {a.get(key, 'absent')} {where_a} and {b.get(key, 'absent')} {where_b}" for key in keys[:5]
    )
    return shown + (f" (and {len(keys) - 5} more keys)" if len(keys) > 5 else "")


def _has_checkpoint(workdir: Path) -> bool:
    """Whether the run has a finished checkpoint."""
    return bool(damage.saved_steps(workdir / "checkpoints"))


def settings(raw: ml_collections.ConfigDict) -> dict:
    """All settings of a config, flat, by dotted key, as JSON has them."""
    return _resolved(_plain(raw))


def settings_of(directory: Path) -> dict:
    """`settings` of the run in a workdir; keys that are newer than the run have their defaults."""
    return settings(raw_of(directory))


def raw_of(directory: Path) -> ml_collections.ConfigDict:
    """The config of the run in a workdir."""
    return ml_collections.ConfigDict(_read_config(Path(directory) / "config.json"))


def _resolved(raw: dict) -> dict:
    """All keys of a config; keys that are newer than the config have their defaults."""
    config = dataclasses.asdict(config_lib.resolve(ml_collections.ConfigDict(raw)))
    return _flat(_as_json(config))


def _plain(raw) -> dict:
    return _as_json(raw.to_dict())


def _as_json(content: dict) -> dict:
    """The content as JSON returns it: tuples become lists."""
    return json.loads(json.dumps(content))


def _flat(tree: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _write(path: Path, content: dict) -> None:
    if jax.process_index() == 0:
        files.write(path, json.dumps(content, indent=2) + "\n")


def _commit() -> str:
    """The commit of this code; 'unknown' without git, or if the package is not in a repository of its own."""
    root = Path(__file__).parents[2]
    top = _git(root, "rev-parse", "--show-toplevel")
    here = top and Path(top).resolve() == root.resolve()
    return here and _git(root, "describe", "--always", "--dirty") or "unknown"


def _git(folder: Path, *arguments: str) -> str:
    """What a git command prints; '' if it fails."""
    try:
        git = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return ""
    return git.stdout.strip()
