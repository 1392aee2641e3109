"""``data``: the data sets that there are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from sedona_nni.command_line.options import Json
from sedona_nni.command_line.tables import show_table
from sedona_nni.errors import InputError
from sedona_nni.printable import printable

if TYPE_CHECKING:
    from sedona_nni.data.sets import Contents


def data(
    name: Annotated[str | None, typer.Argument(help="Name of a data set; by default all.")] = None,
    data_dir: Annotated[
        str | None, typer.Option(help="Folder to look in, by default the usual one.")
    ] = None,
    skip_bad_images: Annotated[
        bool,
        typer.Option(
            "--skip-bad-images",
            metavar="",
            help="Read every picture of the named set once, and leave out what cannot be read.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show which data sets there are, where they are looked for, and how to get them.

    Of a single one, show what is used of its folder, class by class, and what is left out.
    """
    from sedona_nni.data.sets import DATASETS, find_contents

    if name is None and skip_bad_images:
        raise InputError("--skip-bad-images: must be given with the name of a data set")
    try:
        found = {
            each: find_contents(
                each,
                data_dir,
                must_be_there=name is not None,
                on_bad_image="skip" if skip_bad_images else "fail",
            )
            for each in ([name] if name else DATASETS)
        }
    except InputError as error:
        if str(error).startswith("on_bad_image: "):  # the field that this option stands for
            raise InputError(f"--skip-bad-images: {error}") from None
        raise
    if as_json:
        shown = [each.as_json() for each in found.values()]
        print(json.dumps(shown[0] if name else shown))
        return
    for each in found.values():
        for line in each.in_words():
            print(printable(line))
        if name and each.contents is not None:
            _show_contents(each.contents)


def _show_contents(contents: Contents) -> None:
    """Show the images of each class, and all that is left out."""
    show_table(
        ("class", *contents.counts),
        (
            [name, *(f"{counts[number]:,}" for counts in contents.counts.values())]
            for number, name in enumerate(contents.classes)
        ),
    )
    for phrase in contents.left_out:
        print(printable(f"left out: {phrase}"))
