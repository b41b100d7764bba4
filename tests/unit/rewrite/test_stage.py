import json
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from clipflow import track
from clipflow.artifacts import manifest
from clipflow.artifacts import rewrites as artifact
from clipflow.artifacts.pairs import Pairs
from clipflow.errors import ArtifactError, GeneratorError, TrackingError
from clipflow.rewrite import stage
from clipflow.rewrite.desk import seed_of
from clipflow.rewrite.generators import Answer, Generator, Proposal, Task
from clipflow.rewrite.params import Params

MakePairs = Callable[[dict[str, str]], Path]
CAPTIONS = {"k1": "a dog", "k0": "a cat", "k2": "a very old boat"}


class Fake(Generator):
    """Proposes `<caption> <i>` and, as the last, the caption itself; stops where it is told to."""

    is_cheap: ClassVar[bool] = True
    not_written: ClassVar[frozenset[str]] = frozenset({"stop_after", "error"})
    stop_after: int = 99
    error: bool = False

    def propose(self, tasks: Iterable[Task]) -> Iterator[list[Answer]]:
        for number, task in enumerate(tasks):
            if number == self.stop_after:
                if self.error:
                    raise GeneratorError("the server is gone")
                return
            texts = [f"{task.caption} {i}" for i in range(task.num - 1)]
            yield [Answer(task, [Proposal(t, "fake") for t in [*texts, task.caption.upper()]])]


def params(num_rewrites: int = 3, seed: int = 0, **fake: int) -> Params:
    generator = Fake(name="fake", **fake)
    return Params(
        generator=generator, num_rewrites=num_rewrites, seed=seed, max_words=4,
        lost_facts="flag", agreement=None,
    )  # fmt: skip


def test_every_pair_gets_its_accepted_rewrites(make_pairs: MakePairs, tmp_path: Path) -> None:
    pairs, out = make_pairs(CAPTIONS), tmp_path / "rewrites"
    stage.run(params(), pairs=pairs, rewrites=out)
    rows = [r for _, shard in artifact.by_shard(out, Pairs(pairs)) for r in shard.to_pylist()]
    assert rows == [["a dog 0", "a dog 1"], ["a cat 0", "a cat 1"], []]
    table = artifact.read(out).to_pylist()
    assert [row["key"] for row in table] == ["k1", "k0", "k2"]
    assert table[2]["provenance"] == [
        {"text": "a very old boat 0", "source": "fake", "outcome": "too long", "flags": None},
        {"text": "a very old boat 1", "source": "fake", "outcome": "too long", "flags": None},
        {"text": "A VERY OLD BOAT", "source": "fake", "outcome": "copy", "flags": None},
    ]
    facts = manifest.read(out, artifact.SCHEMA)
    assert facts["outcomes"] == {"accepted": 4, "copy": 3, "too long": 2}
    assert (facts["num_pairs"], facts["num_without_rewrite"]) == (3, 1)
    assert facts["generator"]["name"] == "fake"
    assert [shard["num_pairs"] for shard in facts["shards"]] == [2, 1]
    assert facts["pairs"] == manifest.digest(pairs)
    assert facts["quality"]["num_sampled"] == 3
    assert facts["quality"]["figures"]["fake"]["rejected"] == {"copy": 3, "too long": 2}


