"""``test``: a trained network again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sedona_nni.command_line.options import Device, Json, Workers
from sedona_nni.command_line.telling import show_numbers
from sedona_nni.files import user_path


def retest(
    directory: Annotated[
        Path,
        typer.Argument(
            help="What `train`, or a trial, has trained into; or results/<id>.", parser=user_path
        ),
    ],
    device: Device = "auto",
    workers: Workers = None,
    data_dir: Annotated[
        str | None, typer.Option(help="Where the data set is, by default where it was.")
    ] = None,
    ensemble: Annotated[
        int | None,
        typer.Option(min=1, help="Classifiers to test together, by default as when training."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Test a trained network again."""
    from sedona_nni.strategies.nni_border.devices import claim_device
    from sedona_nni.trials.train import evaluate_saved

    with claim_device(device) as claimed:
        result = evaluate_saved(
            directory, device=claimed, workers=workers, data_dir=data_dir, ensemble=ensemble
        )
    if result.get("same_data") is False:
        print(f"other images than {directory} was trained with, of its classes", file=sys.stderr)
    show_numbers(result, as_json)
