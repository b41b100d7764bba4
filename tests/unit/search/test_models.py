"""What --model names, with MLflow's registry in a real database."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from clipflow import store, track
from clipflow.errors import ArtifactError, TrackingError
from clipflow.register import logged_model
from clipflow.search import models
from unit.register.conftest import make_checkpoint

__all__ = ["make_checkpoint"]

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")


def load(name: str, weights: str | None = None) -> models.Model:
    return models.load(name, weights, batch_size=2, option="--model")


@pytest.fixture
def registered(
    make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """`tiny@champion`, which is version 1; its checkpoint."""
    monkeypatch.chdir(tmp_path)
    client = track.client()
    experiment = client.create_experiment("e", (tmp_path / "files").as_uri())
    run = client.create_run(experiment)
    checkpoint = make_checkpoint()
    made = logged_model.log(
        checkpoint, run.info.run_id, name="m", metrics={}, step=1, tags={"a": "b"}
    )
    client.create_registered_model("tiny")
    client.create_model_version("tiny", f"models:/{made}", run.info.run_id)
    client.set_registered_model_alias("tiny", "champion", "1")
    return checkpoint


def test_a_registered_version_is_downloaded_once(registered: Path, tmp_path: Path) -> None:
    own = load(str(registered))
    assert own.about == "laclip, tiny, 1.63 M parameters"
    by_alias = load("tiny@champion")
    assert by_alias.clip.digest == own.clip.digest
    assert by_alias.about == f"version 1, {own.about}"
    assert by_alias.clip.name == by_alias.name == "tiny@champion"
    shutil.rmtree(tmp_path / "files")  # what is here already is not asked for again
    assert load("tiny/1").clip.digest == own.clip.digest
    assert len([p for p in (store.scratch() / "models").iterdir() if p.is_dir()]) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny@challenger", "tiny@challenger: .* no such alias; known: champion"),
        ("tiny/7", "tiny/7: .* no such version .* @champion is 1"),
        ("tyni@champion", "tyni: .* has no such model; known: tiny"),
    ],
)
def test_says_what_there_is(registered: Path, name: str, message: str) -> None:
    with pytest.raises(TrackingError, match=message):
        load(name)


def test_a_download_that_fails_leaves_nothing(registered: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "files")
    with pytest.raises(TrackingError, match="has this version, but not its files"):
        load("tiny@champion")
    assert not [
        p
        for p in (store.scratch() / "models").iterdir()
        if p.name.startswith("m-") and "." not in p.name
    ]


def test_names_the_option_of_the_command_line() -> None:
    with pytest.raises(
        ArtifactError, match=r"^--model ViT-B-23: no such folder .*did you mean 'ViT-B-32'"
    ):
        load("ViT-B-23")
