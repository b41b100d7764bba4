import numpy as np
import pytest

from clipflow.artifacts.benchmarks import Task
from clipflow.errors import ArtifactError
from clipflow.evaluate import pictures, retrieval


@pytest.fixture
def task(tmp_path):
    return Task("captions", "retrieval", tmp_path, {"test": 2})


def unit(degrees):
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """These tasks have no files."""
    monkeypatch.setattr(pictures, "thumbnails", lambda task, rows: {str(row): "" for row in rows})


def test_by_hand_with_unequal_numbers_of_captions(task):
    images = unit([0, 90, 45])
    captions = [["a", "b"], ["c"], ["d", "e"]]
    texts = unit([80, 10, 40, 100, 46])  # nearest images: 1, 0, 2, 1, 2
    found = retrieval.retrieve(
        task, lambda _: texts, images, captions, recall_at=[1, 2], num_shown=3
    )
    metrics = found.metrics()
    # image 0 -> b (own); image 1 -> d/a (80 and 100 tie at 10 degrees), c is 50 off; image 2 -> e
    assert metrics["retrieval/captions/image_to_text/recall_at_1"] == pytest.approx(2 / 3)
    # a -> image 1, wrong; b -> 0, right; c -> 2, wrong; d -> 1, wrong; e -> 2, right
    assert metrics["retrieval/captions/text_to_image/recall_at_1"] == pytest.approx(2 / 5)
    # second best: of a is 2 (wrong), of c is 0 (40 degrees off, wrong), of d is 2 (right)
    assert metrics["retrieval/captions/text_to_image/recall_at_2"] == pytest.approx(3 / 5)
    assert sorted(one.row for one in found.gallery) == [0, 1, 2]
    for one in found.gallery:
        assert one.caption == captions[one.row][0]
        assert [is_right for _, is_right in one.texts] == [
            t in captions[one.row] for t, _ in one.texts
        ]
    (last,) = (one for one in found.gallery if one.row == 2)
    assert last.texts[0] == ("e", True)
    assert (last.first, last.images) == (3, [1, 2, 0])


def test_chance_is_what_random_orders_reach(task):
    captions = [["x"], ["y", "z", "w"], ["v"]]
    images, texts = unit([0, 1, 2]), unit(range(5))
    found = retrieval.retrieve(task, lambda _: texts, images, captions, recall_at=[2])
    assert found.chance["text_to_image/2"] == pytest.approx(2 / 3)
    # of 5 captions 2 are drawn: 1 - C(5-c, 2)/C(5, 2) for c = 1, 3, 1
    assert found.chance["image_to_text/2"] == pytest.approx((0.4 + 0.9 + 0.4) / 3)


def test_the_modality_gap_is_the_distance_of_the_means(task):
    images, texts = unit([0, 0]), unit([90, 90])
    found = retrieval.retrieve(task, lambda _: texts, images, [["x"], ["y"]], recall_at=[1])
    assert found.metrics()["embeddings/captions/modality_gap"] == pytest.approx(np.sqrt(2))


def test_an_image_without_caption_is_refused(task):
    with pytest.raises(ArtifactError, match="sample 1 of task 'captions' has no caption"):
        retrieval.captions(task, "test", [b"a\nb", b" \n"])
