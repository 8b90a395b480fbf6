"""What an accelerator makes of this code, in six minutes: agreement with the CPU, speed, memory.

    python -m experiments.benchmarks.accelerator           writes results.json and results.md
    python -m experiments.benchmarks.accelerator --tiny    the smoke forms, to try the code on any CPU

It needs the checkout and the installed packages, no data and no weights, and uses the first device. The
sections, in order of worth:

    ceiling     TFLOP/s of the fastest square matrix product of a few sizes, for each precision
    agreement   forward, loss and 20 steps against the CPU, with tolerances (agreement.py)
    seed        ResNet-50 to MobileNetV3-Large, as configs/seed_r50_to_mbv3.py: the step and its parts
    vit         the same with a ViT-B/16 as the teacher and a ResNet-50 as the student
    moco        MoCo-v2, as configs/moco_r50.py
    largest     the step of `seed`, its batch doubled until the memory is full

The results are written after every part. A section is skipped if less time is left than it is expected to
take on a GPU, and cut when the time is over; one that fails does not stop the others. The exit code is 1 if a
section failed or a value is out of its tolerance.

Aims: the forward of the teacher reaches at least half of the ceiling of its precision, and the loss takes at
most 5 % of the step.
"""

import argparse
import dataclasses
import gc
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import jax
from absl import logging

from experiments.benchmarks import agreement, parts, timing
from experiments.benchmarks.accelerator_page import page
from experiments.benchmarks.journal import Journal
from seed_jax import config, parallel
from seed_jax.errors import UserError, command

CEILING_AIM, LOSS_AIM = 0.5, 0.05  # shares; of the teacher's forward and of the loss


@dataclasses.dataclass(frozen=True)
class Form:
    """The sizes of a form of the benchmark.

    Attributes:
      variant: edits a config, such as `config.smoke`.
      products: sides of the matrix products.
      queue: entries of the queue of the agreement's loss.
      long_queue: entries of the longer queue that the loss of SEED is measured with.
      batches: what `largest` tries.
      repeats, calls: as for `timing.median_ms`.
    """

    variant: Callable
    products: tuple[int, ...]
    queue: int
    long_queue: int
    batches: tuple[int, ...]
    repeats: int
    calls: int


FULL = Form(
    lambda raw: raw, (4096, 8192, 16384), 65_536, 1_048_576, (512, 1024, 2048, 4096, 8192, 16384), 5, 4
)
TINY = Form(config.smoke, (256,), 1024, 2048, (32,), 1, 1)


@dataclasses.dataclass(frozen=True)
class Bench:
    """What a section gets: the sizes, the mesh of one device, and the journal with the section's own name."""

    form: Form
    mesh: jax.sharding.Mesh
    journal: Journal
    name: str

    def set(self, **values) -> None:
        self.journal.set(self.name, **values)

    def say(self, text: str) -> None:
        self.journal.say(f"{self.name}: {text}")

    def median_ms(self, part: parts.Part) -> float:
        return timing.median_ms(part.call, self.form.repeats, self.form.calls)


@dataclasses.dataclass(frozen=True)
class Section:
    """A section: `seconds` is what it is expected to take on a GPU, most of it to compile."""

    run: Callable[[Bench], None]
    seconds: float


@command
def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    logging.set_verbosity(logging.ERROR)
    with timing.uncached():
        parallel.start()
        form = TINY if options.tiny else FULL
        name = "tiny" if options.tiny else "full"
        journal = Journal(options.out, options.minutes, SECTIONS, form=name)
        mesh = parallel.make_mesh(jax.devices()[:1])
        with jax.set_mesh(mesh):
            for name, section in SECTIONS.items():
                _attempt(section, Bench(form, mesh, journal, name), 0 if options.tiny else section.seconds)
    print(f"\n{page(journal.results)}\n\nWritten to {options.out}/results.json and results.md.")
    return journal.exit_code()


def _parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.accelerator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--minutes", type=float, default=6, help="all sections together, from the start on; default: 6"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/accelerator"),
        help="folder of results.json and results.md, which are replaced; default: runs/accelerator",
    )
    parser.add_argument(
        "--tiny", action="store_true", help="small networks, images, batches and queues: a trial of the code"
    )
    options = parser.parse_args(arguments)
    if not 0 <= options.minutes < float("inf"):
        raise UserError(f"--minutes is {options.minutes}: use 0 or more.")
    return options


def _attempt(section: Section, bench: Bench, expected: float) -> None:
    """Run a section if the time left allows it; whatever it raises is its result."""
    left, began = bench.journal.left(), time.monotonic()
    if left <= expected:
        reason = f"{max(0, left):.0f} s were left, and it is expected to take {expected:.0f} s"
        bench.set(status="skipped", reason=reason)
        bench.say(f"skipped, {reason}")
        return
    bench.set(status="running")
    bench.say("started")
    guard = threading.Timer(left, bench.journal.cut, (bench.name,))
    guard.daemon = True
    guard.start()
    try:
        section.run(bench)
        ended = {"status": "done"}
    except Exception as error:  # whatever it is, the other sections go on
        ended = {"status": "failed", "reason": _first_line(error)}
    finally:
        guard.cancel()
    bench.set(**ended, seconds=round(time.monotonic() - began, 1))
    bench.say(": ".join(ended.values()))
    gc.collect()  # the arrays of a section that failed


