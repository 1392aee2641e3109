"""The command ``sedona-nni``: a file for each command, all of them in `application`."""

from sedona_nni.command_line.application import app
from sedona_nni.command_line.entry import main

__all__ = ["app", "main"]
