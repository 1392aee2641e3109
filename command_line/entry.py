"""From the shell to a command, and its exit code back."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from typing import NoReturn

from sedona_nni.command_line.application import app
from sedona_nni.command_line.versions import check_versions
from sedona_nni.errors import InputError, SedonaError, lost_memory_error


def main() -> None:
    """Run the command; a mistake of the user is one line and exit code 2."""
    _write_whatever_the_terminal_can()
    if "MASTER_ADDR" in os.environ:  # as one of several, each of which says in a line why it ends
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    try:
        try:
            check_versions()
            app(prog_name="sedona-nni")  # also as `python -m`
        finally:
            sys.stdout.flush()
    except SedonaError as error:
        print(f"sedona-nni: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except MemoryError:
        _end_used_up(errno.ENOMEM)
    except SystemError as error:
        if not lost_memory_error(error):
            raise
        _end_used_up(errno.ENOMEM)
    except OSError as error:
        if error.errno in (errno.ENOMEM, errno.EMFILE, errno.ENFILE):
            _end_used_up(error.errno)
        if error.errno == errno.ENOSPC:
            where, what = error.filename or "standard output", "cannot be written"
        elif error.filename is not None:  # what the system says of a file
            where, what = error.filename, "cannot be read or written"
        else:
            raise
        print(f"sedona-nni: {InputError(f'{where}: {what} ({error.strerror})')}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the end complains again
        sys.exit(2)


def _end_used_up(number: int) -> NoReturn:
    """Say what the machine, or a limit on this process, has no more of; by the error's number."""
    print(f"sedona-nni: {os.strerror(number)}", file=sys.stderr)
    sys.exit(2)


_PLAIN = {"–": "-", "—": "-", "×": "x", "±": "+/-", "…": "...", "≥": ">=", "≤": "<="}


def _write_whatever_the_terminal_can() -> None:
    """Let characters that the output's encoding does not have be replaced, not end the command."""

    def plain(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeEncodeError)
        missing = error.object[error.start : error.end]
        return "".join(_PLAIN.get(character, "?") for character in missing), error.end

    codecs.register_error("sedona-nni.plain", plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="sedona-nni.plain")
