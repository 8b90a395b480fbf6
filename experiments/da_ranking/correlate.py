"""Does T.stddev of an augmentation predict the test loss of the student? After the comparisons.

    ./run.sh python -m experiments.da_ranking.correlate           both data sets
    ./run.sh python -m experiments.da_ranking.correlate --quick   after `compare … --quick`

Measures T.stddev with the teacher of each seed and the test loss of each finished student, and writes
`correlation.json`, `correlation.md` and a plot for each student into `--out`. The results of a data
set whose comparison is missing stay as they are.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

import jax
import numpy as np
from scipy import stats
from tqdm import tqdm

from experiments.da_ranking import comparison, setting
from seed_jax import parallel
from seed_jax.compare import cells as cells_lib
from seed_jax.compare.spec import slug
from seed_jax.data import files
from seed_jax.data.pipeline import eval_batches
from seed_jax.data.sources import open_source
from seed_jax.errors import UserError, command
from seed_jax.evals.features import Extractor
from seed_jax.methods.base import base_view
from seed_jax.rank_augmentations import measure
from seed_jax.report import html, plots
from seed_jax.report.tables import Table
from seed_jax.train import teacher, workdir

COEFFICIENTS = {"Pearson": stats.pearsonr, "Spearman": stats.spearmanr, "Kendall": stats.kendalltau}
RESAMPLES = 2000
RESULTS, JSON, FOLDER = Path(__file__).parent / "results", "correlation.json", "da_ranking"


@command
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the networks of `compare … --quick`")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="default: runs")
    parser.add_argument("--out", type=Path, help="default: results beside this file, RUNS with --quick")
    parser.add_argument("--chunks", type=int, default=50, help="of T.stddev; default: 50")
    options = parser.parse_args(arguments)
    out = options.out or (options.runs / FOLDER / "correlation-quick" if options.quick else RESULTS)
    parallel.start()
    results = json.loads((out / JSON).read_text()) if (out / JSON).exists() else {}
    measured = [data for data in setting.DATA if _folder(options.runs, data, options.quick).is_dir()]
    if not measured:
        quick = " --quick" if options.quick else ""
        raise UserError(
            f"{options.runs} has no comparison of this experiment: run "
            f"`./run.sh compare experiments/da_ranking/scattered{quick}` first."
        )
    for data in measured:
        folder = _folder(options.runs, data, options.quick)
        results[data] = _of_data(data, folder, options.quick, 2 if options.quick else options.chunks)
    files.write(out / JSON, json.dumps(results, indent=1) + "\n")
    text = "\n\n".join(_markdown(data, result) for data, result in results.items())
    files.write(out / "correlation.md", text + "\n")
    for data, result in results.items():
        for model in result["students"]:
            html.save(out, [_figure(data, model, result)])
    print(f"{text}\n\n{out}")
    return 0


def _folder(runs: Path, data: str, quick: bool) -> Path:
    """The folder of a comparison, as `compare` names it."""
    return runs / FOLDER / (f"{data}-quick" if quick else data)


def _of_data(data: str, folder: Path, quick: bool, chunks: int) -> dict:
    made = comparison.of(data, quick)
    models = setting.STUDENTS[:1] if quick else setting.STUDENTS
    t = {name: [] for name in comparison.AUGMENTATIONS}
    losses = {model: {name: [] for name in ("alone", *comparison.AUGMENTATIONS)} for model in models}
    cells = [cell for cell in cells_lib.make(made, folder) if not cell.finished()]
    if cells:
        again = f"./run.sh compare experiments/da_ranking/{data}" + " --quick" * quick
        raise UserError(
            f"{len(cells)} cells of {folder} are not finished, such as {cells[0]}: run `{again}`."
        )
    for seed in tqdm(made.seeds, desc=data, unit="seed"):
        for one in _t_stddev(folder / slug(setting.TEACHER) / f"seed{seed}", seed, chunks):
            t[one.name].append(one.t_stddev)
        for model, of_model in losses.items():
            for name in of_model:
                of_model[name].append(test_loss(folder / slug(comparison.row(model, name)) / f"seed{seed}"))
    result = {"seeds": list(made.seeds), "chunks": chunks, "t_stddev": t, "students": {}}
    x = np.array([t[name] for name in comparison.AUGMENTATIONS])
    for model, of_model in losses.items():
        y = np.array([of_model[name] for name in comparison.AUGMENTATIONS])
        result["students"][model] = {"test_loss": of_model, "correlation": _correlation(x, y)}
    means = [[np.mean(of[name]) for name in comparison.AUGMENTATIONS] for of in losses.values()]
    result["between students"] = {
        f"{a}, {b}": float(stats.spearmanr(means[i], means[j]).statistic)
        for (i, a), (j, b) in itertools.combinations(enumerate(models), 2)
    }
    return result


def _t_stddev(run: Path, seed: int, chunks: int) -> list[measure.Measured]:
    loaded_run = workdir.load_run(run)
    d = loaded_run.config.data
    loaded = teacher.prepare(teacher.Loaded(loaded_run.network, loaded_run.variables, {}), d.image_size)
    source = open_source(d.source, d.train, dir=d.dir or None, subset=d.subset, seed=seed)
    batches = measure.originals(source, base_view(d), seed)
    respond = measure.responses(loaded, batches, d.image_size)
    return measure.measure(
        respond,
        batches,
        comparison.AUGMENTATIONS,
        chunks=chunks,
        seed=seed,
        fill=loaded.network.mean,
    )


def test_loss(run: Path) -> float:
    """Mean cross entropy of a run on its test split, nats."""
    loaded = workdir.load_run(run)
    d = loaded.config.data
    batches = eval_batches(
        open_source(d.source, d.test, dir=d.dir or None),
        d.image_size,
        250,
        resize=d.resize,
        background=d.background,
    )
    extract = Extractor(loaded.network, parallel.make_mesh(), keys=("logits",))
    features, labels, _ = extract(loaded.variables, batches)
    log_p = np.asarray(jax.nn.log_softmax(features["logits"]), np.float64)
    return float(-log_p[np.arange(len(labels)), labels].mean())


def _correlation(x: np.ndarray, y: np.ndarray) -> dict:
    """Coefficients of the means over seeds, and 95 % intervals by a bootstrap over seeds and augmentations.

    'between' leaves out the augmentations of the lowest and the highest x, which alone could make a
    coefficient.

    Args:
      x, y: `[augmentations, seeds]`.
    """
    random, result = np.random.default_rng(0), {}
    rows, seeds = x.shape
    between = x.mean(axis=1).argsort()[1:-1]
    draws = [(random.integers(0, rows, rows), random.integers(0, seeds, seeds)) for _ in range(RESAMPLES)]
    for name, of in COEFFICIENTS.items():
        found = of(x.mean(axis=1), y.mean(axis=1))
        again = [
            of(x[i][:, j].mean(axis=1), y[i][:, j].mean(axis=1)).statistic
            for i, j in draws
            if len({*i.tolist()}) > 2
        ]
        low, high = np.nanquantile(again, [0.025, 0.975])
        each = [float(of(x[:, seed], y[:, seed]).statistic) for seed in range(seeds)]
        result[name] = {
            "value": float(found.statistic),
            "p": float(found.pvalue),
            "interval": [float(low), float(high)],
            "between": float(of(x[between].mean(axis=1), y[between].mean(axis=1)).statistic),
            "each seed": each,
        }
    return result


def _markdown(data: str, result: dict) -> str:
    models = list(result["students"])
    order = sorted(comparison.AUGMENTATIONS, key=lambda name: np.mean(result["t_stddev"][name]))
    rows = [["alone", None, *[_loss(result, model, "alone") for model in models]]]
    for name in order:
        rows.append([name, _thousandths(result, name), *[_loss(result, model, name) for model in models]])
    header = ["augmentation", "T.stddev × 1000", *[f"test loss, {model}" for model in models]]
    lines = [f"### {data}", "", Table(header, rows, digits=3).markdown(), ""]
    coefficients = []
    for model in models:
        cells = [model]
        for of in result["students"][model]["correlation"].values():
            low, high = of["interval"]
            p = f"p {of['p']:.3f}" if of["p"] >= 0.001 else "p < 0.001"
            cells.append(f"{of['value']:.2f} ({p}; {low:.2f} to {high:.2f}); {of['between']:.2f} between")
        coefficients.append(cells)
    lines.append(Table(["student", *COEFFICIENTS], coefficients).markdown())
    for pair, value in result["between students"].items():
        lines += ["", f"Spearman between the losses of {pair}: {value:.2f}."]
    return "\n".join(lines)


def _thousandths(result: dict, name: str) -> list[float]:
    return [1000 * value for value in result["t_stddev"][name]]


def _loss(result: dict, model: str, name: str) -> list[float]:
    return result["students"][model]["test_loss"][name]


def _figure(data: str, model: str, result: dict):
    points = []
    for name in comparison.AUGMENTATIONS:
        losses = _loss(result, model, name)
        deviation = float(np.std(losses, ddof=1)) if len(losses) > 1 else 0.0
        x = 1000 * float(np.mean(result["t_stddev"][name]))
        points.append(plots.Point(name, x, float(np.mean(losses)), deviation))
    return plots.scatter(
        points, title=f"Test loss of {model}, {data}", axis="T.stddev × 1000", name=f"{data}-{slug(model)}"
    )


if __name__ == "__main__":
    sys.exit(main())
