"""Swin transformers restated in torch, with the tensor names of microsoft/Swin-Transformer.

Windows are gathered by the coordinates of their tokens; the released code rolls and cuts the map.
"""

import math
import re

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    def __init__(self, dim, heads, window, version, pretrained, positions):
        super().__init__()
        self.heads, self.window, self.version = heads, window, version
        places = torch.tensor([(i, j) for i in range(window) for j in range(window)])
        offset = places[:, None] - places[None] + window - 1
        self.register_buffer("relative_position_index", offset[..., 0] * (2 * window - 1) + offset[..., 1])
        self.qkv = nn.Linear(dim, 3 * dim, bias=version == 1)
        self.proj = nn.Linear(dim, dim)
        if version == 1:
            self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
            return
        self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(dim)) for _ in range(2))
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10)))
        layers = nn.Sequential(nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, heads, bias=False))
        self.add_module(positions, layers)
        self.positions = (layers,)
        x = torch.arange(1 - window, window) * 8 / (pretrained - 1)
        x = x.sign() * torch.log2(x.abs() + 1) / math.log2(8)
        table = torch.stack([x[:, None].expand(-1, len(x)), x[None].expand(len(x), -1)], dim=-1)
        self.register_buffer("relative_coords_table", table[None])

    def bias(self):
        if self.version == 1:
            return self.relative_position_bias_table[self.relative_position_index]
        table = self.positions[0](self.relative_coords_table.to(self.proj.weight.dtype)).flatten(0, 2)
        return 16 * torch.sigmoid(table[self.relative_position_index])

    def one_window(self, x, allowed):
        """`[B, N, C]`, and which keys each query may see -> the same shape, and the weights."""
        batch, tokens, dim = x.shape
        added = self.qkv.bias
        if self.version == 2:
            added = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        q, k, v = F.linear(x, self.qkv.weight, added).view(batch, tokens, 3, self.heads, -1).unbind(2)
        heads = []
        for h in range(self.heads):
            a, b = q[:, :, h], k[:, :, h]
            if self.version == 1:
                logits = a @ b.mT / math.sqrt(dim // self.heads)
            else:
                logits = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).mT
                logits = logits * self.logit_scale[h].clamp(max=math.log(100)).exp()
            logits = logits + self.bias()[..., h]
            heads.append(torch.where(allowed, logits, logits - 100).softmax(dim=-1))
        weights = torch.stack(heads, dim=1)
        y = torch.einsum("bhqk,bkhd->bqhd", weights, v)
        return self.proj(y.reshape(x.shape)), weights


class Block(nn.Module):
    def __init__(self, dim, heads, window, shift, version, pretrained, epsilon, positions, extra):
        super().__init__()
        self.window, self.shift, self.version = window, shift, version
        self.norm1, self.norm2 = (nn.LayerNorm(dim, eps=epsilon) for _ in range(2))
        self.attn = Attention(dim, heads, window, version, pretrained, positions)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, 4 * dim), "fc2": nn.Linear(4 * dim, dim)})
        self.norm3 = nn.LayerNorm(dim, eps=epsilon) if extra else nn.Identity()

    def attention(self, x):
        batch, height, width, dim = x.shape
        n = self.window
        x = F.pad(x, (0, 0, 0, -width % n, 0, -height % n))
        rows, columns = x.shape[1:3]
        y, maps = torch.zeros_like(x), []
        inside = torch.arange(n)
        for i in range(0, rows, n):
            for j in range(0, columns, n):
                r, c = (i + inside + self.shift), (j + inside + self.shift)
                ends = 2 * (r >= rows).int()[:, None] + (c >= columns).int()[None]
                allowed = ends.flatten()[:, None] == ends.flatten()[None]
                where = (slice(None), (r % rows)[:, None], (c % columns)[None])
                out, weights = self.attn.one_window(x[where].reshape(batch, n * n, dim), allowed)
                y[where] = out.view(batch, n, n, dim)
                maps.append(weights)
        return y[:, :height, :width], torch.stack(maps, dim=1)

    def forward(self, x):
        def mlp(x):
            return self.mlp["fc2"](F.gelu(self.mlp["fc1"](x)))

        if self.version == 1:
            y, weights = self.attention(self.norm1(x))
            x = x + y
            return x + mlp(self.norm2(x)), weights
        y, weights = self.attention(x)
        x = x + self.norm1(y)
        return self.norm3(x + self.norm2(mlp(x))), weights


