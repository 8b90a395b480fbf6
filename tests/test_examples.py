"""The examples in docstrings run and give what they show. `jax`, `jnp` and `np` need no import in them."""

import doctest
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seed_jax.analysis
import seed_jax.evals
import seed_jax.losses
import seed_jax.models

PACKAGES = [seed_jax.analysis, seed_jax.evals, seed_jax.losses, seed_jax.models]
SUBMODULES = [
    f"{package.__name__}.{submodule.name}"
    for package in PACKAGES
    for submodule in pkgutil.iter_modules(package.__path__)
    if submodule.name != "__main__"
]
MODULES = [
    "seed_jax.methods.queue",
    "seed_jax.data.rng",
    *(package.__name__ for package in PACKAGES),
    *SUBMODULES,
]
WITH_EXAMPLES = {
    *(
        "seed_jax.methods.queue",
        "seed_jax.data.rng",
        "seed_jax.losses.contrastive",
        "seed_jax.losses.readout",
    ),
    *("seed_jax.losses.relation", "seed_jax.losses.response"),
    *("seed_jax.models", "seed_jax.models.heads", "seed_jax.models.network", "seed_jax.models.layers"),
    *("seed_jax.models.conv", "seed_jax.models.efficientnet", "seed_jax.models.fold", "seed_jax.models.vit"),
}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    names = {"jax": jax, "jnp": jnp, "np": np}
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs=names, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0
    assert result.attempted > 0 or name not in WITH_EXAMPLES


def test_the_modules_with_examples_exist():
    assert set(MODULES) >= WITH_EXAMPLES
