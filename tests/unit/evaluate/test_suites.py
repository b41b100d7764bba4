"""Tasks beyond the artifact: by folder, over HTTP, from an object store; and what is none."""

import functools
import http.server
import io
import json
import shutil
import tarfile
import threading
from contextlib import contextmanager

import pytest

from clipflow.artifacts import benchmarks, manifest, report
from clipflow.errors import ArtifactError, ParamsError
from clipflow.evaluate import stage, suites
from clipflow.evaluate.embed import Embedder
from clipflow.model.pretrained import load

from .conftest import COLOURS, square


@pytest.fixture
def measure(tiny_checkpoint, tiny_benchmarks, params):
    model = load(str(tiny_checkpoint), batch_size=7)

    def measured(where, **changes):
        embedder = Embedder(model)
        found = params(suites={"other": where}, **changes)
        tasks = suites.find(found, tiny_benchmarks, ["other"])
        return stage.measure(found, embedder, tasks["other"], tasks)

    return measured


@pytest.fixture
def own(tiny_checkpoint, tiny_benchmarks, params):
    """What the artifact's task gives."""
    embedder = Embedder(load(str(tiny_checkpoint), batch_size=7))
    tasks = suites.find(params(), tiny_benchmarks, ["colours", "captions"])
    return {n: stage.measure(params(), embedder, t, tasks).metrics() for n, t in tasks.items()}


def renamed(metrics, task):
    return {name.replace(f"/{task}/", "/other/"): value for name, value in metrics.items()}


