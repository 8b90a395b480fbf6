"""Export a run, or convert a weights file, to a safetensors file that PyTorch code loads."""

import dataclasses
import os
from collections.abc import Mapping
from types import MappingProxyType

from seed_jax.errors import UserError
from seed_jax.weights import exits, loading, provenance, recognition, saving, source


@dataclasses.dataclass(frozen=True)
class Exported:
    """What an exported file has.

    Attributes:
      path: the file.
      arch: the architecture, a key of `seed_jax.models.MODELS`.
      names: whose tensor names, e.g. `torchvision`.
      left_out: our names of the arrays that the file lacks because `names` has no name for them.
      caution: what no tensor shows, and the code that loads the file must know; '' if there is nothing.
    """

    path: str
    arch: str
    names: str
    left_out: tuple[str, ...]
    caution: str


def export(
    spec: str | os.PathLike,
    out: str | os.PathLike,
    *,
    names: str = "",
    best: bool = False,
    model: str = "",
    form: str = "",
    windows: Mapping[str, int] = MappingProxyType({}),
    at_exit: int | str = 0,
) -> Exported:
    """Write a network to a safetensors file in the tensor names and layouts of PyTorch code.

    docs/weights.md has programs that load the file. Its metadata state the network, its images and where the
    weights come from. An existing file is replaced; a failed write leaves no new file.

    >>> seed_jax.export("runs/mine", "student.safetensors")  # doctest: +SKIP

    Args:
      spec: the workdir of a run, or weights as `seed_jax.load` takes them.
      out: the file to write; its name ends in `.safetensors`.
      names: whose tensor names: `torchvision`, `timm`, `moco`, `seed` and so on. By default torchvision's if
        the network has them, else the first that it has.
      best: export a run's checkpoint with the best probe, not its newest.
      model, form: the architecture and the form of a vision transformer, if a weights file fits several.
      windows: options of a Swin V2's windows, if its file does not show them: {'window': 16}, and for timm's
        `window12to16` 'pretrained_window', too.
      at_exit: of a run with exits, write this one alone, numbered from 1: the backbone up to its stage and
        its own part, whose tensors are `exit1.conv1.weight` and so on. 'all' writes the whole network with
        all exits, as `seed_jax.exits.adaptive` needs it. `seed_jax.load` reads both. 0 writes the network
        with its deepest classifier.

    Raises:
      UserError: the weights cannot be read, the network has no such names or exit, or `out` cannot be
        written.
    """
    return write(
        spec,
        out,
        names=names,
        best=best,
        model=model,
        form=form,
        windows=windows,
        at_exit=at_exit,
        flags=("model", "form", "windows['window']", "at_exit"),
    )


def write(
    spec: str | os.PathLike,
    out: str | os.PathLike,
    *,
    names: str,
    best: bool,
    model: str,
    form: str,
    windows: Mapping[str, int],
    at_exit: int | str,
    flags: tuple[str, str, str, str],
) -> Exported:
    """Write a network as `export` does; `flags`: what messages call model, form, window and exit."""
    path = source.find(spec)
    if path.is_dir():
        run = _run(path, best)
        network, variables = recognition.of_run(run), run.variables
        facts = provenance.made_from(run.manifest)
        provenance.warn({"source": os.fspath(spec), **facts})
    elif at_exit:
        raise UserError(f"{flags[3]} is {at_exit}, and {spec} is a file: use the workdir of a run.")
    else:
        network = recognition.recognise(path, arch=model, form=form, windows=windows, flags=flags[:3])
        variables = loading.load(path, network.network())
        facts = {"origin": provenance.describe_source(path)}
    names = names or _default_names(list(saving.offered(network, variables)))
    left_out = []
    if at_exit:
        exits.write(run, network, out, at_exit, names, facts, flags[3])
    else:
        left_out = saving.save(variables, network, out, names=names, provenance=facts)
    caution = ""
    if network.options.get("small_stem"):
        caution = (
            "the network has small_stem=True: the one of this name in other libraries has another stem, and "
            "where it loads the file, it computes something else"
        )
    return Exported(os.fspath(out), network.arch, names, tuple(left_out), caution)


def _default_names(offered):
    """torchvision's if offered, because most code reads those; else the first."""
    return "torchvision" if "torchvision" in offered or not offered else offered[0]


def _run(path, best):
    from seed_jax.train import workdir  # the checkpoint library takes seconds to import

    return workdir.load_run(path, best=best)
