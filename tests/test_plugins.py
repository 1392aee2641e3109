"""Plug-ins: found by name or as files, once, with errors of one line; installed ones too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from sedona_nni.errors import InputError
from sedona_nni.plugins import GROUP, absolute_plugins, load_plugins
from sedona_nni.strategies.settings.gridded import read_grid
from sedona_nni.teachers.auxiliary import AUXILIARY, auxiliary_names

# A plug-in that needs no PyTorch
NETWORK = """
from sedona_nni.teachers.auxiliary import register_auxiliary

@register_auxiliary({name!r})
def build(context):
    raise NotImplementedError
"""


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget what a test has imported and registered, and where from."""
    monkeypatch.setattr("sedona_nni.plugins.LOADED", [])
    modules, path, names = set(sys.modules), list(sys.path), auxiliary_names()
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    for name in set(auxiliary_names()) - set(names):
        AUXILIARY.remove(name)


def write(path: Path, code: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(code))
    return path


@pytest.mark.parametrize(
    ("plugin", "file"),
    [
        ("./my_networks.py", "my_networks.py"),
        ("my_networks.py", "my_networks.py"),
        ("inner/my_networks.py", "inner/my_networks.py"),
        ("./my-networks.py", "my-networks.py"),
        ("my_networks", "my_networks.py"),
        ("my_package.networks", "my_package/networks.py"),
        ("./my_package", "my_package/__init__.py"),
        ("my_package", "my_package/__init__.py"),
        ("my_package/", "my_package/__init__.py"),
    ],
)
def test_what_it_registers_is_known_and_loading_it_again_is_harmless(
    tmp_path: Path, plugin: str, file: str
) -> None:
    write(tmp_path / file, NETWORK.format(name="mine"))
    load_plugins([plugin], tmp_path)
    assert auxiliary_names()[-1] == "mine"
    load_plugins([plugin], tmp_path)
    for again in absolute_plugins([plugin], tmp_path):
        load_plugins([again], Path("/"))


def test_a_file_of_ones_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "my_networks.py", NETWORK.format(name="mine"))
    monkeypatch.setenv("HOME", str(tmp_path))
    load_plugins(["~/my_networks.py"], Path("/nowhere"))
    assert "mine" in auxiliary_names()


def test_one_file_by_two_names_is_loaded_once(tmp_path: Path) -> None:
    path = write(tmp_path / "my_networks.py", NETWORK.format(name="mine"))
    load_plugins(["my_networks", "./my_networks.py", str(path)], tmp_path)
    assert auxiliary_names().count("mine") == 1


def test_it_can_import_its_neighbours_and_shadows_nothing(tmp_path: Path) -> None:
    """Its folder comes last, so that its ``json.py`` is nobody else's."""
    write(tmp_path / "json.py", "raise AssertionError")
    write(tmp_path / "neighbour.py", "NAME = 'of a neighbour'")
    code = "import json, neighbour\njson.dumps(1)\n"
    write(tmp_path / "my_networks.py", code + NETWORK.format(name="mine"))
    load_plugins(["./my_networks.py"], tmp_path)
    assert sys.modules["neighbour"].NAME == "of a neighbour"
    assert sys.modules["json"] is json


@pytest.mark.parametrize(
    ("plugin", "file", "code", "reason"),
    [
        ("./none.py", "x.py", "", "there is no such file, {}/none.py"),
        ("./none", "x.py", "", "there is no such file, {}/none"),
        ("no_such", "x.py", "", "ModuleNotFoundError: No module named 'no_such'"),
        ("", "x.py", "", "ValueError: Empty module name"),
        (
            "./json.py",
            "json.py",
            "",
            f"must have a name of its own, but Python has 'json' from {json.__file__}",
        ),
        ("./sys.py", "sys.py", "", "must have a name of its own, but Python has 'sys' from itself"),
        (
            "./my.networks.py",
            "my.networks.py",
            "",
            "a file's name must be that of a module, but got 'my.networks.py'",
        ),
        (
            "./mine.py",
            "mine.py",
            "import no_such_module",
            "ModuleNotFoundError: No module named 'no_such_module', {}/mine.py, line 1",
        ),
        (
            "mine",
            "mine.py",
            "\nclass",
            "SyntaxError: invalid syntax (mine.py, line 2)",
        ),
        (
            "./mine.py",
            "mine.py",
            "import textwrap\ntextwrap.dedent(3)",
            "TypeError: expected string or bytes-like object, got 'int', {}/mine.py, line 2",
        ),
        ("./mine.py", "mine.py", "raise SystemExit(3)", "SystemExit: 3, {}/mine.py, line 1"),
        ("./mine.py", "mine.py", "raise ValueError", "ValueError, {}/mine.py, line 1"),
        (
            "./mine.py",
            "mine.py",
            NETWORK.format(name="conv7"),
            "aux: must have a name that is not taken, but got 'conv7', {}/mine.py, line 4",
        ),
        (
            "./mine.py",
            "mine.py",
            "from sedona_nni import register_auxiliary\n@register_auxiliary\nclass A: pass",
            "register_auxiliary: must be given a name, but got <class 'mine.A'>, "
            "{}/mine.py, line 2",
        ),
        (
            "./mine.py",
            "mine.py",
            "from sedona_nni import register_auxiliary\n@register_auxiliary('a')\nclass A: pass",
            "aux: a must be a subclass of AuxiliaryNetwork, or a function that makes one, "
            "but got 'A', {}/mine.py, line 2",
        ),
        (
            "./mine.py",
            "mine.py",
            "from sedona_nni import SearchKind, register_search\nregister_search(SearchKind)",
            "search: must be a SearchKind, and not its class, but got 'SearchKind', "
            "{}/mine.py, line 2",
        ),
        (
            "./mine.py",
            "mine.py",
            "from sedona_nni import SearchKind, register_search\n"
            "class A(SearchKind):\n    name = 'a'\n    def run(self, setup, settings): ...\n"
            "register_search(A())",
            "search: must have 'field', but got 'A', {}/mine.py, line 5",
        ),
    ],
)
def test_what_cannot_be_loaded_is_one_line(
    tmp_path: Path, plugin: str, file: str, code: str, reason: str
) -> None:
    write(tmp_path / file, code)
    with pytest.raises(InputError) as caught:
        load_plugins([plugin], tmp_path)
    assert str(caught.value) == (
        f"plugins: {plugin} cannot be loaded ({reason.format(tmp_path.resolve())})"
    )


