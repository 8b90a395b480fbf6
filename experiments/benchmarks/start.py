"""Seconds from the start of `main.py` to the end of its first step, with the compile cache empty and full.

    python -m experiments.benchmarks.start
    python -m experiments.benchmarks.start --against ../before   another checkout, in turn with this one

Teachers have random weights. The two large pairs run without probes, which would take minutes on a CPU.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from experiments.benchmarks.quiet import Others, load, processor
from seed_jax.report.tables import Table

HERE = Path(__file__).resolve().parents[2]
FIRST_STEP = re.compile(r"first step done ([\d.]+) s after the start")
ALWAYS = {"teacher.weights": "random", "train.steps": 2, "train.epochs": 0, "log.tensorboard": False}
LARGE = {
    "data.source": "photos6",
    "data.train": "train",
    "data.bank": "",
    "data.val": "val",
    "data.test": "test",
    "data.batch_size": 16,
    "method.queue_size": 4096,
    "evals.names": "()",
    "train.bn_group": 0,
    "train.precision": "fp32",
}
RUNS = {  # config, overrides
    "quick start: SEED, probes": ("digits_seed", {"teacher.model": "resnet18"}),
    "ResNet-50 to MobileNetV3-Large, 224 px": ("seed_r50_to_mbv3", LARGE),
    "ViT-B/16 to MobileNetV3-Large, 224 px": (
        "seed_r50_to_mbv3",
        {**LARGE, "teacher.model": "vit_base"},
    ),
}


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.start",
        description=__doc__.split("\n", 1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--against", type=Path, help="folder of another checkout, run in turn with this")
    parser.add_argument("--rounds", type=int, default=1, help="cold and warm starts of each run")
    parser.add_argument("--only", help="part of the name of the runs to do; all by default")
    options = parser.parse_args(arguments)
    chosen = {name: run for name, run in RUNS.items() if (options.only or "") in name}
    if not chosen:
        parser.error(f"--only: no run is called {options.only!r}: use a part of {', '.join(RUNS)}")
    checkouts = [HERE] if options.against is None else [options.against.resolve(), HERE]

    rows, others = [], Others()
    for name, run in chosen.items():
        seconds = {(checkout, cache): [] for checkout in checkouts for cache in ("cold", "warm")}
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory() as folder, others:
                for cache in ("cold", "warm"):
                    for number, checkout in enumerate(checkouts):
                        took = first_step(checkout, *run, Path(folder) / str(number))
                        seconds[checkout, cache].append(took)
        rows += [[name, cache, *_told(seconds, checkouts, cache)] for cache in ("cold", "warm")]
    columns = ["s"] if options.against is None else ["s before", "s now", "share"]
    print(Table(["run", "compile cache", *columns], rows).markdown())
    print(f"\n{processor()}; {options.rounds} starts each, medians; {load()}; {others}.")
    return 0


def first_step(checkout: Path, config: str, overrides: dict, folder: Path) -> float:
    """Seconds that a run of `checkout` takes to its first step; its compile cache is `folder`/cache."""
    command = [sys.executable, "main.py", f"--config=configs/{config}.py"]
    command += [f"--config.{key}={value}" for key, value in (ALWAYS | overrides).items()]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"}
    with tempfile.TemporaryDirectory() as workdir:
        done = subprocess.run(
            [*command, f"--workdir={workdir}/run"],
            cwd=checkout,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    if done.returncode or not (found := FIRST_STEP.search(done.stdout)):
        raise SystemExit(f"{' '.join(command)} in {checkout} failed:\n{done.stdout}")
    return float(found[1])


def _told(seconds, checkouts, cache):
    medians = [statistics.median(seconds[checkout, cache]) for checkout in checkouts]
    return medians if len(medians) == 1 else [*medians, f"{medians[1] / medians[0]:.2f}"]


if __name__ == "__main__":
    sys.exit(main())
