"""Searching images by what models see in them."""

from __future__ import annotations

from typing import Annotated

import typer

from clipflow import log

app = typer.Typer()

NAMES = "FOLDER|NAME@ALIAS|NAME"


@app.command()
def search(
    images: Annotated[
        str,
        typer.Option(metavar="FOLDER|s3://...", help="Image files, however deep, or pairs."),
    ],
    model: Annotated[
        str,
        typer.Option(metavar=NAMES, help="A checkpoint, a registered version, or open_clip's."),
    ] = "clipflow@champion",
    beside: Annotated[
        str | None, typer.Option(metavar=NAMES, help="A second model, to compare.")
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(metavar="TAG|FILE", help="Weights of an open_clip architecture.")
    ] = None,
    beside_pretrained: Annotated[
        str | None, typer.Option(metavar="TAG|FILE", help="The same for the second model.")
    ] = None,
    host: Annotated[str, typer.Option(help="0.0.0.0: reachable from other machines.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: one that is free.")] = 8000,
    batch_size: Annotated[int, typer.Option(min=1, help="Images embedded at once.")] = 64,
) -> None:
    """Serve a page that finds images by a sentence or by an image.

    clipflow search --images artifacts/pairs

    clipflow search --images /data/photos --model clipflow@champion --beside clipflow@challenger

    clipflow search --images /data/photos --model ViT-B-32 --pretrained laion2b_s34b_b79k

    Images are embedded once; killed, that goes on where it was. Needs the packages of training and FAISS.
    """
    from clipflow.search import stage

    log.setup("search")
    stage.run(
        model=model,
        location=images,
        beside=beside,
        pretrained=pretrained,
        beside_pretrained=beside_pretrained,
        host=host,
        port=port,
        batch_size=batch_size,
    )
