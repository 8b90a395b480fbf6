"""What mixing, policies and picking cost in a step of KD, and what AutoAugment costs by itself.

    python -m experiments.benchmarks.mixing                                 ResNet-32x4 to ResNet-8x4, 32 px
    python -m experiments.benchmarks.mixing --only cutmix cutmix_pick       some augmentations
    python -m experiments.benchmarks.mixing --teacher cifar_resnet8 --student cifar_resnet8 --batch 8

A step has one pass of teacher and student for x and one for x'. The base of an augmentation has both, for
1 - x: for x itself XLA would merge them with the first two. CutMixPick shows the teacher a pool of two
batches, so its base shows the teacher two batches of 1 - x, and neither mixes nor picks. The steps run in
turn, one of each in a round. CPU time, over all cores, says more than ms where other processes run. Each
augmentation is timed by itself as well, since a few milliseconds drown in the noise of a step.
"""

import argparse
import dataclasses
import json
import re
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from experiments.benchmarks import parts, quiet
from experiments.benchmarks.timing import uncached
from seed_jax import config, parallel
from seed_jax.data import files, mixing
from seed_jax.data.augmentations import AUGMENTATIONS, augment
from seed_jax.errors import command
from seed_jax.methods.kd import KD, PICKED
from seed_jax.report.tables import Table
from seed_jax.train import build

AIM = 5.0  # percent over its base that an augmentation may cost
CLASSES = 100
DRAWS = ("batch", "image")
ONE_BATCH, POOL = "base", "base, pool of two batches"
ASKED_AGAIN = f"{PICKED}, second pass"
POLICIES = ("autoaugment_cifar10", "autoaugment_imagenet", "rand_augment", "trivial_augment")
KEYS = 16  # draws of an augmentation by itself: what a policy costs depends on them
# Headings of the two tables, and the fields of results.json that they show.
COMPILED = {
    "s to compile": "compile_s",
    "CPU s to compile": "compile_cpu_s",
    "HLO instructions": "instructions",
}
STEPS = {
    "x'": "name",
    "draw": "draw",
    "base": "base",
    "ms": "ms",
    "over base %": "over_base_percent",
    "CPU ms": "cpu_ms",
    "CPU over base %": "cpu_over_base_percent",
    **COMPILED,
}
ALONE = {
    "alone": "name",
    "draw": "draw",
    "batch": "batch",
    "ms": "ms",
    "share %": "share_percent",
    "CPU ms": "cpu_ms",
    "CPU share %": "cpu_share_percent",
    **COMPILED,
}
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.-]+ = ", re.MULTILINE)


class Base(KD):
    """The passes of an augmentation, over x' = 1 - x.

    Attributes:
      runs: batches that the teacher sees; the student sees one.
    """

    def _augmented(self, x, nets, forward, model_state, batch, rng):
        again = 1 - x
        teacher = nets.teacher(jnp.repeat(again, self.runs, axis=0))
        teacher = {name: entry[:: self.runs] for name, entry in teacher.items()}
        return again, teacher, jnp.arange(len(x)), batch.keys, model_state


class AsksAgain(KD):
    """CutMixPick as MingSun-Tse/Good-DA-in-KD has it: the teacher sees the picks a second time."""

    def _augmented(self, x, nets, forward, model_state, batch, rng):
        again, _, own, keys, model_state = super()._augmented(x, nets, forward, model_state, batch, rng)
        return again, nets.teacher(again), own, keys, model_state


@dataclasses.dataclass(frozen=True)
class Case:
    """A step to be timed: `base` is the name of the step that it is compared with, None for a base."""

    name: str
    method: KD
    base: str | None = ONE_BATCH


def cases(names) -> list[Case]:
    """The steps of some augmentations, and before them their bases."""
    bases = [Case(ONE_BATCH, Base(augment="identity", runs=1), None)]
    mixed = [Case(name, KD(augment=name, draw=draw)) for name in names if name != PICKED for draw in DRAWS]
    if PICKED not in names:
        return bases + mixed
    bases.append(Case(POOL, Base(augment="identity", runs=2), None))
    picked = [Case(PICKED, KD(augment=PICKED, draw=draw), POOL) for draw in DRAWS]
    return [*bases, *mixed, *picked, Case(ASKED_AGAIN, AsksAgain(augment=PICKED), POOL)]


