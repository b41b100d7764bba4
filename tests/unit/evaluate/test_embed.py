"""Embeddings are computed once, shared out over ranks, and kept."""

import threading

import numpy as np
import pytest
import torch

from clipflow import store
from clipflow.artifacts import report
from clipflow.evaluate import embed, stage, suites
from clipflow.evaluate.embed import Embedder, Wanted
from clipflow.model.pretrained import load


@pytest.fixture
def model(tiny_checkpoint):
    return load(str(tiny_checkpoint), batch_size=7)


@pytest.fixture
def task(tiny_benchmarks, params):
    return suites.find(params(), tiny_benchmarks, ["colours"])["colours"]


@pytest.fixture
def counted(monkeypatch):
    """How many images and texts are embedded."""
    counts = {"images": 0, "texts": 0}
    for name in counts:
        whole = getattr(embed.Pretrained, name)

        def counting(self, items, name=name, whole=whole):
            counts[name] += len(items)
            return whole(self, items)

        monkeypatch.setattr(embed.Pretrained, name, counting)
    return counts


def test_nothing_is_embedded_twice(model, task, params, counted):
    first = stage.measure(params(), Embedder(model), task, {}).metrics()
    assert counted["images"] == 24 + 60
    assert counted["texts"] > 0
    before = dict(counted)
    assert stage.measure(params(), Embedder(model), task, {}).metrics() == first
    assert counted == before


def test_other_weights_have_embeddings_of_their_own(model, task, counted):
    Embedder(model).images(Wanted(task, "test"))
    other = load(model.name, batch_size=7)
    with torch.no_grad():
        next(iter(other.model.parameters())).add_(1)
    Embedder(other).images(Wanted(task, "test"))
    assert counted["images"] == 48


def test_corrupted_images_are_not_kept(tiny_checkpoint, tiny_benchmarks, params, untracked):
    section = params(robustness={"corruptions": ["contrast"], "severities": [1, 2]}, probe_c=[])
    stage.run(section, checkpoint=tiny_checkpoint, benchmarks=tiny_benchmarks, report=untracked)
    assert "robustness/colours/contrast/top1" in report.metrics(untracked)
    kept = [path.name for path in (store.scratch() / "embeddings").rglob("*.arrow")]
    assert any(name.startswith("colours-test") for name in kept)
    assert not any("contrast" in name for name in kept)


@pytest.mark.parametrize("num_ranks", [2, 5])
def test_ranks_together_embed_what_one_does(model, task, num_ranks, monkeypatch, tmp_path):
    vectors, notes = Embedder(model).images(Wanted(task, "test"))
    monkeypatch.setenv("CLIPFLOW_SCRATCH", str(tmp_path / "ranks"))
    others = [
        threading.Thread(
            target=Embedder(model, rank, num_ranks).embed, args=([Wanted(task, "test")],)
        )
        for rank in range(1, num_ranks)
    ]
    for other in others:
        other.start()
    shared, of_shared = Embedder(model, 0, num_ranks).images(Wanted(task, "test"))
    for other in others:
        other.join()
    assert of_shared == notes
    np.testing.assert_allclose(shared, vectors, atol=1e-6)


def test_an_interrupted_split_is_begun_anew(model, task, monkeypatch):
    embedder = Embedder(model)

    def killed(*args, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(embed.feather, "write_feather", killed)
    with pytest.raises(KeyboardInterrupt):
        embedder.images(Wanted(task, "test"))
    assert list(embedder.folder.iterdir()) == []
    monkeypatch.undo()
    assert len(embedder.images(Wanted(task, "test"))[0]) == 24


def test_texts_come_back_in_their_order(model):
    texts = ["red", "a much longer sentence about red", "blue", "red"]
    found = Embedder(model).texts(texts, what="t")
    alone = np.concatenate([model.texts([text]).numpy() for text in texts])
    np.testing.assert_allclose(found, alone, atol=1e-5)
    assert (found[0] == found[3]).all()
