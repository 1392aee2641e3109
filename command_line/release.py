"""``import-release``: what the authors of SEDONA published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sedona_nni.command_line.options import Json, NumBlocks
from sedona_nni.files import user_path


def import_release(
    alpha: Annotated[
        Path,
        typer.Argument(
            help="alpha.pt, a JSON file (of both), or published:<backbone>.", parser=user_path
        ),
    ],
    backbone: Annotated[str, typer.Option(help="What was searched on.")],
    beta: Annotated[
        Path | None, typer.Argument(help="beta.pt, or a JSON file.", parser=user_path)
    ] = None,
    dataset: Annotated[str, typer.Option(help="What was searched with.")] = "cifar10",
    num_blocks: NumBlocks = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Write the search result here or, with --num-blocks, the decoupling.",
            parser=user_path,
            metavar="PATH",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Read a search result that the authors of SEDONA published."""
    from sedona_nni.decouplings.choice import discretise
    from sedona_nni.decouplings.decoupling import Decoupling
    from sedona_nni.files import check_output_file
    from sedona_nni.searches.documents import document_path
    from sedona_nni.searches.sedona.release import import_release as read

    if output is not None:
        check_output_file("--output", output)
    result = read(document_path(alpha), beta, backbone=backbone, dataset=dataset)
    shown = result if num_blocks is None else discretise(result, num_blocks)
    if output is not None:
        shown.save(output)
    if as_json:
        print(shown.model_dump_json())
    elif isinstance(shown, Decoupling):
        print(shown.in_words())
    else:
        for index, local in enumerate(result.a_loc()):
            print(f"boundary {index}: a_loc {local:.4f}")
