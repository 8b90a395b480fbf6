"""`python -m seed_jax.weights inspect|export|parity`: inspect weights, export them, check our networks."""

import argparse
import fnmatch
import sys

import jax
import numpy as np
from absl import logging

from seed_jax import models, parallel
from seed_jax.errors import UserError, command
from seed_jax.models.exits import Exit
from seed_jax.report.tables import Table
from seed_jax.weights import (
    exits,
    export,
    loading,
    naming,
    parity,
    provenance,
    recognition,
    source,
    state_dict,
    swin,
)
from seed_jax.weights.cases import CASES
from seed_jax.weights.flags import FLAGS

LARGEST_ERROR = 1e-4


@command
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m seed_jax.weights", description=__doc__.split(": ", 1)[1])
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="describe the network in a weights file or run")
    inspect.add_argument("spec", help="a weights file, the workdir of a run, or pip:efficientnet-lite0")
    inspect.add_argument(
        "--part", choices=["student", "teacher"], help="which network to read from a file with both"
    )
    inspect.add_argument("--tensors", action="store_true", help="list every tensor with its shape and dtype")
    _add_network(inspect)
    write = commands.add_parser("export", help="write a safetensors file in PyTorch's names and layouts")
    write.add_argument("spec", help="the workdir of a run, a weights file, or pip:efficientnet-lite0")
    write.add_argument("out", help="the .safetensors file to write")
    write.add_argument("--names", default="", help="whose tensor names: torchvision, timm, moco, seed, ...")
    _add_network(write)
    write.add_argument(
        "--best", action="store_true", help="the checkpoint with the best probe, not the last one"
    )
    write.add_argument(
        "--exit",
        type=_exit,
        default=0,
        metavar="N",
        help="for a run with exits: keep this exit alone, without the later stages; 'all' keeps all of them",
    )
    check = commands.add_parser(
        "parity", help="compare our networks with the outputs of reference implementations"
    )
    check.add_argument("pattern", nargs="?", default="*", help="which cases, e.g. 'resnet*' (default: all)")
    options = parser.parse_args(arguments)
    logging.set_verbosity(logging.WARNING)
    parallel.start()
    return {"inspect": _inspect, "export": _export, "parity": _parity}[options.command](options)


def _add_network(parser):
    parser.add_argument("--arch", default="", help="the architecture, if the file fits several")
    parser.add_argument(
        "--form", default="", help="the form of a vision transformer, if the file fits several"
    )
    parser.add_argument(
        "--window",
        type=swin.windows_of,
        default={},
        help="the windows of a Swin V2 as its name has them, 16 or 12to16, if the file does not show them",
    )


def _exit(text: str) -> int | str:
    if text != exits.ALL and not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no exit: use a number or 'all'.")
    return text if text == exits.ALL else int(text)


