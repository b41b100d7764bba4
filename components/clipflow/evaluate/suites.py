"""Tasks beyond the `benchmarks` artifact: `evaluate.suites`, each by its name and where it is.

    imagenet: https://example.org/wds_imagenet1k        CLIP-benchmark's layout, also s3:// or a folder
    birds: /data/birds                                  class folders: `test/<class>/*.jpg` or `<class>/...`
    swap_att: {pairs: swap_att.json, images: /coco}     right and wrong captions, as SugarCrepe's or ARO's

What is elsewhere is mirrored once into CLIPFLOW_DATA.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from clipflow import store
from clipflow.artifacts import benchmarks as benchmarks_artifact
from clipflow.artifacts import manifest
from clipflow.artifacts.benchmarks import Task
from clipflow.errors import ArtifactError, ParamsError, did_you_mean
from clipflow.evaluate.params import Pairs, Params

logger = logging.getLogger(__name__)

TEMPLATE = "a photo of a {c}."
"""The prompt for class folders, which bring none."""
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
TIMEOUT_S = 60.0
KEYS = (("caption", "negative_caption"), ("true_caption", "false_caption"))
"""Right and wrong caption, as SugarCrepe and ARO call them."""


def names(params: Params, benchmarks: Path) -> list[str]:
    """All tasks of the artifact and of the suites, sorted; nothing but the manifest is read.

    Raises ParamsError for a name in both, and for one in `out_of_distribution` that is in neither.
    """
    own = benchmarks_artifact.names(benchmarks)
    if twice := set(own) & params.suites.keys():
        raise ParamsError(
            f"params: evaluate.suites: {benchmarks} has a task '{min(twice)}' already; choose another name"
        )
    found = sorted([*own, *params.suites])
    for task, others in params.out_of_distribution.items():
        for name in (task, *others):
            if name not in found:
                raise ParamsError(
                    f"params: evaluate.out_of_distribution: no task '{name}'; {did_you_mean(name, found)}"
                )
    return found


def find(params: Params, benchmarks: Path, wanted: Collection[str]) -> dict[str, Task]:
    """Some of the tasks by name; suites that are elsewhere are mirrored.

    Raises ParamsError, ArtifactError or StoreError for what is no task.
    """
    own = {task.name: task for task in benchmarks_artifact.read(benchmarks)}
    return {name: own[name] if name in own else _task(name, params.suites[name]) for name in wanted}


def measured_on(params: Params, benchmarks: Path) -> str:
    """32 hex digits that identify all that is measured: equal ones can be compared.

    A suite is known by its address: another version of it needs another.
    """
    digest = manifest.digest(benchmarks)
    if not params.suites and params.templates is None:
        return digest
    more = params.model_dump(mode="json", include={"suites", "templates"})
    text = json.dumps([digest, more], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _task(name: str, where: str | Pairs) -> Task:
    if isinstance(where, Pairs):
        return CompositionalPairs(
            name, "compositional", _at_hand(where.images), {}, pairs=_at_hand(where.pairs)
        )
    folder = _mirrored(where) if where.startswith(("http://", "https://")) else _at_hand(where)
    if (folder / "test" / benchmarks_artifact.NUM_SHARDS).is_file():
        kind = folder / benchmarks_artifact.KIND
        is_retrieval = kind.is_file() and kind.read_text().strip() == "retrieval"
        return Task(name, "retrieval" if is_retrieval else "classification", folder, {})
    found = ClassFolders(name, "classification", folder, {})
    if not folder.is_dir() or not found.classnames:
        raise ParamsError(
            f"params: evaluate.suites.{name}: expected CLIP-benchmark's layout (test/nshards.txt) or class"
            f" folders at {where}, found neither; check the path"
        )
    return found


def _at_hand(where: str) -> Path:
    return store.mirror(where) if store.is_url(where) else Path(where)


@dataclass(frozen=True)
class ClassFolders(Task):
    """A folder of images per class, below `test` and perhaps `train`, or just below."""

    @property
    def classnames(self) -> list[str]:
        """The folders' names, with blanks for underscores."""
        return [name.replace("_", " ") for name in self._classes]

    @property
    def templates(self) -> list[str]:
        """Those beside the folders in CLIP-benchmark's file, or one."""
        path = self.folder / benchmarks_artifact.TEMPLATES
        return path.read_text(encoding="utf-8").splitlines() if path.is_file() else [TEMPLATE]

    @property
    def splits(self) -> list[str]:
        """`test`, and `train` where there is such a folder."""
        return ["train", "test"] if (self.folder / "train").is_dir() else ["test"]

    @cached_property
    def _classes(self) -> list[str]:
        root = self._root("test")
        return (
            sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
        )

    def _root(self, split: str) -> Path:
        named = self.folder / split
        return named if named.is_dir() else self.folder

    def files(self, split: str) -> list[Path]:
        """The images, class by class."""
        root = self._root(split)
        return [
            path
            for name in self._classes
            for path in sorted((root / name).rglob("*"))
            if path.suffix.lower() in SUFFIXES
        ]

    def digest(self, split: str) -> str:
        """Of paths and contents."""
        found, root = hashlib.sha256(), self._root(split)
        for path in self.files(split):
            found.update(f"{path.relative_to(root)} {manifest.file_digest(path)}\n".encode())
        return found.hexdigest()[:32]

    def samples(self, split: str) -> Iterator[tuple[bytes, bytes]]:
        """`(image, class index)` of each file."""
        root, place = self._root(split), {name: n for n, name in enumerate(self._classes)}
        for path in self.files(split):
            label = place[path.relative_to(root).parts[0]]
            yield path.read_bytes(), str(label).encode()


