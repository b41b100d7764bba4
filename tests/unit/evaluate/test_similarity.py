"""Checkpoints that compare otherwise than by the dot product: measured by the definition, pair by pair.

Tokens are open_clip's own here, and the formulas are written out once more.
"""

import io
import shutil

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch.nn import functional

from clipflow.artifacts import benchmarks
from clipflow.errors import ArtifactError
from clipflow.evaluate import compositional, stage, zero_shot
from clipflow.evaluate.embed import Embedder, Wanted
from clipflow.evaluate.scores import Scores
from clipflow.model import similarity_file, tiled
from clipflow.model.codebook import Codebook, sparsemax
from clipflow.model.pretrained import load
from clipflow.model.token_wise import TokenWise
from clipflow.search import models
from fakes.artifacts import jpeg

DIM = 32
"""Elements of the tiny checkpoint's embeddings."""


def with_similarity(checkpoint, folder, similarity):
    shutil.copytree(checkpoint, folder)
    similarity_file.write(folder, similarity, dict(similarity.state_dict()))
    return folder


@pytest.fixture
def filip(tiny_checkpoint, tmp_path):
    return with_similarity(tiny_checkpoint, tmp_path / "filip", TokenWise(DIM))


@pytest.fixture
def fdt(tiny_checkpoint, tmp_path):
    torch.manual_seed(0)
    codebook = Codebook(24, DIM)
    codebook.temperature.fill_(3.0)
    return with_similarity(tiny_checkpoint, tmp_path / "fdt", codebook)


class Dense:
    """A checkpoint's tokens by open_clip's own forward."""

    def __init__(self, folder):
        name = f"local-dir:{folder}"
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(name)
        self.model.eval()
        self.tokenize = open_clip.get_tokenizer(name)
        self.model.visual.output_tokens = self.model.text.output_tokens = True

    @torch.no_grad()
    def image(self, data):
        pixels = self.preprocess(Image.open(io.BytesIO(data)).convert("RGB"))
        return self.model.visual(pixels[None])[1][0] @ self.model.visual.proj

    @torch.no_grad()
    def text(self, text):
        ids = self.tokenize([text])
        words = self.model.text(ids)[1][0] @ self.model.text.text_projection
        return words[: int(ids.argmax()) + 1]


def late(asking, asked):
    """FILIP's similarity of one to another."""
    cosines = functional.normalize(asking, dim=1) @ functional.normalize(asked, dim=1).T
    return float(cosines.max(1).values.mean())


def top1(scores, labels):
    return float((scores.argmax(1) == labels).mean())


@pytest.mark.parametrize("elements", [300, 2**22])
def test_zero_shot_of_tokens_is_the_definitions(
    filip, tiny_benchmarks, params, monkeypatch, elements
):
    monkeypatch.setattr(tiled, "TILE_ELEMENTS", elements)
    task = next(t for t in benchmarks.read(tiny_benchmarks) if t.name == "colours")
    dense, samples = Dense(filip), list(task.samples("test"))
    images = [dense.image(data) for data, _ in samples]
    scores = np.array(
        [
            [
                np.mean([late(image, dense.text(t.replace("{c}", name))) for t in task.templates])
                for name in task.classnames
            ]
            for image in images
        ]
    )
    labels = np.array([int(note) for _, note in samples])
    embedder = Embedder.of(load(str(filip), batch_size=7))
    found = stage.measure(params(probe_c=[]), embedder, task, {}).metrics()
    assert found["zero_shot/colours/top1"] == pytest.approx(top1(scores, labels))
    classifier = zero_shot.Classifier.of(
        task, lambda t: embedder.texts(t, what="t"), None, Scores.of(embedder.model.similarity)
    )
    vectors, _ = embedder.images(Wanted(task, "test"))
    np.testing.assert_allclose(classifier.ensemble(vectors), scores, atol=1e-5)


