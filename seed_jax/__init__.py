"""Distil big vision networks into small ones, in JAX.

    load(spec)         a network with its weights, ready to run: a file, a package, a run
    distil(…)          train a student as `python main.py` does
    embed(spec, data)  features of images
    evaluate(workdir)  accuracies of a run on the test split
    export(spec, out)  a safetensors file in the names of PyTorch code
    losses, models     by name: `losses.seed_loss`, `models.create('resnet18')`
    UserError          what they raise where the user can fix it: one sentence

Importing `seed_jax` imports nothing else: each name loads its module when it is first used.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "load": "seed_jax.weights.pretrained",
    "distil": "seed_jax.train.distil",
    "embed": "seed_jax.evals.embed",
    "evaluate": "seed_jax.evals.final",
    "export": "seed_jax.weights.export",
    "UserError": "seed_jax.errors",
}
_MODULES = ("losses", "models")

__all__ = ["UserError", "distil", "embed", "evaluate", "export", "load", "losses", "models"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"seed_jax.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'seed_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
