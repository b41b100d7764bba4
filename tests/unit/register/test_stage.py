"""Versions, aliases and reasons in a real MLflow registry."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest

from clipflow import track
from clipflow.artifacts import checkpoint as checkpoints
from clipflow.artifacts import registration as registrations
from clipflow.errors import ParamsError
from clipflow.register.params import Params
from clipflow.register.stage import run

PARAMS = Params(
    model="scenes",
    primary="zero_shot/mean/top1",
    min_gain=0.01,
    max_drop=0.05,
    guards=["zero_shot/*/top1"],
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "RANK"):
        monkeypatch.delenv(name, raising=False)


def register(checkpoint: Path, report: Path) -> dict[str, object]:
    run(PARAMS, checkpoint=checkpoint, report=report, registration=Path("registration"))
    return registrations.read(Path("registration"))


def test_champion_then_worse_then_better(
    make_checkpoint: Callable[..., Path], make_report: Callable[..., Path]
) -> None:
    with track.start("laclip", params={}, tags={}, datasets={}) as trained:
        trained.log({"train/loss": 2.0}, 10)
    checkpoint = make_checkpoint(0, trained.id)
    report = make_report("report0", mean=0.50, color=0.60)
    first = register(checkpoint, report)
    assert (first["version"], first["accepted"]) == ("1", True)
    assert first["aliases"] == ["challenger", "champion"]
    assert first["champion"] is None

    version = track.aliased("scenes", "champion")
    assert version.run_id == trained.id
    assert version.tags["git_sha"] == "abc"
    assert version.tags["recipe"] == "laclip"
    assert version.tags["mlflow_run_id"] == trained.id
    assert len(version.tags["checkpoint_digest"]) == len(version.tags["report_digest"]) == 32
    assert track.client().get_run(trained.id).info.status == "FINISHED"

    # The same artifacts again: the same version, the same file.
    assert register(checkpoint, report) == first
    assert len(track.client().search_model_versions("name = 'scenes'")) == 1

    # The mean gains, but the colour task falls by 0.10.
    worse = register(make_checkpoint(1), make_report("report1", mean=0.55, color=0.50))
    assert (worse["version"], worse["accepted"], worse["aliases"]) == ("2", False, ["challenger"])
    assert worse["reasons"] == [
        "zero_shot/color/top1 is 0.5000, 0.1000 below the champion's 0.6000;"
        " at most 0.05 is allowed."
    ]
    assert str(track.aliased("scenes", "champion").version) == "1"
    assert str(track.aliased("scenes", "challenger").version) == "2"

    better = register(make_checkpoint(2), make_report("report2", mean=0.52, color=0.58))
    assert (better["version"], better["accepted"]) == ("3", True)
    assert str(track.aliased("scenes", "champion").version) == "3"
    assert better["champion"] == {
        "version": "1",
        "metrics": {"zero_shot/mean/top1": 0.50, "zero_shot/color/top1": 0.60},
    }
    # Registered again, the champion is still compared with the one before it, not with itself.
    assert register(Path("checkpoint2"), Path("report2")) == better

    champion = track.champion_history("scenes", "train/loss")
    assert champion is not None
    assert (champion.version, champion.metrics["zero_shot/mean/top1"]) == ("3", 0.52)
    assert not Path("mlruns").exists()


def test_gate_that_closes_later_gives_the_alias_back(
    make_checkpoint: Callable[..., Path], make_report: Callable[..., Path]
) -> None:
    register(make_checkpoint(0), make_report("report0", mean=0.50))
    register(make_checkpoint(1), make_report("report1", mean=0.52))
    assert str(track.aliased("scenes", "champion").version) == "2"
    stricter = PARAMS.model_copy(update={"min_gain": 0.1})
    arguments = {"checkpoint": Path("checkpoint1"), "report": Path("report1")}
    run(stricter, **arguments, registration=Path("registration"))
    assert str(track.aliased("scenes", "champion").version) == "1"


def test_a_champion_measured_on_other_benchmarks_is_not_compared_with(
    make_checkpoint: Callable[..., Path], make_report: Callable[..., Path]
) -> None:
    register(make_checkpoint(0), make_report("report0", "0" * 32, mean=0.50))
    other = register(make_checkpoint(1), make_report("report1", "1" * 32, mean=0.90))
    assert not other["accepted"]
    assert other["reasons"] == [
        f"The champion was measured on other benchmarks (digest {'0' * 32}); evaluate and register"
        " its checkpoint on these, or choose another register.model."
    ]
    assert str(track.aliased("scenes", "champion").version) == "1"

    # What the reason advises: then the same candidate is compared.
    anew = register(Path("checkpoint0"), make_report("report0b", "1" * 32, mean=0.30))
    assert (anew["version"], anew["accepted"]) == ("3", True)
    assert anew["reasons"] == ["This is the champion's checkpoint, measured on other benchmarks."]
    assert register(Path("checkpoint0"), Path("report0b")) == anew
    accepted = register(Path("checkpoint1"), make_report("report1b", "1" * 32, mean=0.91))
    assert (accepted["accepted"], accepted["champion"]) == (
        True, {"version": "3", "metrics": {"zero_shot/mean/top1": 0.30}},
    )  # fmt: skip


def test_unknown_primary_registers_nothing(
    make_checkpoint: Callable[..., Path], make_report: Callable[..., Path]
) -> None:
    with pytest.raises(ParamsError, match=r"no metric 'zero_shot/mean/top1'; did you mean"):
        register(make_checkpoint(0), make_report("report0", main=0.5))
    assert not track.client().search_registered_models()
    assert not Path("registration").exists()


def test_where_torch_is_not_installed(
    make_checkpoint: Callable[..., Path],
    make_report: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint, report = make_checkpoint(0), make_report("report0", mean=0.5)
    lineage = checkpoint / checkpoints.PROVENANCE
    there = json.loads(lineage.read_text())
    there[checkpoints.VERSIONS]["torch"] = "2.77.0+cu999"
    lineage.write_text(json.dumps(there))
    for name in ("torch", "torchvision", "open_clip"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it raises ImportError
    register(checkpoint, report)

    version = track.aliased("scenes", "champion")
    model = Path(mlflow.artifacts.download_artifacts(version.source))
    assert "torch==2.77.0" in (model / "requirements.txt").read_text().split()
