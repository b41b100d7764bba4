"""The installed `kfp` command submits pipeline files, and is kfp's own in everything else.

Each test runs the real script in a process of its own against a server that speaks KFP's REST API.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clipflow import params
from clipflow.submit import compile_command, load
from fakes import kubernetes_api
from fakes.kfp_api import KfpApi, serve

ROOT = Path(__file__).parents[2]
KFP = Path(sys.executable).parent / "kfp"
CLIPFLOW = KFP.with_name("clipflow")
LACLIP = "pipelines/laclip.py"
NOWHERE = "http://127.0.0.1:9"
"""Port 9 is `discard`: nothing answers there."""

GREET = """
from kfp import dsl

@dsl.component(base_image="python:3.11")
def say(text: str, times: int):
    pass

@dsl.pipeline(name="greet")
def greet(text: str = "hello", times: int = 1):
    say(text=text, times=times)
"""

Kfp = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def api() -> Iterator[KfpApi]:
    with serve() as server:
        yield server


@pytest.fixture
def kfp(api: KfpApi, tmp_path: Path) -> Kfp:
    """Run `kfp ...` beside `pipelines/`, with the fake server as its endpoint."""
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")

    def run(
        *args: str | Path, script: Path = KFP, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("KFP_", "KF_", "KUBE"))}
        clean |= {"HOME": str(tmp_path), "KFP_ENDPOINT": api.endpoint}
        clean["KFP_RUN_CREATE_ALLOW_TAGS"] = "1"
        return subprocess.run(
            [sys.executable, str(script), *map(str, args)],
            cwd=tmp_path,
            env=clean | environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture
def stock(kfp: Kfp, tmp_path: Path) -> Kfp:
    """Run kfp's own command the same way, as if this package were not installed."""
    (tmp_path / "stock").mkdir()
    script = tmp_path / "stock" / "kfp"
    script.write_text("from kfp.cli.__main__ import main\nmain()\n")
    return lambda *args, **environ: kfp(*args, script=script, **environ)


