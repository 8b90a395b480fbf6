"""`python -m seed_jax.evals`: a run whose data has moved; protocols, and what they refuse."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tiny

from seed_jax import models
from seed_jax.data.images import BadImage
from seed_jax.data.sources import Arrays, Subset, open_source
from seed_jax.errors import UserError
from seed_jax.evals import features, protocols, subject
from seed_jax.evals.__main__ import main
from seed_jax.evals.images import open_images
from seed_jax.train import loop
from seed_jax.weights import pretrained


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on a quarter of the digits as an .npz file, and that file."""
    folder = tmp_path_factory.mktemp("moved")
    digits = open_source("digits", "all")
    images = np.stack([digits[i].image for i in range(0, len(digits), 4)])
    np.savez(folder / "digits.npz", image=images, label=digits.labels()[::4])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "tiny", tiny.Tiny)
        raw = tiny.get_config("supervised")
        raw.data.source, raw.data.dir = "npz", str(folder / "digits.npz")
        raw.train.steps = 2
        loop.run(raw, folder / "run")
        yield folder / "run", folder / "digits.npz"


def numbers(capsys):
    """(header, cells of the only row) of the printed table."""
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    return lines[0], [cell.strip() for cell in lines[-1].strip("|").split("|")]


def test_the_data_may_have_moved(trained, tmp_path, capsys):
    run, data = trained
    assert main([str(run)]) == 0
    header, before = numbers(capsys)
    assert "kNN, test %" in header
    shutil.copy(data, tmp_path / "moved.npz")
    assert main([str(run), "--dir", str(tmp_path / "moved.npz")]) == 0
    assert numbers(capsys) == (header, before)
    data.rename(tmp_path / "away.npz")
    try:
        assert main([str(run)]) == 1
        said = capsys.readouterr().err
        assert f"{data} cannot be read" in said
        assert "--dir" in said
        assert main([str(run), "--dir", str(tmp_path / "moved.npz"), "--split", "val"]) == 0
    finally:
        (tmp_path / "away.npz").rename(data)
    header, validation = numbers(capsys)
    assert "kNN, val %" in header
    assert "test" not in header
    assert validation[:2] == before[:2]
    assert validation[2:] != before[2:]


def test_other_data_is_one_sentence(trained, tmp_path, capsys):
    run, data = trained
    arrays = dict(np.load(data))
    arrays["image"][7, 0, 0] += 1
    np.savez(tmp_path / "other.npz", **arrays)
    assert main([str(run), "--dir", str(tmp_path / "other.npz")]) == 1
    said = capsys.readouterr().err
    assert f"{run} was trained on different data from {tmp_path / 'other.npz'} (fingerprint" in said
    assert said.count("\n") == 1


MEASURED = "knn,classifier,retrieval,rank,overlap"


def table(capsys):
    """Cells of the printed table by the names of their scores."""
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]
    return dict([cell.strip() for cell in line.strip("|").split("|")] for line in lines)


@pytest.fixture
def uncompiled(monkeypatch):
    """A forward of any network fails the test."""

    def fail(*_):
        raise AssertionError("a network was compiled")

    monkeypatch.setattr(features.Extractor, "_dispatch", fail)


def test_protocols_of_a_run_as_table_and_json(trained, tmp_path, capsys, monkeypatch):
    run, _ = trained
    command = [str(run), f"--protocol={MEASURED}", f"--teacher={run}", f"--cache={tmp_path}"]
    assert main([*command, f"--out={tmp_path / 'scores.json'}"]) == 0
    shown = table(capsys)
    assert [name.split(": ")[1] for name in shown] == [
        *("knn", "knn_weighted", "classifier", "classifier_per_class", "classifier_ece"),
        *("recall@1", "recall@5", "recall@10", "effective_rank", "overlap"),
    ]
    (result,) = json.loads((tmp_path / "scores.json").read_text())["results"]
    scores, test = result["scores"], result["data"]["test"]
    for name, score in scores.items():
        assert score["number"] == test["images"]
        assert (score["low"] is not None) == score["share"]
        if score["share"]:
            assert 0 <= score["low"] <= score["value"] <= score["high"] <= 1, name
    assert scores["overlap"]["value"] == 1  # it is its own teacher
    assert scores["recall@1"]["value"] <= scores["recall@5"]["value"] <= scores["recall@10"]["value"]
    before = main([str(run)]) or numbers(capsys)
    assert f"{100 * scores['knn']['value']:.1f}" in before[1]
    assert f"{100 * scores['classifier']['value']:.1f}" in before[1]

    with monkeypatch.context() as patch:  # the features are kept
        patch.setattr(features.Extractor, "__call__", lambda *_: pytest.fail("computed again"))
        assert main(command) == 0
    assert table(capsys) == shown


