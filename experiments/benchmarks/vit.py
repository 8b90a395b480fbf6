"""Our ViT-S/16 at 224 px and timm's (PyTorch) in turn, each in its own processes: forward, and with backward.

    pip install timm -r tests/requirements.txt
    python -m experiments.benchmarks.vit              batch 16, three rounds
    python -m experiments.benchmarks.vit --batch 4 --rounds 1 --repeats 1

Both sides take timm's initial weights and the same images. Their cls tokens must agree, or nothing is timed.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from experiments.benchmarks import quiet
from seed_jax.errors import UserError, command
from seed_jax.report.tables import Table

ROOT = Path(__file__).parents[2]
SIDES, PARTS = ("ours", "timm"), ("forward", "forward + backward")
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
MODEL, SIZE = "vit_small_patch16_224", 224
TOLERANCE = 1e-4  # of the cls tokens, relative to the largest entry


@command
def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    if missing := [name for name in ("torch", "timm") if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"This benchmark compares with timm, and {missing[0]} is not installed: "
            "use pip install timm -r tests/requirements.txt."
        )
    if options.side:
        found = {"ours": _ours, "timm": _timm}[options.side](options)
        print(json.dumps(found))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        rounds = [_round(number, folder, options) for number in range(1, options.rounds + 1)]
    rows = []
    for part in PARTS:
        ours, theirs = ([r[side]["ms"][part] for r in rounds] for side in SIDES)
        rows.append(
            [part, *map(_span, (ours, theirs)), _span([b / a for a, b in zip(ours, theirs, strict=True)])]
        )
    print(f"\n{quiet.processor()}; batch {options.batch}, fp32; {rounds[0]['timm']['versions']}.\n")
    print(Table(["part", "ours, ms", "timm, ms", "times faster"], rows).aligned())
    return 0


def _parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.vit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--batch", type=int, default=16, help="images; default: 16")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--repeats", type=int, default=5, help="timings of a part in a round; default: 5")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for name in ("batch", "rounds", "repeats"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} is {getattr(options, name)}: use 1 or more.")
    return options


def _round(number: int, folder: str, options) -> dict:
    print(f"round {number}, {quiet.load()}", flush=True)
    measured = {}
    for side in reversed(SIDES):  # timm's writes the weights
        command = [sys.executable, "-m", __spec__.name, "--side", side, "--folder", folder]
        command += ["--batch", str(options.batch), "--repeats", str(options.repeats)]
        environment = os.environ | HUGE_PAGES
        ended = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
        )
        if ended.returncode:
            raise UserError(f"The process that times {side} failed: {ended.stderr.strip()}")
        measured[side] = json.loads(ended.stdout.splitlines()[-1])
        told = ", ".join(f"{part} {ms:.1f} ms" for part, ms in measured[side]["ms"].items())
        print(f"  {side}: {told}; {quiet.told(measured[side]['others'])}", flush=True)
    ours, theirs = (np.asarray(measured[side].pop("cls")) for side in SIDES)
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    print(f"  relative error of the cls tokens {error:.0e}")
    if not error < TOLERANCE:
        raise UserError(
            f"Both sides do not do the same work: their cls tokens differ by {error:.1e} (relative)."
        )
    return measured


def _images(batch: int) -> np.ndarray:
    """float32 `[B, SIZE, SIZE, 3]` in [0, 1], noise."""
    return np.random.default_rng(0).random((batch, SIZE, SIZE, 3), np.float32)


def _ours(options) -> dict:
    import jax

    from seed_jax import models, weights
    from seed_jax.models.network import Joined

    x = _images(options.batch)
    network = Joined(models.create("vit_small", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)), {})
    variables = weights.load(options.folder / "vit.pth", network)
    forward = jax.jit(lambda v, x: network.apply(v, x, False)[0]["tokens"])
    both = jax.jit(jax.grad(lambda v, x: network.apply(v, x, True)[0]["tokens"].mean()))
    cls = forward(variables, x)[:, 0].tolist()

    def forward_call():
        jax.block_until_ready(forward(variables, x))

    def both_call():
        jax.block_until_ready(both(variables, x))

    return _timed((forward_call, both_call), options, cls, f"JAX {jax.__version__}")


def _timm(options) -> dict:
    import timm
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    network = timm.create_model(MODEL, num_classes=0, global_pool="token")
    torch.save(network.state_dict(), options.folder / "vit.pth")
    x = torch.from_numpy((_images(options.batch) - 0.5) / 0.5).permute(0, 3, 1, 2).contiguous()
    network.eval()
    with torch.no_grad():
        cls = network.forward_features(x)[:, 0].tolist()

    def forward_call():
        with torch.no_grad():
            network.forward_features(x)

    def both_call():
        network.zero_grad()
        network.forward_features(x).mean().backward()

    versions = f"torch {torch.__version__}, timm {timm.__version__}"
    return _timed((forward_call, both_call), options, cls, versions)


def _timed(calls, options, cls, versions) -> dict:
    """Medians in milliseconds of the calls, after two more calls of each."""
    ms = {}
    with quiet.Others() as others:
        for part, call in zip(PARTS, calls, strict=True):
            times = []
            for _ in range(2 + options.repeats):
                began = time.perf_counter()
                call()
                times.append(time.perf_counter() - began)
            ms[part] = 1e3 * statistics.median(times[2:])
    return {"ms": ms, "others": others.share, "cls": cls, "versions": versions}


def _span(values) -> str:
    middle, low, high = (f"{f(values):.3g}" for f in (statistics.median, min, max))
    return middle if len(values) == 1 else f"{middle} ({low} to {high})"


if __name__ == "__main__":
    sys.exit(main())
