"""Rewrites beyond their stage: scores, parts, exchange."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from clipflow import log, params, store
from clipflow.cli.options import PARAMS, WHERE, Pairs, ParamsFile, Rewrites, Scores

app = typer.Typer()


@app.command()
def score(
    checkpoint: Annotated[
        str, typer.Option(metavar="FOLDER|NAME", help="A checkpoint, or a model of open_clip.")
    ],
    pretrained: Annotated[
        str | None, typer.Option(metavar="TAG|FILE", help="Weights of an open_clip architecture.")
    ] = None,
    pairs: Pairs = "artifacts/pairs",
    rewrites: Rewrites = "artifacts/rewrites",
    scores: Scores = "artifacts/scores",
    batch_size: Annotated[int, typer.Option(min=1, help="Images or texts at once.")] = 256,
) -> None:
    """Score captions and rewrites by how well they fit their images: cosines of a CLIP model.

    clipflow score --checkpoint artifacts/checkpoint

    clipflow score --checkpoint ViT-B-32 --pretrained laion2b_s34b_b79k

    Needs the packages of training. Killed, it resumes where it was.
    """
    from clipflow.rewrite import score

    log.setup("score")
    with store.folders({"pairs": pairs, "rewrites": rewrites}, {"scores": scores}) as paths:
        score.run(checkpoint=checkpoint, pretrained=pretrained, batch_size=batch_size, **paths)


rewrites_app = typer.Typer(
    help="Join parts of rewrites; exchange rewrites with LaCLIP and open_clip.",
    no_args_is_help=True,
)
app.add_typer(rewrites_app, name="rewrites")


@rewrites_app.command(name="merge")
def merge_rewrites(
    parts: Annotated[
        list[str], typer.Argument(metavar=WHERE, help="What 'rewrite --shard-range' wrote.")
    ],
    pairs: Pairs = "artifacts/pairs",
    rewrites: Rewrites = "artifacts/rewrites",
) -> None:
    """Join parts to the artifact that one run over all shards would have written.

    clipflow rewrites merge parts/0 parts/1 --pairs artifacts/pairs --rewrites artifacts/rewrites
    """
    from clipflow.rewrite import merge

    log.setup("rewrites")
    with store.folders({"pairs": pairs}, {"rewrites": rewrites}) as paths:
        merge.run([store.at_hand(part) for part in parts], **paths)


@rewrites_app.command(name="import")
def import_rewrites(
    csv: Annotated[Path, typer.Option(help="Image path and caption per row.")],
    texts: Annotated[
        list[str],
        typer.Option(metavar="[NAME=]FILE", help="A source's rewrites, one line per row."),
    ],
    pairs: Pairs = "artifacts/pairs",
    rewrites: Rewrites = "artifacts/rewrites",
    by: Annotated[
        Literal["path", "caption"], typer.Option(help="What joins rows to pairs.")
    ] = "path",
    image_column: Annotated[
        str | None, typer.Option(help="Where the CSV has a header; else the first column.")
    ] = None,
    caption_column: Annotated[
        str | None, typer.Option(help="Where the CSV has a header; else the second column.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Import texts that share no words with their captions.")
    ] = False,
    params_file: ParamsFile = PARAMS,
) -> None:
    """Take in rewrites that LaCLIP released, or others in its format, checked as our own are.

    clipflow rewrites import --csv cc3m_original.csv --texts cc3m_chatgpt.txt --texts cc3m_bard.txt

    A source is called what its file's name says after the last underscore.

    Rows are joined to pairs by the path below ingest.data, or by caption if the images have other names.
    """
    from clipflow.rewrite.exchange import files, importing

    log.setup("rewrites")
    found = files.Files(csv, files.sources_of(texts), image_column, caption_column)
    section = params.load(params_file, "rewrite")
    with store.folders({"pairs": pairs}, {"rewrites": rewrites}) as paths:
        importing.run(section, found, by=by, force=force, **paths)


@rewrites_app.command(name="export")
def export_rewrites(
    to: Annotated[
        Literal["laclip", "open_clip", "open_clip_txt"],
        typer.Option("--format", help="For whom."),
    ],
    out: Annotated[Path, typer.Option(help="A new folder.")],
    pairs: Pairs = "artifacts/pairs",
    rewrites: Rewrites = "artifacts/rewrites",
) -> None:
    """Write captions and rewrites as others read them, and print the flags to train with.

    laclip: originals.csv with source_1.txt ... beside it, line by line.

    open_clip: webdataset shards with texts in JSON, for versions after 3.3 (3.3 reads captions alone).

    open_clip_txt: for open_clip up to 3.3, a set of shards for each text (with the images in each).

    clipflow rewrites export --format open_clip --out exported
    """
    from clipflow.rewrite.exchange import exporting

    log.setup("rewrites")
    with store.folders({"pairs": pairs, "rewrites": rewrites}, {}) as paths:
        typer.echo(exporting.run(out=out, to=to, **paths), nl=False)
