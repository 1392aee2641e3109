"""What a newcomer, a contributor and their tools read first: complete, valid, and true."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import sedona_nni

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([\w./-]+):(?!=)", MAKEFILE, re.MULTILINE))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_the_readme_is_short_and_has_what_it_should() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 130
    assert text.index("make quickstart") < text.index("make test") < text.index("| strategy |")
    assert text.count("![") == 1


def test_all_targets_of_make_are_told_apart_from_files() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    assert set(phony.split()) == {name for name in TARGETS if "/" not in name} - {".PHONY"}


@pytest.mark.parametrize(
    "document", ["README.md", "CONTRIBUTING.md", "docs/guides/first-search.md"]
)
def test_commands_that_are_named_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    named = re.findall(r"^(?:`|\| `)?make ([\w./-]+)|`make ([\w./-]+)", text, re.MULTILINE)
    named_targets = {first or second for first, second in named}
    assert named_targets
    assert named_targets <= TARGETS
    for module in re.findall(r"python -m (benchmarks[\w.]*) ", text):
        assert (ROOT / module.replace(".", "/") / "__main__.py").is_file()
    for script in re.findall(r"python ([\w/]+\.py)", text):
        assert (ROOT / script).is_file()


def test_there_are_workflows() -> None:
    assert {path.stem for path in WORKFLOWS} == {"checks", "nightly"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_what_there_is(path: Path) -> None:
    workflow: dict[Any, Any] = yaml.safe_load(path.read_text())
    assert workflow["name"] == path.stem
    assert workflow[True]  # `on`, to YAML 1.1
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert job["runs-on"] == "ubuntu-latest"
        assert job["steps"][0]["uses"].startswith("actions/checkout@"), name
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step), name
            if "uses" in step:
                assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"])
                continue
            subprocess.run(["sh", "-n"], input=step["run"], text=True, check=True)
            assert set(re.findall(r"\bmake ([\w-]+)", step["run"])) <= TARGETS


def test_hooks_before_a_commit_check_what_lint_checks() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (local,) = hooks["repos"]
    assert local["repo"] == "local"
    (lint,) = re.findall(r"^lint:.*\n((?:\t.+\n)+)", MAKEFILE, re.MULTILINE)
    for hook in local["hooks"]:
        assert hook["id"]
        assert hook["language"] == "system"
        command = hook["entry"].removesuffix(" --force-exclude")
        assert command.split()[0].startswith(".venv/bin/")
        assert f"@{command.split()[0]}" in lint
    assert len(local["hooks"]) == lint.count("\t")


def test_how_to_cite() -> None:
    """The keys and types that the Citation File Format 1.2.0 asks for."""
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(cff)
    assert cff["cff-version"] == "1.2.0"
    assert cff["version"] == sedona_nni.__version__
    assert cff["license"] == "MIT"
    assert cff["authors"] == [{"name": "The sedona-nni developers"}]
    assert [each["year"] for each in cff["references"]] == [2021, 2020, 2019]
    for paper in cff["references"]:
        assert paper["type"] == "conference-paper"
        assert {"title", "authors", "conference", "url"} <= set(paper)
        assert set(paper["conference"]) == {"name"}
        assert all(set(author) == {"family-names", "given-names"} for author in paper["authors"])
        assert paper["url"].startswith("http")


def test_the_changelog_has_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## \[?([^\]\n]+?)\]?(?: - .+)?$", text, re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert f"v{sedona_nni.__version__}" in headings
