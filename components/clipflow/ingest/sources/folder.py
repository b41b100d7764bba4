"""folder: images on disk, with captions in a CSV/TSV file or made from the names of class folders."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from clipflow import log
from clipflow.artifacts.pairs import key_of
from clipflow.errors import ArtifactError
from clipflow.ingest.images import UnusableImageError, rgb_jpeg
from clipflow.ingest.sources import Source, _captions
from clipflow.ingest.sources._files import existing, file_below, held_out, images_under, lines

if TYPE_CHECKING:
    from clipflow.artifacts import benchmarks as benchmarks_artifact
    from clipflow.artifacts import pairs as pairs_artifact
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

    def fill(
        self, params: Params, pairs: pairs_artifact.Writer, benchmarks: benchmarks_artifact.Writer
    ) -> None:
        """Read every image below `ingest.data`."""
        root = existing(Path(params.data), "a folder of images")
        if self.captions_file is not None:
            file = file_below(root, self.captions_file, "a captions CSV or TSV")
            self._with_captions(root, file, params, pairs, benchmarks)
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
        table = _captions.read(
            captions_file, self.image_column, self.caption_column, pairs.leave_out
        )
        with benchmarks.retrieval("heldout") as heldout:
            for name, captions in log.progress(
                table.items(), total=len(table), what="images", unit="image"
            ):
                jpeg = _usable(root / name, name, params, pairs) if captions else None
                if jpeg is None:
                    continue
                if held_out(key_of(name), params.seed, self.test_share):
                    heldout.add("test", jpeg, captions)
                    continue
                pairs.add(key_of(name), jpeg, captions[0], {"path": name})
                for _ in captions[1:]:
                    pairs.leave_out("another caption of the same image", name)
        for path in images_under(root):
            name = path.relative_to(root).as_posix()
            if name not in table:
                pairs.leave_out("image without caption", name)

    def _with_classes(
        self,
        root: Path,
        params: Params,
        pairs: pairs_artifact.Writer,
        benchmarks: benchmarks_artifact.Writer,
    ) -> None:
        split = (root / "train").is_dir() and (root / "test").is_dir()
        roots = [root / "train", root / "test"] if split else [root]
        classes = _classes(roots)
        templates = self._templates(root)
        names = [_spoken(folder) for folder in classes]
        with benchmarks.classification(_task_name(root), names, templates) as task:
            for label, name, path in _labelled(root, roots, classes):
                jpeg = _usable(path, name, params, pairs)
                if jpeg is None:
                    continue
                held = not split and held_out(key_of(name), params.seed, self.test_share)
                if held or (split and name.startswith("test/")):
                    task.add("test", jpeg, label)
                    continue
                task.add("train", jpeg, label)
                template = random.Random(f"{params.seed}/{key_of(name)}").choice(templates)
                caption = template.replace("{c}", names[label])
                pairs.add(key_of(name), jpeg, caption, {"path": name, "class": classes[label]})

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


def _labelled(root: Path, roots: list[Path], classes: list[str]) -> Iterator[tuple[int, str, Path]]:
    """`(class index, name relative to root, path)` of every image in class folders."""
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
    except (FileNotFoundError, ValueError):  # ValueError: no file can have that name
        pairs.leave_out("no such image", name)
    except (UnusableImageError, OSError) as error:
        reason = str(error) if isinstance(error, UnusableImageError) else "unreadable file"
        pairs.leave_out(reason, name)
    return None


def _spoken(folder: str) -> str:
    return folder.replace("_", " ").replace("-", " ")


def _task_name(root: Path) -> str:
    """The data folder's name in the characters that MLflow's metric names may have."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", root.name) or "folder"
