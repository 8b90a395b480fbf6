"""The answer of a run, from metrics written by hand."""

import json

import pytest
from scipy import stats

from seed_jax import report
from seed_jax.config import SECTIONS
from seed_jax.errors import UserError
from seed_jax.report import __main__ as command
from seed_jax.report import metrics, verdict
from seed_jax.report.metrics import MetricsWriter
from seed_jax.report.remedies import DEFAULTS, remedies


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
    ("lines", "sentence", "rows"),
    [
        (
            [START, (20, {"loss": 1.0}), (40, {"knn": 0.754}), (60, {"knn": 0.751})],
            "Training has helped: the student's kNN rose from 33.0 % at step 0 to 75.1 % at step 60 "
            "(best: 75.4 % at step 40), 82 % of the way to the teacher; the teacher has 84.2 %.",
            {"first": "33.0 % @ 0", "best": "75.4 % @ 40", "last": "75.1 % @ 60", "teacher": "84.2 %"},
        ),
        (
            [START, (20, {"knn": 0.2})],
            "Training has not helped: the student's kNN fell from 33.0 % at step 0 to 20.0 % at step 20; the "
            "teacher has 84.2 %.",
            {"first": "33.0 % @ 0", "best": "33.0 % @ 0", "last": "20.0 % @ 20", "teacher": "84.2 %"},
        ),
        (
            [(0, {"top1": 0.1}), (5, {"top1": 0.1})],
            "Training has not helped: the student's top-1 stayed the same, from 10.0 % at step 0 to 10.0 % "
            "at step 5.",
            {"first": "10.0 % @ 0", "best": "10.0 % @ 0", "last": "10.0 % @ 5"},
        ),
        (
            [START, (20, {"loss": 1.0, "knn": 0.9}), (40, {"knn": float("nan")})],
            "There is only one probe so far: the student's kNN is 33.0 % at step 0; the teacher has 84.2 %.",
            {"first": "33.0 % @ 0", "best": "33.0 % @ 0", "last": "33.0 % @ 0", "teacher": "84.2 %"},
        ),
        (
            [(0, {"knn": 0.33, "teacher_knn": 0.5, "pixels_knn": 0.6}), (9, {"knn": 0.55})],
            "Training has helped: the student's kNN rose from 33.0 % at step 0 to 55.0 % at step 9, as high "
            "as the teacher's, and it is still below raw pixels; the teacher has 50.0 % and raw pixels have "
            "60.0 %.",
            {
                "first": "33.0 % @ 0",
                "best": "55.0 % @ 9",
                "last": "55.0 % @ 9",
                "teacher": "50.0 %",
                "raw pixels": "60.0 %",
            },
        ),
        (
            [(0, {"knn": 0.33, "pixels_knn": 0.4}), (9, {"knn": 0.55})],
            "Training has helped: the student's kNN rose from 33.0 % at step 0 to 55.0 % at step 9; raw "
            "pixels have 40.0 %.",
            {"first": "33.0 % @ 0", "best": "55.0 % @ 9", "last": "55.0 % @ 9", "raw pixels": "40.0 %"},
        ),
    ],
)
def test_the_answer(tmp_path, lines, sentence, rows):
    said, table = report.answer(a_run(tmp_path, lines))
    assert said == sentence
    assert {name.removeprefix("student, "): cell for name, cell in table.cells()} == rows


@pytest.mark.parametrize(
    ("right", "images"), [(0, 7), (1, 10), (142, 142), (107, 142), (3_755, 5_000), (25_000, 50_000)]
)
def test_the_interval_is_wilsons(right, images):
    want = stats.binomtest(right, images).proportion_ci(method="wilson")
    got = verdict.wilson(right / images, images)
    assert got == pytest.approx((want.low, want.high), abs=1e-9)


def test_every_share_in_the_table_has_its_interval(tmp_path):
    lines = [(0, {"knn": 0.5, "effective_rank": 3.25, "pixels_knn": 0.6}), (9, {"knn": 0.75})]
    _, table = report.answer(a_run(tmp_path, lines, manifest={"val_images": 100, "probe_images": 100}))
    assert table.header == ("validation split", "kNN", "effective rank")
    assert table.cells() == [
        ["student, first", "50.0 % (40.4 to 59.6) @ 0", "3.25 @ 0"],
        ["student, best", "75.0 % (65.7 to 82.5) @ 9", "3.25 @ 0"],
        ["student, last", "75.0 % (65.7 to 82.5) @ 9", "3.25 @ 0"],
        ["raw pixels", "60.0 % (50.2 to 69.1)", "–"],
    ]


