"""Train: `python main.py --config=configs/x.py --workdir=DIR [--config.section.key=value …]`.

A workdir that holds a checkpoint goes on by itself. Every config also runs small anywhere:
`--config=configs/x.py:smoke`.
"""

import time

STARTED = time.time()

import sys  # noqa: E402

from absl import app, flags, logging  # noqa: E402
from ml_collections import config_flags  # noqa: E402

CONFIG = config_flags.DEFINE_config_file("config", None, "The run: a file in configs/.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, report.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]}")
    from seed_jax import parallel, train
    from seed_jax.errors import UserError

    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    try:
        parallel.start()
        train.run(CONFIG.value, WORKDIR.value, started=STARTED)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            f"\nStopped: the same command goes on from the newest checkpoint in {WORKDIR.value}.",
            file=sys.stderr,
        )
        return 130
    return 0


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
