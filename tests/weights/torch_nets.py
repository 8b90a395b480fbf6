"""Plain torch networks with the module names of public checkpoints, narrow enough for tests."""

import torch
from torch import nn
from torch.nn import functional as F

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


class Block(nn.Module):
    def __init__(self, inputs, channels, stride, bottleneck):
        super().__init__()
        out = channels * (4 if bottleneck else 1)
        layout = [(1, 1), (3, stride), (1, 1)] if bottleneck else [(3, stride), (3, 1)]
        widths = [inputs, channels, channels, out] if bottleneck else [inputs, channels, out]
        self.count = len(layout)
        for i, (kernel, step) in enumerate(layout):
            conv = nn.Conv2d(widths[i], widths[i + 1], kernel, step, kernel // 2, bias=False)
            self.add_module(f"conv{i + 1}", conv)
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(widths[i + 1]))
        self.downsample = None
        if stride != 1 or inputs != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = F.relu(y, inplace=True) if i < self.count else y
        return F.relu(y + (x if self.downsample is None else self.downsample(x)), inplace=True)


class ResNet(nn.Module):
    """ResNet with torchvision's names; `heads` are modules by name, applied in order to pooled features."""

    def __init__(self, depth, base, **heads):
        super().__init__()
        self.conv1 = nn.Conv2d(3, base, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(base)
        inputs, bottleneck = base, depth >= 50
        for stage, count in enumerate(DEPTHS[depth]):
            blocks = []
            for i in range(count):
                channels = base * 2**stage
                blocks.append(Block(inputs, channels, 2 if stage and i == 0 else 1, bottleneck))
                inputs = channels * (4 if bottleneck else 1)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.heads = tuple(heads)
        for name, head in heads.items():
            self.add_module(name, head)

    def pooled(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x)), inplace=True), 3, 2, 1)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return x.mean((2, 3))

    def forward(self, x):
        x = self.pooled(x)
        for name in self.heads:
            x = getattr(self, name)(x)
        return x


def mlp(inputs, hidden, dim, batch_norm=False):
    norm = [nn.BatchNorm1d(hidden)] if batch_norm else []
    return nn.Sequential(nn.Linear(inputs, hidden), *norm, nn.ReLU(), nn.Linear(hidden, dim))


def _conv_bn(inputs, out, kernel, stride=1, groups=1):
    conv = nn.Conv2d(inputs, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out)]


class SqueezeExcite(nn.Module):
    def __init__(self, channels, hidden):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Hardsigmoid()
        )

    def forward(self, x):
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


class HSwish(nn.Module):
    """h_swish in the operations of d-li14/mobilenetv3.pytorch; `nn.Hardswish` is one operation."""

    def forward(self, x):
        return x * (F.relu6(x + 3, inplace=True) / 6)


class ReLU(nn.ReLU):
    def __init__(self):
        super().__init__(inplace=True)


class Inverted(nn.Module):
    def __init__(self, inputs, hidden, out, kernel, stride, se_hidden, act):
        super().__init__()
        self.skip = stride == 1 and inputs == out
        depthwise = _conv_bn(hidden, hidden, kernel, stride, groups=hidden)
        se = SqueezeExcite(hidden, se_hidden) if se_hidden else nn.Identity()
        if inputs == hidden:
            layers = [*depthwise, act(), se, *_conv_bn(hidden, out, 1)]
        else:
            layers = [*_conv_bn(inputs, hidden, 1), act(), *depthwise, se, act(), *_conv_bn(hidden, out, 1)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.conv(x) if self.skip else self.conv(x)


# input, expanded, output, kernel, stride, hidden units of squeeze-and-excite, activation
SMALL = [
    (16, 16, 16, 3, 2, 8, nn.ReLU),
    (16, 72, 24, 3, 2, 0, nn.ReLU),
    (24, 88, 24, 3, 1, 0, nn.ReLU),
    (24, 96, 40, 5, 2, 24, nn.Hardswish),
    (40, 240, 40, 5, 1, 64, nn.Hardswish),
    (40, 240, 40, 5, 1, 64, nn.Hardswish),
    (40, 120, 48, 5, 1, 32, nn.Hardswish),
    (48, 144, 48, 5, 1, 40, nn.Hardswish),
    (48, 288, 96, 5, 2, 72, nn.Hardswish),
    (96, 576, 96, 5, 1, 144, nn.Hardswish),
    (96, 576, 96, 5, 1, 144, nn.Hardswish),
]


LARGE = [
    (16, 16, 16, 3, 1, 0, ReLU),
    (16, 64, 24, 3, 2, 0, ReLU),
    (24, 72, 24, 3, 1, 0, ReLU),
    (24, 72, 40, 5, 2, 24, ReLU),
    (40, 120, 40, 5, 1, 32, ReLU),
    (40, 120, 40, 5, 1, 32, ReLU),
    (40, 240, 80, 3, 2, 0, HSwish),
    (80, 200, 80, 3, 1, 0, HSwish),
    (80, 184, 80, 3, 1, 0, HSwish),
    (80, 184, 80, 3, 1, 0, HSwish),
    (80, 480, 112, 3, 1, 120, HSwish),
    (112, 672, 112, 3, 1, 168, HSwish),
    (112, 672, 160, 5, 2, 168, HSwish),
    (160, 960, 160, 5, 1, 240, HSwish),
    (160, 960, 160, 5, 1, 240, HSwish),
]


class MobileNetV3(nn.Module):
    """MobileNetV3 with the names of d-li14/mobilenetv3.pytorch and SEED's `fc`."""

    def __init__(self, rows, pooled, act, dropout, fc):
        super().__init__()
        channels, hidden = rows[-1][2], rows[-1][1]
        stem = nn.Sequential(*_conv_bn(3, 16, 3, 2), act())
        self.features = nn.Sequential(stem, *(Inverted(*row) for row in rows))
        self.conv = nn.Sequential(*_conv_bn(channels, hidden, 1), act())
        self.classifier = nn.Sequential(nn.Linear(hidden, pooled), act(), nn.Dropout(dropout))
        self.fc = fc

    def forward(self, x):
        return self.fc(self.classifier(self.conv(self.features(x)).mean((2, 3))))


class MobileNetV3Small(MobileNetV3):
    def __init__(self, fc):
        super().__init__(SMALL, 1024, nn.Hardswish, 0.2, fc)


class MobileNetV3Large(MobileNetV3):
    """As fast as SEED's: with the operations that its code uses."""

    def __init__(self, fc, dropout=0.2):
        super().__init__(LARGE, 1280, HSwish, dropout, fc)


def randomise(net, seed=0):
    """Draw statistics, scales and biases away from 0 and 1, so that each matters; set eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            with torch.no_grad():
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.3, generator=generator)
                module.num_batches_tracked.fill_(7)
    return net.eval()


def prefixed(prefix, net):
    return {f"{prefix}{name}": tensor for name, tensor in net.state_dict().items()}


def moco_checkpoint(net):
    """Return what MoCo's main_moco.py saves: DistributedDataParallel state, optimizer with momentum."""
    optimizer = torch.optim.SGD(net.parameters(), 0.03, momentum=0.9, weight_decay=1e-4)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = prefixed("module.encoder_q.", net) | prefixed("module.encoder_k.", net)
    state |= {"module.queue": torch.randn(8, 16), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    return {"epoch": 200, "arch": "resnet50", "state_dict": state, "optimizer": optimizer.state_dict()}