def test_two_runs_write_equal_bytes(make_pairs: MakePairs, tmp_path: Path) -> None:
    pairs = make_pairs(CAPTIONS)
    for name in ("one", "two"):
        stage.run(params(), pairs=pairs, rewrites=tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_seeds_depend_on_seed_and_caption_alone() -> None:
    assert seed_of(0, "a") == seed_of(0, "a")
    seeds = {seed_of(seed, caption) for seed in range(10) for caption in ("a", "b", "1/a", "0")}
    assert len(seeds) == 40
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_no_rewrites_wanted(make_pairs: MakePairs, tmp_path: Path) -> None:
    pairs = make_pairs(CAPTIONS)
    generator = {"synonym": 0.5, "relation": 0.5, "count": 0.5, "order": 0.5, "frame": 0.5}
    from clipflow.rewrite.generators.grammar import Grammar

    no = Params(
        generator=Grammar(name="grammar", common_weight=3, **generator),
        num_rewrites=0,
        seed=0,
        max_words=9,
        lost_facts="flag",
        agreement=None,
    )
    stage.run(no, pairs=pairs, rewrites=tmp_path / "rewrites")
    shards = artifact.by_shard(tmp_path / "rewrites", Pairs(pairs))
    assert [row for _, shard in shards for row in shard.to_pylist()] == [[], [], []]


@pytest.mark.parametrize(
    ("error", "message"), [(True, "server is gone"), (False, "left 1 tasks un")]
)
def test_an_interrupted_run_leaves_no_artifact(
    make_pairs: MakePairs, tmp_path: Path, error: bool, message: str
) -> None:
    out = tmp_path / "rewrites"
    broken = params(stop_after=2, error=error)
    with pytest.raises(GeneratorError, match=message):
        stage.run(broken, pairs=make_pairs(CAPTIONS), rewrites=out)
    assert not out.exists()
    with pytest.raises(ArtifactError):
        artifact.read(out)


def test_an_interrupted_run_keeps_the_artifact_of_the_run_before(
    make_pairs: MakePairs, tmp_path: Path
) -> None:
    pairs, out = make_pairs(CAPTIONS), tmp_path / "rewrites"
    stage.run(params(), pairs=pairs, rewrites=out)
    before = manifest.digest(out)
    with pytest.raises(GeneratorError):
        stage.run(params(seed=1, stop_after=0), pairs=pairs, rewrites=out)
    assert manifest.digest(out) == before


def test_refuses_another_kind_of_artifact(tmp_path: Path) -> None:
    wrong = tmp_path / "report"
    wrong.mkdir()
    (wrong / "manifest.json").write_text(json.dumps({"schema": "clipflow.report/1"}))
    with pytest.raises(ArtifactError, match=r"expected clipflow\.pairs/1, found"):
        stage.run(params(), pairs=wrong, rewrites=tmp_path / "rewrites")
    assert not (tmp_path / "rewrites").exists()


def test_first_and_last_line_of_the_log(
    make_pairs: MakePairs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="clipflow"):
        stage.run(params(), pairs=make_pairs(CAPTIONS), rewrites=tmp_path / "rewrites")
    first, last = caplog.messages[0], caplog.messages[-1]
    assert first.startswith("generator fake, 3 rewrites of each of 3 captions")
    assert "accepted 4 of 9 candidates (44.4%), rejected 3 copy, 2 too long" in last
    assert "1 of 3 captions fall back" in last


def test_the_report_and_the_figures_are_in_mlflow(make_pairs: MakePairs, tmp_path: Path) -> None:
    pairs, out = make_pairs(CAPTIONS), tmp_path / "rewrites"
    stage.run(params(), pairs=pairs, rewrites=out)
    client = track.client()
    experiment = client.get_experiment_by_name("clipflow")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("rewrite-fake", "FINISHED")
    assert run.data.metrics["rewrite/acceptance"] == pytest.approx(4 / 9, abs=1e-6)
    assert run.data.metrics["rewrite/fake/copy_rate"] == pytest.approx(3 / 9, abs=1e-6)
    assert run.data.metrics["rewrite/num_without_rewrite"] == 1
    assert run.data.params["generator.name"] == "fake"
    assert run.data.tags["pairs_digest"] == manifest.digest(pairs)
    files = {file.path for file in client.list_artifacts(run.info.run_id, "rewrites")}
    assert files == {"rewrites/report.html", "rewrites/manifest.json"}
    assert run.info.run_id not in (out / "manifest.json").read_text()
    assert {file.name for file in out.iterdir()} == {
        "00000.parquet", "00001.parquet", "manifest.json", "report.html"
    }  # fmt: skip


def test_a_run_that_goes_on_is_one_run_of_mlflow(make_pairs: MakePairs, tmp_path: Path) -> None:
    pairs, out = make_pairs(CAPTIONS), tmp_path / "rewrites"
    with pytest.raises(GeneratorError):
        stage.run(params(stop_after=2), pairs=pairs, rewrites=out)
    stage.run(params(), pairs=pairs, rewrites=out)
    experiment = track.client().get_experiment_by_name("clipflow")
    (run,) = track.client().search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"


def test_nothing_is_written_while_mlflow_is_down(
    make_pairs: MakePairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(TrackingError, match="no answer"):
        stage.run(params(), pairs=make_pairs(CAPTIONS), rewrites=tmp_path / "rewrites")
    assert not list(tmp_path.glob("rewrites*"))


def test_what_measures_agreement_must_load_before_anything_is_written(
    make_pairs: MakePairs, tmp_path: Path
) -> None:
    wanted = params().model_copy(update={"agreement": str(tmp_path / "nowhere")})
    with pytest.raises(GeneratorError, match=r"rewrite\.agreement: can't load"):
        stage.run(wanted, pairs=make_pairs(CAPTIONS), rewrites=tmp_path / "rewrites")
    assert not list(tmp_path.glob("rewrites*"))
