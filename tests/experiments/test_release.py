"""The commands that `experiments.release` finds in a page."""

from pathlib import Path

from experiments.release.__main__ import PLAN, commands

ROOT = Path(__file__).parents[2]
PAGE = """\
# Title

```bash
./run.sh                    # a comment
./run.sh --config=a.py \\
  --workdir=b               # another
# a line that is a comment
./run.sh test
./run.sh --config=a.py --config.data.dir=TFDS_FOLDER
```

```python
import seed_jax
```
"""


def test_commands_of_a_page():
    assert commands(PAGE) == [
        "./run.sh",
        "./run.sh --config=a.py --workdir=b",
        "./run.sh --config=a.py --config.data.dir=TFDS_FOLDER" + PLAN,
    ]


def test_commands_of_the_readme():
    found = commands((ROOT / "README.md").read_text())
    assert "./run.sh" in found
    assert any("--config=configs/seed_folder.py" in line for line in found)
    assert any("weights export runs/mine" in line for line in found)
    assert sum(line.endswith(PLAN) for line in found) == 1
