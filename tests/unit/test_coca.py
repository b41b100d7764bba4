"""CoCa: the decoder reads causally, is open_clip's in loss and checkpoint, and learns its captions."""

from __future__ import annotations

from typing import Any

import open_clip
import pytest
import torch
from open_clip.loss import CoCaLoss
from torch import Tensor

from clipflow.model.batch import Batch
from clipflow.model.captioning import Captioning
from clipflow.model.contrastive import Contrastive
from clipflow.model.decoder import read
from clipflow.model.texts import Texts
from clipflow.model.tokens import Tokenizer
from clipflow.model.towers import Towers
from clipflow.pretrain import stage
from fakes.artifacts import tokenized

CAPTIONS = [
    "a red car",
    "two blue hats on a long table",
    "one green cup",
    "a pink car behind a tree",
]
ARCHITECTURE = "clipflow-tiny-coca"


@pytest.fixture
def towers() -> Towers:
    torch.manual_seed(0)
    return Towers(ARCHITECTURE, 0.07, decoder=True)


def images(num: int = len(CAPTIONS)) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (num, 64, 64, 3), dtype=torch.uint8, generator=generator)


def ids(towers: Towers, captions: list[str] = CAPTIONS) -> Tensor:
    """Whole contexts, as open_clip takes them."""
    return Tokenizer(towers.tokenizer)(captions)


def test_the_loss_is_open_clips(towers: Towers) -> None:
    """Of whole contexts with their padding, in value and gradient; ours is of trimmed texts, by groups."""
    captions = [f"{caption} {n}" for n, caption in enumerate(CAPTIONS * 10)]
    pixels = images(len(captions))
    texts = tokenized(towers, [[caption] for caption in captions])
    assert len(texts.groups) == 2
    ours = Captioning(towers, 1.0, 2.0)(Batch(pixels, texts))
    ours["loss"].backward()
    gradients = [p.grad.clone() for p in towers.parameters()]
    towers.zero_grad()
    out = towers.clip(towers.normalise(pixels), ids(towers, captions))
    contrast, captioning = CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=1.0)(**out)
    (contrast + captioning).backward()
    torch.testing.assert_close(ours["contrastive_loss"], contrast.detach(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(
        2 * ours["captioning_loss"], captioning.detach(), atol=1e-6, rtol=1e-6
    )
    torch.testing.assert_close(ours["loss"].detach(), (contrast + captioning).detach())
    for ours_, parameter in zip(gradients, towers.parameters(), strict=True):
        torch.testing.assert_close(ours_, parameter.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("words", [3, 40, 100])
def test_trimmed_texts_are_read_as_whole_ones(towers: Towers, words: int) -> None:
    """Embedding and words, up to the longest text that the context takes."""
    whole = ids(towers, ["a " * words + "car", "a car!"])
    length = int(whole.argmax(1).max()) + 1
    expected, expected_words = towers.clip.text(whole)
    embedded, seen = read(towers.clip.text, whole[:, :length])
    torch.testing.assert_close(embedded, expected, atol=1e-5, rtol=1e-5)
    for row, end in enumerate(whole.argmax(1)):
        torch.testing.assert_close(seen[row, : end + 1], expected_words[row, : end + 1])


def test_a_later_word_changes_no_earlier_logit(towers: Towers) -> None:
    _, patches = towers.clip.visual(towers.normalise(images(1)))

    def logits(caption: str) -> Tensor:
        _, words = read(towers.clip.text, ids(towers, [caption])[:, :10])
        return towers.clip.text_decoder(patches, words)[0]

    one, other = logits("a red car on a road"), logits("a red car in a lake")
    assert torch.equal(one[:4], other[:4])  # start, a, red, car
    assert (one[4] - other[4]).abs().max() > 1e-4


def test_the_decoder_sees_the_image(towers: Towers) -> None:
    objective, texts = Captioning(towers, 1.0, 2.0), tokenized(towers, [[c] for c in CAPTIONS])
    one = objective(Batch(images(), texts))["captioning_loss"]
    other = objective(Batch(images().flip(0), texts))["captioning_loss"]
    assert abs(one - other) > 1e-5


@pytest.mark.parametrize("versions", [1, 2])
def test_of_weight_0_it_is_clip(towers: Towers, versions: int) -> None:
    """The same loss and gradients; and no contrast leaves the captioning loss alone."""
    texts = tokenized(towers, [[c, f"the {c}"][:versions] for c in CAPTIONS])
    results = []
    for objective in (Contrastive(towers), Captioning(towers, 1.0, 0.0)):
        towers.zero_grad()
        loss = objective(Batch(images(), texts))["loss"]
        loss.backward()
        grads = [
            p.grad.clone()
            for p in (*towers.clip.visual.parameters(), *towers.clip.text.parameters())
        ]
        results.append([loss.detach(), *grads])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    alone = Captioning(towers, 0.0, 2.0)(Batch(images(), texts))
    torch.testing.assert_close(alone["loss"].detach(), 2 * alone["captioning_loss"])


def test_each_text_is_told_by_its_own_image(towers: Towers) -> None:
    """Groups sort texts by length: of two versions each the loss is that of all pairs one by one."""
    versions = [[c, f"{c} seen from far away"] for c in reversed(CAPTIONS)]
    objective = Captioning(towers, 1.0, 2.0)
    many = [[*texts, *texts[::-1]] for texts in versions]  # 16 texts, so that they are sorted
    together = objective(Batch(images(), tokenized(towers, many)))["captioning_loss"]
    total = num_tokens = 0.0
    for image, texts in zip(images(), versions, strict=True):
        for text in texts:
            tokens = ids(towers, [text])
            alone = Texts((tokens,), torch.zeros(1, 1, dtype=torch.long), 0)
            num = int(tokens.argmax())
            total += num * objective(Batch(image[None], alone))["captioning_loss"].item()
            num_tokens += num
    assert together.item() == pytest.approx(total / num_tokens, rel=1e-5)


def test_exclamation_marks_are_learned(towers: Towers) -> None:
    """Before other punctuation their id is that of padding, which open_clip's loss passes over."""
    texts = Texts((torch.tensor([[49406, 861, 0, 49407]]),), torch.zeros(1, 1, dtype=torch.long), 4)
    Captioning(towers, 0.0, 1.0)(Batch(images(1), texts))["loss"].backward()
    column = towers.clip.text_decoder.text_projection.grad[:, 0]
    ended = towers.clip.text_decoder.text_projection.grad[:, 5000]
    assert column.norm() > 100 * ended.norm()


def test_overfits_so_that_the_captions_are_written(stage_params: Any) -> None:
    """By open_clip's own forward, greedily, from images alone, and exactly."""
    torch.manual_seed(0)
    params = stage_params("pretrain", recipe="coca", architecture=ARCHITECTURE)
    towers = stage.build(params)
    objective = params.recipe.objective(towers)
    batch = Batch(images(), tokenized(towers, [[c] for c in CAPTIONS]))
    optimiser = torch.optim.AdamW(towers.parameters(), lr=1e-3, weight_decay=0.0)
    for _ in range(150):
        losses = objective(batch)
        losses["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
        if losses["captioning_loss"] < 0.02:
            break
    written = ids(towers)[:, :1]  # the start of text
    with torch.no_grad():
        for _ in range(12):
            out = towers.clip.eval()(towers.normalise(images()), written, output_labels=False)
            written = torch.cat([written, out["logits"][:, -1:].argmax(-1)], dim=1)
    end = "<end_of_text>"
    found = [open_clip.decode(row[1:]).partition(end)[0].strip() for row in written]
    assert found == CAPTIONS
