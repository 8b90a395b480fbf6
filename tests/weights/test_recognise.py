"""Published files: each family's tensor names, and the tensors that do not belong to the network."""

from pathlib import Path

import numpy as np
import pytest

from seed_jax import models
from seed_jax.errors import UserError
from seed_jax.models.network import IMAGENET_MEAN, IMAGENET_STD
from seed_jax.models.vit import CLIP_MEAN, CLIP_STD
from seed_jax.weights import Head, array_files, loading, pretrained, provenance, recognition, state_dict
from seed_jax.weights import naming as naming_lib
from seed_jax.weights.families import NAMINGS

BY_NAME = {(naming.family, naming.name): naming for naming in NAMINGS}
NARROW = {"width": 0.125}
WIDE = {"width": 0.25}
NATIVE = {"patch": 16, "form": "dino", "image_size": 32}
MOCO_V2 = {"fc.0.weight": (256, 256), "fc.0.bias": (256,), "fc.2.weight": (128, 256), "fc.2.bias": (128,)}


def norm(name, width, affine=True):
    leaves = ["running_mean", "running_var"] + (["weight", "bias"] if affine else [])
    return {f"{name}.{leaf}": (width,) for leaf in leaves} | {f"{name}.num_batches_tracked": ()}


def linear(name, inputs, width, bias=True):
    return {f"{name}.weight": (width, inputs)} | ({f"{name}.bias": (width,)} if bias else {})


def backbone(naming, arch, options, prefix=""):
    network = models.Joined(models.create(arch, **options), {})
    leaves = naming_lib.leaves(loading.shapes(network))
    return {
        f"{prefix}{naming.to_torch(leaf, leaves)}": naming_lib.to_torch(
            naming, leaf, np.broadcast_to(np.float32(0), shape)
        ).shape
        for leaf, shape in leaves.items()
    }


def prefixed(prefix, shapes):
    return {f"{prefix}{name}": shape for name, shape in shapes.items()}


def swav(hidden, width, bn):
    first = linear("projection_head.0", width, hidden) | (norm("projection_head.1", hidden) if bn else {})
    return first | linear(f"projection_head.{2 + bn}", hidden, 128) | {"prototypes.weight": (3000, 128)}


def clip_text():
    return {
        "positional_embedding": (77, 512),
        "text_projection": (512, 512),
        "logit_scale": (),
        "token_embedding.weight": (49408, 512),
        "ln_final.weight": (512,),
        "transformer.resblocks.0.ln_1.weight": (512,),
    }