@contextmanager
def served(folder):
    """The folder over HTTP, and the paths that were asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("task", ["colours", "captions"])
def test_a_folder_in_clip_benchmarks_layout(measure, own, tiny_benchmarks, task):
    found = measure(str(tiny_benchmarks / task)).metrics()
    assert found == pytest.approx(renamed(own[task], task))


def test_the_same_over_http_fetched_once(measure, own, tiny_benchmarks):
    with served(tiny_benchmarks) as (url, asked):
        found, expected = measure(f"{url}/colours/").metrics(), renamed(own["colours"], "colours")
        del expected["zero_shot/other/top1_synonyms"]  # CLIP-benchmark's layout doesn't have them
        assert found == pytest.approx(expected)
        first = len(asked)
        measure(f"{url}/colours")
        assert [path for path in asked[first:] if path.endswith(".tar")] == []
        with pytest.raises(
            ArtifactError, match=r"nothing/test/nshards\.txt: can't be fetched .*404"
        ):
            measure(f"{url}/nothing")


def test_a_download_cut_short_is_refused_and_not_kept(measure, tiny_benchmarks, tmp_path):
    copy = shutil.copytree(tiny_benchmarks / "colours", tmp_path / "task")
    with served(tmp_path) as (url, _):
        (copy / "test" / benchmarks.NUM_SHARDS).write_text("2\n")
        with pytest.raises(ArtifactError, match=r"test/1\.tar: can't be fetched"):
            measure(f"{url}/task")
        shutil.copy(copy / "test" / "0.tar", copy / "test" / "1.tar")
        assert len(measure(f"{url}/task").labels) == 48


def test_several_shards_and_other_formats(measure, tmp_path):
    """PNG and WebP, names with folders, several shards, members that are no sample."""
    from PIL import Image

    folder = tmp_path / "task"
    (folder / "test").mkdir(parents=True)
    (folder / benchmarks.CLASSNAMES).write_text("\n".join(COLOURS))
    (folder / benchmarks.TEMPLATES).write_text("{c}\n")
    (folder / "test" / benchmarks.NUM_SHARDS).write_text("2")
    for shard, kind in enumerate(("png", "webp")):
        with tarfile.open(folder / "test" / f"{shard}.tar", "w") as tar:
            for n, name in enumerate(COLOURS):
                data = io.BytesIO()
                Image.open(io.BytesIO(square(name, n))).save(data, kind, lossless=True)
                files = {f"a/{n}.{kind}": data.getvalue(), f"a/{n}.cls": str(n).encode()}
                for path, content in {**files, f"b/{n}.json": b"{}"}.items():
                    member = tarfile.TarInfo(path)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    assert measure(str(folder)).labels.tolist() == [*range(6), *range(6)]


@pytest.mark.parametrize("split", ["test/", ""])
def test_class_folders(measure, tmp_path, split):
    for n, name in enumerate(COLOURS):
        folder = tmp_path / "images" / split / f"dark_{name}"
        folder.mkdir(parents=True)
        for m in range(3):
            (folder / f"{m}.JPG").write_bytes(square(name, 10 * n + m))
        (folder / "notes.txt").write_text("no image")
    found = measure(str(tmp_path / "images"))
    assert found.classnames == sorted(f"dark {name}" for name in COLOURS)
    assert found.labels.tolist() == [n for n in range(6) for _ in range(3)]


def test_right_and_wrong_captions(measure, tmp_path):
    names = list(COLOURS)
    for n, name in enumerate(names):
        (tmp_path / f"{n}.jpg").write_bytes(square(name, n))
    sugar = {
        str(n): {"filename": f"{n}.jpg", "caption": f"a {name}", "negative_caption": "so <b>"}
        for n, name in enumerate(names)
    }
    aro = [
        {"image_path": one["filename"], "true_caption": one["negative_caption"],
         "false_caption": one["caption"]}
        for one in sugar.values()
    ]  # fmt: skip
    values = []
    for content in (sugar, aro):
        (tmp_path / "pairs.json").write_text(json.dumps(content))
        where = {"pairs": str(tmp_path / "pairs.json"), "images": str(tmp_path)}
        found = measure(where)
        values.append(found.metrics()["compositional/other/accuracy"])
        for row, _, _, right, wrong in found.examples:
            assert right <= wrong
            assert str(row) in found.thumbnails
    assert sum(values) == pytest.approx(1.0), "the other way round, all others are right"

    (tmp_path / "3.jpg").unlink()
    with pytest.raises(ArtifactError, match=r"3\.jpg: image of pairs\.json not found; check"):
        measure(where)
    (tmp_path / "pairs.json").write_text('[{"image": 1}]')
    with pytest.raises(ArtifactError, match="expected entries with filename, caption and negative"):
        measure(where)


def test_what_is_no_task(measure, tmp_path):
    (tmp_path / "empty").mkdir()
    for where in ("empty", "missing"):
        with pytest.raises(
            ParamsError, match=r"evaluate\.suites\.other: expected CLIP-benchmark's"
        ):
            measure(str(tmp_path / where))


def test_names_are_one_list(params, tiny_benchmarks):
    found = params(suites={"zebras": "/z", "birds": "/b"})
    assert suites.names(found, tiny_benchmarks) == [
        "birds", "captions", "colours", "warmth", "zebras"
    ]  # fmt: skip
    with pytest.raises(ParamsError, match="has a task 'colours' already"):
        suites.names(params(suites={"colours": "/b"}), tiny_benchmarks)
    with pytest.raises(ParamsError, match=r"out_of_distribution: no task 'color'; .*'colours'"):
        suites.names(params(out_of_distribution={"warmth": ["color"]}), tiny_benchmarks)


def test_what_was_measured_on_is_told_apart(params, tiny_benchmarks):
    plain, birds, templates = (
        suites.measured_on(params(**changes), tiny_benchmarks)
        for changes in ({}, {"suites": {"birds": "/b"}}, {"templates": "simple"})
    )
    assert plain == manifest.digest(tiny_benchmarks)
    assert len({plain, birds, templates}) == 3


def test_a_report_of_everything(tiny_checkpoint, tiny_benchmarks, params, untracked, tmp_path):
    """Suites, corruptions, images of other tasks: as parts and in one run, to the same bytes."""
    from clipflow.evaluate import merge

    (tmp_path / "0.jpg").write_bytes(square("red", 0))
    pair = {"filename": "0.jpg", "caption": "a <b>red</b> one", "negative_caption": "a red one"}
    (tmp_path / "pairs.json").write_text(json.dumps([pair]))
    changes = {
        "suites": {
            "again": str(tiny_benchmarks / "colours"),
            "order": {"pairs": str(tmp_path / "pairs.json"), "images": str(tmp_path)},
        },
        "robustness": {"corruptions": ["gaussian_noise", "pixelate"], "severities": [1, 5]},
        "out_of_distribution": {"warmth": ["colours", "captions"]},
        "probe_halvings": 1,
    }
    inputs = {"checkpoint": tiny_checkpoint, "benchmarks": tiny_benchmarks}
    stage.run(params(**changes), **inputs, report=untracked)
    metrics = report.metrics(untracked)
    assert metrics["zero_shot/again/top1"] == metrics["zero_shot/colours/top1"]
    assert {
        "compositional/order/accuracy", "robustness/warmth/pixelate/top1",
        "robustness/mean/top1", "out_of_distribution/warmth/captions/auroc",
    } <= metrics.keys()  # fmt: skip
    text = (untracked / report.PAGE).read_text()
    assert "Corrupted images" in text
    assert "gaussian noise" in text
    assert "&lt;b&gt;red" in text or metrics["compositional/order/accuracy"] == 1
    parts = []
    for task in suites.names(params(**changes), tiny_benchmarks):
        parts.append(tmp_path / "parts" / task)
        stage.run(params(**changes), **inputs, report=parts[-1], task=task)
    merge.run(params(**changes), parts, **inputs, report=tmp_path / "merged")
    assert manifest.digest(tmp_path / "merged") == manifest.digest(untracked)
