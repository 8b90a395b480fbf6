"""What may go wrong in a run, before it is started: `main.py --config=… --check`.

Nothing is trained and nothing is written. The teacher sees at most 2,000 images of the probe's split, and as
many to learn from, as a probe prepares them.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import ml_collections
import numpy as np

from seed_jax import config as config_lib
from seed_jax import parallel
from seed_jax.config import Config
from seed_jax.data.inspect import SAMPLE, repeated
from seed_jax.data.sources import Source, open_source
from seed_jax.data.sources.base import in_common
from seed_jax.evals import pixels
from seed_jax.evals.base import SharedFeatures
from seed_jax.evals.features import check, unit
from seed_jax.evals.hypersphere import uniformity
from seed_jax.evals.knn import Knn
from seed_jax.evals.neighbours import IMAGES, effective_rank
from seed_jax.evals.online import evenly
from seed_jax.report.remedies import remedies
from seed_jax.report.tables import Table
from seed_jax.report.verdict import wilson
from seed_jax.train import build
from seed_jax.train.monitor import say

MOST = 2_000  # images of each split that the teacher sees
CONSTANT = 1e-4  # below this variance a teacher's embeddings are equal up to rounding in bf16
LOW_VARIANCE = 0.02  # mean cosine of two images above 0.98
LOW_RANK = 5.0  # directions that the embeddings use
ANOTHER = "take another teacher.weights, or the data.image_size that it was trained at"
LATE = "the queue turns only after half of the run: use a smaller method.queue_size or train longer."
FEW_ROWS = (
    "there are more prototypes than rows to share them: use fewer method.prototypes, or a larger "
    "method.queue_size."
)
NAMED = 3  # repeated images


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the check.

    Attributes:
      name: what was looked at.
      found: its value, in words.
      remedy: a sentence on what to do; '' if all is well.
      stops: whether the run cannot work as it is.
      known: whether `found` is a value; else it says why there is none.
    """

    name: str
    found: str
    remedy: str = ""
    stops: bool = False
    known: bool = True

    @property
    def verdict(self) -> str:
        """'STOP', 'look', 'OK', or '–' if nothing is known."""
        if not self.known:
            return "–"
        return "STOP" if self.stops else "look" if self.remedy else "OK"


def run(raw: ml_collections.ConfigDict) -> int:
    """Print what `findings` finds, and return the exit code: 1 if the run cannot work, else 0.

    Raises:
      UserError: as `build.prepare`, which does whatever can fail before a run compiles.
    """
    found = findings(config_lib.resolve(raw), raw.to_dict())
    say(text(found))
    return int(any(finding.stops for finding in found))


def text(found: Sequence[Finding]) -> str:
    """The findings as a table, and a sentence for each remedy."""
    table = Table(("check", "found", "verdict"), [(f.name, f.found, f.verdict) for f in found])
    advice = [f"{f.name}: {f.remedy}" for f in found if f.remedy]
    fine = "All OK." if all(f.known for f in found) else "All that is known is OK."
    return "\n\n".join([table.aligned(), "\n".join(advice) or fine])


def findings(c: Config, settings: Mapping) -> list[Finding]:
    """All findings on a run.

    Args:
      settings: the same config as a dictionary, as in config.json.

    Raises:
      UserError: as `run`.
    """
    mesh = parallel.make_mesh()
    with jax.set_mesh(mesh):
        p = build.prepare(c, mesh, "check")
        found = of_teacher(p) if p.teacher else []
    c, sources, images = p.config, p.sources, len(p.sources.train)
    splits = [sources.train] + [source for source in _scored(p) if _apart(source, sources.train)]
    found.append(of_images(splits, workers=max(1, c.data.workers)))
    usual = remedies(settings, {"steps": p.length.total, "data": {"images": images}}, fell=False)
    return found + of_settings(c, p.length, images, usual)


def _scored(p: build.Prepared) -> list[Source]:
    """The validation and test images, which probes and the final evaluation score."""
    d, val = p.sources.data, p.sources.val
    if not p.sources.held_out or d.test == d.val:
        return [] if val is None else [val]
    return [val, open_source(d.source, d.test, dir=d.dir or None)]


def of_teacher(p: build.Prepared) -> list[Finding]:
    """Whether the teacher tells the images apart, and whether its neighbours are of the same class."""
    c, mesh, sources = p.config, p.mesh, p.sources
    val = sources.train if sources.val is None else sources.val
    splits = {"queries": evenly(val, MOST)}
    if apart := _apart(sources.val, sources.bank):
        splits["bank"] = evenly(sources.bank, MOST)
    features = SharedFeatures(p.teacher, p.teacher_variables, mesh, c, splits)
    features.want("queries", "embedding")
    labelled = apart and all((source.labels() >= 0).all() for source in splits.values())
    knn = Knn(features, c.evals) if labelled else None
    embeddings = features.get("queries")[0]["embedding"]
    found = of_embeddings(check(embeddings, np.zeros(len(embeddings), np.int32), "query")[0])
    if knn is None:
        why = "no labels" if apart or sources.bank is None else "no images but those that are scored"
        return [*found, Finding("teacher: kNN", f"not known, {why}", known=False)]
    raw, of_raw = pixels.scored(c, len(splits["bank"]), len(splits["queries"]))
    of_pixels = Knn(SharedFeatures(raw, pixels.VARIABLES, mesh, of_raw, splits), of_raw.evals)
    return [*found, of_neighbours(knn.run(None)["knn"], of_pixels.run(None)["knn"])]


