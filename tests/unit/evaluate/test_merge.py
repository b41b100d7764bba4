"""Parts of an evaluation, and the report that they are put together to."""

import json
import shutil
import subprocess
import sys

import pytest

from clipflow import track
from clipflow.artifacts import benchmarks, checkpoint, manifest, report
from clipflow.errors import ArtifactError, ParamsError
from clipflow.evaluate import merge, parts, stage

TASKS = ["captions", "colours", "warmth"]


@pytest.fixture
def inputs(tiny_checkpoint, tiny_benchmarks):
    return {"checkpoint": tiny_checkpoint, "benchmarks": tiny_benchmarks}


@pytest.fixture
def made(untracked, inputs, params, tmp_path):
    """A part of each task."""
    folders = [tmp_path / "parts" / task for task in TASKS]
    for folder in folders:
        stage.run(params(), **inputs, report=folder, task=folder.name)
    return folders


def files(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_tasks_are_named_without_opening_them(tiny_benchmarks, tmp_path):
    shutil.copy(tiny_benchmarks / manifest.MANIFEST, tmp_path)
    assert benchmarks.names(tmp_path) == TASKS


def test_parts_in_any_order_make_the_report_of_one_run_byte_for_byte(
    made, inputs, params, tmp_path
):
    stage.run(params(), **inputs, report=tmp_path / "whole")
    merge.run(params(), made[::-1], **inputs, report=tmp_path / "merged")
    whole, merged = files(tmp_path / "whole"), files(tmp_path / "merged")
    assert {"metrics.json", "report.html", "manifest.json", "tables/confusion.parquet"} < set(whole)
    assert sorted(whole) == sorted(merged)
    assert [name for name in whole if whole[name] != merged[name]] == []


def test_a_part_made_again_has_the_same_bytes(made, inputs, params, tmp_path):
    for part in made:
        stage.run(params(), **inputs, report=tmp_path / "again", task=part.name)
        assert files(tmp_path / "again") == files(part)


def test_parts_merge_without_torch(made, inputs, params, tmp_path):
    """As in the image for what needs no GPU."""
    stage.run(params(), **inputs, report=tmp_path / "whole")
    script = f"""
import sys
for name in ("torch", "open_clip", "transformers", "kfp"):
    sys.modules[name] = None
from pathlib import Path
from clipflow import track
track.connect = lambda: None
track.champion_history = lambda model, metric: None
from contextlib import nullcontext
from clipflow.track import Run
track.reopen = lambda run_id, name: nullcontext(Run())
from clipflow.evaluate import merge
from clipflow.evaluate.params import Params
merge.run(
    Params.model_validate({params().model_dump(mode="json")!r}),
    [Path(part) for part in {[str(part) for part in made]!r}],
    checkpoint=Path({str(inputs["checkpoint"])!r}),
    benchmarks=Path({str(inputs["benchmarks"])!r}),
    report=Path({str(tmp_path / "merged")!r}),
)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert files(tmp_path / "merged") == files(tmp_path / "whole")


@pytest.mark.filterwarnings(
    "ignore:The ..noload.. loader strategy is deprecated:DeprecationWarning"  # MLflow's own query
)
def test_only_the_merge_is_logged(tiny_checkpoint, tiny_benchmarks, params, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mlflow, copy = track.client(), tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, copy)
    experiment = mlflow.create_experiment("clipflow", artifact_location=(tmp_path / "m").as_uri())
    run_id = mlflow.create_run(experiment).info.run_id
    (copy / checkpoint.PROVENANCE).write_text(json.dumps({"mlflow_run_id": run_id}))
    inputs = {"checkpoint": copy, "benchmarks": tiny_benchmarks}
    for task in TASKS:
        stage.run(params(), **inputs, report=tmp_path / task, task=task)
    assert mlflow.get_run(run_id).data.metrics == {}
    assert len(mlflow.search_runs([experiment])) == 1

    merge.run(params(), [tmp_path / task for task in TASKS], **inputs, report=tmp_path / "report")
    logged = mlflow.get_run(run_id).data.metrics
    metrics = report.metrics(tmp_path / "report")
    assert {name: logged[name] for name in metrics} == pytest.approx(metrics)
    for name in metrics:
        assert len(mlflow.get_metric_history(run_id, name)) == 1
    assert any(f.path == "report/report.html" for f in mlflow.list_artifacts(run_id, "report"))


def test_a_missing_task_is_named_with_what_makes_it(made, inputs, params, tmp_path):
    with pytest.raises(ArtifactError, match=r"no part has colours, warmth; .* --task colours'"):
        merge.run(params(), made[:1], **inputs, report=tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_task_twice_is_refused(made, inputs, params, tmp_path):
    copy = shutil.copytree(made[1], tmp_path / "copy")
    with pytest.raises(ArtifactError, match=r"copy: task 'colours' is also in .*parts/colours"):
        merge.run(params(), [*made, copy], **inputs, report=tmp_path / "report")
    with pytest.raises(ArtifactError, match="task 'colours' is also in"):
        merge.run(params(), [*made, made[1]], **inputs, report=tmp_path / "report")


def test_parts_made_with_something_else_are_refused(made, inputs, params, tmp_path):
    other = shutil.copytree(inputs["checkpoint"], tmp_path / "checkpoint")
    facts = json.loads((other / manifest.MANIFEST).read_text())
    manifest.write_json(other / manifest.MANIFEST, facts | {"architecture": "another"})
    out = tmp_path / "report"
    with pytest.raises(ArtifactError, match=r"captions: made with model .*, expected .*digest"):
        merge.run(params(), made, **inputs | {"checkpoint": other}, report=out)

    other = shutil.copytree(inputs["benchmarks"], tmp_path / "benchmarks")
    facts = json.loads((other / manifest.MANIFEST).read_text())
    manifest.write_json(other / manifest.MANIFEST, facts | {"more": 1})
    with pytest.raises(ArtifactError, match="made with benchmarks"):
        merge.run(params(), made, **inputs | {"benchmarks": other}, report=out)

    with pytest.raises(ArtifactError, match="made with params") as refusal:
        merge.run(params(recall_at=[1, 3]), made, **inputs, report=out)
    assert "\n" not in str(refusal.value)
    assert not out.exists()


@pytest.mark.parametrize("damage", [lambda f: f.unlink(), lambda f: f.write_bytes(b"PK")])
def test_a_damaged_part_is_refused(made, inputs, params, tmp_path, damage):
    damage(made[2] / parts.ARRAYS)
    with pytest.raises(ArtifactError, match=r"warmth/arrays\.npz: .*damaged; .*--task warmth'"):
        merge.run(params(), made, **inputs, report=tmp_path / "report")


def test_a_part_is_no_report_and_a_report_no_part(made, inputs, params, tmp_path):
    with pytest.raises(ArtifactError, match=r"expected clipflow\.report/1, found clipflow\.part"):
        report.metrics(made[0])
    merge.run(params(), made, **inputs, report=tmp_path / "report")
    with pytest.raises(ArtifactError, match="pass the output of 'clipflow evaluate --task'"):
        merge.run(params(), [tmp_path / "report"], **inputs, report=tmp_path / "again")


def test_a_task_that_there_is_not(untracked, inputs, params, tmp_path):
    with pytest.raises(ParamsError, match=r"--task: there is no 'colors'; .*colours"):
        stage.run(params(), **inputs, report=tmp_path / "part", task="colors")
    assert not (tmp_path / "part").exists()


def test_the_confusion_matrix_is_that_of_the_first_task_with_few_classes(
    made, inputs, params, tmp_path, monkeypatch
):
    out = tmp_path / "report"
    merge.run(params(), made, **inputs, report=out)
    names, matrix = report.confusion(out)
    assert names == ["red", "green", "blue", "yellow", "black", "white"]
    assert [sum(row) for row in matrix] == [4] * 6
    right = sum(matrix[n][n] for n in range(6)) / 24
    assert right == pytest.approx(report.metrics(out)["zero_shot/colours/top1"])
    monkeypatch.setattr(report, "MATRIX_CLASSES", 2)
    assert report.confusion(out)[0] == ["red", "green"]
    monkeypatch.setattr(report, "MATRIX_CLASSES", 1)
    assert report.confusion(out) is None
