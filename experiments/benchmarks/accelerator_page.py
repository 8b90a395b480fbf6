"""The results of `accelerator.py` as Markdown."""

from seed_jax.report.tables import Table


def page(results: dict) -> str:
    """The results, complete or not, as Markdown: a table of the sections and those of each section."""
    machine, sections = results["machine"], results["sections"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    blocks = [
        f"# {machine['device']}, form {results['form']}",
        f"{results['date']}, {results['seconds']:.0f} s of at most {60 * results['minutes']:.0f} s. "
        f"The first of {machine['devices']} devices ({machine['platform']}), "
        f"{_gib(machine['device_bytes']) or '?'} GiB; {machine['cores']} cores, "
        f"load {machine['load'][0]:.1f}. {packages}.",
        _sections(sections),
    ]
    for name, found in sections.items():
        tables = [make(found) for key, make in BLOCKS.items() if key in found]
        if tables:
            blocks += [f"## {name}", *tables]
    return "\n\n".join(blocks)


def _sections(sections: dict) -> str:
    rows = [
        [name, found["status"], found.get("seconds"), found.get("reason", "")]
        for name, found in sections.items()
    ]
    return Table(["section", "status", "s", "reason"], rows).markdown()


def _products(found: dict) -> str:
    rows = [[kind, _three(each["tflops"]), each["size"]] for kind, each in found["products"].items()]
    return Table(["product", "TFLOP/s", "side"], rows).markdown()


def _checks(found: dict) -> str:
    rows = [
        [name, f"{check['error']:.1e}", f"{check['tolerance']:.0e}", "yes" if check["passed"] else "NO"]
        for name, check in found["checks"].items()
    ]
    return Table(["against the CPU", "error", "tolerance", "within"], rows).markdown()


def _parts(found: dict) -> str:
    rows = [
        [
            name,
            part["ms"],
            100 * part["share"],
            part["images_per_s"],
            _three(part["tflops"]),
            _percent(part["of_ceiling"]),
            part["compile_s"],
        ]
        for name, part in found["parts"].items()
    ]
    header = ["part", "ms", "share %", "images/s", "TFLOP/s", "of the ceiling %", "compiled in s"]
    return Table(header, rows, digits=2).markdown()


def _memory(found: dict) -> str:
    return (
        f"The step's program needs {_gib(found['program_bytes'])} GiB; the device's peak since the start "
        f"was {_gib(found['peak_bytes']) or '?'} GiB."
    )


def _long_loss(found: dict) -> str:
    long = found["long_loss"]
    return (
        f"The loss at K = {long['queue']:,}: {long['ms']:.2f} ms, {100 * long['share']:.1f} % of a step in "
        "which it replaces the shorter one."
    )


def _aims(found: dict) -> str:
    titles = {
        "teacher_of_ceiling": "teacher's forward: at least half of the ceiling",
        "loss_share": "loss: at most 5 % of the step",
    }
    rows = [
        [titles[name], 100 * aim["reached"], "yes" if aim["met"] else "NO"]
        for name, aim in found["aims"].items()
    ]
    return Table(["aim", "%", "met"], rows).markdown()


def _tried(found: dict) -> str:
    rows = [
        [
            batch,
            each["ms"],
            each["images_per_s"],
            _gib(each["program_bytes"]),
            _gib(each["peak_bytes"]),
            each["compile_s"],
        ]
        for batch, each in found["tried"].items()
    ]
    header = ["batch", "ms", "images/s", "program GiB", "peak GiB", "compiled in s"]
    return Table(header, rows, digits=2).markdown()


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f}"


def _three(value: float | None) -> str | None:
    return None if value is None else f"{value:.3g}"


def _gib(count: int | None) -> str | None:
    return None if count is None else f"{count / 2**30:.2f}"


BLOCKS = {
    "run": lambda found: found["run"] + (f", batch {found['batch']}." if "batch" in found else "."),
    "note": lambda found: found["note"],
    "products": _products,
    "checks": _checks,
    "parts": _parts,
    "program_bytes": _memory,
    "long_loss": _long_loss,
    "aims": _aims,
    "tried": _tried,
    "stopped": lambda found: found["stopped"],
}
