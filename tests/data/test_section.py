"""The section `data` of a config."""

import json

import pytest

from seed_jax.config.sections import Data
from seed_jax.errors import UserError
from seed_jax.train import workdir


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"resize": 0.99}, "data.resize is 0.99: it must be 1 to 2."),
        ({"resize": float("nan")}, "data.resize is nan: it must be 1 to 2."),
        (
            {"background": (0, 0)},
            r"data.background is \(0, 0\): it must be three whole numbers from 0 to 255",
        ),
        ({"background": (0, 0, 256)}, r"data.background is \(0, 0, 256\): it must be three whole numbers"),
    ],
)
def test_checks(values, message):
    Data(resize=1.0, background=(0, 0, 255)).check()
    with pytest.raises(UserError, match=message):
        Data(**values).check()


def test_what_the_user_names_is_not_recognised(tmp_path):
    named = Data(source="folder", dir=str(tmp_path), train="train")
    assert named.settled() is named
    assert Data(source="digits", train="").settled() == Data(source="digits", train="train")


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ({"source": "photographs", "dir": "x"}, {"source": "folder", "dir": "x"}),
        (
            {"source": "photographs", "dir": "", "image_size": 64},
            {"source": "photos6", "dir": "", "image_size": 64},
        ),
        ({"source": "scattered", "image_size": 16}, {"source": "scattered", "image_size": 16, "resize": 1.0}),
        ({"source": "scattered", "image_size": 32}, {"source": "scattered", "image_size": 32}),
        (
            {"source": "digits", "image_size": 32, "resize": 1.5},
            {"source": "digits", "image_size": 32, "resize": 1.5},
        ),
    ],
)
def test_configs_of_earlier_versions(tmp_path, older, newer):
    """Images of exactly `data.image_size` were not resized before there was `data.resize`."""
    (tmp_path / "config.json").write_text(json.dumps({"data": older}))
    assert workdir._read_config(tmp_path / "config.json")["data"] == newer
