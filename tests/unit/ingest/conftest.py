"""Photographs of a kind, and ingest over them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipflow.artifacts import benchmarks
from clipflow.artifacts.pairs import Pairs
from clipflow.ingest import stage


def photo(seed: int, size_px: int = 64, quality: int = 90) -> bytes:
    """A JPEG with structure, of which no two with different seeds are alike."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    image = Image.fromarray(small).resize((size_px, size_px), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def write_photos(data: Path, captions: dict[str, str]) -> Path:
    """A folder with a captions file and a photo for each name, other for other names."""
    data.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(captions):
        if not (data / name).exists():
            (data / name).write_bytes(photo(number))
    rows = "".join(f"{name}\t{caption}\n" for name, caption in captions.items())
    (data / "captions.tsv").write_text("filepath\ttitle\n" + rows)
    return data


Ingest = Callable[..., tuple[Pairs, list[benchmarks.Task]]]


@pytest.fixture
def ingest_photos(tmp_path: Path, values: dict[str, Any], stage_params: Any) -> Ingest:
    """`ingest_photos(data, out, test_share=..., **changes of ingest)`: run the stage over such a folder."""

    def run(
        data: Path | str, out: str = "out", test_share: float = 0.0, **changes: Any
    ) -> tuple[Pairs, list[benchmarks.Task]]:
        values["sources"]["folder"] |= {"captions_file": "captions.tsv", "test_share": test_share}
        for section in ("images", "captions", "duplicates"):
            if section in changes:
                changes[section] = {**values["ingest"][section], **changes[section]}
        params = stage_params("ingest", source="folder", data=str(data), **changes)
        outs = {name: tmp_path / out / name for name in ("pairs", "benchmarks")}
        stage.run(params, **outs)
        return Pairs(outs["pairs"]), benchmarks.read(outs["benchmarks"])

    return run
