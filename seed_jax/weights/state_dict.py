"""One network out of the tensors of a file: prefixes stripped, and set apart what is not the network's."""

import dataclasses
import difflib
import re
from collections.abc import Mapping

import numpy as np

from seed_jax.errors import UserError
from seed_jax.weights import heads
from seed_jax.weights.families import NAMINGS
from seed_jax.weights.heads import Head
from seed_jax.weights.naming import Naming

PREFIXES = re.compile(r"^((module|backbone|model|convnet)\.)+")
# Self-supervised training saves several networks: SEED and DINO; MoCo v1 and v2; MoCo v3.
OWNER = re.compile(r"(module\.)*(student|teacher|encoder_q|base_encoder)\.")
DINO_TEACHER = re.compile(r"teacher\.backbone\.")
IGNORED = re.compile(
    r"(.*\.)?num_batches_tracked"
    r"|prototypes\..*|(small_)?queue(_ptr)?|(encoder_k|momentum_encoder|predictor)\..*"
    r"|(dino_head|head)\.(mlp|last_layer)\..*"  # DINO's head works on normalised features: not ours
    r"|decoder_.*|mask_token"  # of masked pre-training
    r"|(transformer|token_embedding|ln_final)\..*|positional_embedding|text_projection|logit_scale"
    r"|input_resolution|context_length|vocab_size"  # CLIP's tower of text
)
FAMILIES = tuple(dict.fromkeys(naming.family for naming in NAMINGS))
OWN = Naming("any", "seed_jax", (), lambda path, paths: path, lambda shapes: ("", {}), ((".*", "same"),))


@dataclasses.dataclass(frozen=True)
class StateDict:
    """The tensors of one network under bare names.

    `ignored`: tensors, under bare names too, that are known to be no part of the network. `names`: the file's
    own names, by bare ones. `head` and `head_style`: its projection head and how that is named (`heads.py`).
    `own_names`: the bare names are ours, such as `backbone/conv1/kernel`.
    """

    tensors: Mapping[str, np.ndarray]
    ignored: Mapping[str, np.ndarray]
    names: Mapping[str, str]
    naming: Naming
    head_style: str
    head: Head | None

    @property
    def own_names(self) -> bool:
        return self.naming is OWN

    def name(self, bare: str) -> str:
        """What the file calls a tensor, or would call it."""
        some = next(iter(self.tensors), "")
        return self.names.get(bare, self.names.get(some, "").removesuffix(some) + bare)


def of_torch(path: str, tensors: Mapping[str, np.ndarray], part: str | None) -> StateDict:
    """The network `part`, `student` or `teacher`, of a file that has both.

    Unless asked: the student of SEED's files, the teacher of DINO's.

    Raises UserError when the tensors are of no family, or two of them bear one name.
    """
    owners = {name: match[2] for name in tensors if (match := OWNER.match(name))}
    part = part or ("teacher" if any(map(DINO_TEACHER.match, owners)) else "student")
    owner = min(set(owners.values()), key=lambda name: (name != part, name), default=None)
    names, kept, ignored = {}, {}, {}
    for name, tensor in tensors.items():
        if owners.get(name, owner) != owner:
            ignored[name], names[name] = tensor, name
            continue
        bare = PREFIXES.sub("", OWNER.sub("", name, count=1) if name in owners else name)
        if bare in names:
            raise UserError(f"{path} holds a tensor under several prefixes; keep one network in the file.")
        names[bare] = name
        (ignored if IGNORED.fullmatch(bare) else kept)[bare] = tensor
    shapes = {name: tensor.shape for name, tensor in kept.items()}
    style, head = heads.describe(shapes, lone=owner is not None)
    return StateDict(kept, ignored, names, _naming(path, kept), style, head)


def of_own(tensors: Mapping[str, np.ndarray]) -> StateDict:
    """Of arrays that have our names already, such as `params/backbone/conv1/kernel`."""
    names = {name.partition("/")[2]: name for name in tensors}
    return StateDict({bare: tensors[name] for bare, name in names.items()}, {}, names, OWN, "", None)


def _naming(path, names) -> Naming:
    for naming in NAMINGS:
        if all(name in names for name in naming.signature):
            return naming
    first = ", ".join(list(names)[:3]) or "none"
    raise UserError(
        f"{path} holds no network of a known family ({', '.join(FAMILIES)}): "
        f"its first tensors are {first}; the closest is {_closest(names)}."
    )


def _closest(names) -> str:
    """The naming one of whose telling names is most like one of the file's."""

    def likeness(naming):
        pairs = [(name, other) for name in naming.signature for other in list(names)[:1000]]
        return max((difflib.SequenceMatcher(None, *pair).quick_ratio() for pair in pairs), default=0)

    naming = max(NAMINGS, key=likeness)
    return f"{naming.family}, as {naming.name} names it"
