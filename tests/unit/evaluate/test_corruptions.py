import numpy as np
import pytest
from PIL import Image

from clipflow.evaluate.corruptions import STRENGTHS, corrupted

KINDS = list(STRENGTHS)


@pytest.fixture(scope="module")
def photo():
    y, x = np.mgrid[0:96, 0:128] / 128
    waves = np.stack([np.sin(20 * x), np.cos(30 * y), np.sin(25 * (x + y))], axis=2)
    return Image.fromarray(((0.5 + 0.35 * waves) * 255).astype(np.uint8))


@pytest.mark.parametrize("kind", KINDS)
def test_each_severity_is_worse_than_the_one_before(photo, kind):
    clean = np.asarray(photo, float)
    errors = []
    for severity in range(1, 6):
        found = corrupted(photo, kind, severity, 0)
        assert (found.size, found.mode) == (photo.size, "RGB")
        errors.append(np.abs(np.asarray(found, float) - clean).mean())
    assert errors[0] > 0
    assert errors == sorted(errors)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_the_samples_own_and_repeatable(photo, kind):
    first, again, other = (np.asarray(corrupted(photo, kind, 3, n)) for n in (5, 5, 6))
    assert (first == again).all()
    assert (first != other).any() == ("noise" in kind)


def test_brightness_keeps_the_hue(photo):
    hue = np.asarray(photo.convert("HSV"))[:, :, 0].astype(int)
    found = np.asarray(corrupted(photo, "brightness", 2, 0).convert("HSV"))[:, :, 0].astype(int)
    assert np.median(np.abs(hue - found)) <= 1


def test_impulses_are_as_many_as_said():
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    found = np.asarray(corrupted(grey, "impulse_noise", 5, 0))
    assert (found != 128).mean() == pytest.approx(0.27, abs=0.01)
    assert set(np.unique(found)) == {0, 128, 255}
