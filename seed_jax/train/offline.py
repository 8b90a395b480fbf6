"""What a method finds in the teacher's features of all training images, once, before the training.

It is kept in the workdir under a name that depends on the teacher, the data, how images are prepared, and the
method: a run that is resumed, on whatever devices, trains with the same arrays.
"""

import dataclasses
import io
import json
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from seed_jax import parallel
from seed_jax.config import Config
from seed_jax.data import files
from seed_jax.data.pipeline import BadImages, eval_batches
from seed_jax.data.sources import Source, cache
from seed_jax.data.sources.base import WithTargets, digest
from seed_jax.errors import UserError
from seed_jax.evals.features import Extractor
from seed_jax.methods.base import Offline
from seed_jax.train import damage
from seed_jax.train.build import Prepared
from seed_jax.train.monitor import say

SEEN = "seen"  # in the file, beside the method's arrays: bool `[images]`, False where an image was unreadable
FORMAT = 2  # raise it when what is found changes: older files are then never read


def with_found(p: Prepared, directory: Path, name: str) -> Prepared:
    """The run with what its method finds as further targets of its training images.

    Args:
      directory: the workdir.
      name: shown next to the progress bar.

    Raises:
      UserError: the file in the workdir is damaged or cannot be read or written, or the teacher's features
        are not finite.
    """
    if p.offline is None:
        return p
    train = p.sources.train
    file = path(directory, p.config, p.facts["teacher"], train.fingerprint())
    found = load(file, p.offline, len(train))
    if parallel.anywhere(found is None):
        if damage.saved_steps(directory / "checkpoints"):
            say(f"{name}: {file} is missing, and this run has a checkpoint: what it had is computed again")
        found = _find(p, name)
        if jax.process_index() == 0:
            _save(file, found)
        parallel.wait_for_all("offline")
    sources = dataclasses.replace(p.sources, train=_with(train, found))
    return dataclasses.replace(p, sources=sources)


def _with(source, found):
    """The images with what was found; those that the teacher has not seen count as unreadable."""
    targets = {name: rows for name, rows in found.items() if name != SEEN}
    return WithTargets(source, targets, found[SEEN])


def path(directory: Path, config: Config, teacher: Mapping, fingerprint: str) -> Path:
    """The file of a run's arrays.

    Args:
      teacher: where the weights come from, as in the manifest.
      fingerprint: of the training images.
    """
    places = ("source", "file") if "sha256" in teacher else ()
    t, d = dataclasses.asdict(config.teacher), config.data
    key = {
        "format": FORMAT,
        "teacher": {k: v for k, v in teacher.items() if k not in places},
        "network": {k: v for k, v in t.items() if k != "weights"},
        "precision": config.train.precision,
        "data": fingerprint,
        "images": (d.image_size, d.resize, d.background),
        "method": (config.method_name, repr(config.method)),
        "seed": config.train.seed,
    }
    return directory / f"offline-{digest(json.dumps(key, sort_keys=True).encode())}.npz"


def load(file: Path, offline: Offline, images: int) -> dict[str, np.ndarray] | None:
    """The method's arrays in a file and `SEEN`, `[images, ...]` each; None if there is no such file.

    Raises:
      UserError: it cannot be read, is damaged, or has other arrays.
    """
    try:
        content = io.BytesIO(file.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(
            f"{file} cannot be read ({error.strerror}): make it readable, and run the same command again."
        ) from error
    try:
        with np.load(content, allow_pickle=False) as arrays:
            found = dict(arrays)
    except cache.BROKEN_NPZ:
        found = {}
    wanted = {name: ((images, *row.shape), row.dtype) for name, row in offline.rows.items()}
    wanted[SEEN] = (images,), np.dtype(bool)
    if {name: (x.shape, x.dtype) for name, x in found.items()} != wanted:
        raise UserError(
            f"{file} is damaged or was not written by this run: remove it, and what it should have "
            "is computed again."
        )
    return found


def with_rows(source: Source, directory: Path, config: Config, teacher: Mapping | None) -> Source:
    """The training images of a run that has ended, with the targets that `with_found` gave them.

    Args:
      source: the images, without those targets.
      teacher: as for `path`.

    Raises:
      UserError: the workdir lacks the arrays.
    """
    offline = config.method.offline(len(source))
    if offline is None:
        return source
    file = path(directory, config, teacher, source.fingerprint())
    found = load(file, offline, len(source))
    if found is None:
        raise UserError(f"{file} is missing, so the run's targets are not known: restore it.")
    return _with(source, found)


def _find(p: Prepared, name: str) -> dict[str, np.ndarray]:
    """The arrays that `load` reads; rows of images that the teacher has not seen are 0."""
    d, batch_size, train, entry = p.config.data, p.config.evals.batch_size, p.sources.train, p.offline.entry
    say(f"{name}: the teacher looks at {len(train):,} training images once, before the training")
    batches = eval_batches(
        train, d.image_size, batch_size, resize=d.resize, background=d.background, bad=BadImages(train)
    )
    places = parallel.variable_shardings(p.mesh, p.teacher_variables, divided=p.config.train.shard_params)
    variables = jax.device_put(p.teacher_variables, places)
    extract = Extractor(p.teacher, p.mesh, keys=(entry,))
    features, _, _, index = extract.whole(variables, batches, len(train), batch_size, f"{name}, teacher")
    features = features[entry]
    if not np.isfinite(features).all():
        raise UserError(f"teacher.weights: the teacher's {entry!r} is not finite: use another teacher.")
    p.config.method.offline(len(index))  # as many as can be read may be too few
    say(f"{name}: searching the teacher's features, {features.shape[0]:,} x {features.shape[1]:,}")
    rows, note = p.offline.find(features, index, p.mesh, p.config.train.seed)
    if note:
        say(f"{name}: {note}")
    found = {SEEN: np.zeros(len(train), bool)}
    found[SEEN][index] = True
    for key, row in p.offline.rows.items():
        found[key] = np.zeros((len(train), *row.shape), row.dtype)
        found[key][index] = rows[key]
    return found


def _save(file: Path, found: Mapping[str, np.ndarray]) -> None:
    try:
        with files.whole(file) as opened:
            np.savez(opened, **found)
    except OSError as error:
        raise UserError(
            f"{file} cannot be written ({error.strerror}): free some space or make it writable, and run the "
            "same command again."
        ) from error
