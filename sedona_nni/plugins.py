"""Plug-ins: code of users that registers auxiliary networks, methods, models, data sets, searches.

A plug-in is a module that registers things as it is imported. There are two ways to have one
loaded, and each makes its names known wherever the names of this project are:

- by name, as ``plugins:`` of an experiment or ``--plugin`` of a command do: a module that Python
  finds, or a file or the folder of a package, e.g. ``./my_networks.py``. The command, the tuner and
  every trial load it before they look any name up;
- installed, as a package with an entry point in the group ``sedona_nni.plugins`` that names the
  module. It is loaded when the first name is looked up.

A file is imported as the module that it is called after, and its folder is put at the end of
Python's path: it can import its neighbours, and other processes can load what it defines. A module
is imported only once, so loading a plug-in again does nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path

from sedona_nni.errors import InputError
from sedona_nni.files import user_path

__all__ = [
    "GROUP",
    "LOADED",
    "absolute_plugins",
    "load_installed",
    "load_plugins",
    "loaded_plugins",
]

GROUP = "sedona_nni.plugins"

LOADED: list[str] = []
"""Those that this process has loaded by name, as another one can load them."""

_installed_are_loaded = False


def load_plugins(plugins: Sequence[str], folder: Path) -> None:
    """Import plug-ins by name.

    Args:
        plugins: Modules, e.g. ``my_package.networks``; or files and folders of packages: what ends
            with ``.py`` or has a slash in it.
        folder: What paths are relative to, and where modules are looked for that Python does not
            find elsewhere.

    Raises:
        InputError: if one cannot be imported. It names the plug-in, the reason and the line.
    """
    load_installed()  # what is wrong with one is told before anything else is looked at
    for plugin in plugins:
        with _loading(plugin):
            if _is_path(plugin):
                _load_file(folder / user_path(plugin))
            else:
                _at_end_of_path(folder)
                importlib.import_module(plugin)
    LOADED.extend(name for name in absolute_plugins(plugins, folder) if name not in LOADED)


def loaded_plugins() -> list[str]:
    """Return the plug-ins that this process has loaded by name, as another one can load them."""
    return [*LOADED]


def absolute_plugins(plugins: Iterable[str], folder: Path) -> list[str]:
    """Return the same plug-ins in words that mean the same in any folder.

    Args:
        plugins: See `load_plugins`, which has loaded them.
        folder: See there.
    """
    found = []
    for plugin in plugins:
        path = folder / user_path(plugin) if _is_path(plugin) else _lies_in(folder, plugin)
        found.append(plugin if path is None else str(path.resolve()))
    return found


def load_installed() -> None:
    """Import the plug-ins of installed packages, once.

    Raises:
        InputError: if one cannot be imported. It names the package, the reason and the line.
    """
    global _installed_are_loaded
    if _installed_are_loaded:
        return
    _installed_are_loaded = True  # from now on, as they may look up names themselves
    try:
        for entry in entry_points(group=GROUP):
            package = "?" if entry.dist is None else entry.dist.name
            with _loading(f"{entry.module} of the installed package {package}"):
                importlib.import_module(entry.module)
    except InputError:
        _installed_are_loaded = False
        raise


def _is_path(plugin: str) -> bool:
    return "/" in plugin or plugin.endswith(".py")


def _load_file(path: Path) -> None:
    path = path.resolve()
    module = path / "__init__.py" if path.is_dir() else path
    if not module.is_file():
        raise InputError(f"there is no such file, {module}")
    name = path.name if path.is_dir() else path.stem
    _at_end_of_path(path.parent)
    if "." in name:
        raise InputError(f"a file's name must be that of a module, but got {path.name!r}")
    found = _module_file(name)
    if found != module:
        raise InputError(
            f"must have a name of its own, but Python has {name!r} from {found or 'itself'}"
        )
    importlib.import_module(name)


def _at_end_of_path(folder: Path) -> None:
    importlib.invalidate_caches()  # the file may be younger than Python's list of its folder
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _module_file(name: str) -> Path | None:
    """Return the file of the module that a name means to Python, None if there is none."""
    if name in sys.modules:
        origin = getattr(sys.modules[name], "__file__", None)
    else:
        spec = importlib.util.find_spec(name)
        origin = None if spec is None else spec.origin
    return None if origin is None else Path(origin).resolve()


def _lies_in(folder: Path, plugin: str) -> Path | None:
    """Return the path of a loaded module's topmost package, if that lies in a folder."""
    file = _module_file(plugin.partition(".")[0])
    if file is None or "." in plugin:
        return None
    path = file.parent if file.name == "__init__.py" else file
    return path if path.parent == folder.resolve() else None


@contextmanager
def _loading(plugin: str) -> Iterator[None]:
    """Turn whatever an import stumbles over into one line."""
    try:
        yield
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split())
        if not isinstance(error, InputError):
            reason = ": ".join(filter(None, [type(error).__name__, reason]))
        raise InputError(f"plugins: {plugin} cannot be loaded ({reason}{_place(error)})") from error


def _place(error: BaseException) -> str:
    """Return the line of the plug-in's own files that an error comes from, if it has got there."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in (__file__, importlib.__file__) and frame.filename[0] != "<"
    ]
    if not frames:
        return ""
    folder = Path(frames[0].filename).parent
    last = [frame for frame in frames if folder in Path(frame.filename).parents][-1]
    return f", {last.filename}, line {last.lineno}"
