"""Complete or absent; the right kind or a clear refusal."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from clipflow.artifacts import manifest
from clipflow.artifacts.pairs import SCHEMA as PAIRS
from clipflow.errors import ArtifactError


def test_success_replaces_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "folder" / "out"
    for text in ("old", "new"):
        with manifest.complete_or_absent(out) as folder:
            (folder / "file").write_text(text)
    assert (out / "file").read_text() == "new"
    assert [p.name for p in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failure_leaves_the_old_one(tmp_path: Path, error: type[BaseException]) -> None:
    out = tmp_path / "out"
    with manifest.complete_or_absent(out) as folder:
        (folder / "file").write_text("old")

    def fail() -> None:
        with manifest.complete_or_absent(out) as folder:
            (folder / "file").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert (out / "file").read_text() == "old"


@pytest.mark.parametrize("renames", range(5))
def test_killed_at_any_rename_new_never_stands_beside_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    outs = [tmp_path / "pairs", tmp_path / "benchmarks"]

    def write(text: str) -> None:
        with manifest.all_complete_or_absent(*outs) as folders:
            for folder in folders:
                (folder / "file").write_text(text)

    write("old")
    done, rename = [], Path.rename

    def killed(source: Path, target: Path) -> Path:
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(source)
        return rename(source, target)

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(Path, "rename", killed)
        write("new")
    assert len({(out / "file").read_text() for out in outs if out.exists()}) <= 1
    write("again")
    assert sorted(tmp_path.glob("*s*")) == sorted(outs)


def test_leftovers_of_a_killed_run_are_cleared(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "half").touch()
    with manifest.complete_or_absent(tmp_path / "out") as folder:
        assert not list(folder.iterdir())


def test_refusals_say_what_to_pass(tmp_path: Path) -> None:
    other = tmp_path / "other"
    with manifest.complete_or_absent(other) as folder:
        manifest.write(folder, "clipflow.rewrites/2")
    with pytest.raises(
        ArtifactError, match=r"expected clipflow.pairs/1, found clipflow.rewrites/2"
    ):
        manifest.read(other, PAIRS)
    with pytest.raises(ArtifactError, match="no such folder; pass the output of 'clipflow ingest'"):
        manifest.read(tmp_path / "nothing", PAIRS)
    (other / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="damaged"):
        manifest.read(other, PAIRS)


def test_digest_is_of_the_content(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with manifest.complete_or_absent(tmp_path / name) as folder:
            manifest.write(folder, PAIRS, num_pairs=3)
    assert manifest.digest(tmp_path / "a") == manifest.digest(tmp_path / "b")
    assert len(manifest.digest(tmp_path / "a")) <= 36  # what MLflow takes
