"""`import sedona_nni`: what a user in Python needs, complete, light, documented, and as it says."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import sedona_nni

NAMES = [name for name in sedona_nni.__all__ if name != "__version__"]
DOOR = ast.parse(Path(inspect.getsourcefile(sedona_nni) or "").read_text(encoding="utf-8"))

# Examples register things and write files, so they run elsewhere
RUN = """
import contextlib, doctest, io, json, sys, warnings

import sedona_nni

warnings.simplefilter("error")
found = {}
for name in ["sedona_nni", *sedona_nni.__all__]:
    shown = sedona_nni if name == "sedona_nni" else getattr(sedona_nni, name)
    said = io.StringIO()
    runner = doctest.DocTestRunner(verbose=False)
    if name != "__version__":
        example = doctest.DocTestFinder(recurse=False).find(shown, name, globs={})[0]
        runner.run(example, out=said.write)
        found[name] = [len(example.examples), said.getvalue()]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=tmp_path_factory.mktemp("examples"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, tuple[int, str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_all_that_is_named_is_there_and_nothing_else() -> None:
    (for_type_checkers,) = (
        node
        for node in DOOR.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    typed = {
        name.name: str(node.module)
        for node in for_type_checkers.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert sorted(typed) == sorted(NAMES)
    for name, module in typed.items():
        assert getattr(sedona_nni, name) is getattr(sys.modules[module], name)
    assert dir(sedona_nni) == sorted(sedona_nni.__all__)
    with pytest.raises(AttributeError, match="module 'sedona_nni' has no attribute 'tarin'"):
        _ = sedona_nni.tarin  # type: ignore[attr-defined]


@pytest.mark.slow(reason="starts Python and imports PyTorch")
@pytest.mark.parametrize("name", ["sedona_nni", *NAMES])
def test_every_name_is_documented_by_an_example_that_runs(
    name: str, examples: dict[str, tuple[int, str]]
) -> None:
    count, complaints = examples[name]
    assert count > 0
    assert complaints == ""


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys, sedona_nni; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert [name for name in loaded if name.startswith("sedona_nni")] == ["sedona_nni"]
    assert not {"torch", "numpy", "pydantic", "nni"} & set(loaded)
