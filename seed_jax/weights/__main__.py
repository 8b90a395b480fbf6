"""`python -m seed_jax.weights inspect|export|parity`: weights files looked at, written, and proven right."""

import argparse
import fnmatch
import sys

import jax
import numpy as np
from absl import logging

from seed_jax import models, parallel
from seed_jax.errors import UserError, command
from seed_jax.report.tables import Table
from seed_jax.weights import loading, naming, parity, provenance, recognition, saving, source, state_dict
from seed_jax.weights.cases import CASES

LARGEST_ERROR = 1e-4


@command
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m seed_jax.weights", description=__doc__.split(": ", 1)[1])
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="what a file holds, before anyone trains")
    inspect.add_argument("spec", help="a weights file, the --workdir of a run, or pip:efficientnet-lite0")
    inspect.add_argument("--part", choices=["student", "teacher"], help="of a file that holds both")
    inspect.add_argument("--tensors", action="store_true", help="list every tensor with its shape")
    _add_network(inspect)
    export = commands.add_parser("export", help="write safetensors with PyTorch's names and layouts")
    export.add_argument("spec", help="the --workdir of a run, or any weights file")
    export.add_argument("out", help="the .safetensors file to write")
    export.add_argument("--names", default="", help="whose: torchvision, timm, moco, seed, ...")
    _add_network(export)
    export.add_argument("--best", action="store_true", help="the best checkpoint by probe, not the last")
    check = commands.add_parser("parity", help="our networks beside the reference implementations' outputs")
    check.add_argument("pattern", nargs="?", default="*", help="of names, e.g. 'resnet*'")
    options = parser.parse_args(arguments)
    logging.set_verbosity(logging.WARNING)
    parallel.start()
    return {"inspect": _inspect, "export": _export, "parity": _parity}[options.command](options)


def _add_network(parser):
    parser.add_argument("--arch", default="", help="the architecture, where the file does not tell")
    parser.add_argument("--form", default="", help="of a vision transformer, where the file does not tell")


def _recognise(path, options, where, part=None):
    return recognition.recognise(
        path, arch=options.arch, form=options.form, where=where, part=part, flags=("--arch", "--form")
    )


def _inspect(options) -> int:
    path = source.find(options.spec, "FILE")
    found = recognition.read(path, options.part)
    network = _recognise(path, options, "FILE", options.part)
    known = network.arch in models.MODELS
    template = loading.shapes(network.network()) if known else {"params": {}}
    _, faults = loading.match(found, naming.leaves(template))
    facts = provenance.of_run(path, _run(path)) if path.is_dir() else provenance.describe_source(path)
    licences = [f"{licence} ({what})" for what, licence in provenance.licences(facts)]
    resize, interpolation = network.preparation
    dtypes = sorted({str(tensor.dtype) for tensor in found.tensors.values()})
    parts = {match[2] for name in found.names.values() if (match := state_dict.OWNER.match(name))}
    assumed = " (assumed: nothing tells them)" if network.assumed else ""
    about = {"holds": _parts(found)} if {"student", "teacher"} <= parts else {}
    about |= {
        "network": f"{network}{network.advice}",
        "names": f"{network.family} as {network.naming} names it",
        "parameters": f"{sum(leaf.size for leaf in jax.tree.leaves(template['params'])):,}",
        "tensors": f"{len(found.tensors)} of {', '.join(dtypes)}",
        "images": f"{network.size} px, mean {network.mean}, std {network.std}{assumed}",
        "photographs": f"{interpolation} to a short side of {network.size * resize:.0f} px, then the centre",
        "published as": facts.get("teacher", "unknown"),
        "licences": "; ".join(licences) or "unknown",
        "sha256": facts.get("sha256", "none"),
        "left out": loading.some([found.names[name] for name in found.ignored]) or "nothing",
    }
    faults = faults if known else {}
    if broken := [
        found.names[name] for name, x in found.tensors.items() if not np.isfinite(x.astype(np.float64)).all()
    ]:
        faults["NaN or infinite"] = broken
    about |= {what: loading.some(names) for what, names in faults.items()}
    for what, value in about.items():
        print(f"{what + ':':<20}{value}")
    if options.tensors:
        rows = [[found.names[name], str(list(x.shape)), str(x.dtype)] for name, x in found.tensors.items()]
        print("\n" + Table(["tensor", "shape", "dtype"], rows).markdown())
    return 0 if known and not faults else 1


def _parts(found):
    """Of a file with a student and a teacher: which of them `found` is."""
    name = found.names[next(iter(found.tensors))]
    shown = state_dict.OWNER.match(name)[2]
    other = "teacher" if shown == "student" else "student"
    return f"a student and a teacher; this is the {shown}, --part={other} shows the other"


def _export(options) -> int:
    path = source.find(options.spec, "WORKDIR")
    if path.is_dir():
        run = _run(path, best=options.best)
        network, variables = recognition.of_run(run), run.variables
        facts = provenance.made_from(run.manifest)
        provenance.warn(facts)
    else:
        network = _recognise(path, options, "WORKDIR")
        variables = loading.load(path, network.network(), where="WORKDIR")
        facts = {"origin": provenance.describe_source(path)}
    names = options.names or _first(list(saving.offered(network, variables)))
    left_out = saving.save(variables, network, options.out, names=names, provenance=facts)
    print(f"{options.out}: {network.arch} as {names} names it")
    if left_out:
        print(f"left out, for there are no such names: {', '.join(left_out)}")
    return 0


def _first(offered):
    """Of the names there are; torchvision's are what most code reads."""
    return "torchvision" if "torchvision" in offered or not offered else offered[0]


def _run(path, best=False):
    from seed_jax.train import workdir  # the checkpoint library takes seconds to import

    return workdir.load_run(path, best=best)


def _parity(options) -> int:
    cases = [case for case in CASES if fnmatch.fnmatch(case.name, options.pattern)]
    if not cases:
        raise UserError(
            f"no case is called {options.pattern!r}; there are {', '.join(c.name for c in CASES)}."
        )
    results = [parity.check(case) for case in cases]
    rows = [[result.name, f"{result.parameters:,}", f"{result.error:.1e}"] for result in results]
    print(Table(["network, reference", "parameters", "largest relative error"], rows).markdown())
    return int(max(result.error for result in results) > LARGEST_ERROR)


if __name__ == "__main__":
    sys.exit(main())