def _apart(val: Source | None, other: Source | None) -> bool:
    """Whether both are there and have no image in common."""
    return None not in (val, other) and not in_common(val, other)


def of_embeddings(embeddings: np.ndarray) -> list[Finding]:
    """Variance and effective rank of the teacher's embeddings, float `[M, D]`; not known of one image.

    The variance is that of embeddings of length 1, or 0 if they are 0, summed over the dimensions: 0 if all
    are equal, and nearly 1 if they are spread evenly. The rank is that of at most 512 evenly spaced images,
    as in a probe.
    """
    if len(embeddings) < 2:
        return [Finding("teacher: variance", "not known, one image", known=False)]
    z = unit(embeddings)
    variance = float(np.square(z).sum(axis=1).mean() - np.square(z.mean(axis=0)).sum())
    same, low = variance < CONSTANT, ""
    if variance < LOW_VARIANCE:
        which = "the same embedding" if same else "nearly the same embedding"
        low = f"the teacher has {which} for all images: {ANOTHER}."
    rows = np.linspace(0, len(embeddings) - 1, min(IMAGES, len(embeddings))).astype(np.int64)
    rank, limit = effective_rank(embeddings[rows]), min(LOW_RANK, *(n / 2 for n in embeddings.shape))
    few = f"the teacher tells images apart in few directions: {ANOTHER}." if rank < limit else ""
    spread = f"{variance:.2g} of 1, uniformity {uniformity(embeddings):.2g}, {len(embeddings):,} images"
    return [
        Finding("teacher: variance", spread, low, stops=same),
        Finding("teacher: effective rank", f"{rank:.1f} of {embeddings.shape[1]} dimensions", few),
    ]


def of_neighbours(right: np.ndarray, of_pixels: np.ndarray) -> Finding:
    """kNN accuracy of the teacher and of raw pixels on the same images, bool `[M]` each."""
    low, high = wilson(right.mean(), len(right))
    own, its = (f"{100 * x.mean():.1f} %" for x in (right, of_pixels))
    found = f"{own} ({100 * low:.1f} to {100 * high:.1f}), raw pixels {its}"
    worse = f"the teacher is worse than raw pixels: {ANOTHER}." if high < of_pixels.mean() else ""
    return Finding("teacher: kNN", found, worse)


def of_images(sources: Sequence[Source], *, workers: int = 1) -> Finding:
    """Images with the same pixels, among the training images or in the images that are scored, too."""
    groups = repeated(sources, workers=workers)
    looked = sum(min(len(source), SAMPLE) for source in sources)
    copies = sum(len(group) - 1 for group in groups)
    pairs = ", ".join(f"{b} (as {a})" for a, b, *_ in groups[:NAMED])
    remedy = f"remove the copies, such as {pairs}: a copy in another split makes scores too good."
    found = f"{copies:,} among {looked:,} of {sum(map(len, sources)):,} looked at"
    return Finding("repeated images", found, remedy if groups else "")


def of_settings(c: Config, length: build.Lengths, images: int, usual: Sequence[str]) -> list[Finding]:
    """Queue, temperature, learning rate and batch statistics; `usual` are the `remedies` of this config."""
    advice = {remedy.partition("=")[0]: f"use --config.{remedy}." for remedy in usual}
    o, batch, found = c.optim, c.data.batch_size, []
    if size := getattr(c.method, "queue_size", 0):
        turn = size // batch
        steps = f"{turn:,} of {length.total:,} steps, {turn / length.epoch:.2g} epochs"
        found += [
            Finding("queue", f"{size:,} of {images:,} images", advice.get("method.queue_size", "")),
            Finding("turn of the queue", steps, LATE if turn > length.total / 2 else ""),
        ]
    if hasattr(c.method, "prototypes") and hasattr(c.method, "iterations"):  # of Sinkhorn's algorithm
        begins = getattr(c.method, "queue_from", 0) * length.epoch + c.method.queue_size // batch
        rows = batch + (c.method.queue_size if begins < length.total else 0)
        few = FEW_ROWS if rows < c.method.prototypes else ""
        found.append(Finding("prototypes", f"{c.method.prototypes:,}, balanced over {rows:,} rows", few))
    if hasattr(c.method, "tau_teacher"):
        tau = f"{c.method.tau_teacher:g}"
        found.append(Finding("teacher: temperature", tau, advice.get("method.tau_teacher", "")))
    rate = o.lr * batch / o.lr_batch if o.lr_batch else o.lr
    scaling = f"{o.lr:g} for a batch of {o.lr_batch}, here {batch}" if o.lr_batch else "not scaled"
    found.append(Finding(f"learning rate, {o.name}", f"{rate:.3g} ({scaling})", advice.get("optim.lr", "")))
    lag = advice.get("student.options", "")
    return found + [Finding("batch statistics", "too slow for so few steps", lag)] if lag else found
