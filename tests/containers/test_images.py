"""What is in the images and what is not, and how they run: any user, read-only, ended by SIGTERM."""

from __future__ import annotations

import json
import re
import subprocess
import time

import pytest

from containers import engine

TARGETS = ("cpu", "gpu")
LARGEST_MB = {"cpu": 1200, "gpu": 7000}
"""Of what is added to the base image."""
NOT_IN_CPU = re.compile(r"torch|nvidia|cuda|triton|transformers|accelerate|timm|vllm")
SECRET = re.compile(
    r"(AKIA|ASIA)[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY|gh[pousr]_\w{30,}|glpat-[\w-]{20}"
    r"|hf_[A-Za-z]{30,}|sk-[A-Za-z0-9_-]{20,}|xox[abp]-[\w-]{10,}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}|https?://[^/\s:@]+:[^/\s:@]+@"
)
TELLING_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|INDEX_URL|PROXY", re.IGNORECASE)
FIND_FILES = r"""
import os, sys
wanted = {".env", ".git", ".netrc", ".npmrc", ".pypirc", "pip.conf", ".aws", ".kube", ".docker", "uv.toml"}
for top in ("/opt", "/tmp", "/root", "/home", "/etc", "/srv", "/var"):
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            if name in wanted or name.startswith(("id_rsa", "id_ed25")) or name.endswith((".key", ".p12")):
                print(os.path.join(folder, name))
            if top in ("/opt", "/root", "/home") and name.endswith((".pem", ".crt")):
                print(os.path.join(folder, name))
"""
READ_OURS = r"""
import pathlib, sys
ours = [*pathlib.Path("/opt/clipflow").rglob("*"), *pathlib.Path("/opt/venv").rglob("clipflow*/**/*")]
print("\n".join(f.read_text(errors="replace") for f in ours if f.is_file() and f.suffix != ".pyc"))
"""
AUTHORITIES = re.compile(r"/opt/venv/lib/python3\.\d+/site-packages/(certifi|botocore|grpc|pip)/")
"""Where packages bring public certificates."""


@pytest.mark.parametrize(
    ("target", "words"),
    [
        *[("cpu", ("clipflow", stage)) for stage in ("ingest", "rewrite", "register", "submit")],
        ("cpu", ("kfp", "run", "submit")),
        *[("gpu", ("clipflow", s)) for s in ("rewrite", "pretrain", "evaluate", "score")],
        ("cpu", ("mlflow", "server")),
    ],
)
def test_help(target: str, words: tuple[str, ...]) -> None:
    assert "--help" in engine.run(target, *words, "--help")


@pytest.mark.parametrize("target", TARGETS)
def test_what_kubeflow_starts_is_there(target: str) -> None:
    said = engine.run(target, "sh", "-ec", "mktemp -d; python3 -m kfp.dsl.executor_main --help")
    assert "executor_input" in said


@pytest.mark.parametrize("target", TARGETS)
def test_user_is_a_number_other_than_0(target: str) -> None:
    """`runAsNonRoot` can't be checked by a name."""
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", engine.inspect(target)["Config"]["User"])


@pytest.mark.parametrize("target", TARGETS)
def test_packages_are_those_of_the_lock(target: str) -> None:
    code = (
        "import importlib.metadata as m, json;"
        "print(json.dumps({d.name: d.version for d in m.distributions()}))"
    )
    found = json.loads(engine.run(target, "python3", "-c", code))
    ours = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found.items()}
    assert ours.pop("clipflow")
    pinned = engine.lock()
    assert {name: v for name, v in ours.items() if v not in pinned.get(name, set())} == {}
    assert len(ours) > 100
    with_torch = {name for name in ours if NOT_IN_CPU.search(name)}
    assert with_torch == set() if target == "cpu" else {"torch", "transformers"} <= with_torch


@pytest.mark.parametrize("target", TARGETS)
def test_size(target: str) -> None:
    size_mb = int(engine.run(target, "du", "-sm", "/opt").split()[0])
    print(f"{engine.image(target)}: {size_mb} MB above its base")
    assert size_mb <= LARGEST_MB[target]


@pytest.mark.parametrize("target", TARGETS)
def test_no_tools_to_build_or_install_with(target: str) -> None:
    said = engine.run(target, "sh", "-c", "command -v gcc cc c++ make uv || true; ls /opt/venv/bin")
    assert not {"gcc", "cc", "c++", "make", "uv", "pip"} & set(re.split(r"[\n/]", said))


def test_nothing_needs_git() -> None:
    """The base image may lack it."""
    code = "import mlflow, dvc.api, kfp, clipflow.cli"
    path = {"PATH": "/opt/venv/bin", "MLFLOW_DISABLE_TELEMETRY": "true"}
    engine.run("cpu", "python3", "-W", "ignore", "-c", code, environment=path)


@pytest.mark.parametrize("target", TARGETS)
def test_no_secrets(target: str) -> None:
    config = engine.inspect(target)["Config"]
    history = subprocess.check_output(
        [
            engine.ENGINE,
            "history",
            "--no-trunc",
            "--format",
            "{{.CreatedBy}}",
            engine.image(target),
        ],
        text=True,
    )
    said = "\n".join([json.dumps(config), history, engine.run(target, "python3", "-c", READ_OURS)])
    assert "clipflow" in said
    assert [found[0] for found in SECRET.finditer(said)] == []
    names = [variable.partition("=")[0] for variable in config["Env"]]
    assert [name for name in names if TELLING_NAME.search(name)] == []


@pytest.mark.parametrize("target", TARGETS)
def test_no_files_of_the_machine_that_built_it(target: str) -> None:
    root = tuple(flag for flag in engine.CONTAINED if not flag.startswith("--user"))
    said = engine.run(target, "python3", "-c", FIND_FILES, flags=(*root, "--user=0"))
    assert [line for line in said.splitlines() if not AUTHORITIES.match(line)] == []


@pytest.mark.parametrize("target", TARGETS)
def test_image_says_which_commit_it_is(target: str) -> None:
    config = engine.inspect(target)["Config"]
    revision = config["Labels"]["org.opencontainers.image.revision"]
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", revision)
    assert f"GIT_SHA={revision}" in config["Env"]


def test_sigterm_ends_a_program_that_does_not_listen() -> None:
    """As process 1 itself it would ignore the signal until it is killed."""
    name = f"clipflow-sigterm-{time.time_ns()}"
    flags = (*engine.CONTAINED, f"--name={name}")
    words = ("python3", "-c", "import time; print('up', flush=True); time.sleep(300)")
    with subprocess.Popen(
        engine.command("cpu", *words, flags=flags), stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        started = time.monotonic()
        subprocess.run([engine.ENGINE, "stop", "--time=60", name], check=True, capture_output=True)
        assert child.wait(60) == 143
        assert time.monotonic() - started < 30
