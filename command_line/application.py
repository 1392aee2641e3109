"""All commands, in the order of the help."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from sedona_nni import __version__
from sedona_nni.command_line.data import data
from sedona_nni.command_line.describe import describe
from sedona_nni.command_line.discretise import derive
from sedona_nni.command_line.export import export
from sedona_nni.command_line.listing import list_experiments
from sedona_nni.command_line.options import Plugins
from sedona_nni.command_line.release import import_release
from sedona_nni.command_line.report import report
from sedona_nni.command_line.retest import retest
from sedona_nni.command_line.run import resume, run
from sedona_nni.command_line.search import search
from sedona_nni.command_line.train import train
from sedona_nni.errors import InputError
from sedona_nni.extras import how_to_get

_UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # of Typer's own copy of click


class _Commands(TyperGroup):
    """All commands; what is none of them is one line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args:  # which shows the help
            return super().parse_args(ctx, args)
        try:
            return super().parse_args(ctx, args)
        except _UsageError as error:
            raise _mistyped("sedona-nni", error) from None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except _UsageError as error:
            raise _mistyped("sedona-nni", error) from None


class _Command(TyperCommand):
    """A command whose errors name an option as it is typed: ``--num-blocks: must be ...``.

    Also what cannot be parsed is one line, and an extra that is not installed named as what it is.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        typed = [*args]
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            if not error.message or error.param is None:  # it is missing
                raise _mistyped(f"sedona-nni {self.name}", error) from None
            values, _, _ = self.make_parser(ctx).parse_args(typed)
            name = error.param.opts[0]
            rule = f"{error.message[:1].lower()}{error.message[1:].rstrip('.')}"
            raise InputError.rule(name, rule, values.get(error.param.name)) from None
        except _UsageError as error:
            raise _mistyped(f"sedona-nni {self.name}", error) from None

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # what was under way can be gone on with
            print("sedona-nni: interrupted", file=sys.stderr)
            raise typer.Exit(130) from None
        except ModuleNotFoundError as error:
            missing = how_to_get(error)
            if missing is None:
                raise
            raise InputError(f"{self.name} needs {missing}") from None
        except InputError as error:
            name, _, complaint = str(error).partition(": ")
            typed = {each.name: each.opts[0] for each in self.params if each.opts[0][:2] == "--"}
            given = name in typed and ctx.get_parameter_source(name).name == "COMMANDLINE"
            if given or (name in typed and complaint.startswith("must be given")):
                raise InputError(f"{typed[name]}: {complaint}") from None
            raise  # it may be a field of a file


def _mistyped(command: str, error: Any) -> InputError:
    """Return the error of a command that was typed wrongly."""
    complaint = error.format_message().rstrip(".")
    return InputError(f"{complaint}; `{command} --help` shows what there is")


app = typer.Typer(cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"sedona-nni {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", callback=_show_version, is_eager=True, help="Say which it is."
        ),
    ] = False,
) -> None:
    """Find where to cut a network into greedily trained blocks: SEDONA as a plugin of NNI."""


def _help(command: Callable[..., None]) -> str:
    """Return a command's text, that flows as wide as the terminal is."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(part.split()) for part in paragraphs)


COMMANDS: dict[str, Callable[..., None]] = {
    "run": run,
    "resume": resume,
    "list": list_experiments,
    "report": report,
    "search": search,
    "train": train,
    "test": retest,
    "data": data,
    "describe": describe,
    "discretise": derive,
    "export": export,
    "import-release": import_release,
}


def _with_plugins(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that has ``--plugin``, too; it has done its work when the command begins."""
    signature = inspect.signature(command, eval_str=True)
    if "plugins" in signature.parameters:
        return command

    @functools.wraps(command)
    def with_plugins(*, plugins: Plugins = None, **given: Any) -> None:
        command(**given)

    option = inspect.Parameter(
        "plugins", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Plugins
    )
    parameters = [*signature.parameters.values(), option]
    with_plugins.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_plugins.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_plugins


for _name, _function in COMMANDS.items():
    app.command(_name, cls=_Command, help=_help(_function))(_with_plugins(_function))
