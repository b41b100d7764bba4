"""Our numbers against those of CLIP_benchmark, on the same checkpoint and the same files."""

import io
import warnings
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from clipflow.artifacts import benchmarks, checkpoint
from clipflow.evaluate import stage, suites
from clipflow.evaluate.embed import Embedder
from clipflow.model.pretrained import load

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from clip_benchmark.datasets.builder import build_dataset
    from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval


@pytest.fixture(scope="module")
def trained(tiny_checkpoint, tiny_benchmarks, tmp_path_factory):
    """The tiny model after some steps on the training images and their classes' names."""
    name = f"local-dir:{tiny_checkpoint}"
    model, *_ = open_clip.create_model_and_transforms(name)
    tokenize = open_clip.get_tokenizer(name)
    task = next(t for t in benchmarks.read(tiny_benchmarks) if t.name == "colours")
    embedder = load(str(tiny_checkpoint), batch_size=8)
    pixels = torch.stack([_decoded(embedder, jpeg) for jpeg, _ in task.samples("train")])
    labels = torch.tensor([int(note) for _, note in task.samples("train")])
    tokens = tokenize([f"a photo of a {name} square" for name in task.classnames])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(12):
        images = model.encode_image(pixels, normalize=True)
        texts = model.encode_text(tokens, normalize=True)
        loss = torch.nn.functional.cross_entropy(10 * images @ texts.T, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("trained") / "checkpoint"
    folder.mkdir()
    save_file(model.state_dict(), folder / checkpoint.WEIGHTS)
    config = (tiny_checkpoint / checkpoint.CONFIG).read_text()
    (folder / checkpoint.CONFIG).write_text(config)
    return folder


def _decoded(model, jpeg):
    return model.preprocess(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def theirs(folder: Path, task: Path, kind: str) -> dict[str, float]:
    """What CLIP_benchmark's code gives, with scikit-learn's accuracies: its own line for them fails with
    this NumPy.
    """
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = build_dataset(
            f"wds/{task.name}", str(task), preprocess, "test", task=f"zeroshot_{kind}"
        )
        batches = torch.utils.data.DataLoader(dataset.batched(8), batch_size=None)
        if kind == "retrieval":
            return zeroshot_retrieval.evaluate(
                model.eval(), batches, tokenize, "cpu", amp=False, recall_k_list=[1, 5]
            )
        classifier = zeroshot_classification.zero_shot_classifier(
            model.eval(), tokenize, dataset.classes, dataset.templates, "cpu", amp=False
        )
        logits, labels = zeroshot_classification.run_classification(
            model, classifier, batches, "cpu", amp=False
        )
    classes = range(len(dataset.classes))
    return {
        "top1": top_k_accuracy_score(labels, logits, k=1, labels=classes),
        "top5": top_k_accuracy_score(labels, logits, k=5, labels=classes),
        "mean_per_class": balanced_accuracy_score(labels, logits.argmax(dim=1)),
    }


@pytest.mark.parametrize("which", ["tiny_checkpoint", "trained"])
def test_the_numbers_are_those_of_clip_benchmark(which, tiny_benchmarks, params, request):
    folder = request.getfixturevalue(which)
    embedder = Embedder(load(str(folder), batch_size=7))
    tasks = suites.find(params(), tiny_benchmarks, ["colours", "captions"])
    ours = {
        name: value
        for task in tasks.values()
        for name, value in stage.measure(params(), embedder, task, tasks).metrics().items()
    }
    found = theirs(folder, tiny_benchmarks / "colours", "classification")
    assert which != "trained" or found["top1"] > 0.5, "it has learned colours"
    for name, expected in found.items():
        assert ours[f"zero_shot/colours/{name}"] == pytest.approx(expected, abs=1e-4)
    found = theirs(folder, tiny_benchmarks / "captions", "retrieval")
    for k in (1, 5):
        for direction, name in (("image_to_text", "text"), ("text_to_image", "image")):
            expected = found[f"{name}_retrieval_recall@{k}"]
            value = ours[f"retrieval/captions/{direction}/recall_at_{k}"]
            assert value == pytest.approx(expected, abs=1e-4)
