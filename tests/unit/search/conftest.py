"""A random model, and a folder with eleven images and two files that can't be read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipflow.model import pretrained
from clipflow.model.pretrained import Pretrained
from fakes.checkpoint import make_weights


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_weights(tmp_path_factory.mktemp("search") / "checkpoint")


@pytest.fixture(scope="session")
def clip(weights: Path) -> Pretrained:
    return pretrained.load(str(weights), batch_size=2)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(11):
        pixels = np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((10, 10, 1))).astype(np.uint8)
        place = folder / "deeper" if number % 2 else folder
        Image.fromarray(pixels).save(place / f"{number:02d}.png")
    (folder / "03.jpg").write_bytes(b"no image")
    whole = (folder / "04.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("not meant")
    return folder
