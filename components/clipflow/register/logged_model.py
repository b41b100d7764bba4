"""A checkpoint as an MLflow model: serving code, signature, example, requirements, metrics."""

from __future__ import annotations

import io
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from clipflow import track
from clipflow.artifacts import checkpoint as checkpoints
from clipflow.track import files

SERVING = Path(__file__).with_name("serving.py")
OURS = ("mlflow", "pandas")
"""What serving.py imports besides what loads a checkpoint, at the versions installed here."""
TEMPLATES = ["a photo of a {c}."]
"""Prompts of zero-shot classification where a request names none."""


def log(
    checkpoint: Path,
    run_id: str,
    *,
    name: str,
    metrics: dict[str, float],
    step: int,
    tags: dict[str, str],
) -> str:
    """The id of the ready MLflow model with these tags, which the run made at `step`, with these metrics.

    One that an interrupted call left unready is completed: no step of that adds anything twice.
    """
    from mlflow.entities import LoggedModelOutput, Metric

    client = track.client()
    run = client.get_run(run_id)
    experiment = run.info.experiment_id
    wanted = " AND ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    found = client.search_logged_models([experiment], f"name = '{name}' AND {wanted}")
    if found:
        model = found[0]
    else:
        with track.once():
            model = client.create_logged_model(experiment, name, run_id, tags)
    model_id: str = model.model_id
    if str(model.status) == "READY":
        return model_id
    with tempfile.TemporaryDirectory() as folder:
        _save(checkpoint, Path(folder) / "model", run_id, model_id)
        with track.uploading():
            client.log_model_artifacts(model_id, str(Path(folder) / "model"))
    if model_id not in [output.model_id for output in run.outputs.model_outputs]:
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step=step)])
    made_ms = model.creation_timestamp  # equal in every try, so that MLflow keeps one of them
    batch = [Metric(key, value, made_ms, step, model_id=model_id) for key, value in metrics.items()]
    client.log_batch(run_id, metrics=batch)
    client.finalize_logged_model(model_id, "READY")
    return model_id


def metrics(version: Any) -> dict[str, float]:
    """The metrics of the model behind a registered version; none if it is no model of ours."""
    model = track.look_up(track.client().get_logged_model, files.model_id(version))
    return {metric.key: metric.value for metric in model.metrics} if model else {}


def _save(checkpoint: Path, folder: Path, run_id: str, model_id: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Any type hint is inferred")  # MLflow's own hints
        from mlflow.models import Model
        from mlflow.pyfunc import save_model

    save_model(
        folder,
        python_model=str(SERVING),
        artifacts={"checkpoint": str(checkpoint)},
        signature=_signature(),
        input_example=_example(),
        pip_requirements=_requirements(checkpoint),
        mlflow_model=Model(run_id=run_id, model_id=model_id),
    )


def _requirements(checkpoint: Path) -> list[str]:
    """What the model needs: torch and its like as it was trained with, which need not be installed here."""
    versions = {name: version(name) for name in OURS} | checkpoints.versions(checkpoint)
    return [
        f"{name}=={number.split('+')[0]}" if number else name
        for name, number in sorted(versions.items())
    ]


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array

    return ModelSignature(
        inputs=Schema(
            [
                ColSpec(DataType.binary, "image", required=False),
                ColSpec(DataType.string, "text", required=False),
            ]
        ),
        outputs=Schema(
            [
                ColSpec(Array(DataType.double), "embedding"),
                ColSpec(DataType.string, "label", required=False),
                ColSpec(DataType.double, "probability", required=False),
            ]
        ),
        params=ParamSchema(
            [
                ParamSpec("classes", DataType.string, default=[], shape=(-1,)),
                ParamSpec("templates", DataType.string, default=TEMPLATES, shape=(-1,)),
            ]
        ),
    )


def _example() -> Any:
    """A row with an image and a row with a text, and the classes to tell the image by."""
    import pandas as pd  # type: ignore[import-untyped]

    png = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(png, "PNG")
    rows = [{"image": png.getvalue(), "text": ""}, {"image": b"", "text": "a red square"}]
    return pd.DataFrame(rows), {"classes": ["red square", "blue circle"]}
