"""Our training steps of SimCLR, SwAV and DINO and lightly's (PyTorch) in turn, each in processes of its own.

    pip install lightly -r tests/requirements.txt
    python -m experiments.benchmarks.ssl                    64 px, batch 64, three rounds
    python -m experiments.benchmarks.ssl --only swav --batch 16 --rounds 1 --repeats 1

A step is forward, loss, backward and SGD, in DINO also the moving averages of teacher and centre. The batch
is in memory, and neither side augments it. Both sides take the same weights and images, a ResNet-18 and heads
as wide as in lightly's examples. The losses of their first two steps must agree, or no time is shown.

lightly's losses, heads and `update_momentum` are called as they are, with four differences, without which the
steps would not be the same: one forward has all views of a size; SimCLR's loss is times 2, a sum over both
views; the shift of SimCLR's last norm and the bias of SwAV's prototypes stay 0. Our step also computes its
metrics and the norms of parameters and gradient.
"""

import argparse
import copy
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from experiments.benchmarks import quiet
from seed_jax.errors import UserError, command
from seed_jax.report.tables import Table

ROOT = Path(__file__).parents[2]
SIDES, METHODS = ("ours", "lightly"), ("simclr", "swav", "dino")
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
TOLERANCES = (1e-5, 1e-3)  # of the first two losses, relative; the second has been through an update
MOMENTUM, DECAY = 0.9, 1e-4  # of SGD
# SimCLR's gradient in an untrained network is large: with a rate of 0.03, the number of threads alone changes
# the second loss of lightly's side by more than the tolerance.
RATES = {"simclr": 3e-4, "swav": 0.03, "dino": 0.03}

WIDE, LOCAL = 2, 6  # views of `--size` pixels, and of half of that, which SimCLR does not have
WIDTH = 512  # of the pooled feature and of the heads' hidden layers
DIM, TEMPERATURE = 128, 0.1  # of SimCLR and SwAV
SWAV_PROTOTYPES, EPSILON, ITERATIONS = 512, 0.05, 3
DINO_PROTOTYPES, BOTTLENECK, TAU_STUDENT, TAU_TEACHER = 2048, 64, 0.1, 0.04
TEACHER_MOMENTUM, CENTER_MOMENTUM = 0.996, 0.9
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@command
def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    if missing := [name for name in ("torch", "lightly") if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"This benchmark compares with lightly, and {missing[0]} is not installed: "
            "use pip install lightly -r tests/requirements.txt."
        )
    if options.side:
        found = {"ours": _ours, "lightly": _lightly}[options.side](options)
        print(json.dumps(found))
        return 0
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for method in [options.only] if options.only else METHODS:
            rounds = [_round(method, number, folder, options) for number in range(1, options.rounds + 1)]
            ours, theirs = ([measured[side]["ms"] for measured in rounds] for side in SIDES)
            faster = [b / a for a, b in zip(ours, theirs, strict=True)]
            rows.append([method, _span(ours, 0), _span(theirs, 0), _span(faster, 2)])
    versions = ", ".join(rounds[0][side]["versions"] for side in SIDES)
    print(f"\n{quiet.processor()}; resnet18, {options.size} px, batch {options.batch}, fp32; {versions}.\n")
    print(Table(["step of", "ours, ms", "lightly, ms", "times faster"], rows).aligned())
    return 0


def _parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.ssl",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", choices=METHODS, help="one method; default: all")
    parser.add_argument("--size", type=int, default=64, help="side of a wide view, pixels; default: 64")
    parser.add_argument("--batch", type=int, default=64, help="images; default: 64")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--repeats", type=int, default=5, help="steps timed in a round; default: 5")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for name, least in {"size": 32, "batch": 2, "rounds": 1, "repeats": 1}.items():
        if getattr(options, name) < least:
            raise UserError(f"--{name} is {getattr(options, name)}: use {least} or more.")
    return options


def _round(method: str, number: int, folder: str, options) -> dict:
    print(f"{method}, round {number}, {quiet.load()}", flush=True)
    measured = {}
    for side in reversed(SIDES):  # lightly's writes the weights
        words = [sys.executable, "-m", __spec__.name, "--side", side, "--folder", folder, "--only", method]
        for name in ("size", "batch", "repeats"):
            words += [f"--{name}", str(getattr(options, name))]
        environment = os.environ | HUGE_PAGES
        ended = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise UserError(f"The process that times {side} failed: {ended.stderr.strip()}")
        measured[side] = json.loads(ended.stdout.splitlines()[-1])
    print(f"  {agreement(method, measured)}")
    for side in SIDES:
        print(f"  {side}: a step takes {measured[side]['ms']:.1f} ms; {quiet.told(measured[side]['others'])}")
    sys.stdout.flush()
    return measured