def _ceiling(bench: Bench) -> None:
    form, found = bench.form, {}
    for kind in timing.PRODUCTS:
        reached = {n: timing.ceiling(kind, n, form.repeats, form.calls) for n in form.products}
        size = max(reached, key=reached.get)
        found[kind] = {"tflops": reached[size], "size": size}
        bench.set(products=dict(found))
        bench.say(f"{kind} {reached[size]:.3g} TFLOP/s")


def _agreement(bench: Bench) -> None:
    if jax.default_backend() == "cpu":
        bench.set(note="There is no accelerator: the CPU is compared with itself.")
    bench.set(checks=agreement.compare(bench.form.queue))


def _seed(bench: Bench) -> None:
    run = _measure(bench, _seed_config(bench))
    c, measured = run.config, bench.journal.results["sections"][bench.name]["parts"]
    long = parts.loss(c.method, bench.mesh, c.data.batch_size, c.teacher.dim, bench.form.long_queue)
    ms = bench.median_ms(long)
    others_ms = measured["step"]["ms"] - measured[long.name]["ms"]
    bench.set(long_loss={"queue": bench.form.long_queue, "ms": ms, "share": ms / (others_ms + ms)})


def _vit(bench: Bench) -> None:
    _measure(bench, _seed_config(bench, teacher="vit_base", student="resnet50"))


def _moco(bench: Bench) -> None:
    _measure(bench, bench.form.variant(config.load("moco_r50")))


def _seed_config(bench: Bench, teacher: str = "resnet50", student: str = "mobilenetv3_large"):
    raw = config.load("seed_r50_to_mbv3")
    raw.teacher.model, raw.teacher.weights, raw.student.model = teacher, "random", student
    return bench.form.variant(raw)


def _measure(bench: Bench, raw) -> parts.Run:
    """Time the step of a config and its parts; each is written as soon as it is known. Returns the run."""
    run = _start(raw, bench.mesh)
    c = run.config
    ceilings = bench.journal.results["sections"]["ceiling"].get("products", {})
    ceiling = ceilings.get(c.train.precision, {}).get("tflops")
    bench.set(run=_described(c), batch=c.data.batch_size)
    found = {}
    for part in parts.parts(run):
        ms = bench.median_ms(part)
        tflops = part.flops and part.flops / ms / 1e9
        found[part.name] = {
            "ms": ms,
            "share": ms / found["step"]["ms"] if found else 1.0,
            "images_per_s": 1e3 * c.data.batch_size / ms,
            "tflops": tflops,
            "of_ceiling": tflops and ceiling and tflops / ceiling,
            "compile_s": part.compile_s,
        }
        if part.name == "step":
            bench.set(**_memory(part))
        bench.set(parts=dict(found))
        bench.say(f"{part.name} {ms:.3g} ms, compiled in {part.compile_s:.1f} s")
    aims = {"loss_share": _aim(found["loss and its gradient"]["share"], at_most=LOSS_AIM)}
    if (reached := found.get("teacher forward", {}).get("of_ceiling")) is not None:
        aims["teacher_of_ceiling"] = _aim(reached, at_least=CEILING_AIM)
    bench.set(aims=aims)
    return run


def _aim(reached: float, at_least: float = 0.0, at_most: float = float("inf")) -> dict:
    return {"reached": reached, "met": at_least <= reached <= at_most}


def _largest(bench: Bench) -> None:
    """Double the batch until the memory is full, or until a try might outlast the time left."""
    tried, raw = {}, _seed_config(bench)
    bench.set(run=_described(config.resolve(raw)))
    for batch in bench.form.batches:
        began, raw.data.batch_size = time.monotonic(), batch
        try:
            tried[f"{batch}"] = _try(bench, raw)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return bench.set(stopped=f"Batch {batch} does not fit: {_first_line(error)}")
        gc.collect()  # before the next try needs the memory
        seconds = time.monotonic() - began
        bench.set(tried=dict(tried))
        bench.say(f"batch {batch}: {tried[f'{batch}']['ms']:.3g} ms")
        if bench.journal.left() < 2 * seconds:
            return bench.set(stopped=f"Batch {batch} fits; a larger one might outlast the time left.")
    return bench.set(stopped=f"Batch {bench.form.batches[-1]} fits; no larger one is tried.")


def _try(bench: Bench, raw) -> dict:
    run = _start(raw, bench.mesh)
    part = parts.step(run)
    ms = bench.median_ms(part)
    images = 1e3 * run.config.data.batch_size / ms
    return {"ms": ms, "images_per_s": images, "compile_s": part.compile_s, **_memory(part)}


def _start(raw, mesh) -> parts.Run:
    run = parts.start(config.resolve(raw), mesh)
    run.host.close()  # its threads would prepare batches while the step is timed
    return run


def _memory(part: parts.Part) -> dict:
    return {"program_bytes": parts.program_bytes(part.program), "peak_bytes": timing.device_peak()}


def _described(c: config.Config) -> str:
    networks = f"{c.teacher.model} -> {c.student.model}" if c.method.needs_teacher else c.student.model
    d, t = c.data, c.train
    return (
        f"{c.method_name}, {networks}, {d.image_size} px, K = {c.method.queue_size:,}, {t.precision}, "
        f"BatchNorm groups of {t.bn_group}"
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


SECTIONS = {
    "ceiling": Section(_ceiling, 20),
    "agreement": Section(_agreement, 60),
    "seed": Section(_seed, 90),
    "vit": Section(_vit, 60),
    "moco": Section(_moco, 60),
    "largest": Section(_largest, 60),
}

if __name__ == "__main__":
    sys.exit(main())
