"""Memory doesn't grow with the data: no source keeps the images it has read."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipflow.artifacts.pairs import add_file
from clipflow.ingest import stage

NUM_IMAGES = 40


@pytest.mark.parametrize("layout", ["classes", "captions", "webdataset"])
def test_images_are_not_kept(
    tmp_path: Path, values: dict[str, Any], stage_params: Any, layout: str
) -> None:
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(256, size=(256, 256, 3), dtype=np.uint8)
    Image.fromarray(noise).save(out, "JPEG", quality=95)
    data, image = tmp_path / "data", out.getvalue()
    write(data, layout, image)

    source = "webdataset" if layout == "webdataset" else "folder"
    values["sources"][source]["test_share"] = 0.8
    values["ingest"]["duplicates"]["benchmark_bits"] = None  # these images are all alike
    if layout == "captions":
        values["sources"]["folder"]["captions_file"] = "captions.csv"
    params = stage_params("ingest", source=source, data=str(data))
    tracemalloc.start()
    try:
        stage.run(params, pairs=tmp_path / "pairs", benchmarks=tmp_path / "benchmarks")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < NUM_IMAGES * len(image) / 2


def write(data: Path, layout: str, image: bytes) -> None:
    (data / "cat").mkdir(parents=True)
    if layout == "webdataset":
        with tarfile.open(data / "0.tar", "w") as tar:
            for number in range(NUM_IMAGES):
                add_file(tar, f"{number}.jpg", image)
                add_file(tar, f"{number}.txt", b"a cat")
        return
    names = [f"cat/{number}.jpg" for number in range(NUM_IMAGES)]
    for name in names:
        (data / name).write_bytes(image)
    if layout == "captions":
        rows = "".join(f"{name},a cat\n" for name in names)
        (data / "captions.csv").write_text("filepath,title\n" + rows)