def test_words_for_any_folder(tmp_path: Path) -> None:
    for file in ("a.py", "b/__init__.py", "b/c.py", "d/e.py"):
        write(tmp_path / file, "")
    plugins = ["a", "./a.py", "b", "b.c", "./d/e.py", "json"]
    load_plugins(plugins, tmp_path)
    assert absolute_plugins(plugins, tmp_path) == [
        *(str(tmp_path / name) for name in ("a.py", "a.py", "b")),
        *("b.c", str(tmp_path / "d" / "e.py"), "json"),
    ]


# ---- Of experiments ------------------------------------------------------------------------------


def aux_of(folder: Path, **changes: object) -> tuple[str, ...]:
    """The auxiliary networks of an experiment's settings."""
    given = {"task": {}, "aux": ["mine"], "parts": [{"num_blocks": 2}], **changes}
    return read_grid(given, folder).training.aux


def test_an_experiment_loads_its_own_before_it_looks_names_up(tmp_path: Path) -> None:
    write(tmp_path / "my_networks.py", NETWORK.format(name="mine"))
    with pytest.raises(InputError, match=r"aux: must be one of conv1, .*, but got 'mine'"):
        aux_of(tmp_path)
    for plugin in ("./my_networks.py", "my_networks"):
        assert aux_of(tmp_path, plugins=[plugin]) == ("mine",)


@pytest.mark.parametrize(
    ("plugins", "message"),
    [
        (["./mine.py"], "plugins: ./mine.py cannot be loaded (there is no such file, {}/mine.py)"),
        (
            "./mine.py",
            "tuner.classArgs.plugins: Input should be a valid tuple, but got './mine.py'",
        ),
        ([3], "tuner.classArgs.plugins.0: Input should be a valid string, but got 3"),
    ],
)
def test_bad_ones_of_an_experiment(tmp_path: Path, plugins: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        aux_of(tmp_path, plugins=plugins)
    assert str(caught.value) == message.format(tmp_path.resolve())


# ---- Of installed packages -----------------------------------------------------------------------


def install(folder: Path, module: str, code: str) -> dict[str, str]:
    """Return an environment in which a package with a plug-in is installed."""
    write(folder / f"{module}.py", code)
    metadata = folder / "their_package-1.0.dist-info"
    write(metadata / "METADATA", "Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    write(metadata / "entry_points.txt", f"[{GROUP}]\nnetworks = {module}\n")
    return {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"}


def python(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True
    )


@pytest.mark.slow(reason="processes that import everything")
def test_an_installed_one_is_known_everywhere(tmp_path: Path) -> None:
    code = """
        from torch import nn
        from sedona_nni import AuxiliaryNetwork, auxiliary_names, register_auxiliary

        assert "mlp" in auxiliary_names()  # what looks names up itself

        @register_auxiliary("theirs")
        class Theirs(AuxiliaryNetwork):
            def __init__(self, context):
                super().__init__()
                self.classifier = nn.Linear(context.shape.channels, context.num_classes)

            def forward(self, features):
                return self.classifier(features.mean(dim=(2, 3)))
    """
    environment = install(tmp_path, "their_networks", code)
    names = "from sedona_nni import auxiliary_names; print(auxiliary_names()[-1])"
    done = python(environment, "-c", names)
    assert done.stdout == "theirs\n", done.stderr

    command = ["-m", "sedona_nni.command_line", "describe", "--backbone", "vgg11"]
    done = python(environment, *command, "--decoupling", "uniform:2:theirs")
    assert done.returncode == 0, done.stderr
    assert "cut after layer 3 (theirs)" in done.stdout


@pytest.mark.slow(reason="processes that import everything")
@pytest.mark.parametrize(
    "command",
    [
        ("data", "digits"),
        ("search", "quickstart", "--directory", "found"),
        ("train", "quickstart", "--decoupling", "backprop", "--directory", "trained"),
        ("test", "nothing"),
    ],
)
def test_an_installed_one_that_cannot_be_loaded_is_named(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    environment = install(tmp_path, "their_networks", "import no_such_module")
    done = python(environment, "-m", "sedona_nni.command_line", *command)
    assert done.returncode == 2
    assert done.stderr == (
        "sedona-nni: plugins: their_networks of the installed package their-package cannot be "
        "loaded (ModuleNotFoundError: No module named 'no_such_module', "
        f"{tmp_path}/their_networks.py, line 1)\n"
    )


def test_it_is_loaded_only_when_a_name_is_looked_up(tmp_path: Path) -> None:
    environment = install(tmp_path, "their_networks", "import no_such_module")
    done = python(environment, "-m", "sedona_nni.command_line", "--help")
    assert done.returncode == 0
