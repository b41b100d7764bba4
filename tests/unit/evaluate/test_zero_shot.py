import io

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from clipflow.artifacts import benchmarks
from clipflow.errors import ArtifactError
from clipflow.evaluate import zero_shot
from clipflow.evaluate.embed import Embedder, Wanted
from clipflow.evaluate.scores import DOT_PRODUCT
from clipflow.model.pretrained import load


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

    embedder = Embedder(load(str(tiny_checkpoint), batch_size=7))
    vectors, notes = embedder.images(Wanted(task, "test"))
    classifier = zero_shot.Classifier.of(task, lambda t: embedder.texts(t, what="t"), None)
    ours = zero_shot.classify(
        task, classifier, vectors, zero_shot.labels(task, "test", notes), logit_scale=10,
        num_mistakes=3,
    )  # fmt: skip
    np.testing.assert_allclose(classifier.ensemble(vectors), logits.numpy(), atol=1e-5)
    metrics = ours.metrics()
    assert metrics["zero_shot/colours/top1"] == pytest.approx(first.mean().item())
    assert metrics["zero_shot/colours/top5"] == pytest.approx(five.mean().item())
    of_class = [first[labels == n].mean().item() for n in range(6)]
    assert metrics["zero_shot/colours/mean_per_class"] == pytest.approx(np.mean(of_class))
    assert {name.split("/")[-1] for name in metrics} == {
        "top1", "top5", "mean_per_class", "top1_canonical", "top1_synonyms", "ece"
    }  # fmt: skip
    assert len(ours.mistakes) <= 3
    for row, of_answer, of_right in ours.mistakes:
        assert ours.predicted[row] != ours.labels[row]
        assert 1 >= of_answer > of_right >= 0


def test_templates_of_open_clip_take_the_place_of_the_tasks_own(task):
    prompts = []
    zero_shot.Classifier.of(
        task, lambda texts: prompts.extend(texts) or np.ones((len(texts), 2), np.float32), "simple"
    )
    assert "itap of a red." in prompts
    assert not any("square" in prompt for prompt in prompts)


def test_a_class_is_the_mean_of_its_names_in_each_template():
    vectors = {"a x": [1, 0], "a y": [0, 1], "b x": [0.6, 0.8], "b y": [0, 1], "c x": [1, 0]}
    vectors["c y"] = [1, 0]

    def encode(prompts):
        return np.array([vectors[p] for p in prompts], dtype=np.float32)

    classes = zero_shot.classes(encode, [["a"], ["b", "c"]], ["{c} x", "{c} y"], DOT_PRODUCT)
    means = np.array([[0.5, 0.5], [(0.6 + 0 + 1 + 1) / 4, (0.8 + 1) / 4]])
    expected = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(classes(np.eye(2, dtype=np.float32)).T, expected, rtol=1e-6)


@pytest.mark.parametrize("note", [b"6", b"-1", b"cat", b""])
def test_a_label_that_is_no_class_is_refused(task, note):
    with pytest.raises(ArtifactError, match=r"sample 1 of task 'colours' has label"):
        zero_shot.labels(task, "test", [b"0", note])
