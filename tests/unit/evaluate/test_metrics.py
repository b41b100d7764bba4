import numpy as np
import pytest

from clipflow.evaluate import metrics, ranking

SIMILARITY = np.array([[0.9, 0.1, 0.5], [0.2, 0.7, 0.4], [0.3, 0.2, 0.1], [0.0, 0.1, 0.9]])
LABELS = np.array([2, 1, 2, 2])


def test_class_ranks_by_hand():
    assert metrics.class_ranks(SIMILARITY, LABELS).tolist() == [1, 0, 2, 0]


def test_class_ranks_equal_a_sort_with_ties():
    rng = np.random.default_rng(0)
    similarity = rng.integers(0, 5, (50, 20)).astype(np.float32)
    labels = rng.integers(0, 20, 50)
    order = np.argsort(-similarity, axis=1, kind="stable")
    expected = (order == labels[:, None]).argmax(axis=1)
    assert metrics.class_ranks(similarity, labels).tolist() == expected.tolist()


def test_a_collapsed_model_scores_at_chance():
    same = np.ones((6, 3), dtype=np.float32)
    assert (metrics.class_ranks(same, np.array([0, 1, 2] * 2)) < 1).mean() == pytest.approx(1 / 3)
    own = np.arange(4)
    vectors = np.ones((4, 2), dtype=np.float32)
    assert ranking.ranks(vectors, vectors, own, own + 1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("chunk", [32_768, 64, 7])
def test_ranking_in_chunks_equals_a_sort_of_everything(monkeypatch, chunk):
    monkeypatch.setattr(ranking, "QUERIES", 16)
    monkeypatch.setattr(ranking, "CANDIDATES", chunk)
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 5, 60)
    after = counts.cumsum()
    # Small whole numbers, so that there are many ties, which products of floats keep.
    queries = rng.integers(-2, 3, (60, 4)).astype(np.float32)
    candidates = rng.integers(-2, 3, (after[-1], 4)).astype(np.float32)
    order = np.argsort(-(queries @ candidates.T), axis=1, kind="stable")
    owner = np.repeat(np.arange(60), counts)
    expected = (owner[order] == np.arange(60)[:, None]).argmax(axis=1)
    found = ranking.ranks(queries, candidates, after - counts, after)
    assert found.tolist() == expected.tolist()


def test_confusion_and_per_class_by_hand():
    actual, predicted = np.array([0, 0, 1, 1, 1, 1, 3]), np.array([0, 1, 1, 1, 1, 2, 0])
    confusion = metrics.confusion(actual, predicted, 4)
    assert confusion.tolist() == [[1, 1, 0, 0], [0, 3, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    per_class = metrics.per_class_accuracy(confusion)
    np.testing.assert_equal(per_class, [0.5, 0.75, np.nan, 0.0])
