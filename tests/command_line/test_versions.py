"""What is installed in another version than is asked for is named in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from shell import sedona

from sedona_nni.command_line.versions import check_versions
from sedona_nni.errors import InputError


def installed(folder: Path, name: str, version: str, *requirements: str) -> None:
    """Pretend a distribution, as pip leaves it."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    lines = [f"Requires-Dist: {each}" for each in requirements]
    head = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    (info / "METADATA").write_text("\n".join([*head, *lines, ""]))


@pytest.mark.parametrize(
    ("requirement", "found", "message"),
    [
        ("torch>=2.9", "2.8.1", "torch: must be of version >=2.9 for ours, but got '2.8.1'"),
        ("torch>=2.9", "2.9.0+cpu", None),
        ("torch>=2.9", "2.16.0a0+git1", None),
        ('nni==3.0; extra == "nni"', "2.10", "nni: must be of version ==3.0 for ours, but got"),
        ('nni==3.0; extra == "nni"', "3.0", None),
        ("torch-of-another>=2.9", "2.8", None),
    ],
)
def test_what_is_asked_for_must_be_there(
    requirement: str,
    found: str,
    message: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed(tmp_path, "ours", "1.0", requirement)
    installed(tmp_path, requirement.replace("=", ">").partition(">")[0], found)
    monkeypatch.syspath_prepend(tmp_path)
    if message is None:
        check_versions("ours")
        return
    with pytest.raises(InputError) as error:
        check_versions("ours")
    assert str(error.value).startswith(message)


def test_nothing_is_known_of_what_nobody_installed() -> None:
    check_versions("no such distribution")


def test_a_command_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(tmp_path, "sedona_nni", "0.1.0", "torch>=2.9")
    installed(tmp_path, "torch", "2.5.0")
    monkeypatch.syspath_prepend(tmp_path)
    assert sedona(monkeypatch, "list") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "sedona-nni: torch: must be of version >=2.9 for sedona-nni, but got '2.5.0'"
