"""The pages of ``docs/teachers``: one for each family of teachers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from shell import sedona

from sedona_nni.teachers.auxiliary import auxiliary_names

PAGES = sorted((Path(__file__).parents[2] / "docs" / "teachers").glob("*.md"))
COMMAND = re.compile(r"^    sedona-nni (.+)$", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_a_page_says_formula_cost_and_use(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert re.findall("^## (.+)$", text, re.MULTILINE) == ["Formula", "Cost", "When to use it"]
    formula, cost, use = text.split("\n## ")[1:]
    assert "\n    " in formula
    assert COMMAND.search(cost)
    assert "../guides/teachers.md#all-at-one-schedule" in use


def test_every_teacher_has_a_page() -> None:
    titles = " ".join(page.read_text(encoding="utf-8").split("\n")[0] for page in PAGES)
    named = set(re.findall("`(.+?)`", titles)) | {"conv2", "conv3", "aug3"}  # of ranges
    assert set(auxiliary_names()) <= named


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_its_command_is_one(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that describe say what it costs; those that train are followed in the guide."""
    (command,) = COMMAND.findall(page.read_text(encoding="utf-8"))
    if command.startswith("train "):
        guide = page.parents[1] / "guides" / "teachers.md"
        assert f"\nsedona-nni {command}\n" in guide.read_text(encoding="utf-8")
        return
    assert sedona(monkeypatch, *command.split()) == 0
    named = command.split(":")[-1]
    assert named in capsys.readouterr().out
