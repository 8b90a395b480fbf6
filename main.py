"""Train: `python main.py --config=configs/x.py --workdir=DIR [--config.section.key=value …]`.

If the workdir has a checkpoint, training resumes from it. Every config also runs small on any machine:
`--config=configs/x.py:smoke`. `--plan` prints memory, FLOPs and time of the run and starts nothing;
`--profile=N` traces N steps.
"""

import time

STARTED = time.time()

import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402


def end(number, frame):
    """Handle a signal outside the loop: nothing to save; same exit codes as inside.

    Not while processes join: JAX then waits outside Python, and `parallel.py` restores the default handlers.
    """
    del frame
    os.write(2, b"\nStopped outside the training loop: the same command starts or resumes the run.\n")
    os._exit(0 if number == signal.SIGTERM else 130)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)  # before and after `StopRequest` handles it

from absl import app, flags, logging  # noqa: E402
from ml_collections import config_flags  # noqa: E402

from seed_jax.errors import UserError, leave, unknown  # noqa: E402

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "The run: a file in configs/, perhaps with a variant, as in configs/x.py:smoke.",
    lock_config=True,
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: config, checkpoints, metrics, report.")
PROFILE = flags.DEFINE_integer(
    "profile", 0, "Steps to trace into the workdir's profile folder, for TensorBoard.", lower_bound=0
)
PLAN = flags.DEFINE_bool(
    "plan", False, "Print memory, FLOPs and time of the run; start nothing, use no accelerator."
)
DEVICES = flags.DEFINE_integer("devices", 8, "With --plan: number of devices.", lower_bound=1)
IMAGES = flags.DEFINE_integer(
    "images", None, "With --plan: number of training images, if the data is not on this machine."
)
RATE = flags.DEFINE_float(
    "images_per_second", None, "With --plan: speed to compute the time from.", lower_bound=1
)
TFLOPS = flags.DEFINE_float("tflops", None, "With --plan: peak TFLOP/s of one device.", lower_bound=1e-3)


def parse(argv):
    """Parse as absl does, but a mistake of the user prints one sentence and ends with exit code 1."""
    try:
        arguments = flags.FLAGS(argv)
        CONFIG.value.keys()  # an unreadable file raises only here
        if len(arguments) > 1:
            raise UserError(f"Unknown argument '{arguments[1]}': overrides are --config.section.key=value.")
        return arguments
    except (flags.Error, UserError) as error:
        sentence = str(error)
    except OSError as error:
        sentence = f"--config: {str(error).splitlines()[-1].strip()}"
    except SyntaxError as error:
        sentence = f"--config: line {error.lineno} of {error.filename} is not valid Python ({error.msg})."
    except TypeError as error:  # ml_collections, of a value of another type in a config file
        if "Could not override" not in str(error):
            raise
        sentence = f"--config: {str(error).splitlines()[0]}"
    except (AttributeError, KeyError) as error:
        what = error.args[0].args[0] if isinstance(error.args[0], KeyError) else error.args[0]
        if not what.startswith("'"):  # ml_collections quotes an unknown key
            raise
        from seed_jax import config

        wrong = what.split("'")[1]
        overrides = (
            arg.split("=")[0].removeprefix("--config.") for arg in argv if arg.startswith("--config.")
        )
        key = next((key for key in overrides if wrong in key.split(".")), wrong)
        sentence = str(unknown("config key", key, config.keys()))
    print(sentence, file=sys.stderr)
    sys.exit(1)


def main(argv):
    del argv
    from seed_jax import parallel
    from seed_jax.train import loop, plan

    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    try:
        if PLAN.value:
            plan.run(
                CONFIG.value,
                devices=DEVICES.value,
                images=IMAGES.value,
                images_per_second=RATE.value,
                tflops=TFLOPS.value,
            )
            return 0
        parallel.start()
        loop.run(CONFIG.value, WORKDIR.value, started=STARTED, profile=PROFILE.value)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    flags.register_multi_flags_validator(
        ["workdir", "plan"], lambda given: given["workdir"] or given["plan"], "--workdir is required."
    )
    app.run(lambda argv: leave(main(argv)), flags_parser=parse)
