"""Extract one network from the tensors of a file: strip prefixes, set aside tensors of anything else."""

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
# Prefixes of the networks in self-supervised training files: SEED and DINO; MoCo v1 and v2; MoCo v3;
# Feature-Distillation.
OWNER = re.compile(r"(module\.)*(student|teacher|encoder_q|base_encoder|encoder)\.")
# The part that DINO's and EsViT's authors evaluate.
DINO_TEACHER = re.compile(r"teacher\.(backbone\.|(module\.)?head\.(mlp|last_layer)\.)")
IGNORED = re.compile(
    r"(.*\.)?num_batches_tracked"
    r"|prototypes\..*|(small_)?queue(_ptr)?|(encoder_k|momentum_encoder|predictor)\..*"
    r"|(dino_head|head|head_dense)\.(mlp|last_layer)\..*"  # DINO's, EsViT's: they normalise features
    r"|.*\.(relative_position_index|relative_coords_table|attn_mask)"  # constants of Swin transformers
    r"|decoder_.*|mask_token|lm_head\..*"  # masked pre-training
    r"|(decoder|feature_model)\..*"  # the projector and the teacher of Feature-Distillation
    r"|(transformer|token_embedding|ln_final)\..*|positional_embedding|text_projection|logit_scale"
    r"|input_resolution|context_length|vocab_size"  # CLIP's text tower
)
FAMILIES = tuple(dict.fromkeys(naming.family for naming in NAMINGS))
OWN = Naming("any", "seed_jax", (), lambda path, paths: path, lambda shapes: ("", {}), ((".*", "same"),))


@dataclasses.dataclass(frozen=True)
class StateDict:
    """The tensors of one network under bare names, which have no prefix such as `module.`.

    Attributes:
      tensors: the network's tensors, by bare name.
      ignored: tensors known not to belong to the network, by bare name.
      names: the file's own names, by bare name.
      naming: the naming of the tensors.
      head, head_style: the projection head, and how its tensors are named (`heads.py`).
      own_names: the bare names are ours, e.g. `backbone/conv1/kernel`.
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
        """Return the tensor's name in the file; for a missing tensor, the name it would have."""
        first = next(iter(self.tensors), "")
        return self.names.get(bare, self.names.get(first, "").removesuffix(first) + bare)


def of_torch(path: str, tensors: Mapping[str, np.ndarray], part: str | None) -> StateDict:
    """Extract one network from tensors under PyTorch's names.

    `path`: the file, for messages. `part`: `student` or `teacher`, for a file with both. None: the student of
    SEED's files, the teacher of DINO's and EsViT's.

    Raises:
      UserError: the tensors belong to no known family, or two of them have the same bare name.
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
            raise UserError(f"{path} has {bare} under several prefixes: keep only one network in the file.")
        names[bare] = name
        (ignored if IGNORED.fullmatch(bare) else kept)[bare] = tensor
    shapes = {name: tensor.shape for name, tensor in kept.items()}
    style, head = heads.describe(shapes, lone=owner is not None)
    return StateDict(kept, ignored, names, _naming(path, kept), style, head)


def of_own(tensors: Mapping[str, np.ndarray]) -> StateDict:
    """Wrap arrays under our own names, e.g. `params/backbone/conv1/kernel`."""
    names = {name.partition("/")[2]: name for name in tensors}
    return StateDict({bare: tensors[name] for bare, name in names.items()}, {}, names, OWN, "", None)


def _naming(path, names) -> Naming:
    for naming in NAMINGS:
        if all(name in names for name in naming.signature):
            return naming
    first = ", ".join(list(names)[:3]) or "none"
    raise UserError(
        f"{path} has no network of a known family ({', '.join(FAMILIES)}): use another file; its first "
        f"tensors are {first}, and the closest naming is {_closest(names)}."
    )


def _closest(names) -> str:
    """The naming with a signature name that is most like a name in the file."""

    def likeness(naming):
        pairs = [(name, other) for name in naming.signature for other in list(names)[:1000]]
        return max((difflib.SequenceMatcher(None, *pair).quick_ratio() for pair in pairs), default=0)

    naming = max(NAMINGS, key=likeness)
    return f"{naming.family} under {naming.name}'s names"
