"""`benchmarks`: held-out tasks in the layout that CLIP-benchmark reads.

    benchmarks/manifest.json
    benchmarks/<task>/classnames.txt                          one class a line
    benchmarks/<task>/zeroshot_classification_templates.txt   one prompt a line, {c} is the class
    benchmarks/<task>/synonyms.txt                            ours, optional: other names of each class
    benchmarks/<task>/{train,test}/{nshards.txt,0.tar}        <key>.jpg with <key>.cls
    benchmarks/<retrieval task>/dataset_type.txt              the word `retrieval`
    benchmarks/<retrieval task>/test/{nshards.txt,0.tar}      <key>.jpg with <key>.txt, a caption a line

The first template is the canonical one. CLIP-benchmark ignores the manifest and `synonyms.txt`.
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipflow.artifacts import manifest
from clipflow.artifacts.pairs import TAR_FORMAT, add_file
from clipflow.errors import ArtifactError

SCHEMA = "clipflow.benchmarks/1"
CLASSNAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
SYNONYMS = "synonyms.txt"
NUM_SHARDS = "nshards.txt"
KIND = "dataset_type.txt"
"""Says `retrieval` where a task is that; classification tasks don't have it."""
IMAGES = ("jpg", "jpeg", "png", "webp")
"""Extensions of images in tars."""


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
        with self.classification(task, classnames, templates, synonyms) as writer:
            for split, rows in splits.items():
                for jpeg, label in rows:
                    writer.add(split, jpeg, label)

    def add_retrieval(self, task: str, rows: Iterable[tuple[bytes, Sequence[str]]]) -> None:
        """Write an image-text retrieval task: `(jpeg, captions)` per sample."""
        with self.retrieval(task) as writer:
            for jpeg, captions in rows:
                writer.add("test", jpeg, captions)

    @contextmanager
    def classification(
        self,
        task: str,
        classnames: Sequence[str],
        templates: Sequence[str],
        synonyms: Sequence[Sequence[str]] | None = None,
    ) -> Iterator[TaskWriter]:
        """A zero-shot task to add samples to as they come; without a test sample there is no task."""
        with self._task(task, "classification", num_classes=len(classnames)) as writer:
            _write_lines(writer.folder / CLASSNAMES, classnames)
            _write_lines(writer.folder / TEMPLATES, templates)
            if synonyms is not None:
                _write_lines(writer.folder / SYNONYMS, [", ".join(names) for names in synonyms])
            yield writer

    @contextmanager
    def retrieval(self, task: str) -> Iterator[TaskWriter]:
        """A retrieval task to add samples to as they come; without a test sample there is no task."""
        with self._task(task, "retrieval") as writer:
            (writer.folder / KIND).write_text("retrieval\n")
            yield writer

    def close(self, **facts: Any) -> None:
        """Write the manifest."""
        manifest.write(self.folder, SCHEMA, tasks=self.tasks, **facts)

    @contextmanager
    def _task(self, task: str, kind: str, **facts: Any) -> Iterator[TaskWriter]:
        writer = TaskWriter(self.folder / task)
        try:
            yield writer
        finally:
            writer.close()
        if not writer.num_samples["test"]:
            shutil.rmtree(writer.folder)
            return
        files = sorted(p for p in writer.folder.rglob("*") if p.is_file())
        digests = {str(p.relative_to(self.folder)): manifest.file_digest(p) for p in files}
        counts = dict(writer.num_samples)
        self.tasks[task] = {"kind": kind, "num_samples": counts, "sha256": digests, **facts}