def test_without_labels_it_is_about_imitation(tmp_path):
    lines = [
        (0, {"neighbours": 0.05, "alignment": 0.0, "effective_rank": 3.0, "pixels_neighbours": 0.12}),
        (9, {"neighbours": 0.41, "alignment": 0.7, "effective_rank": 33.0}),
    ]
    said, table = report.answer(a_run(tmp_path, lines, manifest={"val_images": None, "probe_images": 512}))
    assert said == (
        "Training has helped the student to imitate its teacher: the student's share of the teacher's "
        "nearest neighbours rose from 5.0 % at step 0 to 41.0 % at step 9; raw pixels have 12.0 %. This "
        "measures imitation, not accuracy."
    )
    assert table.header[0] == "training images" and table.cells()[0][2] == "0 @ 0"
    assert metrics.last_score(metrics.read(tmp_path)) == 0.41


def test_the_noise_of_neighbours_is_that_of_its_512_images(tmp_path):
    """Of 0.5, two standard errors of the difference are 4.4 points for 1,024 images, and 6.2 for 512."""
    lines = [(0, {"knn": 0.5, "neighbours": 0.5}), (9, {"knn": 0.55, "neighbours": 0.55})]
    manifest = {"val_images": 1_024, "probe_images": 1_024}
    said, table = report.answer(a_run(tmp_path / "both", lines, manifest=manifest))
    assert said.startswith("Training has helped: the student's kNN ")
    intervals = (stats.binomtest(n // 2, n).proportion_ci(method="wilson") for n in (1_024, 512))
    shown = [f"50.0 % ({100 * x.low:.1f} to {100 * x.high:.1f}) @ 0" for x in intervals]
    assert table.cells()[0][1:] == shown and shown[0] != shown[1]
    line = report.probe_line(lines[0][1], {}, 1_024)
    assert all(cell.removesuffix(" @ 0") in line for cell in shown)
    alone = [(step, {"neighbours": scores["neighbours"]}) for step, scores in lines]
    said, _ = report.answer(a_run(tmp_path / "alone", alone, manifest=manifest))
    assert said.startswith("No clear gain in imitating the teacher: ")
    assert "within the noise of 512 images. This measures imitation" in said


def test_a_score_that_is_no_share_has_no_verdict(tmp_path):
    lines = [(0, {"effective_rank": 3.0}), (9, {"effective_rank": 33.0})]
    said, _ = report.answer(
        a_run(tmp_path, lines, manifest={"probe_images": 512, "steps": 9}, config={"a": 1})
    )
    assert said == (
        "These scores cannot tell whether training helped: the student's effective rank rose from 3 at step "
        "0 to 33 at step 9."
    )
    assert report.milestones(tmp_path) == {}


CONFIG = {
    "method": {"queue_size": 1024, "tau_teacher": 0.01},
    "data": {"batch_size": 64},
    "optim": {"name": "sgd", "lr": 0.3, "lr_batch": 0},
    "student": {"model": "resnet18", "options": {}},
    "train": {"epochs": 20.0, "steps": 0, "examples": 0},
    "evals": {"names": ["knn"]},
}
MANIFEST = {"steps": 100, "val_images": 142, "data": {"images": 1378, "num_classes": 6}}
USUAL = (
    "method.queue_size=640 (1,024 is more than half of the 1,378 training images) and train.epochs=40.0 "
    "(twice as long)"
)


@pytest.mark.parametrize(
    ("last", "pixels", "sentence"),
    [
        (0.75, 0.6, "At 35 % of the run kNN has risen by 41.1 points, 82 % of the way to the teacher."),
        (
            0.75,
            0.8,
            "At 35 % of the run kNN has risen by 41.1 points, 82 % of the way to the teacher and is still "
            "below raw pixels, 80.0 %.",
        ),
        (
            0.343,  # the standard error of the difference is sqrt((.339 * .661 + .343 * .657) / 142) = 0.0563
            0.3,
            "At 35 % of the run kNN has not clearly improved (+0.4 points; noise on 142 images: ±11.3). If "
            f"it stays that way, try {USUAL}.",
        ),
    ],
)
def test_a_milestone_in_one_sentence(tmp_path, last, pixels, sentence):
    lines = [(0, {"knn": 0.339, "teacher_knn": 0.84, "pixels_knn": pixels}), (5, {"knn": 0.3})]
    run = a_run(tmp_path, [*lines, (35, {"knn": last})], CONFIG, MANIFEST)
    assert report.milestones(run) == {35: sentence}


def test_the_page_keeps_what_was_said_at_a_milestone(tmp_path):
    """What is measured later does not change it."""
    lines = [(0, {"knn": 0.339, "teacher_knn": 0.84}), (35, {"knn": 0.343})]
    run = a_run(tmp_path, lines, CONFIG, MANIFEST)
    (sentence,) = report.milestones(run).values()
    assert "has not clearly improved" in sentence and "try method.queue_size=640" in sentence
    a_run(tmp_path, [(99, {"knn": 0.8})])
    assert report.milestones(run) == {35: sentence}
    page = report.run_report(run).read_text()
    assert f"{report.answer(run)[0]} {sentence} Step 99 of the run" in page
    assert "Wilson's 95 % interval" in page


def test_milestones_are_the_first_probes_after_their_shares_of_the_steps(tmp_path):
    steps = [0, 5, 10, 15, 29, 30, 31, 99, 100]
    run = a_run(tmp_path, [(step, {"knn": (1 + step) / 200}) for step in steps], CONFIG, MANIFEST)
    assert [*report.milestones(run)] == [10, 30]
    sparse = a_run(tmp_path / "sparse", [(s, {"knn": s / 200}) for s in (0, 40, 80)], CONFIG, MANIFEST)
    assert [*report.milestones(sparse)] == [40]


@pytest.mark.parametrize("trained", [99, 100])
def test_a_finished_run_without_a_gain_is_told_what_usually_helps(tmp_path, trained):
    run = a_run(tmp_path, [(0, {"knn": 0.5}), (trained, {"knn": 0.52})], CONFIG, MANIFEST)
    said, _ = report.answer(run)
    assert said.startswith("No clear gain: ")
    assert said.endswith(f", within the noise of 142 images. Try {USUAL}.") == (trained == 100)


@pytest.mark.parametrize(
    ("section", "changes", "fell", "remedy"),
    [
        ("method", {"queue_size": 640}, False, None),
        (
            "method",
            {"queue_size": 640, "tau_teacher": 1e-4},
            False,
            "method.tau_teacher=0.01 (SEED's, not 0.0001)",
        ),
        ("method", {"queue_size": 640, "tau_teacher": 0.05}, False, None),
        ("optim", {"lr": 0.3}, True, "optim.lr=0.1 (a third)"),
        ("optim", {"lr": 3.1}, False, "optim.lr=0.3 (a usual rate; 3.1 is high)"),
        ("optim", {"lr": 0.002}, False, "optim.lr=0.03 (a usual rate; 0.002 is low)"),
        ("optim", {"lr": 0.0005, "lr_batch": 16}, False, "optim.lr=0.0075 (a usual rate; 0.0005 is low)"),
        ("optim", {"name": "lars", "lr": 9.0}, True, None),
        (
            "student",
            {"model": "mobilenetv3_small_torchvision", "options": {"width": 0.5}},
            False,
            """student.options='{"width":0.5,"bn_momentum":0.9}' (batch statistics of a short run lag """
            "behind the weights)",
        ),
        ("student", {"model": "mobilenetv3_small_torchvision", "options": {"bn_momentum": 0.9}}, False, None),
        ("student", {"model": "vit_small", "options": {}}, False, None),
        ("train", {"epochs": 0.0, "steps": 100}, False, "train.steps=200 (twice as long)"),
    ],
)
def test_remedies_are_those_that_apply(section, changes, fell, remedy):
    """Settings that need none, except for one section; a run is long unless the length is in question."""
    config = CONFIG | {"method": {}, section: CONFIG[section] | changes}
    steps = 100 if section in ("train", "student") else 9_999
    found = remedies(config, MANIFEST | {"steps": steps}, fell=fell)
    found = [text for text in found if section == "train" or not text.startswith("train.")]
    assert found == ([remedy] if remedy else [])


def test_the_config_of_an_old_run_lacks_newer_keys(tmp_path):
    config = {name: CONFIG[name] for name in ("method", "student")} | {"data": {"batch_size": 64}}
    config |= {"optim": {"name": "sgd", "lr": 0.3}, "train": {"epochs": 20.0}}
    manifest = {"steps": 9, "val_images": 142, "data": {"num_classes": 6}}
    said, _ = report.answer(a_run(tmp_path, [(0, {"knn": 0.5}), (9, {"knn": 0.5})], config, manifest))
    assert said.endswith("images. Try train.epochs=40.0 (twice as long).")
    assert remedies({}, {"steps": 9}, fell=False) == []


def test_the_defaults_are_those_of_the_config():
    for name in DEFAULTS.keys() - {"method"}:
        want = SECTIONS[name]()
        assert DEFAULTS[name] == {key: getattr(want, key) for key in DEFAULTS[name]}


def test_the_sentence_is_about_the_score_that_decides_the_best_checkpoint(tmp_path):
    lines = [
        (0, {"knn": 0.5, "exit1_top1": 0.1, "top1": 0.25}),
        (9, {"knn": 0.4, "exit1_top1": 0.2, "top1": 0.3}),
    ]
    said, table = report.answer(a_run(tmp_path, lines))
    assert "top-1 rose from 25.0 %" in said and metrics.last_score(metrics.read(tmp_path)) == 0.3
    assert table.header[1:] == ("kNN", "exit1_top1", "top-1")


@pytest.mark.parametrize(
    ("names", "classes", "words"),
    [
        ([], 10, ["evals.names is empty", "--config.evals.names=knn in another --workdir"]),
        ([], 0, ["evals.names is empty", "--config.evals.names=knn"]),
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


@pytest.mark.parametrize(("steps", "words"), [(6, "wait for the first one"), (5, "the run has ended")])
def test_waiting_helps_only_while_steps_remain(tmp_path, steps, words):
    manifest = {"data": {"num_classes": 10}, "train_split": "train", "steps": steps}
    config = {"evals": {"names": ["knn"]}, "data": {"source": ""}}
    assert words in report.answer(a_run(tmp_path, [(5, {"loss": 1.0})], config, manifest))[0]


@pytest.mark.parametrize(
    ("scores", "images", "verdict"),
    [  # the standard error of a share of 0.5 is 0.5 / sqrt(images), of a difference sqrt(2) times that
        ((0.5, 0.501), 50, "No clear gain"),
        ((0.5, 0.45), 50, "No clear gain"),
        ((0.5, 0.69), 50, "No clear gain"),
        ((0.5, 0.70), 50, "Training has helped"),
        ((0.5, 0.30), 50, "Training has not helped"),
        ((0.5, 0.52), 1_000, "No clear gain"),
        ((0.5, 0.52), 100_000, "Training has helped"),
        ((0.5, 0.501), None, "Training has helped"),
    ],
)
def test_a_change_within_the_error_is_no_change(tmp_path, scores, images, verdict):
    lines = [(step, {"knn": score}) for step, score in enumerate(scores)]
    manifest = {"val_images": images} if images else {}
    said, _ = report.answer(a_run(tmp_path, lines, manifest=manifest))
    assert said.startswith(f"{verdict}: the student's kNN ")
    assert (f"at step 1, within the noise of {images or 0:,} images." in said) == (verdict == "No clear gain")


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
    assert capsys.readouterr().out.startswith(f"{run}: {said}\n\n{table.aligned()}\n\n")


def test_a_probe_in_one_line():
    start = {"knn": 0.33, "top1": 0.1, "teacher_knn": 0.842, "pixels_knn": 0.599}
    assert (
        report.probe_line(start, {})
        == "kNN: student 33.0 %, raw pixels 59.9 %, teacher 84.2 %; top-1: student 10.0 %"
    )
    assert report.probe_line({"knn": 0.751, "top1": 0.5}, start, 800) == (
        "kNN: student 75.1 % (72.0 to 78.0), at the start 33.0 % (29.8 to 36.3), raw pixels 59.9 % (56.5 to "
        "63.2), teacher 84.2 % (81.5 to 86.6); top-1: student 50.0 % (46.5 to 53.5), at the start 10.0 % "
        "(8.1 to 12.3)"
    )
    start = {
        "neighbours": 0.05,
        "effective_rank": 5.0,
        "pixels_effective_rank": 9.0,
        "teacher_effective_rank": 60,
    }
    assert report.probe_line({"neighbours": 0.4, "effective_rank": 33.25}, start) == (
        "share of the teacher's nearest neighbours: student 40.0 %, at the start 5.0 %; effective rank: "
        "student 33.2, at the start 5, teacher 60"
    )
    for share in (0.751, 0.33, 0.599, 0.842, 0.1):
        want = stats.binomtest(round(share * 1_000), 1_000).proportion_ci(method="wilson")
        line = report.probe_line({"knn": 0.5}, {"knn": share}, 1_000)
        assert line.endswith(f"({100 * want.low:.1f} to {100 * want.high:.1f})")
    assert report.probe_line({"knn": 0.75}, {}) == "kNN: student 75.0 %"
    assert report.probe_line({"teacher_top1": 0.75, "pixels_knn": 0.5}, {}) == "student without a score"