class Merge(nn.Module):
    def __init__(self, dim, version, epsilon):
        super().__init__()
        self.version = version
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm((4 if version == 1 else 2) * dim, eps=epsilon)

    def forward(self, x):
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        x = torch.cat([x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], dim=-1)
        return self.reduction(self.norm(x)) if self.version == 1 else self.norm(self.reduction(x))


class Stage(nn.Module):
    def __init__(self, blocks, merge):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        if merge:
            self.downsample = merge


class Swin(nn.Module):
    """float64; images `[B, 3, H, W]` -> the features as ours, and `attention1`, `attention2`, ...

    `pretrained`: of each stage. `positions`: what the network of positions is called.
    """

    def __init__(
        self,
        dim,
        depths,
        heads,
        window,
        image_size,
        num_classes,
        version=1,
        patch=4,
        pretrained=None,
        epsilon=1e-5,
        positions="cpb_mlp",
        extra_norm=0,
    ):
        super().__init__()
        patches = nn.Conv2d(3, dim, patch, patch)
        self.patch_embed = nn.ModuleDict({"proj": patches, "norm": nn.LayerNorm(dim, eps=epsilon)})
        self.layers = nn.ModuleList()
        for s, depth in enumerate(depths):
            side, width = image_size // patch // 2**s, dim * 2**s
            n = min(side, window)
            blocks = [
                Block(
                    *(width, heads[s], n, window // 2 if i % 2 and side > window else 0, version),
                    *(pretrained[s] if pretrained else n, epsilon, positions),
                    extra=bool(extra_norm) and (i + 1) % extra_norm == 0,
                )
                for i in range(depth)
            ]
            merge = Merge(width, version, epsilon) if s + 1 < len(depths) else None
            self.layers.append(Stage(blocks, merge))
        self.norm = nn.LayerNorm(dim * 2 ** (len(depths) - 1), eps=epsilon)
        self.head = nn.Linear(dim * 2 ** (len(depths) - 1), num_classes)
        self.double()

    def forward(self, x):
        x = self.patch_embed["norm"](self.patch_embed["proj"](x).movedim(1, 3))
        features, number = {"stem": x}, 0
        for s, stage in enumerate(self.layers, start=1):
            for block in stage.blocks:
                number += 1
                x, features[f"attention{number}"] = block(x)
            features[f"stage{s}"] = x
            if s < len(self.layers):
                x = stage.downsample(x)
        features["tokens"] = self.norm(x).flatten(1, 2)
        features["pooled"] = features["tokens"].mean(dim=1)
        features["logits"] = self.head(features["pooled"])
        return features


def randomise(net, seed=0):
    """Draw all parameters, none at its initial value; the last scale of each block is above the largest."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            draws = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if name.endswith("logit_scale"):
                parameter.copy_(2 + 0.3 * draws)
                parameter[-1] = 6.0
            elif parameter.ndim > 1 and not name.endswith("table"):
                parameter.copy_(draws / math.sqrt(parameter[0].numel()))
            else:
                parameter.copy_(0.3 * draws + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    return net


def to_ours(tensors):
    """Our parameters, float32, of the tensors of `Swin` without its buffers."""
    params = {}
    for name, tensor in tensors.items():
        path = re.sub(r"layers\.(\d)\.", lambda match: f"layers.{int(match[1]) + 1}.", name)
        for pattern, ours in (
            (r"layers\.(\d)\.blocks\.(\d+)\.", r"block\1_\2."),
            (r"layers\.(\d)\.downsample\.", r"merge\1."),
            (r"patch_embed\.norm", "patch_norm"),
            (r"patch_embed\.proj", "patch_embed"),
            (r"head\.", "fc."),
            (r"relative_position_bias_table", "rel_pos_bias.table"),
            (r"(cpb|rpe)_mlp\.0", "rel_pos_bias.fc1"),
            (r"(cpb|rpe)_mlp\.2", "rel_pos_bias.fc2"),
        ):
            path = re.sub(pattern, ours, path)
        *modules, leaf = path.split(".")
        array = tensor.detach().float().numpy()
        if leaf == "weight":
            leaf = "scale" if array.ndim == 1 else "kernel"
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        tree = params
        for module in modules:
            tree = tree.setdefault(module, {})
        tree[leaf] = array
    return params
