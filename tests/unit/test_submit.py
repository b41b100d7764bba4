"""What is known of a pipeline before it is sent, and what is compiled into it."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import dsl

from clipflow import submit
from clipflow.errors import ParamsError

LACLIP = Path(__file__).parents[2] / "pipelines" / "laclip.py"


@dsl.component(base_image="python:3.11")
def work(text: str, times: int, share: float, dry: bool, names: list, labels: dict) -> None:  # type: ignore[type-arg]
    pass


@dsl.pipeline(name="typed")
def pipeline(
    text: str = "a",
    times: int = 1,
    share: float = 0.5,
    dry: bool = False,
    names: list = [],  # type: ignore[type-arg]  # noqa: B006
    labels: dict = {},  # type: ignore[type-arg]  # noqa: B006
) -> None:
    work(text=text, times=times, share=share, dry=dry, names=names, labels=labels)


GIVEN = {
    "text": "7",
    "times": "7",
    "share": "1",
    "dry": "true",
    "names": '["a"]',
    "labels": '{"pool": "gpu"}',
}
VALUES = {
    "text": "7",
    "times": 7,
    "share": 1.0,
    "dry": True,
    "names": ["a"],
    "labels": {"pool": "gpu"},
}


def test_needs_of_laclip_are_what_k8s_has() -> None:
    needs = {(need.kind, need.name): need.keys for need in submit.needs(submit.load(LACLIP))}
    assert needs == {
        ("ConfigMap", "clipflow"): ("CLIPFLOW_STORE", "MLFLOW_TRACKING_URI"),
        ("PersistentVolumeClaim", "clipflow-scratch"): (),
        ("Secret", "clipflow-mlflow"): ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_USERNAME"),
        ("Secret", "clipflow-store"): ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    }


def test_a_pipeline_without_pods_of_its_own_kind_needs_nothing() -> None:
    assert submit.needs(pipeline) == []


def test_values_have_the_types_of_their_parameters() -> None:
    assert submit.typed(pipeline, GIVEN) == VALUES


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("times=many", "times: expected an integer in JSON, got 'many'"),
        ("times=2.5", "times: expected an integer in JSON, got '2.5'"),
        ("times=true", "times: expected an integer in JSON, got 'true'"),
        ("share=half", "share: expected a number in JSON, got 'half'"),
        ("dry=1", "dry: expected true or false in JSON, got '1'"),
        ("names=a,b", "names: expected a list in JSON, got 'a,b'"),
        ("labels=[]", "labels: expected a mapping in JSON, got '[]'"),
    ],
)
def test_a_value_of_another_type_is_refused(word: str, expected: str) -> None:
    name, _, value = word.partition("=")
    with pytest.raises(ParamsError) as error:
        submit.check(pipeline, {name: value})
    assert str(error.value) == f"pipeline 'typed': {expected}"


def compiled(output: Path, *words: str) -> int | str | None:
    """The exit status of `python PIPELINE.py WORDS --output OUTPUT`."""
    argv, sys.argv = sys.argv, ["pipeline.py", *words, "--output", str(output)]
    try:
        submit.compile_command(pipeline)
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = argv
    return 0


def test_values_are_compiled_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = tmp_path / "typed.yaml"
    assert not compiled(package, *(f"{name}={value}" for name, value in GIVEN.items()))
    inputs: dict[str, Any] = yaml.safe_load(package.read_text())["root"]["inputDefinitions"]
    found = {name: value["defaultValue"] for name, value in inputs["parameters"].items()}
    assert found == VALUES
    said = capsys.readouterr()
    assert "kfp recurring-run create" in said.out
    assert "python:3.11: named by tags" in said.err


@pytest.mark.parametrize("word", ["times", "times=many", "tmies=3"])
def test_bad_words_compile_nothing(
    tmp_path: Path, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "typed.yaml"
    assert compiled(package, word) == 2
    assert word.partition("=")[0] in capsys.readouterr().err
    assert not package.exists()
