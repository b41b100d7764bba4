"""folder: images on disk, with captions in a CSV/TSV file or made from the names of class folders."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from clipflow.artifacts.pairs import key_of
from clipflow.errors import ArtifactError
from clipflow.ingest.rows import Refused, Row, in_share
from clipflow.ingest.sources import Source, _captions
from clipflow.ingest.sources._files import existing, file_below, images_under, lines

if TYPE_CHECKING:
    from clipflow.artifacts import benchmarks as benchmarks_artifact
    from clipflow.ingest.params import Params

TEMPLATES = Path(__file__).with_name("templates.txt")


class Folder(Source):
    """Two layouts, told apart by `captions_file`.

    With it, rows name images below `ingest.data` and their captions (open_clip's and LaCLIP's CSV and
    TSV files); the held-out share becomes a retrieval benchmark. Of an image with several rows the
    first caption is trained on; the benchmark has them all. Without it, `ingest.data` holds class
    folders, or `train/` and `test/` of class folders; captions come from the templates, and the test
    images become a classification benchmark.
    """

    captions_file: str | None
    """CSV, or TSV without quoting, with a header line, below `ingest.data`; null for class folders."""
    image_column: str
    """Column with the image's path relative to `ingest.data`: `filepath` in open_clip's files."""
    caption_column: str
    """Column with the caption: `title` in open_clip's files."""
    templates_file: str | None
    """Captions for class folders, one a line, {c} for the class, below `ingest.data`; null: built-in."""
    test_share: float = Field(ge=0, lt=1)
    """Share of samples held out for the benchmark, where there is no `test/` folder."""

    def rows(self, params: Params, root: Path) -> Iterator[Row]:
        """Every image below `root`, in the order of the captions file or of the class folders."""
        existing(root, "a folder of images")
        if self.captions_file is not None:
            yield from self._with_captions(root, params.seed)
        else:
            yield from self._with_classes(root, params.seed)

    def image(self, root: Path, row: Row) -> bytes | Refused:
        """The file."""
        try:
            return (root / row.name).read_bytes()
        except (FileNotFoundError, ValueError):  # ValueError: no file can have that name
            return Refused("no such image")
        except OSError:
            return Refused("unreadable file", retryable=True)

    def held_out(
        self, root: Path, benchmarks: benchmarks_artifact.Writer
    ) -> AbstractContextManager[benchmarks_artifact.TaskWriter | None]:
        """Retrieval by captions, or classification by folders."""
        if self.captions_file is not None:
            return benchmarks.retrieval("heldout")
        names = [_spoken(folder) for folder in _classes(_roots(root))]
        return benchmarks.classification(_task_name(root), names, self._templates(root))

    def _with_captions(self, root: Path, seed: int) -> Iterator[Row]:
        file = file_below(root, str(self.captions_file), "a captions CSV or TSV")
        unusable: list[Row] = []
        table = _captions.read(
            file,
            self.image_column,
            self.caption_column,
            lambda reason, name: unusable.append(Row(name, refused=reason)),
        )
        yield from unusable
        for name, captions in table.items():
            if captions:
                key = key_of(name)
                held = in_share(f"{seed}/{key}", self.test_share)
                yield Row(name, tuple(captions), key, facts={"path": name}, held_out=held)
        for path in images_under(root):
            name = path.relative_to(root).as_posix()
            if name not in table:
                yield Row(name, refused="image without caption")

    def _with_classes(self, root: Path, seed: int) -> Iterator[Row]:
        roots = _roots(root)
        classes, templates = _classes(roots), self._templates(root)
        for label, name in _labelled(root, roots, classes):
            key = key_of(name)
            held = name.startswith("test/") if len(roots) > 1 else (
                in_share(f"{seed}/{key}", self.test_share)
            )  # fmt: skip
            template = random.Random(f"{seed}/{key}").choice(templates)
            caption = template.replace("{c}", _spoken(classes[label]))
            facts = {"path": name, "class": classes[label]}
            yield Row(name, (caption,), key, facts=facts, label=label, held_out=held)

    def _templates(self, root: Path) -> list[str]:
        path = TEMPLATES
        if self.templates_file is not None:
            path = file_below(root, self.templates_file, "a template file")
        templates = [line.strip() for line in lines(path) if line.strip()]
        wrong = [line for line in templates or [""] if "{c}" not in line]
        if wrong:
            raise ArtifactError(
                f"{path}: expected {{c}} for the class in each line, got '{wrong[0]}'; "
                "write for example 'a photo of a {c}.'"
            )
        return templates


def _classes(roots: list[Path]) -> list[str]:
    """The names of the class folders, sorted: those of the first root, which trains."""
    train_root = roots[0]
    classes = _folders(train_root)
    if not classes:
        raise ArtifactError(
            f"{train_root}: expected class folders of images, found none; "
            "or set sources.folder.captions_file"
        )
    for folder in roots[1:]:
        untrained = sorted(set(_folders(folder)) - set(classes))
        if untrained:
            raise ArtifactError(
                f"{folder}: expected only classes that {train_root} has, got also "
                f"{', '.join(untrained)}; rename, add or remove these folders"
            )
    called: dict[str, str] = {}
    for name in classes:
        other = called.setdefault(_spoken(name), name)
        if other != name:
            raise ArtifactError(
                f"{train_root}: expected a name of its own for each class, got '{other}' and '{name}', "
                f"both called '{_spoken(name)}' in captions; merge or rename these folders"
            )
    return classes


def _folders(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _labelled(root: Path, roots: list[Path], classes: list[str]) -> Iterator[tuple[int, str]]:
    """`(class index, name relative to root)` of every image in class folders."""
    for folder in roots:
        for label, name in enumerate(classes):
            for path in images_under(folder / name):
                yield label, path.relative_to(root).as_posix()


def _roots(root: Path) -> list[Path]:
    """Where class folders are: `train/` and `test/` if there are both."""
    split = (root / "train").is_dir() and (root / "test").is_dir()
    return [root / "train", root / "test"] if split else [root]


def _spoken(folder: str) -> str:
    return folder.replace("_", " ").replace("-", " ")


def _task_name(root: Path) -> str:
    """The data folder's name in the characters that MLflow's metric names may have."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", root.name) or "folder"
