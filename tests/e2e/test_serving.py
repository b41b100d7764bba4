"""`mlflow models serve` on the registered champion answers over HTTP as open_clip would."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn.functional import normalize

from clipflow import track
from clipflow.artifacts import checkpoint as checkpoints
from clipflow.artifacts import manifest
from clipflow.artifacts import report as reports
from clipflow.register.params import Params
from clipflow.register.stage import run

STARTUP_S = 120
CAT = {"text": "a cat"}
SIZES = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 1},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts") / "checkpoint"
    folder.mkdir()
    torch.manual_seed(0)
    save_file(open_clip.CustomTextCLIP(**SIZES).state_dict(), folder / checkpoints.WEIGHTS)
    config = {"model_cfg": {**SIZES, "custom_text": True}, "preprocess_cfg": {"size": [32, 32]}}
    manifest.write_json(folder / checkpoints.CONFIG, config)
    versions = {name: version(name) for name in checkpoints.PACKAGES}
    lineage = {"mlflow_run_id": "none", checkpoints.VERSIONS: versions}
    manifest.write_json(folder / checkpoints.PROVENANCE, lineage)
    manifest.write(
        folder, checkpoints.SCHEMA, recipe="clip", architecture="tiny", params={"steps": 1}
    )
    return folder


@pytest.fixture(scope="module")
def server(checkpoint: Path) -> Iterator[str]:
    """The URL of a scoring server of `models:/served@champion`."""
    home = checkpoint.parent
    report = home / "report"
    report.mkdir()
    manifest.write_json(report / reports.METRICS, {"zero_shot/mean/top1": 0.5})
    manifest.write(report, reports.SCHEMA)
    params = Params(
        model="served", primary="zero_shot/mean/top1", min_gain=0.0, max_drop=0.0, guards=[]
    )
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        run(params, checkpoint=checkpoint, report=report, registration=home / "registration")
        tracking = track.uri()
    programs = Path(sys.executable).parent
    command = [
        str(programs / "mlflow"), "models", "serve",
        "--model-uri", "models:/served@champion",
        "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": tracking,
        "OMP_NUM_THREADS": "1",
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",  # MLflow calls uvicorn by name
    }
    with (home / "serve.log").open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=home,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + STARTUP_S
        while not ready(url):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail((home / "serve.log").read_text()[-3000:])
            time.sleep(0.5)
        yield url
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ping", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def post(url: str, rows: list[dict[str, Any]], **params: Any) -> list[dict[str, Any]]:
    return list(send(url, {"dataframe_records": rows, "params": params})["predictions"])


def send(url: str, body: Any) -> Any:
    request = urllib.request.Request(
        f"{url}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def picture(color: str, kind: str = "PNG", mode: str = "RGB") -> tuple[Image.Image, str]:
    """A picture, and its base64 text."""
    image = Image.new(mode, (48, 40), color)
    data = io.BytesIO()
    image.save(data, kind)
    return Image.open(data), base64.b64encode(data.getvalue()).decode()


def test_images_texts_and_classes(server: str, checkpoint: Path) -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{checkpoint}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{checkpoint}")
    model.eval()
    classes, templates = ["cat", "dog", "red square"], ["a photo of a {c}.", "{c}"]
    pictures = [picture("red"), picture("blue", "JPEG"), picture("#00ff0080", mode="RGBA")]
    with torch.inference_mode():
        pixels = torch.stack([preprocess(image) for image, _ in pictures])
        images = normalize(model.encode_image(pixels), dim=-1)
        texts = normalize(model.encode_text(tokenize(["a cat", "two dogs"])), dim=-1)
        prompts = [template.format(c=name) for name in classes for template in templates]
        heads = normalize(model.encode_text(tokenize(prompts)), dim=-1).view(3, 2, -1).mean(1)
        scores = (model.logit_scale.exp() * images @ normalize(heads, dim=-1).T).softmax(-1)

    answers = post(server, [{"text": "a cat"}, {"text": "two dogs"}])
    assert [set(answer) for answer in answers] == [{"embedding"}] * 2
    assert_close(answers, texts)

    answers = post(server, [{"image": data} for _, data in pictures])
    assert_close(answers, images)

    rows = [{"image": data, "text": ""} for _, data in pictures]
    rows.insert(1, {"image": "", "text": "two dogs"})
    answers = post(server, rows, classes=classes, templates=templates)
    text = answers.pop(1)
    assert (text["label"], text["probability"]) == (None, None)
    assert_close([text], texts[1:])
    assert_close(answers, images)
    assert [answer["label"] for answer in answers] == [classes[i] for i in scores.argmax(-1)]
    torch.testing.assert_close(
        torch.tensor([answer["probability"] for answer in answers]), scores.max(-1).values
    )


def test_classes_where_there_is_no_image(server: str) -> None:
    (answer,) = post(server, [CAT], classes=["cat"])
    assert (answer["label"], answer["probability"]) == (None, None)


def assert_close(answers: list[dict[str, Any]], features: torch.Tensor) -> None:
    found = torch.tensor([answer["embedding"] for answer in answers])
    torch.testing.assert_close(found, features, atol=1e-5, rtol=0)


def bomb() -> str:
    """The base64 text of a PNG of a few KB that would take 400 MB as RGB."""
    data = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


@pytest.mark.parametrize(
    ("request_body", "message"),
    [
        pytest.param(
            {"dataframe_records": [{"image": picture("red")[1]}, {"image": "bm8gcGljdHVyZQ=="}]},
            "row 1: image: not a readable JPEG or PNG",
            id="no image",
        ),
        pytest.param(
            {"dataframe_records": [{"image": "%%%"}]},
            "row 0: expected either 'image' (JPEG or PNG, base64 in JSON) or 'text'",
            id="no base64",
        ),
        pytest.param({"dataframe_records": [{"image": "abc"}]}, "image", id="half a base64"),
        pytest.param(
            {"dataframe_records": [{"image": picture("red", "JPEG")[1][:400]}]},
            "row 0: image: not a readable JPEG or PNG: ",
            id="half an image",
        ),
        pytest.param({"dataframe_records": [{"image": 7}]}, "image", id="a number for an image"),
        pytest.param({"dataframe_records": [{"text": 7}]}, "text", id="a number for a text"),
        pytest.param(
            {"dataframe_records": [{"image": bomb()}]},
            "row 0: image: 144,000,000 pixels: expected at most 50,000,000",
            id="decompression bomb",
        ),
        pytest.param(
            {"dataframe_records": [CAT, {"text": ""}]},
            "row 1: expected either 'image' (JPEG or PNG, base64 in JSON) or 'text'",
            id="an empty row",
        ),
        pytest.param({"dataframe_records": []}, "no rows: expected at least one", id="no rows"),
        pytest.param(
            {"dataframe_records": [{"txet": "a cat"}]},
            "no rows: expected at least one with a column 'image' or 'text'",
            id="unknown column",
        ),
        pytest.param(
            {"dataframe_records": [CAT] * 1001},
            "1,001 rows: expected at most 1,000",
            id="too many rows",
        ),
        pytest.param(
            {"dataframe_records": [CAT], "params": {"classes": ["cat"], "templates": ["a photo"]}},
            "templates: expected texts with {c} in them",
            id="template without its place",
        ),
        pytest.param(
            {"dataframe_records": [CAT], "params": {"classes": [1, 2]}}, "classes", id="no texts"
        ),
        pytest.param(
            {"dataframe_records": [CAT], "params": {"classes": "cat"}}, "classes", id="no list"
        ),
        pytest.param(
            {"dataframe_records": [CAT], "params": {"classes": ["cat", ""]}},
            "classes: expected texts, found an empty one",
            id="an empty class",
        ),
        pytest.param(
            {"dataframe_records": [CAT], "params": {"classes": ["c"] * 100_001}},
            "100,001 prompts: expected at most 100,000",
            id="too many prompts",
        ),
        pytest.param({"rows": [CAT]}, "dataframe_records", id="unknown key"),
        pytest.param([CAT], "dictionary", id="a list"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(server: str, request_body: Any, message: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        send(server, request_body)
    with error.value as response:
        answer = json.load(response)
    assert error.value.code == 400
    assert message in answer["message"]
    assert "stack_trace" not in answer
    assert "Traceback" not in answer["message"]
