"""From the names and layouts of a file to ours."""

import dataclasses
import re

import numpy as np

from seed_jax.errors import UserError
from seed_jax.weights import mobilenetv3, resnet

FAMILIES = {"resnet": resnet, "mobilenetv3": mobilenetv3}

WRAPPERS = re.compile(r"^((module|backbone)\.)+")
UNUSED = re.compile(r"(.*\.)?num_batches_tracked|prototypes\..*|(small_)?queue(_ptr)?")
HEAD_LAYER = re.compile(r"(?:projection_head|fc)\.(\d+)")
LONE_FC = "fc"  # a classifier or a head of one layer: only the network can say


@dataclasses.dataclass(frozen=True)
class Contents:
    """A file under our own names.

    `arrays`: views by path, e.g. `params/backbone/conv1/kernel`. `unknown`: the file's names that nothing of
    ours answers to. `several`: it held several networks, as self-supervised training does, and this is one.
    """

    family: str
    arrays: dict[str, np.ndarray]
    unknown: list[str]
    several: bool


def from_own_names(path, arrays) -> Contents:
    """Of arrays that have our names already. Raises UserError when they are of no family."""
    for name, family in FAMILIES.items():
        if f"params/{family.rename(family.SIGNATURE, set())}/kernel" in arrays:
            return Contents(name, arrays, [], several=False)
    raise _no_family(path, arrays)


def from_torch_names(path, tensors, part) -> Contents:
    """Of a torch state dict; `part` is the network to take if it holds `student.` and `teacher.`.

    Raises UserError when the tensors are of no family.
    """
    tensors, several = _one_network(path, tensors, part)
    tensors = {name: tensor for name, tensor in tensors.items() if not UNUSED.fullmatch(name)}
    modules = {name.rpartition(".")[0] for name in tensors}
    family = next((name for name, family in FAMILIES.items() if family.SIGNATURE in modules), None)
    if family is None:
        raise _no_family(path, tensors)
    head = _head_modules(tensors)
    arrays, unknown = {}, []
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        place = head.get(module) or FAMILIES[family].rename(module, modules)
        our_name, array = _our_leaf(place, leaf, tensor)
        if place is None or our_name is None or our_name in arrays:
            unknown.append(name)
        else:
            arrays[our_name] = array
    return Contents(family, arrays, unknown, several)


def _one_network(path, tensors, part):
    """Its tensors under bare names, and whether the file named it."""
    tensors = _rename_all(path, tensors, lambda name: WRAPPERS.sub("", name))
    for owner in (part, "encoder_q"):
        own = {name: tensor for name, tensor in tensors.items() if name.startswith(f"{owner}.")}
        if own:
            return _rename_all(path, own, lambda name: WRAPPERS.sub("", name.partition(".")[2])), True
    return tensors, False


def _rename_all(path, tensors, rename):
    renamed = {rename(name): tensor for name, tensor in tensors.items()}
    if len(renamed) != len(tensors):
        raise UserError(f"{path} holds a tensor under several prefixes; keep one network in the file.")
    return renamed


def _our_leaf(place, leaf, tensor):
    """Our full name and a view in our layout; (None, None) for a leaf that we do not know."""
    match leaf, tensor.ndim:
        case "weight", 4:  # OIHW -> HWIO, and for a depthwise kernel (C, 1, k, k) -> (k, k, 1, C)
            return f"params/{place}/kernel", tensor.transpose(2, 3, 1, 0)
        case "weight", 2:
            return f"params/{place}/kernel", tensor.T
        case "weight", 1:
            return f"params/{place}/scale", tensor
        case "bias", 1:
            return f"params/{place}/bias", tensor
        case "running_mean", 1:
            return f"batch_stats/{place}/mean", tensor
        case "running_var", 1:
            return f"batch_stats/{place}/var", tensor
    return None, None


def _head_modules(tensors) -> dict[str, str]:
    """Our paths of the layers of a head, which torch numbers with its activations (`fc.0, fc.2`); of `fc`."""
    weights = {name.removesuffix(".weight"): w for name, w in tensors.items() if name.endswith(".weight")}
    layers = {module: int(match[1]) for module in weights if (match := HEAD_LAYER.fullmatch(module))}
    places, linears = {"fc": LONE_FC}, 0
    for module in sorted(layers, key=layers.get):
        linears += weights[module].ndim == 2
        places[module] = f"head/linear{linears}" if weights[module].ndim == 2 else f"head/bn{linears}"
    return places


def _no_family(path, arrays):
    first = ", ".join(list(arrays)[:3]) or "none"
    return UserError(
        f"{path} holds no network of a known family ({', '.join(FAMILIES)}): its first tensors are {first}."
    )
