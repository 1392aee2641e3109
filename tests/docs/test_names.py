"""Names of modules, classes and functions in documents and docstrings are names of today."""

from __future__ import annotations

import ast
import functools
import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import sedona_nni

ROOT = Path(__file__).parents[2]
MODULES = {each.name for each in pkgutil.walk_packages(sedona_nni.__path__, "sedona_nni.")}
LAST = {name.rpartition(".")[2] for name in MODULES}
PLACES = ("sedona_nni", "search_spaces", "strategies", "trials", "command_line", "benchmarks")
SOURCES = sorted(
    path
    for place in PLACES
    for path in (ROOT / place).rglob("*.py")
    if not any(parent.is_symlink() for parent in path.parents)
)
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "experiments").rglob("*.md")]
)
# `a.b.c`, but for calls, paths and files
NAME = re.compile(r"`((?:sedona_nni\.)?[a-z]\w*(?:\.\w+)+)(?:\([^`]*\))?`")
SECTIONS = {"task", "train", "search", "probe", "method", "settings"}  # of an experiment's file
FILES = (
    ".py",
    ".yml",
    ".json",
    ".jsonl",
    ".js",
    ".md",
    ".html",
    ".db",
    ".pt",
    ".toml",
    ".safetensors",
    ".cfg",
    ".h",
)


@functools.cache
def options() -> set[str]:
    """Return the names of all options of experiments."""
    found = {"classArgs", "className"}
    for module in MODULES:
        if module.endswith("settings") or ".methods." in module or module == "sedona_nni.task":
            for value in vars(importlib.import_module(module)).values():
                if isinstance(value, type) and issubclass(value, BaseModel):
                    found |= set(value.model_fields)
    return found


def exists(name: str) -> bool:
    """Return whether a name, perhaps without its first rooms, is one of ours."""
    parts = name.split(".")
    if parts[0] in SECTIONS | {"tuner"} and parts[1] in options():
        return True
    for module in ("sedona_nni", *sorted(MODULES)):
        rest = parts[len(module.split(".")) :] if f"{name}.".startswith(f"{module}.") else None
        if rest is None:
            last = module.split(".")
            for n in range(min(len(last), len(parts)), 0, -1):
                if last[-n:] == parts[:n]:
                    rest = parts[n:]
                    break
        if rest is not None and _has(importlib.import_module(module), rest):
            return True
    return False


def _has(owner: Any, names: list[str]) -> bool:
    for name in names:
        if name in getattr(owner, "__annotations__", {}):
            return True  # an attribute of its objects; what that has is not ours to say
        if not hasattr(owner, name):
            return False
        owner = getattr(owner, name)
    return True


def ours(text: str) -> set[str]:
    """Return what in a text looks like a name of ours."""
    return {
        name
        for name in NAME.findall(text)
        if name.split(".")[0] in LAST | {"sedona_nni"} and not name.endswith(FILES)
    }


def docstrings(path: Path) -> str:
    """Return all docstrings and comments of a module."""
    text = path.read_text(encoding="utf-8")
    found = [
        ast.get_docstring(node) or ""
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    ]
    return "\n".join([*found, *re.findall(r"# (.*)", text)])


def test_names_by_hand() -> None:
    assert exists("sedona_nni.models.vgg")
    assert exists("vgg")
    assert exists("training.settings.TrainSettings.epochs")
    assert exists("settings.TrainSettings")
    assert not exists("training.settings.TrainSettings.epoch")
    assert not exists("sedona_nni.auxiliary")
    assert exists("train.lr")
    assert not exists("train.learning_rate")
    assert ours("`training.loop`, ``data.sets.Splits``, `train.lr`, `x.py`") == {
        "training.loop",
        "data.sets.Splits",
        "train.lr",
    }


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_names_in_documents(path: Path) -> None:
    assert {name for name in ours(path.read_text()) if not exists(name)} == set()


@pytest.mark.slow(reason="reads every document")
def test_names_in_docstrings() -> None:
    assert len(SOURCES) > 100
    wrong = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in SOURCES
        for name in ours(docstrings(path))
        if not exists(name)
    }
    assert wrong == set()
