"""The section on heads: hand-made attention, transformers with and without windows, and what is left out."""

import types

import jax
import numpy as np
import pytest
import tiny

from seed_jax import models
from seed_jax.analysis.runs import Lacking, Options
from seed_jax.analysis.sections import heads
from seed_jax.analysis.sections.heads import Block
from seed_jax.models.fd_vit import FDVisionTransformer
from seed_jax.models.network import Joined
from seed_jax.models.swin import SwinTransformer
from seed_jax.models.vit import VisionTransformer
from seed_jax.report import html

SIDE = 16
IMAGES = np.random.default_rng(0).integers(0, 256, (10, SIDE, SIDE, 3), np.uint8)
STUDENT = Joined(models.LinenNetwork(FDVisionTransformer(8, 2, 2, patch=4, image_size=SIDE)), {})
TEACHER = models.LinenNetwork(
    VisionTransformer(8, 4, 2, patch=8, image_size=32, form="dinov2_registers"), size=32
)
SWIN = models.LinenNetwork(SwinTransformer(4, (2, 1), (1, 2), window=2, image_size=SIDE, patch=2))
PLAIN = Joined(models.LinenNetwork(tiny.Tiny()), {})


def softmax(logits):
    return (np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)).astype(np.float32)


def drawn(network, seed):
    """Variables with which heads differ."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, SIDE, SIDE, 3), np.float32))
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda x: random.standard_normal(x.shape).astype(np.float32), shapes)


def run(student, taught=None, name="runs/a"):
    """What the section asks of an `Opened`."""
    teacher = taught and types.SimpleNamespace(network=taught, variables=drawn(taught, 9))
    return types.SimpleNamespace(
        name=name,
        network=student,
        rows={f"step {step}": step for step in (0, 3, 6)},
        variables=lambda step: drawn(student, step),
        teacher=teacher,
        needs_teacher=taught is not None,
        drawn=lambda split, count: IMAGES[:count],
    )


def weights(network, variables, number):
    """The attention weights of a block for the first 8 images."""
    asked = heads.with_attention(network)
    x = IMAGES[:8].astype(np.float32) / 255
    return jax.jit(lambda v: asked.apply(v, x, False)[0][f"attention{number}"])(variables)


def rows_of(attention, prefix):
    """The rows over patches, scaled to the sum 1, float64 `[images, heads, N, N]`; windows are images."""
    rows = np.float64(attention).reshape(-1, *attention.shape[-3:])[:, :, prefix:, prefix:]
    return rows / rows.sum(axis=-1, keepdims=True)


def by_hand(attention, grid, pixels, prefix):
    """The measures of each head, by loops over images, heads, queries and keys."""
    rows = rows_of(attention, prefix)
    images, count, patches, _ = rows.shape
    found = {name: np.zeros(count) for name in heads.MEASURES}
    for head in range(count):
        for image in range(images):
            seen = [sum(rows[image, head, :, k]) / patches for k in range(patches)]
            entropy = -sum(p * np.log(p) for p in seen)
            information = 0
            for q in range(patches):
                row = rows[image, head, q]
                for k in range(patches):
                    down, right = (a - b for a, b in zip(divmod(q, grid[1]), divmod(k, grid[1]), strict=True))
                    share = row[k] / (images * patches)
                    found["distance"][head] += pixels * np.hypot(down, right) * share
                    found["near"][head] += share if max(abs(down), abs(right)) <= 1 else 0
                    information += row[k] / patches * np.log(row[k] / seen[k]) if row[k] else 0
                for other in {*range(count)} - {head}:
                    theirs = rows[image, other, q]
                    cosine = row @ theirs / (np.linalg.norm(row) * np.linalg.norm(theirs))
                    found["cosine"][head] += cosine / (images * patches * (count - 1))
            found["information"][head] += information / np.sqrt(np.log(patches) * entropy) / images
    return found


@pytest.mark.parametrize(
    ("shape", "block"),
    [
        ((2, 3, 7, 7), Block((2, 3), 16, 1)),
        ((2, 2, 9, 9), Block((2, 2), 8, 5)),  # registers
        ((2, 3, 2, 4, 4), Block((2, 2), 8, 0)),  # windows, which are measured like images
    ],
)
def test_measures_are_those_of_loops(shape, block):
    attention = softmax(2 * np.random.default_rng(1).standard_normal(shape))
    got, want = heads.of_heads(attention, block), by_hand(attention, *block)
    assert got.keys() == want.keys()
    for name, values in want.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-5, err_msg=name)
    of_map = rows_of(attention, block.prefix).mean(axis=(0, 1))
    np.testing.assert_allclose(heads.of_map(attention, block), of_map, rtol=1e-5)


def test_large_maps_are_made_smaller():
    attention = np.full((1, 1, 300, 300), 1 / 300, np.float32)
    got = heads.of_map(attention, Block((15, 20), 8, 0))
    assert got.shape == (256, 256)
    np.testing.assert_allclose(got, 1 / 300, rtol=1e-5)


@pytest.mark.parametrize(
    ("network", "want"),
    [
        (STUDENT, {1: Block((4, 4), 4, 1), 2: Block((4, 4), 4, 1)}),
        (TEACHER, dict.fromkeys((1, 2, 3, 4), Block((4, 4), 8, 5))),
        (SWIN, {1: Block((2, 2), 2, 0), 2: Block((2, 2), 2, 0), 3: Block((2, 2), 4, 0)}),
    ],
)
def test_how_tokens_lie(network, want):
    network = heads.with_attention(network)
    x = np.zeros((1, SIDE, SIDE, 3), np.float32)
    features = jax.eval_shape(lambda: network.apply(network.init(jax.random.key(0), x), x, False)[0])
    assert heads.blocks_of(network, features, SIDE) == want


def test_the_first_and_the_last_step_and_the_teacher(tmp_path):
    shallow = models.LinenNetwork(FDVisionTransformer(8, 1, 2, patch=8, image_size=32), size=32)
    rows = heads.rows_of(run(STUDENT, shallow), Options(tmp_path))
    assert [*rows] == ["step 0", "step 6", "teacher"]
    assert [*rows["step 0"].maps] == [1, 2] and [*rows["teacher"].maps] == [1]
    attention = weights(STUDENT, drawn(STUDENT, 6), 2)
    for name, values in by_hand(attention, (4, 4), 4, 1).items():
        np.testing.assert_allclose(rows["step 6"].heads[name][2], values, rtol=1e-3, atol=1e-6, err_msg=name)
    of_map = rows_of(attention, 1).mean(axis=(0, 1))
    np.testing.assert_allclose(rows["step 6"].maps[2], of_map, rtol=1e-4, atol=1e-6)
    assert np.abs(rows["step 0"].maps[2] - rows["step 6"].maps[2]).max() > 1e-3


def test_windows_and_layers_of_one_head_on_the_page(tmp_path):
    blocks = heads.section([run(SWIN)], Options(tmp_path, samples=2))
    assert "measured inside windows" in blocks[-1].items[0]
    (shown,) = (block for block in blocks if isinstance(block, html.Figures))
    names = [figure.name.removeprefix("heads-run1-") for figure in shown.figures]
    assert names == ["distance", "cosine", "information", "near", "maps"]
    (table,) = (block.table for block in blocks if isinstance(block, html.Details))
    of_layers = {layer: dict(zip(table.header[1:], cells, strict=True)) for layer, *cells in table.rows}
    cosines = {layer: cells["Cosine between heads, step 6"] for layer, cells in of_layers.items()}
    assert cosines["1"] is cosines["2"] is None and len(cosines["3"]) == 2


def test_runs_without_attention_weights(tmp_path, monkeypatch):
    with pytest.raises(Lacking, match="runs/a has a network without attention weights."):
        heads.section([run(PLAIN)], Options(tmp_path))
    with pytest.raises(Lacking, match="has a student and a teacher without attention weights"):
        heads.section([run(PLAIN, PLAIN)], Options(tmp_path))
    asked = []
    monkeypatch.setattr(heads, "rows_of", lambda opened, options: asked.append(opened.name) or {})
    monkeypatch.setattr(heads, "_table", lambda rows: None)
    *_, notes = heads.section([run(PLAIN), run(PLAIN, TEACHER, "runs/b")], Options(tmp_path))
    assert asked == ["runs/b"]
    assert [note.split(" has ")[0] for note in notes.items] == ["runs/a", "runs/b"]
    assert "runs/b has a student without attention weights." in notes.items
