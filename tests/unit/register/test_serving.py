"""The serving model in this process, on data frames; tests/e2e/test_serving.py has it over HTTP."""

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from PIL import Image

# MLflow warns of its own type hints when it is first imported.
pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")


def test_rows_of_either_kind_in_any_order(
    make_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipflow.register import serving

    monkeypatch.setattr(serving, "BATCH", 2)  # three images: two batches
    context = SimpleNamespace(artifacts={"checkpoint": str(make_checkpoint())})
    model = serving.Clip()
    model.load_context(context)

    data = io.BytesIO()
    Image.new("L", (20, 30), 200).save(data, "PNG")
    image = {"image": data.getvalue()}
    rows = pd.DataFrame([image, {"text": "a cat"}, image, image])  # the other cells are NaN
    answer = model.predict(context, rows, {"classes": ["a cat"], "templates": ["{c}"]})
    assert answer["label"].tolist() == ["a cat", None, "a cat", "a cat"]
    assert answer["probability"].tolist() == [1.0, None, 1.0, 1.0]
    first, text, *others = answer["embedding"]
    assert sum(x * x for x in text) == pytest.approx(1)
    assert others == [pytest.approx(first)] * 2
    assert first != pytest.approx(text)

    assert list(model.predict(context, rows).columns) == ["embedding"]
