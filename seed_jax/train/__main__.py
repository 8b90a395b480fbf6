"""`python main.py --config=CONFIG --workdir=DIR [--config.section.key=value …]`: train, or resume.

If the workdir has a checkpoint, training resumes from it.
"""

import difflib
import sys
import time

from absl import flags, logging
from ml_collections import config_flags

from seed_jax import config as config_lib
from seed_jax.errors import UserError, command, end_on_signals, leave, outlive_output, unknown

CONFIG = config_flags.DEFINE_config_file("config", None, "The run: a file or the name of a packaged config.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: config, checkpoints, metrics, report.")
PROFILE = flags.DEFINE_integer(
    "profile", 0, "Steps to trace into the workdir's profile folder, for TensorBoard.", lower_bound=0
)
PLAN = flags.DEFINE_bool(
    "plan", False, "Print memory, FLOPs and time of the run; start nothing, use no accelerator."
)
CHECK = flags.DEFINE_bool(
    "check",
    False,
    "Check teacher, images, queue and learning rate of the run; train and write nothing.",
)
flags.mark_bool_flags_as_mutual_exclusive(["plan", "check"])
DEVICES = flags.DEFINE_integer("devices", 1, "With --plan: number of devices.", lower_bound=1)
IMAGES = flags.DEFINE_integer(
    "images", None, "With --plan: number of training images, if the data is not on this machine."
)
RATE = flags.DEFINE_float(
    "images_per_second", None, "With --plan: speed to compute the time from.", lower_bound=1
)
TFLOPS = flags.DEFINE_float("tflops", None, "With --plan: peak TFLOP/s of one device.", lower_bound=1e-3)

HELP = """\
{program} --config=CONFIG --workdir=DIR [--config.section.key=value …]

Train, or resume if the workdir has a checkpoint.

  --config      a file, or the name of a packaged config: {names};
                NAME:smoke runs small on any machine, and some configs have more variants
  --config.section.key=value
                override a value; docs/config.md and `seed-jax config keys` explain every key
{flags}
"""


@command
def main(arguments: list[str] | None = None, *, program: str = "python main.py", started: float = 0) -> int:
    """Run the command and return its exit code.

    Args:
      arguments: those after the program's name; by default the process's own.
      program: how the command is called, for `--help`.
      started: `time.time()` at the start of the process, or 0 for now.
    """
    started = started or time.time()
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help", "--helpfull"} & {*arguments}:
        print(_help(program))
        return 0
    _parse([program, *arguments])
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    from seed_jax import parallel
    from seed_jax.train import check, loop, plan

    if PLAN.value:
        plan.run(
            CONFIG.value,
            devices=DEVICES.value,
            images=IMAGES.value,
            images_per_second=RATE.value,
            tflops=TFLOPS.value,
        )
        return 0
    if CHECK.value:
        parallel.start()
        return check.run(CONFIG.value)
    outlive_output()
    parallel.start()
    loop.run(CONFIG.value, WORKDIR.value, started=started, profile=PROFILE.value)
    return 0


def _help(program: str) -> str:
    own = [flag.name for flag in (WORKDIR, CHECK, PLAN, PROFILE, DEVICES, IMAGES, RATE, TFLOPS)]
    lines = [f"  --{name:<18}{flags.FLAGS[name].help}" for name in own]
    return HELP.format(program=program, names=", ".join(config_lib.packaged()), flags="\n".join(lines))


def _parse(argv: list[str]) -> None:
    """Parse the flags as absl does; every mistake of the user is a `UserError`."""
    sys.argv = argv = [*argv]  # ml_collections reads the overrides there
    for n, argument in enumerate(argv):
        flag, given, value = argument.partition("=")
        if flag in ("--config", "-config") and given:
            argv[n] = f"{flag}={config_lib.located(value)}"
        elif flag in ("--config", "-config") and n + 1 < len(argv):
            argv[n + 1] = config_lib.located(argv[n + 1])
    try:
        arguments = flags.FLAGS(argv)
        if CONFIG.value is None:
            raise UserError("--config is missing: name a config, as in --config=configs/seed_folder.py.")
        CONFIG.value.keys()  # an unreadable file raises only here
    except flags.Error as error:
        message = str(error)
        if "as a ConfigDict" in message:  # ml_collections, with a message of Python's parser
            message = f"{message.partition(': ')[0]}: write a dictionary, as in '{{\"kd\": 0.9}}'."
        raise UserError(message) from error
    except OSError as error:
        raise UserError(f"--config: {str(error).splitlines()[-1].strip()}") from error
    except SyntaxError as error:
        raise UserError(
            f"--config: line {error.lineno} of {error.filename} is not valid Python ({error.msg})."
        ) from error
    except TypeError as error:  # ml_collections, of a value of another type in a config file
        if "Could not override" not in str(error):
            raise
        raise UserError(f"--config: {str(error).splitlines()[0]}") from error
    except (AttributeError, KeyError) as error:
        what = error.args[0].args[0] if isinstance(error.args[0], KeyError) else error.args[0]
        if what.startswith("'"):  # ml_collections quotes an unknown key
            wrong = what.split("'")[1]
        elif "Attempting to lookup: " in what:  # a key inside of a number or a text
            wrong = what.rpartition(".")[2]
        else:
            raise
        overrides = (
            argument.split("=")[0].removeprefix("--config.")
            for argument in argv
            if argument.startswith("--config.")
        )
        key = next((key for key in overrides if wrong in key.split(".")), wrong)
        known = config_lib.keys()
        outer, _, name = key.rpartition(".")
        if outer in known:
            raise UserError(
                f"{outer} has no '{name}' to override: write the whole value, as in --config.{outer}=…; a "
                f"dictionary is written '{{\"{name}\": …}}'."
            ) from error
        if not difflib.get_close_matches(key, known, cutoff=0.5):
            raise UserError(
                f"Unknown config key '{key}': use one of docs/config.md, such as optim.lr."
            ) from error
        raise unknown("config key", key, known) from error
    if len(arguments) > 1:
        raise UserError(f"Unknown argument '{arguments[1]}': overrides are --config.section.key=value.")
    if not (WORKDIR.value or PLAN.value or CHECK.value):
        raise UserError("--workdir is missing: name the folder of the run, as in --workdir=runs/mine.")


if __name__ == "__main__":
    end_on_signals()
    leave(main(program="python -m seed_jax.train"))