DINO_HEAD = linear("head.mlp.0", 384, 2048) | {
    "head.last_layer.weight_g": (65536, 1),
    "head.last_layer.weight_v": (65536, 256),
}
V3_HEAD = (
    linear("fc.0", 256, 4096, bias=False)
    | norm("fc.1", 4096)
    | linear("fc.3", 4096, 256, bias=False)
    | norm("fc.4", 256, affine=False)
)
ATANOV_HEAD = (
    linear("projection.fc1", 256, 256, bias=False)
    | norm("projection.bn1", 256)
    | linear("projection.fc2", 256, 128, bias=False)
    | norm("projection.bn2", 128)
)
V3_VIT_HEAD = {
    **linear("head.0", 384, 4096, bias=False),
    **norm("head.1", 4096),
    **linear("head.3", 4096, 4096, bias=False),
    **norm("head.4", 4096),
    **linear("head.6", 4096, 256, bias=False),
    **norm("head.7", 256, affine=False),
}
# Title; family, naming, architecture and options; the file's prefix, other tensors under it, tensors outside
# it; the expected head.
FILES = [
    ("torchvision", "resnet", "torchvision", "resnet18", NARROW | {"num_classes": 10}, "", {}, {}, None),
    (
        "moco v1",
        *("resnet", "torchvision", "resnet50", NARROW, "module.encoder_q.", linear("fc", 256, 128)),
        {"module.encoder_k.fc.weight": (128, 256), "module.queue": (128, 8), "module.queue_ptr": (1,)},
        Head(None, 128, 1, False),
    ),
    (
        "moco v2",
        *("resnet", "torchvision", "resnet50", NARROW, "module.encoder_q.", MOCO_V2, {}),
        Head(256, 128, 2, False),
    ),
    (
        "moco v3",
        *("resnet", "torchvision", "resnet50", NARROW, "module.base_encoder.", V3_HEAD),
        {"module.momentum_encoder.conv1.weight": (8, 3, 7, 7), "module.predictor.0.weight": (4096, 256)},
        Head(4096, 256, 2, True, bias=False, last_norm=True),
    ),
    (
        "moco v3 vit",
        *("vit", "moco_v3", "vit_small", NATIVE | {"form": "deit", "heads": 12}, "module.base_encoder."),
        *(V3_VIT_HEAD, {"module.predictor.1.running_mean": (4096,)}),
        Head(4096, 256, 3, True, bias=False, last_norm=True),
    ),
    (
        "simclr-pytorch",
        *("resnet", "torchvision", "resnet50", NARROW, "convnet.", {}, ATANOV_HEAD),
        Head(256, 128, 2, True, bias=False, last_norm=True),
    ),
    (
        "swav w2",
        *("resnet", "torchvision", "resnet50", WIDE, "module.", swav(64, 512, True), {}),
        Head(64, 128, 2, True),
    ),
    (
        "swav w5",
        *("resnet", "torchvision", "resnet50", WIDE, "module.", swav(64, 512, False), {}),
        Head(64, 128, 2, False),
    ),
    (
        "seed",
        *("resnet", "torchvision", "resnet50", NARROW, "module.student.", MOCO_V2),
        {"module.teacher.conv1.weight": (64, 3, 7, 7), "module.small_queue": (128, 8)},
        Head(256, 128, 2, False),
    ),
    ("seed efficientnet", "efficientnet", "seed", "efficientnet_b0", {}, "module.student.", {}, {}, None),
    (
        "dino full",
        *("vit", "timm", "vit_small", NATIVE, "teacher.backbone.", {}),
        {"student.module.backbone.cls_token": (1, 1, 384)} | prefixed("teacher.", DINO_HEAD),
        None,
    ),
    ("dino resnet", "resnet", "torchvision", "resnet50", NARROW, "", {}, {}, None),
    (
        "mae",
        *("vit", "timm", "vit_small", NATIVE | {"form": "deit"}, "", {}),
        {
            "mask_token": (1, 1, 512),
            "decoder_pos_embed": (1, 5, 512),
            "decoder_blocks.0.norm1.weight": (512,),
        },
        None,
    ),
    (
        "deit",
        *("vit", "timm", "vit_small", NATIVE | {"form": "deit", "num_classes": 10}, "", {}, {}),
        None,
    ),
    (
        "dinov2",
        *("vit", "timm", "vit_small", NATIVE | {"form": "dinov2_registers"}, "", {}),
        {"mask_token": (1, 384)},
        None,
    ),
    (
        "clip",
        *("vit", "openai_clip", "vit_base", NATIVE | {"form": "clip"}, "", {"visual.proj": (768, 512)}),
        clip_text(),
        Head(None, 512, 1, False, bias=False),
    ),
    ("d-li14", "mobilenetv3", "d-li14", "mobilenetv3_small", {"num_classes": 10}, "", {}, {}, None),
    (
        "torchvision mobilenet",
        *("mobilenetv3", "torchvision", "mobilenetv3_small_torchvision", {"num_classes": 10}, "", {}, {}),
        None,
    ),
    ("lukemelas", "efficientnet", "lukemelas", "efficientnet_b0", {"num_classes": 10}, "", {}, {}, None),
]


def recognised(file, shapes, **choice):
    path = Path(file)
    tensors = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    state = state_dict.of_torch(file, tensors, None)
    fits = recognition.candidates(path, state, provenance.named(path))
    return state, recognition.choose(path, fits, **choice)


@pytest.mark.parametrize("case", FILES, ids=lambda case: case[0])
def test_published_forms(case):
    _, family, name, arch, options, prefix, under, outside, head = case
    shapes = backbone(BY_NAME[family, name], arch, options, prefix) | prefixed(prefix, under) | outside
    state, network = recognised("file.pth", shapes)
    assert (network.family, network.naming, network.arch) == (family, name, arch)
    assert network.head == head
    assert network.options == options
    leaves = naming_lib.leaves(loading.shapes(network.network()))
    assert loading.match(state, leaves)[1] == {}
    headless = {leaf: shape for leaf, shape in leaves.items() if leaf.startswith("backbone/")}
    assert loading.match(state, headless)[1] == {}
    state, _ = recognised("file.pth", shapes | {f"{prefix}odd.weight": (1,)})
    assert loading.match(state, leaves)[1] == {"unexpected": [f"{prefix}odd.weight"]}


