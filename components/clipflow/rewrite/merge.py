"""merge: the parts that `clipflow rewrite --shard-range` wrote, as the one artifact of a run over all."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clipflow import log
from clipflow.artifacts import manifest
from clipflow.artifacts import rewrites as artifact
from clipflow.artifacts.pairs import Pairs
from clipflow.errors import ArtifactError
from clipflow.rewrite import agreement, report, stage

logger = logging.getLogger(__name__)


class _Shard(NamedTuple):
    part: Path
    facts: dict[str, Any]
    """Its entry in the part's manifest."""

    @property
    def path(self) -> Path:
        return self.part / str(self.facts["url"])


def run(parts: Sequence[Path], *, pairs: Path, rewrites: Path) -> None:
    """Join `parts` to a `rewrites` artifact that equals, byte for byte, that of one run over all shards.

    Raises ArtifactError if they were made in different ways or of other pairs, if two have the same
    shard, if one is damaged, or if a shard of `pairs` is in no part.
    """
    source = Pairs(pairs, images=False)
    manifests = [manifest.read(part, artifact.SCHEMA) for part in parts]
    made_with = _made_with(parts, manifests)
    shards = _shards(parts, manifests)
    _check_complete(shards, made_with, source)
    by = made_with["params"]["agreement"]
    with manifest.complete_or_absent(rewrites) as folder:
        writer = artifact.Writer(folder)
        for shard in log.progress(shards, total=len(shards), what="merging", unit="shard"):
            _check_whole(shard)
            writer.adopt(shard.path)
        report.finish(writer, source, agreement.load(by) if by else None, **made_with)
    logger.info("merged %d parts: %s", len(parts), stage.summary(rewrites))


def _made_with(parts: Sequence[Path], manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all parts say of how they were made. Raises ArtifactError at the first that says otherwise."""
    known = [
        {
            name: value
            for name, value in facts.items()
            if name not in {*artifact.OF_SHARDS, "schema"}
        }
        for facts in manifests
    ]
    for part, facts in zip(parts[1:], known[1:], strict=True):
        for name, here, there in _differences(facts, known[0]):
            raise ArtifactError(
                f"{part}: made with {name} {json.dumps(here)}, but {parts[0]} with {json.dumps(there)};"
                " merge only parts that one params file made of the same pairs"
            )
    return known[0]


def _differences(
    ours: Mapping[str, Any], others: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """`(dotted name, ours, theirs)` of whatever differs."""
    for name in sorted({*ours, *others}):
        here, there = ours.get(name), others.get(name)
        if isinstance(here, dict) and isinstance(there, dict):
            yield from _differences(here, there, f"{prefix}{name}.")
        elif here != there:
            yield f"{prefix}{name}", here, there


def _shards(parts: Sequence[Path], manifests: Sequence[Mapping[str, Any]]) -> list[_Shard]:
    """The shards of all parts. Raises ArtifactError if two parts have the same one."""
    shards: dict[str, _Shard] = {}
    for part, facts in zip(parts, manifests, strict=True):
        for entry in facts["shards"]:
            shard = _Shard(part, entry)
            other = shards.setdefault(entry["url"], shard)
            if other is not shard:
                raise ArtifactError(
                    f"{shard.path}: also in {other.part}; merge parts of different --shard-range"
                )
    return list(shards.values())


def _check_complete(shards: Sequence[_Shard], made_with: Mapping[str, Any], source: Pairs) -> None:
    pairs, expected = source.folder, manifest.digest(source.folder)
    if made_with.get("pairs") != expected:
        raise ArtifactError(
            f"{shards[0].part}: made of other pairs ({made_with.get('pairs')}) than {pairs} ({expected});"
            " pass the pairs that the parts were made of"
        )
    there = {shard.path.stem for shard in shards}
    missing = [n for n, tar in enumerate(source.shards) if tar.stem not in there]
    if missing:
        raise ArtifactError(
            f"{pairs}: has {len(source.shards)} shards, the parts have {len(there)} of them; make the"
            f" others with 'clipflow rewrite --shard-range A:B', A:B being {', '.join(_ranges(missing))}"
        )


def _ranges(numbers: Sequence[int]) -> list[str]:
    """Sorted numbers as `A:B`, from A to before B."""
    known = set(numbers)
    starts = [n for n in numbers if n - 1 not in known]
    ends = [n + 1 for n in numbers if n + 1 not in known]
    return [f"{start}:{end}" for start, end in zip(starts, ends, strict=True)]


def _check_whole(shard: _Shard) -> None:
    found = manifest.file_digest(shard.path) if shard.path.is_file() else "no such file"
    if found != shard.facts["sha256"]:
        raise ArtifactError(
            f"{shard.path}: expected SHA-256 {shard.facts['sha256']} as in the part's manifest, found"
            f" {found}; make that part again with 'clipflow rewrite'"
        )
