"""Run every command of README.md as it is written, in a fresh clone, and print how long each takes.

    python -m experiments.release

The folder `images` of the commands gets the 1,378 tiles of source `photos6` in class folders. A command that
needs ImageNet or a file to download is run with `--plan`, and `./run.sh test` is left to `.ci/run`. Then the
package is installed into an empty environment, where `seed-jax --help` and docs/notebook.py run from another
folder. The exit code is 1 if a command fails.
"""

import argparse
import os
import re
import subprocess
import sys
import time
import venv
from pathlib import Path

from PIL import Image

from seed_jax.data.sources import open_source
from seed_jax.errors import UserError, command
from seed_jax.report.tables import Table

ROOT = Path(__file__).parents[2]
ELSEWHERE = ("TFDS_FOLDER",)  # what a README command names and this check lacks
PLAN = " --plan --images=1281167"
IN_CI = ("./run.sh test",)


@command
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.release",
        description=__doc__.split("\n", 1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("runs/release"), help="a folder that does not exist")
    out = parser.parse_args(arguments).out.resolve()
    if out.exists():
        raise UserError(f"--out: {out} exists: remove it, or name another folder.")
    clone, elsewhere = out / "seed_jax", out / "elsewhere"
    elsewhere.mkdir(parents=True)
    if _run(f"git clone -q {ROOT} {clone}", out):
        raise UserError(f"{ROOT} cannot be cloned: run this command in a clone.")
    for folder in (clone, elsewhere):
        _write_photographs(folder / "images")
    rows = [_timed(line, clone, clone / ".venv") for line in commands((ROOT / "README.md").read_text())]
    venv.create(out / "empty", with_pip=True)
    installed = (
        f"pip install -q '{clone}[teacher]'",
        "seed-jax --help",
        "seed-jax config",
        f"python {clone}/docs/notebook.py",
        "seed-jax train --config=seed_folder --workdir=runs/again --config.data.dir=images --plan",
    )
    rows += [_timed(line, elsewhere, out / "empty") for line in installed]
    print(Table(["command", "minutes", "exit code"], rows).markdown())
    return int(any(code != "0" for *_, code in rows))


def commands(text: str) -> list[str]:
    """The commands in the `bash` blocks of a Markdown page, without comments, continued lines joined."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    bare = [" ".join(line.split(" #")[0].split()) for line in lines]
    return [
        line + PLAN if any(name in line for name in ELSEWHERE) else line
        for line in bare
        if line and not line.startswith("#") and line not in IN_CI
    ]


def _write_photographs(folder: Path) -> None:
    source = open_source("photos6", "all")
    for n in range(len(source)):
        record = source[n]
        path = folder / f"photograph{record.label}" / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(record.image).save(path)


def _timed(line: str, folder: Path, environment: Path | None = None) -> list[str]:
    print(f"$ {line}", flush=True)
    began = time.time()
    code = _run(line, folder, environment)
    return [f"`{line}`", f"{(time.time() - began) / 60:.1f}", str(code)]


def _run(line: str, folder: Path, environment: Path | None = None) -> int:
    """The exit code of a command, in an environment that knows nothing of the one that runs this check."""
    inherited = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VENV")}
    if environment:
        inherited["PATH"] = f"{environment / 'bin'}:{inherited['PATH']}"
    return subprocess.run(["bash", "-c", line], cwd=folder, env=inherited, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