@pytest.mark.parametrize(
    ("file", "extra", "mean", "std"),
    [
        ("a.pth", {}, IMAGENET_MEAN, IMAGENET_STD),
        ("resnet50-1x.pth", {}, (0, 0, 0), (1, 1, 1)),
        ("a.pth", ATANOV_HEAD, (0, 0, 0), (1, 1, 1)),
        ("a.pth", swav(64, 256, True), IMAGENET_MEAN, provenance.SWAV_STD),
    ],
)
def test_mean_std_and_size(file, extra, mean, std):
    _, network = recognised(file, backbone(BY_NAME["resnet", "torchvision"], "resnet50", NARROW) | extra)
    assert (network.mean, network.std, network.size) == (mean, std, 224)
    assert network.network().backbone.mean == mean


def test_clip_expects_its_own_images():
    shapes = backbone(BY_NAME["vit", "openai_clip"], "vit_base", NATIVE | {"form": "clip"})
    _, network = recognised("a.pt", shapes)
    assert (network.mean, network.std, network.size) == (CLIP_MEAN, CLIP_STD, 32)


def test_names_without_their_tensors():
    with pytest.raises(UserError, match="vit under timm's names but lacks some of its tensors"):
        recognised(
            "a.pth", {"cls_token": (1,), "blocks.0.attn.qkv.weight": (1,), "patch_embed.proj.bias": (1,)}
        )


def timm_classifier(arch, name="timm"):
    family = arch.partition("_")[0]
    naming = next(n for n in NAMINGS if (n.family, n.name) == (family, name))
    return backbone(naming, arch, {"num_classes": 10})


@pytest.mark.parametrize(
    ("arch", "others", "words"),
    [
        (
            "efficientnet_b0",
            "efficientnet_b0_torchvision",
            r"choose one with arch='efficientnet_b0' \(timm's tf_efficientnet_b0\); "
            r"arch='efficientnet_b0_torchvision' \(timm's efficientnet_b0\)",
        ),
        ("efficientnet_lite0", None, r"arch='efficientnet_lite0' \(timm's tf_efficientnet_lite0\)\.$"),
        (
            "mobilenetv3_small_torchvision",
            None,
            r"arch='mobilenetv3_small_torchvision' \(timm's mobilenetv3_small_100; tf_.* is not supported\)",
        ),
    ],
)
def test_timms_names_do_not_show_how_a_network_pads(arch, others, words):
    shapes = timm_classifier(arch)
    with pytest.raises(UserError, match=words):
        recognised("a.pth", shapes)
    for choice in filter(None, (arch, others)):
        state, network = recognised("a.pth", shapes, arch=choice)
        assert network.arch == choice
        assert loading.match(state, naming_lib.leaves(loading.shapes(network.network())))[1] == {}
    with pytest.raises(UserError, match=f", not resnet18: use arch='{arch}'"):
        recognised("a.pth", shapes, arch="resnet18")


def test_names_that_identify_a_network_need_no_architecture_and_allow_no_other():
    shapes = timm_classifier("efficientnet_b0", "lukemelas")
    assert recognised("a.pth", shapes)[1].arch == "efficientnet_b0"
    with pytest.raises(UserError, match=", not efficientnet_b0_torchvision: use arch='efficient"):
        recognised("a.pth", shapes, arch="efficientnet_b0_torchvision")


@pytest.mark.parametrize("arch", ["mobilenetv3_small", "mobilenetv3_small_torchvision"])
def test_our_names_fit_both_forms(tmp_path, arch):
    leaves = naming_lib.leaves(loading.shapes(models.Joined(models.create(arch), {})))
    np.savez(tmp_path / "a.npz", **{f"params/{k}": np.zeros(v, np.float32) for k, v in leaves.items()})
    with pytest.raises(UserError, match="arch='mobilenetv3_small'; arch='mobilenetv3_small_torchvision'"):
        recognition.recognise(tmp_path / "a.npz")
    network = recognition.recognise(tmp_path / "a.npz", arch=arch)
    assert (network.arch, network.options) == (arch, {})


