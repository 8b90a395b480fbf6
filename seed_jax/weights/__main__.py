"""`python -m seed_jax.weights inspect|export|parity`: weights files looked at, written, and proven right."""

import argparse
import fnmatch
import logging as std_logging
import sys
from pathlib import Path

from absl import logging

from seed_jax import parallel
from seed_jax.errors import UserError
from seed_jax.report.tables import Table
from seed_jax.weights import families, loading, parity, provenance, recognition, saving, source

LARGEST_ERROR = 1e-4


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m seed_jax.weights", description=__doc__.split(": ", 1)[1])
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="what a file holds, before anyone trains")
    inspect.add_argument("spec", help="a weights file, the --workdir of a run, or pip:efficientnet-lite0")
    inspect.add_argument("--part", choices=["student", "teacher"], help="of a file that holds both")
    export = commands.add_parser("export", help="write safetensors with PyTorch's names and layouts")
    export.add_argument("spec", help="the --workdir of a run, or any weights file")
    export.add_argument("out", help="the .safetensors file to write")
    export.add_argument("--names", default="torchvision", help="whose: torchvision, timm, moco, seed, ...")
    export.add_argument("--best", action="store_true", help="the best checkpoint by probe, not the last")
    check = commands.add_parser("parity", help="our networks beside the reference implementations' outputs")
    check.add_argument("pattern", nargs="?", default="*", help="of names, e.g. 'resnet*'")
    options = parser.parse_args(arguments)
    try:
        return {"inspect": _inspect, "export": _export, "parity": _parity}[options.command](options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
