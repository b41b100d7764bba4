import csv
import json
import random
import re
import tarfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from clipflow import log
from clipflow.artifacts import manifest
from clipflow.artifacts import rewrites as artifact
from clipflow.artifacts.pairs import Pairs, Writer, key_of
from clipflow.cli import app
from clipflow.errors import ArtifactError, ParamsError
from clipflow.rewrite.exchange import exporting, importing
from clipflow.rewrite.exchange.alignment import first_break
from clipflow.rewrite.exchange.files import Files, sources_of
from fakes.artifacts import jpeg, make_rewrites

CAPTIONS = {
    "a/1.jpg": 'Two "old" boats, one of them red',
    "a/2.png": "a dog => on the\nbeach 🐕",
    "b/3.JPG": "كلب على الشاطئ قرب البحر",
    "b/4.jpg": "a cup of coffee on a table",
    "b/5.webp": "wide mountains under snow",
}
TEXTS = {
    "a/1.jpg": ["a pair of old boats", "two boats, one red"],
    "a/2.png": ['the "dog", at the beach'],
    "b/3.JPG": ["كلب قرب البحر"],
    "b/5.webp": ["mountains with snow on them", "snowy mountains, wide"],
}
Import = Callable[..., Path]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Pairs as the folder source makes them, two to a shard, and one that knows no path."""
    return write_pairs(tmp_path / "pairs", CAPTIONS, {"00000007": "scene of a small house"})


def write_pairs(out: Path, by_path: dict[str, str], by_key: dict[str, str] | None = None) -> Path:
    with manifest.complete_or_absent(out) as folder:
        writer = Writer(folder, samples_per_shard=2)
        for path, caption in by_path.items():
            writer.add(key_of(path), jpeg(), caption, {"path": path})
        for key, caption in (by_key or {}).items():
            writer.add(key, jpeg(), caption, {"source": "scenes"})
        writer.close()
    return out


@pytest.fixture
def rewrites(pairs: Path, tmp_path: Path) -> Path:
    texts = {key_of(path): texts for path, texts in TEXTS.items()}
    return make_rewrites(tmp_path / "ours", pairs, {**texts, "00000007": ["a small house stands"]})


@pytest.fixture
def take_in(stage_params: Any, pairs: Path, tmp_path: Path) -> Import:
    def run(csv_file: Path, *texts: Path, pairs: Path = pairs, **more: Any) -> Path:
        columns = {name: more.pop(name, None) for name in ("image_column", "caption_column")}
        files = Files(csv_file, sources_of(map(str, texts)), **columns)
        importing.run(
            stage_params("rewrite"), files, pairs=pairs, rewrites=tmp_path / "imported", **more
        )
        return tmp_path / "imported"

    return run


def write_rows(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return path


def accepted(folder: Path) -> dict[str, list[str]]:
    return {row["key"]: row["rewrites"] for row in artifact.read(folder).to_pylist()}


def test_an_export_for_laclip_imports_as_what_it_was(
    pairs: Path, rewrites: Path, take_in: Import, tmp_path: Path
) -> None:
    out = tmp_path / "exported"
    flags = exporting.run(pairs=pairs, rewrites=rewrites, out=out, to="laclip")
    imported = take_in(out / "originals.csv", out / "source_1.txt", out / "source_2.txt")
    assert accepted(imported) == accepted(rewrites)
    facts = manifest.read(imported, artifact.SCHEMA)
    assert (facts["num_rows"], facts["num_rows_without_pair"], facts["num_pairs"]) == (6, 0, 6)
    # Where the caption stands in for a rewrite, it is known again.
    assert facts["outcomes_by_source"]["2"] == {"accepted": 2, "copy": 3, "prompt": 1}
    assert f"{out}/source_1.txt {out}/source_2.txt" in flags
    assert flags == (out / "flags.txt").read_text()


def test_an_export_is_read_by_laclips_conventions(
    pairs: Path, rewrites: Path, tmp_path: Path
) -> None:
    """Rows in the CSV's order, by position; row N with line N of `readlines`; three suffixes alone."""
    out = tmp_path / "exported"
    exporting.run(pairs=pairs, rewrites=rewrites, out=out, to="laclip")
    with ExitStack() as stack:
        rows = list(csv.reader(stack.enter_context((out / "originals.csv").open())))
        lines = [stack.enter_context((out / f"source_{n}.txt").open()).readlines() for n in (1, 2)]
    assert len(rows) == len(lines[0]) == len(lines[1]) == 6
    assert all(row[0].endswith((".png", ".jpg", ".jpeg")) and len(row) == 2 for row in rows)
    assert rows[0] == ["a/1.jpg", CAPTIONS["a/1.jpg"]]
    assert rows[1] == ["a/2.png", "a dog => on the beach 🐕"]
    assert lines[0][1] == 'the "dog", at the beach\n'
    assert lines[1][1] == "a dog => on the beach 🐕\n"
    written = [row[0] for row in rows if (out / row[0]).exists()]
    key = key_of("b/3.JPG")
    assert written[0] == f"clipflow-pairs/00001/{key}.jpg"
    assert written[2] == "clipflow-pairs/00002/00000007.jpg"
    assert len(written) == 3
    assert (out / written[0]).read_bytes() == jpeg()


