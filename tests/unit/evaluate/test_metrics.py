import numpy as np
import pytest

from clipflow.evaluate import metrics

SIMILARITY = np.array([[0.9, 0.1, 0.5], [0.2, 0.7, 0.4], [0.3, 0.2, 0.1], [0.0, 0.1, 0.9]])
LABELS = np.array([2, 1, 2, 2])  # by hand: ranks 1, 0, 2, 0


@pytest.mark.parametrize(("k", "expected"), [(1, 2 / 4), (2, 3 / 4), (3, 1.0)])
def test_top_k_accuracy_by_hand(k, expected):
    assert metrics.top_k_accuracy(SIMILARITY, LABELS, k) == expected


def test_ranks_count_the_best_of_several_relevant_candidates():
    similarity = np.array([[0.1, 0.9, 0.5, 0.7], [0.4, 0.3, 0.2, 0.1]])
    relevant = np.array([[1, 0, 0, 1], [0, 0, 1, 1]], dtype=bool)
    assert metrics.ranks(similarity, relevant).tolist() == [1, 2]


def test_a_collapsed_model_scores_at_chance():
    same = np.ones((6, 3), dtype=np.float32)
    labels = np.array([0, 1, 2] * 2)
    assert metrics.top_k_accuracy(same, labels, 1) == pytest.approx(1 / 3)
    assert metrics.ranks(np.ones((4, 4)), np.eye(4, dtype=bool)).tolist() == [0, 1, 2, 3]


def test_ranks_equal_a_sort_with_ties():
    rng = np.random.default_rng(0)
    similarity = rng.integers(0, 5, (50, 20)).astype(np.float32)
    labels = rng.integers(0, 20, 50)
    order = np.argsort(-similarity, axis=1, kind="stable")
    expected = (order == labels[:, None]).argmax(axis=1)
    relevant = labels[:, None] == np.arange(20)
    assert metrics.ranks(similarity, relevant).tolist() == expected.tolist()


def test_recall_at_by_hand():
    assert metrics.recall_at(np.array([0, 3, 1]), 2) == pytest.approx(2 / 3)


def test_confusion_and_per_class_by_hand():
    actual, predicted = np.array([0, 0, 1, 1, 1, 1, 3]), np.array([0, 1, 1, 1, 1, 2, 0])
    confusion = metrics.confusion(actual, predicted, 4)
    assert confusion.tolist() == [[1, 1, 0, 0], [0, 3, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    per_class = metrics.per_class_accuracy(confusion)
    np.testing.assert_equal(per_class, [0.5, 0.75, np.nan, 0.0])
    assert metrics.mean_per_class_accuracy(confusion) == pytest.approx((0.5 + 0.75) / 3)
