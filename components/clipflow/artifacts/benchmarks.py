"""`benchmarks`: held-out tasks in the layout that CLIP-benchmark reads.

    benchmarks/manifest.json
    benchmarks/<task>/classnames.txt                          one class a line
    benchmarks/<task>/zeroshot_classification_templates.txt   one prompt a line, {c} is the class
    benchmarks/<task>/synonyms.txt                            ours, optional: other names of each class
    benchmarks/<task>/{train,test}/{nshards.txt,0.tar}        <key>.jpg with <key>.cls
    benchmarks/<retrieval task>/test/{nshards.txt,0.tar}      <key>.jpg with <key>.txt, a caption a line

The first template is the canonical one. CLIP-benchmark ignores the manifest and `synonyms.txt`.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipflow.artifacts import manifest
from clipflow.artifacts.pairs import add_file
from clipflow.errors import ArtifactError

SCHEMA = "clipflow.benchmarks/1"
CLASSNAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
SYNONYMS = "synonyms.txt"


class Writer:
    """Fills the folder of a `benchmarks` artifact, a task at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tasks: dict[str, dict[str, Any]] = {}

    def add_classification(
        self,
        task: str,
        classnames: Sequence[str],
        templates: Sequence[str],
        splits: dict[str, Iterable[tuple[bytes, int]]],
        synonyms: Sequence[Sequence[str]] | None = None,
    ) -> None:
        """Write a zero-shot task: `(jpeg, class index)` per sample of each split."""
        folder = self.folder / task
        folder.mkdir(parents=True)
        _write_lines(folder / CLASSNAMES, classnames)
        _write_lines(folder / TEMPLATES, templates)
        if synonyms is not None:
            _write_lines(folder / SYNONYMS, [", ".join(names) for names in synonyms])
        counts = {
            split: _write_split(
                folder / split, (({"jpg": i, "cls": str(y).encode()}) for i, y in rows)
            )
            for split, rows in splits.items()
        }
        self._register(task, "classification", counts, num_classes=len(classnames))

    def add_retrieval(self, task: str, rows: Iterable[tuple[bytes, Sequence[str]]]) -> None:
        """Write an image-text retrieval task: `(jpeg, captions)` per sample."""
        samples = ({"jpg": i, "txt": "\n".join(texts).encode()} for i, texts in rows)
        self._register(
            task, "retrieval", {"test": _write_split(self.folder / task / "test", samples)}
        )

    def close(self, **facts: Any) -> None:
        """Write the manifest."""
        manifest.write(self.folder, SCHEMA, tasks=self.tasks, **facts)

    def _register(self, task: str, kind: str, counts: dict[str, int], **facts: Any) -> None:
        files = sorted(p for p in (self.folder / task).rglob("*") if p.is_file())
        digests = {str(p.relative_to(self.folder)): manifest.file_digest(p) for p in files}
        self.tasks[task] = {"kind": kind, "num_samples": counts, "sha256": digests, **facts}


@dataclass(frozen=True)
class Task:
    """One task of a `benchmarks` artifact."""

    name: str
    kind: str
    folder: Path
    num_samples: dict[str, int]
    """How many samples the manifest promises, by split."""

    @property
    def classnames(self) -> list[str]:
        """The name of each class, by class index."""
        return _read_lines(self.folder / CLASSNAMES)

    @property
    def templates(self) -> list[str]:
        """Prompts in which `{c}` stands for the class; the first is the canonical one."""
        return _read_lines(self.folder / TEMPLATES)

    @property
    def synonyms(self) -> list[list[str]] | None:
        """Other names of each class, by class index, where the task has them."""
        path = self.folder / SYNONYMS
        return [line.split(", ") for line in _read_lines(path)] if path.exists() else None

    @property
    def splits(self) -> list[str]:
        """The splits that exist, of `train` and `test`."""
        return [split for split in ("train", "test") if (self.folder / split).is_dir()]

    def samples(self, split: str) -> Iterator[tuple[bytes, bytes]]:
        """`(jpeg, label or captions)` of each sample, as bytes. Raises ArtifactError for a damaged tar."""
        count = 0
        shards = int((self.folder / split / "nshards.txt").read_text())
        for shard in range(shards):
            path = self.folder / split / f"{shard}.tar"
            try:
                with tarfile.open(path) as tar:
                    image = b""
                    for member in tar:
                        file = tar.extractfile(member)
                        data = file.read() if file else b""
                        if member.name.endswith(".jpg"):
                            image = data
                        else:
                            count += 1
                            yield image, data
            except (OSError, tarfile.TarError) as error:
                raise ArtifactError(
                    f"{path}: missing, truncated or no tar ({error}); make it again with 'clipflow ingest'"
                ) from None
        if count != self.num_samples[split]:
            raise ArtifactError(
                f"{self.folder / split}: expected {self.num_samples[split]} samples as in the manifest,"
                f" found {count}; make it again with 'clipflow ingest'"
            )


def read(folder: Path) -> list[Task]:
    """The tasks of a `benchmarks` artifact, sorted by name. Raises ArtifactError for another kind."""
    facts = manifest.read(folder, SCHEMA)
    return [
        Task(name, task["kind"], folder / name, task["num_samples"])
        for name, task in sorted(facts["tasks"].items())
    ]


def _write_split(folder: Path, samples: Iterable[dict[str, bytes]]) -> int:
    folder.mkdir(parents=True)
    (folder / "nshards.txt").write_text("1\n")
    count = 0
    with tarfile.open(folder / "0.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for count, sample in enumerate(samples, start=1):
            for suffix, data in sample.items():
                add_file(tar, f"s{count - 1:07d}.{suffix}", data)
    return count


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise ArtifactError(f"{path}: missing; make it again with 'clipflow ingest'") from None
