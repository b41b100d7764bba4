"""folder: images on disk, with captions in a CSV/TSV file or made from the names of class folders."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from clipflow import log
from clipflow.errors import ArtifactError, did_you_mean
from clipflow.ingest.images import UnusableImageError, rgb_jpeg
from clipflow.ingest.sources import Source
from clipflow.ingest.sources._files import existing, held_out, images_under, key

if TYPE_CHECKING:
    from clipflow.artifacts import benchmarks as benchmarks_artifact
    from clipflow.artifacts import pairs as pairs_artifact
    from clipflow.ingest.params import Params

TEMPLATES = Path(__file__).with_name("templates.txt")


class Folder(Source):
    """Two layouts, told apart by `captions_file`.

    With it, rows name images below `ingest.data` and their captions (open_clip's and LaCLIP's CSV and
    TSV files); the held-out share becomes a retrieval benchmark. Without it, `ingest.data` holds class
    folders, or `train/` and `test/` of class folders; captions come from the templates, and the test
    images become a classification benchmark.
    """

    captions_file: str | None
    """CSV (commas) or TSV (tabs) with a header line; null for class folders."""
    image_column: str
    """Column with the image's path relative to `ingest.data`: `filepath` in open_clip's files."""
    caption_column: str
    """Column with the caption: `title` in open_clip's files."""
    templates_file: str | None
    """Captions for class folders, one a line, with {c} for the class; null for the built-in ones."""
    test_share: float = Field(ge=0, lt=1)
    """Share of samples held out for the benchmark, where there is no `test/` folder."""

    def fill(
        self, params: Params, pairs: pairs_artifact.Writer, benchmarks: benchmarks_artifact.Writer
    ) -> None:
        """Read every image below `ingest.data`."""
        root = existing(Path(params.data), "a folder of images")
        if self.captions_file is not None:
            self._with_captions(root, Path(self.captions_file), params, pairs, benchmarks)
        else:
            self._with_classes(root, params, pairs, benchmarks)

    def _with_captions(
        self,
        root: Path,
        captions_file: Path,
        params: Params,
        pairs: pairs_artifact.Writer,
        benchmarks: benchmarks_artifact.Writer,
    ) -> None:
        held: list[tuple[bytes, list[str]]] = []
        captions = self._captions(existing(captions_file, "a captions CSV or TSV"))
        for name, caption in log.progress(
            captions.items(), total=None, what="images", unit="image"
        ):
            jpeg = _usable(root / name, name, params, pairs)
            if jpeg is None:
                continue
            if not caption.strip():
                pairs.leave_out("empty caption", name)
            elif held_out(key(name), params.seed, self.test_share):
                held.append((jpeg, [caption.strip()]))
            else:
                pairs.add(key(name), jpeg, caption.strip(), {"path": name})
        for path in images_under(root):
            name = path.relative_to(root).as_posix()
            if name not in captions:
                pairs.leave_out("image without caption", name)
        if held:
            benchmarks.add_retrieval("heldout", held)

    def _with_classes(
        self,
        root: Path,
        params: Params,
        pairs: pairs_artifact.Writer,
        benchmarks: benchmarks_artifact.Writer,
    ) -> None:
        split = (root / "train").is_dir() and (root / "test").is_dir()
        train_root = root / "train" if split else root
        classes = sorted(p.name for p in train_root.iterdir() if p.is_dir())
        if not classes:
            raise ArtifactError(
                f"{train_root}: expected class folders of images, found none; "
                "or set sources.folder.captions_file"
            )
        file = (
            existing(Path(self.templates_file), "a template file")
            if self.templates_file
            else TEMPLATES
        )
        templates = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        for line in templates:
            if "{c}" not in line:
                raise ArtifactError(
                    f"{file}: expected {{c}} for the class in each line, got '{line}'"
                )
        samples: dict[str, list[tuple[bytes, int]]] = {"train": [], "test": []}
        for label, name, path in _labelled(root, train_root, classes):
            jpeg = _usable(path, name, params, pairs)
            if jpeg is None:
                continue
            held = not split and held_out(key(name), params.seed, self.test_share)
            if held or (split and name.startswith("test/")):
                samples["test"].append((jpeg, label))
                continue
            samples["train"].append((jpeg, label))
            template = random.Random(f"{params.seed}/{key(name)}").choice(templates)
            caption = template.replace("{c}", _spoken(classes[label]))
            pairs.add(key(name), jpeg, caption, {"path": name, "class": classes[label]})
        if samples["test"]:
            names = [_spoken(name) for name in classes]
            benchmarks.add_classification(root.name or "folder", names, templates, dict(samples))

    def _captions(self, path: Path) -> dict[str, str]:
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, delimiter=delimiter)
            for column in (self.image_column, self.caption_column):
                if column not in (rows.fieldnames or []):
                    hint = did_you_mean(column, rows.fieldnames or ["no header line"])
                    raise ArtifactError(f"{path}: expected a column '{column}'; {hint}")
            return {row[self.image_column]: row[self.caption_column] or "" for row in rows}


def _labelled(root: Path, train_root: Path, classes: list[str]) -> Iterator[tuple[int, str, Path]]:
    """`(class index, name relative to root, path)` of every image in class folders."""
    roots = [train_root] if train_root == root else [train_root, root / "test"]
    paths = [
        (label, path)
        for folder in roots
        for label, name in enumerate(classes)
        for path in images_under(folder / name)
    ]
    for label, path in log.progress(paths, total=len(paths), what="images", unit="image"):
        yield label, path.relative_to(root).as_posix(), path


def _usable(path: Path, name: str, params: Params, pairs: pairs_artifact.Writer) -> bytes | None:
    """The image as RGB JPEG bytes, or None after it was counted as left out."""
    try:
        return rgb_jpeg(path.read_bytes(), params.jpeg_quality)
    except FileNotFoundError:
        pairs.leave_out("no such image", name)
    except (UnusableImageError, OSError) as error:
        reason = str(error) if isinstance(error, UnusableImageError) else "unreadable file"
        pairs.leave_out(reason, name)
    return None


def _spoken(folder: str) -> str:
    return folder.replace("_", " ").replace("-", " ")
