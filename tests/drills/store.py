"""A pipeline whose object store fails ends as if the store had not.

    make drill-store    which is    PYTHONPATH=tests python -m drills.store --share 0.1 --away-s 60

The five stages run twice through a real HTTP server that speaks S3: once in peace; once while it answers
503 SlowDown to a share of all requests, closes connections before, during and after a third as many, and
goes away wholly for a while as the texts, and as the weights, are published. Each task is tried once.
Afterwards every artifact, downloaded anew, must be that of the run in peace, byte by byte, nothing in the
store may be without its manifest, and one version must be registered.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from benchmarks.harness import commit
from clipflow.artifacts import manifest
from drills.ending import end
from drills.tasks import Pipeline, lost
from fakes import s3
from fakes.artifacts import ROOT

OUT = ROOT / "artifacts" / "drills" / "store.json"
BUCKET = "clipflow"
AWAY_IN = ("merge-rewrites", "pretrain")
"""Tasks in whose publishing the store goes away."""
KINDS = ("error", "drop", "lose", "truncate", "away")


def drill(folder: Path, share: float, away_s: float, seed: int) -> dict[str, Any]:
    """Run in peace and through a bad store; what the second lost against the first."""
    with s3.serve(seed) as store:
        store.make_bucket(BUCKET)
        peace, disturbed = (
            Pipeline(folder / name, store.environ | {"CLIPFLOW_STORE": f"s3://{BUCKET}/{name}"})
            for name in ("peace", "disturbed")
        )
        for task in tqdm(peace.tasks(), desc="in peace", leave=False):
            peace.must(task)
        before = store.counts()
        store.fail(share, drop=share / 9, lose=share / 9, truncate=share / 9)
        for task in tqdm(disturbed.tasks(), desc="through a bad store", leave=False):
            if task in AWAY_IN:
                store.go_away(away_s, at="PUT")
            disturbed.must(task)
        after = store.counts()
        store.heal()
        found = lost(peace, disturbed) + half_written(store.objects(BUCKET))
    faults = {kind: after.get(kind, 0) - before.get(kind, 0) for kind in KINDS}
    return {
        "drill": "store",
        "faults": sum(faults.values()),
        "lost": len(found),
        "what": found,
        "requests": after["requests"] - before["requests"],
        "requests_in_peace": before["requests"],
        "by_kind": faults,
        "seconds": {task: round(s, 1) for task, s in disturbed.seconds.items()},
        "seconds_in_peace": {task: round(s, 1) for task, s in peace.seconds.items()},
    }


def half_written(objects: dict[str, int]) -> list[str]:
    """Places of the store that hold something but no manifest."""
    places = {"/".join(PurePosixPath(key).parts[:3]) for key in objects}
    return [
        f"s3://{place}" for place in sorted(places) if f"{place}/{manifest.MANIFEST}" not in objects
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--share", type=float, default=0.1, help="of requests that get 503")
    parser.add_argument("--away-s", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    out = args.out.absolute()
    with tempfile.TemporaryDirectory() as folder:
        result = drill(Path(folder), args.share, args.away_s, args.seed)
    result |= {
        "commit": commit(),
        "command": f"PYTHONPATH=tests python -m drills.store --share {args.share}"
        f" --away-s {args.away_s} --seed {args.seed}",
    }
    end(result, out)


if __name__ == "__main__":
    main()
