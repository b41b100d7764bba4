"""The server generator against a real OpenAI-compatible server: `transformers serve` with a tiny Llama."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from clipflow.artifacts import manifest
from clipflow.artifacts import rewrites as artifact
from clipflow.artifacts.pairs import Writer
from clipflow.errors import GeneratorError
from clipflow.rewrite import prompts, stage
from clipflow.rewrite.desk import seed_of
from clipflow.rewrite.generators import Task
from clipflow.rewrite.generators.server import Server
from clipflow.rewrite.params import Params
from clipflow.rewrite.server.endpoint import CHAT
from fakes import tiny_llama

pytest.importorskip("openai", reason="transformers serve needs the openai package")

STARTUP_S = 180
NUM_TOKENS = 24
CAPTIONS = {
    "a": "a dog on a beach",
    "b": 'two "cats" => 3 boats',
    "c": "a dog on a beach",
    "d": "日本",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.save(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """The base URL of the server, once it is healthy."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder.parent / "serve.log"
    command = [Path(sys.executable).with_name("transformers"), "serve", "--host=127.0.0.1",
               f"--port={port}", "--device=cpu", "--dtype=float32", folder]  # fmt: skip
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(folder.parent / "hf")}
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | offline)
    try:
        _wait_until_healthy(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + STARTUP_S
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"not healthy after {STARTUP_S} s: {log.read_text()}")


@pytest.fixture
def rewrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, folder: Path) -> Any:
    """Runs the stage on CAPTIONS and returns the rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with manifest.complete_or_absent(tmp_path / "pairs") as partial:
        writer = Writer(partial, samples_per_shard=2)
        for key, caption in CAPTIONS.items():
            writer.add(key, b"not decoded here", caption, {})
        writer.close()

    def run(name: str, api: str, **changed: Any) -> dict[str, Any]:
        fields = {
            "name": "server", "model": str(folder), "api": api, "few_shot_blocks": None,
            "max_new_tokens": NUM_TOKENS, "temperature": 0.9, "top_p": 0.95, "concurrency": 3,
            "timeout_s": 60.0, "max_retries": 2, "requests_per_minute": None, "tokens_per_minute": None,
            "max_tokens": None, "max_dollars": None, "dollars_per_million_read": 0.0,
            "dollars_per_million_written": 0.0,
        }  # fmt: skip
        params = Params(
            generator=Server(**{**fields, **changed}),
            num_rewrites=2,
            seed=0,
            max_words=60,
            lost_facts="flag",
            agreement=None,
        )
        stage.run(params, pairs=tmp_path / "pairs", rewrites=tmp_path / name)
        return {row["key"]: row["provenance"] for row in artifact.read(tmp_path / name).to_pylist()}

    return run


@pytest.fixture
def likeliest(folder: Path) -> Callable[[str, str, int], str]:
    """What the model writes when asked in this process, always the likeliest token."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def text(api: str, caption: str, index: int) -> str:
        generator = Server.model_construct(name="server", api=api, few_shot_blocks=None)
        asked = generator.question(Task(caption, index, 1, seed_of(0, caption)))
        if asked.path == CHAT:
            inputs = tokenizer.apply_chat_template(
                asked.body["messages"], add_generation_prompt=True, return_tensors="pt",
                return_dict=True,
            )  # fmt: skip
        else:
            inputs = tokenizer(asked.body["prompt"], return_tensors="pt")
        with torch.inference_mode():
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=NUM_TOKENS)
        written = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return prompts.parse(written)

    return text


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_the_server_reads_what_we_send_and_we_read_what_it_writes(
    rewrite: Any, likeliest: Callable[[str, str, int], str], api: str
) -> None:
    rows = rewrite("out", api, top_p=1e-6)
    assert list(rows) == list(CAPTIONS)
    for key, caption in CAPTIONS.items():
        for index, candidate in enumerate(rows[key]):
            assert candidate["text"] == likeliest(api, caption, index)
            assert candidate["source"] == prompts.SOURCES[index]
            assert candidate["outcome"] not in ("no answer", "refused")
    assert rows["a"] == rows["c"]


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_equal_seeds_give_equal_rewrites(
    rewrite: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, api: str
) -> None:
    first = rewrite("one", api)
    monkeypatch.setenv("CLIPFLOW_CACHE", str(tmp_path / "another cache"))
    assert rewrite("two", api) == first
    texts = [candidate["text"] for candidates in first.values() for candidate in candidates]
    assert len(set(texts)) > 1


def test_a_model_that_it_does_not_have(rewrite: Any) -> None:
    with pytest.raises(GeneratorError, match=r"127\.0\.0\.1.*(no answer|status \d+)"):
        rewrite("out", "completions", model="nobody/nothing", max_retries=0)
