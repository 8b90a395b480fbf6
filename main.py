"""Train: `python main.py --config=configs/x.py --workdir=DIR [--config.section.key=value …]`.

`--help` lists the flags. `seed_jax/train/loop.py: run` is the run itself.
"""

import sys
import time

STARTED = time.time()

from seed_jax.errors import end_on_signals, leave  # noqa: E402

if __name__ == "__main__":
    end_on_signals()
    from seed_jax.train.__main__ import main

    leave(main(sys.argv[1:], started=STARTED))