@pytest.fixture(scope="module")
def greet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline that is not ours; quick, for it has no parameter that takes torch to check."""
    file = tmp_path_factory.mktemp("pipelines") / "greet.py"
    file.write_text(GREET)
    return file


@pytest.fixture(scope="module")
def package(greet: Path) -> Path:
    output = greet.with_suffix(".yaml")
    subprocess.run(
        [sys.executable, KFP, "dsl", "compile", "--py", greet, "--output", output], check=True
    )
    return output


def values(api: KfpApi) -> dict[str, Any]:
    """The parameters of the one run that was posted."""
    (run,) = api.posted("runs")
    return dict(run.get("runtime_config", {}).get("parameters", {}))


def test_installed_kfp_is_this_package() -> None:
    # Two packages declare a script of this name; the one installed last wins, which `make` ensures.
    assert "from clipflow.kfp_command import main" in KFP.read_text()
    scripts = importlib.metadata.distribution("clipflow").entry_points
    assert scripts["kfp"].value == "clipflow.kfp_command:main"


def test_submits_a_file(kfp: Kfp, api: KfpApi) -> None:
    done = kfp("run", "submit", LACLIP)

    assert done.returncode == 0, done.stderr
    (run_id,) = api.runs
    assert f"Run details: {api.endpoint}/#/runs/details/{run_id}\n" in done.stdout
    (experiment,) = api.experiments.values()
    assert experiment["display_name"] == "laclip"
    assert api.runs[run_id]["display_name"] == "laclip"
    components = api.runs[run_id]["pipeline_spec"]["pipeline_spec"]["components"]
    assert {f"comp-{stage}" for stage in params.STAGES} <= set(components)
    assert values(api) == {}
    assert "deprecated" not in done.stderr
    assert "Warning" not in done.stderr


def test_prints_two_stock_commands_that_do_the_same(kfp: Kfp, stock: Kfp, api: KfpApi) -> None:
    text = json.dumps(params.select(params.read(ROOT / "params.yaml"), "rewrite") | {"seed": 7})
    done = kfp("run", "submit", LACLIP, f"rewrite_params={text}")
    compile_, create = [
        shlex.split(line) for line in done.stderr.splitlines() if line.startswith("  kfp ")
    ]
    assert stock(*compile_[1:]).returncode == 0
    assert stock(*create[1:]).returncode == 0
    ours, theirs = api.posted("runs")
    assert ours == theirs


def test_experiment_is_found_again(kfp: Kfp, api: KfpApi, greet: Path) -> None:
    for _ in range(2):
        assert kfp("run", "create", greet, "-e", "nightly", "-r", "one night").returncode == 0
    assert [e["display_name"] for e in api.experiments.values()] == ["nightly"]
    assert [r["display_name"] for r in api.runs.values()] == ["one night"] * 2


def test_options_and_environment_go_on_working(kfp: Kfp, api: KfpApi, greet: Path) -> None:
    api.token = "secret"
    done = kfp(
        *("--output", "json", "runs", "submit", "-w", greet),
        KFP_EXISTING_TOKEN="secret",
        KFP_RUN_CREATE_EXPERIMENT_NAME="from-environment",
    )
    assert done.returncode == 0, done.stderr
    assert "Run is finished with state SUCCEEDED." in done.stdout
    assert '"state": "SUCCEEDED"' in done.stdout
    assert [e["display_name"] for e in api.experiments.values()] == ["from-environment"]
    assert {r.headers["authorization"] for r in api.requests} == {"Bearer secret"}
    assert kfp("run", "submit", greet, "-t", "5", KFP_EXISTING_TOKEN="secret").returncode == 0


def test_params_file_sets_the_stages(kfp: Kfp, api: KfpApi, tmp_path: Path) -> None:
    file = tmp_path / "other.yaml"
    text = (ROOT / "params.yaml").read_text()
    file.write_text(re.sub(r"(?m)^(  steps:) \d+", r"\1 7", text))

    assert kfp("run", "submit", LACLIP, "--params", file).returncode == 0

    sent = values(api)
    assert set(sent) == {f"{stage}_params" for stage in params.STAGES}
    assert json.loads(sent["pretrain_params"])["steps"] == 7


def test_submitter_needs_no_torch(kfp: Kfp, api: KfpApi, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    absent.mkdir()
    (absent / "torch.py").write_text("raise ModuleNotFoundError('no torch', name='torch')\n")
    path = os.pathsep.join(filter(None, [str(absent), os.environ.get("PYTHONPATH")]))
    done = kfp("run", "submit", LACLIP, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert "pretrain not checked before the run: torch is not installed" in done.stderr
    assert len(api.runs) == 1


def test_arguments_keep_their_type(kfp: Kfp, api: KfpApi, greet: Path) -> None:
    # Stock kfp would send the number 123 where the pipeline wants the string "123".
    assert kfp("run", "submit", greet, "text=123", "times=3").returncode == 0
    assert values(api) == {"text": "123", "times": 3}


BAD_FILES = {
    "none": ("x = 1\n", "expected one @dsl.pipeline, found 0"),
    "broken": ("def f(:\n", "can't be imported: SyntaxError: invalid syntax (broken.py, line 1)"),
    "crashing": (
        "import no_such_module\n",
        "ModuleNotFoundError: No module named 'no_such_module'",
    ),
    "two": (
        GREET + '@dsl.pipeline(name="shout")\ndef shout():\n    say(text="A", times=1)\n',
        "expected one @dsl.pipeline, found 2 (greet, shout)",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file_is_one_line(kfp: Kfp, api: KfpApi, tmp_path: Path, name: str) -> None:
    source, expected = BAD_FILES[name]
    file = tmp_path / f"{name}.py"
    file.write_text(source)
    message = error_of(kfp("run", "submit", file))
    assert message.startswith(f"{file}: ")
    assert expected in message
    assert api.requests == []


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["no/such.py"], "no/such.py: no such file"),
        ([LACLIP, "--params", "no.yaml"], "no.yaml: no such params file"),
        ([LACLIP, "rewrite_parms={}"], "did you mean 'rewrite_params'?"),
        ([LACLIP, "rewrite_params={"], "rewrite_params: expected the JSON text of a section"),
        ([LACLIP, "rewrite_params={}"], "rewrite.generator: field required"),
    ],
)
def test_bad_parameter_is_one_line(kfp: Kfp, api: KfpApi, args: list[str], expected: str) -> None:
    assert expected in error_of(kfp("run", "submit", *args))
    assert api.requests == []


def test_missing_parameter_is_one_line(kfp: Kfp, api: KfpApi, tmp_path: Path) -> None:
    file = tmp_path / "greet.py"
    file.write_text(GREET.replace('= "hello"', ""))
    assert "add text=VALUE" in error_of(kfp("run", "submit", file))
    assert api.requests == []


PINNED = "python@sha256:" + "0" * 64


def test_tags_are_refused(kfp: Kfp, api: KfpApi, greet: Path) -> None:
    message = error_of(kfp("run", "submit", greet, KFP_RUN_CREATE_ALLOW_TAGS=""))
    assert "named by digest (NAME@sha256:...), got python:3.11; " in message
    assert message.endswith("or pass --allow-tags")
    assert api.requests == []


@pytest.mark.parametrize(("image", "status"), [(PINNED, 0), ("python:3.12", 1)])
def test_image_parameter_is_looked_at(
    kfp: Kfp, api: KfpApi, tmp_path: Path, image: str, status: int
) -> None:
    file = tmp_path / "greet.py"
    body = "say(text=text, times=times).set_container_image(cpu_image)"
    file.write_text(
        GREET.replace("times: int = 1)", f'times: int = 1, cpu_image: str = "{PINNED}")').replace(
            "    say(text=text, times=times)", f"    {body}"
        )
    )
    done = kfp("run", "submit", file, f"cpu_image={image}", KFP_RUN_CREATE_ALLOW_TAGS="")
    assert done.returncode == status, done.stderr
    assert ("got python:3.12;" in done.stderr) == bool(status)
    assert len(api.runs) == 1 - status


def test_dry_run_sends_nothing(kfp: Kfp, api: KfpApi, greet: Path) -> None:
    done = kfp("run", "submit", greet, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "nothing was sent" in done.stdout
    assert {(r.method, r.path) for r in api.requests} == {("GET", "/apis/v2beta1/healthz")}
    assert "not checked: no Kubernetes access is configured" in done.stderr


def test_clipflow_submit_is_the_same(kfp: Kfp, api: KfpApi, greet: Path) -> None:
    done = kfp("submit", greet, "times=3", "-e", "nightly", script=CLIPFLOW)
    assert done.returncode == 0, done.stderr
    assert values(api) == {"times": 3}
    assert [e["display_name"] for e in api.experiments.values()] == ["nightly"]
    assert "Run details:" in done.stdout


def test_watching_a_run_that_fails(kfp: Kfp, api: KfpApi, greet: Path) -> None:
    said = {"task_id": "1", "display_name": "say", "state": "FAILED"}
    api.script = [{"state": "FAILED", "run_details": {"task_details": [said]}}]
    done = kfp("run", "submit", greet, "--watch")
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-2:] == ["say: FAILED (1/1 ended)", "Run is finished with state FAILED."]


def test_what_the_namespace_lacks_is_said_and_nothing_sent(
    kfp: Kfp, api: KfpApi, tmp_path: Path
) -> None:
    with kubernetes_api.serve() as cluster:
        cluster.put("v1", "", "namespaces", {"metadata": {"name": "kubeflow"}})
        settings = {"metadata": {"name": "clipflow"}, "data": {"CLIPFLOW_STORE": "s3://a/b"}}
        cluster.put("v1", "kubeflow", "configmaps", settings)
        kubeconfig = str(cluster.kubeconfig(tmp_path))
        message = error_of(kfp("run", "submit", LACLIP, KUBECONFIG=kubeconfig))
    assert message.startswith(f"{cluster.endpoint}: namespace 'kubeflow': lacks ")
    assert "MLFLOW_TRACKING_URI in ConfigMap clipflow" in message
    assert "; PersistentVolumeClaim clipflow-scratch; " in message
    assert "; Secret clipflow-mlflow; Secret clipflow-store; " in message
    assert "clipflow-hub" not in message
    assert api.posted("experiments") == api.posted("runs") == []


def test_recurring_run(
    kfp: Kfp,
    api: KfpApi,
    greet: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    package = tmp_path / "greet.yaml"
    monkeypatch.setattr(
        sys, "argv", [str(greet), "text=good night", "times=3", "--output", str(package)]
    )
    with pytest.raises(SystemExit, match="0"):
        compile_command(load(greet))
    command = capsys.readouterr().out.splitlines()[-1]

    done = kfp(*shlex.split(command)[1:])

    assert done.returncode == 0, done.stderr
    (recurring,) = api.recurring_runs.values()
    assert recurring["status"] == "ENABLED"
    assert recurring["trigger"] == {"cron_schedule": {"cron": "0 0 2 * * *"}}
    inputs = recurring["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
    assert {name: i["defaultValue"] for name, i in inputs.items()} == {
        "text": "good night",
        "times": 3,
    }


def test_service_account_and_cache(kfp: Kfp, api: KfpApi, greet: Path) -> None:
    done = kfp("run", "submit", greet, "--service-account", "clipflow-run", "--no-cache")
    assert done.returncode == 0, done.stderr
    (run,) = api.posted("runs")
    assert run["service_account"] == "clipflow-run"
    tasks = run["pipeline_spec"]["root"]["dag"]["tasks"]
    assert [task["cachingOptions"] for task in tasks.values()] == [{}]


@pytest.mark.parametrize("args", [[LACLIP, "word"], [LACLIP, LACLIP], [LACLIP, "-f", "x.yaml"]])
def test_bad_usage(kfp: Kfp, args: list[str]) -> None:
    done = kfp("run", "submit", *args)
    assert done.returncode == 2
    assert "Usage: kfp run submit [OPTIONS] PIPELINE.py [KEY=VALUE]..." in done.stderr


def test_refused_without_token(kfp: Kfp, api: KfpApi, greet: Path) -> None:
    api.token = "secret"
    message = error_of(kfp("run", "submit", greet))
    assert message.startswith(f"{api.endpoint}: Kubeflow Pipelines answered 401")
    assert "--existing-token" in message


@pytest.mark.parametrize("path", ["healthz", "experiments", "runs"])
def test_broken_server(kfp: Kfp, api: KfpApi, greet: Path, path: str) -> None:
    api.broken_paths = (path,)
    message = error_of(kfp("run", "submit", greet))
    assert message.startswith(f"{api.endpoint}: Kubeflow Pipelines answered 500")
    assert "the database is gone" in message


@pytest.mark.parametrize("path", ["healthz", "runs"])
@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "--existing-token"),
        (403, "--namespace"),
        (404, "--endpoint"),
        (409, "submit again"),
        (429, "the server is busy"),
        (503, "see the API server's log"),
    ],
)
def test_refusals_say_what_to_do(
    kfp: Kfp, api: KfpApi, greet: Path, path: str, status: int, advice: str
) -> None:
    api.broken_paths, api.broken_status = (path,), status
    message = error_of(kfp("run", "submit", greet))
    assert message.startswith(f"{api.endpoint}: Kubeflow Pipelines answered {status}")
    assert advice in message
    assert api.runs == {}


def test_login_page(kfp: Kfp, api: KfpApi, greet: Path) -> None:
    api.login_page = True
    message = error_of(kfp("run", "submit", greet))
    assert f"{api.endpoint}: answered, but not as Kubeflow Pipelines does" in message


def test_unreachable_server(kfp: Kfp, greet: Path) -> None:
    message = error_of(kfp("--endpoint", NOWHERE, "run", "submit", greet))
    assert message.startswith(f"{NOWHERE}: can't reach Kubeflow Pipelines")
    assert message.endswith("set --endpoint or KFP_ENDPOINT")


def test_no_endpoint(kfp: Kfp, greet: Path) -> None:
    done = kfp("run", "submit", greet, KFP_ENDPOINT="")
    assert "set --endpoint or KFP_ENDPOINT" in error_of(done)
    assert done.stdout == ""


def test_help_needs_no_server(kfp: Kfp, greet: Path) -> None:
    for args in (["submit", "--help"], ["create", greet, "--help"]):
        done = kfp("run", *args, KFP_ENDPOINT=NOWHERE)
        assert done.returncode == 0
        assert done.stdout.startswith(f"Usage: kfp run {args[0]} [OPTIONS] PIPELINE.py")
        assert "--params" in done.stdout


@pytest.mark.parametrize(
    "args",
    [
        ["--version"],
        ["no-such-command"],
        ["run", "--help"],
        ["run", "create"],
        ["run", "submit"],
        ["run", "create", "-e", "E", "-f", LACLIP],
        ["run", "create", "-e", "E", "-f", "{package}", "script=f.py"],
        ["run", "create", "-e", "E", "-f", "{package}", "word"],
        ["run", "submit", "-e", "E", "-f", "{package}"],
        ["run", "get", "no-such-run"],
    ],
    ids=" ".join,
)
def test_every_other_command_is_stock(
    kfp: Kfp, stock: Kfp, api: KfpApi, package: Path, args: list[str]
) -> None:
    args = [arg.format(package=package) for arg in args]
    api.create_experiment({"display_name": "E"})
    ours, theirs = kfp(*args), stock(*args)
    assert _same_shape(ours) == _same_shape(theirs)
    half = len(api.requests) // 2
    assert _sent(api, slice(half)) == _sent(api, slice(half, None))


def test_stock_create_is_untouched(kfp: Kfp, stock: Kfp, api: KfpApi, package: Path) -> None:
    args = ["run", "create", "-e", "E", "-f", package, 'text="123"', "times=3"]
    ours, theirs = kfp(*args), stock(*args)
    assert (ours.returncode, theirs.returncode) == (0, 0), ours.stderr
    first, second = api.posted("runs")
    assert first == second
    assert first["runtime_config"]["parameters"] == {"text": "123", "times": 3}


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a failed command, past the notes of what was made and what not checked."""
    notes = ("Creating experiment", "secrets, config maps and volumes not checked")
    lines = [line for line in done.stderr.splitlines() if not line.startswith(notes)]
    assert done.returncode == 1, done.stderr
    assert len(lines) == 1, done.stderr
    return lines[0]


IDS = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|'Date': '[^']*'"


def _same_shape(done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    """Exit status and output, without what differs from one request to the next."""
    return done.returncode, re.sub(IDS, "*", done.stdout), re.sub(IDS, "*", done.stderr)


def _sent(api: KfpApi, part: slice) -> list[tuple[str, str, Any]]:
    return [(r.method, re.sub(IDS, "*", r.path), r.body) for r in api.requests[part]]
