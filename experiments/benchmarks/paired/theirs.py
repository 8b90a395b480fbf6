"""PyTorch's side of the paired benchmark, in a process of its own: prints its times as one line of JSON.

    python -m experiments.benchmarks.paired.theirs WORK FOLDER REPEATS

The step is that of jacobswan1/SEED (seed/builder.py, main.py) without automatic mixed precision: student in
train mode, teacher in eval mode without a gradient, similarities with a copy of the queue, soft
cross-entropy, SGD, enqueue. The networks are those of the tests. Images and networks are channels_last.
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from experiments.benchmarks import quiet
from experiments.benchmarks.paired import work as work_lib

sys.path.insert(0, str(Path(__file__).parents[3] / "tests" / "weights"))
import torch_nets  # noqa: E402

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main(arguments: list[str]) -> None:
    work, folder = work_lib.Work(**json.loads(arguments[0])), Path(arguments[1])
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    step = Step(work, folder)
    losses = [step.whole() for _ in range(work_lib.LOSSES)]
    times, shares = {}, {}
    for name, call in zip(work_lib.PARTS, step.parts(), strict=True):
        with quiet.Others() as others:
            times[name] = _median_ms(call, int(arguments[2]))
        shares[name] = others.share
    versions = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    print(json.dumps({"losses": losses, "ms": times, "others": shares, "versions": versions}))


def write(work: work_lib.Work, folder: Path) -> None:
    """Draw the weights of both networks and write them as state dicts."""
    torch.manual_seed(0)
    teacher, student = (network(getattr(work, part), work.base) for part in ("teacher", "student"))
    torch_nets.randomise(teacher)
    for net, path in zip((teacher, student), work_lib.files(folder, work), strict=True):
        torch.save(net.state_dict(), path)


def network(name: str, base: int) -> nn.Module:
    """A network with SEED's projection head."""
    if name == "mobilenetv3_large":
        return torch_nets.MobileNetV3Large(torch_nets.mlp(1280, 1280, work_lib.DIM), dropout=0.0)
    depth = int(name.removeprefix("resnet"))
    features = base * 8 * (4 if depth >= 50 else 1)
    return torch_nets.ResNet(depth, base, fc=torch_nets.mlp(features, features, work_lib.DIM))


class Step:
    """The released step on one batch, and its parts."""

    def __init__(self, work: work_lib.Work, folder: Path):
        self.teacher, self.student = (
            network(getattr(work, part), work.base) for part in ("teacher", "student")
        )
        for net, path in zip((self.teacher, self.student), work_lib.files(folder, work), strict=True):
            net.load_state_dict(torch.load(path))
            net.to(memory_format=torch.channels_last)
        self.teacher.eval().requires_grad_(False)
        self.student.train()
        x = torch.from_numpy(work_lib.images(work)).permute(0, 3, 1, 2).float() / 255
        x = (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
        self.x = x.contiguous(memory_format=torch.channels_last)
        self.queue = torch.from_numpy(work_lib.queue(work)).T.contiguous()
        self.next = 0
        self.optimizer = torch.optim.SGD(
            self.student.parameters(),
            work_lib.RATE * work.batch / work_lib.RATE_BATCH,
            momentum=work_lib.MOMENTUM,
            weight_decay=work_lib.DECAY,
        )

    def parts(self):
        """The calls of `work.PARTS`, in that order."""
        with torch.no_grad():
            z_s, z_t = (F.normalize(net(self.x), dim=1) for net in (self.student, self.teacher))
        z_s.requires_grad_()
        return self.whole, self.embed_teacher, self.train_student, lambda: self.loss(z_s, z_t).backward()

    def whole(self) -> float:
        z_s, z_t = F.normalize(self.student(self.x), dim=1), F.normalize(self.embed_teacher(), dim=1)
        loss = self.loss(z_s, z_t)
        self.enqueue(z_t)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    @torch.no_grad()
    def embed_teacher(self):
        return self.teacher(self.x)

    def train_student(self):
        self.optimizer.zero_grad()
        self.student(self.x).sum().backward()

    def loss(self, z_s, z_t):
        def logits(z):
            own = torch.einsum("nc,nc->n", z, z_t)[:, None]
            return torch.cat([own, torch.einsum("nc,ck->nk", z, self.queue.clone())], dim=1)

        target = F.softmax(logits(z_t) / work_lib.TAU_TEACHER, dim=1)
        return -(target * F.log_softmax(logits(z_s) / work_lib.TAU_STUDENT, dim=1)).sum(1).mean()

    def enqueue(self, z_t):
        self.queue[:, self.next : self.next + len(z_t)] = z_t.T
        self.next = (self.next + len(z_t)) % self.queue.shape[1]


def _median_ms(call, repeats: int) -> float:
    times = []
    for _ in range(2 + repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times[2:])


if __name__ == "__main__":
    main(sys.argv[1:])
