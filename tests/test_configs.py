"""Smoke forms of every method and student run through the real main.py, or in an experiment's test."""

import importlib
import math
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from seed_jax import config, models
from seed_jax.errors import UserError
from seed_jax.methods import METHODS
from seed_jax.models.fd_vit import FDVisionTransformer
from seed_jax.models.mobilenetv3 import SMALL, MobileNetV3
from seed_jax.models.resnet import BasicBlock, ResNet
from seed_jax.models.swin import SwinTransformer
from seed_jax.models.swinv2 import SwinTransformerV2
from seed_jax.models.vit import VisionTransformer
from seed_jax.report import metrics
from seed_jax.report.remedies import remedies
from seed_jax.train import build, optim, plan

ROOT = Path(__file__).parent.parent
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("[!_]*.py"))
RUN_BY_DEFAULT = "cifar_attention_transfer"  # it has a teacher and compiles fast; the others are long
IN_EXPERIMENTS = {"digits_teacher", "digits_baseline", "digits_seed", "seed_lite0_to_mbv3s"}

SHALLOW = {
    "resnet18": partial(ResNet, BasicBlock, (1, 1, 1, 1)),
    "mobilenetv3_small": partial(MobileNetV3, (*SMALL[:4], SMALL[8]), 1024, False),
    "vit_small": partial(VisionTransformer, 384, 4, heads=6),
    "fd_vit_small": partial(FDVisionTransformer, 384, 4, heads=6),
    "swin_tiny": partial(SwinTransformer, 96, (1, 1, 2, 1), (3, 6, 12, 24)),
    "swinv2_tiny": partial(SwinTransformerV2, 96, (1, 1, 2, 1), (3, 6, 12, 24)),
}


def loaded(name, variant=""):
    return config.resolve(importlib.import_module(f"seed_jax.configs.{name}").get_config(variant))


def one_of_each():
    """The first config of each method and student: others differ in their smoke forms by settings alone."""
    first = {}
    for name in sorted({*NAMES} - IN_EXPERIMENTS):
        c = loaded(name, "smoke")
        first.setdefault((c.method_name, c.student.model), name)
    return list(first.values())