@command
def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    logging.set_verbosity(logging.ERROR)
    parallel.start()
    began, others, before = time.monotonic(), quiet.Others(), quiet.load()
    mesh = parallel.make_mesh(jax.devices()[:1])
    with jax.set_mesh(mesh), uncached():
        steps = measure_steps(options, mesh, others)
        alone = measure_alone(options, steps[0], others)
    results = {
        "described": f"{options.teacher} -> {options.student}, {options.size} px, batch {options.batch}, "
        f"fp32, {options.rounds} rounds",
        "processor": quiet.processor(),
        "load_before": before,
        "others": others.share,
        "seconds": time.monotonic() - began,
        "steps": steps,
        "alone": alone,
    }
    said = page(results)
    files.write(options.out / "results.json", json.dumps(results, indent=1) + "\n")
    files.write(options.out / "table.md", said + "\n")
    print(f"\n{said}\n\nWritten to {options.out}: results.json, table.md.")
    return 0


def _parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.mixing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [name for name in (*AUGMENTATIONS, PICKED) if name != "identity"]
    parser.add_argument("--teacher", default="cifar_resnet32x4", help="default: cifar_resnet32x4")
    parser.add_argument("--student", default="cifar_resnet8x4", help="default: cifar_resnet8x4")
    parser.add_argument("--size", type=int, default=32, help="side of the images, pixels; default: 32")
    parser.add_argument("--batch", type=int, default=64, help="default: 64")
    parser.add_argument("--rounds", type=int, default=7, help="timings of each program; default: 7")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, default=names, help="of x'")
    parser.add_argument("--out", type=Path, default=Path("runs/mixing"), help="default: runs/mixing")
    return parser.parse_args(arguments)


def measure_steps(options, mesh, others) -> list[dict]:
    """For each of `cases`: ms of a step, percent over its base, seconds to compile, HLO instructions.

    Times are medians over the rounds, percents medians of the ratios within a round.
    """
    chosen, compiled = cases(options.only), []
    run = _start(options, mesh)
    given = build.make_given(run.config, parts.LENGTHS, CLASSES, run.teacher)
    for case in chosen:
        c = dataclasses.replace(run.config, method=case.method)
        training = build.assemble(c, mesh, given, run.teacher.network)
        state = jax.tree.map(jnp.copy, run.state)  # a step donates its own
        jax.clear_caches()  # else a case is spared what an earlier one has traced
        of_case = dataclasses.replace(run, config=c, training=training, state=state)
        with others:
            step, seconds = _clocked(lambda of_case=of_case: parts.step(of_case))
        compiled.append((step, seconds))
        print(f"{case.name}, draw {case.method.draw}: compiled in {seconds[0]:.1f} s", flush=True)

    times = [[] for _ in chosen]  # of each case, for each round
    for number in range(1 + options.rounds):
        with others:
            for (step, _), of_step in zip(compiled, times, strict=True):
                of_step.append(_clocked(step.call)[1])
        if number:
            print(f"round {number} of {options.rounds}; {others}", flush=True)
    times = 1e3 * np.array(times)[:, 1:]  # the first round warms up
    bases = {case.name: of_step for case, of_step in zip(chosen, times, strict=True) if case.base is None}
    found = []
    for case, (step, seconds), of_step in zip(chosen, compiled, times, strict=True):
        ms, cpu_ms = np.median(of_step, axis=0).tolist()
        over = cpu_over = None
        if case.base:
            over, cpu_over = (100 * (np.median(of_step / bases[case.base], axis=0) - 1)).tolist()
        found.append(
            {
                "name": case.name,
                "draw": case.method.draw,
                "base": case.base,
                "ms": ms,
                "over_base_percent": over,
                "cpu_ms": cpu_ms,
                "cpu_over_base_percent": cpu_over,
                "compile_s": seconds[0],
                "compile_cpu_s": seconds[1],
                "instructions": instructions(step.program),
            }
        )
    return found


def _start(options, mesh) -> parts.Run:
    """The run whose teacher, batch and first state the cases share."""
    raw = config.default("kd")
    raw.student.model, raw.teacher.model = options.student, options.teacher
    raw.teacher.weights, raw.teacher.options = "random", {"num_classes": CLASSES}
    raw.data.batch_size, raw.data.image_size = options.batch, options.size
    raw.data.crop, raw.data.photometric = "pad", "none"
    raw.train.steps, raw.train.precision, raw.train.bn_group = 1000, "fp32", 0
    run = parts.start(config.resolve(raw), mesh, CLASSES)
    run.host.close()  # its threads would prepare batches during the timings
    return run


