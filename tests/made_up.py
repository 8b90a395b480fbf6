"""A comparison that nobody ran: numbers, curves and names as long and odd as users choose them."""

import math

import numpy as np

from seed_jax.compare.results import Cost, Difference, Result, Row
from seed_jax.report.metrics import MetricsWriter

LONG = "student distilled from EfficientNet-Lite0 with a cosine schedule, tau_t = 0.01 and a queue of 65,536"
ODD = '<b>"R&D" & $x_1$ | 50 %\\ #{~^}</b>'
UNBROKEN = "student_with_a_name_that_has_no_space_and_is_far_too_long_for_a_telephone"
NAMES = (
    "MoCo-v2 alone",
    "SEED",
    LONG,
    ODD,
    UNBROKEN,
    "学生ネットワーク、教師から蒸留した",
    "SEED, two views",
    "SEED 10x",
)
FAILURE = "seed 1: RuntimeError: the loss was not finite between steps 100 and 110 (error.txt has more)"
NOTE = "trains for 4,000 steps, the baseline for 400"


def result(folder, *, rows=8, seeds=3, names=NAMES, failed=(), evals=("knn", "linear", "top1")):
    """`rows` trained rows, of which the first is the baseline, and two that were not trained.

    Args:
      folder: for the `metrics.jsonl` of each run.
      failed: numbers of the rows all of whose cells failed.
    """
    rng = np.random.default_rng(0)
    trained = []
    for n, name in enumerate(names[:rows]):
        level = 55 + 4.3 * n - 0.6 * n * n
        scores = {e: [level + 5 * i + rng.normal(0, 1.5) for _ in range(seeds)] for i, e in enumerate(evals)}
        best = {e: [value + 0.25 * (n % 2) for value in values] for e, values in scores.items()}
        workdirs = [folder / f"row{n}-seed{s}" for s in range(seeds)]
        for workdir in workdirs:
            curve(workdir, level / 100, rng, steps=(400, 4000)[n == 7])
        gone = n in failed
        trained.append(
            Row(
                name,
                tuple(range(seeds)),
                {} if gone else scores,
                {} if gone else best,
                () if gone else tuple(map(str, workdirs)),
                None if gone else 567_704 + n,
                None if gone else 400,
                None if gone else 25_600,
                None if gone else Cost(60.0 * (n + 1), 2.4e14 * (n + 1), 2**30 + 2**27 * n, n and 25_600),
                {}
                if gone
                else {
                    "data.batch_size": 64,
                    "method.tau_t": 0.01 * n,
                    "student.model": "tiny",
                    "optim.lr": 0.03,
                    "data.train": "train",
                }
                | ({"method.queue": 65_536} if n else {}),
                failed=(FAILURE,) if gone else (),
                notes=(NOTE,) if n == 7 else (),
            )
        )
    levels = {"student, untrained": [45.0 + s for s in range(seeds)], "raw pixels": [41.0]}
    untrained = [
        Row(name, tuple(range(len(v))), dict.fromkeys(evals[:2], v), {}, (), 5, None, None, None, {})
        for name, v in levels.items()
    ]
    everything = (*trained, *untrained)
    differences = [
        difference(row, everything[0], e)
        for row in everything[1:]
        for e in evals
        if e in row.scores and 0 not in failed
    ]
    provenance = {
        "command": "./run.sh compare comparisons/digits.py --folder=runs/digits --seeds=3",
        "commit": "75f60f7d0c8f4c8fa7a56f1ad5cbbd0b0ad1be3e",
        "versions": "jax 0.10.2, flax 0.12.0, numpy 2.3.1",
        "hardware": "2 CPU cores, Intel Xeon at 2.20 GHz",
        "date": "2026-11-29",
    }
    return Result("Does SEED help a small student?", everything[0].name, evals, "test", 352, everything,
                  tuple(differences), provenance)  # fmt: skip


def difference(row, baseline, score):
    pairs = np.subtract(row.scores[score], baseline.scores[score])
    half = 2.0 * (pairs.std(ddof=1) / math.sqrt(len(pairs)) if len(pairs) > 1 else 1.0)
    points = float(pairs.mean())
    count = min(len(row.scores[score]), len(baseline.scores[score]))
    return Difference(row.name, score, points, points - half, points + half, count, 352)


def curve(workdir, level, rng, steps):
    with MetricsWriter(workdir, tensorboard=False) as writer:
        for step in range(0, steps + 1, steps // 20):
            share = 1 - math.exp(-4 * step / steps)
            if step:
                loss = 8 - 3 * share + rng.normal(0, 0.1)
                writer.write(step, {"loss": loss, "lr": 0.03, "images_per_second": 100.0 * rng.uniform(1, 2)})
            if step % (steps // 5) == 0:
                knn = 0.4 + (level - 0.4) * share + rng.normal(0, 0.01)
                writer.write(
                    step, {"knn": knn, "top1": 0.9 * knn, "teacher_knn": 0.76} if not step else {"knn": knn}
                )