@pytest.mark.parametrize("header", [None, ["filepath", "title"], ["title", "x", "filepath"]])
def test_released_rewrites_are_joined_by_path(
    take_in: Import, pairs: Path, tmp_path: Path, header: list[str] | None
) -> None:
    rows = [
        ["b/4.jpg", CAPTIONS["b/4.jpg"], "coffee in a cup on a table"],
        ["other.jpg", "not among the pairs", "nowhere"],
        ["a/1.jpg", CAPTIONS["a/1.jpg"], "Two old boats one of them red!"],
        ["b/5.webp", "another caption of it", "another text"],
    ]
    named = header is not None and len(header) == 3
    table = [[c, "", p] if named else [p, c] for p, c, _ in rows]
    file = write_rows(tmp_path / "rows.csv", [*([header] if header else []), *table])
    (tmp_path / "cc3m_bard.txt").write_text("".join(f"{text}\n" for *_, text in rows))
    columns = {"image_column": "filepath", "caption_column": "title"} if named else {}
    imported = take_in(file, tmp_path / "cc3m_bard.txt", **columns)
    assert {key: texts for key, texts in accepted(imported).items() if texts} == {
        key_of("b/4.jpg"): ["coffee in a cup on a table"]
    }
    facts = manifest.read(imported, artifact.SCHEMA)
    assert facts["outcomes_by_source"] == {"bard": {"accepted": 1, "copy": 1}}
    assert facts["num_rows_without_pair"] == 1
    assert facts["num_pairs_without_row"] == 3
    assert facts["num_pairs_with_other_caption"] == 1
    assert facts["pairs"] == manifest.digest(pairs)
    assert not list(imported.glob("*.sqlite"))
    assert len(list(artifact.by_shard(imported, Pairs(pairs)))) == 3


def test_released_rewrites_are_joined_by_caption(take_in: Import, tmp_path: Path) -> None:
    rows = [["0.jpg", "a dog => on the beach 🐕"], ["1.jpg", "a  cup of coffee on a table"]]
    file = write_rows(tmp_path / "rows.csv", rows)
    (tmp_path / "human.txt").write_text("dog on sand\ncoffee, a cup of it\n")
    imported = take_in(file, tmp_path / "human.txt", by="caption")
    assert [texts for texts in accepted(imported).values() if texts] == [
        ["dog on sand"],
        ["coffee, a cup of it"],
    ]


