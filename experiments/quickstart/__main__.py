"""Does distillation help? Teacher, baseline and distilled student, on images inside an installed package.

    ./run.sh                                   one seed, about five minutes on two CPU cores
    python -m experiments.quickstart --seeds 3 the committed results

For each seed: a teacher is trained without labels (MoCo-v2); a small network is trained the same way,
alone; the same small network is distilled from the teacher (SEED) for as many steps. All three are then
probed on images that none of them, and no choice made for them, has seen. The table is printed, and
`report.html` shows the curves.
"""

import argparse
import importlib
import json
import os
import time
from pathlib import Path

from absl import logging

from seed_jax.data import files
from seed_jax.errors import command, leave

RUNS = {
    "teacher (MoCo-v2)": "digits_teacher",
    "student, MoCo-v2 alone": "digits_baseline",
    "student, SEED": "digits_seed",
}
UNTRAINED = "student, untrained"


@command
def main(arguments=None) -> int:
    started = time.time()
    options = _parse(arguments)
    logging.set_verbosity(logging.WARNING)
    import jax

    from seed_jax import parallel

    stored = options.out / "results.json"
    seeds = list(range(options.first_seed, options.first_seed + options.seeds))
    finished = json.loads(stored.read_text()) if stored.exists() else {}
    if finished.get("seeds") == seeds:
        print(f"{options.out} holds a finished quick start; remove it to run again.")
    else:
        parallel.start()
        results = [_one_seed(options, seed) for seed in seeds]
        finished = {
            "seeds": seeds,
            "hardware": f"{len(jax.devices())} x {jax.devices()[0].device_kind}, {os.cpu_count()} cores",
            "minutes": (time.time() - started) / 60,
            "results": results,
        }
        with files.whole(stored, "w") as file:
            file.write(json.dumps(finished, indent=1) + "\n")
    _report(options.out, **finished)
    return 0


def _parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m experiments.quickstart",
        description=__doc__.split("\n", 1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds to run, one after the other")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them")
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="folder of runs and report")
    parser.add_argument(
        "--variant", default="", choices=["", "smoke"], help="smoke: a few steps, to see it run"
    )
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error("--seeds must be at least 1")
    return options


def _one_seed(options, seed: int) -> dict:
    """Three runs and their probes on the test split: {row: {parameters, knn, linear, seconds}}."""
    from seed_jax import parallel
    from seed_jax.evals import final
    from seed_jax.train import loop, student, workdir

    scores = {}
    for name, file in RUNS.items():
        began = time.time()
        config = importlib.import_module(f"seed_jax.configs.{file}").get_config(options.variant)
        config.train.seed = seed
        if config.teacher.weights and not options.variant:
            config.teacher.weights = str(options.out / f"seed{seed}" / "digits_teacher")
        directory = options.out / f"seed{seed}" / file
        loop.run(config, directory, name=f"{name}, seed {seed}")
        scores[name] = {**final.evaluate(directory), "seconds": time.time() - began}
    run = workdir.load_run(directory)
    fresh = parallel.jit_once(lambda: student.init_variables(run.network, config.data.image_size, seed))
    scores[UNTRAINED] = final.score_network(run.network, fresh(), run.config).percent()
    return scores


def _report(out: Path, *, seeds, hardware: str, minutes: float, results) -> None:
    from seed_jax import report
    from seed_jax.report.tables import Table

    rows = [
        [name, f"{results[0][name]['parameters']:,}"]
        + [[r[name][key] for r in results] for key in ("knn", "linear")]
        for name in (*RUNS, UNTRAINED)
    ]
    count = f"{len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"
    lead = f"{count}, {hardware}, {minutes:.1f} minutes."
    table = Table(["network", "parameters", "kNN, test %", "linear probe, test %"], rows)
    print(f"\n{table.markdown()}\n\n{lead}")
    page = report.compare(
        out / "report.html",
        {name: [out / f"seed{s}" / file for s in seeds] for name, file in RUNS.items()},
        title="A small network, alone and taught",
        lead=lead,
        curves=["knn", "loss"],
        tables=[table],
        notes=[
            "The table is of the last checkpoints on the test split; the curves are of the validation split.",
            "The losses of MoCo-v2 and SEED are different quantities: compare each with itself.",
        ],
    )
    print(f"Curves: {page}")


if __name__ == "__main__":
    leave(main())