class TaskWriter:
    """Fills the splits of one task, a sample at a time, so that no split has to fit in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.num_samples: Counter[str] = Counter()
        self._tars: dict[str, tarfile.TarFile] = {}
        folder.mkdir(parents=True)

    def add(self, split: str, jpeg: bytes, label: int | Sequence[str]) -> None:
        """Append one sample with its class index or, for retrieval, its captions."""
        if split not in self._tars:
            folder = self.folder / split
            folder.mkdir()
            (folder / NUM_SHARDS).write_text("1\n")
            self._tars[split] = tarfile.open(folder / "0.tar", "w", format=TAR_FORMAT)  # noqa: SIM115
        tar, name = self._tars[split], f"s{self.num_samples[split]:07d}"
        add_file(tar, f"{name}.jpg", jpeg)
        if isinstance(label, int):
            add_file(tar, f"{name}.cls", str(label).encode())
        else:
            captions = [" ".join(caption.splitlines()) for caption in label]
            add_file(tar, f"{name}.txt", "\n".join(captions).encode())
        self.num_samples[split] += 1

    def close(self) -> None:
        """Finish the tars."""
        for tar in self._tars.values():
            tar.close()


@dataclass(frozen=True)
class Task:
    """One task, in CLIP-benchmark's layout."""

    name: str
    kind: str
    """`classification`, `retrieval` or, of other sources, `compositional`."""
    folder: Path
    num_samples: dict[str, int]
    """How many samples there are, by split, where that is known beforehand."""
    sha256: dict[str, str] = field(default_factory=dict)
    """Digests of the task's files, by path below the artifact, where they are known beforehand."""

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

    def files(self, split: str) -> list[Path]:
        """What a split's samples are in."""
        count = (self.folder / split / NUM_SHARDS).read_text()
        return [self.folder / split / f"{shard}.tar" for shard in range(int(count))]

    def digest(self, split: str) -> str:
        """32 hex digits that identify the samples of a split."""
        of_file = [
            self.sha256.get(f"{self.name}/{split}/{file.name}") or manifest.file_digest(file)
            for file in self.files(split)
        ]
        return hashlib.sha256(" ".join(of_file).encode()).hexdigest()[:32]

    def samples(self, split: str) -> Iterator[tuple[bytes, bytes]]:
        """`(image, label or captions)` of each sample, as bytes. Raises ArtifactError for a damaged tar."""
        count = 0
        for path in self.files(split):
            try:
                with tarfile.open(path) as tar:
                    for sample in _grouped(tar):
                        if found := _sample(sample):
                            count += 1
                            yield found
            except (OSError, tarfile.TarError) as error:
                raise ArtifactError(
                    f"{path}: missing, truncated or no tar ({error}); make it again with 'clipflow ingest'"
                ) from None
        if count != self.num_samples.get(split, count):
            raise ArtifactError(
                f"{self.folder / split}: expected {self.num_samples[split]} samples as in the manifest,"
                f" found {count}; make it again with 'clipflow ingest'"
            )


def _grouped(tar: tarfile.TarFile) -> Iterator[dict[str, bytes]]:
    """The files of each sample, which share what their names have before the first dot, by extension."""
    key, files = "", dict[str, bytes]()
    for member in tar:
        if not member.isfile():
            continue
        name, _, extension = member.name.rpartition("/")[2].partition(".")
        prefix = f"{member.name.rpartition('/')[0]}/{name}"
        if prefix != key and files:
            yield files
            files = {}
        file = tar.extractfile(member)
        key, files[extension.lower()] = prefix, file.read() if file else b""
    if files:
        yield files


def _sample(files: dict[str, bytes]) -> tuple[bytes, bytes] | None:
    """The image and its note, of which CLIP-benchmark knows `cls` and `txt`."""
    images = [files[name] for name in IMAGES if name in files]
    notes = [files[name] for name in ("cls", "txt") if name in files]
    return (images[0], notes[0]) if images and notes else None


def names(folder: Path) -> list[str]:
    """The names of the tasks, sorted; only the manifest is read. Raises ArtifactError for another kind."""
    return sorted(manifest.read(folder, SCHEMA)["tasks"])


def read(folder: Path) -> list[Task]:
    """The tasks of a `benchmarks` artifact, sorted by name. Raises ArtifactError for another kind."""
    facts = manifest.read(folder, SCHEMA)
    return [
        Task(name, task["kind"], folder / name, task["num_samples"], task["sha256"])
        for name, task in sorted(facts["tasks"].items())
    ]


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise ArtifactError(f"{path}: missing; make it again with 'clipflow ingest'") from None
