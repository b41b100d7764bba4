"""The model card: what it says is in the artifacts, and it is where people look."""

from collections.abc import Callable
from pathlib import Path

import pytest

from clipflow import track
from clipflow.artifacts import checkpoint as checkpoints
from clipflow.artifacts import manifest
from clipflow.artifacts import report as reports
from clipflow.register import card
from clipflow.register.stage import run
from clipflow.track import files
from unit.register.test_stage import PARAMS

DATA = {
    "pairs": {"num_pairs": 2000, "source": "scenes", "left_out": {"too small": 12}},
    "rewrites": {
        "generator": "hf",
        "model": "SmolLM2",
        "accepted": {"chatgpt": 1900, "coco": 1800},
        "num_without_rewrite": 3,
    },
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def register(checkpoint: Path, report: Path) -> None:
    run(PARAMS, checkpoint=checkpoint, report=report, registration=Path("registration"))


def written(folder: Path) -> str:
    file = files.model_file(track.aliased("scenes", "challenger"), card.FILE, folder)
    assert file is not None
    return file.read_text()


def test_says_what_the_artifacts_say(
    make_checkpoint: Callable[..., Path], make_report: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint, report = make_checkpoint(0), make_report("report0", mean=0.5, colour=0.6)
    facts = manifest.read(checkpoint, checkpoints.SCHEMA)
    facts |= {"recipe_source": "Fan et al. 2023", "num_parameters": 1_234_567, "data": DATA}
    facts["params"] = {"steps": 100, "batch_size": 64, "recipe": {"name": "laclip"}}
    manifest.write_json(checkpoint / manifest.MANIFEST, facts)
    manifest.write_json(report / reports.INTERVALS, {"zero_shot/colour/top1": [0.55, 0.651]})
    register(checkpoint, report)

    text = written(tmp_path / "got")
    for line in (
        "# scenes version 1",
        "| zero_shot/colour/top1 | 60.0 | 55.0 to 65.1 |",
        "| zero_shot/mean/top1 | 50.0 | not computed |",
        "Accepted as @champion:",
        "- There is no champion yet; zero_shot/mean/top1 is 0.5000.",
        "- Recipe: laclip. Source: Fan et al. 2023",
        "- Architecture: tiny, 1,234,567 parameters, images of 32 px, texts of up to 16 tokens.",
        "- 6,400 samples seen: 100 steps of 64.",
        f"- Pairs: 2,000 from the source scenes; left out 12 (too small). Digest {'0' * 32}.",
        "- Rewrites that lay beside them, by hf with SmolLM2: 1,900 (chatgpt), 1,800 (coco);"
        " 3 captions without any. Digest unknown.",
        "- It has seen 2,000 pairs, each 3.2 times on average.",
        "- Measured by zero-shot classification on: colour.",
        "- Git commit: abc",
        "| recipe.name | laclip |",
        "| steps | 100 |",
    ):
        assert line in text.splitlines()
    assert "\n\n\n" not in text
    assert track.aliased("scenes", "challenger").description == text


def test_says_nothing_of_what_an_older_checkpoint_did_not_note(
    make_checkpoint: Callable[..., Path], make_report: Callable[..., Path], tmp_path: Path
) -> None:
    register(make_checkpoint(0), make_report("report0", mean=0.5))
    text = written(tmp_path / "got")
    assert "| zero_shot/mean/top1 | 50.0 |" in text.splitlines()
    assert "Intervals were not computed." in text
    assert "None" not in text
    assert "samples seen" not in text
    assert "- Pairs:" not in text


def test_a_changed_decision_changes_the_card(
    make_checkpoint: Callable[..., Path], make_report: Callable[..., Path], tmp_path: Path
) -> None:
    register(make_checkpoint(0), make_report("report0", mean=0.5))
    register(make_checkpoint(1), make_report("report1", mean=0.6))
    first = track.aliased("scenes", "champion")
    assert "Accepted as @champion in comparison with version 1:" in first.description
    register(Path("checkpoint1"), Path("report1"))
    again = track.aliased("scenes", "champion")
    assert again.last_updated_timestamp == first.last_updated_timestamp

    stricter = PARAMS.model_copy(update={"min_gain": 0.2})
    arguments = {"checkpoint": Path("checkpoint1"), "report": Path("report1")}
    run(stricter, **arguments, registration=Path("registration"))
    version = track.aliased("scenes", "challenger")
    assert "Not accepted as @champion in comparison with version 1:" in version.description
    assert written(tmp_path / "got") == version.description


def test_a_long_card_is_cut_between_lines() -> None:
    lines = [f"| metric {number} | 50.0 |" for number in range(400)]
    short = card.shortened("\n".join(lines))
    assert len(short) <= card.MAX_DESCRIPTION
    body, _, rest = short.partition("\n\n")
    assert set(body.splitlines()) < set(lines)
    assert rest == "The rest of this card is README.md among the model's files.\n"
