"""The answer of a run, from metrics written by hand."""

import json

import pytest

from seed_jax import report
from seed_jax.errors import UserError
from seed_jax.report import __main__ as command
from seed_jax.report import metrics
from seed_jax.report.metrics import MetricsWriter


def a_run(workdir, lines, config=None, manifest=None):
    with MetricsWriter(workdir, tensorboard=False) as writer:
        for step, scores in lines:
            writer.write(step, scores)
    for name, content in (("config", config), ("manifest", manifest)):
        if content is not None:
            (workdir / f"{name}.json").write_text(json.dumps(content))
    return workdir


START = (0, {"knn": 0.33, "teacher_knn": 0.842})


@pytest.mark.parametrize(
    ("lines", "sentence", "row"),
    [
        (
            [START, (20, {"loss": 1.0}), (40, {"knn": 0.754}), (60, {"knn": 0.751})],
            "Training has helped: the student's kNN rose from 33.0 % at step 0 to 75.1 % at step 60 "
            "(best: 75.4 % at step 40); the teacher has 84.2 %.",
            ["kNN", "33.0 % @ 0", "75.4 % @ 40", "75.1 % @ 60", "84.2 %"],
        ),
        (
            [START, (20, {"knn": 0.2})],
            "Training has not helped: the student's kNN fell from 33.0 % at step 0 to 20.0 % at step 20; the "
            "teacher has 84.2 %.",
            ["kNN", "33.0 % @ 0", "33.0 % @ 0", "20.0 % @ 20", "84.2 %"],
        ),
        (
            [(0, {"top1": 0.1}), (5, {"top1": 0.1})],
            "Training has not helped: the student's top-1 stayed the same, from 10.0 % at step 0 to 10.0 % "
            "at step 5.",
            ["top-1", "10.0 % @ 0", "10.0 % @ 0", "10.0 % @ 5", "–"],
        ),
        (
            [START, (20, {"loss": 1.0, "knn": 0.9}), (40, {"knn": float("nan")})],
            "There is only one probe yet: the student's kNN is 33.0 % at step 0; the teacher has 84.2 %.",
            ["kNN", "33.0 % @ 0", "33.0 % @ 0", "33.0 % @ 0", "84.2 %"],
        ),
    ],
)
def test_the_answer(tmp_path, lines, sentence, row):
    said, table = report.answer(a_run(tmp_path, lines))
    assert said == sentence
    assert table.cells() == [row]


def test_the_sentence_is_about_the_score_that_decides_the_best_checkpoint(tmp_path):
    lines = [
        (0, {"knn": 0.5, "exit1_top1": 0.1, "top1": 0.25}),
        (9, {"knn": 0.4, "exit1_top1": 0.2, "top1": 0.3}),
    ]
    said, table = report.answer(a_run(tmp_path, lines))
    assert "top-1 rose from 25.0 %" in said and metrics.last_score(metrics.read(tmp_path)) == 0.3
    assert [row[0] for row in table.cells()] == ["kNN", "exit1_top1", "top-1"]


@pytest.mark.parametrize(
    ("names", "classes", "words"),
    [
        (
            ["knn"],
            0,
            [
                "the data has no labels",
                "sub-folder of their own and add --config.data.source= ",
                "in another --w",
            ],
        ),
        ([], 10, ["evals.names is empty", "--config.evals.names=knn"]),
        (["top1"], 10, ["evals.names is top1, which scores nothing", "--config.evals.names=knn"]),
        (["knn", "top1"], 10, ["not known yet", "wait for the first one"]),
    ],
)
def test_without_a_probe_it_says_why_and_what_to_do(tmp_path, names, classes, words):
    config = {"evals": {"names": names}, "data": {"source": "folder"}}
    manifest = {"data": {"num_classes": classes}, "steps": 10}
    said, table = report.answer(a_run(tmp_path, [(5, {"loss": 1.0})], config, manifest))
    assert table is None
    assert all(word in said for word in words), said
    assert said in report.run_report(tmp_path).read_text()


def test_training_on_all_images_leaves_none_for_a_probe(tmp_path):
    config = {"evals": {"names": ["knn"]}, "data": {"source": ""}}
    manifest = {"data": {"num_classes": 10}, "train_split": "all", "steps": 5}
    said, _ = report.answer(a_run(tmp_path, [(5, {"loss": 1.0})], config, manifest))
    assert said == (
        "Whether training helps is not known: data.train is 'all', which leaves no images for one, so there "
        "is no probe; use --config.data.train= to train on one split, in another --workdir."
    )


@pytest.mark.parametrize(("steps", "words"), [(6, "wait for the first one"), (5, "the run has ended")])
def test_waiting_helps_only_while_steps_remain(tmp_path, steps, words):
    manifest = {"data": {"num_classes": 10}, "train_split": "train", "steps": steps}
    config = {"evals": {"names": ["knn"]}, "data": {"source": ""}}
    assert words in report.answer(a_run(tmp_path, [(5, {"loss": 1.0})], config, manifest))[0]


@pytest.mark.parametrize(
    ("scores", "images", "verdict"),
    [  # the standard error of a share of 0.5 is 0.5 / sqrt(images), of a difference sqrt(2) times that
        ((0.5, 0.501), 50, "is not shown to help"),
        ((0.5, 0.45), 50, "is not shown to help"),
        ((0.5, 0.69), 50, "is not shown to help"),
        ((0.5, 0.70), 50, "has helped"),
        ((0.5, 0.30), 50, "has not helped"),
        ((0.5, 0.52), 1_000, "is not shown to help"),
        ((0.5, 0.52), 100_000, "has helped"),
        ((0.5, 0.501), None, "has helped"),
    ],
)
def test_a_change_within_the_error_is_no_change(tmp_path, scores, images, verdict):
    lines = [(step, {"knn": score}) for step, score in enumerate(scores)]
    manifest = {"val_images": images} if images else {}
    said, _ = report.answer(a_run(tmp_path, lines, manifest=manifest))
    assert said.startswith(f"Training {verdict}: the student's kNN ")
    assert (f"at step 1, a change within the error of {images or 0:,} images." in said) == (
        verdict == "is not shown to help"
    )


def test_a_workdir_with_metrics_alone(tmp_path):
    assert "wait for the first one" in report.answer(a_run(tmp_path, [(5, {"loss": 1.0})]))[0]
    with pytest.raises(UserError, match="nowhere does not exist"):
        report.answer(tmp_path / "nowhere")


def test_page_and_command_begin_with_the_answer(tmp_path, capsys):
    run = a_run(tmp_path, [START, (20, {"loss": 1.0}), (40, {"knn": 0.75})])
    said, table = report.answer(run)
    page = report.run_report(run).read_text()
    assert 0 < page.index(f'<p class="lead">{said}') < page.index("33.0 % @ 0") < page.index("<svg")
    assert command.main([str(run)]) == 0
    assert capsys.readouterr().out.startswith(f"{run}: {said}\n\n{table.markdown()}\n\n")


def test_a_probe_in_one_line():
    start = {"knn": 0.33, "top1": 0.1, "teacher_knn": 0.842}
    assert report.probe_line(start, {}) == "student kNN 33.0 % (teacher 84.2 %), top-1 10.0 %"
    assert report.probe_line({"knn": 0.75, "top1": 0.5}, start) == (
        "student kNN 75.0 % (33.0 % at the start; teacher 84.2 %), top-1 50.0 % (10.0 % at the start)"
    )
    assert report.probe_line({"knn": 0.75}, {}) == "student kNN 75.0 %"
    assert report.probe_line({"teacher_top1": 0.75}, {}) == "student without a score"