@dataclass(frozen=True)
class CompositionalPairs(Task):
    """A JSON file of images with a right and a wrong caption each; `folder` has the images."""

    pairs: Path = Path()

    @property
    def splits(self) -> list[str]:
        """There is no training."""
        return ["test"]

    def files(self, split: str) -> list[Path]:
        """The JSON file, and the images."""
        return [self.pairs, *(self.folder / name for name, _ in self._entries)]

    def digest(self, split: str) -> str:
        """Of the file and the images."""
        of_file = (manifest.file_digest(self._checked(path)) for path in self.files(split))
        return hashlib.sha256(" ".join(of_file).encode()).hexdigest()[:32]

    def samples(self, split: str) -> Iterator[tuple[bytes, bytes]]:
        """`(image, [right, wrong] in JSON)` of each entry. Raises ArtifactError for a missing image."""
        for name, captions in self._entries:
            yield self._checked(self.folder / name).read_bytes(), json.dumps(captions).encode()

    def _checked(self, path: Path) -> Path:
        if not path.is_file():
            raise ArtifactError(
                f"{path}: image of {self.pairs.name} not found; check evaluate.suites.{self.name}.images"
            )
        return path

    @cached_property
    def _entries(self) -> list[tuple[str, list[str]]]:
        try:
            found = json.loads(self.pairs.read_text(encoding="utf-8"))
            entries = list(found.values()) if isinstance(found, dict) else found
            return [_entry(entry) for entry in entries]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(
                f"{self.pairs}: expected entries with filename, caption and negative_caption (or"
                f" image_path, true_caption and false_caption), found something else ({error!r})"
            ) from None


def _entry(entry: dict[str, Any]) -> tuple[str, list[str]]:
    right, wrong = next((keys for keys in KEYS if set(keys) <= entry.keys()), KEYS[0])
    return str(entry.get("filename") or entry["image_path"]), [str(entry[right]), str(entry[wrong])]


def _mirrored(url: str) -> Path:
    """A copy of a task in CLIP-benchmark's layout; files that are here are not fetched again."""
    url = url.rstrip("/")
    folder = store.data() / "suites" / hashlib.sha256(url.encode()).hexdigest()[:16]
    names = [
        benchmarks_artifact.CLASSNAMES,
        benchmarks_artifact.TEMPLATES,
        benchmarks_artifact.KIND,
    ]
    for name in names:
        _fetch(f"{url}/{name}", folder / name, optional=True)
    for split in ("test", "train"):
        count = folder / split / benchmarks_artifact.NUM_SHARDS
        if _fetch(f"{url}/{split}/{count.name}", count, optional=split == "train"):
            for shard in range(int(count.read_text())):
                _fetch(f"{url}/{split}/{shard}.tar", folder / split / f"{shard}.tar")
    return folder


def _fetch(url: str, path: Path, *, optional: bool = False) -> bool:
    if path.exists():
        return True
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".partial")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer, aside.open("wb") as file:
            logger.info("fetching %s", url)
            shutil.copyfileobj(answer, file, 1 << 20)
            expected = int(answer.headers.get("Content-Length") or file.tell())
            if file.tell() != expected:
                raise OSError(f"{file.tell():,} of {expected:,} bytes came")
    except OSError as error:  # HTTPError and URLError are OSErrors
        aside.unlink(missing_ok=True)
        if optional and isinstance(error, urllib.error.HTTPError) and error.code in (403, 404):
            return False
        raise ArtifactError(f"{url}: can't be fetched ({error}); check evaluate.suites") from None
    aside.replace(path)
    return True
