"""import: LaCLIP's released rewrites, or others in its format, as a `rewrites` artifact."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from clipflow import log
from clipflow.artifacts import manifest
from clipflow.artifacts import rewrites as artifact
from clipflow.artifacts.pairs import Pairs, key_of
from clipflow.errors import ArtifactError
from clipflow.rewrite import agreement, report, stage
from clipflow.rewrite.exchange import key_of_path, plain_spaces
from clipflow.rewrite.exchange.alignment import first_break
from clipflow.rewrite.exchange.files import Counted, Files
from clipflow.rewrite.exchange.table import Row, Table
from clipflow.rewrite.generators import Proposal
from clipflow.rewrite.judge import Judge
from clipflow.rewrite.params import Params

logger = logging.getLogger(__name__)

By = Literal["path", "caption"]


def run(
    params: Params,
    files: Files,
    *,
    pairs: Path,
    rewrites: Path,
    by: By = "path",
    force: bool = False,
) -> None:
    """Write a `rewrites` artifact with what `files` have for each pair, checked as generated ones are.

    A pair takes the texts of the row that names its image, if that row has its caption; or by `caption`
    those of the first row that has. Raises ArtifactError if the files' rows are not as many, if texts and
    captions stop belonging together (unless `force`), or if no pair is found in them.
    """
    source = Pairs(pairs)
    num_rows = _check_aligned(files, force)
    with manifest.complete_or_absent(rewrites) as folder:
        rows = log.progress(files.rows(), total=num_rows, what="reading", unit="row")
        named = ((_name(by, path, caption), caption, texts) for path, caption, texts in rows)
        table = Table(folder / "rows.sqlite", named)
        writer = artifact.Writer(folder)
        counts = _join(params, source, files, by, table, writer)
        table.close()
        if not counts["joined"]:
            raise ArtifactError(_nothing_joined(source, files, by, counts))
        report.finish(
            writer,
            source,
            agreement.load(params.agreement) if params.agreement else None,
            generator={
                "name": "import",
                "by": by,
                "csv": manifest.file_digest(files.csv_file),
                "texts": {name: manifest.file_digest(path) for name, path in files.texts.items()},
            },
            # What generators go by says nothing of these.
            params=params.model_dump(mode="json", exclude={"generator", "seed"})
            | {"num_rewrites": len(files.texts)},
            num_rows=num_rows,
            num_rows_without_pair=counts["rows without pair"],
            num_pairs_without_row=counts["pairs without row"],
            num_pairs_with_other_caption=counts["pairs with other caption"],
        )
    logger.info("%s", stage.summary(rewrites))
    logger.info(
        "%d rows: %d of no pair; %d pairs: %d in no row, %d with another caption than their row",
        num_rows, counts["rows without pair"], len(source), counts["pairs without row"],
        counts["pairs with other caption"],
    )  # fmt: skip


def _check_aligned(files: Files, force: bool) -> int:
    """The number of rows. Raises ArtifactError if the files differ in it, or break on the way."""
    captions = Counted(files.captions())
    lines = {name: Counted(files.lines(name)) for name in files.texts}
    texts = zip(*lines.values(), strict=False)
    beside = ((caption, of_row) for (_, caption), of_row in zip(captions, texts, strict=False))
    bar = log.progress(beside, total=None, what="checking", unit="row")
    broken = first_break(iter(bar), list(lines))
    where = ""
    if broken:
        name, row = broken
        where = (
            f"from about row {row} on, the lines of {files.texts[name]} share no words with the captions"
            " beside them: look there for a line break inside a text, or a lost line"
        )
    deque(captions, maxlen=0)
    for stream in lines.values():
        deque(stream, maxlen=0)
    counts = {files.csv_file: captions.num_items}
    counts |= {files.texts[name]: stream.num_items for name, stream in lines.items()}
    if len(set(counts.values())) > 1:
        shortest, longest = min(counts.values()), max(counts.values())
        found = ", ".join(f"{path} has {num}" for path, num in counts.items())
        last = f"row {shortest + 1} of {longest} is not in all of them"
        raise ArtifactError(f"expected one line of text per row, but {found}: {where or last}")
    if where and not force:
        raise ArtifactError(f"{files.csv_file}: {where}; or pass --force if they are right")
    if where:
        logger.warning("%s; imported all the same", where)
    return captions.num_items


def _join(
    params: Params, source: Pairs, files: Files, by: By, table: Table, writer: artifact.Writer
) -> Counter[str]:
    """Write every shard; count what has found no partner."""
    counts: Counter[str] = Counter()
    judge = Judge(params)
    shards = log.progress(source.by_shard(), total=len(source.shards), what="joining", unit="shard")
    for shard, keys, captions in shards:
        names = keys if by == "path" else [_name(by, "", caption) for caption in captions]
        found = table.look_up(names)
        rows = {}
        for key, name, caption in zip(keys, names, captions, strict=True):
            texts = _texts(caption, found.get(name, []))
            if texts is None:
                counts["pairs with other caption" if name in found else "pairs without row"] += 1
            else:
                counts["joined"] += 1
            proposals = list(_proposals(files, texts or []))
            rows[key] = judge(caption, proposals)
        writer.add_shard(shard, rows)
    counts["rows without pair"] = table.num_unasked()
    return counts


def _name(by: By, path: str, caption: str) -> str:
    """What a row is looked up by."""
    return key_of_path(path) if by == "path" else key_of(plain_spaces(caption))


def _texts(caption: str, rows: list[Row]) -> list[str] | None:
    """The texts of the first row with that caption."""
    same = plain_spaces(caption)
    return next((texts for other, texts in rows if plain_spaces(other) == same), None)


def _proposals(files: Files, texts: list[str]) -> Iterator[Proposal]:
    return (Proposal(text, name) for name, text in zip(files.texts, texts, strict=False))


def _nothing_joined(source: Pairs, files: Files, by: By, counts: Counter[str]) -> str:
    path, caption = next(files.captions(), ("", ""))
    if counts["pairs with other caption"]:
        return (
            f"{files.csv_file}: names images of {source.folder}, but each with another caption, so that its"
            " texts are no rewrites of theirs; ingest the captions of this file"
        )
    first = next(source.rows(0))
    if by == "caption":
        return (
            f"{files.csv_file}: has no caption of {source.folder}; its first is"
            f" '{_short(caption)}', theirs '{_short(first.caption)}'"
        )
    theirs = next(source.facts(0)).get("path", f"none, its key is {first.key}")
    return (
        f"{files.csv_file}: names no image of {source.folder}; its first path is '{_short(path)}', theirs"
        f" '{theirs}'; ingest the same paths, or join them with --by caption"
    )


def _short(text: str) -> str:
    return plain_spaces(text)[:60]
