"""`seed-jax COMMAND …`, which is also `python -m seed_jax COMMAND …`.

Every command is also `python -m seed_jax.COMMAND …`, and `seed-jax train` is `python main.py`.
"""

import importlib
import sys
import time

STARTED = time.time()

from seed_jax import __version__  # noqa: E402
from seed_jax.errors import command, end_on_signals, leave, unknown  # noqa: E402

COMMANDS = {
    "train": ("seed_jax.train.__main__", "train or distil, or resume: --config=CONFIG --workdir=DIR"),
    "compare": ("seed_jax.compare.__main__", "rows x seeds x scores on one page: FILE, or WORKDIR…"),
    "evals": ("seed_jax.evals.__main__", "accuracies of runs, protocols on any network: RUN_OR_WEIGHTS…"),
    "report": ("seed_jax.report.__main__", "curves and numbers of a run as a page: WORKDIR…"),
    "embed": ("seed_jax.evals.embed", "features of images by any network: SPEC DATA OUT.npz"),
    "weights": (
        "seed_jax.weights.__main__",
        "inspect weights, export networks: inspect|export|parity",
    ),
    "rank_augmentations": (
        "seed_jax.rank_augmentations.__main__",
        "which augmentation to distil with, before training: TEACHER DATA",
    ),
    "analysis": (
        "seed_jax.analysis.__main__",
        "attention, flatness, gradients, separability as a page: RUN_OR_WEIGHTS…",
    ),
    "exits": ("seed_jax.exits.__main__", "accuracy and cost of each exit, and of leaving early: WORKDIR"),
    "data": ("seed_jax.data.__main__", "look at images before training, pack them: inspect|pack"),
    "config": ("seed_jax.config.__main__", "the packaged configs, and every key: list|show|keys"),
}
HELP = """\
seed-jax {version}: distil big vision networks into small ones.

  seed-jax COMMAND …      seed-jax COMMAND --help explains each

{commands}

  seed-jax train --config=seed_folder --workdir=runs/mine --config.data.dir=PHOTOS
"""


@command
def main(arguments: list[str] | None = None) -> int:
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        lines = "\n".join(f"  {name:<20}{what}" for name, (_, what) in COMMANDS.items())
        print(HELP.format(version=__version__, commands=lines), end="")
        return 0
    if name == "--version":
        print(__version__)
        return 0
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    run = importlib.import_module(COMMANDS[name][0]).main
    if name == "train":
        return run(rest, program="seed-jax train", started=STARTED)
    return run(rest)


def start() -> None:
    """The console script."""
    if sys.argv[1:2] in (["train"], ["compare"]):
        end_on_signals()
    leave(main())


if __name__ == "__main__":
    start()
