"""Images per second and core that ingest downloads, checks and stores, against img2dataset.

    make bench-ingest        which is        python tests/benchmarks/ingest.py

Both sides take the same 20,000 URLs from one server on loopback (5 % dead, 1 % two seconds late; JPEGs of
40 kB on average) to shards of 1,000 with the shorter side at most 256 px, shrunk by area averages as is
img2dataset's default, JPEG quality 95. A core's second is a second of processor time of the side with its
children, so that the server beside it doesn't count. The ceiling is our own download without decoding.
img2dataset has an environment of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import harness
from ruamel.yaml import YAML

PEER = "img2dataset==1.47.0"
DEAD, SLOW, SLOW_S = 0.05, 0.01, 2.0
SIZE_PX, QUALITY, SHARD = 256, 95, 1000
CONCURRENCY, TIMEOUT_S = 128, 20


class Measured(NamedTuple):
    """One run of one side."""

    num_images: int
    seconds: float
    cpu_seconds: float
    peak_mib: float


def main() -> None:
    """Serve, then measure the sides in alternation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--urls", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--download", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.download:
        download(Path(args.download[0]), Path(args.download[1]))
        return
    peer = peer_python()
    sides: dict[str, list[Measured]] = {"clipflow": [], "img2dataset": [], "download": []}
    with tempfile.TemporaryDirectory() as name, serving() as url:
        folder = Path(name)
        table = folder / "urls.tsv"
        rows = (f"{url}/img/{n}.jpg\tpicture number {n}\n" for n in range(args.urls))
        table.write_text("url\tcaption\n" + "".join(rows))
        params = write_params(folder, table)
        for run in range(args.runs):
            out = folder / str(run)
            commands = {
                "clipflow": [sys.executable, "-m", "clipflow", "ingest", "--params", str(params),
                             "--pairs", f"{out}/pairs", "--benchmarks", f"{out}/benchmarks"],
                "img2dataset": [str(peer), *img2dataset(table, out / "theirs")],
                "download": [sys.executable, __file__, "--download", str(table), str(out / "count")],
            }  # fmt: skip
            for side, command in commands.items():
                found = measure(command, folder / "log", scratch=out / "scratch")
                if side == "download":
                    count = int((out / "count").read_text())
                else:
                    count = tars(out / ("pairs" if side == "clipflow" else "theirs"))
                sides[side].append(found._replace(num_images=count))
                print(side, sides[side][-1], flush=True)
    ours, theirs, ceiling = (sides[side] for side in ("clipflow", "img2dataset", "download"))

    def per_core(runs: list[Measured]) -> list[float]:
        return [m.num_images / m.cpu_seconds for m in runs]

    def per_second(runs: list[Measured]) -> list[float]:
        return [m.num_images / m.seconds for m in runs]

    harness.report(
        "ingest",
        [
            harness.Comparison("images a second of one core", per_core(ours), per_core(theirs),
                               PEER, "images/s", "more"),
            harness.Comparison("images a second, beside the server", per_second(ours),
                               per_second(theirs), PEER, "images/s", "more"),
            harness.Comparison("of one core, without decoding", per_core(ours), per_core(ceiling),
                               "download alone", "images/s", "more"),
            harness.Comparison("peak memory of a process", [m.peak_mib for m in ours],
                               [m.peak_mib for m in theirs], PEER, "MiB", "less"),
        ],
    )  # fmt: skip


def measure(command: list[str], log: Path, scratch: Path) -> Measured:
    """Run a side, which finds nothing of an earlier run; its processor time and that of its children."""
    start = time.perf_counter()
    env = os.environ | {"OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1",
                        "CLIPFLOW_SCRATCH": str(scratch)}  # fmt: skip
    with (
        log.open("w") as stream,
        subprocess.Popen(command, env=env, stdout=stream, stderr=stream) as side,
    ):
        _, status, usage = os.wait4(side.pid, 0)
        side.returncode = os.waitstatus_to_exitcode(status)
    if side.returncode:
        raise SystemExit(log.read_text()[-3000:])
    seconds = time.perf_counter() - start
    return Measured(0, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def img2dataset(table: Path, out: Path) -> list[str]:
    """Its command line for the same work."""
    return [
        "-c", "from img2dataset.main import main; main()",
        f"--url_list={table}", "--input_format=tsv", "--url_col=url", "--caption_col=caption",
        f"--output_folder={out}", "--output_format=webdataset", f"--image_size={SIZE_PX}",
        "--resize_mode=keep_ratio", "--resize_only_if_bigger=True", f"--encode_quality={QUALITY}",
        f"--number_sample_per_shard={SHARD}", f"--processes_count={len(os.sched_getaffinity(0))}",
        f"--thread_count={CONCURRENCY}", f"--timeout={TIMEOUT_S}", "--enable_wandb=False",
    ]  # fmt: skip


def write_params(folder: Path, table: Path) -> Path:
    """The real params, for the same work."""
    values = YAML(typ="safe").load((harness.ROOT / "params.yaml").read_text())
    values["ingest"] |= {"source": "urls", "data": str(table), "samples_per_shard": SHARD}
    values["ingest"]["images"] |= {
        "resize": "shorter_side",
        "size_px": SIZE_PX,
        "quality": QUALITY,
        "resample": "box",
    }
    values["sources"]["urls"]["web"] |= {
        "allow_loopback": True, "concurrency": CONCURRENCY, "per_host": CONCURRENCY,
        "timeout_s": float(TIMEOUT_S), "max_retries": 0,
    }  # fmt: skip
    path = folder / "params.yaml"
    with path.open("w") as stream:
        YAML(typ="safe").dump(values, stream)
    return path


def download(table: Path, out: Path) -> None:
    """Fetch every URL and write how many came."""
    from clipflow import params
    from clipflow.ingest.web import fetch

    section = params.load(table.with_name("params.yaml"), "ingest")
    urls = [line.split("\t")[0] for line in table.read_text().splitlines()[1:]]
    batches = ([(u, u) for u in urls[n : n + 64]] for n in range(0, len(urls), 64))
    count = sum(isinstance(found, bytes) for _, found in fetch(batches, section.source.web))  # type: ignore[attr-defined]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(str(count))


def tars(folder: Path) -> int:
    """Images in the shards of a folder."""
    count = 0
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as tar:
            count += sum(name.endswith(".jpg") for name in tar.getnames())
    return count


def peer_python() -> Path:
    """The Python of img2dataset's own environment, which is made if it isn't there."""
    folder = harness.OUT / "img2dataset"
    uv = [sys.executable, "-m", "uv"]
    if not (folder / "bin" / "img2dataset").exists():
        subprocess.run([*uv, "venv", "--quiet", str(folder)], check=True)
        subprocess.run(
            [*uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), PEER],
            check=True,
        )
    return folder / "bin" / "python"


@contextmanager
def serving() -> Iterator[str]:
    """The server's address; it ends with this process."""
    command = [
        sys.executable,
        "-m",
        "fakes.web",
        f"--dead={DEAD}",
        f"--slow={SLOW}",
        f"--slow-s={SLOW_S}",
    ]
    tests = harness.ROOT / "tests"
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tests) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().strip().rstrip("/")
        finally:
            process.kill()


if __name__ == "__main__":
    main()