def smoke(name, workdir):
    return subprocess.run(
        [sys.executable, "main.py", f"--config=configs/{name}.py:smoke", f"--workdir={workdir}"],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def started(request, tmp_path_factory):
    """The smoke runs of the tests selected, two at a time, as `{name: (workdir, future)}`."""
    tests = [item for item in request.session.items if item.originalname == "test_smoke"]
    names = [item.callspec.params["name"] for item in tests]
    workdirs = {name: tmp_path_factory.mktemp(name) for name in names}
    with ThreadPoolExecutor(2) as pool:
        yield {name: (workdir, pool.submit(smoke, name, workdir)) for name, workdir in workdirs.items()}


def test_no_config_is_told_that_its_rate_is_unusual():
    """Rates are those of papers, or the best of some that were tried."""
    for name in NAMES:
        raw = importlib.import_module(f"seed_jax.configs.{name}").get_config()
        manifest = {"steps": 100_000, "data": {"images": 1_281_167}}
        told = remedies(raw.to_dict(), manifest, fell=False)
        assert not [remedy for remedy in told if remedy.startswith("optim.")], name


@pytest.mark.parametrize("name", [name for name in one_of_each() if name != RUN_BY_DEFAULT])
def test_smoke_is_planned(name, monkeypatch):
    """The step of the smoke form is traced, with its method and fewer blocks, and not compiled."""
    for model, shallow in SHALLOW.items():
        monkeypatch.setitem(models.MODELS, model, shallow)
    made = plan.make(loaded(name, "smoke"), devices=1)
    assert made.student_parameters > 0
    assert made.student_flops > 0


@pytest.mark.parametrize(
    "name",
    [
        name if name == RUN_BY_DEFAULT else pytest.param(name, marks=pytest.mark.long)
        for name in one_of_each()
    ],
)
def test_smoke(name, started):
    workdir, future = started[name]
    result = future.result()
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Warning" not in result.stderr
    losses = [row["loss"] for row in metrics.read(workdir) if "loss" in row]
    assert losses
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize("name", NAMES)
def test_full_form_resolves_and_says_how_it_is_run(name):
    module = importlib.import_module(f"seed_jax.configs.{name}")
    for variant in ("", "smoke"):
        loaded(name, variant)
    assert f"python main.py --config=configs/{name}.py" in module.__doc__
    assert "Hardware:" in module.__doc__


def test_official_code_differs_from_the_paper_where_the_reference_says():
    module = importlib.import_module("seed_jax.configs.seed_r50_to_mbv3")
    paper, code = (config.resolve(module.get_config(variant)) for variant in ("", "official_code"))
    assert (paper.method.tau_teacher, code.method.tau_teacher) == (0.01, 1e-4)
    assert (paper.method.queue_start, code.method.queue_start) == ("empty", "noise")
    assert (paper.optim.update, code.optim.update) == ("step", "epoch")
    assert (code.optim.warmup_epochs, code.optim.warmup_from) == (5, "lr")
    for c in (paper, code):
        assert (c.method.tau_student, c.method.queue_size, c.data.batch_size) == (0.2, 65_536, 256)
        assert (c.optim.lr, c.optim.momentum, c.optim.weight_decay, c.train.epochs) == (0.03, 0.9, 1e-4, 200)
        assert c.optim.lr_batch == 256


def test_the_released_small_patches_feed_both_networks_the_same_std():
    """tools/utils.py normalises by .229 in red for SwAV's teachers too; SwAV itself by .228."""
    module = importlib.import_module("seed_jax.configs.seed_r50w2_small_patches")
    paper, code = (config.resolve(module.get_config(variant)) for variant in ("", "official_code"))
    assert "std" not in paper.teacher.options
    assert models.create(code.student.model, **code.student.options).std == (0.229, 0.224, 0.225)
    assert models.create(code.teacher.model, **code.teacher.options).std == (0.229, 0.224, 0.225)
    assert code.teacher.options["width"] == 2.0
    for c in (paper, code):
        assert (c.method.patches, c.method.patch_size, c.method.patch_scale) == (6, 96, (0.05, 0.14))
        assert (c.data.crop_scale, c.data.photometric, c.train.epochs) == ((0.14, 1.0), "swav", 800)
    assert (code.method.tau_teacher, code.method.queue_start) == (1e-4, "noise")
    assert (code.optim.update, code.optim.warmup_epochs, code.optim.warmup_from) == ("epoch", 5, "lr")


def test_tables_1_and_3_of_seed_pair_any_teacher_with_any_student():
    tables = importlib.import_module("seed_jax.configs.seed_tables")
    for teacher in (*tables.TEACHERS, "r50w2"):
        for student in tables.STUDENTS:
            c = loaded("seed_tables", f"{teacher}-{student}")
            assert c.student.model == student
            assert (c.method.patches, c.teacher.options.get("width", 1)) == (
                (6, 2) if teacher == "r50w2" else (0, 1)
            )
    assert loaded("seed_tables", "r152-resnet34").teacher.model == "resnet152"
    for teacher, photometric, smallest in (
        ("r50", "mocov2", 0.2),
        ("moco_v1", "mocov1", 0.2),
        ("simclr", "mocov1", 0.2),
        ("swav", "swav", 0.14),
        ("r50w2", "swav", 0.14),
    ):
        d = loaded("seed_tables", f"{teacher}-resnet18").data
        assert (d.photometric, d.crop_scale) == (photometric, (smallest, 1.0))
    for variant in ("r50", "resnet18", "r51-resnet18", "r50-vit_small"):
        with pytest.raises(UserError, match="of seed_tables"):
            loaded("seed_tables", variant)


def test_relatives_of_seed_have_the_released_values_and_table_4_has_one_recipe():
    """UCDvision/simreg, run.sh and main.py; UMBCvision/CompRess, train_student.py; SEED's own for table 4."""
    simreg, compress = loaded("simreg_r50_to_r18"), loaded("compress_r50_to_r18")
    for c, lr, scale in ((simreg, 0.05, 0.2), (compress, 0.01, 0.08)):
        assert (c.optim.lr, c.optim.weight_decay, c.train.epochs, c.data.batch_size) == (lr, 1e-4, 130, 256)
        assert (c.data.crop_scale, c.data.photometric) == ((scale, 1.0), "none")
    rate = optim.schedule(compress.optim, batch_size=256, steps=1300, steps_per_epoch=10)
    for epoch, want in ((89, 0.01), (90, 0.002), (119, 0.002), (120, 0.0004)):
        assert math.isclose(rate(10 * epoch), want, rel_tol=1e-5)
    assert loaded("compress_r50_to_r18", "one_queue").method.queues == 1
    disco = loaded("disco_r50_to_r18")  # Yuting-Gao/DisCo-pytorch, DisCo/main.py and Reproduction.md
    assert (disco.optim.lr, disco.optim.weight_decay, disco.train.epochs) == (0.03, 1e-4, 200)
    assert (disco.data.crop_scale, disco.data.photometric) == ((0.2, 1.0), "mocov2")
    assert (disco.method.temperature, disco.method.hidden, disco.method.queue_size) == (0.2, 2048, 65_536)
    assert disco.method.weight == disco.data.batch_size / 8
    variants = ("", "l2", "binary", "moco", "online_clustering", "kmeans")
    forms = {v: loaded("seed_strategies", v) for v in variants}
    assert len({(c.method_name, str(c.method)) for c in forms.values()}) == 6
    for c in forms.values():
        assert (c.data, c.optim, c.train, c.student) == tuple(
            getattr(forms[""], section) for section in ("data", "optim", "train", "student")
        )
    with pytest.raises(UserError, match="Unknown config variant 'dino'"):
        loaded("seed_strategies", "dino")


def test_bingo_has_the_values_of_the_released_scripts():
    """haohang96/bingo: scripts/unsupervised/SR18-TR50.sh and SEffB0-TR50W2.sh, main_moco.py, utils.py."""
    resnet, efficient = (loaded("bingo_r50_to_r18", variant) for variant in ("", "efficientnet_b0"))
    assert (resnet.method.temperature, resnet.optim.weight_decay) == (0.2, 1e-4)
    assert (efficient.method.temperature, efficient.optim.weight_decay) == (0.12, 4e-5)
    assert (resnet.student.model, efficient.student.model) == ("resnet18", "efficientnet_b0")
    for c in (resnet, efficient):
        m = c.method
        assert (m.neighbours, m.weights, m.cutmix, m.queue_size) == (5, (0.5, 0.5), 2.0, 65_536)
        assert (m.intra_epochs, m.feature, m.hidden) == (11.0, "pooled", 2048)
        assert (c.data.batch_size, c.data.crop_scale, c.data.photometric) == (256, (0.2, 1.0), "mocov2")
        assert (c.train.epochs, c.optim.momentum, c.teacher.model) == (200, 0.9, "resnet50")
        rate = optim.schedule(c.optim, batch_size=256, steps=2000, steps_per_epoch=10)
        for step, epoch in ((0, 0), (9, 0), (10, 1), (1507, 150)):
            want = 0.03 * 0.5 * (1 + math.cos(math.pi * epoch / 200))
            assert math.isclose(rate(step), want, rel_tol=1e-5)


def test_fine_tuning_with_few_labels_has_swavs_values_and_transfer_the_sets_splits():
    one, ten = (loaded("finetune_semi", variant) for variant in ("1percent", "10percent"))
    assert (one.data.subset, one.optim.lr, one.optim.parts_lr) == ("1%", 0.02, 5.0)
    assert (ten.data.subset, ten.optim.lr, ten.optim.parts_lr) == ("10%", 0.01, 0.2)
    assert (one.train.epochs, one.optim.factor, one.optim.weight_decay) == (20, 0.2, 0)
    food = loaded("finetune_transfer", "food101").data
    assert (food.source, food.train, food.test) == ("tfds:food101", "train[:90%]", "validation")
    folder = loaded("finetune_transfer", "aircraft_folder").data
    assert (folder.source, folder.train, folder.val, folder.test) == ("", "", "val", "test")
    with pytest.raises(UserError, match="did you mean 'flowers'"):
        loaded("finetune_transfer", "flower")


def test_the_released_moco_sets_an_unscaled_rate_once_an_epoch_and_starts_with_noise():
    """facebookresearch/moco, main_moco.py and moco/builder.py, with the flags of v2."""
    module = importlib.import_module("seed_jax.configs.moco_r50")
    ours, code = (config.resolve(module.get_config(variant)) for variant in ("", "official_code"))
    assert (ours.optim.update, ours.method.queue_start, ours.optim.lr_batch) == ("step", "empty", 256)
    assert (code.optim.update, code.method.queue_start, code.optim.lr_batch) == ("epoch", "noise", 0)
    rate = optim.schedule(code.optim, batch_size=128, steps=200 * 10_000, steps_per_epoch=10_000)
    for step, epoch in ((0, 0), (9_999, 0), (10_000, 1), (150 * 10_000 + 7, 150)):
        want = 0.03 * 0.5 * (1 + math.cos(math.pi * epoch / 200))
        assert math.isclose(rate(step), want, rel_tol=1e-5)
    for c in (ours, code):
        m = c.method
        assert (m.temperature, m.momentum, m.queue_size, m.dim) == (0.2, 0.999, 65_536, 128)
        assert (c.optim.lr, c.optim.momentum, c.optim.weight_decay) == (0.03, 0.9, 1e-4)
        assert (c.data.batch_size, c.data.crop_scale, c.train.epochs) == (256, (0.2, 1.0), 200)


def test_dino_has_the_values_of_the_released_commands():
    """facebookresearch/dino: the defaults of main_dino.py, 8 GPUs with 64 images each, and the README."""
    variants = ("", ":epochs300", ":resnet50")
    vanilla, long, resnet = (config.resolve(config.load(f"dino_vits16{v}")) for v in variants)
    for c in (vanilla, long, resnet):
        m = c.method
        assert (m.prototypes, m.hidden, m.bottleneck) == (65_536, 2048, 256)
        assert (m.momentum, m.center_momentum, m.tau_student) == (0.996, 0.9, 0.1)
        assert (m.local_views, m.local_size, m.freeze_epochs) == (8, 96, 1.0)
        assert (c.data.batch_size, c.optim.clip_norm, c.optim.decay) == (512, 3.0, "kernels")
    rate = optim.schedule(vanilla.optim, batch_size=512, steps=1000, steps_per_epoch=10)
    for step, want in ((50, 5e-4), (100, 1e-3), (1000, 1e-6)):
        assert math.isclose(rate(step), want, rel_tol=1e-4)
    decay = optim.decay_schedule(vanilla.optim, 1000)
    for step, want in ((0, 0.04), (500, 0.22), (1000, 0.4)):
        assert math.isclose(decay(step), want, rel_tol=1e-5)
    assert (vanilla.train.epochs, vanilla.method.tau_at(0), vanilla.method.tau_at(99)) == (100, 0.04, 0.04)
    assert long.train.epochs == 300
    assert math.isclose(long.method.tau_at(29), 0.07, rel_tol=1e-6)
    assert (resnet.student.model, resnet.student.options, resnet.optim.name) == ("resnet50", {}, "sgd")
    assert (resnet.data.crop_scale, resnet.method.local_scale) == ((0.14, 1.0), (0.05, 0.14))
    assert optim.decay_schedule(resnet.optim, 1000) == 1e-4


def test_simclr_has_the_values_of_the_released_command():
    """google-research/simclr: README, "Pretraining", and the defaults of run.py."""
    c = config.resolve(config.load("simclr_r50"))
    assert (c.method.temperature, c.method.layers, c.method.dim, c.train.bn_group) == (0.1, 3, 128, 0)
    assert (c.data.batch_size, c.train.epochs, c.data.crop_scale) == (4096, 100, (0.08, 1.0))
    assert (c.optim.name, c.optim.weight_decay, c.optim.decay) == ("lars", 1e-4, "kernels")
    rate = optim.schedule(c.optim, batch_size=4096, steps=1000, steps_per_epoch=10)
    for step, want in ((50, 2.4), (100, 0.075 * 4096**0.5), (550, 2.4), (1000, 0)):
        assert math.isclose(rate(step), want, rel_tol=1e-5, abs_tol=1e-6)


def test_swav_has_the_values_of_the_released_scripts():
    """facebookresearch/swav: scripts/swav_{100ep,200ep_bs256}_pretrain.sh."""
    large, small = (config.resolve(config.load(f"swav_r50{v}")) for v in ("", ":batch256"))
    for c in (large, small):
        m = c.method
        assert (m.prototypes, m.dim, m.hidden, m.temperature) == (3000, 128, 2048, 0.1)
        assert (m.epsilon, m.iterations, m.freeze_epochs) == (0.05, 3, 1)
        assert (m.local_views, m.local_size, m.local_scale) == (6, 96, (0.05, 0.14))
        assert (c.data.crop_scale, c.optim.weight_decay, c.optim.decay) == ((0.14, 1.0), 1e-6, "all")
    assert (large.method.queue_size, large.data.batch_size, large.train.bn_group) == (0, 4096, 512)
    assert (small.method.queue_size, small.method.queue_from, small.data.batch_size) == (3840, 15, 256)
    for c, epochs, first, last in ((large, 10, 4.8, 0.0048), (small, 0, 0.6, 0.0006)):
        rate = optim.schedule(c.optim, batch_size=c.data.batch_size, steps=1000, steps_per_epoch=10)
        assert math.isclose(rate(10 * epochs), first, rel_tol=1e-5)
        assert math.isclose(rate(1000), last, rel_tol=1e-3)


def test_moco_v3_has_the_values_of_the_released_commands():
    """facebookresearch/moco-v3: CONFIG.md and the defaults of main_moco.py."""
    vit, resnet = (config.resolve(config.load(f"mocov3_vits16{v}")) for v in ("", ":resnet50"))
    for c in (vit, resnet):
        m = c.method
        assert (m.dim, m.hidden, m.momentum, c.train.bn_group) == (256, 4096, 0.99, 0)
    of_vit = (vit.method.temperature, vit.method.layers, vit.optim.weight_decay, vit.data.crop_scale)
    assert of_vit == (0.2, 3, 0.1, (0.08, 1.0))
    of_resnet = (resnet.method.temperature, resnet.method.layers, resnet.optim.weight_decay)
    assert of_resnet == (1.0, 2, 1e-6) and resnet.data.crop_scale == (0.2, 1.0)
    for c, warm, want in ((vit, 400, 1.5e-4 * 4), (resnet, 100, 0.6 * 16)):
        rate = optim.schedule(c.optim, batch_size=c.data.batch_size, steps=3000, steps_per_epoch=10)
        assert math.isclose(rate(warm), want, rel_tol=1e-5)
    module = models.create(vit.student.model, **vit.student.options).module
    assert (module.heads, module.mocov3_init, module.form) == (12, True, "deit")


@pytest.mark.parametrize(
    "name", ["moco_r50", "seed_r50_to_mbv3", "seed_r50w2_small_patches", "linear_imagenet"]
)
def test_the_rate_scales_as_the_header_says(name):
    """At twice the batch size that the header names; and with the flag that it says to add, not at all."""
    module = importlib.import_module(f"seed_jax.configs.{name}")
    header = " ".join(module.__doc__.split())
    said = re.search(r"rate scales with data\.batch_size, from (its value|[\d.]+) at (\d+)", header)
    raw = module.get_config()
    lr = raw.optim.lr if said[1] == "its value" else float(said[1])
    batch_size = 2 * int(said[2])
    (lr_batch,) = re.findall(r"--config\.optim\.lr_batch=(\d+)", header)
    for overrides, want in (({}, 2 * lr), ({"optim.lr_batch": int(lr_batch)}, lr)):
        raw.update_from_flattened_dict(overrides)
        rate = optim.schedule(config.resolve(raw).optim, batch_size=batch_size, steps=20, steps_per_epoch=5)
        assert math.isclose(rate(0), want, rel_tol=1e-6)


@pytest.mark.parametrize(
    ("name", "images", "steps_per_epoch", "epochs", "milestones", "lr"),
    [
        ("cifar100_kd", 50_000, 782, 240, (150, 180, 210), 0.05),
        ("cifar100_kd:prolong4", 50_000, 782, 960, (600, 720, 840), 0.05),
        ("cifar100_teacher", 50_000, 782, 240, (150, 180, 210), 0.05),
        ("tiny_imagenet_kd", 100_000, 1_563, 240, (150, 180, 210), 0.05),
        ("tiny_imagenet_kd:prolong2", 100_000, 1_563, 480, (300, 360, 420), 0.05),
        ("imagenet_kd", 1_281_167, 5_004, 100, (30, 60, 90), 0.1),
        ("imagenet_kd:prolong2", 1_281_167, 5_004, 200, (60, 120, 180), 0.1),
    ],
)
def test_the_rate_of_response_distillation_drops_after_the_released_epochs(
    name, images, steps_per_epoch, epochs, milestones, lr
):
    """MingSun-Tse/Good-DA-in-KD, adjust_learning_rate: epochs from 1, lower where epoch > milestone."""
    c = config.resolve(config.load(name))
    length = build.lengths(c, images)
    assert (length.epoch, length.total) == (steps_per_epoch, steps_per_epoch * epochs)
    rate = optim.schedule(
        c.optim, batch_size=c.data.batch_size, steps=length.total, steps_per_epoch=length.epoch
    )
    for epoch in {1, epochs, *milestones, *(m + 1 for m in milestones)}:
        want = lr * 0.1 ** sum(epoch > m for m in milestones)
        for step in ((epoch - 1) * steps_per_epoch, epoch * steps_per_epoch - 1):
            assert math.isclose(rate(step), want, rel_tol=1e-5)


def test_the_variants_of_response_distillation():
    """The values of the paper, and the defaults of the released option.py."""
    for name in ("cifar100_kd", "tiny_imagenet_kd", "imagenet_kd", "imagenet100_kd"):
        full, plain, code = (
            config.resolve(config.load(f"{name}{v}")) for v in ("", ":plain", ":official_code")
        )
        for c in (full, plain, code):
            assert (c.method.losses, c.method.gamma, c.method.temperature) == ({"kd": 0.9}, 0.1, 4.0)
            assert (c.optim.momentum, c.optim.nesterov, c.optim.decay) == (0.9, False, "all")
            assert (c.method.draw, c.method.average, c.train.bn_group) == ("batch", False, 0)
        assert (full.method.augment, plain.method.augment) == ("cutmix_pick", "")
        assert code.method.n_pick == 64
        assert (full.method.criterion, full.method.released) == ("teacher_entropy", False)
        assert (code.method.criterion, code.method.released) == ("kld", True)
        with pytest.raises(UserError, match="Unknown config variant 'prolong0'"):
            config.load(f"{name}:prolong0")


def test_the_weight_decay_of_funmatch_is_the_released_one():
    """big_vision adds decay times the parameter after the rate; AdamW multiplies it by the rate, too."""
    c = config.resolve(config.load("funmatch_kd"))
    assert math.isclose(c.optim.lr * c.optim.weight_decay, 0.0003)
    assert not c.method.needs_labels
    steps_per_epoch = 1_281_167 // c.data.batch_size
    assert round(c.optim.warmup_epochs * steps_per_epoch, -3) == 5_000


@pytest.mark.parametrize(
    ("name", "epochs", "drop_path", "peak", "lowest", "crop"),
    [
        ("fd_clip_b", 300, 0.2, 1.2e-3, 2e-5, 0.08),
        ("fd_clip_b:epochs100", 100, 0.1, 1.2e-3, 2e-5, 0.08),
        ("fd_clip_b:epochs100_official_code", 100, 0.1, 1.2e-3, 2e-5, 0.67),
        ("fd_clip_l", 300, 0.3, 1.2e-3, 2e-5, 0.08),
        ("fd_dino_b", 300, 0.3, 1.2e-3, 2e-5, 0.08),
        ("fd_deit_b", 300, 0.3, 1.2e-3, 2e-5, 0.08),
        ("fd_mae_b", 300, 0.3, 1.2e-3, 2e-5, 0.08),
        ("fd_dinov2_b", 300, 0.3, 1.2e-3, 2e-5, 0.08),
        ("fd_esvit_b", 300, 0.3, 8e-4, 4e-5, 0.08),
        ("fd_swinv2_g", 300, 0.3, 8e-4, 4e-5, 0.08),
        ("fd_esvit_b:official_code", 300, 0.3, 8e-4, 4e-5, 0.08),
    ],
)
def test_feature_distillation_has_the_released_values(name, epochs, drop_path, peak, lowest, crop):
    """SwinTransformer/Feature-Distillation, configs/pretrain: 16 GPUs with 128 images each."""
    c = config.resolve(config.load(name))
    assert (c.train.epochs, c.student.options["drop_path"]) == (epochs, drop_path)
    assert (c.data.batch_size, c.data.crop_scale, c.data.photometric) == (2048, (crop, 1), "fd")
    rate = optim.schedule(c.optim, batch_size=2048, steps=10 * epochs, steps_per_epoch=10)
    assert math.isclose(rate(100), peak, rel_tol=1e-5) and math.isclose(rate(50), peak / 2, rel_tol=1e-5)
    assert math.isclose(rate(10 * epochs), lowest, rel_tol=1e-5)
    assert (c.optim.weight_decay, c.optim.clip_norm) == (0.05, 3)
    assert c.method.parity == name.endswith("official_code")
    if name.startswith("fd_esvit_b"):
        assert c.teacher.options["epsilon"] == (1e-5 if c.method.parity else 1e-6)
        assert (c.student.options["window"], c.student.options["fd_init"]) == (14, True)


@pytest.mark.parametrize(
    ("name", "epochs", "warmup", "drop_path", "decay", "peak", "lowest", "batch"),
    [
        ("clip_b", 100, 20, 0.3, 0.60, 5e-3, 1e-6, 2048),
        ("clip_b_epochs100", 100, 20, 0.1, 0.65, 5e-3, 1e-6, 2048),
        ("dino_b", 100, 20, 0.2, 0.60, 6e-3, 1e-6, 2048),
        ("deit_b", 100, 20, 0.3, 0.65, 5e-3, 1e-6, 2048),
        ("esvit_b", 100, 20, 0.4, 0.80, 2.5e-3, 5e-7, 1024),
        ("clip_l", 50, 5, 0.4, 0.75, 1e-3, 2e-6, 2048),
    ],
)
def test_fine_tuning_has_the_released_values(name, epochs, warmup, drop_path, decay, peak, lowest, batch):
    """SwinTransformer/Feature-Distillation, configs/finetune; the teacher is fine-tuned in the same way."""
    c, teacher = (config.resolve(config.load(f"finetune_fd:{name}{of}")) for of in ("", "_teacher"))
    assert (c.method, c.optim, c.train) == (teacher.method, teacher.optim, teacher.train)
    assert c.data == teacher.data
    assert (c.student.options["drop_path"], teacher.student.options["drop_path"]) == (drop_path,) * 2
    assert (c.train.epochs, c.optim.layer_decay, c.data.batch_size) == (epochs, decay, batch)
    rate = optim.schedule(c.optim, batch_size=batch, steps=10 * epochs, steps_per_epoch=10)
    assert math.isclose(rate(10 * warmup), peak, rel_tol=1e-5)
    assert math.isclose(rate(10 * epochs), lowest, rel_tol=1e-5)
    assert (c.optim.weight_decay, c.optim.decay, c.optim.clip_norm) == (0.05, "kernels", 5)
    assert (c.method.mix, c.method.smoothing, c.method.classifier_std) == ("either", 0.1, 2e-5)
    assert (c.data.policy, c.data.erase, c.data.crop_scale) == ("timm_rand_augment", 0.25, (0.08, 1))
    assert c.train.ema == 0
    start, spec = (config.resolve(config.load(f"fd_{name.removesuffix('_epochs100')}")), c.student)
    assert (spec.init, spec.model) == (f"runs/fd_{name}", start.student.model)
    assert (teacher.student.init, teacher.student.model) == (start.teacher.weights, start.teacher.model)
    if name != "esvit_b":
        assert (spec.options["pool"], spec.options["positions"]) == ("mean", "layer")
        assert teacher.student.options["pool"] == "mean"


def test_fine_tuning_of_clip_has_the_values_of_ft_clip():
    """LightDXY/FT-CLIP, scripts/bash_fine_Openai_CLIP_P16.sh and bash_fine_Openai_CLIP_Large_P14.sh."""
    base, large = (config.resolve(config.load(f"finetune_clip{v}")) for v in ("", ":large"))
    for c, of_size in ((base, (6e-4, 0.6, 10, 50)), (large, (4e-4, 0.65, 5, 30))):
        o = c.optim
        rate = optim.schedule(o, batch_size=2048, steps=10 * of_size[3], steps_per_epoch=10)
        assert math.isclose(rate(10 * o.warmup_epochs), of_size[0], rel_tol=1e-5)
        assert math.isclose(rate(10 * of_size[3]), 1e-6, rel_tol=1e-5)
        assert (o.layer_decay, o.warmup_epochs, c.train.epochs) == of_size[1:]
        assert (c.method.mix, c.method.smoothing, c.train.ema) == ("", 0.1, 0.9998)
        assert "drop_path" not in c.student.options
        assert models.create(c.student.model, **c.student.options).mean[0] == 0.48145466
        assert (c.data.batch_size, c.data.resize, c.data.policy) == (2048, 1.0, "timm_rand_augment")


def test_the_linear_probe_of_mae():
    """facebookresearch/mae, FINETUNE.md: 90 epochs, batch 16384, blr 0.1, warm-up 10, LARS without decay."""
    for variant in ("", ":fd"):
        c = config.resolve(config.load(f"linear_mae{variant}"))
        assert (c.method.freeze, c.method.batch_norm, c.optim.name) == ("backbone", True, "lars")
        assert (c.data.batch_size, c.train.epochs, c.optim.weight_decay) == (16_384, 90, 0)
        rate = optim.schedule(c.optim, batch_size=16_384, steps=900, steps_per_epoch=10)
        assert math.isclose(rate(100), 6.4, rel_tol=1e-5) and math.isclose(rate(900), 0, abs_tol=1e-6)


OF_FRSKD = (
    "wrn_16_2 without_features mixup cutmix sla official_code plain plain_wrn_16_2 plain_mixup plain_cutmix"
)
VARIANTS = {
    "cifar100_byot": "deep_supervision journal plain",
    "cifar100_frskd": OF_FRSKD,
    "cifar100_sad": "plain",
    "cifar100_sla": "sd plain",
    "cifar_attention_transfer": "gradient symmetry teacher plain",
    "digits_byot": "deep_supervision journal",
    "imagenet_attention_transfer": "official_code plain",
    "imagenet_frskd": "resnet34 plain plain_resnet34",
    "tiny_imagenet_frskd": f"px64 {OF_FRSKD}",
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_variants_of_self_distillation(name):
    """Each one in the header resolves and differs from the others; the plain ones are the network alone."""
    variants = ["", *VARIANTS[name].split()]
    resolved = {v: config.resolve(config.load(f"{name}:{v}" if v else name)) for v in variants}
    for variant, c in resolved.items():
        alone = variant.startswith("plain") or variant == "teacher"
        assert isinstance(c.method, METHODS["supervised"]) == alone
        assert [other for other, same in resolved.items() if same == c] == [variant]
        if "_wrn" in f"_{variant}":
            assert (c.student.model, set(c.student.options)) == ("wrn_16_2", {"mean", "std"})
        if "mix" in variant:
            assert c.method.mix == variant.removeprefix("plain_")
    header = importlib.import_module(f"seed_jax.configs.{name}").__doc__.partition("Variants:")[2]
    assert {*re.findall(r"`:(\w+)`", header)} - {"smoke"} <= {*variants}
    with pytest.raises(UserError, match="Unknown config variant 'other'"):
        config.load(f"{name}:other")


@pytest.mark.parametrize("name", ["cifar100_kd", "tiny_imagenet_kd"])
def test_the_pairs_of_a_header_are_models(name):
    header = importlib.import_module(f"seed_jax.configs.{name}").__doc__
    pairs = re.findall(r"^ +([a-z]\w+) +([a-z]\w+) +\d", header, flags=re.MULTILINE)
    assert len(pairs) == 11
    assert {model for pair in pairs for model in pair} <= {*models.MODELS}