def test_retrieval_by_tokens_is_the_definitions(filip, tiny_benchmarks, params):
    """Each way by its own similarity; of an image any of its captions counts."""
    task = next(t for t in benchmarks.read(tiny_benchmarks) if t.name == "captions")
    dense, samples = Dense(filip), list(task.samples("test"))
    images = [dense.image(data) for data, _ in samples]
    captions = [note.decode().splitlines() for _, note in samples]
    owner = np.array([n for n, of in enumerate(captions) for _ in of])
    texts = [dense.text(text) for of in captions for text in of]
    to_texts = np.array([[late(image, text) for text in texts] for image in images])
    to_images = np.array([[late(text, image) for image in images] for text in texts])
    embedder = Embedder.of(load(str(filip), batch_size=7))
    found = stage.measure(params(), embedder, task, {}).metrics()
    for k in (1, 5):
        nearest = np.argsort(-to_texts, axis=1, kind="stable")[:, :k]
        expected = np.mean([(owner[nearest[n]] == n).any() for n in range(len(images))])
        name = f"retrieval/captions/{{}}/recall_at_{k}"
        assert found[name.format("image_to_text")] == pytest.approx(expected)
        nearest = np.argsort(-to_images, axis=1, kind="stable")[:, :k]
        expected = np.mean([owner[n] in nearest[n] for n in range(len(texts))])
        assert found[name.format("text_to_image")] == pytest.approx(expected)


def test_pairs_are_compared_from_the_image(filip):
    model, dense = load(str(filip), batch_size=7), Dense(filip)
    data = [jpeg(), jpeg((40, 60, 220))]
    texts = ["a red square", "a very blue square of the sea"]
    images = model.images([model.preprocess(Image.open(io.BytesIO(d))) for d in data]).numpy()
    found = Scores.of(model.similarity).pairs(images, model.texts(texts).numpy())
    expected = [late(dense.image(d), dense.text(t)) for d, t in zip(data, texts, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert compositional.DOT_PRODUCT.similarity is None


def test_a_probe_sees_the_mean_of_the_patches(filip):
    model, dense, data = load(str(filip), batch_size=7), Dense(filip), jpeg()
    vector = model.images([model.preprocess(Image.open(io.BytesIO(data)))]).numpy()
    unit = functional.normalize(dense.image(data), dim=1)
    expected = functional.normalize(unit.mean(0), dim=0)
    np.testing.assert_allclose(Scores.of(model.similarity).summary(vector)[0], expected, atol=1e-5)


def test_embeddings_of_codes_are_the_definitions(fdt):
    model, dense, data = load(str(fdt), batch_size=7), Dense(fdt), jpeg()
    codes = model.similarity.codes

    def embedded(tokens):
        weights = sparsemax((tokens @ codes.T).max(0).values / 3)
        return functional.normalize(weights @ codes, dim=0)

    pixels = model.preprocess(Image.open(io.BytesIO(data)))
    torch.testing.assert_close(model.images([pixels])[0], embedded(dense.image(data)))
    torch.testing.assert_close(
        model.texts(["a red square"])[0], embedded(dense.text("a red square"))
    )
    assert Scores.of(model.similarity).similarity is None  # they are compared by the dot product


def test_a_whole_evaluation(filip, fdt, tiny_benchmarks, params, untracked):
    for folder in (filip, fdt):
        stage.run(params(), checkpoint=folder, benchmarks=tiny_benchmarks, report=untracked)
        assert (untracked / "report.html").is_file()
        shutil.rmtree(untracked)


def test_open_clip_loads_the_towers_of_both(filip, fdt, tiny_checkpoint):
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = [
        open_clip.create_model_and_transforms(f"local-dir:{folder}")[0].eval().encode_image(pixels)
        for folder in (tiny_checkpoint, filip, fdt)
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_models_that_compare_differently_are_different_models(filip, fdt, tiny_checkpoint):
    digests = {load(str(f), batch_size=1).digest for f in (tiny_checkpoint, filip, fdt)}
    assert len(digests) == 3


def test_search_takes_one_vector_of_each(filip, fdt):
    assert models.load(str(fdt), None, batch_size=7, option="--model").clip.similarity
    with pytest.raises(ArtifactError, match=r"searching keeps one vector .* \(token_wise\)"):
        models.load(str(filip), None, batch_size=7, option="--model")


def test_a_damaged_or_unknown_similarity_is_refused(fdt):
    path = fdt / similarity_file.FILE
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(
        ArtifactError, match=r"similarity\.safetensors: damaged .*clipflow pretrain"
    ):
        load(str(fdt), batch_size=1)
    unknown = TokenWise(DIM)
    unknown.kind = "quantum"
    similarity_file.write(fdt, unknown, {})
    with pytest.raises(ArtifactError, match=r"codebook or token_wise, found 'quantum'"):
        load(str(fdt), batch_size=1)