def measure_alone(options, base: dict, others) -> list[dict]:
    """Each augmentation by itself, policies on four times the batch too; as shares of the step `base`, too.

    The times of a batch are a mean over `KEYS` draws, and of that mean the median over the rounds.
    """
    found = []
    for name in options.only:
        for batch in (options.batch, 4 * options.batch) if name in POLICIES else (options.batch,):
            for draw in DRAWS:
                jax.clear_caches()
                with others:
                    found.append(_alone(name, draw, batch, options, base))
    return found


def _alone(name: str, draw: str, batch: int, options, base: dict) -> dict:
    x = jax.random.uniform(jax.random.key(0), (batch, options.size, options.size, 3))
    logits = jax.random.normal(jax.random.key(1), (2 * batch, CLASSES))
    keys = list(jax.random.split(jax.random.key(2), KEYS))

    def again(x, key, logits):
        of_images = jax.random.split(key, batch) if draw == "image" else None
        if name != PICKED:
            return augment(name, x, key, of_images, fill=0.5)
        pool = mixing.cutmix_pool(x, key, of_images)
        return pool.images[mixing.pick("teacher_entropy", logits)]

    program, seconds = _clocked(lambda: jax.jit(again).lower(x, keys[0], logits).compile())

    def all_keys():  # one after the other, as steps are
        for key in keys:
            jax.block_until_ready(program(x, key, logits))

    times = [_clocked(all_keys)[1] for _ in range(1 + options.rounds)][1:]
    ms, cpu_ms = (1e3 * np.median(times, axis=0) / KEYS).tolist()
    comparable = batch == options.batch
    return {
        "name": name,
        "draw": draw,
        "batch": batch,
        "ms": ms,
        "share_percent": 100 * ms / base["ms"] if comparable else None,
        "cpu_ms": cpu_ms,
        "cpu_share_percent": 100 * cpu_ms / base["cpu_ms"] if comparable else None,
        "compile_s": seconds[0],
        "compile_cpu_s": seconds[1],
        "instructions": instructions(program),
    }


def _clocked(call):
    """What a call returns, once it is ready, and its seconds: of wall time, of CPU time over all cores."""
    began, busy = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(call())
    return result, (time.perf_counter() - began, time.process_time() - busy)


def instructions(program: jax.stages.Compiled) -> int:
    """HLO instructions of a compiled program, those inside fusions, loops and branches included."""
    return len(_INSTRUCTION.findall(program.as_text()))


def page(results: dict) -> str:
    """The results as Markdown."""
    steps = results["steps"]
    return "\n\n".join(
        [
            f"{results['described']}; {results['processor']}; {quiet.told(results['others'])}; "
            f"{results['load_before']} before; {results['seconds']:.0f} s in all.",
            _table(STEPS, steps, digits=1),
            f"{_above(steps)}{_saved(steps)}",
            f"By themselves; shares are of the step {ONE_BATCH!r}:",
            _table(ALONE, results["alone"], digits=2),
        ]
    )


def _table(columns: dict[str, str], entries: list[dict], digits: int) -> str:
    rows = [[entry[field] for field in columns.values()] for entry in entries]
    return Table(list(columns), rows, digits).markdown()


def _above(steps: list[dict]) -> str:
    costly = [
        f"{step['name']} (draw {step['draw']})"
        for step in steps
        if step["base"] and step["name"] != ASKED_AGAIN and step["over_base_percent"] > AIM
    ]
    return f"More than {AIM:.0f} % over the base: {', '.join(costly) or 'none'}."


def _saved(steps: list[dict]) -> str:
    """The sentence on what it saves to reuse the pool's logits; '' without CutMixPick."""
    ms = {(step["name"], step["draw"]): step["ms"] for step in steps}
    if (ASKED_AGAIN, "batch") not in ms:
        return ""
    reused, asked = ms[PICKED, "batch"], ms[ASKED_AGAIN, "batch"]
    return (
        f" CutMixPick takes {reused:.1f} ms with the pool's logits reused and {asked:.1f} ms with a second "
        f"pass of the teacher: reuse saves {100 * (1 - reused / asked):.1f} % of the step."
    )


if __name__ == "__main__":
    sys.exit(main())
