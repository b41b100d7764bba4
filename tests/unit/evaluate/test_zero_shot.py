import io

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from clipflow.artifacts import benchmarks
from clipflow.errors import ArtifactError
from clipflow.evaluate import embed, zero_shot


@pytest.fixture
def task(tiny_benchmarks):
    return next(t for t in benchmarks.read(tiny_benchmarks) if t.name == "colours")


def test_equals_open_clips_own_classifier(tiny_checkpoint, task):
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tiny_checkpoint}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tiny_checkpoint}")
    model.eval()
    templates = [lambda c, t=t: t.replace("{c}", c) for t in task.templates]
    weights = open_clip.build_zero_shot_classifier(
        model, tokenizer, task.classnames, templates, num_classes_per_batch=4
    )
    samples = list(task.samples("test"))
    pixels = torch.stack([preprocess(Image.open(io.BytesIO(j)).convert("RGB")) for j, _ in samples])
    with torch.no_grad():
        logits = model.encode_image(pixels, normalize=True) @ weights
    labels = torch.tensor([int(note) for _, note in samples])
    first, five = ((logits.topk(k).indices == labels[:, None]).any(1).float() for k in (1, 5))

    embedder = embed.load(tiny_checkpoint, batch_size=7)
    images, notes = embedder.images(task, "test")
    ours = zero_shot.classify(
        task, lambda t: embedder.texts(t, what="t"), images, zero_shot.labels(task, "test", notes)
    )
    np.testing.assert_allclose(ours.similarity, logits.numpy(), atol=1e-5)
    assert ours.metrics["top1"] == pytest.approx(first.mean().item())
    assert ours.metrics["top5"] == pytest.approx(five.mean().item())
    assert set(ours.metrics) == {
        "top1", "top5", "mean_per_class", "top1_canonical", "top1_synonyms"
    }  # fmt: skip


def test_a_class_is_the_mean_of_its_names_in_each_template():
    vectors = {"a x": [1, 0], "a y": [0, 1], "b x": [0.6, 0.8], "b y": [0, 1], "c x": [1, 0]}
    vectors["c y"] = [1, 0]

    def encode(prompts):
        return np.array([vectors[p] for p in prompts], dtype=np.float32)

    weights = zero_shot.classifier(encode, [["a"], ["b", "c"]], ["{c} x", "{c} y"])
    means = np.array([[0.5, 0.5], [(0.6 + 0 + 1 + 1) / 4, (0.8 + 1) / 4]])
    expected = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


@pytest.mark.parametrize("note", [b"6", b"-1", b"cat", b""])
def test_a_label_that_is_no_class_is_refused(task, note):
    with pytest.raises(ArtifactError, match=r"sample 1 of task 'colours' has label"):
        zero_shot.labels(task, "test", [b"0", note])
