"""Where the time of a step goes on an accelerator, by kind of layer, from the profiler's trace.

Each operation of the compiled step names the scope it was written in, and the trace has its time. A fusion
has the scope of its last operation. Tried on a CPU alone.
"""

import collections
import re
import tempfile
from pathlib import Path

import jax
from jax.profiler import ProfileData

from experiments.benchmarks.parts import Network, Part
from experiments.benchmarks.profile_layers import calls
from seed_jax.report.tables import Table

_OPERATION = re.compile(r'^\s+(?:ROOT )?%?([\w.\-]+) = .*op_name="([^"]*)"', re.MULTILINE)


def table(step: Part, networks: dict[str, Network], steps: int) -> str:
    """Markdown: ms of a step by network, kind and pass, longest first, from a trace of `steps` steps."""
    scopes = dict(_OPERATION.findall(step.program.as_text()))
    layers = {path: call.kind for network in networks.values() for path, call in calls(network) if path}
    with tempfile.TemporaryDirectory() as folder:
        jax.block_until_ready(step.call())
        with jax.profiler.trace(folder):
            jax.block_until_ready([step.call() for _ in range(steps)])
        (file,) = Path(folder).rglob("*.xplane.pb")
        spent = _times(ProfileData.from_file(str(file)), scopes)
    kinds = collections.Counter()
    for operation, ms in spent.items():
        kinds[kind(scopes.get(operation, ""), layers)] += ms / steps
    whole = sum(kinds.values())
    rows = [[*key, ms, 100 * ms / whole] for key, ms in kinds.most_common()]
    return Table(["part", "kind", "pass", "ms", "share %"], rows, 2).markdown()


def kind(scope: str, layers: dict[str, str]) -> tuple[str, str, str]:
    """Part, kind of layer and pass of an operation.

    Args:
      scope: of the operation, such as 'jit(step)/jvp(loss)/MobileNetV3/block1/expand_conv/dot_general'.
      layers: kinds by path, such as 'MobileNetV3/block1/expand_conv'.
    """
    if "/update/" in scope:
        return "optimizer", "", ""
    if "/views/" in scope:
        return "photometrics", "", ""
    networks = {path.partition("/")[0] for path in layers}
    if not networks & set(scope.split("/")):
        return ("loss", "", _pass(scope)) if "(loss)" in scope else ("rest", "", "")
    part = "teacher" if "/teacher/" in scope else "student"
    found = [name for path, name in layers.items() if f"/{path}/" in f"{scope}/"]
    return part, found[0] if found else "activations, skip connections", _pass(scope)


def _pass(scope: str) -> str:
    return "backward" if "transpose(" in scope else "forward"


def _times(trace: ProfileData, scopes: dict[str, str]) -> collections.Counter:
    """Milliseconds by operation of the program, without those of operations within it, such as a loop's."""
    spent = collections.Counter()
    for plane in trace.planes:
        lines = list(plane.lines)
        lines = [line for line in lines if line.name == "XLA Ops"] or lines
        for line in lines:
            events = [(e.start_ns, e.end_ns, _operation(e)) for e in line.events]
            events = sorted((e for e in events if e[2] in scopes), key=lambda e: (e[0], -e[1]))
            outer = []
            for start, end, operation in events:
                while outer and outer[-1][0] <= start:
                    outer.pop()
                spent[operation] += (end - start) / 1e6
                if outer:
                    spent[outer[-1][1]] -= (end - start) / 1e6
                outer.append((end, operation))
    return spent


def _operation(event) -> str:
    """The name of the operation in the program: a statistic of the event, or the start of its own name."""
    return dict(event.stats).get("hlo_op") or event.name.lstrip("%").split(" ")[0]
