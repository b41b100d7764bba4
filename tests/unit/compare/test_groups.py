"""What `clipflow compare --group-by` says of runs in a real MLflow store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clipflow.artifacts import manifest
from clipflow.cli import app
from clipflow.compare.groups import gain, group
from clipflow.errors import ParamsError, TrackingError
from clipflow.track import reading

MakeRun = Callable[..., str]
TOP1 = "zero_shot/mean/top1"


@pytest.fixture
def runs(make_run: MakeRun) -> None:
    """clip with seeds 0-2, laclip with seeds 1-3; one failed, one was never measured."""
    for recipe, seeds, tops in (
        ("laclip", (1, 2, 3), (0.42, 0.50, 0.47)),
        ("clip", (0, 1, 2), (0.30, 0.32, 0.38)),
    ):
        for seed, top1 in zip(seeds, tops, strict=True):
            params = {"recipe.name": recipe, "seed": seed, "lr": 0.001}
            make_run(f"{recipe}-{seed}", params=params, metrics={TOP1: top1})
    params = {"recipe.name": "clip", "seed": 9}
    make_run("failed", params=params, metrics={TOP1: 0.9}, status="FAILED")
    make_run("unmeasured", params=params, metrics={"train/loss": 0.1})


@pytest.mark.usefixtures("runs")
def test_means_over_seeds_and_gains_paired_by_seed() -> None:
    found = group(reading.runs(), ["pretrain.recipe"])
    clip, laclip = found.groups
    assert (clip.name, laclip.name, clip.is_baseline) == ("clip", "laclip", True)
    assert clip.cells[TOP1].values == {"0": 0.30, "1": 0.32, "2": 0.38}
    assert clip.cells[TOP1].mean == pytest.approx(1 / 3)
    assert clip.cells[TOP1].deviation == pytest.approx(0.0416333)
    assert clip.cells[TOP1].gain is None
    over = laclip.cells[TOP1].gain
    assert over is not None
    assert (over.num_pairs, over.num_above) == (2, 2)
    assert over.mean == pytest.approx((0.10 + 0.12) / 2)
    # t of one degree of freedom is 12.706; the mean's standard error 0.01
    assert over.interval is not None
    assert over.interval.low == pytest.approx(0.11 - 12.7062 * 0.01, abs=1e-5)
    assert over.verdict == "unclear"
    assert found.notes == []

    (first, *_) = group(reading.runs(), ["recipe"], baseline="laclip").groups
    assert first.name == "laclip"


@pytest.mark.usefixtures("runs")
def test_what_else_differs_is_said(make_run: MakeRun) -> None:
    params = {"recipe.name": "clip", "seed": 0, "lr": 0.01, "recipe.own": 1}
    make_run("again", params=params, metrics={TOP1: 0.6}, tags={"pairs_digest": "x"})
    found = group(reading.runs(), ["recipe"])
    assert found.groups[0].cells[TOP1].values["0"] == 0.6  # the newest counts
    repeated, others, pairs = found.notes
    assert repeated.startswith("1 earlier runs of the same group and seed")
    assert "(lr: 0.001, 0.01)" in others
    assert pairs == "These runs were trained on different pairs."

    found = group(reading.runs(), ["recipe", "lr"], where={"pretrain.recipe": "clip"})
    assert [one.name for one in found.groups] == ["clip, lr 0.001", "clip, lr 0.01"]
    assert [len(one.run_ids) for one in found.groups] == [3, 1]
    assert found.groups[1].cells[TOP1].deviation is None


def test_only_runs_measured_on_the_benchmarks_of_the_newest(
    make_report: Callable[..., Path], make_run: MakeRun, tmp_path: Path
) -> None:
    old = make_report("old", range(40), measured_on="0" * 32)
    make_run("old", old, params={"recipe.name": "clip", "seed": 0})
    make_run("new", make_report("new", range(10)), params={"recipe.name": "clip", "seed": 1})
    out = tmp_path / "groups.html"
    done = CliRunner().invoke(app, ["compare", "--group-by", "recipe", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "1 runs were measured on other benchmarks and are left out." in done.output
    assert "clip    1     25.0" in done.output
    assert "left out" in out.read_text()
    assert manifest.digest(old)


@pytest.mark.usefixtures("runs")
def test_the_command_writes_a_table_and_a_page(tmp_path: Path) -> None:
    out = tmp_path / "groups.html"
    arguments = ["--group-by", "recipe", "--metric", TOP1, "--baseline", "clip", "--out", str(out)]
    done = CliRunner().invoke(app, ["compare", *arguments])
    assert done.exit_code == 0, done.output
    assert "laclip  3     46.3 ± 4.0 (+11.0, 2/2) ~" in done.output
    html = out.read_text()
    assert html.count('class="dot') == 6
    assert "2 of 2 seeds" in html


def test_pairs_are_seeds_that_both_have() -> None:
    unpaired = gain(TOP1, {"1": 0.5}, {"2": 0.4})
    assert unpaired is not None
    assert (unpaired.num_pairs, unpaired.interval, unpaired.verdict) == (0, None, "unknown")
    assert unpaired.mean == pytest.approx(0.1)
    sure = gain(TOP1, {"1": 0.5, "2": 0.61, "3": 0.7}, {"1": 0.4, "2": 0.5, "3": 0.6})
    assert sure is not None
    assert sure.verdict == "better"
    worse = gain("calibration/colours/ece", {"1": 0.5, "2": 0.61}, {"1": 0.4, "2": 0.5})
    assert worse is not None
    assert worse.num_above == 0
    assert gain(TOP1, {}, {"1": 0.5}) is None


@pytest.mark.usefixtures("runs")
def test_unknown_names() -> None:
    every = reading.runs()
    for keys, options, message in (
        (["recipe.nam"], {}, "param 'recipe.nam': no run has it; did you mean"),
        (["recipe"], {"baseline": "clop"}, "no group 'clop'; did you mean 'clip'"),
        (["recipe"], {"metrics": ["zero_shot/mean/top2"]}, "did you mean 'zero_shot/mean/top1'"),
        (["recipe"], {"where": {"lr": "3"}}, "--where lr=3: no finished run has these"),
    ):
        with pytest.raises(ParamsError, match=message):
            group(every, keys, **options)  # type: ignore[arg-type]


def test_nothing_measured_yet(make_run: MakeRun) -> None:
    make_run("unmeasured", params={"seed": 0}, metrics={"train/loss": 0.1})
    with pytest.raises(TrackingError, match="no finished run"):
        group(reading.runs(), ["seed"])
