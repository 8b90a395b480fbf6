"""Is a converter right? Networks of other people's code, on weights anyone can draw, and what they gave.

A golden file holds what a reference implementation in PyTorch computed: no weights, only a few values at
drawn positions. Its weights are drawn here again, by name, pass through our converter and our network, and
must give the same values.
"""

import hashlib

import numpy as np

POSITIONS = 64


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 values of a tensor, a function of its name and shape alone; nothing is at its default.

    Standard normal numbers n of Philox, keyed by BLAKE2b of the name: a running variance is 0.5 + n^2, any
    other vector called `weight` or `gamma` is 1 + n / 5, other vectors (biases, means) are n / 10, matrices and filters
    called `weight` or `proj` are n sqrt(g / fan-in) with g = 2 for filters and 1 for matrices, and the rest
    (tokens, position embeddings) is n / 2.
    """
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "little")
    n = np.random.Generator(np.random.Philox(key=key)).standard_normal(shape, np.float32)
    if name.endswith("running_var"):
        return np.float32(0.5) + n * n
    weight = name.endswith(("weight", "gamma", "proj"))
    if n.ndim < 2:
        return 1 + n / 5 if weight else n / 10
    if not weight:
        return n / 2
    gain = 2 if n.ndim == 4 else 1
    return n * np.float32(np.sqrt(gain / np.prod(shape[1:])))


def positions(size: int, count: int = POSITIONS) -> np.ndarray:
    """Where a flat array of `size` values is looked at."""
    return np.random.Generator(np.random.Philox(key=size)).integers(0, size, count)


def fingerprint(shapes: dict[str, tuple[int, ...]]) -> str:
    """Of a state dict's names and shapes, in PyTorch's layout."""
    lines = sorted(f"{name} {list(shape)}" for name, shape in shapes.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