def test_many_networks_are_rows(trained, tmp_path, capsys):
    run, _ = trained
    other = shutil.copytree(run, tmp_path / "other")
    assert main([str(run), str(other), "--protocol=rank"]) == 0
    lines = [line.split("|")[1:3] for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    (first, score), _, *rows = [[cell.strip() for cell in line] for line in lines]
    assert (first, score.split(": ")[1]) == ("network", "effective_rank")
    assert [name for name, _ in rows] == [str(run), str(other)]
    assert rows[0][1] == rows[1][1]


@pytest.mark.parametrize(("splits", "split"), [("", "val"), ("train+val,val,test", "test")])
def test_images_that_are_scored_or_learned_from_choose_nothing(trained, splits, split):
    run, data = trained
    images = open_images(str(data), splits=splits)
    opened = subject.Subject("run", pretrained.load(run), images, split=split, most=60)
    (x, labels), (chosen_x, chosen_labels) = opened.chosen_on()
    bank, bank_labels = opened.get("bank")
    assert len(x) + len(chosen_x) == len(bank) == 60
    rows = {row.tobytes() for row in bank}
    assert {row.tobytes() for row in (*x, *chosen_x)} == rows
    assert sorted([*labels, *chosen_labels]) == sorted(bank_labels)
    assert "fifth" in opened.notes[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--protocol=semi"], "1% of the {smallest} images of class {rare} rounds to none"),
        (["--protocol=transfer", "--data=cifar10:{data}"], "CIFAR-10 has one that papers score"),
        (["--protocol=transfer", "--data=pets:{data}"], "Oxford-IIIT Pets has 37 classes, but"),
        (["--protocol=transfer", "--data=aircraft"], "--data=aircraft:FOLDER"),
        (["--protocol=classifier", "--data={three}"], "classifies 10 classes, but {three} has 3"),
        (["--protocol=rank,knn", "--data={unlabelled}"], "has no labels, and this protocol needs classes"),
        (["--protocol=knn", "--data={alike}"], "has one class, and this protocol needs classes"),
        (["--protocol=knn", "--splits=train,val,train", "--data={data}"], "has images that are scored"),
        (["--protocol=knn", "--splits=all,val,test", "--data={data}"], "has images that are scored"),
        (["--protocol=knn", "--splits=train,val,val"], "--splits names splits of --data"),
        (["--protocol=knn", "--data={partly}"], "lack a label in the split that is learned from"),
        (["--protocol=semi", "--labels=0%"], "--labels"),
        (
            ["--protocol=semi", "--labels=100%", "--split=val"],
            "leaves no image to choose the learning",
        ),
        (["--protocol=knn", "--labels=5%"], "--labels is for the protocol semi"),
        (["--protocol=linear", "--k=5"], "--k is for the protocol knn"),
        (["--protocol=knn", "--teacher=x"], "--teacher is for the protocol overlap"),
        (["--protocol=overlap", "--teacher=/no/such"], "--teacher: "),
        (["--protocol=knn", "--k=1000"], "--k is 1000, but there are"),
        (["--protocol=retrieval", "--images=8"], "Recall at 10 needs 11 test images, and there are 8"),
        (["--protocol=few_shot"], "test images each"),
        (["--protocol=overlap"], "--teacher"),
        (["--protocol=kn"], "Unknown protocol in --protocol 'kn': did you mean 'knn'"),
        (["--protocol=rank", "--feature=embedding"], "use --feature with one of logits, pooled"),
        (["--protocol=rank", "--cache=/no/such"], "--cache: there is no folder"),
        (["--protocol=rank", "--splits=train,test", "--data={data}"], "name three, as train,val,test"),
        (["--data={data}"], "--data is for protocols"),
        (["--feature=embedding"], "--feature is for protocols"),
        (["--batch-size=8"], "--batch-size is for protocols"),
    ],
)
def test_mistakes_are_one_sentence_before_anything_compiles(
    trained, uncompiled, tmp_path, capsys, arguments, said
):
    run, data = trained
    image, label = (np.load(data)[name] for name in ("image", "label"))
    names = {"data": data, "three": tmp_path / "three.npz", "unlabelled": tmp_path / "unlabelled.npz"}
    names["alike"] = tmp_path / "alike.npz"
    np.savez(names["alike"], image=image, label=np.zeros_like(label))
    names["partly"] = tmp_path / "partly.npz"
    np.savez(names["partly"], image=image, label=np.where(np.arange(len(label)) % 3, label, -1))
    np.savez(names["three"], image=image, label=label % 3)
    np.savez(names["unlabelled"], image=image)
    if arguments[0] == "--protocol=semi":
        labels = open_source("npz", "train", dir=str(data)).labels()
        classes, sizes = np.unique(labels, return_counts=True)
        names |= {"smallest": sizes.min(), "rare": classes[sizes.argmin()]}
    arguments = [argument.format(**names) for argument in arguments]
    assert main([str(run), *arguments]) == 1
    error = capsys.readouterr().err
    assert said.format(**names) in error
    assert error.count("\n") == 1


def test_images_that_the_run_trained_on_are_not_scored(trained):
    run, data = trained
    images = open_images(str(data), splits="train,val,test")
    images = images._replace(data=dataclasses.replace(images.data, train="all", bank="train"))
    check = protocols.PROTOCOLS["retrieval"].check
    check(subject.Subject("weights", pretrained.load(run), images), protocols.Options())
    opened = subject.Subject("run", pretrained.load(run), images._replace(trained_on=True))
    with pytest.raises(UserError, match="The run trained on .* images of data.test, so their scores say"):
        check(opened, protocols.Options())


