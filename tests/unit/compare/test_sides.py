"""What `clipflow compare RUN RUN...` says of runs in a real MLflow store and of report folders."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clipflow import track
from clipflow.artifacts import benchmarks as benchmarks_artifact
from clipflow.artifacts import manifest
from clipflow.cli import app
from clipflow.compare import differences, examples, page, text
from clipflow.compare.sides import read
from clipflow.errors import ArtifactError, ClipflowError, ParamsError, TrackingError

Make = Callable[..., Path]
MakeRun = Callable[..., str]


def test_what_differs_and_sure_gains(make_report: Make, make_run: MakeRun, tmp_path: Path) -> None:
    base = {"recipe.name": "clip", "lr": 0.001, "seed": 0}
    tags = {"git_sha": "a" * 40, "pairs_digest": "p" * 32, "kfp_run_id": "one"}
    make_run("before", make_report("r1", range(10)), params=base, tags=tags, losses=(3.0, 2.0))
    later = {**tags, "pairs_digest": "q" * 32, "kfp_run_id": "two"}
    changed = {**base, "recipe.name": "laclip", "ema_decay": 0.9}
    make_run("after", make_report("r2", range(30)), params=changed, tags=later, losses=(3.0, 1.0))
    before, after = read(["before", "after"], tmp_path / "scratch")

    assert differences.differing([before.params, after.params]) == {
        "recipe.name": ["clip", "laclip"],
        "ema_decay": [None, "0.9"],
    }
    assert list(differences.differing([before.lineage, after.lineage])) == ["pairs_digest"]
    assert after.curves == {"Loss": [(0, 3.0), (10, 1.0)]}
    (mean, task) = differences.metrics([before, after])
    assert (mean.name, mean.is_mean, task.is_mean) == ("zero_shot/mean/top1", True, False)
    first, second = task.values
    assert (first.value, first.points, first.gain) == (0.25, None, None)
    assert second.points == pytest.approx(0.5)
    assert second.verdict == "better"
    assert second.gain is not None
    assert 0 < second.gain.low < 0.5 < second.gain.high < 1

    # turned round, the gain is a loss; against itself, nothing can be told
    (_, task) = differences.metrics([after, before])
    assert task.values[1].verdict == "worse"
    (_, task) = differences.metrics([after, *read(["after"], tmp_path / "again")])
    assert task.values[1].verdict == "unclear"
    shown = text.sides([before, after])
    assert "recipe.name  clip  laclip" in shown
    assert re.search(
        r"zero_shot/mean/top1 +25\.0 +75\.0 \(\+50\.0 \[\+\d+\.\d, \+\d+\.\d\]\) \+", shown
    )
    assert "WARNING" not in shown


def test_lower_is_better_where_it_is() -> None:
    gain = differences.Interval(0.1, 0.05, 0.15)
    assert differences.verdict("zero_shot/mean/top1", gain) == "better"
    assert differences.verdict("calibration/colours/ece", gain) == "worse"


def test_without_samples_by_points(make_report: Make, tmp_path: Path) -> None:
    reports = [
        make_report("a", range(10), with_samples=False),
        make_report("b", range(20), with_samples=False),
    ]
    sides = read([str(report) for report in reports], tmp_path)
    value = differences.metrics(sides)[0].values[1]
    assert (value.points, value.gain, value.verdict) == (0.25, None, "unknown")
    assert "by points only" in page.sides(sides)


def test_other_benchmarks_are_not_compared(make_report: Make, tmp_path: Path) -> None:
    here, there = (
        make_report("here", range(10)),
        make_report("there", range(30), measured_on="0" * 32),
    )
    sides = read([str(here), str(there)], tmp_path)
    assert differences.metrics(sides)[0].values[1].points is None
    shown, html = text.sides(sides), page.sides(sides)
    assert f"WARNING  {there}: measured on other benchmarks than {here}" in shown
    assert "Not compared." in html
    assert "Gains over A" not in html
    assert "Classes won and lost" not in html


def test_a_run_without_report_is_said_to_be_unknown(
    make_report: Make, make_run: MakeRun, tmp_path: Path
) -> None:
    make_run("bare", metrics={"zero_shot/mean/top1": 0.9, "system/cpu": 3.0, "train/loss": 1.0})
    sides = read([str(make_report("r", range(10))), "bare"], tmp_path)
    assert sides[1].metrics == {"zero_shot/mean/top1": 0.9}
    assert "bare: no report is with the run" in str(differences.trouble(sides))


def test_ways_to_name_a_run(make_report: Make, make_run: MakeRun, tmp_path: Path) -> None:
    report = make_report("r", range(10))
    ids = [make_run("twice", report), make_run("twice", report, tags={"dvc_exp": "fusty-seed"})]
    client = track.client()
    client.create_registered_model("m")
    client.create_model_version("m", source="/m", run_id=ids[0])
    client.set_registered_model_alias("m", "champion", "1")
    prefix = next(n for n in range(1, 32) if ids[0][:n] != ids[1][:n])
    names = [ids[0], ids[1][:prefix], "fusty-seed", "m@champion"]
    found = read(names, tmp_path / "scratch")
    assert [side.run_id for side in found] == [ids[0], ids[1], ids[1], ids[0]]
    assert len({side.label for side in found[:2]}) == 2  # equal names are told apart

    with pytest.raises(TrackingError, match=r"'twice' is 2 runs.*pass the beginning of an id"):
        read(["twice"], tmp_path)
    with pytest.raises(TrackingError, match="no run 'twise'; did you mean 'twice'"):
        read(["twise"], tmp_path)
    with pytest.raises(TrackingError, match=r"m@challenger: .* has no such alias; known: champion"):
        read(["m@challenger"], tmp_path)
    with pytest.raises(TrackingError, match="no experiment 'clipflaw'; did you mean 'clipflow'"):
        read(["twice"], tmp_path, experiment="clipflaw")
    with pytest.raises(ArtifactError, match=r"expected clipflow\.report/1"):
        read([str(tmp_path / "benchmarks")], tmp_path)


def test_what_one_gets_right_and_the_other_wrong(make_report: Make, benchmarks: Path) -> None:
    tasks = {task.name: task for task in benchmarks_artifact.read(benchmarks)}
    first = make_report("first", [0, 1, 2, 3], ranks=(9, 0, 2, 3))
    other = make_report("other", [0, 1, 2, 4, 6], ranks=(0, 5, 2, 3))
    (colours,) = examples.classes(first, other, tasks)
    assert [(c.name, c.num_samples, c.won, c.lost) for c in colours.rows] == [
        ("red", 20, 2, 0),
        ("green", 20, 0, 1),
    ]
    assert [(i.row, i.actual, i.instead) for i in colours.won] == [
        (4, "red", "green"),
        (6, "red", "green"),
    ]
    assert [i.row for i in colours.lost] == [3]
    assert all(str(i.picture).startswith("data:image/jpeg") for i in (*colours.won, *colours.lost))

    (scenes,) = examples.queries(first, other, tasks)
    assert (scenes.num_up, scenes.num_down, scenes.num_queries) == (1, 1, 4)
    assert [(q.text, q.first, q.other) for q in scenes.up] == [("caption 0", 10, 1)]
    assert [(q.text, q.first, q.other) for q in scenes.down] == [("caption 1", 1, 6)]
    assert examples.queries(first, other, {})[0].up[0].text == "query 0"


def test_the_command_writes_a_page_that_needs_nothing_else(
    make_report: Make, make_run: MakeRun, benchmarks: Path, tmp_path: Path
) -> None:
    make_run("<b>one", make_report("r1", range(10)), losses=(3.0, 2.0), params={"lr": "<i>"})
    out = tmp_path / "to" / "compare.html"
    arguments = ["compare", "<b>one", str(make_report("r2", range(30))), "--out", str(out)]
    done = CliRunner().invoke(app, [*arguments, "--benchmarks", str(benchmarks)])
    assert done.exit_code == 0, done.output
    assert out.absolute().as_uri() in done.output
    html = out.read_text()
    assert "&lt;b&gt;one" in html
    assert "<b>one" not in html
    assert html.count("data:image/jpeg") >= 4
    assert not re.search(r'(src|href)="(?!data:)|<script|url\(', html)
    assert "Only B is right" in html


def test_what_the_command_refuses(make_report: Make, tmp_path: Path) -> None:
    report = str(make_report("r", range(10)))
    other = str(make_report("o", range(10), measured_on="0" * 32))
    folder = tmp_path / "benchmarks"
    for arguments, error, message in (
        ([], ParamsError, "expected either RUN RUN"),
        ([report], ParamsError, "one run given, expected two or more"),
        ([report, "--group-by", "recipe"], ParamsError, "expected either RUN RUN"),
        ([other, report, "--benchmarks", str(folder)], ArtifactError, "was measured on 0000"),
    ):
        done = CliRunner().invoke(app, ["compare", *arguments, "--out", str(tmp_path / "x.html")])
        assert isinstance(done.exception, error), done.output
        assert isinstance(done.exception, ClipflowError)
        assert message in str(done.exception)
        assert "\n" not in str(done.exception)
    assert not (tmp_path / "x.html").exists()
    assert manifest.digest(folder)
