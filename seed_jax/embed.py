"""`python -m seed_jax.embed`: the command in `evals/embed.py`. In Python, `seed_jax.embed` is a function."""

import sys

from seed_jax.evals.embed import embed, main

if __name__ == "__main__":
    sys.exit(main())
sys.modules[__name__] = embed  # so that `import seed_jax.embed` gives the function too
