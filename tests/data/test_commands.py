"""The commands of `python -m seed_jax.data`."""

import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from seed_jax.data import pipeline
from seed_jax.data.__main__ import main
from seed_jax.data.pack import pack
from seed_jax.data.sources import open_source
from seed_jax.errors import UserError


@pytest.mark.parametrize(("total", "most"), [(20, 2), (400, 4)])
def test_a_pack_may_leave_out_as_many_images_as_a_run_skips(tmp_path, capsys, total, most):
    """Two, or 1 %: up to this number neither `pack` nor a run on the unpacked images fails."""
    (tmp_path / "in").mkdir()
    for n in range(total):
        Image.new("RGB", (4, 4), (n % 256, 0, 0)).save(tmp_path / "in" / f"{n:03}.png")
    command = ["pack", "folder", "--dir", str(tmp_path / "in"), "--workers", "1"]

    def run():
        source = open_source("folder", "all", dir=str(tmp_path / "in"))
        bad = pipeline.BadImages(source)
        next(pipeline.eval_batches(source, 4, total, threads=1, bad=bad))
        return len(bad)

    for n in range(most):
        (tmp_path / "in" / f"{n:03}.png").write_bytes(b"")
    assert main([*command, str(tmp_path / "a")]) == 0
    assert run() == most
    assert not capsys.readouterr().err
    (tmp_path / "in" / f"{most:03}.png").write_bytes(b"")
    for _ in range(2):  # a new pack, then a finished one
        assert main([*command, str(tmp_path / "b")]) == 1
        share = f"{100 * (most + 1) / total:.3g} % of the {total} images were left out, and a run skips at"
        assert share in capsys.readouterr().err
    assert len(open_source("arrayrecord", "all", dir=str(tmp_path / "b"))) == total - most - 1
    with pytest.raises(UserError, match=rf"^{100 * (most + 1) / total:.3g} % of the {total} images"):
        run()


