"""Embeddings are made once, go on after a kill, and the index finds what brute force finds."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipflow import store
from clipflow.errors import ArtifactError
from clipflow.model.pretrained import Pretrained
from clipflow.search import embeddings, images
from clipflow.search.index import Index
from fakes.artifacts import make_pairs

NUM_IMAGES = 11
"""Readable ones in `photos`, which has two damaged ones besides."""
KILLED = """
import sys, time
from clipflow.model import pretrained
from clipflow.search import embeddings, images

embeddings.IMAGES_PER_PART = 4
write = embeddings._write_part

def slowly(*arguments):
    write(*arguments)
    print(arguments[2].start, flush=True)
    time.sleep(int(sys.argv[3]))

embeddings._write_part = slowly
model = pretrained.load(sys.argv[1], batch_size=2)
embeddings.embed(model, images.find(sys.argv[2]))
"""


def test_rows_are_the_models_own_vectors_and_damaged_files_are_named(
    clip: Pretrained, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = images.find(str(photos))
    assert len(found) == NUM_IMAGES + 2
    with caplog.at_level(logging.WARNING, logger="clipflow"):
        made = embeddings.embed(clip, found)
    assert [found.name(number) for number in made.left_out] == ["03.jpg", "cut.png"]
    assert "2 of 13 images can't be read and are left out: 03.jpg (no image of" in caplog.text
    assert made.vectors.dtype == np.float32
    assert len(made.numbers) == NUM_IMAGES
    for vector, number in zip(made.vectors, made.numbers, strict=True):
        pixels = clip.preprocess(Image.open(photos / found.name(int(number))).convert("RGB"))
        assert vector == pytest.approx(clip.images([pixels])[0].numpy(), abs=1e-5)


def test_made_once_and_anew_when_an_image_changes(
    clip: Pretrained, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = embeddings.embed(clip, images.find(str(photos)))
    with monkeypatch.context() as patch:
        patch.setattr(embeddings, "_make", None)  # it would fail
        again = embeddings.embed(clip, images.find(str(photos)))
    assert (again.vectors == first.vectors).all()
    assert again.left_out == first.left_out
    Image.new("RGB", (40, 40), "red").save(photos / "03.jpg")
    assert len(embeddings.embed(clip, images.find(str(photos))).numbers) == NUM_IMAGES + 1


def test_killed_it_goes_on(clip: Pretrained, weights: Path, photos: Path, tmp_path: Path) -> None:
    """kill -9 after the first part of four: it is not made again, and the rows are the same."""
    whole = embeddings.embed(clip, images.find(str(photos)))

    def begin(pause_s: int) -> Any:
        return subprocess.Popen(
            [sys.executable, "-c", KILLED, str(weights), str(photos), str(pause_s)],
            env={**os.environ, "CLIPFLOW_SCRATCH": str(tmp_path / "other")},
            stdout=subprocess.PIPE,
            text=True,
        )

    with begin(60) as process:
        assert process.stdout.readline() == "0\n"
        os.kill(process.pid, signal.SIGKILL)
    with begin(0) as process:
        assert process.stdout.read().split() == ["4", "8", "12"]
    assert process.returncode == 0
    (folder,) = (tmp_path / "other" / "search").glob("*/*")
    resumed = embeddings._read(folder)
    assert resumed.vectors == pytest.approx(whole.vectors, abs=1e-6)
    assert (resumed.numbers == whole.numbers).all()
    assert resumed.left_out == whole.left_out


def test_the_index_finds_what_brute_force_finds(clip: Pretrained, photos: Path) -> None:
    made = embeddings.embed(clip, images.find(str(photos)))
    index = Index(made)
    query = clip.texts(["a red square"])[0].numpy()
    cosines = made.vectors @ query
    best = np.argsort(-cosines)[:5]
    hits = index.nearest(query, 5)
    assert [hit.number for hit in hits] == made.numbers[best].tolist()
    assert [hit.cosine for hit in hits] == pytest.approx(cosines[best].tolist(), abs=1e-6)
    assert float(index.mean @ query) == pytest.approx(cosines.mean(), abs=1e-6)
    assert len(index.nearest(query, 100)) == NUM_IMAGES
    for row, number in enumerate(made.numbers.tolist()):
        assert (index.vector(number) == made.vectors[row]).all()
    (damaged, _) = made.left_out
    assert index.vector(damaged) is None
    assert index.vector(10_000) is None


def test_images_of_pairs_across_shards(clip: Pretrained, tmp_path: Path) -> None:
    captions = {f"k{n}": f"caption {n}" for n in range(5)}
    folder = make_pairs(tmp_path / "pairs", captions, samples_per_shard=2)
    found = images.find(str(folder))
    assert [found.name(n) for n in range(5)] == list(captions)
    assert [found.caption(n) for n in range(5)] == list(captions.values())
    for number in range(5):
        red, green, _ = images.decode(found.data(number)).getpixel((3, 3))  # type: ignore[misc]
        assert (red, green) == pytest.approx((number * 37 % 256, number * 91 % 256), abs=3)


def test_images_are_upright_and_on_white(tmp_path: Path) -> None:
    image, exif = Image.new("RGB", (40, 20), "red"), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert images.decode((tmp_path / "turned.jpg").read_bytes()).size == (20, 40)
    assert images.decode((tmp_path / "clear.png").read_bytes()).getpixel((0, 0)) == (255, 255, 255)


def test_refuses_what_has_no_images(clip: Pretrained, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"--images .*none: .* found nothing there; pass a"):
        images.find(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match=r"expected files ending in .jpg, .* found none"):
        images.find(str(tmp_path / "empty"))
    (tmp_path / "empty" / "a.jpg").write_bytes(b"")
    with pytest.raises(ArtifactError, match="none of 1 images can be read, the first for 'no im"):
        embeddings.embed(clip, images.find(str(tmp_path / "empty")))


def test_too_many_pixels_are_not_decoded(tmp_path: Path) -> None:
    Image.new("1", (20_000, 6_000)).save(tmp_path / "large.png")
    begun = time.monotonic()
    with pytest.raises(images.UnreadableError, match="more than 100 million pixels"):
        images.decode((tmp_path / "large.png").read_bytes())
    assert time.monotonic() - begun < 5


def test_kept_by_model_and_images(clip: Pretrained, photos: Path) -> None:
    embeddings.embed(clip, images.find(str(photos)))
    (folder,) = (store.scratch() / "search").glob("*/*")
    assert folder.parent.name.startswith(clip.digest)
    assert folder.name == images.find(str(photos)).digest