def test_other_images_of_the_same_names_are_not_taken_from_the_cache(trained, tmp_path, monkeypatch):
    """The fingerprint of a folder has names and sizes, and no pixels."""
    run, data = trained
    monkeypatch.setattr(Arrays, "fingerprint", lambda self: "the same")
    arrays = dict(np.load(data))
    np.savez(tmp_path / "other.npz", **arrays | {"image": 255 - arrays["image"]})
    (tmp_path / "kept").mkdir()
    shared = {"cache": tmp_path / "kept", "most": 20}

    def features_of(path):
        opened = subject.Subject("run", pretrained.load(run), open_images(str(path)), **shared)
        return opened.get("test")[0]

    first = features_of(data)
    np.testing.assert_array_equal(features_of(data), first)
    assert len(list((tmp_path / "kept").iterdir())) == 1
    assert not np.allclose(features_of(tmp_path / "other.npz"), first)


def test_images_that_cannot_be_read_are_said_and_the_rest_is_not_kept(trained, tmp_path, monkeypatch):
    run, data = trained
    opened = subject.Subject("run", pretrained.load(run), open_images(str(data)), cache=tmp_path, most=20)
    source = opened.source("test")

    class Damaged(Subset):
        def __getitem__(self, i):
            if i == 3:
                raise BadImage("damaged")
            return super().__getitem__(i)

    opened.sources["test"] = Damaged(source, np.arange(20))
    assert len(opened.get("test")[0]) == 19
    assert opened.notes == [f"{data}: 1 of the 20 images that are scored cannot be read."]
    assert not list(tmp_path.iterdir())
    assert len(opened.pairs(20)[0]) == 19


def test_networks_with_other_settings_are_not_compared_silently(trained, tmp_path, capsys):
    run, _ = trained
    other = shutil.copytree(run, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["evals"]["k"] = 3
    (other / "config.json").write_text(json.dumps(config))
    assert main([str(run), str(other), "--protocol=knn"]) == 0
    said = f"The networks differ in --k (10 of {run}, 3 of {other}): set it for a fair comparison."
    assert said in capsys.readouterr().out
    assert main([str(run), str(other), "--protocol=knn", "--k=5"]) == 0
    assert "differ" not in capsys.readouterr().out


def test_classes_of_other_names_are_refused_where_both_are_known(trained, uncompiled, monkeypatch):
    run, data = trained
    names = [str(n) for n in range(10)]
    loaded = dataclasses.replace(pretrained.load(run), class_names=tuple(names))
    opened = subject.Subject("the run", loaded, open_images(str(data)))
    check = protocols.PROTOCOLS["classifier"].check
    check(opened, protocols.Options())  # the data has no names
    scored = opened.source("test")
    monkeypatch.setattr(scored, "class_names", names, raising=False)
    check(opened, protocols.Options())
    monkeypatch.setattr(scored, "class_names", [*names[:7], "bag", *names[8:]])
    words = "the run was trained on other classes than .*, class 7 is '7' there and 'bag' here: use linear"
    with pytest.raises(UserError, match=words):
        check(opened, protocols.Options())


def test_a_run_knows_the_names_of_its_classes(trained, tmp_path):
    run = shutil.copytree(trained[0], tmp_path / "run")
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest.pop("class_names") == []
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert pretrained.load(run).class_names == ()  # of an older run
    manifest["class_names"] = ["cat", "dog"]
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert pretrained.load(run).class_names == ("cat", "dog")


def test_images_without_labels_have_numbers_too(trained, tmp_path, capsys):
    """Of the weights of the backbone alone, which has no classifier."""
    run, data = trained
    np.savez(tmp_path / "unlabelled.npz", image=np.load(data)["image"])
    loaded = pretrained.load(run)
    backbone = dataclasses.replace(loaded.network, parts={})
    loaded = dataclasses.replace(loaded, network=backbone)
    images = open_images(str(tmp_path / "unlabelled.npz"))
    opened = subject.Subject("run", loaded, images, most=40, batch_size=16)
    options = protocols.Options()
    found = {}
    for name in ("uniformity", "rank"):
        protocols.PROTOCOLS[name].check(opened, options)
        found |= protocols.PROTOCOLS[name].measure(opened, options)
    x, labels = opened.get("test")
    assert set(labels) == {-1} and len(x) == 40
    assert 0 < found["alignment"].value < 4  # two different views
    assert -8 < found["uniformity"].value < 0
    assert 1 < found["effective_rank"].value <= x.shape[1]


def test_weights_without_protocol_or_data_are_one_sentence(tmp_path, capsys):
    weights = tmp_path / "weights.npz"
    weights.touch()
    assert main([str(weights)]) == 1
    assert "name what to measure with --protocol" in capsys.readouterr().err
    assert main([str(weights), "--protocol=knn"]) == 1
    assert "name some with --data" in capsys.readouterr().err


def test_every_protocol_is_explained(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    for name, protocol in protocols.PROTOCOLS.items():
        assert f"  {name:<12}{protocol.about}" in told