def test_a_pack_without_images_is_an_error(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for n in range(3):
        (tmp_path / "in" / f"{n}.png").write_bytes(b"")
    for _ in range(2):
        assert main(["pack", "folder", "--dir", str(tmp_path / "in"), str(tmp_path / "out")]) == 1
        said = capsys.readouterr().err
        assert "none of the 3 images can be packed (the first: 0.png: an empty file): fix them" in said
    assert not (tmp_path / "out" / "metadata.json").exists()


def test_nothing_is_packed_into_a_bucket(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("seed_jax.data.__main__.open_source", lambda *a, **k: pytest.fail("listed"))
    assert main(["pack", "digits", "gs://bucket/x"]) == 1
    assert "OUT: gs://bucket/x is in a bucket" in capsys.readouterr().err
    with pytest.raises(UserError, match="OUT: gs://bucket/x is in a bucket, .* copy .* mount"):
        pack(open_source("digits", "val"), "gs://bucket/x")
    assert not list(tmp_path.iterdir())


def test_names_that_are_not_utf8_are_escaped(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "in" / "ä.png")
    (tmp_path / "in" / "\udcff.png").write_bytes(b"")
    assert main(["inspect", "folder", "--dir", str(tmp_path / "in")]) == 0
    assert f"unreadable 1\n  {tmp_path}/in/\\udcff.png: an empty file\n" in capsys.readouterr().out
    assert main(["pack", "folder", "--dir", str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    assert "left out:\n  \\udcff.png: an empty file\n" in capsys.readouterr().out
    with contextlib.redirect_stdout(io.StringIO()) as said:  # a StringIO has no encoding
        assert main(["inspect", "folder", "--dir", str(tmp_path / "in")]) == 0
    assert "\udcff.png" in said.getvalue()


def test_commands(pets, tmp_path, capsys):
    out = str(tmp_path / "out")
    (pets / "train" / "dog" / "01.png").write_bytes(b"no image")
    (pets / "train" / "dog" / "07.png").write_bytes((pets / "train" / "dog" / "07.png").read_bytes()[:500])
    assert main(["pack", "imagefolder", out, "--dir", str(pets), "--split", "train"]) == 0
    said = capsys.readouterr()
    assert f"17 images in {out}" in said.out
    assert "1 could not be read and were left out:\n  train/dog/01.png: not an image" in said.out
    assert json.loads((tmp_path / "out" / "metadata.json").read_text())["class_names"] == ["cat", "dog"]
    assert main(["inspect", "arrayrecord", "--dir", out]) == 0
    said = capsys.readouterr().out
    assert "2 classes of 8 to 9 images\n  cat: 9\n  dog: 8\n" in said
    assert "width      40 to 40, median 40" in said
    assert "JPEG RGB: 6" in said
    assert "unreadable 1\n  " + out + "/train/dog/07.png: " in said
    assert "warning" not in said
    for name in ("imagefolder", ""):
        assert main(["inspect", name, "--dir", str(pets)]) == 0
        assert f"unreadable 2\n  {pets}/train/dog/01.png: not an image" in capsys.readouterr().out
    assert main(["inspect", "digits"]) == 0
    assert "array RGB: 1,797" in capsys.readouterr().out
    assert main(["inspect", "digit"]) == 1
    assert "did you mean 'digits'" in capsys.readouterr().err


def test_inspect_warns_of_flat_and_repeated_images(tmp_path, capsys):
    root = tmp_path / "in"
    root.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (6, 20, 24, 3), np.uint8)
    for n, pixels in enumerate(noise):
        Image.fromarray(pixels).save(root / f"{n}.png")
    (root / "copy.png").write_bytes((root / "4.png").read_bytes())
    Image.fromarray(noise[2]).save(root / "also.bmp")  # other bytes, same pixels
    for n in range(4):
        Image.new("RGB", (20, 24), (n, 5, 5)).save(root / f"flat{n}.jpg")
    white = np.full((20, 24, 4), 255, np.uint8)
    white[:9, :, 3] = 0
    Image.fromarray(white).save(root / "ghost.png")
    almost = np.zeros((20, 24, 3), np.uint8)
    almost[19, 23, 2] = 1
    Image.fromarray(almost).save(root / "almost.png")
    assert main(["inspect", "folder", "--dir", str(root)]) == 0
    said = capsys.readouterr().out
    assert f"warning: 5 images have one flat colour, such as {root}/flat0.jpg, {root}/flat1.jpg, " in said
    assert "flat3" not in said
    assert f"warning: 2 images have the same pixels as another one, such as {root}/also.bmp (as " in said
    assert f"(as {root}/2.png), {root}/copy.png (as {root}/4.png): remove them" in said
    for n in range(4):
        (root / f"flat{n}.jpg").write_bytes(b"")
    assert main(["inspect", "folder", "--dir", str(root)]) == 0
    said = capsys.readouterr().out
    assert "unreadable 4 (28.6 % of these images, and a run skips at most 1 %): repair or remove" in said


def test_inspect_of_good_images_warns_of_nothing(pets, capsys):
    assert main(["inspect", "imagefolder", "--dir", str(pets)]) == 0
    said = capsys.readouterr().out
    assert "warning" not in said
    assert "FIFO" not in said
    assert "unreadable 0\n" in said


def test_a_folder_is_recognised_by_its_path(tmp_path, monkeypatch, capsys):
    """Also one with the name of an embedded source."""
    monkeypatch.chdir(tmp_path)
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for n in range(2):
            Image.new("RGB", (8, 8), (n, 0, 0)).save(tmp_path / "photos" / label / f"{n}.png")
    assert main(["inspect", "photos"]) == 0
    assert capsys.readouterr().out.startswith("4 images\n2 classes")
    assert main(["pack", "photos", "packed"]) == 0
    assert open_source("arrayrecord", "all", dir="packed").class_names == ("cat", "dog")
    capsys.readouterr()
    assert main(["inspect", "pictures/cats"]) == 1
    assert "there is no folder pictures/cats" in capsys.readouterr().err