def test_pairs_that_the_files_know_nothing_of_are_refused(take_in: Import, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("some text\n")
    file = write_rows(tmp_path / "rows.csv", [["x/1.jpg", "a caption"]])
    with pytest.raises(ArtifactError, match=r"'x/1.jpg', theirs 'a/1.jpg'; .*--by caption"):
        take_in(file, tmp_path / "t.txt")
    with pytest.raises(ArtifactError, match=r"has no caption of .* its first is 'a caption'"):
        take_in(file, tmp_path / "t.txt", by="caption")
    file = write_rows(tmp_path / "rows.csv", [["a/1.jpg", "a caption"]])
    with pytest.raises(ArtifactError, match="each with another caption"):
        take_in(file, tmp_path / "t.txt")
    assert not (tmp_path / "imported").exists()


ENDS = ("ban", "dor", "kel", "vist", "rem")
WORDS = [f"{a}{b}{c}" for a in ("lo", "mi", "ra", "tu", "se") for b in ENDS for c in ENDS]


def rows_of(num: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Captions, and rewrites that keep about half of the words."""
    rng = random.Random(seed)
    captions = [" ".join(["a", *rng.sample(WORDS, 5), "in the sun"]) for _ in range(num)]
    texts = [
        " ".join(["the", *rng.sample(c.split()[1:6], 3), rng.choice(WORDS), "of it"])
        for c in captions
    ]
    return captions, texts


def write_files(folder: Path, captions: list[str], texts: list[str]) -> tuple[Path, Path]:
    rows = [[f"{n}.jpg", caption] for n, caption in enumerate(captions)]
    (folder / "x_coco.txt").write_text("".join(f"{text}\n" for text in texts))
    return write_rows(folder / "rows.csv", rows), folder / "x_coco.txt"


def row_in(error: pytest.ExceptionInfo[ArtifactError]) -> int:
    found = re.search(r"from about row (\d+) on", str(error.value))
    assert found, str(error.value)
    return int(found[1])


def test_a_line_break_inside_a_text_is_found(take_in: Import, tmp_path: Path) -> None:
    captions, texts = rows_of(2000)
    texts[1234] = texts[1234].replace(" ", "\n", 1)
    with pytest.raises(ArtifactError, match=r"rows.csv has 2000, .*coco.txt has 2001") as error:
        take_in(*write_files(tmp_path, captions, texts))
    assert abs(row_in(error) - 1235) < 12


def test_a_shift_is_found_where_the_counts_are_equal(
    take_in: Import, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    captions, texts = rows_of(1500)
    files = write_files(tmp_path, captions, [*texts[:700], *texts[701:], "the last"])
    with pytest.raises(ArtifactError, match="or pass --force") as error:
        take_in(*files)
    assert abs(row_in(error) - 701) < 12
    mine = write_pairs(tmp_path / "mine", {"0.jpg": captions[0], "1.jpg": captions[1]})
    imported = take_in(*files, pairs=mine, force=True)
    assert "imported all the same" in caplog.text
    assert list(accepted(imported).values()) == [[texts[0]], [texts[1]]]


def test_a_lost_last_line_is_named(take_in: Import, tmp_path: Path) -> None:
    captions, texts = rows_of(20)
    with pytest.raises(ArtifactError, match="row 20 of 20 is not in all of them"):
        take_in(*write_files(tmp_path, captions, texts[:-1]))


def test_texts_of_other_captions_are_found_at_once(tmp_path: Path) -> None:
    captions, texts = rows_of(600)
    random.Random(1).shuffle(texts)
    found = first_break(zip(captions, zip(texts), strict=True), ["coco"])
    assert found is not None
    assert found[1] < 12


@pytest.mark.parametrize("kind", ["alike", "short", "foreign in between", "blank", "free"])
def test_odd_texts_raise_no_alarm(kind: str) -> None:
    captions, texts = rows_of(3000)
    if kind == "alike":
        captions[:1000], texts[:1000] = [captions[0]] * 1000, [texts[0]] * 1000
    elif kind == "short":
        captions, texts = ["a red box"] * 3000, ["the box is red"] * 3000
    elif kind == "foreign in between":
        texts[1100:1300] = ["was ganz anderes"] * 200
    elif kind == "blank":
        texts[:2500] = [""] * 2500
    else:  # one word of five is kept
        texts = [f"{caption.split()[3]} und sonst ganz anderes" for caption in captions]
    assert first_break(zip(captions, zip(texts), strict=True), ["coco"]) is None


@pytest.mark.parametrize(
    ("rows", "text", "columns", "message"),
    [
        ("0.jpg\n", b"x\n", {}, r"caption in line 1, got 1 cells"),
        ("0.jpg,a\n", b"caf\xe9\n", {}, r"t.txt: expected UTF-8, got the byte 0xe9"),
        ("p,c\n0.jpg,a\n", b"x\n", {"image_column": "path"}, "expected a column 'path'"),
    ],
)
def test_refuses_what_it_cannot_read(
    take_in: Import, tmp_path: Path, rows: str, text: bytes, columns: Any, message: str
) -> None:
    (tmp_path / "rows.csv").write_text(rows)
    (tmp_path / "t.txt").write_bytes(text)
    with pytest.raises(ArtifactError, match=message):
        take_in(tmp_path / "rows.csv", tmp_path / "t.txt", **columns)
    write_rows(tmp_path / "rows.csv", [["0.jpg", "a"]])
    with pytest.raises(ArtifactError, match=r"none\.txt: can't be read"):
        take_in(tmp_path / "rows.csv", tmp_path / "none.txt")


def test_sources_are_called_by_their_files() -> None:
    found = sources_of(["x/cc3m_chatgpt.txt", "bard.txt", "mine=x/cc3m_bard.txt"])
    assert {name: str(path) for name, path in found.items()} == {
        "chatgpt": "x/cc3m_chatgpt.txt",
        "bard": "bard.txt",
        "mine": "x/cc3m_bard.txt",
    }
    with pytest.raises(ParamsError, match="are called 'bard'; name one"):
        sources_of(["a_bard.txt", "b_bard.txt"])


def draw(facts: dict[str, Any], keys: list[str], weights: list[float], rng: random.Random) -> str:
    """open_clip's documented draw: a random order of the keys by weight; the first with a text wins."""
    left = dict(zip(keys, weights, strict=True))
    while left:
        key = rng.choices(list(left), list(left.values()))[0]
        del left[key]
        if isinstance(facts.get(key), str) and facts[key].strip():
            return str(facts[key])
    return ""


def test_open_clip_draws_each_text_of_a_pair_as_often(
    pairs: Path, rewrites: Path, tmp_path: Path
) -> None:
    out = tmp_path / "exported"
    flags = exporting.run(pairs=pairs, rewrites=rewrites, out=out, to="open_clip")
    assert f"--train-data '{out}/{{00000..00002}}.tar' --train-num-samples 6" in flags
    found = re.search(r"--json-text-key '(.+)' --json-text-key-probs ([\d. ]+)", flags)
    assert found
    keys, weights = found[1].split(";"), [float(w) for w in found[2].split()]
    assert keys == ["caption", "rewrite_1", "rewrite_2"]
    assert sum(weights) == pytest.approx(1, abs=1e-5)
    samples: dict[str, dict[str, bytes]] = {}
    for shard in sorted(out.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                samples.setdefault(key, {})[suffix] = tar.extractfile(member).read()  # type: ignore[union-attr]
    assert list(samples) == Pairs(pairs).keys
    rng = random.Random(0)
    for path, caption in CAPTIONS.items():
        sample = samples[key_of(path)]
        assert sample["jpg"] == jpeg()
        assert sample["txt"].decode() == caption
        facts = json.loads(sample["json"])
        assert facts["path"] == path
        drawn = Counter(draw(facts, keys, weights, rng) for _ in range(3000))
        texts = [caption, *TEXTS.get(path, [])]
        assert set(drawn) == set(texts)
        assert all(abs(num - 3000 / len(texts)) < 160 for num in drawn.values())


def test_older_open_clip_has_a_set_of_shards_for_each_text(
    pairs: Path, rewrites: Path, tmp_path: Path
) -> None:
    out = tmp_path / "exported"
    flags = exporting.run(pairs=pairs, rewrites=rewrites, out=out, to="open_clip_txt")
    sets = re.findall(rf"{out}/(\w+)/{{00000\.\.00002}}\.tar", flags)
    assert sets == ["caption", "rewrite_1", "rewrite_2"]
    assert "--dataset-resampled" in flags
    with tarfile.open(out / "rewrite_2/00000.tar") as tar:
        texts = [tar.extractfile(m).read().decode() for m in tar if m.name.endswith("txt")]  # type: ignore[union-attr]
    assert texts == ["two boats, one red", CAPTIONS["a/2.png"]]


def test_refuses_to_export_over_what_is_there(pairs: Path, rewrites: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(ArtifactError, match="there already"):
        exporting.run(pairs=pairs, rewrites=rewrites, out=tmp_path / "mine", to="laclip")
    none = make_rewrites(tmp_path / "none", pairs, {})
    with pytest.raises(ArtifactError, match="none accepted"):
        exporting.run(pairs=pairs, rewrites=none, out=tmp_path / "out", to="laclip")
    assert not (tmp_path / "out").exists()


def test_the_command_line_takes_all_of_it(
    pairs: Path, rewrites: Path, params_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "setup", lambda stage: None)  # it would stay for the tests after this

    def call(*words: object) -> str:
        found = CliRunner().invoke(app, ["rewrites", *map(str, words)])
        assert found.exit_code == 0, found.output
        return found.output

    out, imported = tmp_path / "exported", tmp_path / "imported"
    at = ("--pairs", pairs, "--rewrites")
    flags = call("export", "--format", "laclip", "--out", out, *at, rewrites)
    assert f"--train-data {out}/originals.csv" in flags
    texts = ("--texts", out / "source_1.txt", "--texts", f"two={out}/source_2.txt")
    call("import", "--csv", out / "originals.csv", *texts, "--params", params_file, *at, imported)
    assert set(manifest.read(imported, artifact.SCHEMA)["outcomes_by_source"]) == {"1", "two"}
    call("merge", imported, *at, tmp_path / "merged")
    assert manifest.digest(tmp_path / "merged") == manifest.digest(imported)
