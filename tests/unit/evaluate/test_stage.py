import csv
import json
import shutil
from html.parser import HTMLParser

import pyarrow.parquet as pq
import pytest

from clipflow import track
from clipflow.artifacts import benchmarks, checkpoint, manifest, report
from clipflow.errors import ArtifactError
from clipflow.evaluate import stage


class Page(HTMLParser):
    """What a browser would load and run."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.images, self.handlers = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attributes = dict(attrs)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]
        self.handlers += [k for k in attributes if k.startswith("on")]
        if tag == "img":
            self.images.append(attributes)


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return track.client()


@pytest.fixture
def trained(mlflow, tiny_checkpoint, tiny_benchmarks, tmp_path):
    """A checkpoint with a run, beside a champion that was measured on the same benchmarks."""
    copy = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, copy)
    files = (tmp_path / "mlflow").as_uri()
    experiment = mlflow.create_experiment("clipflow", artifact_location=files)
    run = mlflow.create_run(experiment, run_name="first")
    for step in (10, 20):
        mlflow.log_metric(run.info.run_id, "train/loss", 5 - step / 10, step=step)
    mlflow.log_metric(run.info.run_id, "zero_shot/mean/top1", 0.111, step=20)
    mlflow.create_registered_model("clipflow-test")
    mlflow.create_model_version(
        "clipflow-test", source=str(copy), run_id=run.info.run_id,
        tags={track.BENCHMARKS: manifest.digest(tiny_benchmarks)},
    )  # fmt: skip
    mlflow.set_registered_model_alias("clipflow-test", "champion", "1")
    provenance = {"mlflow_run_id": mlflow.create_run(experiment, run_name="second").info.run_id}
    (copy / checkpoint.PROVENANCE).write_text(json.dumps(provenance))
    return copy


@pytest.mark.filterwarnings(
    "ignore:The ..noload.. loader strategy is deprecated:DeprecationWarning"  # MLflow's own query
)
def test_end_to_end_beside_a_champion(trained, tiny_benchmarks, params, tmp_path, mlflow):
    out = tmp_path / "report"
    stage.run(params(), checkpoint=trained, benchmarks=tiny_benchmarks, report=out)

    metrics = report.metrics(out)
    assert list(metrics) == sorted(metrics)
    assert all(0 <= v <= 1 or ("gap" in name and v <= 2) for name, v in metrics.items())
    assert set(metrics) == {
        "zero_shot/colours/top1", "zero_shot/colours/top5", "zero_shot/colours/mean_per_class",
        "zero_shot/colours/top1_canonical", "zero_shot/colours/top1_synonyms",
        "zero_shot/warmth/top1", "zero_shot/warmth/mean_per_class",
        "zero_shot/warmth/top1_canonical",
        "zero_shot/mean/top1", "zero_shot/mean/top5", "zero_shot/mean/mean_per_class",
        "zero_shot/mean/top1_canonical", "zero_shot/mean/top1_synonyms",
        "linear_probe/colours/top1", "linear_probe/mean/top1",
        "few_shot/colours/top1_1_shot", "few_shot/mean/top1_1_shot",
        "few_shot/colours/top1_4_shot", "few_shot/mean/top1_4_shot",
        "calibration/colours/ece", "calibration/warmth/ece", "calibration/mean/ece",
        "embeddings/captions/modality_gap", "embeddings/mean/modality_gap",
        "retrieval/captions/image_to_text/recall_at_1",
        "retrieval/captions/image_to_text/recall_at_5",
        "retrieval/captions/text_to_image/recall_at_1",
        "retrieval/captions/text_to_image/recall_at_5",
        "retrieval/mean/recall_at_1", "retrieval/mean/recall_at_5",
    }  # fmt: skip
    both = (metrics["zero_shot/colours/top1"] + metrics["zero_shot/warmth/top1"]) / 2
    assert metrics["zero_shot/mean/top1"] == pytest.approx(both)
    assert metrics["zero_shot/mean/top5"] == metrics["zero_shot/colours/top5"]
    assert metrics["linear_probe/colours/top1"] > 0.9, (
        "six plain colours, one class in six by chance"
    )

    with (out / "plots" / "confusion" / "colours.csv").open() as file:
        rows = list(csv.DictReader(file))
    right = sum(row["actual"] == row["predicted"] for row in rows) / len(rows)
    assert right == pytest.approx(metrics["zero_shot/colours/top1"])
    confusion = pq.read_table(out / "tables" / "confusion.parquet").to_pylist()
    assert sum(row["count"] for row in confusion if row["task"] == "colours") == len(rows) == 24
    ranks = pq.read_table(out / "tables" / "retrieval.parquet").to_pylist()
    ours = [row["rank"] < 5 for row in ranks if row["direction"] == "text_to_image"]
    assert sum(ours) / len(ours) == metrics["retrieval/captions/text_to_image/recall_at_5"]

    for name, values in report.samples(out).items():
        assert values.mean() == pytest.approx(metrics[name], abs=1e-6)
    intervals = report.intervals(out)
    without = {
        "embeddings/captions/modality_gap",
        "embeddings/mean/modality_gap",
        "calibration/mean/ece",
    }
    assert set(intervals) == set(metrics) - without
    for name, (low, high) in intervals.items():
        assert "ece" in name or low <= metrics[name] <= high

    page = (out / report.PAGE).read_text()
    assert "clipflow-test version 1" in page
    assert "11.1" in page, "the champion's value"
    assert 'class="theirs"' in page, "the champion's loss"

    run_id = json.loads((trained / checkpoint.PROVENANCE).read_text())["mlflow_run_id"]
    run = mlflow.get_run(run_id)
    assert {k: run.data.metrics[k] for k in metrics} == pytest.approx(metrics)
    assert run.data.tags[track.BENCHMARKS] == manifest.digest(tiny_benchmarks)
    assert run.data.tags["evaluate.recall_at"] == "[1, 5]"
    assert any(f.path == "report/report.html" for f in mlflow.list_artifacts(run_id, "report"))


def test_a_champion_measured_on_other_benchmarks_is_named_and_not_drawn(
    trained, tiny_benchmarks, params, tmp_path, mlflow
):
    mlflow.set_model_version_tag("clipflow-test", "1", track.BENCHMARKS, "0" * 32)
    out = tmp_path / "report"
    stage.run(params(), checkpoint=trained, benchmarks=tiny_benchmarks, report=out)
    page = (out / report.PAGE).read_text()
    assert "clipflow-test version 1, was measured on other benchmarks" in page
    assert "no champion" not in page
    assert "11.1" not in page
    assert 'class="theirs"' not in page
    assert "champion, all prompts" not in page


def test_a_checkpoint_without_provenance_is_refused(
    tiny_checkpoint, tiny_benchmarks, params, untracked, tmp_path
):
    bare = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, bare)
    (bare / checkpoint.PROVENANCE).unlink()
    with pytest.raises(ArtifactError, match=r"provenance\.json: expected .*'clipflow pretrain'"):
        stage.run(params(), checkpoint=bare, benchmarks=tiny_benchmarks, report=untracked)


def test_the_page_is_inert_and_carries_its_pictures(
    tiny_checkpoint, tiny_benchmarks, params, untracked
):
    stage.run(params(), checkpoint=tiny_checkpoint, benchmarks=tiny_benchmarks, report=untracked)
    text = (untracked / report.PAGE).read_text()
    page = Page(text)
    assert "&lt;script&gt;alert(" in text, "the caption is shown"
    assert "script" not in page.tags
    assert not page.handlers
    assert "://" not in text.replace("data:image", "")
    assert page.images
    assert all(a.startswith("data:image/jpeg;base64,") for a in page.addresses)
    assert all(image.get("alt") for image in page.images)
    assert page.tags.count("svg") >= 4
    assert "no champion" in text
    assert "verdict" in text


def test_the_same_inputs_give_the_same_bytes(tiny_checkpoint, tiny_benchmarks, params, untracked):
    digests = []
    for _ in range(2):
        stage.run(
            params(), checkpoint=tiny_checkpoint, benchmarks=tiny_benchmarks, report=untracked
        )
        digests.append(manifest.digest(untracked))
    assert digests[0] == digests[1]
    facts = manifest.read(untracked, report.SCHEMA)
    assert facts["checkpoint"] == manifest.digest(tiny_checkpoint)
    assert facts["sha256"]["report.html"] == manifest.file_digest(untracked / report.PAGE)


def test_optional_parts_may_be_absent(tiny_checkpoint, tmp_path, params, untracked):
    bare = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, bare)
    (bare / checkpoint.HISTORY).unlink()
    (bare / checkpoint.EXAMPLES).unlink()
    (tmp_path / "benchmarks").mkdir()
    writer = benchmarks.Writer(tmp_path / "benchmarks")
    jpeg = next(iter(pq.read_table(tiny_checkpoint / checkpoint.EXAMPLES)["image"])).as_py()
    writer.add_classification("one", ["a", "b"], ["{c}"], {"test": [(jpeg, 0)]})
    writer.close()
    changes = {"probe_c": [], "gallery_size": 0}
    stage.run(
        params(**changes), checkpoint=bare, benchmarks=tmp_path / "benchmarks", report=untracked
    )
    assert "linear_probe/mean/top1" not in report.metrics(untracked)
    text = (untracked / report.PAGE).read_text()
    assert "first prompt alone" in text
    assert "with synonyms" not in text
    assert "linear probe" not in text.lower()
    assert "<h2>Training</h2>" not in text
    assert "rewrites</h2>" not in text


def test_the_wrong_kind_of_artifact_is_refused(tiny_checkpoint, tiny_benchmarks, params, untracked):
    with pytest.raises(
        ArtifactError, match=r"expected clipflow\.checkpoint/1, found clipflow\.ben"
    ):
        stage.run(
            params(), checkpoint=tiny_benchmarks, benchmarks=tiny_benchmarks, report=untracked
        )
    with pytest.raises(ArtifactError, match=r"expected clipflow\.benchmarks/1, found clipflow\.ch"):
        stage.run(
            params(), checkpoint=tiny_checkpoint, benchmarks=tiny_checkpoint, report=untracked
        )
    assert not untracked.exists()


@pytest.mark.parametrize("keep", [0.8, 0.5, 0.0])
def test_a_truncated_tar_is_refused(
    tiny_checkpoint, tiny_benchmarks, params, untracked, tmp_path, keep
):
    damaged = tmp_path / "benchmarks"
    shutil.copytree(tiny_benchmarks, damaged)
    tar = damaged / "colours" / "test" / "0.tar"
    data = tar.read_bytes()
    cut = int(len(data) * keep) // 512 * 512
    tar.write_bytes(data[:cut])
    with pytest.raises(ArtifactError, match=r"colours/test.*(truncated|expected 24 samples)"):
        stage.run(params(), checkpoint=tiny_checkpoint, benchmarks=damaged, report=untracked)
    assert not untracked.exists()


def test_an_unreadable_image_is_named(tiny_checkpoint, params, untracked, tmp_path):
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    writer = benchmarks.Writer(folder)
    writer.add_classification("broken", ["a", "b"], ["{c}"], {"test": [(b"no jpeg", 0)]})
    writer.close()
    with pytest.raises(ArtifactError, match="sample 0 of task 'broken' is no readable image"):
        stage.run(params(), checkpoint=tiny_checkpoint, benchmarks=folder, report=untracked)


def test_damaged_weights_are_refused(tiny_checkpoint, tiny_benchmarks, params, untracked, tmp_path):
    damaged = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, damaged)
    weights = damaged / checkpoint.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match="it can't be loaded"):
        stage.run(params(), checkpoint=damaged, benchmarks=tiny_benchmarks, report=untracked)


def test_a_killed_evaluation_goes_on_with_the_first_task_that_is_not_measured(
    tiny_checkpoint, tiny_benchmarks, params, untracked, monkeypatch, caplog
):
    """Also of corrupted images, whose embeddings are gone by then."""
    section = params(robustness={"corruptions": ["contrast"], "severities": [3]})
    stage.run(section, checkpoint=tiny_checkpoint, benchmarks=tiny_benchmarks, report=untracked)
    expected = report.metrics(untracked)
    shutil.rmtree(untracked)

    measure, measured = stage.measure, []

    def killed_at_the_last(params, embedder, task, tasks):
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(task.name)
        return measure(params, embedder, task, tasks)

    monkeypatch.setattr(stage, "measure", killed_at_the_last)
    with pytest.raises(KeyboardInterrupt):
        stage.run(section, checkpoint=tiny_checkpoint, benchmarks=tiny_benchmarks, report=untracked)
    assert not untracked.exists()
    again = []

    def recorded(params, embedder, task, tasks):
        again.append(task.name)
        return measure(params, embedder, task, tasks)

    monkeypatch.setattr(stage, "measure", recorded)
    stage.run(section, checkpoint=tiny_checkpoint, benchmarks=tiny_benchmarks, report=untracked)
    assert len(again) == 1
    assert again[0] not in measured
    assert report.metrics(untracked) == expected
    stage.run(section, checkpoint=tiny_checkpoint, benchmarks=tiny_benchmarks, report=untracked)
    assert len(again) == 4, "a complete evaluation leaves nothing to go on with"