def agreement(method: str, measured: dict) -> str:
    """The sentence about the losses of a round.

    Raises:
      UserError: they differ by more than `TOLERANCES`, or the update does not show in them.
    """
    both = [measured[side]["losses"] for side in SIDES]
    errors = [abs(a - b) / abs(b) for a, b in zip(*both, strict=True)]
    said = ", ".join(
        f"{a:.6f} and {b:.6f} (relative error {error:.0e}, tolerance {allowed:.0e})"
        for a, b, error, allowed in zip(*both, errors, TOLERANCES, strict=True)
    )
    moved = abs(both[1][1] / both[1][0] - 1)
    if moved < 10 * TOLERANCES[1]:
        raise UserError(f"The update changes the loss of {method} too little to be compared: {said}.")
    if not all(error <= allowed for error, allowed in zip(errors, TOLERANCES, strict=True)):
        raise UserError(
            f"Both sides do not do the same work: losses of the first steps of {method} are {said}."
        )
    return f"same work: losses of the first steps, ours and lightly's, are {said}"


def _views(options) -> list[np.ndarray]:
    """uint8 `[B, V, H, W, 3]` of each size of views: four by four squares of random colours.

    Noise would not do: its pooled features are nearly equal, and a norm magnifies what rounding does to them.
    """
    numbers = np.random.default_rng(0)
    found = []
    for n, side in [(WIDE, options.size)] + [(LOCAL, options.size // 2)] * (options.only != "simclr"):
        squares = numbers.integers(0, 256, (options.batch, n, 4, 4, 3), np.uint8)
        square = -(-side // 4)
        found.append(squares.repeat(square, axis=2).repeat(square, axis=3)[:, :, :side, :side])
    return found


def _ours(options) -> dict:
    import jax
    from flax import traverse_util

    from experiments.benchmarks import parts
    from seed_jax import config, parallel, weights
    from seed_jax.models.network import Joined

    method = options.only
    raw = config.default(method)
    raw.data.batch_size, raw.data.image_size = options.batch, options.size
    raw.data.photometric, raw.data.flip = "none", 0.0
    raw.student.model = "resnet18"
    raw.optim.lr, raw.optim.lr_batch, raw.optim.schedule = RATES[method], 0, "constant"
    raw.optim.momentum, raw.optim.weight_decay, raw.optim.clip_norm = MOMENTUM, DECAY, 0.0
    raw.train.steps, raw.train.precision, raw.train.bn_group = 1000, "fp32", 0
    raw.method.hidden = WIDTH
    if method == "simclr":
        raw.method.update(dim=DIM, layers=2, temperature=TEMPERATURE)
    else:
        raw.method.update(local_views=LOCAL, local_size=options.size // 2, freeze_epochs=0.0)
    if method == "swav":
        raw.method.update(prototypes=SWAV_PROTOTYPES, dim=DIM, temperature=TEMPERATURE, queue_size=0)
        raw.method.update(epsilon=EPSILON, iterations=ITERATIONS)
    if method == "dino":
        raw.method.update(prototypes=DINO_PROTOTYPES, bottleneck=BOTTLENECK)
        raw.method.update(tau_student=TAU_STUDENT, tau_teacher=TAU_TEACHER, tau_warmup_epochs=0)
        raw.method.update(momentum=TEACHER_MOMENTUM, center_momentum=CENTER_MOMENTUM)
        raw.method.update(photometric_second="none", photometric_local="none")

    mesh = parallel.make_mesh(jax.devices())
    with jax.set_mesh(mesh):
        run = parts.start(config.resolve(raw), mesh)
        run.host.close()  # its threads would prepare batches while the step is timed
        backbone = weights.load(_backbone_file(options), Joined(run.training.student.backbone, {}))
        head = {tuple(name.split("/")): x for name, x in np.load(_head_file(options)).items()}
        params = backbone["params"] | traverse_util.unflatten_dict(head)
        state = run.state.replace(params=params)
        if method == "dino":
            ema = run.state.aux["ema"] | {"params": jax.tree.map(np.copy, params)}
            state = state.replace(aux=run.state.aux | {"ema": ema})
        run.state = jax.device_put(state, run.training.shardings)
        views = _views(options)
        if method == "dino":  # whose second wide view may have other photometrics
            views = [views[0][:, :1], views[0][:, 1:], views[1]]
        run.batch = run.batch | {"views": parallel.to_devices(mesh, tuple(views))}
        step = parts.step(run)
        losses = [float(step.call()["loss"]) for _ in TOLERANCES]
        return _timed(lambda: jax.block_until_ready(step.call()), options, losses, f"JAX {jax.__version__}")


def _lightly(options) -> dict:
    import lightly
    import torch

    sys.path.insert(0, str(ROOT / "tests" / "weights"))
    import torch_nets

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    backbone = torch_nets.ResNet(18, 64).to(memory_format=torch.channels_last)
    trained, head, loss_of = {"simclr": _simclr, "swav": _swav, "dino": _dino}[options.only](backbone)
    torch.save(backbone.state_dict(), _backbone_file(options))
    np.savez(_head_file(options), **head)
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (MEAN, STD))
    rows = []
    for views in _views(options):
        x = torch.from_numpy(views).permute(1, 0, 4, 2, 3).flatten(0, 1).float() / 255
        rows.append(((x - mean) / std).contiguous(memory_format=torch.channels_last))
    parameters = [p for module in (backbone, *trained) for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, RATES[options.only], momentum=MOMENTUM, weight_decay=DECAY)

    def step() -> float:
        optimizer.zero_grad()
        loss = loss_of(*rows)
        loss.backward()
        optimizer.step()
        return loss.item()

    losses = [step() for _ in TOLERANCES]
    versions = f"torch {torch.__version__}, lightly {lightly.__version__}"
    return _timed(step, options, losses, versions)


def _simclr(backbone):
    """lightly's modules besides the backbone, their parameters by our names, and the loss of the views."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    head, criterion = SimCLRProjectionHead(WIDTH, WIDTH, DIM), NTXentLoss(TEMPERATURE)
    linear1, bn1, _, linear2, bn2 = head.layers
    bn2.bias.requires_grad_(False)

    def loss(wide):
        return 2 * criterion(*head(backbone(wide)).chunk(WIDE))

    named = {"linear1": linear1, "bn1": bn1, "linear2": linear2, "bn2": bn2}
    return [head], _arrays(named), loss


def _swav(backbone):
    """As `_simclr`."""
    import torch
    from lightly.loss import SwaVLoss
    from lightly.models.modules import SwaVProjectionHead, SwaVPrototypes
    from torch.nn import functional as F

    head, prototypes = SwaVProjectionHead(WIDTH, WIDTH, DIM), SwaVPrototypes(DIM, SWAV_PROTOTYPES)
    criterion = SwaVLoss(TEMPERATURE, ITERATIONS, EPSILON)
    torch.nn.init.zeros_(prototypes.heads[0].bias).requires_grad_(False)

    def loss(*views):
        prototypes.normalize()
        scores = [prototypes(F.normalize(head(backbone(x)), dim=1)) for x in views]
        return criterion(scores[0].chunk(WIDE), scores[1].chunk(LOCAL))

    linear1, bn1, _, linear2 = head.layers
    arrays = _arrays({"linear1": linear1, "bn1": bn1, "linear2": linear2})
    arrays["head/linear1/bias"] = np.zeros(WIDTH, np.float32)  # the norm after it removes it
    arrays["prototypes/kernel"] = prototypes.heads[0].weight.detach().numpy().T
    return [head, prototypes], arrays, loss


def _dino(backbone):
    """As `_simclr`."""
    import torch
    from lightly.loss import DINOLoss
    from lightly.models.modules import DINOProjectionHead
    from lightly.models.utils import update_momentum

    head, teacher_head = (DINOProjectionHead(WIDTH, WIDTH, BOTTLENECK, DINO_PROTOTYPES) for _ in range(2))
    teacher_head.load_state_dict(head.state_dict())
    student = torch.nn.Sequential(backbone, head)
    teacher = torch.nn.Sequential(copy.deepcopy(backbone), teacher_head).requires_grad_(False)
    criterion = DINOLoss(
        DINO_PROTOTYPES, teacher_temp=TAU_TEACHER, student_temp=TAU_STUDENT, center_momentum=CENTER_MOMENTUM
    )

    def loss(wide, local):
        update_momentum(student, teacher, TEACHER_MOMENTUM)
        targets = teacher(wide).chunk(WIDE)
        return criterion(targets, student(wide).chunk(WIDE) + student(local).chunk(LOCAL))

    arrays = _arrays({f"linear{i}": head.layers[j] for i, j in ((1, 0), (2, 2), (3, 4))})
    arrays["head/prototypes"] = head.last_layer.weight_v.detach().numpy().T
    return [head], arrays, loss


def _arrays(named: dict) -> dict[str, np.ndarray]:
    """Parameters of Linear layers and norms by our names in the part `head`."""
    arrays = {}
    for name, module in named.items():
        matrix = module.weight.ndim == 2
        weight = module.weight.detach().numpy()
        arrays[f"head/{name}/{'kernel' if matrix else 'scale'}"] = weight.T if matrix else weight
        if module.bias is not None:
            arrays[f"head/{name}/bias"] = module.bias.detach().numpy()
    return arrays


def _backbone_file(options) -> Path:
    return options.folder / f"{options.only}.pth"


def _head_file(options) -> Path:
    return options.folder / f"{options.only}.npz"


def _timed(call, options, losses, versions) -> dict:
    """The median in milliseconds of the calls, after two more."""
    times = []
    with quiet.Others() as others:
        for _ in range(2 + options.repeats):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
    ms = 1e3 * statistics.median(times[2:])
    return {"losses": losses, "ms": ms, "others": others.share, "versions": versions}


def _span(values, digits: int) -> str:
    middle, low, high = (f"{f(values):.{digits}f}" for f in (statistics.median, min, max))
    return middle if len(values) == 1 else f"{middle} ({low} to {high})"


if __name__ == "__main__":
    sys.exit(main())
