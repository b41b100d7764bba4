"""The registered model: embeds images and texts, and classifies images zero-shot.

MLflow copies this file into the model and runs it where only the model's requirements are
installed, so it imports nothing of clipflow. The checkpoint travels beside it. MLflow imports it as
well where the model is registered, which needs no torch: torch is imported by what computes.

A request has a row per image (column `image`: JPEG or PNG, base64 in JSON) or text (column `text`).
The row's other cell is empty, or nobody has it and the column is left out. The answer has a row for
each: `embedding` (L2-normalised) and, where `params` names `classes`, an image's `label` and its
`probability`.

    {"dataframe_records": [{"image": "iVBORw0K..."}], "params": {"classes": ["cat", "dog"]}}

What can't be answered gets HTTP status 400 and a sentence that names the row or the parameter. MLflow
itself leaves out columns that the signature doesn't name, without a word.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd  # type: ignore[import-untyped]
from mlflow.exceptions import MlflowException
from PIL import Image, UnidentifiedImageError

if TYPE_CHECKING:
    from torch import Tensor

BATCH = 64
"""Images or texts embedded at once."""
MAX_ROWS = 1000
MAX_PROMPTS = 100_000
"""Classes times templates: ImageNet's 1,000 with its 80 are 80,000."""
MAX_PIXELS = 50_000_000
"""Of one image; a few KB of PNG can claim to be any size."""


class Clip(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A CLIP-family model behind MLflow's `predict`."""

    def load_context(self, context: Any) -> None:
        """Load the checkpoint as open_clip does, onto a GPU if there is one."""
        import open_clip
        import torch

        source = f"local-dir:{context.artifacts['checkpoint']}"
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, _, self.preprocess = open_clip.create_model_and_transforms(
            source, device=self.device
        )
        self.model = model.eval()
        self.tokenize = open_clip.get_tokenizer(source)

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """An answer per row. Raises MlflowException, over HTTP status 400, naming a bad row."""
        import torch

        rows = model_input.to_dict("records")
        if not rows:  # also where MLflow has left out all columns
            raise _refused("no rows: expected at least one with a column 'image' or 'text'")
        if len(rows) > MAX_ROWS:
            raise _refused(f"{len(rows):,} rows: expected at most {MAX_ROWS:,} in a request")
        images = [n for n, row in enumerate(rows) if _given(row.get("image"))]
        texts = [n for n, row in enumerate(rows) if _given(row.get("text"))]
        if sorted(images + texts) != list(range(len(rows))):
            wrong = next(n for n in range(len(rows)) if (n in images) == (n in texts))
            raise _refused(
                f"row {wrong}: expected either 'image' (JPEG or PNG, base64 in JSON) or 'text', found"
                " both or neither"
            )
        classes, templates = _zero_shot(params or {})

        answer: list[dict[str, Any]] = [{} for _ in rows]
        with torch.inference_mode():
            image_features = self._embed_images([(n, rows[n]["image"]) for n in images])
            text_features = self._embed_texts([rows[n]["text"] for n in texts])
            for n, feature in zip(images + texts, [*image_features, *text_features], strict=True):
                answer[n]["embedding"] = feature.tolist()
            if classes and images:
                heads = self._embed_classes(classes, templates)
                scores = self.model.logit_scale.exp() * image_features @ heads.T
                for n, row in zip(images, scores.softmax(dim=-1), strict=True):
                    best = int(row.argmax())
                    answer[n] |= {"label": classes[best], "probability": float(row[best])}
        columns = ["embedding", *(["label", "probability"] if classes else [])]
        # Objects, so that a text row's missing label is null and not NaN, which JSON lacks.
        return pd.DataFrame(answer, columns=columns, dtype=object).replace({float("nan"): None})

    def _embed_images(self, images: Sequence[tuple[int, bytes]]) -> Tensor:
        import torch

        pixels = [self.preprocess(_decoded(n, data)) for n, data in images]
        batches = [torch.stack(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)]
        return self._features(self.model.encode_image, batches)

    def _embed_texts(self, texts: Sequence[str]) -> Tensor:
        batches = [self.tokenize(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)]
        return self._features(self.model.encode_text, batches)

    def _embed_classes(self, classes: Sequence[str], templates: Sequence[str]) -> Tensor:
        """A unit vector per class: the mean over its prompts (CLIP, section 3.1.4)."""
        from torch.nn.functional import normalize

        prompts = [template.replace("{c}", name) for name in classes for template in templates]
        features = self._embed_texts(prompts).reshape(len(classes), len(templates), -1)
        return normalize(features.mean(dim=1), dim=-1)

    def _features(self, encode: Any, batches: Sequence[Tensor]) -> Tensor:
        import torch
        from torch.nn.functional import normalize

        if not batches:
            return torch.empty(0)
        encoded = [encode(batch.to(self.device)) for batch in batches]
        return normalize(torch.cat(encoded).float(), dim=-1)


def _given(cell: Any) -> bool:
    return isinstance(cell, str | bytes) and len(cell) > 0


def _zero_shot(params: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Classes, if there are any, and templates."""
    classes, templates = list(params.get("classes", [])), list(params.get("templates", []))
    if not classes:
        return [], []
    if not all(name.strip() for name in classes):
        raise _refused("params: classes: expected texts, found an empty one")
    wrong = [template for template in templates if "{c}" not in template]
    if wrong or not templates:
        raise _refused(f"params: templates: expected texts with {{c}} in them, found {wrong[:3]}")
    if (num := len(classes) * len(templates)) > MAX_PROMPTS:
        raise _refused(f"params: {num:,} prompts: expected at most {MAX_PROMPTS:,}")
    return classes, templates


def _decoded(row: int, data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
        if (pixels := image.width * image.height) > MAX_PIXELS:
            raise _refused(f"row {row}: image: {pixels:,} pixels: expected at most {MAX_PIXELS:,}")
        return image.convert("RGB")
    except UnidentifiedImageError:
        raise _refused(f"row {row}: image: not a readable JPEG or PNG") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _refused(f"row {row}: image: not a readable JPEG or PNG: {error}") from None


def _refused(message: str) -> MlflowException:
    return MlflowException.invalid_parameter_value(message)


mlflow.models.set_model(Clip())