def _inspect(options) -> int:
    path = source.find(options.spec)
    if exits.holds(path):
        return _inspect_exit(path)
    state = recognition.read(path, options.part)
    network = recognition.recognise(
        path,
        arch=options.arch,
        form=options.form,
        windows=options.window,
        part=options.part,
        flags=FLAGS,
    )
    known = network.arch in models.MODELS
    template = loading.shapes(network.network()) if known else {"params": {}}
    _, faults = loading.match(state, naming.leaves(template))
    facts = provenance.of_run(path, _run(path)) if path.is_dir() else provenance.describe_source(path)
    licences = [f"{licence} ({description})" for description, licence in provenance.licences(facts)]
    resize, interpolation, background = network.preparation
    dtypes = sorted({str(tensor.dtype) for tensor in state.tensors.values()})
    owners = {match[2] for name in state.names.values() if (match := state_dict.OWNER.match(name))}
    assumed = " (assumed: the file does not state them)" if network.assumed else ""
    about = {"holds": _both(state)} if {"student", "teacher"} <= owners else {}
    about |= {
        "network": f"{network}{network.advice}",
        "names": f"{network.family} under {network.naming}'s names",
        "parameters": f"{sum(leaf.size for leaf in jax.tree.leaves(template['params'])):,}",
        "tensors": f"{len(state.tensors)} of {', '.join(dtypes)}",
        "images": f"{network.size} px, mean {network.mean}, std {network.std}{assumed}",
        "photographs": f"{interpolation}, short side to {network.size * resize:.0f} px, then centre crop; "
        f"alpha on {background}",
        "published as": facts.get("teacher", "unknown"),
        "licences": "; ".join(licences) or "unknown",
        "sha256": facts.get("sha256", "none"),
        "left out": loading.some([state.names[name] for name in state.ignored]) or "nothing",
    }
    faults = faults if known else {}
    if broken := [
        state.names[name] for name, x in state.tensors.items() if not np.isfinite(x.astype(np.float64)).all()
    ]:
        faults["NaN or infinite"] = broken
    about |= {what: loading.some(names) for what, names in faults.items()}
    for what, value in about.items():
        print(f"{what + ':':<20}{value}")
    if options.tensors:
        rows = [[state.names[name], str(list(x.shape)), str(x.dtype)] for name, x in state.tensors.items()]
        print("\n" + Table(["tensor", "shape", "dtype"], rows).aligned())
    return 0 if known and not faults else 1


def _inspect_exit(path) -> int:
    network, variables, recognised = exits.read(path)
    names = [name for name, part in network.parts.items() if isinstance(part, Exit)]
    about = {
        "network": f"{', '.join(names)} of {recognised}",
        "parameters": f"{sum(leaf.size for leaf in jax.tree.leaves(variables['params'])):,}",
        "images": f"{recognised.size} px, mean {recognised.mean}, std {recognised.std}",
    }
    for what, value in about.items():
        print(f"{what + ':':<20}{value}")
    return 0


def _both(state):
    """For a file with a student and a teacher: which of them `state` is, and how to see the other."""
    name = state.names[next(iter(state.tensors))]
    shown = state_dict.OWNER.match(name)[2]
    other = "teacher" if shown == "student" else "student"
    return f"a student and a teacher; this is the {shown}, --part={other} shows the other"


def _export(options) -> int:
    exported = export.write(
        options.spec,
        options.out,
        names=options.names,
        best=options.best,
        model=options.arch,
        form=options.form,
        windows=options.window,
        at_exit=options.exit,
        flags=(*FLAGS, "--exit"),
    )
    of = {0: "", exits.ALL: "all exits of "}.get(options.exit, f"exit {options.exit} of ")
    print(f"{exported.path}: {of}{exported.arch} under {exported.names}'s names")
    if exported.left_out:
        print(f"left out, because {exported.names} has no names for them: {', '.join(exported.left_out)}")
    if exported.caution:
        print(f"caution: {exported.caution}")
    if options.exit:
        print(f'to load it: seed_jax.load("{exported.path}")')
        return 0
    reader = exported.names if exported.names in ("torchvision", "timm") else "plain-pytorch"
    print(f"to load it: docs/weights.md#load-it-with-{reader}")
    return 0


def _run(path):
    from seed_jax.train import workdir  # the checkpoint library takes seconds to import

    return workdir.load_run(path)


def _parity(options) -> int:
    cases = [case for case in CASES if fnmatch.fnmatch(case.name, options.pattern)]
    if not cases:
        raise UserError(
            f"no case matches {options.pattern!r}: use one of {', '.join(c.name for c in CASES)}."
        )
    results = [parity.check(case) for case in cases]
    rows = [[result.name, f"{result.parameters:,}", f"{result.error:.1e}"] for result in results]
    print(Table(["network, reference", "parameters", "largest relative error"], rows).aligned())
    return int(max(result.error for result in results) > LARGEST_ERROR)


if __name__ == "__main__":
    sys.exit(main())
