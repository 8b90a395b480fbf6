import dataclasses
import re

import numpy as np
import pytest

from seed_jax.weights import __main__ as command
from seed_jax.weights import parity
from seed_jax.weights.cases import CASES

BY_NAME = {case.name: case for case in CASES}
SMALL = [
    "resnet18-torchvision",
    # d-li14's network is SEED's of tests/models/test_architectures.py, timm's is torchvision's.
    pytest.param("mobilenetv3_small-d-li14", marks=pytest.mark.long),
    "mobilenetv3_small-torchvision",
    pytest.param("mobilenetv3_small-timm", marks=pytest.mark.long),
    "efficientnet_lite0-lukemelas",
    "vit_s16-dino",
]
CRD = [
    "cifar_resnet8-crd",
    "wrn_16_1-crd",
    "vgg8-crd",
    "mobilenetv2_half-crd",
    "shufflenetv1-crd",
    "shufflenetv2-crd",
]


def test_every_golden_file_has_its_case():
    assert {path.stem for path in parity.GOLDEN.glob("*.npz")} == set(BY_NAME)
    assert len(BY_NAME) == len(CASES)


@pytest.mark.parametrize("name", SMALL)
def test_networks_compute_what_the_reference_computes(name):
    assert parity.check(BY_NAME[name]).error < command.LARGEST_ERROR


@pytest.mark.parametrize("name", CRD)
def test_small_networks_compute_it_to_a_hundred_thousandth(name):
    assert parity.check(BY_NAME[name]).error < 1e-5


def test_another_network_is_noticed():
    case = BY_NAME["mobilenetv3_small-torchvision"]
    wrong = dataclasses.replace(case, options=case.options | {"bn_epsilon": 1e-5})
    assert parity.check(wrong).error > 1e-3
    with pytest.raises(ValueError, match="our names or shapes differ from the reference's"):
        parity.check(dataclasses.replace(case, options=case.options | {"num_classes": 10}))


def test_the_command_prints_a_table_and_fails_above_the_bound(monkeypatch, capsys):
    monkeypatch.setattr(parity, "check", lambda case: parity.Result(case.name, errors[case.name], 12345))
    errors = {"vit_s16-dino": 2e-6, "vit_s16-deit": 3e-5, "vit_s16-moco_v3": 1e-6}
    assert command.main(["parity", "vit_s16-*"]) == 0
    assert re.search(r"\| vit_s16-deit +\| +12,345 \| +3\.0e-05 \|", capsys.readouterr().out)
    errors["vit_s16-dino"] = 2e-4
    assert command.main(["parity", "vit_s16-*"]) == 1


@pytest.mark.parametrize("name", ["conv.weight", "bn.weight", "bn.bias", "bn.running_var", "pos_embed"])
def test_draws_are_functions_of_the_name(name):
    shape = (4, 3, 3, 3) if name == "conv.weight" else (512,)
    first, again = parity.draw(name, shape), parity.draw(name, shape)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, parity.draw("a." + name, shape))
    assert first.dtype == np.float32
    assert len(np.unique(first)) == first.size