def test_the_form_chooses_clips_activation():
    options = NATIVE | {"form": "clip"}
    shapes = backbone(BY_NAME["vit", "timm_clip"], "vit_base", options)
    ways = r"form='clip' \(timm's .*quickgelu.*form='clip_gelu' \(timm's .* GELU"
    for arch in ("", "vit_base"):
        with pytest.raises(UserError, match=ways):
            recognised("a.safe", shapes, arch=arch)
    for form in ("clip", "clip_gelu"):
        assert recognised("a.safe", shapes, form=form)[1].options == NATIVE | {"form": form}
    shapes = backbone(BY_NAME["vit", "openai_clip"], "vit_base", options)
    assert recognised("a.pt", shapes)[1].options["form"] == "clip"
    assert recognised("a.pt", shapes, form="clip_gelu")[1].options["form"] == "clip_gelu"


@pytest.mark.parametrize(("number", "size"), [(1, 240), (2, 288), (3, 300)])
def test_torchvisions_image_sizes(number, size):
    arch = f"efficientnet_b{number}_torchvision"
    shapes = backbone(BY_NAME["efficientnet", "torchvision"], arch, {})
    assert recognised("a.pth", shapes)[1].size == size


def test_moco_v3s_linear_probe_has_its_heads():
    shapes = backbone(BY_NAME["vit", "timm"], "vit_small", {"num_classes": 10})
    assert recognised("linear-vit-s-300ep.pth.tar", shapes)[1].options["heads"] == 12
    assert "heads" not in recognised("deit.pth", shapes)[1].options


def test_bottlenecks_of_another_width_are_named():
    shapes = backbone(BY_NAME["resnet", "torchvision"], "resnet50", {})
    wide = shapes | {"layer1.0.conv2.weight": (128, 128, 3, 3)}
    words = "resnet50 with bottlenecks of 128 channels in {} groups, not 64 in 1"
    assert recognised("a.pth", wide)[1].arch == words.format(1)
    grouped = shapes | {"layer1.0.conv2.weight": (128, 4, 3, 3)}
    assert recognised("a.pth", grouped)[1].arch == words.format(32)


def write(path, shapes):
    tensors = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    array_files.write_safetensors(path, tensors, {})
    return str(path)


def test_an_error_says_what_an_unknown_network_has(tmp_path):
    shapes = backbone(BY_NAME["resnet", "torchvision"], "resnet50", NARROW)
    path = write(tmp_path / "a.safetensors", shapes | {"layer1.0.conv2.weight": (16, 16, 3, 3)})
    with pytest.raises(UserError, match="bottlenecks of 16 channels in 1 groups, not 8 in 1.*use another"):
        pretrained.load(path)


def test_options_set_a_mean_that_the_file_does_not_state(tmp_path):
    shapes = backbone(BY_NAME["resnet", "torchvision"], "resnet18", NARROW)
    path = write(tmp_path / "a.safetensors", shapes)
    assert pretrained.load(path).assumed
    loaded = pretrained.load(path, options={"mean": (0, 0, 0), "std": (1, 1, 1)})
    assert not loaded.assumed
    assert (loaded.network.backbone.mean, loaded.network.backbone.std) == ((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize(("extra", "assumed"), [({}, True), (swav(64, 256, True), False)])
def test_a_mean_that_the_file_does_not_state_is_assumed(extra, assumed):
    shapes = backbone(BY_NAME["resnet", "torchvision"], "resnet50", NARROW) | extra
    assert recognised("a.pth", shapes)[1].assumed is assumed


@pytest.mark.parametrize(
    ("lacking", "missing"),
    [
        (["fc.4.weight", "fc.4.bias"], None),
        (["fc.4.weight"], "fc.4.weight"),
        (["fc.4.weight", "fc.4.bias", "fc.1.weight", "fc.1.bias"], "fc.1"),
    ],
)
def test_only_a_last_norm_may_lack_both_scale_and_bias(lacking, missing):
    head = (
        linear("fc.0", 256, 64, bias=False)
        | norm("fc.1", 64)
        | linear("fc.3", 64, 32, bias=False)
        | norm("fc.4", 32)
    )
    shapes = backbone(BY_NAME["resnet", "torchvision"], "resnet50", NARROW) | head
    state, network = recognised("a.pth", {k: v for k, v in shapes.items() if k not in lacking})
    faults = loading.match(state, naming_lib.leaves(loading.shapes(network.network())))[1]
    assert faults == {} if missing is None else faults["missing"][0].startswith(missing)
