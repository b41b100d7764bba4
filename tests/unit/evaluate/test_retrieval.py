import numpy as np
import pytest

from clipflow.artifacts.benchmarks import Task
from clipflow.errors import ArtifactError
from clipflow.evaluate import retrieval


@pytest.fixture
def task(tmp_path):
    return Task("captions", "retrieval", tmp_path, {"test": 2})


def unit(degrees):
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_by_hand_with_unequal_numbers_of_captions(task):
    images = unit([0, 90, 45])
    captions = [["a", "b"], ["c"], ["d", "e"]]
    texts = unit([80, 10, 40, 100, 46])  # nearest images: 1, 0, 2, 1, 2
    found = retrieval.retrieve(task, lambda _: texts, images, captions, [1, 2])
    # image 0 -> b (own); image 1 -> d/a (80 and 100 tie at 10 degrees), c is 50 off; image 2 -> e
    assert found.metrics["image_to_text/recall_at_1"] == pytest.approx(2 / 3)
    # a -> image 1, wrong; b -> 0, right; c -> 2, wrong; d -> 1, wrong; e -> 2, right
    assert found.metrics["text_to_image/recall_at_1"] == pytest.approx(2 / 5)
    # second best: of a is 2 (wrong), of c is 0 (40 degrees off, wrong), of d is 2 (right)
    assert found.metrics["text_to_image/recall_at_2"] == pytest.approx(3 / 5)
    assert found.nearest("text_to_image", 3, 2).tolist() == [1, 2]
    assert found.is_right("text_to_image", 3, 2)
    assert not found.is_right("image_to_text", 1, 3)


def test_ranking_in_blocks_changes_nothing(task, monkeypatch):
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(30, 4)), rng.normal(size=(60, 4))
    captions = [["x", "y"]] * 30
    whole = retrieval.retrieve(task, lambda _: texts, images, captions, [1, 5])
    monkeypatch.setattr(retrieval, "BLOCK", 7)
    blocks = retrieval.retrieve(task, lambda _: texts, images, captions, [1, 5])
    assert whole.metrics == blocks.metrics


def test_chance_is_what_random_orders_reach(task):
    captions = [["x"], ["y", "z", "w"], ["v"]]
    images, texts = unit([0, 1, 2]), unit(range(5))
    found = retrieval.retrieve(task, lambda _: texts, images, captions, [2])
    assert found.chance("text_to_image", 2) == pytest.approx(2 / 3)
    # of 5 captions 2 are drawn: 1 - C(5-c, 2)/C(5, 2) for c = 1, 3, 1
    assert found.chance("image_to_text", 2) == pytest.approx((0.4 + 0.9 + 0.4) / 3)


def test_an_image_without_caption_is_refused(task):
    with pytest.raises(ArtifactError, match="sample 1 of task 'captions' has no caption"):
        retrieval.captions(task, "test", [b"a\nb", b" \n"])
