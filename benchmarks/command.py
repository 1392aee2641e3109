"""What the commands of this package have in common."""

from __future__ import annotations

import sys

import typer

from sedona_nni.errors import InputError, SedonaError

__all__ = ["new_app", "run"]


def new_app(about: str) -> typer.Typer:
    """Return an empty command.

    Args:
        about: What it is for.
    """
    return typer.Typer(
        help=f"{about} Run it from the root of a checkout.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )


def run(app: typer.Typer, package: str) -> None:
    """Run ``python -m <package>``; a mistake of the user is one line and exit code 2."""
    try:
        app(prog_name=f"python -m {package}")
    except SedonaError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
